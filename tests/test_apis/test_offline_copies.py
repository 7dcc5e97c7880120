"""A copy of a set whose files were corrupted, as MultiCorrupt writes it (docs/data.md), against the case online."""
import copy
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.datasets import build_dataset

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.apis.failing_sensors import case_datasets, struck_sample, with_failure
from projects.mmdet3d_plugin.datasets.nuscenes_infos import create_nuscenes_infos

# MultiCorrupt's ten kinds, and lies: all that files can say, which calibrations are not part of.
CASES = ['beams:8', 'brightness@2+lidar_shift:2', 'darkness:1@1', 'camera_fog:3@2+lidar_fog@2',
         'camera_snow:1@2+lidar_snow@2', 'camera_motion_blur@3+lidar_motion_blur@3', 'image_noise@3+points_reduced@2',
         'view_drop:0.4', 'misalignment@3', 'temporal_misalignment@2', 'stale_views:3@3+stale_lidar@1',
         'glare:1@3+phantoms:3', 'lidar_drop+view_drop:CAM_BACK']
# A stale cloud may have more sweeps than its sample has files for.
IN_SWEEPS = ['lidar_snow@3', 'misalignment@2', 'lidar_fog@1+camera_drop', 'points_reduced@1', 'lidar_drop']
NUM_SWEEPS = 2  # of the config, all that lie between two keyframes: no file is part of two samples


@pytest.fixture(scope='module')
def config(repo_root, synthetic_nuscenes):
    return load_config(repo_root / 'configs/cmt_synthetic.py', {
        'data.test.data_root': f'{synthetic_nuscenes}/',
        'data.test.ann_file': str(synthetic_nuscenes / 'nuscenes_infos_val.pkl')})


def of_copy(config, folder):
    """The config with the copy as its test data."""
    config = copy.deepcopy(config)
    config.data.test.update(data_root=f'{folder}/', ann_file=str(folder / 'nuscenes_infos_val.pkl'))
    return config


def with_sweeps(config, number):
    """The config with so many sweeps for each keyframe."""
    config = copy.deepcopy(config)
    step, = (step for step in config.data.test.pipeline if step.type == 'LoadPointsFromMultiSweeps')
    assert step.sweeps_num == NUM_SWEEPS
    step.sweeps_num = number
    return config


def link_set(source, folder):
    """The set's folders and files as links, as `cp -rs` makes them."""
    for part in ('samples', 'sweeps', 'maps', 'v1.0-mini'):
        for path in (source / part).rglob('*'):
            if path.is_file():
                target = folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(path, target)


@pytest.fixture(scope='module')
def folder(synthetic_nuscenes, tmp_path_factory):
    """A copy of the set with info files of its own, whose files are links as yet."""
    folder = tmp_path_factory.mktemp('copy')
    link_set(synthetic_nuscenes, folder)
    create_nuscenes_infos(folder, 'v1.0-mini', folder)
    yield folder
    shutil.rmtree(folder)


def replace(path, data):
    path.unlink()  # a link: the set itself stays as it is
    path.write_bytes(data)


def corrupt(config, case, source, folder):
    """Let every validation sample's files in the copy have what the case leaves of them, images without loss under
    their old names, each sweep in the frame of its own moment.

    Returns:
        list[frozenset[str]]: which sensors of each sample the case changed.
    """
    (_, dataset), = case_datasets(config, [case])
    changed = []
    for index, info in enumerate(dataset.data_infos):
        sample = struck_sample(dataset, index)
        points = sample['points'].tensor.numpy().astype(np.float64)
        keyframe = dict(data_path=info['lidar_path'], timestamp=info['timestamp'],
                        sensor2lidar_rotation=np.eye(3), sensor2lidar_translation=np.zeros(3))
        for sweep in (keyframe, *sorted(info['sweeps'], key=lambda sweep: -sweep['timestamp'])[:NUM_SWEEPS]):
            own = points[np.abs(points[:, 4] - (info['timestamp'] - sweep['timestamp']) / 1e6) < 1e-3]
            own[:, :3] = np.linalg.solve(sweep['sensor2lidar_rotation'],
                                         (own[:, :3] - sweep['sensor2lidar_translation']).T).T
            own[:, 4] = 0  # files have a ring here, which loaders replace by the lag
            replace(folder / os.path.relpath(sweep['data_path'], source), own.astype(np.float32).tobytes())
        for camera, image in zip(info['cams'].values(), sample['img']):
            replace(folder / os.path.relpath(camera['data_path'], source), cv2.imencode('.png', image)[1].tobytes())
        changed.append(sample['failure'].changed)
    assert len(changed) == 4 and any(changed)
    return changed


def samples(config):
    """Points (N, 5), images and meta of every test sample, as the network gets them."""
    return [(sample['points'][0].data, sample['img'][0].data, sample['img_metas'][0].data)
            for sample in build_dataset(config.data.test)]


def differing(first, second):
    """Sensors of which two samples tell different things."""
    return frozenset(sensor for sensor, *pair in zip(('lidar', 'camera'), first, second) if not torch.equal(*pair))


@pytest.mark.parametrize('case', CASES)
def test_the_network_gets_the_same(config, synthetic_nuscenes, folder, case):
    """Points and images to the last bit and calibrations of every sample; what the case changed is no clean one."""
    config = with_sweeps(config, 0)
    changed = corrupt(config, case, synthetic_nuscenes, folder)
    online, offline, clean = map(samples, (with_failure(config, case), of_copy(config, folder), config))
    assert len(online) == len(offline) == len(clean) == len(changed)
    for expected, found, untouched, sensors in zip(online, offline, clean, changed):
        assert not differing(found, expected) and differing(found, untouched) == sensors
        assert found[2]['sample_idx'] == expected[2]['sample_idx']
        np.testing.assert_allclose(found[2]['lidar2img'], expected[2]['lidar2img'], atol=1e-9)


@pytest.mark.parametrize('case', IN_SWEEPS)
def test_sweeps_too(config, synthetic_nuscenes, folder, case):
    """To the rounding of float32: sweeps are written in other frames than those in which they were struck."""
    changed = corrupt(config, case, synthetic_nuscenes, folder)
    online, offline, clean = map(samples, (with_failure(config, case), of_copy(config, folder), config))
    lags = {round(lag, 2) for points, *_ in clean for lag in points[:, 4].tolist()}
    assert len(lags) == 1 + NUM_SWEEPS
    for expected, found, untouched, sensors in zip(online, offline, clean, changed):
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-4)
        assert torch.equal(found[1], expected[1]) and differing(expected, untouched) == sensors


def test_info_files_of_the_original_are_refused(config, folder):
    """They name clean files: the copy needs info files of its own, else the test of the corrupted ones would be clean.
    """
    offline = of_copy(config, folder)
    assert offline.data.test.data_root != config.data.test.data_root
    offline.data.test.ann_file = config.data.test.ann_file
    with pytest.raises(ValueError, match=f'info file .* has another such file, {folder}/samples/'):
        build_dataset(offline.data.test)
