"""Multi-head attention with the parameters of ``nn.MultiheadAttention``, masks and biases."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from .attention_bias import AttentionBias
from .backends import check_fits, fused_attention
from .cpu_tiles import chunked_attention
from .key_chunks import can_chunk
from .shared_parts import shared_attention


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
        query = self._query_heads(query)
        if isinstance(attn_mask, AttentionBias):
            return self.out_proj(self._biased(query, key, value, attn_mask).transpose(1, 2).flatten(2))
        projected = query, *self._key_value_heads(key, value)
        if attn_mask is not None:
            # scaled_dot_product_attention reads bool the other way round: True = allowed.
            attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask.to(query.dtype)
        out = F.scaled_dot_product_attention(*projected, attn_mask=attn_mask,
                                             dropout_p=self.attn_drop if self.training else 0.0)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _biased(self, query, key, value, bias):
        """(B, heads, Q, d) queries over (B, F, C) keys and values -> (B, heads, Q, d)."""
        if not can_chunk(query.device):
            return fused_attention(query, *self._key_value_heads(key, value), bias)
        check_fits(bias, query, key.shape[1])
        if bias.parts:
            return shared_attention(query, lambda keys: self._key_value_heads(key[:, keys], value[:, keys]), bias)
        return chunked_attention(
            query, lambda batch, keys: self._key_value_heads(key[batch, keys], value[batch, keys]), bias)

    def _query_heads(self, query):
        """(B, Q, C) -> (B, heads, Q, d), as scores take them."""
        query = self._project(query, 0)
        return query if self.log_temperature is None else self.normalize_query(query)

    def _key_value_heads(self, key, value):
        """Two (B, F, C) -> two (B, heads, F, d), as scores and outputs take them."""
        key, value = self._project(key, 1), self._project(value, 2)
        return key if self.log_temperature is None else self.normalize_key(key), value

    def _project(self, x, index):
        """(B, N, C) -> (B, heads, N, d) by the projection of queries (0), keys (1) or values (2)."""
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[index]
        x = F.linear(x, self.in_proj_weight.chunk(3)[index], bias)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def normalize_query(self, query):
        """Queries (B, heads, N, d) whose product with :meth:`normalize_key` over sqrt(d), taken by kernels, is
        temperature * cosine.
        """
        wide = torch.promote_types(query.dtype, torch.float32)
        factor = self.log_temperature.to(wide).exp()[:, None, None] * math.sqrt(query.shape[-1])
        return (F.normalize(query.to(wide), dim=-1) * factor).to(query.dtype)

    @staticmethod
    def normalize_key(key):
        """Keys (B, heads, N, d) of length 1."""
        wide = torch.promote_types(key.dtype, torch.float32)
        return F.normalize(key.to(wide), dim=-1).to(key.dtype)
