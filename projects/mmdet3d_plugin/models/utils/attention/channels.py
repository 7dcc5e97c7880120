"""Biased attention by public API alone: the bias travels in channels appended to queries and keys."""
import math

import torch
import torch.nn.functional as F


def obstacle(bias, device):
    """What keeps :func:`channel_attention` from serving a bias, in words, or None.

    Args:
        bias (AttentionBias): to apply.
        device (torch.device): of queries and keys; any will do.
    """
    return 'a local bias' if bias.is_local else None


def channel_attention(query, key, value, bias):
    """A bias that is constant on segments, through channels appended to q and k: public API alone, any device.

    Softmax ignores a constant per query, so only the difference to the last segment's value matters: it becomes a
    channel of q, which keys of that segment multiply by 1 and all others by 0. Half precision splits the channel in
    two, leading part and remainder. Arguments and result as in :func:`fused_attention`, without windows.
    """
    dims = query.shape[-1]
    scale = 1 / math.sqrt(dims)
    values = bias.per_head().to(torch.promote_types(query.dtype, torch.float32))
    # (B, heads, Q, S - 1)
    difference = ((values[..., :-1] - values[..., -1:]) / scale).expand(-1, query.shape[1], -1, -1)
    leading = difference.to(query.dtype)
    channels = [leading]
    if query.dtype in (torch.float16, torch.bfloat16):
        channels.append((difference - leading).to(query.dtype))
    one_hot = key.new_zeros(bias.num_tokens, len(bias.shapes) - 1)
    for index, keys in enumerate(bias.segments[:-1]):
        one_hot[keys, index] = 1
    one_hot = one_hot.repeat(1, len(channels)).expand(*key.shape[:-1], -1)
    padding = -(dims + one_hot.shape[-1]) % 8  # kernels want head sizes that are multiples of 8
    query = F.pad(torch.cat([query, *channels], dim=-1), (0, padding))
    key = F.pad(torch.cat([key, one_hot], dim=-1), (0, padding))
    value = F.pad(value, (0, query.shape[-1] - dims))
    return F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :dims]
