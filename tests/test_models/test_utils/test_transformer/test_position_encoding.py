"""Encodings against their formulas, written out."""
import math

import pytest
import torch

from projects.mmdet3d_plugin.models.utils.transformer.position_encoding import (
    level_ray_points,
    num_octaves,
    octave_encoding,
    sine_encoding,
)

RANGE = [-10.0, -20.0, -2.0, 10.0, 20.0, 2.0]


@pytest.mark.parametrize('max_cycles', [None, 1, 6, 12.5])
@pytest.mark.parametrize('num_feats', [2, 8])
def test_sine_encoding(max_cycles, num_feats):
    positions = torch.rand(5, 3, dtype=torch.float64)
    expected = torch.zeros(5, 2 * num_feats, dtype=torch.float64)
    pairs = num_feats // 2
    for axis in (0, 1):  # x comes second
        for pair in range(pairs):
            if max_cycles is None:
                cycles = 1 / (1 + 2 * pair / num_feats)
            else:
                cycles = max_cycles ** (pair / (pairs - 1)) if pairs > 1 else 1.0
            place = (1 - axis) * num_feats + 2 * pair
            expected[:, place] = (2 * math.pi * cycles * positions[:, axis]).sin()
            expected[:, place + 1] = (2 * math.pi * cycles * positions[:, axis]).cos()
    torch.testing.assert_close(sine_encoding(positions, num_feats, max_cycles), expected)


@pytest.mark.parametrize('max_cycles, cycles', [(1, [1]), (6, [1, 2, 4]), (8, [1, 2, 4, 8])])
def test_octave_encoding(max_cycles, cycles):
    assert num_octaves(max_cycles) == len(cycles)
    positions = torch.rand(2, 3, dtype=torch.float64)
    angles = torch.stack([2 * math.pi * c * positions[:, i] for i in range(3) for c in cycles], dim=-1)
    torch.testing.assert_close(octave_encoding(positions, max_cycles), torch.cat([angles.sin(), angles.cos()], dim=-1))


def test_level_ray_points():
    points = level_ray_points(500, 4, RANGE, torch.zeros(1, dtype=torch.float64)).view(500, 4, 3)
    points = (points - 0.5) * torch.tensor([20.0, 40.0, 4.0])  # m, from the LiDAR
    depth = points.norm(dim=-1)
    torch.testing.assert_close(depth, torch.tensor([1.0, 3.25, 5.5, 7.75]).double().expand(500, 4))
    assert (points[..., 2] / depth).abs().max() <= math.sin(math.radians(20))
    quadrants = (points[:, 0, :2] > 0).long() @ torch.tensor([1, 2])
    assert quadrants.bincount(minlength=4).min() > 80  # all around
