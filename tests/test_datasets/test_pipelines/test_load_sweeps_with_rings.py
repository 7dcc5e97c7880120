"""The loader with rings beside mmdet3d's loader and beside the files."""
import copy

import mmcv
import numpy as np
import pytest
import torch
from mmdet3d.core.points import LiDARPoints
from mmdet3d.datasets.pipelines import LoadPointsFromFile, LoadPointsFromMultiSweeps

from projects.mmdet3d_plugin.datasets.pipelines import LoadPointsFromMultiSweepsWithRings

LOAD_KEYFRAME = LoadPointsFromFile(coord_type='LIDAR', load_dim=5, use_dim=5)


@pytest.fixture(scope='module')
def synthetic_samples(synthetic_nuscenes):
    """Two samples: without sweeps and with three."""
    infos = mmcv.load(str(synthetic_nuscenes / 'nuscenes_infos_train.pkl'))['infos'][:2]
    assert [len(info['sweeps']) for info in infos] == [0, 3]
    return [dict(pts_filename=info['lidar_path'], timestamp=info['timestamp'] / 1e6, sweeps=info['sweeps'])
            for info in infos]


def load(loader, sample, seed=0):
    np.random.seed(seed)
    return loader(LOAD_KEYFRAME(copy.deepcopy(sample)))


def assert_equal_to_parent(sample, **arguments):
    expected = load(LoadPointsFromMultiSweeps(**arguments), sample)
    found = load(LoadPointsFromMultiSweepsWithRings(**arguments), sample)
    assert torch.equal(found['points'].tensor, expected['points'].tensor) and len(expected['points']) > 10000
    assert type(found['points']) is LiDARPoints and found['points'].points_dim == expected['points'].points_dim
    assert found['points'].attribute_dims == expected['points'].attribute_dims
    assert set(found) == set(expected) | {'rings'}
    assert found['rings'].shape == (len(found['points']), ) and found['rings'].dtype == np.int64
    return found


@pytest.mark.parametrize('arguments', [
    dict(sweeps_num=3, use_dim=[0, 1, 2, 3, 4]),
    dict(sweeps_num=2, use_dim=[0, 1, 2, 3, 4]),  # two of three: drawn at random
    dict(sweeps_num=2, use_dim=[0, 1, 2, 3, 4], test_mode=True),
    dict(sweeps_num=10, use_dim=[0, 1, 2, 3, 4], pad_empty_sweeps=True, remove_close=True),
    dict(),  # use_dim of the parent's default leaves out the intensity
    dict(use_dim=[2, 0, 1]),
])
def test_the_same_points_as_the_parent(synthetic_samples, arguments):
    for sample in synthetic_samples:
        assert_equal_to_parent(sample, **arguments)


def test_rings_are_those_of_the_files(synthetic_samples):
    """Keyframe first, then the sweeps in the parent's order; points too close to the car are gone with their rings."""
    sample = synthetic_samples[1]
    files = [sample['pts_filename'], *(sweep['data_path'] for sweep in sample['sweeps'])]
    clouds = [np.fromfile(path, np.float32).reshape(-1, 5) for path in files]
    assert {ring for cloud in clouds for ring in cloud[:, 4]} == set(range(32))
    found = assert_equal_to_parent(sample, use_dim=[0, 1, 2, 3, 4])
    assert found['rings'].tolist() == np.concatenate(clouds)[:, 4].tolist()
    lags = found['points'].tensor[:, 4]
    assert lags.unique().numel() == 4 and (lags[:len(clouds[0])] == 0).all()  # the last value is the time lag
    clouds[1:] = [cloud[(np.abs(cloud[:, :2]) >= 1).any(axis=1)] for cloud in clouds[1:]]
    found = assert_equal_to_parent(sample, use_dim=[0, 1, 2, 3, 4], remove_close=True)
    assert found['rings'].tolist() == np.concatenate(clouds)[:, 4].tolist()


def test_a_repeated_keyframe_repeats_its_rings(synthetic_samples):
    rings = np.fromfile(synthetic_samples[0]['pts_filename'], np.float32).reshape(-1, 5)[:, 4]
    found = assert_equal_to_parent(synthetic_samples[0], sweeps_num=2, use_dim=[0, 1, 2, 3, 4], pad_empty_sweeps=True)
    assert found['rings'].tolist() == rings.tolist() * 3


def test_empty_clouds(tmp_path):
    (tmp_path / 'empty.bin').touch()
    path = str(tmp_path / 'empty.bin')
    sweep = dict(data_path=path, timestamp=0, sensor2lidar_rotation=np.eye(3), sensor2lidar_translation=np.zeros(3))
    sample = dict(pts_filename=path, timestamp=0.1, sweeps=[sweep])
    found = load(LoadPointsFromMultiSweepsWithRings(use_dim=[0, 1, 2, 3, 4]), sample)
    assert found['points'].tensor.shape == (0, 5) and found['rings'].shape == (0, )
    assert found['points'].points_dim == 5


def test_the_loaded_keyframe_keeps_its_rings(synthetic_samples):
    """The parent writes time lags into the points that it is given; this loader leaves them alone."""
    loaded = LOAD_KEYFRAME(copy.deepcopy(synthetic_samples[1]))
    points, before = loaded['points'], loaded['points'].tensor.clone()
    LoadPointsFromMultiSweepsWithRings(use_dim=[0, 1, 2, 3, 4])(loaded)
    assert torch.equal(points.tensor, before)


@pytest.mark.parametrize('arguments', [dict(load_dim=6), dict(time_dim=3), dict(load_dim=6, time_dim=5)])
def test_only_points_of_nuscenes_have_rings(arguments):
    with pytest.raises(ValueError, match='load_dim must be 5 and time_dim 4.*got '):
        LoadPointsFromMultiSweepsWithRings(**arguments)


@pytest.mark.parametrize('use_dim', [4, [0, 1, 2, 4], 3])
def test_a_keyframe_without_five_values_is_refused(synthetic_samples, use_dim):
    keyframe = LoadPointsFromFile(coord_type='LIDAR', load_dim=5, use_dim=use_dim)
    with pytest.raises(ValueError, match=r'five values.*use_dim=\[0, 1, 2, 3, 4\]; got [34]'):
        LoadPointsFromMultiSweepsWithRings()(keyframe(copy.deepcopy(synthetic_samples[0])))
