"""A small CMT head and matching random inputs, for the tests of the model's parts."""
import copy

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmcv.parallel import DataContainer
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.models.builder import build_head

PC_RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
CLASSES = ['car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian',
           'traffic_cone']
VOXEL = [0.84375, 0.84375, 0.2]  # times 8: a 16 x 16 BEV map over the range
IMAGE_SIZE, VIEW_SHAPE, BEV_SHAPE = (64, 160), (6, 4, 10), (16, 16)


def head_config(**overrides):
    attention = dict(embed_dims=64, num_heads=4, dropout=0.0)
    layer = dict(
        type='PETRTransformerDecoderLayer', with_cp=False, feedforward_channels=96,
        attn_cfgs=[dict(type='MultiheadAttention', **attention), dict(type='PETRMultiheadFlashAttention', **attention)],
        ffn_cfgs=dict(type='FFN', embed_dims=64, feedforward_channels=96, num_fcs=2, ffn_drop=0.0,
                      act_cfg=dict(type='ReLU', inplace=True)),
        operation_order=('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'))
    geometry = dict(voxel_size=VOXEL, grid_size=[128, 128, 40], out_size_factor=8)
    assigner = dict(type='HungarianAssigner3D', cls_cost=dict(type='FocalLossCost', weight=2.0),
                    reg_cost=dict(type='BBox3DL1Cost', weight=0.25), iou_cost=dict(type='IoUCost', weight=0.0),
                    pc_range=PC_RANGE)
    cfg = dict(
        type='CmtHead', in_channels=24, hidden_dim=64, num_query=20, depth_num=8, scalar=3,
        tasks=[dict(num_class=10, class_names=CLASSES)],
        bbox_coder=dict(type='MultiTaskBBoxCoder', pc_range=PC_RANGE, num_classes=10, max_num=15,
                        post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0]),
        separate_head=dict(type='SeparateTaskHead', init_bias=-2.19, final_kernel=1),
        transformer=dict(type='CmtTransformer', decoder=dict(
            type='PETRTransformerDecoder', return_intermediate=True, num_layers=2, transformerlayers=layer)),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type='L1Loss', loss_weight=0.25),
        train_cfg=dict(assigner=assigner, code_weights=[2.0, 2.0] + [1.0] * 6 + [0.2, 0.2], **geometry),
        test_cfg=dict(geometry))
    cfg.update(copy.deepcopy(overrides))
    return ConfigDict(cfg)


def randomize(router, std=1.0, seed=0):
    """Weights off 0.5, as after training."""
    torch.manual_seed(seed)
    torch.nn.init.normal_(router.mlp[-1].weight, std=std)


@pytest.fixture
def make_head():
    """Factory: ``make_head(seed=0, **overrides)`` builds an initialized head."""

    def make(seed=0, **overrides):
        torch.manual_seed(seed)
        head = build_head(head_config(**overrides))
        head.init_weights()
        return head

    return make


def camera_ring(yaw_offset=0.0, image_size=IMAGE_SIZE, views=6):
    """Six cameras around the origin, 70 degrees wide: neighbors overlap, some directions near the sky are unseen."""
    height, width = image_size
    focal = width / 2 / np.tan(np.radians(35))
    intrinsic = np.array([[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    matrices = []
    for yaw in yaw_offset + np.arange(views) * 2 * np.pi / views:
        forward, left = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = [-left, [0, 0, -1], forward]
        matrices.append(intrinsic @ extrinsic)
    return matrices


def random_boxes(count, seed):
    """Boxes with bottom center in the range; every third velocity is unknown."""
    rng = np.random.RandomState(seed)
    boxes = np.concatenate([rng.uniform(-50, 50, (count, 2)), rng.uniform(-3, 1, (count, 1)),
                            rng.uniform(0.4, 6, (count, 3)), rng.uniform(-3, 3, (count, 1)),
                            rng.uniform(-5, 5, (count, 2))], axis=1).astype(np.float32)
    boxes[::3, 7:] = np.nan
    return LiDARInstance3DBoxes(torch.from_numpy(boxes), box_dim=9), torch.from_numpy(rng.randint(0, 10, count))


@pytest.fixture
def make_batch():
    """Factory of ``(x, x_img, img_metas)``; sample i has its own calibration and ``num_boxes[i]`` boxes."""

    def make(num_boxes=(5, 3), seed=0):
        generator = torch.Generator().manual_seed(seed)
        batch = len(num_boxes)
        x = torch.randn(batch, 24, *BEV_SHAPE, generator=generator)
        x_img = torch.randn(batch * VIEW_SHAPE[0], 64, *VIEW_SHAPE[1:], generator=generator)
        metas = []
        for sample, count in enumerate(num_boxes):
            boxes, labels = random_boxes(count, seed * 10 + sample)
            metas.append(dict(lidar2img=camera_ring(0.3 * sample), pad_shape=[(*IMAGE_SIZE, 3)] * 6,
                              box_type_3d=LiDARInstance3DBoxes, gt_bboxes_3d=DataContainer(boxes, cpu_only=True),
                              gt_labels_3d=DataContainer(labels)))
        return x, x_img, metas

    return make


@pytest.fixture
def train_losses():
    """Function ``(head, batch) -> losses`` of one training pass."""

    def run(head, batch):
        x, x_img, metas = batch
        outs = head([x], [x_img], metas)
        return head.loss([meta['gt_bboxes_3d'].data for meta in metas], [meta['gt_labels_3d'].data for meta in metas],
                         outs)

    return run
