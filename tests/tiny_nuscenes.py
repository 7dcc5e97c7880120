"""Two nuScenes samples with one object of each class, and a detector that remembers boxes, to test the tools."""
import json
import os
import pickle
import signal
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.datasets import DATASETS
from mmdet.models.builder import DETECTORS
from mmdet.models.detectors import BaseDetector
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from torch import nn

from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset

CLASSES = ('car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian',
           'traffic_cone')
# x, y, z (gravity center), length, width, height, yaw, vx, vy: a ring within the smallest evaluation range, 30 m.
BOXES = np.array([[20 * np.cos(angle), 20 * np.sin(angle), 0.0, 2.0, 1.0, 1.5, 0.3, 0.0, 0.0]
                  for angle in np.linspace(0, 2 * np.pi, len(CLASSES), endpoint=False)])
SCENES = ('scene-0103', 'scene-0916')  # the devkit's mini_val
CAMERAS = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT')

CONFIG = """
custom_imports = dict(imports=['tests.tiny_nuscenes'], allow_failed_imports=False)
plugin = True
plugin_dir = 'projects/mmdet3d_plugin/'
class_names = {classes}
loaders = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
    dict(type='LoadMultiViewImageFromFiles')]
keys = ['points', 'img']
test_pipeline = loaders + [
    dict(type='MultiScaleFlipAug3D', img_scale=(1, 1), pts_scale_ratio=1, flip=False, transforms=[
        dict(type='DefaultFormatBundle3D', class_names=class_names, with_label=False),
        dict(type='Collect3D', keys=keys)])]
train_pipeline = loaders + [
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='DefaultFormatBundle3D', class_names=class_names),
    dict(type='Collect3D', keys=keys + ['gt_bboxes_3d', 'gt_labels_3d'])]
train = dict(
    type='TinyNuScenes', data_root='data/', ann_file='data/nuscenes_infos_val.pkl', classes=class_names,
    modality=dict(use_camera=True, use_lidar=True, use_radar=False, use_map=False, use_external=False),
    pipeline=train_pipeline)
test = dict(train, pipeline=test_pipeline, test_mode=True)
data = dict(samples_per_gpu=1, workers_per_gpu=0, train=train, val=test, test=test,
    val_dataloader=dict(workers_per_gpu=0), test_dataloader=dict(workers_per_gpu=0))
model = dict(type='BoxMemory', pts_bbox_head=dict(enable_aqr=False))
optimizer = dict(type='SGD', lr=0.0)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='fixed')
runner = dict(type='EpochBasedRunner', max_epochs=2)
checkpoint_config = dict(interval=1)
evaluation = dict(interval=2)
log_config = dict(interval=1, hooks=[dict(type='TextLoggerHook')])
workflow = [('train', 1)]
"""


def write_tiny_nuscenes(folder):
    """Write `tiny_nuscenes.py` (config), `tiny_nuscenes_aqr.py`, `baseline.pth` (perfect boxes) and `data/`."""
    folder = Path(folder)
    (folder / 'tiny_nuscenes.py').write_text(CONFIG.format(classes=CLASSES))
    (folder / 'tiny_nuscenes_aqr.py').write_text(
        "_base_ = './tiny_nuscenes.py'\nmodel = dict(pts_bbox_head=dict(enable_aqr=True))\n")
    model = BoxMemory()
    model.boxes.data[:] = torch.as_tensor(BOXES)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(CLASSES=CLASSES)), folder / 'baseline.pth')

    data = folder / 'data'
    data.mkdir()
    points = np.random.RandomState(0).uniform(-30, 30, (50, 5)).astype(np.float32)
    points[:, 4] = np.arange(50) % 32  # the ring
    points.tofile(data / 'points.bin')
    cv2.imwrite(str(data / 'image.png'), np.full((16, 32, 3), 100, np.uint8))
    camera = dict(data_path=str(data / 'image.png'), timestamp=0, cam_intrinsic=np.eye(3),
                  sensor2lidar_rotation=np.eye(3), sensor2lidar_translation=np.zeros(3))
    unmoved = dict(lidar2ego_rotation=[1., 0, 0, 0], lidar2ego_translation=np.zeros(3),
                   ego2global_rotation=[1., 0, 0, 0], ego2global_translation=np.zeros(3))
    infos = [dict(
        token=f'sample {scene}', lidar_path=str(data / 'points.bin'), sweeps=[], timestamp=number,
        cams=dict.fromkeys(CAMERAS, camera), gt_boxes=BOXES[:, :7], gt_names=np.array(CLASSES),
        gt_velocity=BOXES[:, 7:], num_lidar_pts=np.full(len(BOXES), 5), valid_flag=np.ones(len(BOXES), bool),
        **unmoved) for number, scene in enumerate(SCENES)]
    (data / 'nuscenes_infos_val.pkl').write_bytes(pickle.dumps(dict(infos=infos, metadata=dict(version='v1.0-mini'))))
    write_tables(data, infos)


def write_tables(root, infos):
    """The tables that the devkit evaluates against, all sensors at the origin of the world."""
    full_names = {short: full for full, short in CustomNuScenesDataset.NameMapping.items()}
    tables = {
        'category': [dict(token=full, name=full, description='') for full in full_names.values()],
        'attribute': [dict(token=name, name=name) for name in CustomNuScenesDataset.AttrMapping],
        'visibility': [],
        'sensor': [dict(token='lidar', channel='LIDAR_TOP', modality='lidar')],
        'calibrated_sensor': [dict(token='lidar', sensor_token='lidar', translation=[0, 0, 0], rotation=[1, 0, 0, 0],
                                   camera_intrinsic=[])],
        'ego_pose': [dict(token='origin', translation=[0, 0, 0], rotation=[1, 0, 0, 0], timestamp=0)],
        'log': [dict(token='log', logfile='', vehicle='', date_captured='', location='singapore-onenorth')],
        'map': [dict(token='map', category='semantic_prior', filename='maps/map.png', log_tokens=['log'])],
        'scene': [], 'sample': [], 'sample_data': [], 'instance': [], 'sample_annotation': []}
    for info, scene in zip(infos, SCENES):
        token = info['token']
        tables['scene'].append(dict(token=scene, log_token='log', nbr_samples=1, first_sample_token=token,
                                    last_sample_token=token, name=scene, description=''))
        tables['sample'].append(dict(token=token, timestamp=0, prev='', next='', scene_token=scene))
        tables['sample_data'].append(dict(
            token=token, sample_token=token, ego_pose_token='origin', calibrated_sensor_token='lidar', timestamp=0,
            fileformat='bin', is_key_frame=True, height=0, width=0, filename='', prev='', next=''))
        for box, name in zip(BOXES.tolist(), CLASSES):
            own = f'{token} {name}'
            attribute = CustomNuScenesDataset.DefaultAttribute[name]
            tables['instance'].append(dict(token=own, category_token=full_names[name], nbr_annotations=1,
                                           first_annotation_token=own, last_annotation_token=own))
            tables['sample_annotation'].append(dict(
                token=own, sample_token=token, instance_token=own, visibility_token='', prev='', next='',
                attribute_tokens=[attribute] if attribute else [], translation=box[:3],
                size=[box[4], box[3], box[5]], rotation=[np.cos(box[6] / 2), 0, 0, np.sin(box[6] / 2)],
                num_lidar_pts=5, num_radar_pts=0))
    for name in ('v1.0-mini', 'maps'):
        (root / name).mkdir()
    cv2.imwrite(str(root / 'maps/map.png'), np.zeros((4, 4), np.uint8))
    for name, rows in tables.items():
        (root / 'v1.0-mini' / f'{name}.json').write_text(json.dumps(rows))


@DATASETS.register_module()
class TinyNuScenes(CustomNuScenesDataset):
    """The real dataset. A file `kill` in the current folder says how many samples are read until SIGKILL."""

    def __getitem__(self, index):
        kill = Path('kill')
        if kill.exists():
            left = int(kill.read_text()) - 1
            if left == 0:
                kill.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            kill.write_text(str(left))
        return super().__getitem__(index)


@DETECTORS.register_module()
class BoxMemory(BaseDetector):
    """Detects one box per class where its weights say, off by a distance that tells what it was given.

    Without images 1.5 m, without points 0.75 m; with AQR by 0.2 m times the bias strength, in local mode by half that.
    """

    def __init__(self, pts_bbox_head=None, train_cfg=None, test_cfg=None):
        super().__init__()
        head = {**dict(enable_aqr=False, aqr_bias_strength=0.0, aqr_use_local_bias=False), **(pts_bbox_head or {})}
        self.boxes = nn.Parameter(torch.zeros(BOXES.shape))
        self.bias_offset = 0.0
        self.pts_bbox_head = nn.ModuleDict()
        if head['enable_aqr']:
            self.pts_bbox_head['aqr_router'] = nn.Linear(1, 1)
            self.bias_offset = head['aqr_bias_strength'] * (0.1 if head['aqr_use_local_bias'] else 0.2)

    def extract_feat(self, imgs):
        raise NotImplementedError

    def aug_test(self, imgs, img_metas, **kwargs):
        raise NotImplementedError

    def forward(self, return_loss=True, rescale=False, **kwargs):
        return self.forward_train(**kwargs) if return_loss else self.simple_test(**kwargs)

    def forward_train(self, points, img, img_metas, gt_bboxes_3d, gt_labels_3d):
        errors = [(self.boxes[labels, :3] - boxes.gravity_center).abs().mean()
                  for boxes, labels in zip(gt_bboxes_3d, gt_labels_3d)]
        return dict(loss_bbox=sum(errors))

    def simple_test(self, points, img, img_metas):
        (points, ), (img, ) = points, img  # one test-time augmentation
        results = []
        for cloud, views in zip(points, img):
            boxes = self.boxes.detach().clone()
            boxes[:, 0] += self.bias_offset + 1.5 * (not views.any()) + 0.75 * (not cloud.any())
            results.append(dict(pts_bbox=dict(
                boxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9, origin=(0.5, 0.5, 0.5)),
                scores_3d=torch.ones(len(boxes)), labels_3d=torch.arange(len(boxes)))))
        return results
