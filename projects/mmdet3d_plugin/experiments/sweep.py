"""Training and testing over several settings of the attention bias, one process after the other."""
import time
from collections import defaultdict
from pathlib import Path

from ..apis.config import load_config
from ..apis.latest_checkpoint import find_checkpoint
from ..apis.train import train_detector
from ..evaluation.nuscenes_scores import CAPTION, nuscenes_scores
from ..models.utils.attention_bias_generator import AttentionBiasGenerator
from ..utils.atomic_file import atomic_path
from ..utils.content_hash import content_key, file_sha256
from ..utils.record_file import read_record, write_record
from ..utils.tables import markdown_table, write_csv
from ..visualization import draw_sweep
from .child_process import run_in_child
from .result_store import info_file, stored_test

MODES = ('global', 'local')
_HEAD = 'model.pts_bbox_head.'
_OWN_OPTIONS = (f'{_HEAD}aqr_bias_strength', f'{_HEAD}aqr_use_local_bias', 'work_dir', 'resume_from', 'auto_resume')
_SHOWN = ('mAP', 'NDS', 'AP small', 'AP medium', 'AP large')


class BiasSweep:
    """One training and test per mode and bias strength.

    Every run has a folder in `out`, named by mode, strength and a key of all that the run depends on, with its logs,
    checkpoints and finally `result.json`. A run that has its result is not repeated, another goes on from its latest
    checkpoint. A run is a process of its own, whose end, of whatever kind, leaves the others alone.

    Args:
        config (str): config file of a model with AQR.
        options (dict | None): see `load_config`.
        strengths (Sequence[float]): values of `aqr_bias_strength`.
        modes (Sequence[str]): of `MODES`.
        out (str | Path): folder for runs and tables.
        checkpoint (str | None): weights to start each run from, default: `load_from` of the config.
        seed (int): of each run.
        trust_checkpoint (bool): see `read_checkpoint`.

    Raises:
        FileNotFoundError: no such config, checkpoint or info file.
        ValueError: values given twice, options that the sweep sets itself, two checkpoints, a config without AQR, a
            setting that the head would refuse, or data other than nuScenes.
    """

    def __init__(self, config, options, strengths, modes, out, checkpoint=None, seed=0, trust_checkpoint=False):
        for name, values in dict(strengths=strengths, modes=modes).items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f'{name} must be given and differ, got {list(values)}')
        if not set(modes) <= set(MODES):
            raise ValueError(f'modes must be of {MODES}, got {list(modes)}')
        taken = [option for option in _OWN_OPTIONS if option in (options or {})]
        if taken:
            raise ValueError(f'options {taken} are set by the sweep itself, one value per run')
        if checkpoint is not None and 'load_from' in (options or {}):
            raise ValueError(f'load_from={options["load_from"]} among the options contradicts checkpoint={checkpoint}')
        self.out, self.seed, self.trust_checkpoint = Path(out), seed, trust_checkpoint
        self.config, self.runs = config, {}
        for mode in modes:
            for strength in strengths:
                run_options = {**(options or {}), f'{_HEAD}aqr_bias_strength': strength,
                               f'{_HEAD}aqr_use_local_bias': mode == 'local'}
                if checkpoint is not None:
                    run_options['load_from'] = str(checkpoint)
                cfg = load_config(config, run_options)
                _check_head(cfg.model.pts_bbox_head)
                files = [info_file(cfg, 'train'), info_file(cfg, 'test'), cfg.load_from or '://']
                files = [file_sha256(path) for path in files if '://' not in path]  # the config names addresses
                key = content_key(cfg._cfg_dict, files, seed)
                self.runs[mode, strength] = run_options, self.out / f'{mode}_{strength:g}_{key}'

    def run(self):
        """Do what is missing.

        Returns:
            list[tuple[str, float]]: modes and strengths of the runs that failed.
        """
        failed = []
        for number, ((mode, strength), (options, folder)) in enumerate(self.runs.items(), 1):
            print(f'[{number}/{len(self.runs)}] {mode}, bias strength {strength:g}: {folder}', flush=True)
            if (folder / 'result.json').is_file():
                print('finished in an earlier run', flush=True)
                continue
            code = run_in_child(_train_and_test, self.config, options, folder, self.seed, self.trust_checkpoint)
            if code != 0:
                print(f'FAILED with exit code {code}', flush=True)
                failed.append((mode, strength))
        return failed

    def report(self):
        """Write `sweep.csv`, `sweep.md` and `sweep.png` of the runs that have their result.

        Returns:
            str: the table in markdown with its caption.
        """
        rows = []
        for (mode, strength), (_, folder) in self.runs.items():
            if (folder / 'result.json').is_file():
                result = read_record(folder / 'result.json')
                rows.append({'mode': mode, 'bias strength': strength, **result['scores'],
                             'wall time (s)': round(result['seconds']), 'resumed': result['resumed']})
        if not rows:
            return 'no run has finished'
        write_csv(self.out / 'sweep.csv', rows)
        lines = {score: defaultdict(list) for score in _SHOWN}
        for row in rows:
            for score in _SHOWN:
                lines[score][row['mode']].append((row['bias strength'], row[score]))
        draw_sweep(self.out / 'sweep.png', lines)
        shown = ('mode', 'bias strength', *_SHOWN, 'wall time (s)', 'resumed')
        table = markdown_table([{**{name: row[name] for name in shown}, 'bias strength': f'{row["bias strength"]:g}'}
                                for row in rows])
        table += f'\n\nWall time of a resumed run: since it was resumed. {CAPTION}'
        with atomic_path(self.out / 'sweep.md') as temporary:
            temporary.write_text(f'{table}\n')
        return table


def _check_head(head):
    """Raise what the head would raise, before the first run starts."""
    if not head.get('enable_aqr'):
        raise ValueError(f'a sweep of the bias needs a config with {_HEAD}enable_aqr=True')
    AttentionBiasGenerator(
        bias_strength=head.aqr_bias_strength, use_local_bias=head.aqr_use_local_bias,
        local_window_size=head.get('aqr_local_window_size', 15), per_view=head.get('aqr_per_view', False))


def _train_and_test(config, options, folder, seed, trust_checkpoint):
    """One run, in a process of its own."""
    start = time.perf_counter()
    cfg = load_config(config, options)
    cfg.work_dir, cfg.auto_resume = str(folder), True
    resumed = find_checkpoint(cfg) is not None
    train_detector(cfg, Path(config).name, seed=seed, trust_checkpoint=trust_checkpoint)
    record = stored_test(cfg, folder / 'latest.pth', 'both', folder / 'results')
    write_record(folder / 'result.json', dict(
        scores=nuscenes_scores(record['metrics']), seconds=time.perf_counter() - start, resumed=resumed))

