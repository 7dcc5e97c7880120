"""Does routing earn its keep? Arms trained alike from the same baselines, compared where sensors fail."""
import math
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, Optional, Tuple

import mmcv
import numpy as np

from ..apis.config import load_config
from ..apis.latest_checkpoint import find_checkpoint
from ..apis.train import train_detector
from ..apis.train_router import train_router
from ..datasets.sensor_failures import CLEAN, FailureCase
from ..evaluation.detection_matches import DetectionMatches, paired_bootstrap
from ..evaluation.nuscenes_scores import DISTANCES, SIZE_GROUPS
from ..models.utils.token_layout import MODALITIES
from ..utils.atomic_file import atomic_path
from ..utils.content_hash import content_key, file_sha256
from ..utils.plain_values import plain_values
from ..utils.record_file import read_record, write_record
from ..utils.tables import markdown_table, write_csv
from ..visualization import draw_ablation
from .child_process import run_in_child
from .result_store import info_file
from .robustness import RobustnessTest, relative_accuracy, routing_auroc
from .router_controls import CONTROLS

# What a training reads of a config, but for its own folder and the baseline, which is compared by its contents.
_TRAINING_SETTINGS = ('model', 'data', 'optimizer', 'optimizer_config', 'lr_config', 'momentum_config', 'runner',
                      'total_epochs', 'custom_hooks', 'fp16', 'router_training')
TRAINS = ('detector', 'router', 'nothing')


@dataclass(frozen=True)
class Arm:
    """One way to train on from the baseline, or from another arm.

    Attributes:
        title: in tables.
        config: file in `configs/`.
        options: see `load_config`.
        trains: of ``TRAINS``: 'detector', all that the config trains; 'router', that of a detector that stays as it is
            (`train_router`), where arms with one start share its evidence and so have one mixture of failures and one
            bias; 'nothing', the start is tested as it is.
        after: name of the arm to start from, None for the baseline.
        against: name of the arm that it is compared with, None for the plan's ``fair``.
    """

    title: str
    config: str
    options: dict = field(default_factory=dict)
    trains: str = 'detector'
    after: Optional[str] = None
    against: Optional[str] = None

    def __post_init__(self):
        if self.trains not in TRAINS:
            raise ValueError(f'{self.title}: trains must be one of {TRAINS}, got {self.trains!r}')


@dataclass(frozen=True)
class AblationPlan:
    """What an ablation compares, as data: see :func:`load_plan`.

    Attributes:
        arms: name -> Arm.
        fair: the arm that the others are compared with: equal training without what is tried.
        controlled: the arm whose router is also tested with other weights, on the failures that it was taught.
        controls: these weights, 'learned' among them, see `router_controls`.
        cases: FailureCases under which every arm is tested, 'clean' among them.
        baseline: config of the baselines that are trained where none is given.
        published_baselines: seed -> checkpoint to start from.
    """

    arms: Dict[str, Arm]
    fair: str
    controlled: str
    cases: Tuple[FailureCase, ...]
    baseline: str
    published_baselines: Dict[int, str] = field(default_factory=dict)
    controls: Tuple[str, ...] = CONTROLS

    def reference(self, arm):
        """Name of the arm that an arm is compared with."""
        return self.arms[arm].against or self.fair

    def select(self, arms=None, cases=None):
        """The plan with fewer arms or other cases.

        Args:
            arms (Sequence[str] | None): of ``arms``; ``fair`` is among them, and what others start from or are compared
                with comes before these.
            cases (Sequence[FailureCase | str] | None): 'clean' is among them.

        Raises:
            ValueError: for arms or cases that are not as said.
        """
        arms = tuple(self.arms if arms is None else arms)
        if self.fair not in arms or not set(arms) <= set(self.arms):
            raise ValueError(f'arms must be of {list(self.arms)}, {self.fair!r} among them, got {list(arms)}')
        for index, name in enumerate(arms):
            missing = {self.arms[name].after, self.arms[name].against} - {None, *arms[:index]}
            if missing:
                raise ValueError(f'arm {name!r} needs {sorted(missing)} among the arms before it, got {list(arms)}')
        cases = tuple(FailureCase.parse(case) for case in (self.cases if cases is None else cases))
        if FailureCase() not in cases:
            raise ValueError(f"cases must have 'clean' among them, got {list(map(str, cases))}")
        return replace(self, arms={name: self.arms[name] for name in arms}, cases=cases)


def load_plan(path):
    """Read a plan from a Python file with the attributes of AblationPlan as variables; arms are dicts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a variable that is missing or unknown, or arms or cases that do not fit together.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'plan of an ablation not found: {path}')
    values = dict(mmcv.Config.fromfile(str(path))._cfg_dict)
    try:
        values['arms'] = {name: Arm(**arm) for name, arm in values['arms'].items()}
        plan = AblationPlan(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path} is no plan of an ablation: {error}') from error
    return plan.select()


class Ablation:
    """Trains and tests every arm for every seed; what is finished is kept.

    Args:
        plan (AblationPlan): arms and cases.
        baselines (dict[int, str | None]): seed -> trained checkpoint to start from, None to train one.
        out (str | Path): folder for runs, results and tables.
        configs (str | Path): folder of the config files.
        baseline_options (dict | None): of the config of the baselines that are trained here.
        arm_options (dict | None): of the configs of all arms.
        jobs (int): trainings and tests at a time.
    """

    def __init__(self, plan, baselines, out='work_dirs/ablation', configs='configs', baseline_options=None,
                 arm_options=None, jobs=2):
        self.plan, self.baselines = plan, dict(baselines)
        self.out, self.configs, self.jobs = Path(out), Path(configs), jobs
        self.baseline_options, self.arm_options = dict(baseline_options or {}), dict(arm_options or {})
        self._locks = defaultdict(threading.Lock)

    def run(self):
        """Do what is missing, arm by arm.

        Returns:
            list[str]: what failed, with the path of its log.
        """
        failed, runs = [], []
        pool = ThreadPoolExecutor(self.jobs)
        try:
            # No job waits for a later one, and few for the one before: an arm comes after what it starts from, with the
            # other seeds between.
            starts = {(None, seed): pool.submit(self._baseline, seed) for seed in self.baselines}
            for name, arm in self.plan.arms.items():
                for seed in self.baselines:
                    starts[name, seed] = pool.submit(self._arm, name, seed, starts[arm.after, seed])
                    runs.append(starts[name, seed])
            for number, run in enumerate(as_completed(runs), 1):
                title, log, code, _ = run.result()
                print(f'[{number}/{len(runs)}] {time.strftime("%H:%M:%S")} {title}: '
                      f'{"done" if code == 0 else f"FAILED with exit code {code}, see {log}"}', flush=True)
                if code != 0:
                    failed.append(f'{title} ({log})')
        finally:  # interrupted: what has not begun does not begin
            pool.shutdown(wait=False, cancel_futures=True)
        return failed

    def _baseline(self, seed):
        """Title, log, exit code and checkpoint (None where that failed) of a seed's baseline, trained if none is given.
        """
        if self.baselines[seed] is not None:
            return 'baseline', None, 0, self.baselines[seed]
        folder = self.out / f'baseline_seed{seed}'
        print(f'{time.strftime("%H:%M:%S")} baseline of seed {seed}: {folder}', flush=True)
        code = run_in_child(_train, str(self.configs / self.plan.baseline), self.baseline_options, folder,
                            seed, log=folder / 'log.txt')
        return 'baseline', folder / 'log.txt', code, str(folder / 'latest.pth') if code == 0 else None

    def _arm(self, name, seed, start):
        """Title, log, exit code and checkpoint (None where that failed) of one arm with one seed; ``start``: the future
        of what it starts from.
        """
        arm, folder = self.plan.arms[name], self._folder(name, seed)
        title = f'{arm.title}, seed {seed}'
        _, log, _, checkpoint = start.result()
        if checkpoint is None:
            return title, log, 1, None
        config, options = self._config(name, checkpoint)
        seen = self._seen_cases() - {FailureCase()} if name == self.plan.controlled else ()
        controls = {str(case): self.plan.controls if case in seen else ('learned', ) for case in self.plan.cases}
        evidence = self.out / f'evidence_{arm.after or "baseline"}_seed{seed}'
        # Routers of one detector come one after the other: the first one collects the evidence.
        with self._locks[evidence] if arm.trains == 'router' else nullcontext():
            code = run_in_child(_train_and_test, config, options, folder, seed, controls, arm.trains, evidence,
                                log=folder / 'log.txt')
        return title, folder / 'log.txt', code, self._trained(name, seed, checkpoint) if code == 0 else None

    def _trained(self, name, seed, start):
        """Path of the checkpoint that an arm tests, and others start from."""
        return start if self.plan.arms[name].trains == 'nothing' else str(self._folder(name, seed) / 'latest.pth')

    def _start(self, name, seed):
        """Path of the checkpoint that an arm starts from."""
        after = self.plan.arms[name].after
        if after is not None:
            return self._trained(after, seed, self._start(after, seed))
        return self.baselines[seed] or str(self.out / f'baseline_seed{seed}/latest.pth')

    def _config(self, name, checkpoint):
        """Config file and options of an arm that starts from a checkpoint."""
        return str(self.configs / self.plan.arms[name].config), {**self.arm_options, **self.plan.arms[name].options,
                                                       'load_from': checkpoint}

    def _folder(self, name, seed):
        return self.out / f'{name}_seed{seed}'

    def report(self):
        """Write `ablation.md`, `.json`, `.csv` and `.png` of the seeds for which all arms are finished.

        Returns:
            str: tables in markdown; the first line names the seeds, and those that were left out, with the reason.

        Raises:
            ValueError: no seed is finished with these settings.
        """
        results, left_out = {}, []
        for seed in self.baselines:
            missing = list(filter(None, (self._missing(arm, seed) for arm in self.plan.arms)))
            if missing:
                left_out.append(f'seed {seed}: {"; ".join(missing)}')
            else:
                results[seed] = {arm: read_record(self._folder(arm, seed) / 'result.json') for arm in self.plan.arms}
        if not results:
            raise ValueError(f'no seed of {list(self.baselines)} is finished for all arms in {self.out}: '
                             f'{". ".join(left_out)}')
        seen = {str(case) for case in self._seen_cases()}
        summary = _Summary(results, self.plan, seen, _scenes(results))
        tables = summary.tables()
        lines = [f'Seeds {", ".join(map(str, results))}. Synthetic data: not comparable with published scores.'
                 + ''.join(f' Left out: {reason}.' for reason in left_out)]
        for title, (rows, caption) in tables.items():
            lines += [f'**{title}**', markdown_table(rows), caption]
        text = '\n\n'.join(lines)
        record = dict(seeds=list(results), cases=summary.cases, seen=sorted(seen),
                      intervals=summary.intervals, tables={title: rows for title, (rows, _) in tables.items()},
                      hours=summary.hours())
        write_record(self.out / 'ablation.json', plain_values(record))
        with atomic_path(self.out / 'ablation.md') as path:
            path.write_text(f'{text}\n')
        write_csv(self.out / 'ablation.csv', summary.rows())
        if summary.intervals:
            labels = {str(case): case.label for case in self.plan.cases}
            others = any(self.plan.reference(arm) != self.plan.fair for arm in summary.intervals)
            draw_ablation(self.out / 'ablation.png', {
                summary.compared(arm): {labels[case]: interval for case, interval in intervals.items()}
                for arm, intervals in summary.intervals.items()}, {labels[case] for case in seen & set(labels)},
                self.plan.arms[self.plan.fair].title + ', or to the arm named by "against"' * others)
        return text

    def _missing(self, arm, seed):
        """What an arm lacks to be reported under these settings, None for nothing."""
        path = self._folder(arm, seed) / 'result.json'
        if not path.is_file():
            return f'{arm} is not finished'
        result = read_record(path)
        checkpoint = self._start(arm, seed)
        config = load_config(*self._config(arm, checkpoint))
        if not Path(checkpoint).is_file() \
                or result.get('key') != training_key(config, seed, self.plan.arms[arm].trains):
            return f'{arm} was made with another config, baseline or data'
        absent = {str(case) for case in self.plan.cases} - set(result['tests'])
        return f'{arm} was not tested under {sorted(absent)}' if absent else None

    def _seen_cases(self):
        """Cases that some arm learns from."""
        seen = set()
        for arm in self.plan.arms.values():
            if arm.trains != 'nothing':
                cfg = load_config(self.configs / arm.config, {**self.arm_options, **arm.options})
                left_out = set((cfg.get('router_training') or {}).get('leave_out', ()))
                seen |= {FailureCase.parse(case) for step in cfg.data.train.pipeline if step.type == 'SimulateFailure'
                         for case, share in step.cases.items() if share > 0
                         and left_out.isdisjoint(FailureCase.parse(case).kinds)}
        return seen


class _Summary:
    """Numbers over seeds of all arms and cases."""

    def __init__(self, results, plan, seen, scenes):
        self.results, self.plan, self.seen = results, plan, seen
        self.arms, self.cases = list(plan.arms), [str(case) for case in plan.cases]
        arms, cases = self.arms, self.cases
        self.matches = {(seed, arm, case): DetectionMatches.load(self._record(seed, arm, case)['matches'])
                        for seed in results for arm in arms for case in cases}
        self.intervals = {arm: {} for arm in arms if arm != self.plan.fair}
        pairs = [(arm, case) for arm in self.intervals for case in cases]
        for arm, case in mmcv.track_iter_progress(pairs, file=sys.stderr):
            models = [(self.matches[seed, arm, case], self.matches[seed, self.plan.reference(arm), case])
                      for seed in results]
            self.intervals[arm][case] = paired_bootstrap(models, scenes)._asdict()

    def _record(self, seed, arm, case, control='learned'):
        return self.results[seed][arm]['tests'][case][control]

    def _over_seeds(self, value):
        return np.array([value(seed) for seed in self.results], dtype=float)

    def hours(self):
        """Core-hours by kind of work, of the seeds that are finished; without what was interrupted."""
        hours = defaultdict(float)
        for arms in self.results.values():
            for result in arms.values():
                hours['training'] += result['train_seconds'] / 3600
                hours['tests'] += sum(record['seconds'] for controls in result['tests'].values()
                                      for record in controls.values()) / 3600
        return dict(hours)

    def rows(self):
        """One row per seed, arm, case and control, for spreadsheets."""
        return [dict(seed=seed, arm=arm, case=case, control=control, seen=case in self.seen,
                     **record['scores'],
                     **{f'recall {where}': record['recall'][where] for where in ('inside', 'outside')},
                     lidar_attention=float(np.mean(list(record['attention'].values()))))
                for seed, arms in self.results.items() for arm, result in arms.items()
                for case, controls in result['tests'].items() for control, record in controls.items()]

    def _headline(self, case):
        return case if case in self.seen else f'{case} *'

    def tables(self):
        """Title -> (rows, caption)."""
        tables = {
            'mAP': (self._scores('mAP'), 'Mean over seeds, ± standard deviation. * zero-shot: no arm learned from it.'),
            'NDS': (self._scores('NDS'), 'As above; mRA: mean over kinds of failures of NDS over clean NDS.'),
        }
        if len(self.arms) > 1:
            fair = self.plan.arms[self.plan.fair].title
            tables[f'mAP against {fair}'] = (
                self._differences(), 'An arm with "against" in its name is compared with that one. Difference with its '
                '95 % interval, paired bootstrap over scenes with the trained models held fixed: it says nothing of '
                'other seeds and is not corrected for the number of comparisons. Bold where it excludes 0. In brackets '
                'behind it the difference of each seed.')
            tables['Where the differences lie'] = (
                self._where(), 'Mean over seeds and failures, less the same of the arm compared with: recall within '
                '2 m of boxes where a sensor is lost (inside) and elsewhere, AP by size and by distance of centers.')
        if self._controlled_cases():
            title = self.plan.arms[self.plan.controlled].title
            tables[f'Controls: mAP of {title}, with other weights in the same model'] = (
                self._controls(), 'off: no bias; averaged: the mean over queries for all; shuffled: dealt out '
                "anew among queries; oracle: the true targets. Share: gain of the learned weights over off by the "
                "oracle's.")
        routing = [arm for arm in self.arms if any(self._record(seed, arm, CLEAN)['weights'] for seed in self.results)]
        if routing:
            tables['What the routers did'] = (
                self._routing(routing), 'LiDAR / camera weight of queries whose place lost nothing, LiDAR, cameras; '
                'AUROC of the weights against true failure, queries of the clean case among the negatives; LiDAR '
                "attention: share of the cross-attention, mean over layers, with (without) the router's weights.")
        return tables

    def compared(self, arm):
        """Title of an arm in tables and pictures of differences."""
        own = self.plan.arms[arm]
        return own.title if own.against is None else f'{own.title} (against {self.plan.arms[own.against].title})'

    def _scores(self, score):
        rows = []
        for arm in self.arms:
            row = dict(arm=self.plan.arms[arm].title)
            for case in self.cases:
                values = self._over_seeds(lambda seed: self._record(seed, arm, case)['scores'][score])
                row[self._headline(case)] = _with_spread(values)
            if score == 'NDS':
                row['mRA'] = _with_spread(self._over_seeds(lambda seed: relative_accuracy(
                    {case: self._record(seed, arm, str(case))['scores']['NDS'] for case in self.plan.cases})[1]))
            rows.append(row)
        return rows

    def _differences(self):
        rows = []
        for arm, intervals in self.intervals.items():
            row = dict(arm=self.compared(arm))
            for case, interval in intervals.items():
                text = f'{interval["mean"]:+.3f} [{interval["low"]:+.3f}, {interval["high"]:+.3f}]'
                text = f'**{text}**' if interval['low'] > 0 or interval['high'] < 0 else text
                own, fair = (self._over_seeds(lambda seed: self._record(seed, name, case)['scores']['mAP'])
                             for name in (arm, self.plan.reference(arm)))
                row[self._headline(case)] = f'{text} ({", ".join(f"{value:+.3f}" for value in own - fair)})'
            rows.append(row)
        return rows

    def _where(self):
        columns = {'recall inside': ('recall', 'inside'), 'recall outside': ('recall', 'outside'),
                   **{name: ('scores', name) for name in (*(f'AP {size}' for size in SIZE_GROUPS),
                                                          *(f'AP at {distance:g} m' for distance in DISTANCES))}}

        def mean(arm, part, name):
            return _nan_mean([self._record(seed, arm, case)[part][name] for seed in self.results
                              for case in self.cases if case != CLEAN])

        return [dict(arm=self.compared(arm), **{
            title: _signed(mean(arm, *place) - mean(self.plan.reference(arm), *place))
            for title, place in columns.items()})
                for arm in self.arms if arm != self.plan.fair]

    def _controlled_cases(self):
        if self.plan.controlled not in self.arms:
            return []
        tests = next(iter(self.results.values()))[self.plan.controlled]['tests']
        return [case for case in self.cases if set(tests[case]) == set(self.plan.controls) != {'learned'}]

    def _controls(self):
        rows = []
        for case in self._controlled_cases():
            means = {control: self._over_seeds(lambda seed: self._record(
                seed, self.plan.controlled, case, control)['scores']['mAP']).mean() for control in self.plan.controls}
            possible = means.get('oracle', math.nan) - means.get('off', math.nan)
            share = (means['learned'] - means['off']) / possible if possible > 0.005 else math.nan
            rows.append(dict(case=case, **{control: float(value) for control, value in means.items()},
                             share=float(share)))
        return rows

    def _routing(self, arms):
        rows = []
        for arm in arms:
            for case in self.cases:
                records = [self._record(seed, arm, case) for seed in self.results]
                clean = [self._record(seed, arm, CLEAN) for seed in self.results]
                aurocs = [routing_auroc(*pair) for pair in zip(records, clean)]
                off = None
                if arm == self.plan.controlled and case in self._controlled_cases():
                    off = [self._record(seed, arm, case, 'off') for seed in self.results]
                rows.append({
                    'arm': self.plan.arms[arm].title, 'case': self._headline(case),
                    **{region: _pair(records, region) for region in ('nothing lost', 'LiDAR lost', 'cameras lost')},
                    'AUROC LiDAR': _nan_mean([auroc['lidar'] for auroc in aurocs]),
                    'AUROC cameras': _nan_mean([auroc['camera'] for auroc in aurocs]),
                    'LiDAR attention': _attention(records) + (f' ({_attention(off)})' if off else ''),
                })
        return rows


def _with_spread(values):
    return f'{values.mean():.3f}' + (f' ± {values.std(ddof=1):.3f}' if len(values) > 1 else '')


def _signed(value):
    return None if math.isnan(value) else f'{value:+.3f}'


def _nan_mean(values):
    values = [value for value in values if not math.isnan(value)]
    return float(np.mean(values)) if values else math.nan


def _pair(records, region):
    means = [_nan_mean([record['weights'][region][modality] for record in records]) for modality in MODALITIES]
    return None if any(map(math.isnan, means)) else ' / '.join(f'{mean:.2f}' for mean in means)


def _attention(records):
    return f'{np.mean([list(record["attention"].values()) for record in records]):.2f}'


def _scenes(results):
    """Sample token -> scene, as the first test noted it."""
    return next(iter(next(iter(results.values())).values()))['scenes']


def training_key(cfg, seed, trains='detector'):
    """16 hex digits that change with all that a training depends on, but for the code: settings, data, start, seed, and
    what of the model it trains (of ``TRAINS``).
    """
    files = [info_file(cfg, 'train'), *([cfg.load_from] if cfg.load_from else [])]
    settings = {name: cfg.get(name) for name in _TRAINING_SETTINGS}
    return content_key(settings, [file_sha256(path) for path in files], seed, trains)


def _train(config, options, folder, seed, trains='detector', evidence=None):
    """Train to the end, going on from where an earlier run was; returns seconds of wall time since the last start.

    Args:
        config, options: see `load_config`; ``load_from`` is the start.
        folder (Path): of the run.
        seed (int): of the run.
        trains (str): of ``TRAINS``.
        evidence (Path | None): folder of what the routers of one detector learn from.
    """
    start, started, finished = time.perf_counter(), folder / 'started.json', folder / 'finished.json'
    cfg = load_config(config, options)
    cfg.work_dir, cfg.auto_resume = str(folder), True
    key = training_key(cfg, seed, trains)
    resumed = find_checkpoint(cfg) is not None
    known = [read_record(path)['key'] for path in (started, finished) if path.is_file()]
    if any(other != key for other in known) or (resumed and not known):
        raise ValueError(f'{folder} holds a run of another config, baseline or data; give another --out or remove it')
    if finished.is_file():
        return read_record(finished)['seconds']
    folder.mkdir(parents=True, exist_ok=True)
    write_record(started, dict(key=key))
    if trains == 'detector':
        train_detector(cfg, Path(config).name, seed=seed, validate=False)
    elif trains == 'router':
        train_router(cfg, cfg.load_from, Path(config).name, seed, workers=1, evidence=evidence)
    seconds = time.perf_counter() - start
    write_record(finished, dict(key=key, seconds=seconds, resumed=resumed))
    return seconds


def _train_and_test(config, options, folder, seed, controls, trains, evidence):
    """One arm with one seed, in a process of its own; `controls` by case; others as of :func:`_train`."""
    seconds = _train(config, options, folder, seed, trains, evidence)
    cfg = load_config(config, options)
    test = RobustnessTest(cfg, cfg.load_from if trains == 'nothing' else folder / 'latest.pth', folder / 'tests')
    tests = {case: test.run(case, names) for case, names in controls.items()}
    write_record(folder / 'result.json', dict(
        key=read_record(folder / 'finished.json')['key'], train_seconds=seconds, tests=tests,
        scenes=test.scene_of_sample))
