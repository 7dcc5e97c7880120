import inspect

import torch
from mmcv.ops import Voxelization
from mmcv.runner import ModuleDict, auto_fp16, force_fp32
from mmcv.utils.parrots_wrapper import _BatchNorm
from mmdet3d.core import bbox3d2result
from mmdet3d.models.builder import DETECTORS, build_head
from mmdet3d.models.detectors.mvx_two_stage import MVXTwoStageDetector
from torch.nn import functional as F

from ...core.arguments import check_names
from ...core.bbox.box_encoding import with_gravity_center
from ..dense_heads.auxiliary_head import camera_presence, lidar_presence
from ..utils.grid_mask import GridMask
from .blank_features import BlankFeatures


@DETECTORS.register_module()
class CmtDetector(MVXTwoStageDetector):
    """Cross Modal Transformer (Yan et al., ICCV 2023): LiDAR and camera branches under one query-based head.

    Args:
        use_grid_mask (bool): mask a random grid of the images in training.
        train_only (Sequence[str] | None): parameter-name prefixes that stay trainable. Everything else is frozen,
            BatchNorm statistics included, for example ``['pts_bbox_head.aqr_router']`` to fine-tune the router.
        pts_voxel_layer (dict | None): arguments of mmcv's ``Voxelization`` and ``num_point_features``, the number of
            values per point, which is checked.
        auxiliary_heads (dict[str, dict] | None): configs of dense heads that add losses in training, on BEV features
            (``bev``), camera features (``camera``) or both; see ``BEVAuxiliaryHead`` and ``CameraAuxiliaryHead``.
        kwargs: see mmdet3d's ``MVXTwoStageDetector``.

    Raises:
        TypeError: for arguments that do not exist, proposing similar ones.
        ValueError: for AQR on a model of a single modality, an auxiliary head without its branch, or a ``train_only``
            prefix that fits no parameter.
    """

    def __init__(self, use_grid_mask=False, train_only=None, pts_voxel_layer=None, auxiliary_heads=None,
                 **kwargs):
        others = inspect.signature(MVXTwoStageDetector).parameters
        check_names(kwargs, others, inspect.signature(CmtDetector).parameters)
        head = kwargs.get('pts_bbox_head') or {}
        branches = {name: kwargs.get(name) is not None for name in ('img_backbone', 'pts_backbone')}
        if head.get('enable_aqr') and not all(branches.values()):
            missing = [name for name, present in branches.items() if not present]
            raise ValueError('enable_aqr=True weighs LiDAR against cameras, but the model has no '
                             f'{" and no ".join(missing)}; allowed on models with both')
        super().__init__(**kwargs)
        if pts_voxel_layer:
            voxel_layer = dict(pts_voxel_layer)
            self.num_point_features = voxel_layer.pop('num_point_features', None)
            self.pts_voxel_layer = Voxelization(**voxel_layer)
        auxiliary_heads = auxiliary_heads or {}
        allowed = dict(bev=branches['pts_backbone'], camera=branches['img_backbone'])
        unknown = [name for name in auxiliary_heads if not allowed.get(name)]
        if unknown:
            raise ValueError(f'auxiliary_heads: no features for {unknown}; allowed: '
                             f'{[name for name, present in allowed.items() if present]}')
        self.auxiliary_heads = ModuleDict({name: build_head(cfg) for name, cfg in auxiliary_heads.items()})
        self.use_grid_mask = use_grid_mask
        self.grid_mask = GridMask(True, True, rotate=1, offset=False, ratio=0.5, mode=1, prob=0.7)
        if isinstance(train_only, str):
            raise TypeError(f'train_only must be a list of parameter-name prefixes, got the string {train_only!r}')
        options = self.pts_bbox_head.aqr_options if head.get('enable_aqr') else None
        self._blank_features = BlankFeatures(options.blank_points) if options and options.stand_ins else None
        self.train_only = tuple(train_only) if train_only is not None else None
        if self.train_only is not None:
            self._freeze()

    def _freeze(self):
        """Leave gradients to ``train_only`` alone. In the constructor, before an optimizer or DDP looks at parameters.
        """
        names = [name for name, _ in self.named_parameters()]
        unknown = [prefix for prefix in self.train_only if not any(_is_below(name, prefix) for name in names)]
        if unknown:
            raise ValueError(f'train_only: no parameter below {unknown}; top-level modules are '
                             f'{[name for name, _ in self.named_children()]}')
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._is_trainable(name))

    def _is_trainable(self, name):
        return any(_is_below(name, prefix) for prefix in self.train_only)

    def train(self, mode=True):
        super().train(mode)
        if mode and self.train_only is not None:
            for name, module in self.named_modules():
                if isinstance(module, _BatchNorm) and not self._is_trainable(name):
                    module.eval()
        return self

    @auto_fp16(apply_to=('img', ), out_fp32=True)
    def extract_img_feat(self, img, img_metas):
        """Images (B, V, 3, H, W) -> list of features (B * V, C, h, w), None without images or an image branch."""
        if img is None or not self.with_img_backbone:
            return None
        if img.dim() != 5:
            raise ValueError(f'img must be (B, V, 3, H, W), got {tuple(img.shape)}')
        for meta in img_metas:
            meta.update(input_shape=tuple(img.shape[-2:]))
        img = img.flatten(0, 1)  # (B * V, 3, H, W)
        if self.use_grid_mask:
            img = self.grid_mask(img)
        feats = self.img_backbone(img.float())
        return self.img_neck(feats) if self.with_img_neck else feats

    @force_fp32(apply_to=('pts', 'img_feats'))
    def extract_pts_feat(self, pts, img_feats, img_metas):
        """Points, B tensors (N, D) -> list of BEV features (B, C, H, W), None without points or a LiDAR branch."""
        if pts is None or not self.with_pts_backbone:
            return None
        voxels, num_points, coors = self.voxelize(pts)
        features = self.pts_voxel_encoder(voxels, num_points, coors)
        x = self.pts_middle_encoder(features, coors, len(pts))
        x = self.pts_backbone(x)
        return self.pts_neck(x) if self.with_pts_neck else x

    def blank_features(self, points, img, img_metas):
        """What the head needs of sensors that show nothing, see :class:`BlankFeatures`.

        Args:
            points (list[Tensor] | None): per sample (N, D).
            img (Tensor | None): (B, V, 3, H, W).
            img_metas (list[dict]): per sample.

        Returns:
            tuple[list[Tensor], list[Tensor]] | None: BEV and camera features; None for a head without stand-ins, or
            where a sensor is absent, so that nothing is routed.
        """
        if self._blank_features is None or points is None or img is None:
            return None
        img_feats, pts_feats = self._blank_features(self, points[0], img, img_metas)
        return pts_feats, img_feats

    @torch.no_grad()
    @force_fp32()
    def voxelize(self, points):
        """Group points into voxels.

        Args:
            points (list[Tensor]): per sample (N, D); a sample may be empty.

        Returns:
            tuple[Tensor, Tensor, Tensor]: points per voxel (M, max_num_points, D), their number (M,), and (M, 4) int
            (sample, z, y, x).
        """
        voxels, num_points, coors = [], [], []
        for sample, cloud in enumerate(points):
            if self.num_point_features is not None and cloud.shape[-1] != self.num_point_features:
                raise ValueError(f'points must have {self.num_point_features} values each (num_point_features), got '
                                 f'{cloud.shape[-1]}')
            sample_voxels, sample_coors, sample_num_points = self._voxelize_single(cloud)
            voxels.append(sample_voxels)
            num_points.append(sample_num_points)
            coors.append(F.pad(sample_coors, (1, 0), value=sample))
        return torch.cat(voxels), torch.cat(num_points), torch.cat(coors)

    def _voxelize_single(self, cloud):
        if len(cloud):
            return self.pts_voxel_layer(cloud)
        return (cloud.new_zeros(0, self.pts_voxel_layer.max_num_points, cloud.shape[-1]),
                cloud.new_zeros(0, 3, dtype=torch.int32), cloud.new_zeros(0, dtype=torch.int32))

    def forward_train(self, points=None, img_metas=None, gt_bboxes_3d=None, gt_labels_3d=None, img=None):
        """Losses of one batch.

        Args:
            points (list[Tensor] | None): per sample (N, D).
            img_metas (list[dict]): per sample.
            gt_bboxes_3d (list[LiDARInstance3DBoxes]): per sample.
            gt_labels_3d (list[Tensor]): per sample (n,).
            img (Tensor | None): (B, V, 3, H, W).

        Returns:
            dict[str, Tensor]: losses.
        """
        counts = [len(x) if x is not None else None for x in (img_metas, gt_bboxes_3d, gt_labels_3d)]
        if len(set(counts)) != 1:
            raise ValueError('img_metas, gt_bboxes_3d and gt_labels_3d need one entry per sample each, got '
                             f'{", ".join(map(str, counts))}')
        for meta, boxes, labels in zip(img_metas, gt_bboxes_3d, gt_labels_3d):
            # The head noises the ground truth into queries; published pipelines put it into the metas, others need not.
            meta.setdefault('gt_bboxes_3d', boxes)
            meta.setdefault('gt_labels_3d', labels)
        img_feats, pts_feats = self.extract_feat(points, img, img_metas)
        losses = self.forward_pts_train(pts_feats, img_feats, gt_bboxes_3d, gt_labels_3d, img_metas,
                                        self.blank_features(points, img, img_metas))
        if pts_feats is not None and 'bev' in self.auxiliary_heads:
            losses.update(self._auxiliary_losses('bev', pts_feats, lidar_presence(points), gt_bboxes_3d, gt_labels_3d,
                                                 img_metas))
        if img_feats is not None and 'camera' in self.auxiliary_heads:
            losses.update(self._auxiliary_losses('camera', img_feats, camera_presence(img).flatten(), gt_bboxes_3d,
                                                 gt_labels_3d, img_metas))
        return losses

    def _auxiliary_losses(self, name, features, present, gt_bboxes_3d, gt_labels_3d, img_metas):
        """``loss_aux_{name}_heatmap`` and ``loss_aux_{name}_box`` on the features that the main head takes."""
        device = features[0].device
        boxes = [with_gravity_center(boxes).to(device) for boxes in gt_bboxes_3d]
        labels = [labels.to(device) for labels in gt_labels_3d]
        losses = self.auxiliary_heads[name].loss(features[0], boxes, labels, img_metas, present)
        return {f'loss_aux_{name}_{part}': value for part, value in losses.items()}

    @force_fp32(apply_to=('pts_feats', 'img_feats'))
    def forward_pts_train(self, pts_feats, img_feats, gt_bboxes_3d, gt_labels_3d, img_metas, blank_feats=None):
        """Losses of the head on extracted features."""
        outs = self.pts_bbox_head(pts_feats, img_feats, img_metas, blank_feats)
        return self.pts_bbox_head.loss(gt_bboxes_3d, gt_labels_3d, outs, img_metas)

    def forward_test(self, points=None, img_metas=None, img=None, rescale=False):
        """Detect. The outer list of every argument is test-time augmentation, of which CMT has none.

        Raises:
            ValueError: for more than one augmentation.
        """
        if len(img_metas) != 1:
            raise ValueError(f'test-time augmentation is not supported: got {len(img_metas)} augmented versions, '
                             'allowed: 1')
        return self.simple_test(points[0] if points else None, img_metas[0], img[0] if img else None, rescale)

    def simple_test(self, points, img_metas, img=None, rescale=False):
        """Per sample ``dict(pts_bbox=dict(boxes_3d, scores_3d, labels_3d))``."""
        img_feats, pts_feats = self.extract_feat(points, img, img_metas)
        blank_feats = self.blank_features(points, img, img_metas)
        return [dict(pts_bbox=boxes)
                for boxes in self.simple_test_pts(pts_feats, img_feats, img_metas, rescale, blank_feats)]

    @force_fp32(apply_to=('x', 'x_img'))
    def simple_test_pts(self, x, x_img, img_metas, rescale=False, blank_feats=None):
        """Detections of the head on extracted features."""
        outs = self.pts_bbox_head(x, x_img, img_metas, blank_feats)
        return [bbox3d2result(*result) for result in self.pts_bbox_head.get_bboxes(outs, img_metas, rescale=rescale)]


def _is_below(name, prefix):
    """Whether a dotted name is ``prefix`` or lies below it."""
    return name == prefix or name.startswith(prefix + '.')
