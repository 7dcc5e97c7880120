import inspect
import math
from contextlib import nullcontext
from functools import partial
from typing import Callable, NamedTuple, Optional, Tuple

import torch
from mmcv.cnn import ConvModule
from mmcv.runner import BaseModule, ModuleList, force_fp32
from mmdet.core import build_assigner, build_bbox_coder
from mmdet.models import HEADS, build_loss
from mmdet.models.utils import build_transformer
from mmdet.models.utils.transformer import inverse_sigmoid
from mmdet3d.models import builder
from torch import nn

from ...core.arguments import check_count, check_factor
from ...core.bbox.box_encoding import with_gravity_center
from ...core.bbox.class_selection import select_classes
from ...core.finite import require_finite
from ..utils.aqr import AQR, AQROptions, Looks, RouterEvidence, build_aqr_parts
from ..utils.aqr.query_projection import project_queries
from ..utils.attention import AttentionBias
from ..utils.attention.shared_parts import SharedTokens
from ..utils.evaluating import evaluating
from ..utils.geometry import from_unit_range, lidar_to_image_matrices, padded_image_size
from ..utils.remembered import Remembered, tensors_state
from ..utils.token_layout import MODALITIES, TokenLayout
from ..utils.transformer.denoising import DenoisingBatch, DenoisingQueries
from ..utils.transformer.position_encoding import (
    bev_cell_centers,
    camera_ray_points,
    level_ray_points,
    num_octaves,
    octave_encoding,
    query_ray_points,
    sine_encoding,
)
from .set_criterion import SetCriterion

_NUSCENES_TASKS = (('car', ), ('truck', 'construction_vehicle'), ('bus', 'trailer'), ('barrier', ),
                   ('motorcycle', 'bicycle'), ('pedestrian', 'traffic_cone'))
_NUSCENES_BRANCHES = dict(center=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2))


class EmbeddedScene(NamedTuple):
    """What the decoder takes; a sensor that is absent is None. Shapes as in ``CmtHead.forward``.

    Attributes:
        x, x_img: features of tokens.
        layout: TokenLayout of them.
        reference_points: (B, P + Q, 3), denoising queries first.
        denoising: DenoisingBatch or None.
        query_embed: (B, P + Q, C).
        stand_ins: features of blank sensors, for looks and decoder, or None.
        shared: what looks and decoder make once.
        decode: the transformer, which knows position embeddings and masks already.
    """

    x: Optional[torch.Tensor]
    x_img: Optional[torch.Tensor]
    layout: TokenLayout
    reference_points: torch.Tensor
    denoising: Optional[DenoisingBatch]
    query_embed: torch.Tensor
    stand_ins: Optional[Tuple[torch.Tensor, torch.Tensor]]
    shared: SharedTokens
    decode: Callable


@HEADS.register_module()
class CmtHead(BaseModule):
    """CMT's detection head for LiDAR, cameras or both, with optional adaptive query routing (AQR).

    With ``enable_aqr`` a router gives every query a LiDAR and a camera weight, which bias the decoder's
    cross-attention; features stay as they are. A fresh router is neutral: the head detects what it detected without it
    (docs/design.md, "Contracts").

    Args:
        in_channels (int): channels of the BEV features.
        num_query (int): learned queries, >= 1.
        hidden_dim (int): channels C of queries and tokens.
        depth_num (int): depths along a camera ray in the position encoding, >= 1.
        downsample_scale (int): BEV cells are this many voxels wide, >= 1.
        scalar (int): most denoising groups, 0 for none.
        noise_scale, noise_trans, split: see :class:`DenoisingQueries`.
        dn_weight (float): factor >= 0 of the denoising losses.
        train_cfg (dict | None): ``assigner``, ``code_weights`` and geometry; None builds a head that cannot train.
        test_cfg (dict | None): geometry (``voxel_size``) where ``train_cfg`` is None.
        common_heads (dict | None): branches of the task heads, default: nuScenes'.
        tasks (Sequence[dict] | None): ``class_names`` per task, default: CenterPoint's six for nuScenes.
        transformer, bbox_coder, loss_cls, loss_bbox, separate_head (dict): configs of the parts.
        loss_heatmap (dict | None): stated by published configs; CMT predicts no heatmap, so it has no effect.
        enable_aqr (bool): route queries.
        position_cycles (float | None): highest frequency, in cycles over the detection range (>= 1), of the sinusoidal
            encodings: of BEV cells and queries (:func:`sine_encoding`) and of points along camera rays
            (:func:`octave_encoding`). None for published checkpoints, which encode rays as they are.
        position_gain (float | None): normalize position embeddings (LayerNorm, whose gain starts at this value > 0) and
            start them centered over all places. Fresh ones are five times smaller than the features they are added to,
            so that attention does not see where a token is. None, without normalization, for published checkpoints.
        init_cfg: must be None.
        **aqr: options of routing, each with the prefix ``aqr_``: see :class:`AQROptions`.

    Raises:
        TypeError: for arguments that do not exist, proposing similar ones.
        ValueError: for options that cannot work, naming what is allowed.
    """

    def __init__(self, in_channels, num_query=900, hidden_dim=128, depth_num=64, downsample_scale=8, scalar=10,
                 noise_scale=1.0, noise_trans=0.0, dn_weight=1.0, split=0.75, train_cfg=None, test_cfg=None,
                 common_heads=None, tasks=None, transformer=None, bbox_coder=None, loss_cls=None, loss_bbox=None,
                 loss_heatmap=None, separate_head=None, enable_aqr=False, position_cycles=None, position_gain=None,
                 init_cfg=None, **aqr):
        if init_cfg is not None:
            raise ValueError(f'init_cfg: parts of CmtHead initialize themselves, got {init_cfg}')
        super().__init__()
        if not isinstance(enable_aqr, bool):
            raise TypeError(f'enable_aqr must be True or False, got {enable_aqr!r}')
        aqr_options = AQROptions.of_head(aqr, others=inspect.signature(CmtHead).parameters)
        if position_cycles is not None and not (math.isfinite(position_cycles) and position_cycles >= 1):
            raise ValueError(f'position_cycles must be None or a finite number >= 1, got {position_cycles}')
        if position_gain is not None and not (math.isfinite(position_gain) and position_gain > 0):
            raise ValueError(f'position_gain must be None or a finite number > 0, got {position_gain}')
        tasks = tasks or [dict(class_names=list(names)) for names in _NUSCENES_TASKS]
        self.class_names = [list(task['class_names']) for task in tasks]
        self.num_query = check_count('num_query', num_query)
        self.hidden_dim = check_count('hidden_dim', hidden_dim)
        self.depth_num = check_count('depth_num', depth_num)
        check_count('downsample_scale', downsample_scale)
        check_factor('dn_weight', dn_weight)  # also in a head without losses
        self.position_cycles = position_cycles
        self.position_gain = position_gain
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.fp16_enabled = False
        self._reported_classes = None
        self.bbox_coder = build_bbox_coder(bbox_coder)
        self.pc_range = list(self.bbox_coder.pc_range)
        self.bev_cell_size = self._bev_cell_size(downsample_scale)

        self.shared_conv = ConvModule(in_channels, hidden_dim, 3, padding=1, norm_cfg=dict(type='BN2d'))
        self.transformer = build_transformer(transformer)
        self.reference_points = nn.Embedding(num_query, 3)
        self._build_position_embeddings()
        self.task_heads = ModuleList()
        for names in self.class_names:
            branches = dict(common_heads or _NUSCENES_BRANCHES, cls_logits=(len(names), 2))
            self.task_heads.append(builder.build_head(dict(
                separate_head, in_channels=hidden_dim, heads=branches, groups=self.transformer.decoder.num_layers)))

        num_classes = sum(map(len, self.class_names))
        self.denoising = DenoisingQueries(scalar, noise_scale, noise_trans, split, self.pc_range, num_classes)
        if train_cfg:
            self.criterion = SetCriterion(
                build_loss(loss_cls or dict(type='FocalLoss', gamma=2, alpha=0.25)),
                build_loss(loss_bbox or dict(type='L1Loss', loss_weight=0.25)),
                build_assigner(train_cfg['assigner']), self.class_names, train_cfg['code_weights'], dn_weight, split)
        self.enable_aqr = enable_aqr
        self.aqr_options = aqr_options
        self._remembered_blank = Remembered()
        if enable_aqr:
            self._build_aqr()

    def _build_position_embeddings(self):
        """The MLPs that make position embeddings of BEV positions and of camera rays."""
        channels = self.hidden_dim
        self.bev_embedding = nn.Sequential(
            nn.Linear(channels * 2, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))
        waves = 1 if self.position_cycles is None else 2 * num_octaves(self.position_cycles)
        self.rv_embedding = nn.Sequential(
            nn.Linear(self.depth_num * 3 * waves, channels * 4), nn.ReLU(inplace=True),
            nn.Linear(channels * 4, channels))
        if self.position_gain is not None:
            for embedding in (self.bev_embedding, self.rv_embedding):
                embedding.append(nn.LayerNorm(channels))
                nn.init.constant_(embedding[-1].weight, self.position_gain)

    @property
    def aqr(self):
        """AQR | None: made of the parts that this head has now, which copies and replicas have of their own."""
        if not self.enable_aqr:
            return None
        return AQR(self.aqr_router, self.aqr_bias, self.aqr_head_strength, self.aqr_options)

    def _build_aqr(self):
        if self.bev_cell_size is None:
            raise ValueError("enable_aqr=True needs 'voxel_size' in train_cfg, test_cfg or bbox_coder to find BEV "
                             'cells')
        parts = build_aqr_parts(self.aqr_options, self.hidden_dim, self.transformer.decoder)
        self.aqr_router, self.aqr_bias, self.aqr_head_strength = parts

    def _bev_cell_size(self, downsample_scale):
        """(x, y) size of a BEV cell in m, None where no part of the config gives the voxel size."""
        voxel_size = getattr(self.bbox_coder, 'voxel_size', None)
        for source in filter(None, (self.test_cfg, self.train_cfg)):
            stride = source.get('out_size_factor', downsample_scale)
            pc_range = list(source.get('point_cloud_range', source.get('pc_range', self.pc_range)))
            if stride != downsample_scale or pc_range not in (self.pc_range, self.pc_range[:2]):
                raise ValueError(f'train_cfg and test_cfg must agree with downsample_scale={downsample_scale} and '
                                 f'bbox_coder.pc_range={self.pc_range}, got out_size_factor={stride} and range '
                                 f'{pc_range}')
            voxel_size = source.get('voxel_size', voxel_size)
        return tuple(size * downsample_scale for size in voxel_size[:2]) if voxel_size else None

    def init_weights(self):
        super().init_weights()
        nn.init.uniform_(self.reference_points.weight, 0, 1)
        if self.position_gain is not None:
            self._center_positions()

    @torch.no_grad()
    def _center_positions(self):
        """Free the position embeddings of their mean over places and rays all around, which is most of a fresh one: it
        makes the embeddings of distant places alike.
        """
        places = bev_cell_centers((32, 32), self.reference_points.weight)
        rays = level_ray_points(len(places), self.depth_num, self.pc_range, like=places)
        for embedding, inputs in ((self.bev_embedding, self._encode_bev(places)),
                                  (self.rv_embedding, self._encode_rays(rays))):
            if embedding is not None:  # heads of LiDAR alone have no rays
                embedding[-2].bias.sub_(embedding[:-1](inputs).mean(dim=0))

    def forward(self, pts_feats, img_feats=None, img_metas=None, blank_feats=None):
        """Predict.

        Args:
            pts_feats (Sequence[Tensor | None] | None): BEV features (B, C_in, H, W); the first level is used.
            img_feats (Sequence[Tensor | None] | None): camera features (B * V, C, h, w); the first level is used.
            img_metas (list[dict]): per sample ``lidar2img`` and ``pad_shape`` and, in training, ``gt_bboxes_3d``
                and ``gt_labels_3d`` (DataContainers) for the denoising queries.
            blank_feats (tuple[Sequence[Tensor], Sequence[Tensor]] | None): BEV and camera features of sensors that show
                nothing, shaped as the others; needed with ``aqr_stand_ins``, see ``CmtDetector.blank_features``.

        Returns:
            tuple[list[dict]]: per task a list with one dict: branches (L, B, Q, channels), denoising ones after
            ``dn_``, ``dn_batch`` and, with AQR, ``routing`` (RoutingRecord). ``center`` is metric; see box_encoding for
            the others. In training there is ``is_finite``: where features or activations were not (an overflow of mixed
            precision, say), 0 stands for what is not finite in the branches, and :meth:`loss` gives NaN.
        """
        return self.detect(self.embed_scene(pts_feats, img_feats, img_metas, blank_feats), img_metas)

    def detect(self, scene, img_metas):
        """The part of :meth:`forward` that routes and decodes. Without gradients a scene can be detected in as often as
        one likes, by other routers, say; what looks and first layer have in common is computed once.

        Args:
            scene (EmbeddedScene): of :meth:`embed_scene`.
            img_metas (list[dict]): of the same samples.

        Returns:
            tuple[list[dict]]: as :meth:`forward`.
        """
        x, x_img, bias, routing = self._apply_aqr_modulation(
            scene.x, scene.x_img, scene.reference_points, img_metas, scene.query_embed, scene.denoising,
            partial(self._look, scene))
        is_for_looks, has_looked = self.aqr_options.stand_ins == 'looks', scene.shared.keys is not None
        decoded, _ = scene.decode(x, x_img, stand_ins=None if is_for_looks else scene.stand_ins,
                                  aqr_attention_bias=None if bias is None else self.aqr.bias_of_layers(bias),
                                  shared=scene.shared if has_looked and self._can_share(scene) else None)
        decoded = decoded.to(torch.promote_types(decoded.dtype, torch.float32))
        return tuple([self._predict_task(head, decoded, scene.reference_points, scene.denoising, routing)]
                     for head in self.task_heads)

    @torch.no_grad()
    def router_evidence(self, scene, img_metas):
        """What a router that needs looks judges by, without decoding or routing.

        Args:
            scene (EmbeddedScene): of both sensors, embedded in evaluation, without denoising queries.
            img_metas (list[dict]): of the same samples.

        Returns:
            RouterEvidence: of the learned queries.

        Raises:
            ValueError: the scene has denoising queries, which know the truth.
        """
        if scene.denoising is not None:
            raise ValueError('scene: evidence is of the learned queries alone, but the head embedded denoising '
                             'queries, too; put it in evaluation before')
        projections = project_queries(scene.reference_points, img_metas, self.pc_range, self.bev_cell_size,
                                      scene.layout)
        return RouterEvidence(self._look(scene), projections, scene.reference_points)

    def embed_scene(self, pts_feats, img_feats, img_metas, blank_feats=None):
        """Tokens and queries with their position embeddings, as the decoder takes them.

        Args:
            pts_feats, img_feats, img_metas, blank_feats: see :meth:`forward`.

        Returns:
            EmbeddedScene: with denoising queries in training.
        """
        x = pts_feats[0] if pts_feats else None
        x_img = img_feats[0] if img_feats else None
        batch = len(img_metas)
        if x is not None:
            x = self.shared_conv(x)
        layout = TokenLayout.from_features(x, x_img, batch)

        reference_points = self.reference_points.weight.unsqueeze(0).expand(batch, -1, -1)  # (B, Q, 3)
        denoising = self._make_denoising(img_metas) if self.training else None
        if denoising is not None:
            reference_points = torch.cat([denoising.reference_points, reference_points], dim=1)  # (B, P + Q, 3)

        cameras = self._cameras(img_metas, reference_points, layout)
        query_embed = self._query_embed(reference_points, cameras)
        bev_pos_embed, rv_pos_embed = self._token_embed(cameras, layout, reference_points)
        stand_ins = None if x is None or x_img is None else self._stand_ins(blank_feats)
        decode = partial(self.transformer, query_embed=query_embed, bev_pos_embed=bev_pos_embed,
                         rv_pos_embed=rv_pos_embed, attn_masks=None if denoising is None else denoising.attn_mask)
        return EmbeddedScene(x, x_img, layout, reference_points, denoising, query_embed, stand_ins,
                             SharedTokens(), decode)

    def _stand_ins(self, blank_feats):
        """Features (x, x_img) of blank sensors as the decoder takes them, None without stand-ins."""
        if not (self.enable_aqr and self.aqr_options.stand_ins):
            return None
        if blank_feats is None:
            raise ValueError('aqr_stand_ins=True needs blank_feats, the features of blank sensors: see '
                             'CmtDetector.blank_features')
        x, x_img = (feats[0] for feats in blank_feats)
        once = x[:1] if x.stride(0) == 0 else x  # a blank sensor is the same in every sample

        def make():
            with torch.no_grad(), evaluating(self.shared_conv):  # statistics of BatchNorm are of sensors that work
                return self.shared_conv(once), once  # the features stay alive: their address says whose they are

        state = tensors_state([once, *self.shared_conv.parameters(), *self.shared_conv.buffers()])
        blank, _ = self._remembered_blank(state, make)
        return blank.expand(len(x), -1, -1, -1), x_img

    def _look(self, scene):
        """What the queries hold after the first layer with one sensor at a time, the other one blank: ``Looks``."""
        is_detached = self.aqr_router.detach
        # Without gradients what a look shows should not depend on dropout either.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_detached), \
                evaluating(self.transformer) if is_detached else nullcontext():
            states = [self._decode_one_layer(scene, sensor) for sensor in range(len(MODALITIES))]
            logits = [torch.cat([head.of_layer('cls_logits', state, 0) for head in self.task_heads], dim=-1)
                      for state in states]
        return Looks(*states, *logits)

    def _can_share(self, scene):
        return scene.stand_ins is not None and self.transformer.can_share(scene.x.device)

    def _decode_one_layer(self, scene, sensor):
        """Queries (B, Q, C) after the first layer, with all sensors but one (of ``MODALITIES``) blank."""
        if not self._can_share(scene):
            features = [own if index == sensor else blank.expand_as(own)
                        for index, (own, blank) in enumerate(zip((scene.x, scene.x_img), scene.stand_ins))]
            return scene.decode(*features, num_layers=1)[0][0]
        # The same by a bias, so that both looks and the decoder read a token once.
        shapes = self.aqr_bias.segment_shapes(scene.layout.bev_shape, scene.layout.view_shape)
        is_camera = torch.arange(len(shapes), device=scene.x.device) > 0
        values = torch.where(is_camera == (MODALITIES[sensor] == 'camera'), 0.0, -math.inf)  # (S, )
        bias = AttentionBias(values.expand(*scene.query_embed.shape[:2], -1), shapes)
        return scene.decode(scene.x, scene.x_img, stand_ins=scene.stand_ins, aqr_attention_bias=bias, num_layers=1,
                            shared=scene.shared)[0][0]

    def _make_denoising(self, img_metas):
        if self.denoising.num_groups == 0:
            return None
        boxes = [with_gravity_center(_unwrap(meta['gt_bboxes_3d'])) for meta in img_metas]
        labels = [self._checked_labels(_unwrap(meta['gt_labels_3d'])) for meta in img_metas]
        return self.denoising(boxes, labels, self.num_query, like=self.reference_points.weight)

    def _cameras(self, img_metas, like, layout):
        """(lidar2img, img2lidar, image size), or None for a batch without calibration or cameras."""
        if layout.view_shape is None and any('lidar2img' not in meta for meta in img_metas):
            return None
        return *lidar_to_image_matrices(img_metas, like), padded_image_size(img_metas)

    def _query_embed(self, reference_points, cameras):
        """Position embedding of the queries, (B, Q, C)."""
        # Keeps off the borders, as in the box regression.
        reference_points = inverse_sigmoid(reference_points).sigmoid()
        embed = self.bev_embedding(self._encode_bev(reference_points))
        if cameras is None:
            return embed
        rays, seen = query_ray_points(reference_points, *cameras, self.depth_num, self.pc_range)
        # Sum over the views that see the query.
        return embed + (self.rv_embedding(self._encode_rays(rays)) * seen.unsqueeze(-1)).sum(dim=1)

    def _encode_bev(self, positions):
        """Positions (..., >= 2) as fractions of the range -> input of ``bev_embedding``."""
        return sine_encoding(positions, self.hidden_dim, self.position_cycles)

    def _encode_rays(self, rays):
        """Points along rays (..., depth_num * 3) as fractions of the range -> input of ``rv_embedding``."""
        return rays if self.position_cycles is None else octave_encoding(rays, self.position_cycles)

    def _token_embed(self, cameras, layout, like):
        """Position embeddings (H * W, C) of BEV cells and (B * V, h, w, C) of camera cells, None where absent."""
        bev = rv = None
        if layout.bev_shape:
            bev = self.bev_embedding(self._encode_bev(bev_cell_centers(layout.bev_shape, like)))
        if layout.view_shape:
            _, img2lidar, image_size = cameras
            rays = camera_ray_points(img2lidar, image_size, layout.view_shape[1:], self.depth_num, self.pc_range)
            rv = self.rv_embedding(self._encode_rays(rays))
        return bev, rv

    def _apply_aqr_modulation(self, x, x_img, reference_points, img_metas, query_embed=None, denoising=None,
                              look=None):
        """Route queries and turn their weights into a bias; features pass through untouched.

        Args:
            x (Tensor | None): (B, C, H, W) BEV tokens' features.
            x_img (Tensor | None): (B * V, C, h, w).
            reference_points (Tensor): (B, P + Q, 3), denoising queries first.
            img_metas (list[dict]): B.
            query_embed (Tensor | None): (B, P + Q, C), computed from ``reference_points`` if None.
            denoising (DenoisingBatch | None): what the first P queries are.
            look (Callable | None): see ``AQR.route``.

        Returns:
            tuple: ``x`` and ``x_img`` (the same objects), bias (AttentionBias of shape (B, P + Q, F)) or None,
            RoutingRecord or None. Without AQR, or with only one modality present, there is nothing to route
            (docs/design.md, "Degenerate inputs").
        """
        if not self.enable_aqr or x is None or x_img is None:
            return x, x_img, None, None
        layout = TokenLayout.from_features(x, x_img, len(reference_points))
        if query_embed is None:
            query_embed = self._query_embed(reference_points, self._cameras(img_metas, reference_points, layout))
        record = self.aqr.route(query_embed, x, x_img, reference_points, img_metas, self.pc_range, self.bev_cell_size,
                                layout, denoising, self.training, look)
        return x, x_img, record.bias, record

    def _predict_task(self, head, decoded, reference_points, denoising, routing):
        """Branches of one task from decoded queries (L, B, P + Q, C)."""
        out = head(decoded)
        is_finite = True
        if self.training:
            is_finite = bool(torch.stack([torch.isfinite(value).all() for value in out.values()]).all())
        if not is_finite:  # the pass goes on, so that all processes come to the same loss
            out = {name: torch.where(torch.isfinite(value), value, 0) for name, value in out.items()}
        reference = inverse_sigmoid(reference_points)
        offset = torch.cat([out['center'], out['height']], dim=-1)
        position = from_unit_range((offset + reference).sigmoid(), self.pc_range)  # (L, B, P + Q, 3)
        out['center'], out['height'] = position[..., :2], position[..., 2:]
        if denoising is not None:
            pad_size = denoising.pad_size
            noised = {f'dn_{name}': value[:, :, :pad_size] for name, value in out.items()}
            out = {name: value[:, :, pad_size:] for name, value in out.items()}
            out.update(noised, dn_batch=denoising)
        if routing is not None:
            out['routing'] = routing
        if self.training:
            out['is_finite'] = is_finite
        return out

    @force_fp32(apply_to=('preds_dicts', ))
    def loss(self, gt_bboxes_3d, gt_labels_3d, preds_dicts, img_metas=None):
        """Losses of one batch.

        Args:
            gt_bboxes_3d (list[LiDARInstance3DBoxes]): per sample.
            gt_labels_3d (list[Tensor]): per sample (n,).
            preds_dicts (tuple[list[dict]]): what :meth:`forward` returned.
            img_metas (list[dict] | None): per sample; where the router is supervised, with ``failure``.

        Returns:
            dict[str, Tensor]: see :class:`SetCriterion`; and ``loss_aqr`` where queries were routed and
            ``aqr_loss_weight`` is not 0. All are NaN if the forward pass was not finite: then loss scalers and
            NonFiniteLossHook refuse the step, in all processes alike.
        """
        if not self.train_cfg:
            raise ValueError('train_cfg is None: this head was built for inference and has no losses')
        tasks = [task[0] for task in preds_dicts]
        device = tasks[0]['cls_logits'].device
        boxes = [with_gravity_center(boxes).to(device) for boxes in gt_bboxes_3d]
        labels = [self._checked_labels(label.to(device)) for label in gt_labels_3d]
        branches = [{name: value for name, value in task.items() if isinstance(value, torch.Tensor)} for task in tasks]
        losses = self.criterion(branches, boxes, labels, tasks[0].get('dn_batch'))
        routing = tasks[0].get('routing')
        if routing is not None:
            loss_aqr = self.aqr.loss(routing, img_metas, self.pc_range, self.bev_cell_size)
            if loss_aqr is not None:
                losses['loss_aqr'] = loss_aqr
        if not all(task.get('is_finite', True) for task in tasks):
            losses = {name: loss * math.nan for name, loss in losses.items()}
        return losses

    def _checked_labels(self, labels):
        num_classes = self.denoising.num_classes
        if ((labels < 0) | (labels >= num_classes)).any():
            raise ValueError(f'gt_labels_3d must lie in [0, {num_classes}), got {labels.unique().tolist()}; '
                             'ObjectNameFilter removes boxes of other classes')
        return labels

    @force_fp32(apply_to=('preds_dicts', ))
    def get_bboxes(self, preds_dicts, img_metas, rescale=False):
        """Detections per sample: [boxes (``box_type_3d`` of the sample), scores (N,), labels (N,)].

        Labels are positions among the classes of all tasks, or among those of :meth:`report_classes`.

        ``rescale`` is mmdet's convention and has no effect: 3D boxes are metric.

        Raises:
            FloatingPointError: naming the samples whose predictions or boxes are not finite.
        """
        branches = [value[-1] for task in preds_dicts for value in task[0].values() if isinstance(value, torch.Tensor)]
        is_finite = torch.stack([torch.isfinite(value).flatten(1).all(dim=1) for value in branches])  # (branches, B)
        require_finite(is_finite.all(dim=0), img_metas, 'predictions')
        detections = self.bbox_coder.decode(preds_dicts)
        is_finite = torch.stack([torch.isfinite(decoded['bboxes']).all() for decoded in detections])
        require_finite(is_finite, img_metas, 'detected boxes')  # a log size may be finite, the size not
        results = []
        for decoded, meta in zip(detections, img_metas):
            boxes = decoded['bboxes'].clone()
            boxes[:, 2] -= boxes[:, 5] / 2  # gravity center -> bottom center
            result = meta['box_type_3d'](boxes, boxes.shape[-1]), decoded['scores'], decoded['labels']
            if self._reported_classes is not None:
                own = [name for names in self.class_names for name in names]
                result = select_classes(*result, own, self._reported_classes)
            results.append(list(result))
        return results

    def report_classes(self, names):
        """Return detections of some classes alone from now on.

        Args:
            names (Sequence[str]): of `class_names`; labels of detections become positions among them.
        """
        self._reported_classes = list(names)


def _unwrap(value):
    """Content of an mmcv DataContainer, as pipelines put it into ``img_metas``."""
    return getattr(value, 'data', value) if not isinstance(value, torch.Tensor) else value
