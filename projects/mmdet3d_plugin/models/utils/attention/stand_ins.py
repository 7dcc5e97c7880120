"""What a bias takes from a sensor goes to the stand-ins of that sensor (docs/design.md, "Stand-ins")."""
import dataclasses
import math

import torch


def with_stand_ins(bias):
    """A bias for twice the keys: the tokens, and after them, in the same order, the stand-ins of each.

    A negative bias b takes the share 1 - exp(b) from each token; the token's stand-in gets what is taken: its own bias
    is log(1 - exp(b)). With equal scores a sensor's total mass stays what it was, and at b -> -inf a query attends to
    the stand-ins alone. Where b >= 0 nothing is taken: the stand-in's bias is -inf, which has no mass and no gradient.

    Args:
        bias (AttentionBias): (B, Q, F) or (B, heads, Q, F), without windows.

    Returns:
        AttentionBias: (B, Q, 2 F) or (B, heads, Q, 2 F).

    Raises:
        ValueError: for a bias with windows, whose tokens are not all biased alike.
    """
    if bias.is_local:
        raise ValueError('stand-ins need a bias that is constant on each segment, got one with windows '
                         '(aqr_use_local_bias=True)')
    values = torch.cat([bias.values, _TakenShare.apply(bias.values)], dim=-1)
    return dataclasses.replace(bias, values=values, shapes=bias.shapes * 2)


def needed_segments(biases):
    """Positions (list[int]) of the segments of tokens, and of those stand-ins that any query attends to.

    Args:
        biases (Sequence[AttentionBias]): what :func:`with_stand_ins` gave, over the same keys.
    """
    used = torch.stack([(bias.values > -math.inf).flatten(0, -2).any(dim=0) for bias in biases]).any(dim=0)
    used[:len(used) // 2] = True
    return used.nonzero().flatten().tolist()


def take_segments(bias, segments):
    """The bias on some of its segments alone.

    Args:
        bias (AttentionBias): without windows.
        segments (Sequence[int]): ascending positions; those left out must have a bias of -inf for all queries.
    """
    return dataclasses.replace(bias, values=bias.values[..., segments],
                               shapes=tuple(bias.shapes[segment] for segment in segments))


class _TakenShare(torch.autograd.Function):
    """log(1 - exp(b)) where b < 0, else -inf; the gradient is 0 there, where it would be undefined."""

    @staticmethod
    def forward(ctx, bias):
        wide = bias.to(torch.promote_types(bias.dtype, torch.float32))
        taken = wide.clamp(max=0)
        # Each form is exact where the other one loses its digits (Maechler, 2012).
        log_share = torch.where(taken > -math.log(2), (-torch.expm1(taken)).log(), torch.log1p(-taken.exp()))
        ctx.save_for_backward(bias)
        return log_share.to(bias.dtype)

    @staticmethod
    def backward(ctx, grad):
        bias, = ctx.saved_tensors
        wide = bias.to(torch.promote_types(bias.dtype, torch.float32))
        slope = -1 / torch.expm1(-wide)  # -exp(b) / (1 - exp(b)) = 1 / (1 - exp(-b)) < 0
        return torch.where(wide < 0, grad * slope, 0).to(bias.dtype)
