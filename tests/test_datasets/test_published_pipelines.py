"""The pipelines of the published 800x320 config, unchanged, on the real frame."""
import copy

import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.datasets import build_dataset

from projects.mmdet3d_plugin.datasets.camera_geometry import project


@pytest.fixture
def published_data(published_config, sampler_cfg, write_nuscenes_infos):
    """The config's ``data`` with its files replaced by those of the tests."""
    data = published_config['data']
    data['train']['dataset']['ann_file'] = data['test']['ann_file'] = write_nuscenes_infos()
    sampler = next(t for t in data['train']['dataset']['pipeline'] if t['type'] == 'UnifiedObjectSample')['db_sampler']
    sampler.update(info_path=sampler_cfg['info_path'], data_root=sampler_cfg['data_root'])
    return data


@pytest.fixture(params=['CustomNuScenesDataset', 'FrameFolderDataset'])
def train_set(request, published_data, real_frame):
    cfg = published_data['train']['dataset']
    if request.param == 'FrameFolderDataset':
        cfg = dict(type=request.param, data_root=str(real_frame), pipeline=cfg['pipeline'], classes=cfg['classes'],
                   modality=cfg['modality'])
    np.random.seed(0)
    return build_dataset(cfg)


def frozen(infos):
    with np.printoptions(threshold=np.inf):
        return repr(infos)


def test_train_pipeline(train_set):
    before = frozen(train_set.data_infos)
    modalities = set()
    for seed in range(8):
        np.random.seed(seed)
        sample = train_set[0]
        img, points, boxes = sample['img'].data, sample['points'].data, sample['gt_bboxes_3d'].data
        labels, meta = sample['gt_labels_3d'].data, sample['img_metas'].data
        assert set(sample) == {'img', 'points', 'gt_bboxes_3d', 'gt_labels_3d', 'img_metas'}
        assert img.shape == (6, 3, 320, 800) and img.dtype == torch.float32
        assert points.dtype == torch.float32 and points.shape[1] == 5
        assert (points[:, :3] > torch.tensor([-54., -54, -5])).all()
        assert (points[:, :3] < torch.tensor([54., 54, 3])).all()
        assert isinstance(boxes, LiDARInstance3DBoxes) and boxes.tensor.shape == (len(labels), 9) and len(labels) > 10
        assert labels.dtype == torch.int64 and 0 <= labels.min() and labels.max() < 10
        assert torch.isfinite(boxes.tensor).all() and (boxes.bottom_center[:, :2].abs() < 54).all()
        assert [tuple(shape) for shape in meta['pad_shape']] == [(320, 800, 3)] * 6
        assert len(meta['lidar2img']) == 6 and {m.dtype for m in meta['lidar2img']} == {np.dtype(np.float64)}
        assert meta['gt_bboxes_3d'].data is boxes and meta['gt_labels_3d'].data is labels
        modalities.add((bool((img.std(dim=(2, 3)) == 0).all()), len(torch.unique(points[:, :3], dim=0)) == 1))
    assert modalities == {(False, False), (True, False), (False, True)}  # ModalMask3D: none, images, points
    assert frozen(train_set.data_infos) == before


def test_train_pipeline_repeats_with_the_seed(published_data):
    samples = []
    for _ in range(2):
        np.random.seed(3)
        torch.manual_seed(3)  # PointShuffle
        samples.append(build_dataset(published_data['train']['dataset'])[1])
    first, second = samples
    torch.testing.assert_close(first['img'].data, second['img'].data, rtol=0, atol=0)
    torch.testing.assert_close(first['points'].data, second['points'].data, rtol=0, atol=0)
    torch.testing.assert_close(first['gt_bboxes_3d'].data.tensor, second['gt_bboxes_3d'].data.tensor, rtol=0, atol=0)
    np.testing.assert_array_equal(first['img_metas'].data['lidar2img'], second['img_metas'].data['lidar2img'])


def test_every_augmentation_keeps_points_on_their_pixels(published_data, frame_dataset):
    """The whole chain: box centers found in the original images and in the augmented ones match by the image matrix."""
    pipeline = [t for t in published_data['train']['dataset']['pipeline']
                if t['type'] not in ('UnifiedObjectSample', 'ModalMask3D', 'ObjectRangeFilter', 'ObjectNameFilter')]
    np.random.seed(11)
    dataset = build_dataset(dict(published_data['train']['dataset'], pipeline=pipeline))
    data_info = dataset.get_data_info(0)
    centers = data_info['ann_info']['gt_bboxes_3d'].gravity_center.numpy().astype(np.float64)
    sample = dataset[0]
    meta = sample['img_metas'].data
    moved = meta['gt_bboxes_3d'].data.gravity_center.numpy()
    assert len(moved) == len(centers) and np.abs(moved - centers).max() > 1
    views = 0
    for original, augmented in zip(data_info['lidar2img'], meta['lidar2img']):
        pixels, depth = project(centers, original)
        new_pixels, new_depth = project(moved, augmented)
        front = depth > 2
        if front.sum() < 3:
            continue
        views += 1
        np.testing.assert_allclose(new_depth[front], depth[front], rtol=1e-4)
        # resize, crop and flip alone: one scale and shift per axis, the same for all points of a view
        for axis in range(2):
            old, new = pixels[front, axis], new_pixels[front, axis]
            line = np.polyfit(old, new, 1)
            np.testing.assert_allclose(np.polyval(line, old), new, atol=0.05, rtol=1e-4)
            assert 0.46 < abs(line[0]) < 0.63
    assert views >= 4


@pytest.mark.parametrize('kind', ['CustomNuScenesDataset', 'FrameFolderDataset'])
def test_test_pipeline(published_data, real_frame, kind):
    cfg = published_data['test']
    if kind == 'FrameFolderDataset':
        cfg = dict(type=kind, data_root=str(real_frame), pipeline=cfg['pipeline'], classes=cfg['classes'],
                   test_mode=True)
    dataset = build_dataset(cfg)
    before = frozen(dataset.data_infos)
    sample, again = dataset[0], dataset[0]
    assert set(sample) == {'img', 'points', 'img_metas'} and len(sample['img']) == 1
    img, points, meta = (sample[key][0].data for key in ('img', 'points', 'img_metas'))
    assert img.shape == (6, 3, 320, 800)
    assert points.shape == (34688 * (2 if kind == 'CustomNuScenesDataset' else 1), 5)  # with its one sweep
    torch.testing.assert_close(img, again['img'][0].data, rtol=0, atol=0)
    torch.testing.assert_close(points, again['points'][0].data, rtol=0, atol=0)
    assert frozen(dataset.data_infos) == before
    # half size, upper 130 rows cut off
    data_info = dataset.get_data_info(0)
    point = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:500], :3].numpy()
    for original, new in zip(data_info['lidar2img'], meta['lidar2img']):
        pixels, depth = project(point, original)
        front = depth > 0
        np.testing.assert_allclose(project(point, new)[0][front], pixels[front] / 2 - [0, 130], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize('paste', [True, False])
def test_a_sample_without_points_and_boxes(published_data, nuscenes_infos, write_nuscenes_infos, tmp_path, paste):
    (tmp_path / 'empty.bin').touch()
    info = dict(nuscenes_infos[0], lidar_path=str(tmp_path / 'empty.bin'), sweeps=[])
    for key in ('gt_boxes', 'gt_names', 'gt_velocity', 'num_lidar_pts', 'valid_flag'):
        info[key] = info[key][:0]
    cfg = dict(published_data['train']['dataset'], ann_file=write_nuscenes_infos([info]), filter_empty_gt=False)
    if not paste:
        cfg['pipeline'] = [t for t in cfg['pipeline'] if t['type'] != 'UnifiedObjectSample']
    np.random.seed(0)
    sample = build_dataset(cfg)[0]
    assert sample['img'].data.shape == (6, 3, 320, 800) and sample['points'].data.shape[1] == 5
    assert (len(sample['points'].data) > 0) == (len(sample['gt_labels_3d'].data) > 0) == paste
    assert sample['gt_bboxes_3d'].data.tensor.shape == (len(sample['gt_labels_3d'].data), 9)
    assert sample['gt_labels_3d'].data.dtype == torch.int64
    cfg = dict(published_data['test'], ann_file=write_nuscenes_infos([info]))
    assert build_dataset(cfg)[0]['points'][0].data.shape == (0, 5)


def test_config_is_not_written_to(published_data):
    before = copy.deepcopy(published_data)
    build_dataset(published_data['train']['dataset'])[0]
    assert published_data == before
