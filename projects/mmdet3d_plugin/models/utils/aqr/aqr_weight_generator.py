import math

import torch
from mmcv.runner import BaseModule
from mmdet.models.utils.builder import TRANSFORMER
from torch import nn
from torch.nn import functional as F

from ..attention_bias_generator import check_windows
from .query_projection import project_queries


def window_offsets(window, device):
    """(window ** 2, 2) int64 offsets (row, col) of the cells of an odd square window from its center."""
    reach = torch.arange(window, device=device) - window // 2
    return torch.cartesian_prod(reach, reach).view(-1, 2)


def gather_rows(table, index):
    """Rows (*N, C) of a table (M, C) at (*N) indices.

    Indexing would do the same, but on CPU its backward adds with atomics, in an order that differs from run to run as
    soon as there are two threads. That of an embedding gives every row to one thread: the same sums bit for bit.
    """
    return F.embedding(index, table)


class WindowAttention(nn.Module):
    """Each query attends to the feature cells around its projections (LAM; docs/design.md, "The router").

    Windows are gathered, (P, window ** 2) keys for P (query, view) pairs; no (Q, tokens) mask is ever built. A query
    seen by several views attends to all their windows in one softmax; one that is seen by none gets zeros.

    Args:
        embed_dims (int): channels C of queries and tokens.
        attn_dims (int): channels of the attention, divisible by ``num_heads``.
        num_heads (int): heads.
        window (int): odd window size in cells.
    """

    def __init__(self, embed_dims, attn_dims, num_heads, window):
        super().__init__()
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
        views, height, width = features.shape[1:4]
        heads = self.num_heads
        sample, query_index, view = seen.nonzero(as_tuple=True)  # (P,) each
        offsets = window_offsets(self.window, cells.device)  # (n, 2)
        row, col = (cells[sample, query_index, view].unsqueeze(1) + offsets).unbind(-1)  # (P, n)
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        token = ((sample * views + view).unsqueeze(1) * height + row) * width + col
        token = torch.where(inside, token, torch.zeros_like(token))  # masked below

        flat = features.flatten(0, 3)  # (B * V * h * w, C)
        # (P, n, heads, d)
        keys, values = (gather_rows(layer(flat), token).unflatten(-1, (heads, -1)) for layer in (self.key, self.value))
        owner = sample * num_query + query_index  # (P,)
        queries = gather_rows(self.query(query).flatten(0, 1), owner).unflatten(-1, (heads, -1))  # (P, heads, d)
        scores = torch.einsum('phd,pnhd->phn', queries, keys) / math.sqrt(keys.shape[-1]) + self.relative_position
        scores = scores.float().masked_fill(~inside.unsqueeze(1), -math.inf)  # the window's center is always inside

        # Softmax over all windows of a query: numerators per pair, merged by the query they belong to.
        peak = scores.new_full((batch * num_query, heads), -math.inf)
        peak = peak.scatter_reduce(0, owner.unsqueeze(1).expand(-1, heads), scores.detach().amax(-1), 'amax')
        exp = (scores - peak[owner].unsqueeze(-1)).exp()  # (P, heads, n)
        total = exp.new_zeros(batch * num_query, heads).index_add(0, owner, exp.sum(-1))
        pooled = torch.einsum('phn,pnhd->phd', exp, values.float())
        out = pooled.new_zeros(batch * num_query, *pooled.shape[1:]).index_add(0, owner, pooled)  # (B * Q, heads, d)
        out = out / total.clamp(min=1).unsqueeze(-1)  # the peak alone adds 1; less means that no window sees the query
        return out.flatten(1).unflatten(0, (batch, num_query)).to(query.dtype)


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
