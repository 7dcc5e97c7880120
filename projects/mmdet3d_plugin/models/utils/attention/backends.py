"""The ways to compute biased attention exactly without a (Q, F) bias: what each serves, and how it runs.

Back ends do not know each other. The first of the table that serves a call runs it.
"""
from typing import Callable, NamedTuple

from . import channels, cpu_tiles, flex


class Backend(NamedTuple):
    """A way to compute biased attention.

    Attributes:
        name: for messages.
        obstacle: (AttentionBias, torch.device) -> what keeps it from serving them, in words, or None.
        run: (query, key, value, bias) -> output, as :func:`fused_attention`.
    """

    name: str
    obstacle: Callable
    run: Callable


BACKENDS = (
    Backend('CPU tiles', cpu_tiles.obstacle, cpu_tiles.tiled_attention),
    Backend('channels', channels.obstacle, channels.channel_attention),
    Backend('flex', flex.obstacle, flex.flex_biased_attention),
)


def fused_obstacle(bias, device):
    """What keeps every back end from serving a bias on a device, in words, or None where one of them serves."""
    reasons = [backend.obstacle(bias, device) for backend in BACKENDS]
    if None in reasons:
        return None
    return '; '.join(f'{backend.name}: {reason}' for backend, reason in zip(BACKENDS, reasons))


def check_fits(bias, query, num_keys):
    """Raise ValueError unless a bias goes with queries (B, heads, Q, d) and a number of keys."""
    batch, heads, num_query, _ = query.shape
    allowed = (batch, num_query, num_keys), (batch, heads, num_query, num_keys)
    if tuple(bias.shape) not in allowed:
        raise ValueError(f'bias must be (B, Q, F) or (B, heads, Q, F), here {allowed[0]} or {allowed[1]}, got '
                         f'{tuple(bias.shape)}')


def fused_attention(query, key, value, bias):
    """``softmax(q k^T / sqrt(d) + bias) v``, exact, with exact gradients of q, k, v and the bias' values.

    Args:
        query (Tensor): (B, heads, Q, d).
        key, value (Tensor): (B, heads, F, d).
        bias (AttentionBias): for these queries and keys; with windows only on CPU and CUDA.

    Returns:
        Tensor: (B, heads, Q, d); zeros where there are no queries or no keys.

    Raises:
        ValueError: if the bias does not fit queries and keys, or no back end serves it on their device.
    """
    check_fits(bias, query, key.shape[2])
    if not query.numel() or not bias.num_tokens:
        # Kernels divide by these numbers (SIGFPE) or leave gradients unwritten: nothing attends to nothing.
        nothing = sum(x.sum() for x in (key, value, bias.values)) * 0
        return query * 0 + nothing.to(query.dtype)
    for backend in BACKENDS:
        if backend.obstacle(bias, query.device) is None:
            return backend.run(query, key, value, bias)
    raise ValueError(f'no back end serves this bias: {fused_obstacle(bias, query.device)}')
