"""Attention modules under the names that CMT configs and checkpoints use. Both honour every mask they are given."""
import math

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import build_dropout
from mmcv.cnn.bricks.registry import ATTENTION
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmcv.runner import BaseModule
from torch import nn


@ATTENTION.register_module()
class PETRMultiheadAttention(MultiheadAttention):
    """mmcv's ``MultiheadAttention`` (``nn.MultiheadAttention``), which also takes a mask or bias per sample.

    ``attn_mask`` may be (Q, F), (B, Q, F), shared by the heads, or (B * num_heads, Q, F); bool True = forbidden, float = added.
    """

    def forward(self, query, *args, attn_mask=None, **kwargs):
        if attn_mask is not None and attn_mask.dim() == 3:
            batch = query.shape[0 if self.batch_first else 1]
            if attn_mask.shape[0] == batch != batch * self.num_heads:
                attn_mask = attn_mask.repeat_interleave(self.num_heads, dim=0)  # (B * heads, Q, F)
            # nn.MultiheadAttention wants the mask in the queries' type.
            if attn_mask.is_floating_point():
                attn_mask = attn_mask.to(query.dtype)
        return super().forward(query, *args, attn_mask=attn_mask, **kwargs)


class ScaledDotProductMHA(nn.Module):
    """Multi-head attention over ``scaled_dot_product_attention``, parameters named as in ``nn.MultiheadAttention``.

    Args:
        embed_dims (int): channels C, divisible by ``num_heads``.
        num_heads (int): heads.
        attn_drop (float): dropout on the attention weights.
        bias (bool): biases in the projections.
    """

    def __init__(self, embed_dims, num_heads, attn_drop=0.0, bias=True):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims must be divisible by num_heads, got {embed_dims} and {num_heads}')
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims)) if bias else None
        self.out_proj = nn.Linear(embed_dims, embed_dims, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(self, query, key, value, attn_mask=None):
        """(B, Q, C) queries over (B, F, C) keys and values -> (B, Q, C).

        Args:
            attn_mask (Tensor | None): broadcastable to (B, heads, Q, F); bool True = forbidden, float = added to the scores.
        """
        biases = (None, ) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        projected = [F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)
                     for x, weight, bias in zip((query, key, value), self.in_proj_weight.chunk(3), biases)]
        if attn_mask is not None:
            # scaled_dot_product_attention reads bool the other way round: True = allowed.
            attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask.to(projected[0].dtype)
        out = F.scaled_dot_product_attention(*projected, attn_mask=attn_mask,
                                             dropout_p=self.attn_drop if self.training else 0.0)
        return self.out_proj(out.transpose(1, 2).flatten(2))


@ATTENTION.register_module()
class PETRMultiheadFlashAttention(BaseModule):
    """CMT's cross-attention, with a bias that reaches the scores.

    The published class hands its work to flash-attn and drops ``attn_mask``; this one goes through PyTorch's
    ``scaled_dot_product_attention``, on any device, and honours it (design section 2.6).

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads.
        attn_drop (float): dropout on the attention weights.
        proj_drop (float): dropout after the output projection.
        dropout_layer (dict | None): dropout on the residual path.
        dropout (float | None): as in published configs: sets the dropout of the residual path only. Published
            checkpoints were trained without attention dropout here (design section 2.11).
        batch_first (bool): inputs are (B, N, C) instead of (N, B, C).
        bias (bool): biases in the projections.
        init_cfg (dict | None): as in mmcv.
    """

    def __init__(self, embed_dims, num_heads, attn_drop=0.0, proj_drop=0.0, dropout_layer=None, dropout=None,
                 batch_first=False, bias=True, init_cfg=None):
        super().__init__(init_cfg)
        if dropout is not None and dropout_layer is not None:
            raise ValueError(f'dropout ({dropout}) and dropout_layer ({dropout_layer}) both set the residual dropout; give one')
        if dropout is not None:
            dropout_layer = dict(type='Dropout', drop_prob=dropout)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.batch_first = batch_first
        self.attn = ScaledDotProductMHA(embed_dims, num_heads, attn_drop, bias)
        self.proj_drop = nn.Dropout(proj_drop)
        self.dropout_layer = build_dropout(dropout_layer) if dropout_layer else nn.Identity()

    def forward(self, query, key=None, value=None, identity=None, query_pos=None, key_pos=None, attn_mask=None,
                key_padding_mask=None):
        """Attention with positions and a residual connection, as mmcv's ``MultiheadAttention``.

        Args:
            query (Tensor): (Q, B, C), or (B, Q, C) with ``batch_first``; so are the others.
            key, value (Tensor | None): (F, B, C); default: query, key.
            identity (Tensor | None): residual, default: query.
            query_pos, key_pos (Tensor | None): added to query and key; ``key_pos`` defaults to ``query_pos`` where shapes agree.
            attn_mask (Tensor | None): (Q, F), (B, Q, F) shared by the heads, or (B * heads, Q, F);
                bool True = forbidden, float = added to the scores.
            key_padding_mask (Tensor | None): (B, F) bool, True = no key.

        Returns:
            Tensor: of the shape of ``query``.
        """
        key = query if key is None else key
        value = key if value is None else value
        identity = query if identity is None else identity
        if key_pos is None and query_pos is not None and query_pos.shape == key.shape:
            key_pos = query_pos
        query = query if query_pos is None else query + query_pos
        key = key if key_pos is None else key + key_pos
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # (B, N, C)
        out = self.attn(query, key, value, self._merge_masks(attn_mask, key_padding_mask, query.shape[0]))
        if not self.batch_first:
            out = out.transpose(0, 1)  # (Q, B, C)
        return identity + self.dropout_layer(self.proj_drop(out))

    def _merge_masks(self, attn_mask, key_padding_mask, batch):
        """One mask broadcastable to (B, heads, Q, F), or None."""
        if attn_mask is not None and attn_mask.dim() == 3:
            if attn_mask.shape[0] == batch:
                attn_mask = attn_mask.unsqueeze(1)  # (B, 1, Q, F)
            elif attn_mask.shape[0] == batch * self.num_heads:
                attn_mask = attn_mask.unflatten(0, (batch, self.num_heads))  # (B, heads, Q, F)
            else:
                raise ValueError(f'attn_mask must be (Q, F), (B, Q, F) or (B * heads, Q, F) with B = {batch} and heads = '
                                 f'{self.num_heads}, got {tuple(attn_mask.shape)}')
        if key_padding_mask is None:
            return attn_mask
        padding = key_padding_mask.bool()[:, None, None]  # (B, 1, 1, F)
        if attn_mask is None:
            return padding
        if attn_mask.dtype == torch.bool:
            return attn_mask | padding
        return attn_mask.masked_fill(padding, -math.inf)
