import re

import numpy as np
import pytest
from mmcv.utils import build_from_cfg
from mmdet3d.datasets.builder import PIPELINES
from mmdet3d.utils import get_root_logger

from projects.mmdet3d_plugin.datasets.pipelines import LoadPointsFromMultiSweeps, LoadPointsFromMultiSweepsWithRings

LOADER = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)


@pytest.fixture
def write(tmp_path):
    """Function that writes an array, or bytes, and returns the file's path."""

    def write(values, name='points.bin'):
        path = tmp_path / name
        path.write_bytes(values if isinstance(values, bytes) else values.tobytes())
        return str(path)

    return write


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(get_root_logger(), 'propagate', True)
    return caplog


def cloud(number=200):
    points = np.random.RandomState(0).uniform(-40, 40, (number, 5)).astype(np.float32)
    points[:, 3] = np.abs(points[:, 3])
    points[:, 4] = np.arange(number) % 32
    return points


def load(path, **changes):
    return build_from_cfg(dict(LOADER, **changes), PIPELINES)(dict(pts_filename=path))['points'].tensor.numpy()


def test_good_points_are_as_the_file_has_them(write):
    np.testing.assert_array_equal(load(write(cloud())), cloud())


@pytest.mark.parametrize('values', [
    cloud()[:, :4], cloud().astype(np.float64), np.c_[cloud(), cloud()[:, :1]], cloud()[:, [4, 0, 1, 2, 3]]
], ids=['four values', 'float64', 'six values', 'another order'])
def test_points_of_another_layout_are_refused(write, values):
    with pytest.raises(ValueError, match=r'points.bin \(\d+ bytes\) was read as points of 5 float32 values.*load_dim'):
        load(write(values))


def test_a_file_cut_within_a_point_is_named(write):
    with pytest.raises(ValueError, match='points.bin .* cut short'):
        load(write(cloud().tobytes()[:-3]))


def test_other_values_in_the_place_of_the_ring_can_be_declared(write):
    points = cloud()
    points[:, 4] *= 0.013
    with pytest.raises(ValueError, match='no ring index.*ring_dim=None'):
        load(write(points))
    np.testing.assert_array_equal(load(write(points), ring_dim=None), points)
    with pytest.raises(ValueError, match="ring_dim must be 'auto', None or in 3..4"):
        load(write(points), ring_dim=7)


@pytest.mark.parametrize('column', range(5))
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_points_that_are_not_finite_are_dropped_with_one_warning_a_file(write, log, column, value):
    points = cloud()
    points[[3, 7], column] = value
    path = write(points)
    for _ in range(2):
        np.testing.assert_array_equal(load(path), np.delete(points, [3, 7], axis=0))
    assert log.text.count(f'{path}: 2 of 200 points have values that are not finite and are left out') == 1


def test_points_in_another_unit_are_refused(write):
    for axis in range(3):
        points = cloud()
        points[:, axis] *= 1000
        with pytest.raises(ValueError, match=r'have \|x\|, \|y\| or \|z\| > 1000 m.* unit'):
            load(write(points))


@pytest.mark.parametrize('change, message', [
    (lambda points: points[:90], 'small.bin: has 90 points, and .*points.bin 200: was it cut short'),
    (lambda points: points * np.float32([0.01, 0.01, 0.01, 1, 1]), 'small.bin: all of its 200 points are within 1 m'),
    (lambda points: points / np.float32([1, 1, 1, 255, 1]), 'no intensity of small.bin is above 1: nuScenes has 0 to')])
def test_clouds_that_say_little_are_announced(write, log, change, message):
    load(write(cloud()))
    assert not log.records
    path = write(change(cloud()), 'small.bin')
    for _ in range(2):
        np.testing.assert_array_equal(load(path), change(cloud()))
    assert len(log.records) == 1 and re.search(message, log.text)


def test_a_file_without_points_is_announced(write, log):
    path = write(b'')
    assert load(path).shape == (0, 5)
    assert f'{path}: has no point' in log.text


@pytest.mark.parametrize('loader_type', [LoadPointsFromMultiSweeps, LoadPointsFromMultiSweepsWithRings])
def test_sweeps_are_checked_and_cleaned(write, log, loader_type):
    loader = loader_type(sweeps_num=1, use_dim=[0, 1, 2, 3, 4])
    assert LoadPointsFromMultiSweeps is PIPELINES.get('LoadPointsFromMultiSweeps')  # in published configs, too

    def merged(path):
        results = dict(pts_filename=write(cloud()), timestamp=1., sweeps=[dict(
            data_path=path, timestamp=5e5, sensor2lidar_rotation=np.eye(3), sensor2lidar_translation=np.zeros(3))])
        return loader(build_from_cfg(LOADER, PIPELINES)(results))

    points = cloud()
    points[5, 3] = np.nan
    path = write(points, 'sweep.bin')
    results = merged(path)
    np.testing.assert_array_equal(results['points'].tensor[200:, :4], np.delete(points, 5, axis=0)[:, :4])
    assert len(results.get('rings', results['points'])) == 399 and f'{path}: 1 of 200 points' in log.text
    with pytest.raises(ValueError, match='four.bin .* no ring index'):
        merged(write(cloud()[:, :4], 'four.bin'))
