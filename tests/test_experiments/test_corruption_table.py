"""MultiCorrupt's table from scores that MultiCorrupt published: those of CMT (evaluation/*.csv at 6cd62254)."""
import math
from types import SimpleNamespace

import numpy as np
import pytest

from projects.mmdet3d_plugin.datasets.sensor_failures import FailureCase
from projects.mmdet3d_plugin.datasets.sensor_failures.presets import PRESETS
from projects.mmdet3d_plugin.experiments.corruption_table import corruption_table

CLEAN = 0.729
CMT = {
    'beams reducing': (0.6826, 0.5873, 0.4497), 'brightness': (0.7038, 0.6852, 0.6605),
    'darkness': (0.7051, 0.6904, 0.6786), 'fog': (0.6974, 0.6527, 0.4134),
    'snow': (0.6483, 0.619, 0.5554), 'motion blur': (0.6886, 0.6154, 0.5357),
    'missing camera': (0.718, 0.7109, 0.7009), 'points reducing': (0.7012, 0.6834, 0.638),
    'spatial misalignment': (0.6462, 0.586, 0.5367), 'temporal misalignment': (0.6572, 0.568, 0.4988)}
RA = {'beams reducing': 0.786, 'brightness': 0.937, 'darkness': 0.948, 'fog': 0.806, 'missing camera': 0.974,
      'motion blur': 0.841, 'points reducing': 0.925, 'snow': 0.833, 'spatial misalignment': 0.809,
      'temporal misalignment': 0.788}
RRA = {'beams reducing': 18.642, 'brightness': -1.138, 'darkness': -0.096, 'fog': 9.398, 'missing camera': 2.041,
       'motion blur': -0.841, 'points reducing': 8.213, 'snow': 9.887, 'spatial misalignment': 17.053,
       'temporal misalignment': 8.448}


def nds_of_cmt(rounds=4):
    values = [value for scores in CMT.values() for value in scores]
    cases = map(FailureCase.parse, PRESETS['multicorrupt'])
    return {FailureCase(): np.full(1 + rounds, CLEAN),
            **{case: value * np.array([1, *[1 + 0.01 * number for number in range(rounds)]])
               for case, value in zip(cases, values)}}


def data(version='v1.0-trainval', samples=6019):
    return SimpleNamespace(version=version, data_infos=[dict(token=str(number)) for number in range(samples)])


@pytest.fixture(scope='module')
def table():
    return corruption_table(nds_of_cmt(), data())


def test_the_published_numbers(table):
    text, numbers = table
    assert list(numbers['kinds']) == list(CMT)  # the preset's order: scores above belong to its cases
    for name, kind in numbers['kinds'].items():
        assert [interval.mean for interval in kind['NDS']] == pytest.approx(CMT[name])
        assert kind['mean RA'].mean == pytest.approx(RA[name], abs=5.1e-4)
        assert 100 * kind['RRA'].mean == pytest.approx(RRA[name], abs=1e-3)
    assert numbers['mRA'].mean == pytest.approx(0.865, abs=5e-4)
    assert 100 * numbers['mRRA'].mean == pytest.approx(7.161, abs=1e-3)
    assert '| fog ' in text and '.865' in text and '+7.2 [+7.2, +10.3] %' in text
    assert 'RRA (%)' in text and 'published NDS of BEVFusion' in text


def test_intervals_are_of_ratios(table):
    """Of the rounds 1.00, 1.01, 1.02 and 1.03 times the value: percentiles 2.5 and 97.5 between them."""
    _, numbers = table
    low, high = np.percentile([1, 1.01, 1.02, 1.03], (2.5, 97.5))
    for interval in (numbers['mRA'], numbers['kinds']['fog']['mean RA'], numbers['kinds']['fog']['RA'][2]):
        assert (interval.low, interval.high) == pytest.approx((low * interval.mean, high * interval.mean))
    mrra = numbers['mRRA']
    assert mrra.high == pytest.approx((1 + mrra.mean) * high - 1)


@pytest.mark.parametrize('dataset', [data(samples=160), data('v1.0-mini', 6019), data('v1.0-trainval', 6018)])
def test_other_data_do_not_compare(dataset):
    text, numbers = corruption_table(nds_of_cmt(), dataset)
    assert 'RRA (%)' not in text and 'mRRA, against BEVFusion as published, is not shown: these' in text
    assert math.isnan(numbers['mRRA']) and numbers['mRA'].mean == pytest.approx(0.865, abs=5e-4)


def test_only_the_whole_preset():
    scores = nds_of_cmt()
    del scores[FailureCase.parse('darkness@2')]
    assert corruption_table(scores, data()) == ('', {})
