"""Fused attention against the eager reference on the dense bias: outputs and every gradient."""
import functools
import math
import weakref

import pytest
import torch
from hypothesis import given, settings

from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.attention.backends import BACKENDS, fused_attention
from projects.mmdet3d_plugin.models.utils.attention.channels import channel_attention
from projects.mmdet3d_plugin.models.utils.attention.cpu_tiles import tiled_attention
from projects.mmdet3d_plugin.models.utils.attention.reference import reference_attention
from tests.fuzz.oracles import loop_dense
from tests.fuzz.strategies import DIMS, HEADS, biases, tensors, with_values


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
    assert served or case[0].is_local or backend.name == 'flex', 'a bias that is constant on segments is served on CPU'


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
    original = AttentionBias.window_cells
    monkeypatch.setattr(AttentionBias, 'window_cells',
                        lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
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
        AttentionBias(torch.full((1, 2, 1), math.nan), ((1, 1), ))
    with pytest.raises(ValueError, match='nothing left to attend to'):
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


STRENGTHS = [1e2, 1e4, 1e6]


@settings(max_examples=30)
@given(biases())
@pytest.mark.parametrize('strength', STRENGTHS)
@pytest.mark.parametrize('backend', BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.float16, 0.01)])
def test_strong_biases_cost_no_digits(backend, strength, dtype, tolerance, case):
    """Against float64 with the same values; where all of a query's keys are suppressed alike, too."""
    bias, generator = case
    if backend.obstacle(bias, torch.device('cpu')) is None:
        strong = with_values(bias, (bias.values / bias.values.abs().max().clamp(min=1) * strength).float().double())
        assert_equal_to_reference(backend.run, strong, generator, dtype, tolerance)


@settings(max_examples=60)
@given(biases())
def test_top_is_the_largest_bias(case):
    bias, _ = case
    dense = bias.dense() if bias.values.dim() == 4 else bias.dense().unsqueeze(1)
    torch.testing.assert_close(bias.top(), dense.amax(dim=-1))
    scores = bias.dense_scores()
    torch.testing.assert_close(scores.amax(dim=-1), torch.zeros_like(scores[..., 0]))
    torch.testing.assert_close(scores.softmax(dim=-1), bias.dense().softmax(dim=-1))


@pytest.mark.parametrize('num_query, tokens', [(0, (4, 5)), (3, (0, 0)), (0, (0, 0)), (3, (0, 5)), (3, (4, 0))])
@pytest.mark.parametrize('local', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_nothing_attends_to_nothing(num_query, tokens, local, dtype):
    """Zeros without queries or keys, and gradients that are zero, not whatever lay in memory (or SIGFPE)."""
    where = (torch.zeros(2, num_query, 2, 2, dtype=torch.long), torch.zeros(2, num_query, 2, dtype=torch.bool),
             (3, 3)) if local else ()
    values = torch.randn(2, num_query, 2, requires_grad=True)
    bias = AttentionBias(values, tuple((1, n) for n in tokens), *where)
    query, key = torch.randn(2, HEADS, num_query, DIMS), torch.randn(2, HEADS, sum(tokens), DIMS)
    inputs = [x.to(dtype).requires_grad_() for x in (query, key, key)]
    for _ in range(3):
        out = fused_attention(*inputs, bias)
        grads = torch.autograd.grad(out.sum(), [*inputs, values])
        assert out.shape == query.shape and out.dtype == dtype and torch.isfinite(out).all()
        assert all(torch.isfinite(grad).all() for grad in grads)
        if not (num_query and sum(tokens)):
            assert (out == 0).all() and all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize('is_local', [False, True])
def test_numbers_that_are_changed_unseen(inference, is_local):
    """Writes that no version of a tensor tells: in inference mode, and through ``.data``."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(inference):
        shapes, values = ((4, 5), (3, 4)), torch.randn(1, 3, 2, generator=generator)
        windows = {}
        if is_local:
            cells = torch.stack([torch.randint(size, (1, 3, 2), generator=generator) for size in (3, 4)], dim=-1)
            windows = dict(cells=cells, seen=torch.ones(1, 3, 2, dtype=torch.bool), windows=(3, 3))
        bias = AttentionBias(values, shapes, **windows)
        inputs = tensors(bias, generator, torch.float32)
        for change in (lambda: None, lambda: bias.values.data.mul_(-3), lambda: is_local and bias.cells.data.zero_(),
                       lambda: is_local and bias.seen.data.logical_not_()):
            change()
            torch.testing.assert_close(fused_attention(*inputs, bias), dense_reference(*inputs, bias), rtol=1e-5,
                                       atol=1e-5)
