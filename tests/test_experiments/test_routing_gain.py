"""What a router wins, from scores with known differences; the test with real parts is in test_robustness.py."""
import numpy as np
import pytest
from mmcv import Config

from projects.mmdet3d_plugin.datasets.sensor_failures import FailureCase
from projects.mmdet3d_plugin.experiments.routing_gain import gain_rows, measure_gain

CASES = ('clean', 'glare@1', 'glare@3', 'lidar_drop')
ROUNDS = 40


@pytest.fixture(scope='module')
def runs():
    """Scores of two checkpoints, (1 + rounds,) each."""
    rng = np.random.default_rng(0)
    return [{FailureCase.parse(case): {
        control: {score: rng.uniform(0.2, 0.8, 1 + ROUNDS) for score in ('mAP', 'NDS')}
        for control in ('off', 'learned')} for case in CASES} for _ in range(2)]


def test_gains_are_paired_means(runs):
    kinds, rows = gain_rows(runs)
    assert [row['case'] for row in rows] == list(CASES)
    assert [row['failures'] for row in kinds] == ['glare', 'lidar_drop', 'all kinds (mRA)']
    for row in rows:
        for score in ('mAP', 'NDS'):
            own = [[run[FailureCase.parse(row['case'])][control][score] for run in runs]
                   for control in ('off', 'learned')]
            expected = [(b1 + b2 - a1 - a2) / 2 for a1, a2, b1, b2 in zip(*own[0], *own[1])]
            assert row[f'{score} gain'] == pytest.approx(expected[0])
            assert row[f'{score} gain low'] == pytest.approx(np.percentile(expected[1:], 2.5))
            assert row[f'{score} gain high'] == pytest.approx(np.percentile(expected[1:], 97.5))
            assert row[f'{score} with'] - row[f'{score} without'] == pytest.approx(row[f'{score} gain'])


def test_resilience_is_relative_to_own_clean(runs):
    kinds, _ = gain_rows(runs)

    def resilience(run, control, cases):
        nds = {case: run[FailureCase.parse(case)][control]['NDS'][0] for case in CASES}
        return np.mean([nds[case] / nds['clean'] for case in cases])

    glare, drop, everything = kinds
    for control, name in (('off', 'RA without'), ('learned', 'RA with')):
        parts = [np.mean([resilience(run, control, cases) for run in runs])
                 for cases in (('glare@1', 'glare@3'), ('lidar_drop', ))]
        assert [glare[name], drop[name]] == pytest.approx(parts)
        assert everything[name] == pytest.approx(np.mean(parts))  # kinds count alike, however many severities they have


def test_one_kind_needs_no_sum(runs):
    one = [{case: scores for case, scores in run.items() if str(case) in ('clean', 'glare@1')} for run in runs]
    assert [row['failures'] for row in gain_rows(one)[0]] == ['glare']


def test_what_has_no_router_is_refused(tmp_path):
    with pytest.raises(ValueError, match='checkpoints must name at least one'):
        measure_gain(Config(dict(model=dict(pts_bbox_head=dict(enable_aqr=True)))), [], ['glare@1'], tmp_path)
    with pytest.raises(ValueError, match='needs a config with one'):
        measure_gain(Config(dict(model=dict(pts_bbox_head=dict()))), ['a.pth'], ['glare@1'], tmp_path)
