"""What the same queries get from each segment of the same keys, computed once for several biases.

Softmax over all keys is a mixture of the softmaxes over segments, and a bias that is constant on each segment changes
the shares alone (docs/design.md, "Exact fused attention"). So an output and a log-sum-exp for each segment serve every
such bias: the router's looks and the decoder's first layer read a token once.
"""
import math
from collections import defaultdict
from typing import Optional

import torch

from .key_chunks import attend_in_chunks


class SharedPart:
    """Attention of all queries to one segment, empty until it is needed.

    Attributes:
        out: (B, heads, Q, d) of the segment alone.
        lse: (B, heads, Q) log-sum-exp of its scores, float32 or wider.
    """

    def __init__(self):
        self.out: Optional[torch.Tensor] = None
        self.lse: Optional[torch.Tensor] = None

    def fill(self, query, keys_of, keys):
        """Attend; see :func:`attend_in_chunks`."""
        self.out, self.lse = attend_in_chunks(query, keys_of, keys)


class SharedTokens:
    """Tokens, the stand-ins after them, and what a decoder's first layer gets from them: made by the first of several
    calls of a decoder, for all of them.

    Attributes:
        keys: (2 F, B, C) tokens and stand-ins, None until they are made.
        positions: (2 F, B, C) their position embeddings, likewise.
        parts: bounds of a segment of the keys -> SharedPart.
    """

    def __init__(self):
        self.keys: Optional[torch.Tensor] = None
        self.positions: Optional[torch.Tensor] = None
        self.parts = defaultdict(SharedPart)


def shared_attention(query, keys_of, bias):
    """``softmax(q k^T / sqrt(d) + bias) v`` from the bias' parts; those that are empty and have any weight are filled.

    Args:
        query (Tensor): (B, heads, Q, d), the same for all biases that share these parts.
        keys_of (Callable): slice of the keys -> key and value (B, heads, K, d), asked for empty parts alone, a few keys
            at a time.
        bias (AttentionBias): with ``parts``, without windows.

    Returns:
        Tensor: (B, heads, Q, d), without gradient.
    """
    if not query.numel() or not bias.num_tokens:
        return query * 0
    outs, lses = [], []
    values = (bias.per_head().double() - bias.top().unsqueeze(-1)).unbind(-1)  # S of (B, heads or 1, Q)
    for part, keys, value in zip(bias.parts, bias.segments, values):
        if keys.stop == keys.start or (value == -math.inf).all():
            continue
        if part.out is None:
            part.fill(query, keys_of, keys)
        outs.append(part.out)
        lses.append(part.lse + value.to(part.lse.dtype))
    shares = torch.stack(lses).softmax(dim=0)  # (S, B, heads, Q)
    return sum(out * share.unsqueeze(-1) for out, share in zip(outs, shares)).to(query.dtype)
