import math
import warnings

import torch
from torch import nn

from .attention.attention_bias import AttentionBias
from .token_layout import MODALITIES
from .weight_maps import make_weight_map

RECOMMENDED_STRENGTH = (1, 10)
RECOMMENDED_WINDOW = (5, 25)
# A weight is a float32 number: its rounding alone moves a bias of this strength by up to 0.0006, so that attention is
# exact to 0.1 % here and to 1e-6 in the recommended range. Above, biases would be noise, and gradients overflow.
MAX_STRENGTH = 1e4


class AttentionBiasGenerator(nn.Module):
    """Modality weights of the queries -> additive bias on the cross-attention scores (docs/design.md, "The idea").

    ``bias = (weight - 0.5) * 2 * bias_strength`` on the tokens of a modality: weight 0.5 is neutral. In local mode
    it applies only around the query's projection and fades with the distance there:
    ``bias * max(0, 1 - dist / (window / 2))``, dist Euclidean, in cells. The dense form of :meth:`forward` defines
    correctness; :meth:`compact` gives the same bias as the few numbers that it is made of.

    Args:
        bev_feature_shape (tuple[int, int]): default (H, W) of the BEV map.
        pers_feature_shape (tuple[int, int, int]): default (V, h, w) of the camera features.
        bias_strength (float): alpha, 0 to 1e4; 0 switches the bias off. Recommended: 1 to 10.
        use_local_bias (bool): windows instead of whole modalities.
        local_window_size (int | dict): odd window size in cells, or ``dict(lidar=.., camera=..)``. Recommended: 5 to
            25.
        per_view (bool): in global mode, the camera bias applies only to the views that see the query.
        bias_clip (float | None): largest size of a bias, > 0; weights that ask for more get no gradient from it.
        weight_map (str): how weights become a bias, of ``WEIGHT_MAPS``.

    Attributes:
        strength_factor (float): in [0, 1], multiplies the strength; ``BiasStrengthWarmupHook`` raises it to 1.

    Raises:
        ValueError: for a strength outside [0, 1e4], a window that is not an odd integer >= 1, a clip
            that is not > 0, an unknown map or one that does not keep to its bounds, or ``per_view`` beside
            ``use_local_bias``, whose windows are per view anyway.
    """

    def __init__(self, bev_feature_shape=(180, 180), pers_feature_shape=(6, 40, 100), bias_strength=5.0,
                 use_local_bias=False, local_window_size=15, per_view=False, bias_clip=None, weight_map='linear'):
        super().__init__()
        for name, flag in dict(use_local_bias=use_local_bias, per_view=per_view).items():
            if not isinstance(flag, bool):
                raise TypeError(f'{name} must be True or False, got {flag!r}')
        if per_view and use_local_bias:
            raise ValueError('per_view=True is for global mode; local windows lie only in views that see the query '
                             'anyway')
        self.bev_feature_shape = tuple(bev_feature_shape)
        self.pers_feature_shape = tuple(pers_feature_shape)
        self.bias_strength = check_bias_strength(bias_strength)
        self.use_local_bias = use_local_bias
        self.local_window_size = check_windows(local_window_size)
        self.per_view = per_view
        self.bias_clip = check_bias_clip(bias_clip)
        self.weight_map = weight_map
        self.map = make_weight_map(weight_map, self.bias_strength)
        self.strength_factor = 1.0
        low, high = RECOMMENDED_STRENGTH
        if self.bias_strength and not low <= self.bias_strength <= high:
            warnings.warn(f'bias_strength {bias_strength} is outside the recommended range [{low}, {high}]')
        low, high = RECOMMENDED_WINDOW
        if use_local_bias and not all(low <= size <= high for size in self.local_window_size.values()):
            warnings.warn(f'local_window_size {local_window_size} is outside the recommended range [{low}, {high}]')

    def forward(self, lidar_weights, camera_weights, pts_idx=None, pts_pers_idx=None, pts_pers_valid=None,
                bev_feature_shape=None, pers_feature_shape=None):
        """Dense bias (B, Q, F) in [-bias_strength, bias_strength], F = H * W + V * h * w; arguments as in
        :meth:`compact`.
        """
        return self.compact(lidar_weights, camera_weights, pts_idx, pts_pers_idx, pts_pers_valid, bev_feature_shape,
                            pers_feature_shape).dense()

    def compact(self, lidar_weights, camera_weights, pts_idx=None, pts_pers_idx=None, pts_pers_valid=None,
                bev_feature_shape=None, pers_feature_shape=None):
        """The bias as a few numbers per query.

        Args:
            lidar_weights, camera_weights (Tensor): (B, Q) in [0, 1]. With ``per_view`` camera weights may be (B, Q, V).
            pts_idx (Tensor | None): (B, Q) integer, row * W + col, -1 for queries outside the map. Local mode without
                it falls back to global mode.
            pts_pers_idx (Tensor | None): (B, Q, V, 2) integer (row, col) per view with ``pts_pers_valid``, or (B, Q, 3)
                (view, row, col) with view -1 for none. Without it the camera bias of local mode is global.
            pts_pers_valid (Tensor | None): (B, Q, V) bool, goes with the per-view form.
            bev_feature_shape, pers_feature_shape: shapes of this call's features, instead of the defaults.

        Returns:
            AttentionBias

        Raises:
            ValueError: for weights outside [0, 1], indices outside the maps, or shapes that do not match; with
                ``per_view`` also if ``pts_pers_idx`` is missing.
            TypeError: for indices that are not integers.
        """
        bev_shape = tuple(bev_feature_shape or self.bev_feature_shape)
        if pts_pers_valid is not None and pts_pers_idx is None:
            raise ValueError('pts_pers_valid goes with pts_pers_idx, which is missing')
        view_shape = views, height, width = tuple(pers_feature_shape or self.pers_feature_shape)
        self._check_weights(lidar_weights, camera_weights, views if self.per_view else None)
        # (B, Q, 1), or (B, Q, V) of views that have weights of their own
        lidar, camera = (weights if weights.dim() == 3 else weights.unsqueeze(-1)
                         for weights in map(self.weight_to_bias, (lidar_weights, camera_weights)))
        local = self.use_local_bias and pts_idx is not None
        if not local and not self.per_view:
            return AttentionBias(torch.cat([lidar, camera], dim=-1), self.segment_shapes(bev_shape, view_shape))

        shapes = bev_shape, *[(height, width)] * views
        if self.per_view and pts_pers_idx is None:
            raise ValueError('pts_pers_idx is needed to know which views see a query (per_view=True)')
        if pts_pers_idx is not None:
            view_cells, view_seen = self._view_windows(pts_pers_idx, pts_pers_valid, view_shape, lidar_weights.shape)
        if self.per_view:
            return AttentionBias(torch.cat([lidar, camera * view_seen], dim=-1), shapes)
        bev_cells, bev_seen = self._bev_windows(pts_idx, bev_shape, lidar_weights.shape)
        windows = (self.local_window_size['lidar'], ) + (self.local_window_size['camera'], ) * views
        values = torch.cat([lidar, camera.expand(-1, -1, views)], dim=-1)  # (B, Q, 1 + V)
        if pts_pers_idx is None:
            # not looked at
            view_cells, view_seen = (x.expand(-1, -1, views, *x.shape[3:]) for x in (bev_cells, bev_seen))
            windows = (self.local_window_size['lidar'], ) + (None, ) * views
        return AttentionBias(values, shapes, torch.cat([bev_cells, view_cells], dim=2),
                             torch.cat([bev_seen, view_seen], dim=2), windows)

    def segment_shapes(self, bev_shape, view_shape):
        """(height, width) of each segment of a bias without windows: LiDAR, then the cameras as one or view by view.

        Args:
            bev_shape (tuple[int, int]): (H, W).
            view_shape (tuple[int, int, int]): (V, h, w).
        """
        views, height, width = view_shape
        return bev_shape, *([(height, width)] * views if self.per_view else [(views * height, width)])

    def weight_to_bias(self, weights):
        """Weights in [0, 1] -> bias in [-bias_strength, bias_strength], clipped if asked for; 0.5 -> 0."""
        bias = self.map(weights, self.bias_strength * self.strength_factor)
        return bias if self.bias_clip is None else bias.clamp(-self.bias_clip, self.bias_clip)

    @staticmethod
    def _check_weights(lidar_weights, camera_weights, views):
        allowed = [lidar_weights.shape] if views is None else [lidar_weights.shape, (*lidar_weights.shape, views)]
        if lidar_weights.dim() != 2 or camera_weights.shape not in allowed:
            also = '' if views is None else f', or camera_weights (B, Q, {views})'
            raise ValueError(f'lidar_weights and camera_weights must both be (B, Q){also}, got '
                             f'{tuple(lidar_weights.shape)} and {tuple(camera_weights.shape)}')
        for name, weights in zip(MODALITIES, (lidar_weights, camera_weights)):
            if not ((weights >= 0) & (weights <= 1)).all():
                raise ValueError(f'{name}_weights must lie in [0, 1], got values from {weights.min().item()} to '
                                 f'{weights.max().item()} (NaN: the queries or features that were routed are not '
                                 'finite)')

    @staticmethod
    def _bev_windows(pts_idx, bev_shape, batch_query):
        """Cells (B, Q, 1, 2) as (row, col) and their validity (B, Q, 1)."""
        height, width = bev_shape
        _check_indices('pts_idx', pts_idx, batch_query)
        pts_idx = pts_idx.long()
        if ((pts_idx < -1) | (pts_idx >= height * width)).any():
            raise ValueError(f'pts_idx must be -1 or in [0, {height * width}) for a BEV map of {height}x{width}, got '
                             f'values from {pts_idx.min().item()} to {pts_idx.max().item()}')
        cells = torch.stack([pts_idx.div(width, rounding_mode='floor'), pts_idx % width], dim=-1)
        return cells.unsqueeze(2), (pts_idx >= 0).unsqueeze(2)

    @staticmethod
    def _view_windows(pts_pers_idx, pts_pers_valid, view_shape, batch_query):
        """Cells (B, Q, V, 2) as (row, col) and their validity (B, Q, V), from either form of the indices."""
        views, height, width = view_shape
        if pts_pers_idx.dim() == 3:
            _check_indices('pts_pers_idx', pts_pers_idx, (*batch_query, 3))
            if pts_pers_valid is not None:
                raise ValueError('pts_pers_valid goes with pts_pers_idx of shape (B, Q, V, 2); the form (B, Q, 3) '
                                 'marks unseen queries by view -1')
            view = pts_pers_idx[..., :1]  # (B, Q, 1)
            if ((view < -1) | (view >= views)).any():
                raise ValueError(f'pts_pers_idx: view must be -1 or in [0, {views})')
            seen = view == torch.arange(views, device=view.device)  # (B, Q, V)
            cells = pts_pers_idx[..., None, 1:].expand(-1, -1, views, -1)  # (B, Q, V, 2)
        else:
            _check_indices('pts_pers_idx', pts_pers_idx, (*batch_query, views, 2))
            if pts_pers_valid is None or pts_pers_valid.shape != (*batch_query, views):
                raise ValueError(f'pts_pers_valid must be a bool tensor {(*batch_query, views)} beside pts_pers_idx '
                                 'of shape (B, Q, V, 2), got '
                                 f'{None if pts_pers_valid is None else tuple(pts_pers_valid.shape)}')
            cells, seen = pts_pers_idx, pts_pers_valid.bool()
        row, col = cells.unbind(-1)
        if (seen & ((row < 0) | (row >= height) | (col < 0) | (col >= width))).any():
            raise ValueError(f'pts_pers_idx: a (row, col) of a query that is seen lies outside the {height}x{width} '
                             'feature map')
        return cells, seen

    def extra_repr(self):
        return (f'bias_strength={self.bias_strength}, use_local_bias={self.use_local_bias}, '
                f'local_window_size={self.local_window_size}, per_view={self.per_view}, bias_clip={self.bias_clip}, '
                f'weight_map={self.weight_map}')


def _check_indices(name, indices, shape):
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise TypeError(f'{name} must hold integers, got {indices.dtype}')
    if tuple(indices.shape) != tuple(shape):
        raise ValueError(f'{name} must have shape {tuple(shape)}, got {tuple(indices.shape)}')


def check_bias_strength(bias_strength, argument='bias_strength'):
    """Return a valid strength as float; raise ValueError naming what is allowed otherwise."""
    if isinstance(bias_strength, bool) or not isinstance(bias_strength, (int, float)) \
            or not 0 <= bias_strength <= MAX_STRENGTH:
        raise ValueError(f'{argument} must be a finite number >= 0 and at most {MAX_STRENGTH:g}, got {bias_strength!r}')
    return float(bias_strength)


def check_bias_clip(bias_clip):
    """Return a valid clip as float, or None; raise ValueError naming what is allowed otherwise."""
    if bias_clip is None:
        return None
    if isinstance(bias_clip, bool) or not isinstance(bias_clip, (int, float)) or not math.isfinite(bias_clip) \
            or bias_clip <= 0:
        raise ValueError(f'bias_clip must be None or a finite number > 0, got {bias_clip!r}')
    return float(bias_clip)


def check_windows(window, argument='local_window_size'):
    """Return ``dict(lidar=.., camera=..)`` of odd sizes >= 1; raise ValueError naming what is allowed otherwise."""
    sizes = dict(window) if isinstance(window, dict) else dict.fromkeys(MODALITIES, window)
    if set(sizes) != set(MODALITIES):
        raise ValueError(f'{argument} as a dict needs exactly the keys {MODALITIES}, got {tuple(sizes)}')
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f'{argument} ({name}) must be an odd integer >= 1, got {size!r}')
    return sizes
