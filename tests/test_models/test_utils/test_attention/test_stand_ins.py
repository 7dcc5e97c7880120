"""Stand-ins: the definition in loops, the limits, and every back end against the dense reference in float64."""
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.attention.backends import BACKENDS as ALL_BACKENDS
from projects.mmdet3d_plugin.models.utils.attention.reference import reference_attention
from projects.mmdet3d_plugin.models.utils.attention.stand_ins import needed_segments, with_stand_ins

SHAPES = ((2, 3), (1, 4), (1, 4))  # BEV and two views
BACKENDS = [backend for backend in ALL_BACKENDS if backend.name != 'flex']  # which never sees whole segments
SEGMENT = [0] * 6 + [1] * 4 + [2] * 4
LEVELS = st.sampled_from([-20.0, -3.0, -0.7, -1e-3, -1e-6, 0.0, 0.5, 4.0])


@st.composite
def biases(draw):
    """Values (B, Q, S) or (B, heads, Q, S)."""
    batch, heads, queries = draw(st.integers(1, 2)), draw(st.sampled_from([None, 2])), draw(st.integers(1, 4))
    shape = (batch, queries, 3) if heads is None else (batch, heads, queries, 3)
    values = draw(st.lists(LEVELS, min_size=math.prod(shape), max_size=math.prod(shape)))
    return AttentionBias(torch.tensor(values, dtype=torch.float64).view(shape), SHAPES)


def tensors(bias, seed=0, heads=2, dims=8):
    generator = torch.Generator().manual_seed(seed)
    sizes = bias.shape[-2], 2 * bias.num_tokens, 2 * bias.num_tokens
    return [torch.randn(bias.shape[0], heads, size, dims, dtype=torch.float64, generator=generator) for size in sizes]


def loop_attention(query, key, value, bias):
    """The definition, a number at a time: exp(b) of a token's weight stays, the rest goes to its stand-in."""
    out = torch.zeros_like(query)
    batch, heads, queries, dims = query.shape
    values = bias.per_head().expand(-1, heads, -1, -1)
    tokens = bias.num_tokens
    for b in range(batch):
        for h in range(heads):
            for q in range(queries):
                weights = []
                for k in range(2 * tokens):
                    score = sum(float(query[b, h, q, d] * key[b, h, k, d]) for d in range(dims)) / math.sqrt(dims)
                    own = float(values[b, h, q, SEGMENT[k % tokens]])
                    weights.append(math.exp(score) * (math.exp(own) if k < tokens else max(0.0, 1 - math.exp(own))))
                for k, weight in enumerate(weights):
                    out[b, h, q] += weight / sum(weights) * value[b, h, k]
    return out


@settings(max_examples=15, deadline=None)
@given(biases())
@pytest.mark.parametrize('backend', BACKENDS, ids=lambda backend: backend.name)
def test_equals_its_definition(backend, bias):
    inputs = tensors(bias)
    torch.testing.assert_close(backend.run(*inputs, with_stand_ins(bias)), loop_attention(*inputs, bias))


def gradients(function, inputs, bias):
    values = bias.values.detach().clone().requires_grad_()
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*inputs, with_stand_ins(dataclasses.replace(bias, values=values)))
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out, *torch.autograd.grad((out * weight).sum(), [*inputs, values])]


def dense(query, key, value, bias):
    mask = bias.dense()
    return reference_attention(query, key, value, mask if mask.dim() == 4 else mask.unsqueeze(1))[0]


@settings(max_examples=30, deadline=None)
@given(biases())
@pytest.mark.parametrize('backend', BACKENDS, ids=lambda backend: backend.name)
def test_fused_equals_dense_with_all_gradients(backend, bias):
    inputs = tensors(bias)
    for found, expected in zip(gradients(backend.run, inputs, bias), gradients(dense, inputs, bias)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_gradient_is_that_of_the_definition():
    """By finite differences of the loops, on both sides of neutral."""
    bias = AttentionBias(torch.tensor([[[-1.3, -0.2, 0.8]]], dtype=torch.float64), SHAPES)
    inputs = tensors(bias, heads=1, dims=2)
    gradient = gradients(BACKENDS[0].run, inputs, bias)[-1]
    weight = torch.randn(1, 1, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for segment in range(3):
        step = torch.zeros(1, 1, 3, dtype=torch.float64)
        step[0, 0, segment] = 1e-5
        above, below = (loop_attention(*inputs, dataclasses.replace(bias, values=bias.values + sign * step))
                        for sign in (1, -1))
        expected = ((above - below) * weight).sum() / 2e-5
        torch.testing.assert_close(gradient[0, 0, segment], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize('backend', BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_trusted_sensors_leave_no_trace_of_stand_ins(backend, dtype):
    """At b >= 0 the result is bit for bit that of stand-ins whose values are anything at all."""
    bias = AttentionBias(torch.tensor([[[0.0, 0.0, 0.0], [2.0, 0.0, 1.0]]]), SHAPES)
    query, key, value = (x.to(dtype) for x in tensors(bias))
    other = value.clone()
    other[:, :, bias.num_tokens:] = 1000
    with_both = [backend.run(query, key, each, with_stand_ins(bias)) for each in (value, other)]
    assert torch.equal(*with_both) and torch.isfinite(with_both[0]).all()
    assert needed_segments([with_stand_ins(bias)]) == [0, 1, 2]
    tokens = slice(0, bias.num_tokens)
    plain = backend.run(query, key[:, :, tokens], value[:, :, tokens], bias)
    if backend.name == 'CPU tiles':
        assert torch.equal(with_both[0], plain)
    else:  # another order of sums
        tolerance = dict(rtol=2e-2, atol=2e-3) if dtype.itemsize == 2 else dict(rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(with_both[0], plain, **tolerance)


@pytest.mark.parametrize('backend', BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-9), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)],
                         ids=str)
def test_full_distrust_is_a_blank_sensor(backend, dtype, tolerance):
    bias = AttentionBias(torch.tensor([[[-1e4, 0.0, 0.0]]]), SHAPES)
    query, key, value = (x.to(dtype) for x in tensors(bias))
    tokens, lidar = bias.num_tokens, 6
    order = [*range(tokens, tokens + lidar), *range(lidar, tokens)]  # blank LiDAR, the cameras themselves
    expected = reference_attention(*(x.double() for x in (query, key[:, :, order], value[:, :, order])))[0]
    found = backend.run(query, key, value, with_stand_ins(bias)).double()
    assert (found - expected).abs().max() <= tolerance


@settings(max_examples=30, deadline=None)
@given(st.floats(-700, 5))
def test_shares_add_up_to_one(value):
    bias = with_stand_ins(AttentionBias(torch.tensor([[[value, 0.0, 0.0]]], dtype=torch.float64), SHAPES))
    own, taken = bias.values[0, 0, 0].exp(), bias.values[0, 0, 3].exp()
    assert own + taken == pytest.approx(max(1.0, math.exp(value)), rel=1e-12)
    assert bias.shape[-1] == 28 and bias.shapes == SHAPES * 2


def test_windows_are_refused():
    cells = torch.zeros(1, 1, 3, 2, dtype=torch.long)
    local = AttentionBias(torch.zeros(1, 1, 3), SHAPES, cells, torch.ones(1, 1, 3, dtype=torch.bool), (1, 1, 1))
    with pytest.raises(ValueError, match='one with windows'):
        with_stand_ins(local)


@pytest.mark.parametrize('values, message', [
    ([math.nan, 0, 0], 'values must be finite, or -inf'), ([math.inf, 0, 0], 'values must be finite, or -inf'),
    ([-math.inf] * 3, 'nothing left to attend to')])
def test_biases_without_meaning_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AttentionBias(torch.tensor([[values]]), SHAPES)


def test_keys_without_any_query_have_no_gradient():
    """Of a batch, one sample leans on LiDAR's stand-ins, nobody on a view's."""
    bias = AttentionBias(torch.tensor([[[-1.0, 0.0, 0.0]], [[0.0, 0.0, 2.0]]], dtype=torch.float64), SHAPES)
    query, key, value = (x.requires_grad_() for x in tensors(bias))
    cpu_tiles = BACKENDS[0]
    cpu_tiles.run(query, key, value, with_stand_ins(bias)).square().sum().backward()
    for grad in (key.grad, value.grad):
        leaned_on = torch.zeros(2, 28, dtype=torch.bool)
        leaned_on[:, :14], leaned_on[0, 14:20] = True, True
        assert torch.equal((grad != 0).any(dim=-1).any(dim=1), leaned_on)
