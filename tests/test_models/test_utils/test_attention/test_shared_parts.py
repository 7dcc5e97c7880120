"""Parts that several biases share: each result is that of the dense reference, and a key is read once."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils.attention import AttentionBias, reference_attention
from projects.mmdet3d_plugin.models.utils.attention.key_chunks import can_chunk
from projects.mmdet3d_plugin.models.utils.attention.multi_head import ScaledDotProductMHA
from projects.mmdet3d_plugin.models.utils.attention.shared_parts import SharedPart, shared_attention

SHAPES = ((2, 3), (1, 4), (0, 4), (1, 5))
LEVELS = st.sampled_from([-math.inf, -1e4, -3.0, -1e-3, 0.0, 2.0, 1e4])


@st.composite
def several_biases(draw):
    """Two or three biases (B, Q, S) or (B, heads, Q, S) of one size, each query of which has something to attend to."""
    batch, heads, queries = draw(st.integers(1, 2)), draw(st.sampled_from([None, 2])), draw(st.integers(1, 4))
    shape = (batch, queries, 4) if heads is None else (batch, heads, queries, 4)
    values = []
    for _ in range(draw(st.integers(2, 3))):
        drawn = draw(st.lists(LEVELS, min_size=math.prod(shape), max_size=math.prod(shape)))
        value = torch.tensor(drawn, dtype=torch.float64).view(shape)
        value[..., 0] = torch.where((value == -math.inf).all(dim=-1), 0.0, value[..., 0])
        values.append(value)
    return values


def tensors(values, dims=8):
    generator = torch.Generator().manual_seed(0)
    keys = sum(height * width for height, width in SHAPES)
    return [torch.randn(len(values), 2, size, dims, dtype=torch.float64, generator=generator)
            for size in (values.shape[-2], keys, keys)]


@settings(max_examples=60, deadline=None)
@given(several_biases(), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_every_bias_gets_what_the_reference_gives(all_values, dtype):
    inputs = tensors(all_values[0])
    parts, asked = tuple(SharedPart() for _ in SHAPES), []
    query, key, value = (x.to(dtype) for x in inputs)

    def keys_of(keys):
        asked.append((keys.start, keys.stop))
        return key[:, :, keys], value[:, :, keys]

    with torch.no_grad():
        for values in all_values:
            bias = AttentionBias(values, SHAPES, parts=parts)
            dense = bias.dense_scores() if values.dim() == 4 else bias.dense_scores().unsqueeze(1)
            expected, _ = reference_attention(*(x.to(dtype).double() for x in inputs), dense)
            found = shared_attention(query, keys_of, bias)
            assert found.dtype == dtype
            tolerance = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    # Segments without keys or without any weight are never read, no other one twice.
    has_weight = torch.stack([(values > -math.inf).flatten(0, -2).any(dim=0) for values in all_values]).any(dim=0)
    needed = [(keys.start, keys.stop) for keys, is_needed in zip(bias.segments, has_weight)
              if is_needed and keys.stop > keys.start]
    assert sorted(asked) == needed


def test_nothing_to_attend_with_or_to():
    bias = AttentionBias(torch.zeros(1, 2, 1), ((0, 3), ), parts=(SharedPart(), ))
    with torch.no_grad():
        assert not shared_attention(torch.ones(1, 2, 2, 8), None, bias).any()
        empty = AttentionBias(torch.zeros(1, 0, 1), ((1, 3), ), parts=(SharedPart(), ))
        assert shared_attention(torch.ones(1, 2, 0, 8), None, empty).shape == (1, 2, 0, 8)


@pytest.mark.parametrize('qk_norm', [None, 3.0])
def test_attention_modules_share_without_gradients_alone(qk_norm):
    torch.manual_seed(0)
    module = ScaledDotProductMHA(8, 2, qk_norm=qk_norm)
    query, key = torch.randn(2, 3, 8), torch.randn(2, 15, 8)
    parts = tuple(SharedPart() for _ in SHAPES)
    bias = AttentionBias(torch.randn(2, 3, 4), SHAPES, parts=parts)
    plain = module(query, key, key, AttentionBias(bias.values, SHAPES))
    torch.testing.assert_close(module(query, key, key, bias), plain)
    assert parts[0].out is None and plain.requires_grad and not can_chunk(query.device)
    with torch.no_grad():
        torch.testing.assert_close(module(query, key, key, bias), plain)
        assert parts[0].out is not None and parts[2].out is None
        # What is filled is not computed again: other keys change nothing.
        torch.testing.assert_close(module(query, key * math.nan, key, bias), plain)
