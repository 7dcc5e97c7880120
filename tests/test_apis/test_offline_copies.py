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

CASE = 'brightness@2+lidar_shift:2'


@pytest.fixture(scope='module')
def config(repo_root, synthetic_nuscenes):
    cfg = load_config(repo_root / 'configs/cmt_synthetic.py', {
        'data.test.data_root': f'{synthetic_nuscenes}/',
        'data.test.ann_file': str(synthetic_nuscenes / 'nuscenes_infos_val.pkl')})
    # Keyframes alone: a shift in the frame of an earlier sweep is another one.
    cfg.data.test.pipeline = [step for step in cfg.data.test.pipeline if 'Sweeps' not in step.type]
    return cfg


def link_set(source, folder):
    """The set's folders and files as links, as `cp -rs` makes them."""
    for part in ('samples', 'sweeps', 'maps', 'v1.0-mini'):
        for path in (source / part).rglob('*'):
            if path.is_file():
                target = folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(path, target)


def replace(path, data):
    path.unlink()  # a link: the set itself stays as it is
    path.write_bytes(data)


@pytest.fixture(scope='module')
def offline(config, synthetic_nuscenes, tmp_path_factory):
    """Config of a copy in which every validation sample was corrupted, its images without loss under their old names.
    """
    folder = tmp_path_factory.mktemp('brightness')
    link_set(synthetic_nuscenes, folder)
    (case, dataset), = case_datasets(config, [CASE])
    for index, info in enumerate(dataset.data_infos):
        sample = struck_sample(dataset, index)
        own = folder / os.path.relpath(info['lidar_path'], synthetic_nuscenes)
        replace(own, sample['points'].tensor.numpy().astype(np.float32).tobytes())
        for camera, image in zip(info['cams'].values(), sample['img']):
            replace(folder / os.path.relpath(camera['data_path'], synthetic_nuscenes),
                    cv2.imencode('.png', image)[1].tobytes())
    create_nuscenes_infos(folder, 'v1.0-mini', folder)
    cfg = copy.deepcopy(config)
    cfg.data.test.update(data_root=f'{folder}/', ann_file=str(folder / 'nuscenes_infos_val.pkl'))
    yield cfg
    shutil.rmtree(folder)


def test_the_network_gets_the_same(config, offline):
    """Points, images and calibrations of every sample, and none is a clean one."""
    online = build_dataset(with_failure(config, CASE).data.test)
    clean, offline = (build_dataset(cfg.data.test) for cfg in (config, offline))
    assert len(online) == len(offline) == 4
    for expected, found, untouched in zip(online, offline, clean):
        for name in ('points', 'img'):
            assert torch.equal(found[name][0].data, expected[name][0].data)
            assert not torch.equal(found[name][0].data, untouched[name][0].data)
        metas = [each['img_metas'][0].data for each in (expected, found)]
        np.testing.assert_allclose(*(meta['lidar2img'] for meta in metas), atol=1e-9)
        assert metas[0]['sample_idx'] == metas[1]['sample_idx']


def test_info_files_of_the_original_are_refused(config, offline):
    """They name clean files: the copy needs info files of its own, else the test of the corrupted ones would be clean.
    """
    offline = copy.deepcopy(offline)
    assert offline.data.test.data_root != config.data.test.data_root
    offline.data.test.ann_file = config.data.test.ann_file
    with pytest.raises(ValueError, match=f'info file .* has another such file, {offline.data.test.data_root}samples/'):
        build_dataset(offline.data.test)
