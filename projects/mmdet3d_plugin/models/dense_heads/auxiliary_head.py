"""Dense losses on BEV and camera features, in training only: every cell learns what is there, as in CenterNet (Zhou et
al., 2019) and CenterPoint (Yin et al., CVPR 2021). They make features useful before attention has learned where to
look.
"""
import math
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule, bias_init_with_prob
from mmcv.runner import BaseModule, force_fp32
from mmdet.core import reduce_mean
from mmdet.models import HEADS, build_loss
from mmdet3d.core import draw_heatmap_gaussian, gaussian_radius
from mmdet3d.models.utils import clip_sigmoid
from torch import nn

from ..utils.geometry import full_precision, lidar_to_image_matrices, padded_image_size, project_to_views, view_cells


class MapObjects(NamedTuple):
    """Boxes on feature maps, one entry per box and map that shows its center.

    Attributes:
        map_index: (n,) int64, which map of the batch.
        label: (n,) int64.
        center: (n, 2) as (x, y), in cells; the first cell spans [0, 1).
        size: (n, 2) as (x, y), in cells.
        code: (n, K) what its cells regress beside the center; NaN is unknown.
        depth: (n,) of two boxes that claim a cell the one of lower depth gets it.
    """

    map_index: torch.Tensor
    label: torch.Tensor
    center: torch.Tensor
    size: torch.Tensor
    code: torch.Tensor
    depth: torch.Tensor


class AuxiliaryHead(BaseModule):
    """Class heatmap and boxes per cell of a feature map. Subclasses say where boxes lie on the map.

    Args:
        in_channels (int): channels of the features.
        num_classes (int): classes; labels count from 0.
        feat_channels (int): channels between the two convolutions.
        box_radius (int): boxes are regressed at the cell of their center and this many cells around it.
        gaussian_overlap (float): least IoU of a box moved by the Gaussian's radius, in (0, 1).
        min_radius (int): least radius of the Gaussian, in cells.
        code_weights (Sequence[float] | None): weight of each box code, default 1.
        loss_heatmap, loss_bbox (dict | None): configs of the losses, default ``GaussianFocalLoss`` and ``L1Loss`` with
            weight 0.25.
        heading_bins (int): also classify the heading into so many equal bins, at least 3; 0 for none. Where front and
            rear are not told apart yet, the L1 loss of sine and cosine is flat between two opposite headings, so that
            not even the axis is learned; a classifier holds both for possible until it knows.
        loss_heading (dict | None): config of that loss, default ``CrossEntropyLoss`` with weight 0.5.
        init_cfg (dict | None): as in mmcv.

    Raises:
        ValueError: if ``code_weights`` are not one per box code; for 1 or 2 bins, or fewer than 0.
    """

    code_names = ()

    def __init__(self, in_channels, num_classes, feat_channels=64, box_radius=1, gaussian_overlap=0.1, min_radius=1,
                 code_weights=None, loss_heatmap=None, loss_bbox=None, heading_bins=0, loss_heading=None,
                 init_cfg=None):
        super().__init__(init_cfg)
        if code_weights is not None and len(code_weights) != len(self.code_names):
            raise ValueError(f'code_weights must hold {len(self.code_names)} numbers, for {self.code_names}, got '
                             f'{len(code_weights)}')
        if heading_bins != 0 and heading_bins < 3:
            raise ValueError(f'heading_bins must be 0 or at least 3, got {heading_bins}')
        self.num_classes = num_classes
        self.box_radius = box_radius
        self.gaussian_overlap = gaussian_overlap
        self.min_radius = min_radius
        self.code_weights = code_weights or [1.0] * len(self.code_names)
        self.fp16_enabled = False
        self.conv = ConvModule(in_channels, feat_channels, 3, padding=1, norm_cfg=dict(type='BN2d'))
        self.heatmap = nn.Conv2d(feat_channels, num_classes, 1)
        self.box = nn.Conv2d(feat_channels, len(self.code_names), 1)
        self.heading = nn.Conv2d(feat_channels, heading_bins, 1) if heading_bins else None
        self.loss_heatmap = build_loss(loss_heatmap or dict(type='GaussianFocalLoss'))
        self.loss_bbox = build_loss(loss_bbox or dict(type='L1Loss', loss_weight=0.25))
        self.loss_heading = build_loss(loss_heading or dict(type='CrossEntropyLoss', loss_weight=0.5))

    def init_weights(self):
        super().init_weights()
        nn.init.constant_(self.heatmap.bias, bias_init_with_prob(0.1))

    def forward(self, features):
        """(M, C, h, w) -> class logits (M, num_classes, h, w), box codes (M, len(code_names), h, w) and logits of the
        heading's bins (M, heading_bins, h, w), None without bins.
        """
        features = self.conv(features)
        return self.heatmap(features), self.box(features), None if self.heading is None else self.heading(features)

    @force_fp32(apply_to=('features', ))
    def loss(self, features, gt_boxes, gt_labels, img_metas, present):
        """Losses of one batch.

        Args:
            features (Tensor): (M, C, h, w), M maps: one per sample, or one per sample and view.
            gt_boxes (list[Tensor]): per sample (n, 9), gravity center, m; velocity may be NaN.
            gt_labels (list[Tensor]): per sample (n,).
            img_metas (list[dict]): per sample.
            present (Tensor): (M,) bool; maps of a silent sensor take no part, since it cannot have seen anything.

        Returns:
            dict[str, Tensor]: ``heatmap``, ``box`` and, with bins, ``heading``, each over the mean number of positive
            cells of all processes.
        """
        logits, codes, headings = self(features)
        with torch.no_grad():
            objects = self.map_objects(gt_boxes, gt_labels, img_metas, features)
            objects = MapObjects(*(x[present[objects.map_index]] for x in objects))
            heatmap = self.draw_heatmap(objects, logits)[present]
            place, targets = self.box_targets(objects, features.shape[-2:])
            counts = reduce_mean(features.new_tensor([(heatmap == 1).sum(), len(targets)])).clamp(min=1)
        codes = codes.permute(0, 2, 3, 1).flatten(0, 2)[place]  # (N, K)
        known = torch.isfinite(targets)
        weights = known * codes.new_tensor(self.code_weights)
        # Empty selections still give zeros that are part of the graph, for distributed training.
        losses = dict(heatmap=self.loss_heatmap(clip_sigmoid(logits[present]), heatmap, avg_factor=counts[0].item()),
                      box=self.loss_bbox(codes, targets.where(known, targets.new_zeros(())), weights,
                                         avg_factor=counts[1].item()))
        if headings is not None:
            headings = headings.permute(0, 2, 3, 1).flatten(0, 2)[place]  # (N, bins)
            losses['heading'] = self.loss_heading(headings, self.heading_targets(targets),
                                                  avg_factor=counts[1].item())
        return losses

    def heading_targets(self, targets):
        """Bins (N,) int64 of the headings in box targets (N, K); bin k spans 2 pi k / bins to 2 pi (k + 1) / bins."""
        sin, cos = (targets[:, [name.startswith(function) for name in self.code_names]].squeeze(1)
                    for function in ('sin', 'cos'))
        bins = self.heading.out_channels
        turns = torch.atan2(sin, cos) / (2 * math.pi) % 1
        return (turns * bins).long().clamp(max=bins - 1)

    def map_objects(self, gt_boxes, gt_labels, img_metas, features):
        """Where the boxes lie on M feature maps (M, C, h, w): MapObjects."""
        raise NotImplementedError

    def draw_heatmap(self, objects, like):
        """Gaussians of the size of the boxes, 1 at the cells of their centers, (M, num_classes, h, w)."""
        heatmap = torch.zeros_like(like, dtype=torch.float32)
        for index, label, center, size in zip(objects.map_index, objects.label, objects.center, objects.size):
            width, height = size.clamp(max=max(like.shape[-2:]))  # a box close to the lens may be huge
            radius = max(self.min_radius, int(gaussian_radius((height, width), self.gaussian_overlap)))
            draw_heatmap_gaussian(heatmap[index, label], center.floor().long(), radius)
        return heatmap

    def box_targets(self, objects, map_shape):
        """Cells that regress a box.

        Args:
            objects (MapObjects): n.
            map_shape (tuple[int, int]): (h, w).

        Returns:
            tuple[Tensor, Tensor]: (N,) int64 index of each cell, counted through all maps row by row, none twice, and
            (N, K) targets: the center's (x, y) relative to the cell's, in cells, and the objects' code. A cell goes to
            the box with its center there rather than to a neighbor, then to that of less depth, then to the closest.
        """
        height, width = map_shape
        reach = torch.arange(-self.box_radius, self.box_radius + 1, device=objects.center.device)
        steps = torch.cartesian_prod(reach, reach).view(-1, 2)  # (S, 2)
        cells = objects.center.floor().long()[:, None] + steps  # (n, S, 2)
        inside = ((cells >= 0) & (cells < cells.new_tensor([width, height]))).all(dim=-1)
        owner, step = inside.nonzero(as_tuple=True)  # (N',)
        column, row = cells[owner, step].unbind(-1)
        place = (objects.map_index[owner] * height + row) * width + column
        offset = objects.center[owner] - cells[owner, step] - 0.5

        order = torch.arange(len(owner), device=owner.device)
        for key in (offset.norm(dim=-1), objects.depth[owner], (steps[step] != 0).any(dim=-1).int(), place):
            order = order[key[order].argsort(stable=True)]
        is_first = torch.ones_like(order, dtype=torch.bool)
        is_first[1:] = place[order[1:]] != place[order[:-1]]
        winners = order[is_first]
        return place[winners], torch.cat([offset, objects.code[owner]], dim=-1)[winners]


@HEADS.register_module()
class BEVAuxiliaryHead(AuxiliaryHead):
    """Auxiliary losses on BEV features (B, C, H, W).

    Args:
        pc_range (Sequence[float]): detection range; its lower corner is the map's, m.
        cell_size (Sequence[float]): (x, y) size of a cell: voxel size times output stride, m.
        kwargs: see :class:`AuxiliaryHead`.
    """

    code_names = ('x', 'y', 'z', 'log dx', 'log dy', 'log dz', 'sin yaw', 'cos yaw', 'vx', 'vy')

    def __init__(self, *args, pc_range, cell_size, **kwargs):
        super().__init__(*args, **kwargs)
        self.pc_range = pc_range
        self.cell_size = cell_size

    @full_precision
    def map_objects(self, gt_boxes, gt_labels, img_metas, features):
        map_index = torch.cat([label.new_full(label.shape, sample) for sample, label in enumerate(gt_labels)])
        boxes, labels = torch.cat(gt_boxes), torch.cat(gt_labels)
        low, cell = boxes.new_tensor(self.pc_range[:2]), boxes.new_tensor(self.cell_size)
        center = (boxes[:, :2] - low) / cell
        code = torch.cat([boxes[:, 2:3], boxes[:, 3:6].log(), boxes[:, 6:7].sin(), boxes[:, 6:7].cos(), boxes[:, 7:9]],
                         dim=-1)
        height, width = features.shape[-2:]
        inside = ((center >= 0) & (center < center.new_tensor([width, height]))).all(dim=-1)
        return MapObjects(*(x[inside] for x in (map_index, labels, center, boxes[:, 3:5] / cell, code,
                                                torch.zeros_like(boxes[:, 0]))))


@HEADS.register_module()
class CameraAuxiliaryHead(AuxiliaryHead):
    """Auxiliary losses on camera features (B * V, C, h, w).

    Targets are what an image can show: depth and sizes in the camera's meters, whatever scaling the points got, and the
    yaw relative to the ray from camera to box, mirrored where the augmentations of points and images together mirror
    the scene.

    Args:
        kwargs: see :class:`AuxiliaryHead`.
    """

    code_names = ('u', 'v', 'log depth', 'log dx', 'log dy', 'log dz', 'sin relative yaw', 'cos relative yaw')

    @full_precision
    def map_objects(self, gt_boxes, gt_labels, img_metas, features):
        image_size, (height, width) = padded_image_size(img_metas), features.shape[-2:]
        lidar2img, img2lidar = lidar_to_image_matrices(img_metas, gt_boxes[0])
        stride = features.new_tensor([image_size[1] / width, image_size[0] / height])  # px per cell, (x, y)
        parts = []
        for sample, (boxes, labels) in enumerate(zip(gt_boxes, gt_labels)):
            boxes = boxes.to(lidar2img.dtype)
            pixels, depth = project_to_views(boxes[None, :, :3], lidar2img[sample:sample + 1])
            _, seen = view_cells(pixels, depth, image_size, (height, width))  # (1, n, V)
            box, view = seen[0].nonzero(as_tuple=True)  # (N,)
            boxes, depth = boxes[box], depth[0, view, box]

            matrix = lidar2img[sample, view, :3, :3]
            # Rows of the matrix are those of a rotation, times the focal lengths, divided by the scale of the points.
            determinant, per_meter = torch.linalg.det(matrix), matrix[:, 2].norm(dim=-1)
            focal = (determinant.abs() / per_meter**3).sqrt()  # geometric mean, px
            ray = boxes[:, :2] - img2lidar[sample, view, :2, 3]
            relative = determinant.sign() * (boxes[:, 6] - torch.atan2(ray[:, 1], ray[:, 0]))
            dims = boxes[:, 3:6] * per_meter[:, None]
            breadth = dims[:, 0] * relative.sin().abs() + dims[:, 1] * relative.cos().abs()  # across the ray
            size = torch.stack([breadth, dims[:, 2]], dim=-1) * (focal / depth)[:, None]  # px
            code = torch.stack([depth.log(), *dims.log().unbind(-1), relative.sin(), relative.cos()], dim=-1)
            parts.append(MapObjects(sample * lidar2img.shape[1] + view, labels[box], pixels[0, view, box] / stride,
                                    size / stride, code, depth))
        return MapObjects(*map(torch.cat, zip(*parts)))


def lidar_presence(points):
    """(B,) bool: which point clouds (N, >= 3) show anything; silenced points all lie in one place."""
    return torch.stack([(cloud[:, :3] != cloud[:1, :3]).any() for cloud in points])


def camera_presence(img):
    """(B, V) bool: which images (B, V, 3, H, W) show more than one color beside the zeros of padding."""
    return ((img != img[..., :1, :1]) & (img != 0)).flatten(2).any(dim=-1)
