import math

import torch
from mmcv.runner import BaseModule
from mmdet.models.utils.builder import TRANSFORMER
from torch import nn
from torch.nn import functional as F

from ..attention.attention_bias import window_offsets
from ..attention_bias_generator import check_windows
from .query_projection import project_queries


def gather_rows(table, index):
    """Rows (*N, C) of a table (M, C) at (*N) indices.

    Indexing would do the same, but on CPU its backward adds with atomics, in an order that differs from run to run as
    soon as there are two threads. That of an embedding gives every row to one thread: the same sums bit for bit.
    """
    return F.embedding(index, table)


class WindowAttention(nn.Module):
    """Each query attends to the feature cells around its projections (LAM; docs/design.md, "The router").

    Each of the P (query, view) pairs attends to its window: to gathered keys, (P, window ** 2), or to the whole map
    with all cells outside forbidden, where that is faster. A query seen by several views attends to all their windows
    in one softmax, which the pairs' log-sum-exps give; one that is seen by none gets zeros.

    Args:
        embed_dims (int): channels C of queries and tokens.
        attn_dims (int): channels of the attention, divisible by ``num_heads``.
        num_heads (int): heads.
        window (int): odd window size in cells.
        whole_map (int): maps of up to so many times the window's cells are read whole, for all queries in a view at
            once: products of matrices are that much faster than gathering.
    """

    def __init__(self, embed_dims, attn_dims, num_heads, window, whole_map=20):
        super().__init__()
        self.whole_map = whole_map
        self.num_heads = num_heads
        self.window = window
        self.query = nn.Linear(embed_dims, attn_dims)
        self.key = nn.Linear(embed_dims, attn_dims)
        self.value = nn.Linear(embed_dims, attn_dims)
        self.relative_position = nn.Parameter(torch.zeros(num_heads, window * window))

    def forward(self, query, features, cells, seen):
        """Attend.

        Args:
            query (Tensor): (B, Q, C).
            features (Tensor): (B, V, h, w, C); V = 1 for the BEV map.
            cells (Tensor): (B, Q, V, 2) int64 (row, col).
            seen (Tensor): (B, Q, V) bool.

        Returns:
            Tensor: (B, Q, attn_dims).
        """
        batch, num_query, _ = query.shape
        heads = self.num_heads
        flat = features.flatten(0, 3)  # (B * V * h * w, C)
        tokens = torch.cat([self.key(flat), self.value(flat)], dim=-1).view(*features.shape[:4], -1)
        queries = self.query(query).flatten(0, 1) / math.sqrt(self.query.out_features // heads)  # (B * Q, attn_dims)
        pairs = seen.nonzero()  # (P, 3) sample, query, view
        is_small = features.shape[2] * features.shape[3] <= self.whole_map * self.window ** 2
        attend = self._attend_to_maps if is_small else self._attend_to_gathered
        owner, out, lse = attend(queries, tokens, cells, pairs, num_query)

        # One softmax over all windows of a query: those of its pairs, weighted by their log-sum-exps.
        peak = lse.new_full((batch * num_query, heads), -math.inf)
        peak = peak.scatter_reduce(0, owner.unsqueeze(1).expand(-1, heads), lse.detach(), 'amax')
        share = (lse - peak[owner]).exp()  # (P, heads)
        total = share.new_zeros(batch * num_query, heads).index_add(0, owner, share)
        merged = out.new_zeros(batch * num_query, *out.shape[1:]).index_add(0, owner, out * share.unsqueeze(-1))
        merged = merged / total.clamp(min=1).unsqueeze(-1)  # the peak alone adds 1; less: no window sees the query
        return merged.flatten(1).unflatten(0, (batch, num_query)).to(query.dtype)

    def _attend_to_gathered(self, queries, tokens, cells, pairs, num_query):
        """Attention of each pair to its window.

        Args:
            queries (Tensor): (B * Q, attn_dims), scaled.
            tokens (Tensor): (B, V, h, w, 2 attn_dims), keys and values.
            cells (Tensor): (B, Q, V, 2) int64.
            pairs (Tensor): (P, 3) int64, sample, query and view.
            num_query (int): Q.

        Returns:
            tuple[Tensor, Tensor, Tensor]: owner (P,), which of the queries; output (P, heads, d) and log-sum-exp of
            the scores (P, heads), float32.
        """
        _, views, height, width, _ = tokens.shape
        sample, query_index, view = pairs.unbind(-1)
        offsets = window_offsets(self.window, cells.device)  # (n, 2)
        row, col = (cells[sample, query_index, view].unsqueeze(1) + offsets).unbind(-1)  # (P, n)
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)  # (P, n)
        token = ((sample * views + view).unsqueeze(1) * height + row) * width + col
        token = torch.where(inside, token, torch.zeros_like(token))  # masked below
        gathered = gather_rows(tokens.flatten(0, 3), token).unflatten(-1, (2, self.num_heads, -1))
        keys, values = gathered.unbind(2)  # (P, n, heads, d)
        owner = sample * num_query + query_index
        own = gather_rows(queries, owner).unflatten(-1, (1, self.num_heads, -1))  # (P, 1, heads, d)
        scores = (own * keys).sum(dim=-1) + self.relative_position.t()  # (P, n, heads)
        scores = scores.float().masked_fill(~inside.unsqueeze(-1), -math.inf)  # the window's center is always inside
        lse = scores.logsumexp(dim=1)  # (P, heads)
        weights = (scores - lse.unsqueeze(1)).exp()
        return owner, (weights.unsqueeze(-1) * values.float()).sum(dim=1), lse

    def _attend_to_maps(self, queries, tokens, cells, pairs, num_query):
        """As :meth:`_attend_to_gathered`, view by view: pairs attend to the whole map, forbidden outside windows."""
        owners, outs, lses = [], [], []
        outside = self.relative_position.new_full((1, self.num_heads), -math.inf)
        position = torch.cat([self.relative_position.t(), outside])  # (window ** 2 + 1, heads)
        for sample, view in torch.cartesian_prod(*map(torch.arange, tokens.shape[:2])).tolist():
            index = pairs[(pairs[:, 0] == sample) & (pairs[:, 2] == view), 1]  # (n,)
            owner = sample * num_query + index
            own = gather_rows(queries, owner).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)  # (heads, n, d)
            # (h * w, heads, d) each
            keys, values = tokens[sample, view].flatten(0, 1).unflatten(-1, (2, self.num_heads, -1)).unbind(1)
            place = self._place_in_window(cells[sample, index, view], tokens.shape[2:4])  # (n, h * w)
            scores = own @ keys.permute(1, 2, 0) + gather_rows(position, place).permute(2, 0, 1)
            scores = scores.float()  # (heads, n, h * w)
            lse = scores.logsumexp(dim=-1)
            out = (scores - lse.unsqueeze(-1)).exp() @ values.float().transpose(0, 1)  # (heads, n, d)
            owners, outs, lses = [*owners, owner], [*outs, out.transpose(0, 1).float()], [*lses, lse.t()]
        return tuple(map(torch.cat, (owners, outs, lses)))

    def _place_in_window(self, cells, shape):
        """Which cell of the window (n, h * w) each cell of a map is, for windows around cells (n, 2); window ** 2 for
        those outside.
        """
        row, col = (torch.arange(size, device=cells.device) - center.unsqueeze(-1) + self.window // 2
                    for size, center in zip(shape, cells.unbind(-1)))  # (n, h), (n, w)
        row_in, col_in = ((place >= 0) & (place < self.window) for place in (row, col))
        place = (row * self.window).unsqueeze(2) + col.unsqueeze(1)  # (n, h, w)
        return torch.where(row_in.unsqueeze(2) & col_in.unsqueeze(1), place, self.window ** 2).flatten(1)


@TRANSFORMER.register_module()
class AQRWeightGenerator(BaseModule):
    """Adaptive query router: how far each query should trust each sensor (after MoME, Park et al., CVPR 2025).

    Two window attentions gather what LiDAR and cameras have to offer at the query's place; an MLP turns query and
    evidence into two logits. Its last layer starts at zero, so a fresh router gives weights of exactly 0.5, which is
    neutral.

    Args:
        embed_dims (int): channels C of queries and tokens.
        windows (int | dict): odd window size in cells, or ``dict(lidar=5, camera=15)``, the default.
        attn_dims (int): channels of the window attentions.
        num_heads (int): heads of the window attentions.
        hidden_dims (int): channels of the MLP's hidden layer.

    Raises:
        ValueError: for a window that is not an odd integer >= 1, or ``attn_dims`` not divisible by ``num_heads``.
    """

    def __init__(self, embed_dims, windows=None, attn_dims=64, num_heads=4, hidden_dims=128):
        super().__init__()
        if attn_dims % num_heads:
            raise ValueError(f'attn_dims must be divisible by num_heads, got {attn_dims} and {num_heads}')
        windows = check_windows(dict(lidar=5, camera=15) if windows is None else windows, 'aqr_router.windows')
        self.lidar_attention = WindowAttention(embed_dims, attn_dims, num_heads, windows['lidar'])
        self.camera_attention = WindowAttention(embed_dims, attn_dims, num_heads, windows['camera'])
        in_dims = embed_dims + 2 * attn_dims
        self.mlp = nn.Sequential(nn.LayerNorm(in_dims), nn.Linear(in_dims, hidden_dims), nn.ReLU(inplace=True),
                                 nn.Linear(hidden_dims, 2))
        self._start_neutral()

    def init_weights(self):
        """Neutral start, whatever a parent's ``init_cfg`` did before (docs/design.md, "Contracts")."""
        super().init_weights()
        self._start_neutral()

    def _start_neutral(self):
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, query_embed, x, x_img, reference_points, img_metas, pc_range, bev_cell_size, layout):
        """Route queries.

        Args:
            query_embed (Tensor): (B, Q, C).
            x (Tensor): (B, C, H, W) BEV features.
            x_img (Tensor): (B * V, C, h, w) camera features.
            reference_points (Tensor): (B, Q, 3), fractions of the detection range.
            img_metas (list[dict]): B dicts with ``lidar2img`` and ``pad_shape``.
            pc_range (list[float]): detection range, m.
            bev_cell_size (tuple[float, float]): (x, y) size of a BEV cell, m.
            layout (TokenLayout): of ``x`` and ``x_img``.

        Returns:
            tuple[Tensor, Tensor, QueryProjections]: LiDAR and camera weights (B, Q) in [0, 1], float32, and the
            projections.
        """
        batch = query_embed.shape[0]
        projections = project_queries(reference_points, img_metas, pc_range, bev_cell_size, layout)
        width = layout.bev_shape[1]
        bev_cells = torch.stack([projections.pts_idx.div(width, rounding_mode='floor'), projections.pts_idx % width],
                                dim=-1)
        lidar = self.lidar_attention(query_embed, x.permute(0, 2, 3, 1).unsqueeze(1), bev_cells.unsqueeze(2),
                                     (projections.pts_idx >= 0).unsqueeze(2))
        camera = self.camera_attention(query_embed, x_img.unflatten(0, (batch, -1)).permute(0, 1, 3, 4, 2),
                                       projections.pts_pers_idx, projections.pts_pers_valid)
        logits = self.mlp(torch.cat([query_embed, lidar, camera], dim=-1))  # (B, Q, 2)
        lidar_weights, camera_weights = logits.float().sigmoid().unbind(-1)
        return lidar_weights, camera_weights, projections
