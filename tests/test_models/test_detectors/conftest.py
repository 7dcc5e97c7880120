"""A small detector with both branches, and batches of random points and images for it."""
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv import Config, ConfigDict
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.models import build_model

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
IMAGE_SIZE = (64, 96)
FOCAL = 40.0
AUXILIARY_HEADS = dict(
    bev=dict(type='BEVAuxiliaryHead', in_channels=128, num_classes=10, pc_range=[-54.0, -54, -5, 54, 54, 3],
             cell_size=[2.25, 2.25]),
    camera=dict(type='CameraAuxiliaryHead', in_channels=128, num_classes=10))


def small_config(**head):
    """The small model of the repository, smaller still, with baseline head unless ``head`` says otherwise."""
    cfg = Config.fromfile(str(CONFIGS / '_base_/models/cmt_small.py'))
    cfg.merge_from_dict({
        'model.pts_bbox_head.num_query': 12, 'model.pts_bbox_head.transformer.decoder.num_layers': 2,
        'model.img_backbone.base_channels': 8, 'model.img_neck.in_channels': [32, 64],
        **{f'model.pts_bbox_head.{name}': value for name, value in head.items()}})
    return cfg.model


@pytest.fixture
def make_detector():
    """Factory: ``make_detector(seed=0, model={}, **head options)``."""

    def make(seed=0, model=None, **head):
        torch.manual_seed(seed)
        detector = build_model(ConfigDict(copy.deepcopy(dict(small_config(**head), **(model or {})))))
        detector.init_weights()
        return detector

    return make


def camera_matrices(batch_index):
    """Six views of 62 degrees, turned by a little more in each sample."""
    height, width = IMAGE_SIZE
    intrinsic = np.array([[FOCAL * 2, 0, width / 2, 0], [0, FOCAL * 2, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    matrices = []
    for yaw in 0.1 * batch_index + np.arange(6) * np.pi / 3:
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
        matrices.append(intrinsic @ extrinsic)
    return matrices


@pytest.fixture
def make_data():
    """Factory: ``make_data(num_points=(300, 200), num_boxes=(3, 2))`` gives arguments of ``forward_train``."""

    def make(num_points=(300, 200), num_boxes=(3, 2), seed=0):
        generator = torch.Generator().manual_seed(seed)
        low, high = torch.tensor([-54.0, -54, -5, 0, 0]), torch.tensor([54.0, 54, 3, 255, 0.5])
        points = [low + (high - low) * torch.rand(count, 5, generator=generator) for count in num_points]
        img = torch.randn(len(points), 6, 3, *IMAGE_SIZE, generator=generator)
        boxes, labels = [], []
        for count in num_boxes:
            values = torch.cat([torch.rand(count, 2, generator=generator) * 80 - 40,
                                torch.rand(count, 1, generator=generator) - 2,
                                torch.rand(count, 6, generator=generator) + 0.5], dim=1)
            boxes.append(LiDARInstance3DBoxes(values, box_dim=9))
            labels.append(torch.randint(10, (count, ), generator=generator))
        metas = [dict(lidar2img=camera_matrices(index), pad_shape=[(*IMAGE_SIZE, 3)] * 6,
                      box_type_3d=LiDARInstance3DBoxes, img_norm_cfg=dict(
                          mean=np.float32([103.53, 116.28, 123.675]), std=np.float32([57.375, 57.12, 58.395]),
                          to_rgb=False)) for index in range(len(points))]
        return dict(points=points, img=img, img_metas=metas, gt_bboxes_3d=boxes, gt_labels_3d=labels)

    return make
