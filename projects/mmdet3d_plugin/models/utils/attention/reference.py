"""Eager attention that shows every step: the oracle for the modules, never on a fast path."""
import math

import torch


def masks_to_bias(mask, dtype):
    """Bool mask (True = forbidden) or additive mask -> additive bias of ``dtype``."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)
    return mask.to(dtype)


def reference_attention(query, key, value, bias=None):
    """``softmax(q k^T / sqrt(d) + bias) v``, scores materialised.

    Args:
        query (Tensor): (B, heads, Q, d).
        key, value (Tensor): (B, heads, F, d).
        bias (Tensor | None): broadcastable to (B, heads, Q, F); -inf forbids.

    Returns:
        tuple[Tensor, Tensor]: output (B, heads, Q, d) and attention (B, heads, Q, F).
    """
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias
    attention = scores.softmax(dim=-1)
    return attention @ value, attention
