import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils.attention_bias_generator import AttentionBiasGenerator
from projects.mmdet3d_plugin.models.utils.weight_maps import MonotoneMap, linear_map


def test_it_starts_linear():
    weights = torch.rand(3, 50)
    torch.testing.assert_close(MonotoneMap()(weights, 4.0), linear_map(weights, 4.0))


@given(st.integers(0, 2 ** 32 - 1), st.integers(1, 12), st.floats(0.1, 20))
def test_whatever_it_learns_it_rises(seed, pieces, spread):
    torch.manual_seed(seed)
    learned = MonotoneMap(pieces)
    with torch.no_grad():
        learned.rises.normal_(std=spread)
    weights = torch.linspace(0, 1, 401)
    bias = learned(weights, 3.0)
    assert (bias.diff() >= -1e-5).all()
    torch.testing.assert_close(bias[[0, 200, 400]], torch.tensor([-3.0, 0.0, 3.0]), atol=1e-5, rtol=0)
    # Piecewise linear between the knots, by the plain way.
    knots = torch.linspace(0, 1, 2 * pieces + 1)
    shares = learned.rises.softmax(-1)
    values = 3 * torch.cat([-shares[0].cumsum(0).flip(0), torch.zeros(1), shares[1].cumsum(0)])
    piece = torch.bucketize(weights, knots).clamp(1, 2 * pieces)
    part = (weights - knots[piece - 1]) / (knots[piece] - knots[piece - 1])
    torch.testing.assert_close(bias, torch.lerp(values[piece - 1], values[piece], part), atol=1e-4, rtol=0)


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    learned = MonotoneMap(3).double()
    with torch.no_grad():
        learned.rises.normal_()
    weights = torch.tensor([0.07, 0.21, 0.44, 0.58, 0.71, 0.93], dtype=torch.float64, requires_grad=True)
    # The map computes in single precision: its differences have half of its digits.
    assert torch.autograd.gradcheck(lambda w: learned(w, 2.0), weights, eps=1e-3, atol=2e-3, rtol=1e-3)
    learned(weights, 2.0).square().sum().backward()
    assert (learned.rises.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_the_generator_holds_what_it_learns(dtype):
    generator = AttentionBiasGenerator(weight_map='monotone', bias_strength=5.0)
    assert list(generator.state_dict()) == ['map.rises']
    weights = torch.rand(2, 7).to(dtype)
    bias = generator.weight_to_bias(weights)
    assert bias.dtype == dtype
    torch.testing.assert_close(bias, linear_map(weights, 5.0), atol=1e-2, rtol=1e-2)
    assert not AttentionBiasGenerator(weight_map='linear').state_dict()
