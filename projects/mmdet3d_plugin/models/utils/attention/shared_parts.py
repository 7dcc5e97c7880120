"""What the same queries get from each segment of the same keys, computed once for several biases.

Softmax over all keys is a mixture of the softmaxes over segments, and a bias that is constant on each segment changes
the shares alone (docs/design.md, "Exact fused attention"). So an output and a log-sum-exp for each segment serve every
such bias: the router's looks and the decoder's first layer read a token once.
"""
import math
from typing import Optional

import torch

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class SharedPart:
    """Attention of all queries to one segment, empty until it is needed.

    Attributes:
        out: (B, heads, Q, d) of the segment alone.
        lse: (B, heads, Q) log-sum-exp of its scores, float32 or wider.
    """

    def __init__(self):
        self.out: Optional[torch.Tensor] = None
        self.lse: Optional[torch.Tensor] = None

    def fill(self, query, key, value):
        """Attend with (B, heads, Q, d) queries to (B, heads, K, d) keys and values, K >= 1."""
        out, lse = _flash(query, key, value, 0.0, False, scale=1 / math.sqrt(query.shape[-1]))[:2]
        self.out, self.lse = out, lse.to(torch.promote_types(query.dtype, torch.float32))


def can_share(device):
    """Whether :func:`shared_attention` serves now: it keeps no gradients and needs kernels that return log-sum-exps."""
    return device.type == 'cpu' and not torch.is_grad_enabled()


def shared_attention(query, keys_of, bias):
    """``softmax(q k^T / sqrt(d) + bias) v`` from the bias' parts; those that are empty are filled.

    Args:
        query (Tensor): (B, heads, Q, d), the same for all biases that share these parts.
        keys_of (Callable): slice of the keys -> key and value (B, heads, K, d), asked for empty parts alone.
        bias (AttentionBias): with ``parts``, without windows.

    Returns:
        Tensor: (B, heads, Q, d), without gradient.
    """
    if not query.numel() or not bias.num_tokens:
        return query * 0
    outs, lses = [], []
    values = (bias.per_head().double() - bias.top().unsqueeze(-1)).unbind(-1)  # S of (B, heads or 1, Q)
    for part, keys, value in zip(bias.parts, bias.segments, values):
        if keys.stop == keys.start:
            continue
        if part.out is None:
            part.fill(query, *keys_of(keys))
        outs.append(part.out)
        lses.append(part.lse + value.to(part.lse.dtype))
    shares = torch.stack(lses).softmax(dim=0)  # (S, B, heads, Q)
    return sum(out * share.unsqueeze(-1) for out, share in zip(outs, shares)).to(query.dtype)
