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
# [-strength, strength], 0 at weight 0.5.
WEIGHT_MAPS = dict(linear=lambda: linear_map, log_gate=lambda: log_gate_map, monotone=MonotoneMap)


def make_weight_map(name):
    """A map anew.

    Args:
        name (str): of ``WEIGHT_MAPS``.

    Raises:
        ValueError: for an unknown name, or a map that is not what ``WEIGHT_MAPS`` says, tried on 101 weights.
    """
    make = WEIGHT_MAPS[check_weight_map(name)]
    try:
        weight_map = make()
    except TypeError as error:
        raise ValueError(f'WEIGHT_MAPS[{name!r}] must take no argument and make the map, such as `lambda: {name}_map` '
                         f'for a function; calling it gave: {error}') from error
    weights = torch.linspace(0, 1, 101)
    with torch.no_grad():
        bias = weight_map(weights, 1.0)
    is_fit = isinstance(bias, torch.Tensor) and bias.shape == weights.shape and bool((bias.abs() <= 1 + 1e-5).all())
    if not is_fit or abs(bias[50].item()) > 1e-5:
        found = f'a tensor {tuple(bias.shape)} with values from {bias.min().item():g} to {bias.max().item():g}' \
            if isinstance(bias, torch.Tensor) else repr(bias)
        raise ValueError(f'the weight map {name!r} must give a bias in [-strength, strength] for every weight, and 0 '
                         f'for weight 0.5; for 101 weights from 0 to 1 at strength 1 it gives {found}'
                         f'{f", {bias[50].item():g} at 0.5" if is_fit else ""}')
    return weight_map


def check_weight_map(name):
    """Return the name of a map; raise ValueError naming what is allowed otherwise."""
    if name not in WEIGHT_MAPS:
        raise ValueError(f'weight_map must be one of {list(WEIGHT_MAPS)}, got {name!r}')
    return name
