"""Fixtures made from the real frame: the frame as a nuScenes info file, and a small ground-truth database."""
import ast
import pickle

import mmcv
import numpy as np
import pytest
from mmdet3d.core.bbox import box_np_ops

from projects.mmdet3d_plugin.datasets import FrameFolderDataset
from projects.mmdet3d_plugin.datasets.camera_geometry import project

CLASSES = ('car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian',
           'traffic_cone')


@pytest.fixture
def frame_dataset(real_frame):
    """The real frame in training mode, without a pipeline."""
    return FrameFolderDataset(str(real_frame), classes=CLASSES)


@pytest.fixture
def sample(frame_dataset):
    """Results dict of the real frame as it enters a pipeline."""
    results = frame_dataset.get_data_info(0)
    frame_dataset.pre_pipeline(results)
    return results


@pytest.fixture
def published_config(upstream):
    """The published 800x320 ResNet-50 config as a new dict."""
    return ast.literal_eval((upstream / 'cmt_voxel0100_r50_800x320_cbgs.config.txt').read_text())


@pytest.fixture
def nuscenes_infos(frame_dataset, real_frame):
    """The real frame three times as records of a nuScenes info file (mmdet3d 1.0 format)."""
    frame, data_info = frame_dataset.data_infos[0], frame_dataset.get_data_info(0)
    annotations = data_info['ann_info']
    boxes = annotations['gt_bboxes_3d']
    cameras = {}
    for name, path, seconds, lidar2cam, intrinsic in zip(
            frame['images'], data_info['img_filename'], data_info['img_timestamp'], data_info['lidar2cam'],
            data_info['cam_intrinsic']):
        cam2lidar = np.linalg.inv(lidar2cam)
        cameras[name] = dict(
            data_path=path, timestamp=seconds * 1e6, cam_intrinsic=intrinsic[:3, :3],
            sensor2lidar_rotation=cam2lidar[:3, :3], sensor2lidar_translation=cam2lidar[:3, 3])
    velocity = np.array([[np.nan, np.nan] if i % 5 == 0 else [1., 2.] for i in range(len(boxes))])
    info = dict(
        token=frame['token'],
        lidar_path=data_info['pts_filename'],
        sweeps=[dict(data_path=data_info['pts_filename'], timestamp=(frame['timestamp'] - 0.05) * 1e6,
                     sensor2lidar_rotation=np.eye(3), sensor2lidar_translation=np.array([0.3, 0., 0.]))],
        timestamp=frame['timestamp'] * 1e6,
        cams=cameras,
        lidar2ego_rotation=_quaternion(frame['lidar_points']['lidar2ego']),
        lidar2ego_translation=np.array(frame['lidar_points']['lidar2ego'])[:3, 3],
        ego2global_rotation=_quaternion(frame['ego2global']),
        ego2global_translation=np.array(frame['ego2global'])[:3, 3],
        gt_boxes=np.concatenate([boxes.gravity_center, boxes.dims, boxes.yaw[:, None]], axis=1).astype(np.float32),
        gt_names=annotations['gt_names'],
        gt_velocity=velocity,
        num_lidar_pts=annotations['num_lidar_pts'],
        valid_flag=annotations['num_lidar_pts'] > 0)
    return [dict(info, token=f'{info["token"]}{i}', timestamp=info['timestamp'] + i) for i in range(3)]


def _quaternion(matrix):
    from pyquaternion import Quaternion
    return Quaternion(matrix=np.array(matrix)[:3, :3], rtol=1e-4, atol=1e-4).elements


@pytest.fixture
def write_nuscenes_infos(tmp_path, nuscenes_infos):
    """Function that writes info records (default: ``nuscenes_infos``) and returns the file's path."""

    def write(infos=None):
        path = tmp_path / 'nuscenes_infos.pkl'
        path.write_bytes(pickle.dumps(dict(infos=nuscenes_infos if infos is None else infos,
                                           metadata=dict(version='v1.0-mini'))))
        return str(path)

    return write


@pytest.fixture
def object_database(tmp_path, sample):
    """A ground-truth database of the real frame in upstream's on-disk form; returns the path of its info file.

    Each object keeps its points relative to the bottom center of its box, and the crop of one camera that sees all of
    it, or '' where none does.
    """
    root = tmp_path / 'database'
    (root / 'pts_dir').mkdir(parents=True)
    (root / 'img_dir').mkdir()
    points = np.fromfile(sample['pts_filename'], np.float32).reshape(-1, 5)
    images = [mmcv.imread(path) for path in sample['img_filename']]
    annotations = sample['ann_info']
    boxes = annotations['gt_bboxes_3d'].tensor.numpy()
    inside = box_np_ops.points_in_rbbox(points, boxes)  # (N, G)
    records = {}
    for i, (box, name) in enumerate(zip(boxes, annotations['gt_names'])):
        own = points[inside[:, i]].copy()
        own[:, :3] -= box[:3]
        own[:, 4] = 0
        own.tofile(root / f'pts_dir/{i}.bin')
        crop = _whole_crop(annotations['gt_bboxes_3d'].corners[i].numpy(), sample['lidar2img'], images)
        if crop is not None:
            mmcv.imwrite(crop, str(root / f'img_dir/{i}.png'))
        records.setdefault(str(name), []).append(
            dict(name=str(name), path=f'database/pts_dir/{i}.bin', image_idx='real',
                 image_path='' if crop is None else f'database/img_dir/{i}.png', gt_idx=i, box3d_lidar=box,
                 num_points_in_gt=len(own), difficulty=0, group_id=i))
    path = tmp_path / 'dbinfos.pkl'
    path.write_bytes(pickle.dumps(records))
    return str(path)


def _whole_crop(corners, lidar2img, images):
    for matrix, img in zip(lidar2img, images):
        pixels, depth = project(corners, matrix)
        if (depth > 0).all() and (pixels > 0).all() and (pixels < img.shape[1::-1]).all():
            (left, top), (right, bottom) = pixels.min(0).astype(int), pixels.max(0).astype(int)
            if min(right - left, bottom - top) > 10:
                return img[top:bottom, left:right]
    return None


@pytest.fixture
def sampler_cfg(object_database, tmp_path):
    """Config of a UnifiedDataBaseSampler over ``object_database`` that samples all classes."""
    return dict(
        type='UnifiedDataBaseSampler',
        data_root=str(tmp_path),
        info_path=object_database,
        rate=1.0,
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict(car=5, pedestrian=5)),
        sample_groups=dict(car=20, pedestrian=40),
        classes=CLASSES,
        points_loader=dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=[0, 1, 2, 3, 4]))
