"""What does a router win? The same checkpoints with and without it, case by case and kind by kind."""
from pathlib import Path

import numpy as np

from ..apis.checkpoint import has_router
from ..datasets.sensor_failures import FailureCase
from ..evaluation.detection_matches import BootstrapInterval
from ..utils.atomic_file import atomic_path
from ..utils.plain_values import plain_values
from ..utils.record_file import write_record
from ..utils.tables import markdown_table, write_csv
from .case_series import sample_notes, time_note
from .robustness import relative_accuracy
from .robustness_report import ROUNDS, gain_as_text, interval_columns, run_checkpoints, with_clean

_CONTROLS = ('off', 'learned')
_ALL = 'all kinds (mRA)'


def measure_gain(cfg, checkpoints, cases, out='work_dirs/gain', seed=0, trust_checkpoint=False, workers=1):
    """Test checkpoints with their routers and without, and write the differences to `gain.md`, `.csv` and `.json`.

    Args:
        cfg (mmcv.Config): from `load_config`; of a model with AQR.
        checkpoints (Sequence[str]): of models with routers, such as one for each training seed; means go over them.
        cases (Sequence[FailureCase | str]): and names of presets; 'clean' is added.
        out (str | Path): folder for results and tables.
        seed, trust_checkpoint: see `RobustnessTest`.
        workers (int): see `run_cases`.

    Returns:
        str: the tables in markdown: resilience of each kind of failure, and a row per case.

    Raises:
        ValueError: no checkpoint, one without a router, or a config without AQR; and see `run_cases`.
        RuntimeError: see `run_cases`.
    """
    if not checkpoints:
        raise ValueError('checkpoints must name at least one')
    if not (cfg.model.get('pts_bbox_head') or {}).get('enable_aqr'):
        raise ValueError('what a router wins needs a config with one (enable_aqr=True)')
    without = [str(path) for path in checkpoints if not has_router(path, trust_checkpoint)]
    if without:
        raise ValueError(f'checkpoints must have routers: {without} have none')
    cases, out = with_clean(cases), Path(out)
    runs, scenes = run_checkpoints(checkpoints, cases, out, workers, cfg, _CONTROLS, seed, trust_checkpoint)
    kinds, rows = gain_rows([scores for _, scores in runs])
    times = [time_note(records) for records, _ in runs]
    write_csv(out / 'gain.csv', rows)
    write_record(out / 'gain.json', plain_values(dict(
        checkpoints=[str(path) for path in checkpoints], scenes=scenes, rounds=ROUNDS, kinds=kinds, cases=rows,
        time=[numbers for _, numbers in times])))
    caption = (
        f'Means over {len(checkpoints)} checkpoint{"s" * (len(checkpoints) > 1)}, with 95 % intervals of a paired '
        f'bootstrap over {scenes} scenes, {ROUNDS} rounds; bold where they exclude 0, not corrected for the number of '
        'comparisons. RA: NDS over clean NDS, both with the router or both without.')
    notes = dict.fromkeys(note for records, _ in runs for note in sample_notes(records))
    text = '\n\n'.join([
        *([markdown_table([_as_text(row, 'failures', ('RA', )) for row in kinds])] if kinds else []),
        markdown_table([_as_text(row, 'case', ('mAP', 'NDS')) for row in rows]), caption, *notes,
        *(note for note, _ in times)])
    with atomic_path(out / 'gain.md') as path:
        path.write_text(f'{text}\n')
    return text


def gain_rows(runs):
    """Differences between the controls 'learned' and 'off', means over runs.

    Args:
        runs (list[dict]): case -> control -> score -> (1 + rounds,), see `resampled_scores`.

    Returns:
        tuple[list[dict], list[dict]]: of each kind of failures, and of all of them, RA without and with the router
        and the difference; of each case mAP and NDS likewise.
    """
    kinds = {}
    for case in runs[0]:
        if not case.is_clean:
            kinds.setdefault(' + '.join(case.kinds), []).append(case)
    kind_rows = [_row('failures', name, 'RA', _resilience(runs, own)) for name, own in kinds.items()]
    if len(kinds) > 1:
        kind_rows.append(_row('failures', _ALL, 'RA', _resilience(runs, list(runs[0]))))
    rows = []
    for case in runs[0]:
        row = {}
        for score in ('mAP', 'NDS'):
            row.update(_row('case', str(case), score, {
                control: np.mean([run[case][control][score] for run in runs], axis=0) for control in _CONTROLS}))
        rows.append(row)
    return kind_rows, rows


def _resilience(runs, cases):
    """Each control -> (1 + rounds,) mRA over some cases, mean over runs."""
    cases = {FailureCase(), *cases}
    return {control: np.mean([relative_accuracy({case: run[case][control]['NDS'] for case in cases})[1]
                              for run in runs], axis=0) for control in _CONTROLS}


def _row(key, name, score, values):
    off, learned = (values[control] for control in _CONTROLS)
    row = {key: name}
    for column, value in ((f'{score} without', off), (f'{score} with', learned), (f'{score} gain', learned - off)):
        row.update(interval_columns(column, BootstrapInterval.of(value)))
    return row


def _as_text(row, key, scores):
    text = {key: row[key]}
    for score in scores:
        text.update({score: f'{row[f"{score} without"]:.3f}', f'{score}, router': gain_as_text(row, f'{score} gain')})
    return text
