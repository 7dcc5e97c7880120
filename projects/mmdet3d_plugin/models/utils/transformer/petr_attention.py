"""Attention modules under the names that CMT configs and checkpoints use. Both honor every mask they are given."""
import functools
import logging
import math

import torch
from mmcv.cnn.bricks.drop import build_dropout
from mmcv.cnn.bricks.registry import ATTENTION
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmcv.runner import BaseModule
from mmcv.utils import get_logger
from torch import nn

from ..attention.attention_bias import AttentionBias
from ..attention.backends import fused_obstacle
from ..attention.multi_head import ScaledDotProductMHA

IMPLEMENTATIONS = ('dense', 'fused', 'auto')


@functools.cache
def log_once(message):
    """Warn in the log, the first time that there is anything to say of the kind."""
    get_logger('mmdet').log(logging.WARNING, message)


def _as_tensor(mask):
    """A compact bias as (B, Q, F), or (B * heads, Q, F) if heads differ, up to a constant per query, which softmax
    ignores; anything else as it is.
    """
    if not isinstance(mask, AttentionBias):
        return mask
    dense = mask.dense_scores()
    return dense.flatten(0, 1) if dense.dim() == 4 else dense


def _broadcast_mask(attn_mask, key_padding_mask, batch, num_heads):
    """Tensor masks of :class:`PETRMultiheadFlashAttention` as one that broadcasts to (B, heads, Q, F), or None."""
    if attn_mask is not None and attn_mask.dim() == 3:
        if attn_mask.shape[0] == batch:
            attn_mask = attn_mask.unsqueeze(1)  # (B, 1, Q, F)
        elif attn_mask.shape[0] == batch * num_heads:
            attn_mask = attn_mask.unflatten(0, (batch, num_heads))  # (B, heads, Q, F)
        else:
            raise ValueError(f'attn_mask must be (Q, F), (B, Q, F) or (B * heads, Q, F) with B = {batch} and '
                             f'heads = {num_heads}, got {tuple(attn_mask.shape)}')
    if key_padding_mask is None:
        return attn_mask
    padding = key_padding_mask.bool()[:, None, None]  # (B, 1, 1, F)
    if attn_mask is None:
        return padding
    if attn_mask.dtype == torch.bool:
        return attn_mask | padding
    return attn_mask.masked_fill(padding, -math.inf)


@ATTENTION.register_module()
class PETRMultiheadAttention(MultiheadAttention):
    """mmcv's ``MultiheadAttention`` (``nn.MultiheadAttention``), which also takes a mask or bias per sample.

    ``attn_mask`` may be (Q, F), (B, Q, F), shared by the heads, or (B * num_heads, Q, F), bool True = forbidden,
    float = added; or an AttentionBias, which is made dense.

    Args:
        args, kwargs: see mmcv's ``MultiheadAttention``.
        qk_norm (float | None): see :class:`ScaledDotProductMHA`.
    """

    def __init__(self, *args, qk_norm=None, **kwargs):
        # mmcv writes `dropout` into the default of `dropout_layer`, for all modules that are built later, too.
        kwargs.setdefault('dropout_layer', dict(type='Dropout', drop_prob=0.0))
        super().__init__(*args, **kwargs)
        if qk_norm is not None:
            self.attn = SequenceFirstMHA(self.embed_dims, self.num_heads, self.attn.dropout,
                                          self.attn.in_proj_bias is not None, qk_norm)

    def forward(self, query, *args, attn_mask=None, **kwargs):
        attn_mask = _as_tensor(attn_mask)
        if attn_mask is not None and attn_mask.dim() == 3:
            batch = query.shape[0 if self.batch_first else 1]
            if attn_mask.shape[0] == batch != batch * self.num_heads:
                attn_mask = attn_mask.repeat_interleave(self.num_heads, dim=0)  # (B * heads, Q, F)
            # nn.MultiheadAttention wants the mask in the queries' type.
            if attn_mask.is_floating_point():
                attn_mask = attn_mask.to(query.dtype)
        return super().forward(query, *args, attn_mask=attn_mask, **kwargs)


class SequenceFirstMHA(ScaledDotProductMHA):
    """Takes what mmcv hands to ``nn.MultiheadAttention``: (N, B, C) tensors and both masks."""

    def forward(self, query, key, value, attn_mask=None, key_padding_mask=None):
        mask = _broadcast_mask(attn_mask, key_padding_mask, query.shape[1], self.num_heads)
        out = super().forward(*(x.transpose(0, 1) for x in (query, key, value)), mask)  # (B, Q, C)
        return out.transpose(0, 1), None


@ATTENTION.register_module()
class PETRMultiheadFlashAttention(BaseModule):
    """CMT's cross-attention, with a bias that reaches the scores.

    The published class hands its work to flash-attn and drops ``attn_mask``; this one goes through PyTorch's
    ``scaled_dot_product_attention``, on any device, and honors it (docs/design.md, "Cross-attention as published").

    Args:
        embed_dims (int): channels C.
        num_heads (int): heads.
        attn_drop (float): dropout on the attention weights.
        proj_drop (float): dropout after the output projection.
        dropout_layer (dict | None): dropout on the residual path.
        dropout (float | None): as in published configs: sets the dropout of the residual path only. Published
            checkpoints were trained without attention dropout here (docs/design.md, "Cross-attention as published").
        batch_first (bool): inputs are (B, N, C) instead of (N, B, C).
        bias (bool): biases in the projections.
        impl (str): how a compact AQR bias is applied. 'dense': as a (B, Q, F) tensor, the definition. 'fused': exactly,
            without that tensor; raises where it cannot (attention dropout in training, any other mask, local mode where
            no back end has it). 'auto': fused where possible, otherwise dense, which the log says once.
        qk_norm (float | None): see :class:`ScaledDotProductMHA`.
        init_cfg (dict | None): as in mmcv.
    """

    def __init__(self, embed_dims, num_heads, attn_drop=0.0, proj_drop=0.0, dropout_layer=None, dropout=None,
                 batch_first=False, bias=True, impl='auto', qk_norm=None, init_cfg=None):
        super().__init__(init_cfg)
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f'impl must be one of {IMPLEMENTATIONS}, got {impl!r}')
        if dropout is not None and dropout_layer is not None:
            raise ValueError(f'dropout ({dropout}) and dropout_layer ({dropout_layer}) both set the residual dropout; '
                             'give one')
        if dropout is not None:
            dropout_layer = dict(type='Dropout', drop_prob=dropout)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.batch_first = batch_first
        self.impl = impl
        self.attn = ScaledDotProductMHA(embed_dims, num_heads, attn_drop, bias, qk_norm)
        self.proj_drop = nn.Dropout(proj_drop)
        self.dropout_layer = build_dropout(dropout_layer) if dropout_layer else nn.Identity()

    def forward(self, query, key=None, value=None, identity=None, query_pos=None, key_pos=None, attn_mask=None,
                key_padding_mask=None):
        """Attention with positions and a residual connection, as mmcv's ``MultiheadAttention``.

        Args:
            query (Tensor): (Q, B, C), or (B, Q, C) with ``batch_first``; so are the others.
            key, value (Tensor | None): (F, B, C); default: query, key.
            identity (Tensor | None): residual, default: query.
            query_pos, key_pos (Tensor | None): added to query and key; ``key_pos`` defaults to ``query_pos`` where
                shapes agree.
            attn_mask (Tensor | AttentionBias | None): (Q, F), (B, Q, F) shared by the heads, or (B * heads, Q, F);
                bool True = forbidden, float = added to the scores; or a compact bias, see ``impl``.
            key_padding_mask (Tensor | None): (B, F) bool, True = no key.

        Returns:
            Tensor: of the shape of ``query``.

        Raises:
            ValueError: for masks whose shape does not fit, or masks and dropout that ``impl='fused'`` cannot serve.
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
        """One mask broadcastable to (B, heads, Q, F), a compact bias for the fused path, or None."""
        if attn_mask is None and key_padding_mask is None:
            return None
        if self.impl != 'dense':
            obstacle = self._obstacle(attn_mask, key_padding_mask)
            if obstacle is None:
                return attn_mask
            if self.impl == 'fused':
                raise ValueError(f"impl='fused' cannot serve {obstacle}; allowed: an AttentionBias alone, without "
                                 "attention dropout. impl='auto' takes the dense form in such cases")
            if isinstance(attn_mask, AttentionBias):
                log_once(f'{type(self).__name__}: dense attention bias, because the fused one cannot serve {obstacle}')
        return _broadcast_mask(_as_tensor(attn_mask), key_padding_mask, batch, self.num_heads)

    def _obstacle(self, attn_mask, key_padding_mask):
        """What keeps the fused path from serving a call, in words, or None."""
        if key_padding_mask is not None:
            return 'a key_padding_mask'
        if not isinstance(attn_mask, AttentionBias):
            return 'an attn_mask given as a tensor'
        if self.attn.attn_drop and self.training:
            return f'attention dropout (attn_drop={self.attn.attn_drop})'
        return fused_obstacle(attn_mask, attn_mask.values.device)
