"""Fused attention against the eager reference on the dense bias: outputs and every gradient."""
import functools
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.attention.backends import BACKENDS, fused_attention
from projects.mmdet3d_plugin.models.utils.attention.channels import channel_attention
from projects.mmdet3d_plugin.models.utils.attention.cpu_tiles import tiled_attention
from projects.mmdet3d_plugin.models.utils.attention.reference import reference_attention

HEADS, DIMS = 2, 8


@st.composite
def biases(draw, local=None):
    """Random biases with the extremes in it: alpha 10, all suppressed, one token in a segment, unseen queries, border
    windows.
    """
    local = draw(st.booleans()) if local is None else local
    batch, num_query = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 5, 33]))
    shapes = tuple(draw(st.lists(st.tuples(st.integers(0 if local else 1, 9), st.integers(1, 9)), min_size=1,
                                 max_size=4)))
    if not sum(h * w for h, w in shapes):
        shapes = ((1, 1), *shapes[1:])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    heads = draw(st.sampled_from([(), (HEADS, )]))
    shape = (batch, *heads, num_query, len(shapes))
    kind = draw(st.sampled_from(['random', 'suppressed', 'extreme', 'neutral']))
    values = {'random': torch.randn(shape, generator=generator, dtype=torch.float64) * 5,
              'suppressed': torch.full(shape, -10.0, dtype=torch.float64),
              'extreme': torch.randint(2, shape, generator=generator).double() * 20 - 10,
              'neutral': torch.zeros(shape, dtype=torch.float64)}[kind]
    if not local:
        return AttentionBias(values, shapes), generator
    seen = torch.rand(batch, num_query, len(shapes), generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    cells = torch.stack([torch.stack([torch.randint(max(h, 1), (batch, num_query), generator=generator),
                                      torch.randint(w, (batch, num_query), generator=generator)], dim=-1)
                         for h, w in shapes], dim=2)
    seen &= torch.tensor([h > 0 for h, _ in shapes])
    windows = tuple(draw(st.sampled_from([1, 3, 5, 15])) for _ in shapes)
    return AttentionBias(values, shapes, torch.where(seen.unsqueeze(-1), cells, -torch.ones_like(cells)), seen,
                         windows), generator


def tensors(bias, generator, dtype=torch.float64):
    batch, num_query, num_tokens = bias.values.shape[0], bias.values.shape[-2], bias.num_tokens
    return [torch.randn(batch, HEADS, n, DIMS, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
            for n in (num_query, num_tokens, num_tokens)]


def with_values(bias, values):
    return AttentionBias(values, bias.shapes, bias.cells, bias.seen, bias.windows)


def loop_dense(bias):
    """The definition, key by key."""
    out = torch.zeros(bias.shape, dtype=bias.values.dtype)
    for index in torch.cartesian_prod(*map(torch.arange, bias.values.shape[:-1])).view(
            -1, bias.values.dim() - 1).tolist():
        b, q = index[0], index[-1]
        token = 0
        for segment, (height, width) in enumerate(bias.shapes):
            for row in range(height):
                for col in range(width):
                    factor = 1.0
                    if bias.is_local:
                        r, c = bias.cells[b, q, segment].tolist()
                        dist = math.hypot(row - r, col - c)
                        factor = max(0.0, 1 - dist / (bias.windows[segment] / 2)) * float(bias.seen[b, q, segment])
                    out[(*index, token)] = bias.values[(*index, segment)] * factor
                    token += 1
    return out


@settings(max_examples=40)
@given(biases())
def test_dense_form_equals_its_definition(case):
    bias, _ = case
    torch.testing.assert_close(bias.dense(), loop_dense(bias), rtol=1e-6, atol=1e-6)


def outputs_and_gradients(function, inputs, bias, weight):
    values = bias.values.detach().clone().requires_grad_()
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*inputs, with_values(bias, values))
    grads = torch.autograd.grad((out.double() * weight).sum(), [*inputs, values], allow_unused=True)
    return [out, *(torch.zeros_like(x) if g is None else g for g, x in zip(grads, [*inputs, values]))]


def dense_reference(query, key, value, bias):
    mask = bias.dense()
    return reference_attention(query, key, value, mask if mask.dim() == 4 else mask.unsqueeze(1))[0]


def assert_equal_to_reference(function, bias, generator, dtype, tolerance):
    inputs = tensors(bias, generator, dtype)
    weight = torch.randn(inputs[0].shape, generator=generator, dtype=torch.float64)
    expected = outputs_and_gradients(dense_reference, [x.double() for x in inputs], bias, weight)
    narrow = with_values(bias, bias.values.to(torch.promote_types(dtype, torch.float32)))
    found = outputs_and_gradients(function, inputs, narrow, weight)
    # One scale for all: a gradient that cancels to zero (a single key) still carries the rounding of its terms.
    scale = max(want.abs().max().item() for want in expected)
    for name, got, want in zip(('out', 'dq', 'dk', 'dv', 'dvalues'), found, expected):
        assert (got.double() - want).abs().max().item() <= tolerance * scale, (
            f'{name}: {(got - want).abs().max()} of {scale}')


@given(biases())
@pytest.mark.parametrize('tile_keys', [4, 2048])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_equals_reference(tile_keys, dtype, tolerance, case):
    assert_equal_to_reference(functools.partial(tiled_attention, tile_keys=tile_keys), *case, dtype, tolerance)


@given(biases())
@pytest.mark.parametrize('backend', BACKENDS, ids=lambda backend: backend.name)
def test_every_back_end_equals_the_reference_where_it_serves(backend, case):
    served = backend.obstacle(case[0], torch.device('cpu')) is None
    if served:
        assert_equal_to_reference(backend.run, *case, torch.float64, 1e-6)
    assert served or case[0].is_local, 'a bias that is constant on segments is served by all on CPU'


@given(biases())
@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 0.04), (torch.float16, 0.006)])
def test_half_precision_within_its_rounding(dtype, tolerance, case):
    assert_equal_to_reference(fused_attention, *case, dtype, tolerance)


@given(biases(local=False))
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 0.04), (torch.float16, 0.006)])
def test_channel_form_for_other_devices(dtype, tolerance, case):
    assert_equal_to_reference(channel_attention, *case, dtype, tolerance)


@settings(max_examples=10)
@given(biases())
def test_gradcheck(case):
    bias, generator = case
    if bias.values.numel() > 40 or bias.num_tokens > 40:
        return
    inputs = tensors(bias, generator)
    values = bias.values.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k, v, x: fused_attention(q, k, v, with_values(bias, x)),
                                    (*inputs, values), atol=1e-5)


def test_plan_is_made_once_and_shared_by_layers(monkeypatch):
    bias = AttentionBias(torch.zeros(1, 3, 1), ((4, 4), ), torch.zeros(1, 3, 1, 2, dtype=torch.long),
                         torch.ones(1, 3, 1, dtype=torch.bool), (3, ))
    calls = []
    original = AttentionBias.cone
    monkeypatch.setattr(AttentionBias, 'cone', lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    inputs = tensors(bias, torch.Generator().manual_seed(0), torch.float32)
    for _ in range(3):
        fused_attention(*inputs, bias)
    assert len(calls) == 1
    alive = weakref.ref(bias)
    del bias
    assert alive() is None, 'a plan must not keep its bias alive'


def test_bad_bias():
    with pytest.raises(ValueError, match='values'):
        AttentionBias(torch.zeros(1, 2, 3), ((1, 1), (1, 1)))
    with pytest.raises(ValueError, match='together'):
        AttentionBias(torch.zeros(1, 2, 1), ((1, 1), ), seen=torch.ones(1, 2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match='finite'):
        AttentionBias(torch.full((1, 2, 1), -math.inf), ((1, 1), ))
    cells, seen = torch.zeros(1, 2, 1, 2, dtype=torch.long), torch.ones(1, 2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match='windows'):
        AttentionBias(torch.zeros(1, 2, 1), ((1, 1), ), cells, seen, (4, ))
    with pytest.raises(ValueError, match='cells'):
        AttentionBias(torch.zeros(1, 2, 1), ((1, 1), ), cells[:, :1], seen, (3, ))


@pytest.mark.parametrize('shape, tokens',
                         [((1, 3, 2), (4, 4)), ((2, 1, 2), (4, 4)), ((2, 3, 2), (4, 2)), ((2, 3, 2), (4, 9)),
                          ((2, 5, 3, 2), (4, 4))])
@pytest.mark.parametrize('local', [False, True])
def test_a_bias_that_does_not_fit_raises(shape, tokens, local):
    """Batch, queries, heads or number of keys: nothing is broadcast or cut."""
    shapes = tuple((1, n) for n in tokens)
    batch_query = (shape[0], shape[-2])
    where = (torch.zeros(*batch_query, 2, 2, dtype=torch.long), torch.ones(*batch_query, 2, dtype=torch.bool),
             (3, 3)) if local else ()
    query, key = torch.randn(2, HEADS, 3, DIMS), torch.randn(2, HEADS, 8, DIMS)
    with pytest.raises(ValueError, match='bias must be'):
        fused_attention(query, key, key, AttentionBias(torch.zeros(shape), shapes, *where))


@given(biases())
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('values_dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_values_may_have_another_dtype_than_queries(dtype, values_dtype, case):
    bias, generator = case
    narrow = with_values(bias, bias.values.to(values_dtype))
    inputs = tensors(narrow, generator, dtype)
    expected = dense_reference(*[x.double() for x in inputs], with_values(bias, narrow.values.double()))
    found = fused_attention(*inputs, narrow)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize('local', [False, True])
def test_values_changed_in_place_take_effect(local):
    generator = torch.Generator().manual_seed(0)
    where = (torch.zeros(1, 3, 2, 2, dtype=torch.long), torch.ones(1, 3, 2, dtype=torch.bool), (3, 3)) if local else ()
    bias = AttentionBias(torch.randn(1, 3, 2, generator=generator) * 5, ((2, 2), (1, 4)), *where)
    inputs = tensors(bias, generator, torch.float32)
    before = fused_attention(*inputs, bias)
    bias.values.mul_(-1)
    after = fused_attention(*inputs, bias)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, dense_reference(*inputs, bias), rtol=1e-4, atol=1e-5)


def test_second_derivatives_raise_instead_of_being_wrong():
    bias = AttentionBias(torch.zeros(1, 2, 1, requires_grad=True), ((1, 4), ))
    inputs = tensors(bias, torch.Generator().manual_seed(0), torch.float32)
    grad, = torch.autograd.grad(fused_attention(*inputs, bias).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()
