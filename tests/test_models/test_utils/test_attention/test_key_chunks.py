"""Keys that are projected a few at a time: the result is that of the dense reference, no key is projected twice."""
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils.attention import AttentionBias, key_chunks, reference_attention
from projects.mmdet3d_plugin.models.utils.attention.cpu_tiles import chunked_attention
from projects.mmdet3d_plugin.models.utils.attention.key_chunks import attend_in_chunks, can_chunk
from projects.mmdet3d_plugin.models.utils.attention.multi_head import ScaledDotProductMHA
from tests.fuzz.strategies import biases, tensors, with_values

TOLERANCES = [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.04), (torch.float16, 0.006)]


@pytest.fixture(autouse=True, params=[3, 2048])
def chunk_keys(request, monkeypatch):
    monkeypatch.setattr(key_chunks, 'CHUNK_KEYS', request.param)
    return request.param


@pytest.mark.parametrize('dtype, tolerance', TOLERANCES)
@pytest.mark.parametrize('masked', [False, True])
def test_a_run_of_keys(dtype, tolerance, masked):
    """Its output and log-sum-exp, the mask cut as the keys are."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, size, 8, dtype=torch.float64, generator=generator).to(dtype)
                         for size in (5, 12, 12))
    run = slice(1, 11)
    mask = torch.randn(2, 1, 5, 10, generator=generator) if masked else None
    with torch.no_grad():
        out, lse = attend_in_chunks(query, lambda keys: (key[:, :, keys], value[:, :, keys]), run,
                                    None if mask is None else mask.to(lse_dtype(dtype)))
    assert lse.dtype == lse_dtype(dtype)
    scores = query.double() @ key.double()[:, :, run].transpose(-1, -2) / 8 ** 0.5 + (0 if mask is None else mask)
    torch.testing.assert_close(lse.double(), scores.logsumexp(dim=-1), rtol=tolerance, atol=tolerance)
    expected = scores.softmax(dim=-1) @ value.double()[:, :, run]
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


def lse_dtype(dtype):
    return torch.promote_types(dtype, torch.float32)


@settings(max_examples=60)
@given(biases())
@pytest.mark.parametrize('dtype, tolerance', TOLERANCES)
def test_equals_the_reference(dtype, tolerance, case):
    bias, generator = case
    inputs = tensors(bias, generator, dtype)
    dense = bias.dense() if bias.values.dim() == 4 else bias.dense().unsqueeze(1)
    expected = reference_attention(*(x.double() for x in inputs), dense)[0]
    query, key, value = inputs
    with torch.no_grad():
        narrow = with_values(bias, bias.values.to(lse_dtype(dtype)))
        found = chunked_attention(query, lambda batch, keys: (key[batch, :, keys], value[batch, :, keys]), narrow)
    assert found.dtype == dtype and found.shape == query.shape
    scale = max(expected.abs().max().item(), 1.0)
    assert (found.double() - expected).abs().max().item() <= tolerance * scale


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(biases(), st.sampled_from([None, 3.0]))
def test_the_module_gives_what_it_gives_with_gradients(chunk_keys, case, qk_norm):
    """In float64, over random biases; keys are projected once, where chunks are not smaller than tiles."""
    bias, generator = case
    torch.manual_seed(0)
    heads = bias.values.shape[1] if bias.values.dim() == 4 else 2
    module = ScaledDotProductMHA(8 * heads, heads, qk_norm=qk_norm).double()
    batch, num_query = bias.values.shape[0], bias.values.shape[-2]
    query, key, value = (torch.randn(batch, size, 8 * heads, dtype=torch.float64, generator=generator)
                         for size in (num_query, bias.num_tokens, bias.num_tokens))
    expected, seen = module(query, key, value, bias), []
    project = module._key_value_heads
    module._key_value_heads = lambda key, value: seen.append(key.shape[0] * key.shape[1]) or project(key, value)
    with torch.no_grad():
        found = module(query, key, value, bias)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)
    assert sum(seen) <= batch * bias.num_tokens or chunk_keys < 2048


def test_keys_that_nobody_attends_to_are_not_projected():
    bias = AttentionBias(torch.tensor([[[0.0, -torch.inf, -torch.inf]], [[0.0, 0.0, -torch.inf]]]),
                         ((1, 4), (1, 5), (1, 6)))
    seen = []

    def keys_of(batch, keys):
        samples, places = range(2)[batch], range(15)[keys]
        seen.extend((sample, place) for sample in samples for place in places)
        return torch.randn(2, len(samples), 1, len(places), 8)

    with torch.no_grad():
        chunked_attention(torch.randn(2, 1, 1, 8), keys_of, bias)
    assert sorted(seen) == [*((0, key) for key in range(4)), *((1, key) for key in range(9))]


def test_a_bias_that_does_not_fit_raises():
    module, bias = ScaledDotProductMHA(8, 1), AttentionBias(torch.zeros(1, 2, 1), ((1, 3), ))
    with torch.no_grad(), pytest.raises(ValueError, match=r'bias must be .*\(1, 2, 4\)'):
        module(torch.zeros(1, 2, 8), torch.zeros(1, 4, 8), torch.zeros(1, 4, 8), bias)
    with torch.no_grad():
        assert can_chunk(torch.device('cpu')) and not can_chunk(torch.device('meta'))
    assert not can_chunk(torch.device('cpu'))
