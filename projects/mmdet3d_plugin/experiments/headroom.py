"""Can any routing pay? What each sensor alone and the true places of a failure would win, before any training."""
import math
from pathlib import Path

import numpy as np

from ..apis.checkpoint import has_router
from ..evaluation.detection_matches import BootstrapInterval
from ..utils.atomic_file import atomic_path
from ..utils.plain_values import plain_values
from ..utils.record_file import write_record
from ..utils.tables import markdown_table, write_csv
from ..visualization.plots import draw_headroom
from .case_series import sample_notes, time_note
from .robustness_report import (
    ROUNDS,
    as_text,
    gain_as_text,
    interval_columns,
    row_interval,
    run_checkpoints,
    with_clean,
)

_ALONE = ('lidar_alone', 'camera_alone')
_ORACLES = ('oracle:1', 'oracle:5')
_ROUTED = ('oracle', 'learned')  # at the strength of the config
_SCORES = ('mAP', 'NDS')
_TITLES = {'lidar_alone': 'LiDAR alone', 'camera_alone': 'cameras alone', 'better': 'better of the two',
           'oracle:1': 'oracle, strength 1', 'oracle:5': 'oracle, strength 5', 'oracle': 'oracle, own strength',
           'learned': 'router'}
_LEAST_GAIN = 0.005  # mAP of an oracle, below which a share of it says nothing


def measure_headroom(cfg, checkpoints, cases, out='work_dirs/headroom', seed=0, trust_checkpoint=False, workers=1):
    """Test checkpoints without routing, with each sensor alone, with oracle weights, and with a router that they have.

    Writes `headroom.md`, `.csv`, `.json` and `.png`. A sensor is alone when the other one is blank after the failure
    struck (`with_modality`), without a bias. The oracle knows where the failure struck; where it names no place, the
    oracle is neutral. Differences are to the model without a bias on the same samples. A trained router is compared
    with the oracle at the config's own strength.

    Args:
        cfg (mmcv.Config): from `load_config`; of a model with AQR, whose router may be untrained. Without a router
            there is no oracle.
        checkpoints (Sequence[str]): such as one for each training seed; means go over them.
        cases (Sequence[FailureCase | str]): and names of presets; 'clean' is added.
        out (str | Path): folder for results and tables.
        seed, trust_checkpoint: see `RobustnessTest`.
        workers (int): see `run_cases`.

    Returns:
        str: the table in markdown, a row per case.

    Raises:
        ValueError, RuntimeError: see `run_cases`; no checkpoint; or some have a router and others none.
    """
    if not checkpoints:
        raise ValueError('checkpoints must name at least one')
    cases, out = with_clean(cases), Path(out)
    routes = bool((cfg.model.get('pts_bbox_head') or {}).get('enable_aqr'))
    base = 'off' if routes else 'learned'
    routers = {has_router(path, trust_checkpoint) for path in checkpoints} if routes else {False}
    if len(routers) > 1:
        raise ValueError(f'all checkpoints must have a router, or none: {list(map(str, checkpoints))}')
    controls = (base, *(_ORACLES if routes else ()), *(_ROUTED if routers.pop() else ()), *_ALONE)
    runs, scenes = run_checkpoints(checkpoints, cases, out, workers, cfg, controls, seed, trust_checkpoint)
    rows = [_row(case, base, controls[1:], [scores[case] for _, scores in runs]) for case in cases]
    return _write(out, rows, runs, [str(path) for path in checkpoints], scenes)


def _row(case, base, others, runs):
    """All numbers of one case: means over runs, each control -> score -> (1 + rounds,)."""
    mean = {control: {score: np.mean([run[control][score] for run in runs], axis=0) for score in _SCORES}
            for control in (base, *others)}
    better = max(_ALONE, key=lambda control: mean[control]['mAP'][0])
    columns = {**{control: mean[control] for control in others}, 'better': mean[better]}
    row = {'case': str(case), 'better sensor': _TITLES[better]}
    for score in _SCORES:
        row.update(interval_columns(f'off {score}', BootstrapInterval.of(mean[base][score])))
        for control, values in columns.items():
            row.update(interval_columns(f'{control} {score}', BootstrapInterval.of(values[score])))
            gain = BootstrapInterval.of(values[score] - mean[base][score])
            row.update(interval_columns(f'{control} - off {score}', gain))
        if score == 'mAP' and 'learned' in columns:
            possible, gained = (row[f'{control} - off mAP'] for control in _ROUTED)
            row['share'] = gained / possible if possible >= _LEAST_GAIN else math.nan
        for number, run in enumerate(runs) if len(runs) > 1 else ():
            row.update({f'{control} - off {score}, run {number}': run[control][score][0] - run[base][score][0]
                        for control in others})
    return row


def _write(out, rows, runs, checkpoints, scenes):
    gains = {name: title for name, title in _TITLES.items() if f'{name} - off mAP' in rows[0]}
    notes = dict.fromkeys(note for records, _ in runs for note in sample_notes(records))
    times = [time_note(records) for records, _ in runs]
    write_csv(out / 'headroom.csv', rows)
    write_record(out / 'headroom.json', plain_values(dict(
        checkpoints=checkpoints, scenes=scenes, rounds=ROUNDS, cases=rows, time=[numbers for _, numbers in times],
        digests={str(case): next(iter(controls.values()))['digest'] for case, controls in runs[0][0].items()})))
    draw_headroom(out / 'headroom.png', {row['case']: {
        gains[name]: row_interval(row, f'{name} - off mAP')._asdict() for name in gains if name != 'better'}
        for row in rows})
    table = [{'case': row['case'], 'mAP': as_text(row_interval(row, 'off mAP')),
              **{title: gain_as_text(row, f'{name} - off mAP') for name, title in gains.items()},
              **({'share': row['share']} if 'learned' in gains else {}),
              'NDS': as_text(row_interval(row, 'off NDS'))} for row in rows]
    mean = f'Means over {len(checkpoints)} checkpoints, each' if len(checkpoints) > 1 else 'One checkpoint,'
    caption = (
        f'mAP and NDS without routing; other columns: mAP less that of the column mAP. {mean} with 95 % intervals of a '
        f'paired bootstrap over {scenes} scenes, {ROUNDS} rounds; bold where they exclude 0, not corrected for the '
        'number of comparisons. Alone: the other sensor is blank after the failure struck. Better of the two: the one '
        'with the higher mAP, chosen on these samples.')
    if 'oracle:1' in gains:
        caption += (' Oracle: the true places as weights, at two strengths of the bias; 0 for a failure that names no '
                    'place.')
    else:
        caption += ' No oracle: the config has no router; one with AQR takes the same checkpoint.'
    if 'learned' in gains:
        caption += (f" Share: the router's gain by the oracle's at the same strength, where that is at least "
                    f'{_LEAST_GAIN} mAP.')
    text = '\n\n'.join([markdown_table(table), caption, *notes, *(note for note, _ in times)])
    with atomic_path(out / 'headroom.md') as path:
        path.write_text(f'{text}\n')
    return text
