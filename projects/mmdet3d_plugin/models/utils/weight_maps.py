"""Ways from a query's weight of a sensor to the bias on that sensor's tokens."""
import torch
from torch import nn


def linear_map(weights, strength):
    """``(weight - 0.5) * 2 * strength`` (docs/design.md, "The idea")."""
    return (weights - 0.5) * 2 * strength


def log_gate_map(weights, strength):
    """Log of the gate ``min(1, 2 weight)``, at least ``-strength``: a sensor that is distrusted loses that share of its
    attention, one that is trusted gains nothing (docs/design.md, "Stand-ins").
    """
    return (2 * weights).clamp(min=torch.finfo(weights.dtype).tiny, max=1).log().clamp(min=-strength)


class MonotoneMap(nn.Module):
    """A learned rise from ``-strength`` at weight 0 through 0 at 0.5 to ``strength`` at 1; at first it is linear.

    Piecewise linear on equal pieces to either side of 0.5. Each side's rises are a softmax of its parameters: whatever
    they are, a larger weight never gives a smaller bias, and the ends stay where they are.

    Args:
        pieces (int): to each side.
    """

    def __init__(self, pieces=8):
        super().__init__()
        self.rises = nn.Parameter(torch.zeros(2, pieces))

    def forward(self, weights, strength):
        """Weights (...) in [0, 1] -> bias (...) in [-strength, strength]."""
        shares = self.rises.float().softmax(dim=-1)  # (2, pieces)
        ends = torch.cat([shares.new_zeros(2, 1), shares.cumsum(dim=-1)], dim=-1)
        away = 2 * weights.float() - 1
        side = (away > 0).long()
        place = away.abs() * shares.shape[1]
        piece = place.detach().long().clamp(max=shares.shape[1] - 1)
        risen = ends[side, piece] + (place - piece) * shares[side, piece]
        return (away.sign() * risen * strength).to(weights.dtype)


# Name -> what makes the map. A map takes weights in [0, 1] and a strength >= 0 and gives a bias in
# [-strength, strength], 0 at weight 0.5 and nowhere smaller for a larger weight.
WEIGHT_MAPS = dict(linear=lambda: linear_map, log_gate=lambda: log_gate_map, monotone=MonotoneMap)

_TRIED_STRENGTHS = (0.0, 0.1, 1.0, 10.0)  # beside the configured one: warming up, a bias passes through smaller ones
_TRIED_WEIGHTS = 101


def make_weight_map(name, strength=1.0):
    """A map anew.

    Args:
        name (str): of ``WEIGHT_MAPS``.
        strength (float): that it is configured for.

    Raises:
        ValueError: for an unknown name, or a map that is not what ``WEIGHT_MAPS`` says, tried on 101 weights at this
            and other strengths.
    """
    make = WEIGHT_MAPS[check_weight_map(name)]
    try:
        weight_map = make()
    except TypeError as error:
        raise ValueError(f'aqr_weight_map={name!r}: WEIGHT_MAPS[{name!r}] must take no argument and make the map, such '
                         f'as `lambda: {name}_map` for a function; calling it gave: {error}') from error
    for tried in (strength, *_TRIED_STRENGTHS):
        _try_map(name, weight_map, tried)
    return weight_map


def _try_map(name, weight_map, strength):
    weights = torch.linspace(0, 1, _TRIED_WEIGHTS)
    given = weights.clone()
    try:
        with torch.no_grad():
            bias = weight_map(given, strength)
    except TypeError as error:
        raise ValueError(f'aqr_weight_map={name!r}: the map is called with weights (a tensor) and a strength (a '
                         f'number); calling it gave: {error}') from error
    problem = 'changes the weights in place' if not torch.equal(given, weights) else _problem(bias, weights, strength)
    if problem:
        raise ValueError(f'aqr_weight_map={name!r} must give a bias of the shape and type of the weights, finite, in '
                         '[-strength, strength], 0 at weight 0.5, and nowhere smaller for a larger weight; for '
                         f'{_TRIED_WEIGHTS} weights from 0 to 1 at strength {strength:g} it {problem}')


def _problem(bias, weights, strength):
    """In words, what is wrong with the bias that a map gives weights (n,) which rise from 0 to 1, or None."""
    if not isinstance(bias, torch.Tensor):
        return f'gives {bias!r}'
    if bias.shape != weights.shape or bias.dtype != weights.dtype:
        return f'gives a tensor {tuple(bias.shape)} of {bias.dtype}, not {tuple(weights.shape)} of {weights.dtype}'
    if not bias.isfinite().all():
        return f'gives {bias[~bias.isfinite()][0].item()} at weight {weights[~bias.isfinite()][0].item():g}'
    rounding = 1e-5 * max(strength, 1)
    if bias.abs().max() > strength + rounding:
        return f'gives values from {bias.min().item():g} to {bias.max().item():g}'
    middle = bias[len(bias) // 2].item()
    if abs(middle) > rounding:
        return f'gives {middle:g} at weight 0.5'
    step = bias.diff().argmin()
    if bias.diff()[step] < -rounding:
        return (f'falls from {bias[step].item():g} at weight {weights[step].item():g} to {bias[step + 1].item():g} at '
                f'{weights[step + 1].item():g}')
    return None


def check_weight_map(name):
    """Return the name of a map; raise ValueError naming what is allowed otherwise."""
    if not isinstance(name, str) or name not in WEIGHT_MAPS:
        raise ValueError(f'aqr_weight_map must be one of {list(WEIGHT_MAPS)}, got {name!r}')
    return name
