"""The back end over flex_attention, in eager mode on CPU, against the definition: outputs and every gradient."""
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

from projects.mmdet3d_plugin.models.utils.attention import backends, flex
from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.attention.cpu_tiles import tiled_attention
from projects.mmdet3d_plugin.models.utils.attention.flex import flex_biased_attention, score_modification
from projects.mmdet3d_plugin.models.utils.attention.reference import reference_attention
from projects.mmdet3d_plugin.models.utils.attention.stand_ins import with_stand_ins
from projects.mmdet3d_plugin.models.utils.transformer.petr_attention import PETRMultiheadFlashAttention
from tests.fuzz.strategies import HEADS, biases, tensors, with_values

pytestmark = pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')


def per_head(dense):
    return dense if dense.dim() == 4 else dense.unsqueeze(1)


def added_everywhere(bias, dtype=torch.float64):
    """What the score modification adds, of all heads, queries and keys at once."""
    batch, queries = bias.values.shape[0], bias.values.shape[-2]
    index = torch.meshgrid(*map(torch.arange, (batch, HEADS, queries, bias.num_tokens)), indexing='ij')
    return score_modification(bias, dtype)(torch.zeros(index[0].shape, dtype=dtype), *index)


def assert_equals_dense_scores(bias):
    results = []
    for make in (added_everywhere, lambda bias: per_head(bias.dense_scores())):
        values = bias.values.clone().requires_grad_()
        added = make(with_values(bias, values)).expand(-1, HEADS, -1, -1)
        weight = torch.randn(added.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        results.append((added, torch.autograd.grad((added * weight).sum(), values)[0]))
    (found, found_grad), (expected, expected_grad) = results
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found_grad, expected_grad, rtol=1e-9, atol=1e-9)


@settings(max_examples=150)
@given(biases())
def test_what_is_added_is_the_definition(case):
    assert_equals_dense_scores(case[0])


def outputs_and_gradients(function, inputs, bias, weight):
    values = bias.values.detach().clone().requires_grad_()
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*inputs, with_values(bias, values))
    return [out, *torch.autograd.grad((out.double() * weight).sum(), [*inputs, values])]


def reference(query, key, value, bias):
    return reference_attention(query, key, value, per_head(bias.dense_scores()))[0]


def assert_equal_to_reference(bias, generator, dtype, tolerance):
    inputs = tensors(bias, generator, dtype)
    weight = torch.randn(inputs[0].shape, generator=generator, dtype=torch.float64)
    expected = outputs_and_gradients(reference, [x.double() for x in inputs], bias, weight)
    narrow = with_values(bias, bias.values.to(torch.promote_types(dtype, torch.float32)))
    found = outputs_and_gradients(flex_biased_attention, inputs, narrow, weight)
    assert found[0].dtype == dtype and found[4].dtype == narrow.values.dtype
    # One scale for all: a gradient that cancels to zero (a single key) still carries the rounding of its terms.
    scale = max(want.abs().max().item() for want in expected)
    for name, got, want in zip(('out', 'dq', 'dk', 'dv', 'dvalues'), found, expected):
        error = (got.double() - want).abs().max().item()
        assert error <= tolerance * scale, f'{name}: {error} of {scale}'


# Few examples: flex_attention traces itself anew for most shapes. What is added is tested on many above.
@settings(max_examples=5)
@given(biases(local=True))
def test_attention_equals_the_reference(case):
    assert_equal_to_reference(*case, torch.float64, 1e-9)


def window_bias(num_query=3, shapes=((4, 5), (3, 4)), windows=(3, 5), batch=2, heads=(), seed=0):
    """Random values; windows of the first queries lie in the maps' corners; where there is no window to look for, and
    where the segment does not see the query, cells are anything.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = batch, num_query, len(shapes)
    cells = torch.stack([torch.stack([torch.randint(max(size, 1), shape[:2], generator=generator) for size in each], -1)
                         for each in shapes], dim=2)
    cells[:, 0] = 0
    cells[0, 0] = torch.tensor(shapes).clamp(min=1) - 1
    values = torch.randn(batch, *heads, num_query, len(shapes), generator=generator, dtype=torch.float64) * 5
    seen = torch.rand(shape, generator=generator) < 0.7
    looked_at = seen & torch.tensor([window is not None for window in windows])
    return AttentionBias(values, shapes, torch.where(looked_at.unsqueeze(-1), cells, 2**31 - 1), seen,
                         windows), generator


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.float16, 0.006), (torch.bfloat16, 0.04)],
                         ids=str)
def test_attention_within_the_rounding_of_its_type(dtype, tolerance, seed):
    assert_equal_to_reference(*window_bias(seed=seed, windows=(3, None, 5), shapes=((4, 5), (2, 2), (3, 4))), dtype,
                              tolerance)


EDGES = {
    'one query': dict(num_query=1),
    'windows larger than the maps': dict(windows=(21, 9)),
    'a window larger than the map along one axis': dict(shapes=((2, 9), (9, 2)), windows=(5, 5)),
    'a segment without window': dict(windows=(3, None)),
    'no segment with a window': dict(windows=(None, None)),
    'an empty segment': dict(shapes=((4, 5), (0, 3), (3, 4)), windows=(3, 3, None)),
    'an empty segment without window': dict(shapes=((0, 3), (3, 4)), windows=(None, 3)),
    'one key': dict(shapes=((1, 1), ), windows=(1, )),
    'values per head': dict(heads=(HEADS, ), windows=(3, None)),
}


@pytest.mark.parametrize('edge', EDGES)
def test_edges(edge):
    bias, generator = window_bias(**EDGES[edge])
    assert_equals_dense_scores(bias)
    assert_equal_to_reference(bias, generator, torch.float64, 1e-9)


def test_strong_biases_cost_no_digits():
    """Windows of two sizes whose bias is equal at other distances: in float32, 1e6 has steps of 0.06."""
    cells = torch.tensor([[0, 0], [0, 0]]).expand(1, 2, 2, 2)
    for strength in (1e2, 1e4, 1e6):
        values = torch.tensor([[[-1.0, -1.0], [1.0, -1.0]]], dtype=torch.float64) * strength
        bias = AttentionBias(values, ((1, 7), (1, 3)), cells, torch.ones(1, 2, 2, dtype=torch.bool), (15, 5))
        assert_equal_to_reference(bias, torch.Generator().manual_seed(0), torch.float32, 1e-5)
        added = added_everywhere(with_values(bias, values.float()), torch.float32)
        assert torch.equal(added.amax(dim=-1), torch.zeros(1, HEADS, 2))


def test_a_huge_window_needs_no_more_than_its_map():
    """The definition itself makes a list of the window's cells; here it is written out."""
    where = torch.tensor([[[[1, 3]]]]), torch.ones(1, 1, 1, dtype=torch.bool), (200001, )
    bias = AttentionBias(torch.tensor([[[1e5]]], dtype=torch.float64), ((4, 5), ), *where)
    row, col = torch.meshgrid(torch.arange(4), torch.arange(5), indexing='ij')
    expected = -torch.hypot(row - 1.0, col - 3.0).double() / 100000.5 * 1e5
    torch.testing.assert_close(added_everywhere(bias), expected.flatten().expand(1, HEADS, 1, 20), rtol=1e-6, atol=1e-6)


def test_half_precision_looks_up_wider_numbers():
    """Between 4 and 8, float16 has steps of 0.004: rounded so, this bias would change a weight by 0.2 %."""
    bias = AttentionBias(torch.tensor([[[-4.9981, 0.0]]]), ((1, 1), (1, 1)))
    query, key, value = torch.zeros(1, 1, 1, 16), torch.zeros(1, 1, 2, 16), torch.eye(2)[:, :1].expand(1, 1, 2, 16)
    found = flex_biased_attention(query.half(), key.half(), value.half(), bias)
    torch.testing.assert_close(found.float(), torch.sigmoid(bias.values[:, None, :, :1]).expand(found.shape),
                               rtol=1e-3, atol=0)


def test_stand_ins_and_minus_infinity():
    """Biases without windows are served, too: a bias of -inf takes its segment out, and nothing is NaN."""
    values = torch.tensor([[[-3.0, 0.5], [-1e4, 2.0]]], dtype=torch.float64)
    bias = with_stand_ins(AttentionBias(values, ((2, 3), (1, 4))))
    assert (bias.values == -torch.inf).any()
    assert_equal_to_reference(bias, torch.Generator().manual_seed(0), torch.float64, 1e-9)
    assert_equal_to_reference(bias, torch.Generator().manual_seed(0), torch.float16, 0.006)


def test_values_changed_in_place_take_effect():
    """And cost no digits, though what all layers share was made for weaker ones."""
    bias, generator = window_bias(heads=(HEADS, ), windows=(3, None))
    inputs = tensors(bias, generator, torch.float32)
    before = flex_biased_attention(*inputs, bias)
    bias.values.mul_(-1e6)
    after = flex_biased_attention(*inputs, bias)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after.double(), reference(*[x.double() for x in inputs], bias), rtol=1e-5, atol=1e-5)


def test_tables_are_for_training_though_first_made_for_inference():
    shapes = ((5, 4), (3, 7))  # no other test has them: the maps of their keys are made here
    with torch.inference_mode():
        bias, generator = window_bias(shapes=shapes)
        flex_biased_attention(*[x.detach() for x in tensors(bias, generator)], bias)
    assert_equal_to_reference(*window_bias(shapes=shapes), torch.float64, 1e-9)


def test_head_sizes_below_what_kernels_take_are_padded(monkeypatch):
    seen = []

    def attend(query, key, value, **options):
        seen.append((query.shape[-1], key.shape[-1], value.shape[-1]))
        return flex_attention(query, key, value, **options)

    monkeypatch.setattr(flex, 'flex_attention', attend)
    bias, generator = window_bias(batch=1)
    for dims, padded in ((8, 16), (16, 16), (24, 32)):
        query, key, value = (torch.randn(1, HEADS, n, dims, generator=generator, dtype=torch.float64)
                             for n in (3, bias.num_tokens, bias.num_tokens))
        torch.testing.assert_close(flex_biased_attention(query, key, value, bias), reference(query, key, value, bias))
        assert seen[-1] == (padded, ) * 3


def test_nothing_is_compiled_on_the_cpu(monkeypatch):
    monkeypatch.setattr(flex, '_compiled', lambda: pytest.fail('compiled on CPU'))
    bias, generator = window_bias()
    flex_biased_attention(*tensors(bias, generator, torch.float32), bias)


def test_traces_as_the_compiler_does():
    """All of torch.compile but the kernels, forward and backward, for a changing number of queries."""
    torch.compiler.reset()
    attend = torch.compile(flex_attention, backend='aot_eager', fullgraph=True)
    for num_query in (5, 9):
        bias, generator = window_bias(num_query=num_query)
        inputs = tensors(bias, generator)
        weight = torch.randn(inputs[0].shape, generator=generator, dtype=torch.float64)
        results = [outputs_and_gradients(function, inputs, bias, weight) for function in (
            lambda q, k, v, bias: attend(q, k, v, score_mod=score_modification(bias, q.dtype)), reference)]
        for found, expected in zip(*results):
            torch.testing.assert_close(found, expected)
    torch.compiler.reset()


@settings(max_examples=20)
@given(biases())
def test_the_cpu_has_its_tiles(case):
    bias, generator = case
    cpu = torch.device('cpu')
    assert 'table of all scores' in flex.obstacle(bias, cpu) and backends.fused_obstacle(bias, cpu) is None
    inputs = tensors(bias, generator, torch.float32)
    assert torch.equal(backends.fused_attention(*inputs, bias), tiled_attention(*inputs, bias))


@pytest.mark.parametrize('device, capability, has_triton, message', [
    ('cuda', (8, 0), True, None), ('cuda', (7, 0), True, None),
    ('cuda', (6, 1), True, r'a GPU of compute capability \(6, 1\)'), ('cuda', (8, 0), False, 'CUDA without Triton'),
    ('mps', (8, 0), True, 'a device other than CUDA, here mps')])
def test_which_devices_are_served(monkeypatch, device, capability, has_triton, message):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(flex.importlib.util, 'find_spec', lambda name: object() if has_triton else None)
    flex._cuda_obstacle.cache_clear()
    bias, _ = window_bias()
    found = backends.fused_obstacle(bias, torch.device(device))
    flex._cuda_obstacle.cache_clear()
    assert found is None if message is None else re.search(f'channels: a local bias; flex: {message}', found)


def test_the_module_asks_the_back_ends(monkeypatch):
    """impl='fused' is refused with the reasons of all back ends, and 'auto' takes the dense form."""
    attention = PETRMultiheadFlashAttention(HEADS * 4, HEADS, batch_first=True, impl='fused')
    bias, generator = window_bias()
    query, key = (torch.randn(2, n, HEADS * 4, generator=generator) for n in (3, bias.num_tokens))
    bias = with_values(bias, bias.values.float())
    served = attention(query, key, attn_mask=bias)
    monkeypatch.setattr(backends, 'BACKENDS', tuple(
        backend._replace(obstacle=lambda bias, device: 'a day off') for backend in backends.BACKENDS))
    with pytest.raises(ValueError, match='CPU tiles: a day off; channels: a day off; flex: a day off'):
        attention(query, key, attn_mask=bias)
    attention.impl = 'auto'
    torch.testing.assert_close(attention(query, key, attn_mask=bias), served)
