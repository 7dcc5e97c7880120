"""Multi-head attention with the parameters of ``nn.MultiheadAttention``, masks and biases."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from .attention_bias import AttentionBias
from .backends import fused_attention


class ScaledDotProductMHA(nn.Module):
    """Multi-head attention over ``scaled_dot_product_attention``, parameters named as in ``nn.MultiheadAttention``.

    Args:
        embed_dims (int): channels C, divisible by ``num_heads``.
        num_heads (int): heads.
        attn_drop (float): dropout on the attention weights.
        bias (bool): biases in the projections.
        qk_norm (float | None): query-key normalization (Henry et al., 2020): the scores are cosines of queries and keys
            times a temperature, one per head, learned in the log domain, at first this value (> 0). It bounds them, so
            that attention cannot saturate on one modality before the other has learned. None: the plain product over
            sqrt(d), as in published checkpoints.
    """

    def __init__(self, embed_dims, num_heads, attn_drop=0.0, bias=True, qk_norm=None):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims must be divisible by num_heads, got {embed_dims} and {num_heads}')
        if qk_norm is not None and not (math.isfinite(qk_norm) and qk_norm > 0):
            raise ValueError(f'qk_norm must be None or a finite number > 0, got {qk_norm}')
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims)) if bias else None
        self.out_proj = nn.Linear(embed_dims, embed_dims, bias=bias)
        self.log_temperature = None
        if qk_norm is not None:
            self.log_temperature = nn.Parameter(torch.full((num_heads, ), math.log(qk_norm)))
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(self, query, key, value, attn_mask=None):
        """(B, Q, C) queries over (B, F, C) keys and values -> (B, Q, C).

        Args:
            attn_mask (Tensor | AttentionBias | None): a tensor broadcastable to (B, heads, Q, F), bool True =
                forbidden, float = added to the scores; or a compact bias, which is applied without being made dense.
        """
        biases = (None, ) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        projected = [F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)
                     for x, weight, bias in zip((query, key, value), self.in_proj_weight.chunk(3), biases)]
        if self.log_temperature is not None:
            projected[:2] = self.normalize_query_key(*projected[:2])
        if isinstance(attn_mask, AttentionBias):
            return self.out_proj(fused_attention(*projected, attn_mask).transpose(1, 2).flatten(2))
        if attn_mask is not None:
            # scaled_dot_product_attention reads bool the other way round: True = allowed.
            attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask.to(projected[0].dtype)
        out = F.scaled_dot_product_attention(*projected, attn_mask=attn_mask,
                                             dropout_p=self.attn_drop if self.training else 0.0)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def normalize_query_key(self, query, key):
        """Queries and keys (B, heads, N, d) whose product over sqrt(d), taken by kernels, is temperature * cosine."""
        wide = torch.promote_types(query.dtype, torch.float32)
        factor = self.log_temperature.to(wide).exp()[:, None, None] * math.sqrt(query.shape[-1])
        query_unit, key_unit = (F.normalize(x.to(wide), dim=-1) for x in (query, key))
        return (query_unit * factor).to(query.dtype), key_unit.to(key.dtype)
