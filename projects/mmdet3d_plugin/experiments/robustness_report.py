"""Tables of how a detector stands up to sensor failures, and what its router does about them."""
import math
import sys
from pathlib import Path

import mmcv
import numpy as np

from ..datasets.sensor_failures import FailureCase
from ..datasets.sensor_failures.presets import expand_cases
from ..evaluation.detection_matches import BootstrapInterval, DetectionMatches, bootstrap_scores
from ..evaluation.nuscenes_scores import ERRORS
from ..models.utils.token_layout import MODALITIES
from ..utils.atomic_file import atomic_path
from ..utils.content_hash import file_sha256
from ..utils.plain_values import plain_values
from ..utils.record_file import write_record
from ..utils.tables import markdown_table, write_csv
from .case_series import run_cases, sample_notes, time_note
from .corruption_table import corruption_table
from .robustness import DEFAULT_CASES, RECALL_SCORE, relative_accuracy, routing_auroc

INTERVALS = 'In brackets 95 % intervals of a bootstrap over {} scenes, {} rounds, for this one checkpoint.'
ROUNDS = 1000


def measure_robustness(cfg, checkpoint, cases=DEFAULT_CASES, out='work_dirs/robustness', controls=('learned', ), seed=0,
                       trust_checkpoint=False, workers=1):
    """Test a checkpoint under every case; write `robustness.md`, `.csv` and `.json`.

    Where the cases have all of the preset 'multicorrupt', its table comes first, see `corruption_table`.

    Args:
        cases (Sequence[FailureCase | str]): and names of presets; 'clean' is added, since the others are compared with
            it.
        out (str | Path): folder for results and tables.
        workers (int): see `run_cases`.
        cfg, checkpoint, controls, seed, trust_checkpoint: see `RobustnessTest`.

    Returns:
        str: the tables in markdown, a row per case and control.

    Raises:
        ValueError, RuntimeError: see `run_cases`.
    """
    cases, out = with_clean(cases), Path(out)
    test, records = run_cases(cases, out, workers, cfg, checkpoint, controls, seed, trust_checkpoint)
    controls = list(records[FailureCase()])
    scores = resampled_scores(records, test.scene_of_sample)
    rows, text, summary = [], [], dict(mRA={})
    for control in controls:
        own = {case: scores[case][control] for case in cases}
        ra, mra = relative_accuracy({case: values['NDS'] for case, values in own.items()})
        summary['mRA'][control] = BootstrapInterval.of(mra) if np.ndim(mra) else BootstrapInterval(*[math.nan] * 3)
        rows += [_row(case, control, records[case][control], {**own[case], 'RA': ra[case]},
                      records[FailureCase()][control]) for case in cases]
        table, numbers = corruption_table({case: values['NDS'] for case, values in own.items()}, test.evaluator.dataset)
        if table:
            text += [f'**MultiCorrupt** ({control})', table]
            summary.setdefault('multicorrupt', {})[control] = numbers
    note, summary['time'] = time_note(records)
    summary.update(cases=rows, scenes=len(scenes_of(records, test)), rounds=ROUNDS)
    write_csv(out / 'robustness.csv', rows)
    write_record(out / 'robustness.json', plain_values(_as_records(summary)))
    text += [_table(rows, test.routes),
             '\n'.join(f'mRA ({control}): {as_text(value)}' for control, value in summary['mRA'].items()),
             _caption(test.routes, summary['scenes']), *sample_notes(records), note]
    text = '\n\n'.join(text)
    with atomic_path(out / 'robustness.md') as path:
        path.write_text(f'{text}\n')
    return text


def with_clean(cases):
    """Cases and presets as a list of FailureCases, 'clean' first, each once.

    Raises:
        ValueError: see `expand_cases`.
    """
    cases = [FailureCase.parse(case) for case in expand_cases(cases)]
    return [FailureCase(), *(case for case in cases if not case.is_clean)]


def run_checkpoints(checkpoints, cases, out, workers, cfg, controls, seed, trust_checkpoint):
    """Test checkpoints one after the other, such as one for each training seed.

    Args:
        checkpoints (Sequence[str | Path]): at least one.
        cases, out, workers, cfg, controls, seed, trust_checkpoint: see `run_cases`.

    Returns:
        tuple[list[tuple[dict, dict]], int]: of each checkpoint the records of `run_cases` and what `resampled_scores`
        makes of them; the number of scenes.
    """
    runs = []
    for checkpoint in checkpoints:
        print(checkpoint, flush=True)
        test, records = run_cases(cases, out, workers, cfg, checkpoint, controls, seed, trust_checkpoint)
        runs.append((records, resampled_scores(records, test.scene_of_sample)))
    return runs, len(scenes_of(runs[0][0], test))


def resampled_scores(records, scene_of_sample):
    """Scores of every case and control on the set as it is and in the rounds of a bootstrap.

    Args:
        records (dict): from `run_cases`.
        scene_of_sample (dict[str, str]): see `NuScenesEvaluator`.

    Returns:
        dict: case -> control -> see `bootstrap_scores`. All are drawn alike, so that their differences are paired.
    """
    print(f'intervals of {len(records)} cases', flush=True)
    jobs = [(case, control, record['matches']) for case, controls in records.items()
            for control, record in controls.items()]
    scores, known = {case: {} for case in records}, {}
    for case, control, path in mmcv.track_iter_progress(jobs, file=sys.stderr):
        content = file_sha256(path)  # often equal, as where the sensor that fails is silent
        if content not in known:
            known[content] = bootstrap_scores(DetectionMatches.load(path), scene_of_sample, ROUNDS)
        scores[case][control] = known[content]
    return scores


def scenes_of(records, test):
    """set[str]: scenes of the samples that were tested."""
    matches = DetectionMatches.load(next(iter(records[FailureCase()].values()))['matches'])
    scenes = test.scene_of_sample
    return {scenes[token] for token in matches.sample_tokens.tolist()}


def as_text(interval, signed=False):
    """An interval for tables: '.512 [.480, .541]' with three decimals."""
    sign = '+' if signed else ''
    if math.isnan(interval.mean):
        return '-'
    return f'{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]'


def interval_columns(name, interval):
    """An interval as three columns of a spreadsheet."""
    return {name: interval.mean, f'{name} low': interval.low, f'{name} high': interval.high}


def row_interval(row, name):
    """The BootstrapInterval that `interval_columns` put into a row."""
    return BootstrapInterval(row[name], row[f'{name} low'], row[f'{name} high'])


def gain_as_text(row, name):
    """A difference in the columns of `interval_columns`, signed, bold where its interval excludes 0."""
    interval = row_interval(row, name)
    text = as_text(interval, signed=True)
    return f'**{text}**' if interval.low > 0 or interval.high < 0 else text


def _row(case, control, record, scores, clean):
    auroc = routing_auroc(record, clean)
    weights = record['weights'] or {region: dict.fromkeys(MODALITIES, math.nan) for region in
                                    ('nothing lost', 'LiDAR lost', 'cameras lost')}
    intervals = {}
    for name in ('mAP', 'NDS', 'RA', *ERRORS):
        intervals.update(interval_columns(name, BootstrapInterval.of(scores[name])))
    return {
        'case': str(case), 'control': control, **intervals, 'recall inside': record['recall']['inside'],
        'recall outside': record['recall']['outside'],
        'LiDAR attention': float(np.mean(list(record['attention'].values()) or [math.nan])),
        'LiDAR / camera weight, nothing lost': _pair(weights['nothing lost']),
        'LiDAR / camera weight, LiDAR lost': _pair(weights['LiDAR lost']),
        'LiDAR / camera weight, cameras lost': _pair(weights['cameras lost']),
        'AUROC LiDAR': auroc['lidar'], 'AUROC cameras': auroc['camera'],
        **{name: sum(record[name].values()) for name in ('fallbacks', 'spared')}, 'digest': record['digest'],
    }


def _table(rows, routes):
    """The rows for readers: intervals in one cell, and no columns that say nothing."""
    left_out = {'fallbacks', 'spared', 'digest', *ERRORS} - {'mATE'}
    if not routes:
        left_out |= {name for name in rows[0] if 'weight' in name or 'AUROC' in name}
    if len({row['control'] for row in rows}) == 1:
        left_out.add('control')
    if all(math.isnan(row['LiDAR attention']) for row in rows):
        left_out.add('LiDAR attention')
    shown = []
    for row in rows:
        cells = {}
        for name, value in row.items():
            if f'{name} low' in row:
                value = as_text(BootstrapInterval(value, row[f'{name} low'], row[f'{name} high']))
            if name not in left_out and not name.endswith((' low', ' high')):
                cells[name] = value
        shown.append(cells)
    return markdown_table(shown)


def _caption(routes, scenes):
    text = ('RA: NDS over clean NDS; mRA: its mean over kinds of failures of the mean over severities. Recall '
            f'within 2 m at a score of {RECALL_SCORE:g}, of boxes inside and outside the places where a sensor is '
            'lost. LiDAR attention: share of the cross-attention, mean over layers.')
    weights = ' Weights: mean where the sensor named is lost and elsewhere.' * routes
    return f'{text}{weights} {INTERVALS.format(scenes, ROUNDS)}'


def _pair(weights):
    if any(math.isnan(weights[modality]) for modality in MODALITIES):
        return None
    return ' / '.join(f'{weights[modality]:.2f}' for modality in MODALITIES)


def _as_records(value):
    """Nested containers with intervals as dicts."""
    if isinstance(value, BootstrapInterval):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _as_records(child) for key, child in value.items()}
    return [_as_records(child) for child in value] if isinstance(value, list) else value
