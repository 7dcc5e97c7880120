"""MultiCorrupt's table: resistance to its ten corruptions in three severities (Beemelmanns et al., IV 2024)."""
import math

import numpy as np
from nuscenes.utils.splits import create_splits_scenes

from ..datasets.sensor_failures import FailureCase
from ..datasets.sensor_failures.presets import PRESETS
from ..evaluation.detection_matches import BootstrapInterval
from ..utils.tables import markdown_table
from .robustness import relative_accuracy

# Failures of a kind -> its name there, and NDS of BEVFusion under its severities 1 to 3 as MultiCorrupt publishes them:
# github.com/ika-rwth-aachen/MultiCorrupt at 6cd62254, evaluation/evaluations_nds.csv.
_PUBLISHED = {
    ('beams', ): ('beams reducing', (0.6396, 0.4899, 0.3199)),
    ('brightness', ): ('brightness', (0.6967, 0.6913, 0.6851)),
    ('darkness', ): ('darkness', (0.699, 0.691, 0.6861)),
    ('camera_fog', 'lidar_fog'): ('fog', (0.6555, 0.5981, 0.3584)),
    ('view_drop', ): ('missing camera', (0.7038, 0.6961, 0.6873)),
    ('camera_motion_blur', 'lidar_motion_blur'): ('motion blur', (0.6861, 0.6217, 0.5475)),
    ('points_reduced', ): ('points reducing', (0.6684, 0.6379, 0.5628)),
    ('camera_snow', 'lidar_snow'): ('snow', (0.5782, 0.5572, 0.5233)),
    ('misalignment', ): ('spatial misalignment', (0.5903, 0.4943, 0.4266)),
    ('temporal_misalignment', ): ('temporal misalignment', (0.6341, 0.5471, 0.4085)),
}
_VAL_SAMPLES = 6019  # of nuScenes; other sets have its tables and split, too


def corruption_table(nds, dataset):
    """A row per kind of corruption: NDS and RA of severities 1 to 3, mean RA; mRA, and on nuScenes RRA and mRRA.

    Args:
        nds (dict[FailureCase, ndarray]): case -> (1 + rounds,) NDS, see `bootstrap_scores`; 'clean' among them.
        dataset (CustomNuScenesDataset): that was tested.

    Returns:
        tuple[str, dict]: the table in markdown with a caption, and its numbers: `kinds` (name -> `NDS` and `RA` of
        each severity, `mean RA` and, on nuScenes, `RRA`, as BootstrapIntervals), `mRA` and `mRRA`; ('', {}) where a
        case of the preset 'multicorrupt' was not tested.
    """
    cases = [FailureCase.parse(case) for case in PRESETS['multicorrupt']]
    if not set(cases) <= set(nds):
        return '', {}
    kinds = {}
    for case in cases:
        kinds.setdefault(case.kinds, []).append(case)
    ra, mra = relative_accuracy({case: nds[case] for case in (FailureCase(), *cases)})
    obstacle = _obstacle(dataset)
    numbers, rras = {}, []
    for kind, own in kinds.items():
        name, published = _PUBLISHED[kind]
        numbers[name] = {
            'severities': [case.severity for case in own], 'NDS': [BootstrapInterval.of(nds[case]) for case in own],
            'RA': [BootstrapInterval.of(ra[case]) for case in own],
            'mean RA': BootstrapInterval.of(np.mean([ra[case] for case in own], axis=0))}
        if not obstacle:
            rras.append(np.sum([nds[case] for case in own], axis=0) / sum(published) - 1)
            numbers[name]['RRA'] = BootstrapInterval.of(rras[-1])
    result = dict(kinds=numbers, mRA=BootstrapInterval.of(mra),
                  mRRA=BootstrapInterval.of(np.mean(rras, axis=0)) if rras else math.nan)
    return _as_markdown(result, BootstrapInterval.of(nds[FailureCase()]), obstacle), result


def _obstacle(dataset):
    """Why published scores do not compare with those on a dataset; '' where they do."""
    samples = len({info['token'] for info in dataset.data_infos})
    if dataset.version != 'v1.0-trainval' or samples != _VAL_SAMPLES:
        return (f'these {samples} samples of {dataset.version} are not the {_VAL_SAMPLES} of the '
                f'{len(create_splits_scenes()["val"])} validation scenes of nuScenes')
    return ''


def _as_markdown(result, clean, obstacle):
    def text(interval, percent=False):
        if math.isnan(interval.mean):
            return '-'
        factor, form = (100, '+.1f') if percent else (1, '.3f')
        return '{} [{}, {}]'.format(*(f'{factor * value:{form}}' for value in interval))

    rows = []
    for name, own in result['kinds'].items():
        row = {'corruption': name}
        for number, (nds, ra) in enumerate(zip(own['NDS'], own['RA']), 1):
            row.update({f'NDS {number}': text(nds), f'RA {number}': text(ra)})
        rows.append({**row, 'mean RA': text(own['mean RA']), **({'RRA (%)': text(own['RRA'], True)}
                                                                  if 'RRA' in own else {})})
    lines = [markdown_table(rows), f'Clean NDS {text(clean)}; mRA {text(result["mRA"])}'
             + (f'; mRRA {text(result["mRRA"], True)} %.' if not obstacle else '.')]
    lines.append('Columns: severities 1 to 3, for beams 16, 8 and 4 of them, for missing cameras '
                 'probabilities of 20, 40 and 60 %. '
                 + (f'mRRA, against BEVFusion as published, is not shown: {obstacle}.' if obstacle else
                    'RRA: against the published NDS of BEVFusion on data that MultiCorrupt itself corrupted; '
                    'docs/corruptions.md says how ours differ.'))
    return '\n\n'.join(lines)
