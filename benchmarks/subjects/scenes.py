"""What several subjects run on: cameras, features and training data of a sample, and the published models."""
from pathlib import Path

import numpy as np
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.models import build_head, build_model

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.models.utils.evaluating import evaluating
from projects.mmdet3d_plugin.models.utils.token_layout import TokenLayout

HEADS, DIMS = 8, 32  # of the published cross-attention
AQR = {'no AQR': dict(enable_aqr=False), 'AQR global': dict(enable_aqr=True),
       'AQR local': dict(enable_aqr=True, aqr_use_local_bias=True, aqr_local_window_size=dict(lidar=15, camera=15))}
CONFERRING = dict(enable_aqr=True, aqr_router=dict(type='ConferringRouter'), aqr_stand_ins=True,
                  aqr_weight_map='log_gate', aqr_bias_strength=1.5)
# A router that judges by looks, and how many of the queries it lets lean on LiDAR's stand-ins.
LOOKS = {'looks, none suspected': 0.0, 'looks, half lean on stand-ins': 0.5}
_CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def run_without_grad(candidate):
    """A pass: the candidate alone, nothing kept for gradients."""
    with torch.no_grad():
        candidate()


def layout_of(scale):
    """TokenLayout of a Scale."""
    return TokenLayout(scale.bev_shape, scale.view_shape)


def image_size(scale):
    """(height, width) of the images in pixels."""
    return scale.view_shape[1] * 16, scale.view_shape[2] * 16


def camera_ring(size):
    """list[ndarray]: lidar2img (4, 4) of six cameras of 70 degrees, as on nuScenes: neighbors overlap a little.

    Args:
        size (tuple[int, int]): (height, width) of the images in pixels.
    """
    height, width = size
    focal = width / 2 / np.tan(np.radians(35))
    intrinsic = np.array([[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    matrices = []
    for yaw in np.arange(6) * np.pi / 3:
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
        matrices.append(intrinsic @ extrinsic)
    return matrices


def metas(scale, batch):
    """list[dict]: ``img_metas`` of a batch of camera rings."""
    size = image_size(scale)
    norm = dict(mean=np.float32([103.53, 116.28, 123.675]), std=np.float32([57.375, 57.12, 58.395]), to_rgb=False)
    return [dict(lidar2img=camera_ring(size), pad_shape=[(*size, 3)] * 6, img_norm_cfg=norm,
                 box_type_3d=LiDARInstance3DBoxes) for _ in range(batch)]


def features(settings, bev_channels, camera_channels, generator):
    """Random features: of the BEV map (B, bev_channels, H, W) and of the cameras (B * V, camera_channels, h, w)."""
    scale, batch = settings.scale, settings.batch
    views, *view_shape = scale.view_shape
    return (torch.randn(batch, bev_channels, *scale.bev_shape, generator=generator),
            torch.randn(batch * views, camera_channels, *view_shape, generator=generator))


def attention_inputs(settings, generator):
    """Random query (B, heads, Q, dims), key and value (B, heads, F, dims), laid out as projections leave them."""
    tokens = layout_of(settings.scale).num_tokens
    return [torch.randn(settings.batch, count, HEADS, DIMS, generator=generator).transpose(1, 2)
            for count in (settings.queries, tokens, tokens)]


def training_data(scale, batch):
    """Arguments of a detector's ``train_step``: per sample random points, six images and 40 boxes."""
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor([-54.0, -54, -5, 0, 0]), torch.tensor([54.0, 54, 3, 255, 0.5])  # m; intensity; seconds
    boxes = torch.cat([torch.rand(40, 2, generator=generator) * 90 - 45, torch.rand(40, 1, generator=generator) - 2,
                       torch.rand(40, 6, generator=generator) + 0.5], dim=1)
    return dict(points=[low + (high - low) * torch.rand(scale.points, 5, generator=generator)] * batch,
                img=torch.randn(batch, 6, 3, *image_size(scale), generator=generator), img_metas=metas(scale, batch),
                gt_bboxes_3d=[LiDARInstance3DBoxes(boxes, box_dim=9)] * batch,
                gt_labels_3d=[torch.randint(10, (40, ), generator=generator)] * batch)


def published_model(scale):
    """ConfigDict: the model of the published config of a Scale."""
    return load_config(_CONFIGS / scale.config).model


def published_head(settings, **options):
    """Head of the published config, initialized, in evaluation mode.

    Args:
        settings (Settings): tokens and queries.
        **options: arguments of the head to change.
    """
    model = published_model(settings.scale)
    head = build_head(dict(model.pts_bbox_head, **options, num_query=settings.queries, test_cfg=model.test_cfg.pts))
    head.init_weights()
    _let_router_decide(head)
    return head.eval()


def conferring_head(settings):
    """Head of the published config with a router that judges by looks; :func:`let_lean` says what it finds."""
    return published_head(settings, **CONFERRING)


def blank_features(features):
    """Features of blank sensors as ``CmtDetector.blank_features`` gives them: the same in all samples and views.

    Args:
        features (Sequence[Tensor]): of the BEV map (B, C, H, W) and of the cameras (B * V, C, h, w).
    """
    return tuple([each[:1].detach().clone().expand_as(each)] for each in features)


@torch.no_grad()
def let_lean(head, share, x, x_img, img_metas):
    """Change the router's last layer so that a share of the queries distrusts LiDAR, and none the cameras.

    Args:
        head (CmtHead): of :func:`conferring_head`.
        share (float): of the queries, in [0, 1].
        x, x_img, img_metas: a batch, on whose queries this is so.
    """
    last = head.aqr_router.verdict[-1]
    torch.nn.init.normal_(last.weight, std=0.1)
    with evaluating(head):
        scene = head.embed_scene([x], [x_img], img_metas, blank_features((x, x_img)))
        evidence = head.router_evidence(scene, img_metas)
    looks, seen = evidence.looks, evidence.projections.pts_pers_valid
    logits = head.aqr_router.judge(looks, seen, torch.ones_like(seen[..., 0]))[..., 0]
    last.weight[1] = 0
    # The median of an even number of queries lies between two of them.
    last.bias.copy_(torch.tensor([-logits.quantile(share).item() if share else 1 - logits.min().item(), 1.0]))


def published_detector(scale, **options):
    """Detector of the published config in training mode; ``options`` change arguments of its head."""
    model = published_model(scale)
    model.pts_bbox_head.update(options)
    detector = build_model(model)
    _let_router_decide(detector.pts_bbox_head)
    return detector.train()


def _let_router_decide(head):
    """Weights off 0.5, as after training: nothing may be skipped because it is neutral."""
    if head.enable_aqr and hasattr(head.aqr_router, 'mlp'):
        torch.nn.init.normal_(head.aqr_router.mlp[-1].weight, std=0.1)
