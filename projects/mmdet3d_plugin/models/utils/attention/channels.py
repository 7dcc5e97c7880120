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

    Softmax ignores a constant per query, so only the differences to the query's largest value matter: each becomes a
    channel of q, which keys of that segment multiply by 1 and all others by 0. Half precision splits the channel in
    two, leading part and remainder. Strong biases cost no digits: what matters is next to zero, and what overflows has
    no weight. Arguments and result as in :func:`fused_attention`, without windows.
    """
    dims = query.shape[-1]
    scale = 1 / math.sqrt(dims)
    values = bias.per_head().to(torch.promote_types(query.dtype, torch.float32))  # (B, heads or 1, Q, S)
    used = [segment for segment, keys in enumerate(bias.segments) if keys.stop > keys.start]
    values = values[..., used]
    # No infinity, which the zeros of other segments' keys would make NaN; a quarter, since two parts add up.
    lowest = torch.finfo(query.dtype).min / 4
    difference = ((values - values.detach().amax(dim=-1, keepdim=True)) / scale).clamp(min=lowest)
    difference = difference.expand(-1, query.shape[1], -1, -1)  # (B, heads, Q, S)
    leading = difference.to(query.dtype)
    channels = [leading]
    if query.dtype in (torch.float16, torch.bfloat16):
        channels.append((difference - leading).to(query.dtype))
    one_hot = key.new_zeros(bias.num_tokens, len(used))
    for index, segment in enumerate(used):
        one_hot[bias.segments[segment], index] = 1
    one_hot = one_hot.repeat(1, len(channels)).expand(*key.shape[:-1], -1)
    padding = -(dims + one_hot.shape[-1]) % 8  # kernels want head sizes that are multiples of 8
    query = F.pad(torch.cat([query, *channels], dim=-1), (0, padding))
    key = F.pad(torch.cat([key, one_hot], dim=-1), (0, padding))
    value = F.pad(value, (0, query.shape[-1] - dims))
    return F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :dims]
