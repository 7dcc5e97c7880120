"""All of adaptive query routing (AQR) behind one door: the head asks for a bias, and in training for a loss."""
from dataclasses import dataclass, fields
from typing import Dict, Optional, Union

import torch
from mmdet.models.utils import build_transformer
from mmdet.models.utils.builder import TRANSFORMER

from ....core.arguments import check_factor, check_flag, check_names
from ....core.finite import require_finite
from ..attention_bias_generator import (
    AttentionBiasGenerator,
    check_bias_clip,
    check_bias_strength,
    check_windows,
)
from ..weight_maps import check_weight_map
from .bias_strength_per_head import BiasStrengthPerHead
from .routing_record import RoutingRecord, best_view_weights
from .supervision import TARGETS, routing_loss, routing_targets, targets_of_views, views_lost

BLANK_POINTS = ('origin', 'none')
PREFIX = 'aqr_'  # of a head's arguments, attributes and state-dict keys that belong to AQR


@dataclass(frozen=True)
class AQROptions:
    """The arguments of a head that begin with ``aqr_``, here without that prefix.

    They are checked where AQR is off, too: a mistake should show before it matters.

    Attributes:
        bias_strength (float): see :class:`AttentionBiasGenerator`.
        use_local_bias (bool): windows instead of whole modalities.
        local_window_size (int | dict): odd, in cells, or ``dict(lidar=.., camera=..)``.
        per_view (bool): in global mode, bias only the views that see the query.
        bias_denoising (bool): False leaves denoising queries neutral.
        bias_clip (float | None): see :class:`AttentionBiasGenerator`.
        weight_map (str): how weights become a bias, see :class:`AttentionBiasGenerator`.
        stand_ins (bool | str): what a negative bias takes from a sensor goes to that sensor's blank tokens
            (:func:`with_stand_ins`), not to the other sensor; for whole segments only. 'looks': blank tokens are made
            for the router's looks alone.
        blank_points (str): what a blank LiDAR gives, of ``BLANK_POINTS``: points at the 'origin', as CMT's training has
            them, or 'none'.
        strength_per_head (bool): learn a factor of the strength for every layer and head
            (:class:`BiasStrengthPerHead`).
        loss_weight (float): weight >= 0 of ``loss_aqr``, which teaches the router where simulated failures struck
            (:func:`routing_targets`); 0 for no such loss.
        targets (str): what the router is taught, of ``TARGETS``.
        router (dict | None): changes to the router's config, default type ``AQRWeightGenerator``;
            ``ConferringRouter`` needs ``stand_ins``, and with ``per_view`` those of the bias and 'trust' as targets.

    Raises:
        TypeError: for flags that are not True or False.
        ValueError: for numbers out of range, naming what is allowed.
    """

    bias_strength: float = 5.0
    use_local_bias: bool = False
    local_window_size: Union[int, Dict[str, int]] = 15
    per_view: bool = False
    bias_denoising: bool = True
    bias_clip: Optional[float] = None
    weight_map: str = 'linear'
    stand_ins: Union[bool, str] = False
    blank_points: str = 'origin'
    strength_per_head: bool = False
    loss_weight: float = 0.0
    targets: str = 'preference'
    router: Optional[Dict] = None

    def __post_init__(self):
        for option in fields(self):
            if option.type is bool:
                check_flag(f'{PREFIX}{option.name}', getattr(self, option.name))
        if not isinstance(self.stand_ins, bool) and self.stand_ins != 'looks':
            raise TypeError(f"{PREFIX}stand_ins must be True or False, or 'looks', got {self.stand_ins!r}")
        check_bias_strength(self.bias_strength, f'{PREFIX}bias_strength')
        check_windows(self.local_window_size, f'{PREFIX}local_window_size')
        check_bias_clip(self.bias_clip)
        check_weight_map(self.weight_map)
        if self.blank_points not in BLANK_POINTS:
            raise ValueError(f'{PREFIX}blank_points must be one of {BLANK_POINTS}, got {self.blank_points!r}')
        if self.targets not in TARGETS:
            raise ValueError(f'{PREFIX}targets must be one of {list(TARGETS)}, got {self.targets!r}')
        if self.stand_ins is True and self.use_local_bias:
            raise ValueError(f'{PREFIX}stand_ins=True needs whole segments, but {PREFIX}use_local_bias=True biases '
                             f'windows; {PREFIX}per_view=True biases the views that see a query')
        kind = (self.router or {}).get('type', 'AQRWeightGenerator')
        cls = TRANSFORMER.get(kind) if isinstance(kind, str) else kind
        if getattr(cls, 'needs_looks', False) and not self.stand_ins:
            raise ValueError(f'{PREFIX}router: {kind} looks with one sensor at a time, the other one blank, '
                             f"and needs {PREFIX}stand_ins=True or 'looks'")
        if (self.router or {}).get('per_view') and not (self.per_view and self.targets == 'trust'):
            raise ValueError(f"{PREFIX}router: per_view=True needs {PREFIX}per_view=True, by which each view has a "
                             f"bias of its own, and {PREFIX}targets='trust', got {self.per_view} and {self.targets!r}")
        check_factor(f'{PREFIX}loss_weight', self.loss_weight)

    @classmethod
    def of_head(cls, arguments, others=()):
        """From keyword arguments of a head.

        Args:
            arguments (dict): names with the prefix ``aqr_`` and values.
            others (Sequence[str]): further arguments of that head, to propose one in place of a misspelt name.

        Raises:
            TypeError: for a name that no argument has, proposing similar ones.
        """
        known = {f'{PREFIX}{option.name}': option.name for option in fields(cls)}
        check_names(arguments, known, others)
        return cls(**{known[name]: value for name, value in arguments.items()})


def build_aqr_parts(options, embed_dims, decoder):
    """Build what of AQR learns or is configured; a head holds it as ``aqr_router``, ``aqr_bias`` and
    ``aqr_head_strength``.

    Args:
        options (AQROptions): of the head.
        embed_dims (int): channels of queries and tokens.
        decoder (PETRTransformerDecoder): whose cross-attention is biased.

    Returns:
        tuple[nn.Module, AttentionBiasGenerator, BiasStrengthPerHead | None]: router, bias and strengths.
    """
    router = build_transformer({'type': 'AQRWeightGenerator', 'embed_dims': embed_dims, **(options.router or {})})
    bias = AttentionBiasGenerator(
        bias_strength=options.bias_strength, use_local_bias=options.use_local_bias,
        local_window_size=options.local_window_size, per_view=options.per_view, bias_clip=options.bias_clip,
        weight_map=options.weight_map)
    head_strength = None
    if options.strength_per_head:
        attention = decoder.layers[0].attentions[decoder.attention_slot('cross_attn')]
        head_strength = BiasStrengthPerHead(len(decoder.layers), attention.num_heads, options.bias_clip)
    return router, bias, head_strength


class AQR:
    """Routes the queries of a head, turns their weights into a bias, and supervises the router.

    A view of parts that the head owns, so that their state-dict keys are those of published AQR checkpoints.

    Args:
        router (nn.Module): query embedding, features, reference points, ... -> LiDAR and camera weights (B, Q) in
            [0, 1] and ``QueryProjections``; see ``AQRWeightGenerator``. Camera weights may be (B, Q, V), one a view. A
            class that sets ``needs_looks`` gets looks and has a flag ``detach``, see ``ConferringRouter``.
        bias (AttentionBiasGenerator): weights and projections -> bias.
        head_strength (BiasStrengthPerHead | None): one bias -> a bias for each decoder layer.
        options (AQROptions): of the head.
    """

    def __init__(self, router, bias, head_strength, options):
        self.router = router
        self.bias = bias
        self.head_strength = head_strength
        self.bias_denoising = options.bias_denoising
        self.loss_weight = options.loss_weight
        self.targets = options.targets

    def route(self, query_embed, x, x_img, reference_points, img_metas, pc_range, bev_cell_size, layout,
              denoising=None, training=False, look=None):
        """Weigh LiDAR against cameras for every query.

        Args:
            query_embed (Tensor): (B, P + Q, C), denoising queries first.
            x (Tensor): (B, C, H, W) BEV features.
            x_img (Tensor): (B * V, C, h, w) camera features.
            reference_points (Tensor): (B, P + Q, 3), fractions of the detection range.
            img_metas (list[dict]): B dicts with ``lidar2img`` and ``pad_shape``.
            pc_range (list[float]): detection range, m.
            bev_cell_size (tuple[float, float]): (x, y) size of a BEV cell, m.
            layout (TokenLayout): of the features.
            denoising (DenoisingBatch | None): what the first P queries are.
            look (Callable | None): takes nothing, returns the ``Looks`` of the queries; for routers that need them.
            training (bool): weights that are not finite count as neutral; the loss will show them.

        Returns:
            RoutingRecord: its bias has shape (B, P + Q, F).

        Raises:
            FloatingPointError: not in training, naming the samples whose weights are not finite.
        """
        batch, num_query, _ = reference_points.shape
        pad_size = 0 if denoising is None else denoising.pad_size
        is_learned = torch.arange(num_query, device=reference_points.device) >= pad_size
        is_used = torch.ones(batch, num_query, dtype=torch.bool, device=reference_points.device)
        if denoising is not None:
            is_used[:, :pad_size] = denoising.occupied
        evidence = {}
        if getattr(self.router, 'needs_looks', False):
            # Denoising queries know the truth: they are judged, but do not tell on the sensors.
            evidence = dict(looks=look(), has_say=is_learned.expand(batch, -1))
        lidar_weights, camera_weights, projections = self.router(
            query_embed, x, x_img, reference_points, img_metas, pc_range, bev_cell_size, layout, **evidence)
        if training:
            lidar_weights, camera_weights = (w.nan_to_num(nan=0.5) for w in (lidar_weights, camera_weights))
        else:
            is_finite = torch.stack([torch.isfinite(w).flatten(1).all(dim=1) for w in (lidar_weights, camera_weights)])
            require_finite(is_finite.all(dim=0), img_metas, 'LiDAR and camera weights of the queries')
        if not self.bias_denoising:
            lidar_weights, camera_weights = (torch.where(is_learned.view(-1, *[1] * (w.dim() - 2)), w, 0.5)
                                             for w in (lidar_weights, camera_weights))
        view_weights = None
        if camera_weights.dim() == 3:
            view_weights = torch.where(projections.pts_pers_valid, camera_weights, 0.5)
            camera_weights = best_view_weights(camera_weights, projections.pts_pers_valid)
        # Also at strength 0: distributed training expects the router to take part in every step.
        bias = self.bias.compact(lidar_weights, camera_weights if view_weights is None else view_weights,
                                 projections.pts_idx, projections.pts_pers_idx,
                                 projections.pts_pers_valid, layout.bev_shape, layout.view_shape)
        return RoutingRecord(lidar_weights, camera_weights, projections, is_learned, is_used,
                             reference_points.detach(), bias, evidence.get('looks'), view_weights)

    def bias_of_layers(self, bias):
        """AttentionBias (B, Q, F) -> the same for all layers, or a list with one (B, heads, Q, F) for each."""
        return bias if self.head_strength is None else self.head_strength(bias)

    def loss(self, record, img_metas, pc_range, bev_cell_size):
        """Weighted cross entropy of the learned queries' weights; None where the router is not supervised.

        Args:
            record (RoutingRecord): of the batch.
            img_metas (list[dict] | None): B dicts with ``failure`` (FailureRecord).
            pc_range, bev_cell_size: see :meth:`route`.

        Raises:
            ValueError: if ``img_metas`` or a failure record is missing.
        """
        if not self.loss_weight:
            return None
        if img_metas is None:
            raise ValueError('img_metas are needed to supervise the router (aqr_loss_weight > 0)')
        targets = routing_targets(record, img_metas, pc_range, bev_cell_size, self.targets)
        camera_weights = record.camera_weights
        if record.view_weights is not None:
            camera_weights, seen = record.view_weights, record.projections.pts_pers_valid
            targets = targets_of_views(targets, seen, views_lost(img_metas, seen))
        return self.loss_weight * routing_loss(record.lidar_weights, camera_weights, targets,
                                               record.is_used & record.is_learned)
