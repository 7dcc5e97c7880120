"""Query-key normalization: scores are temperature times cosine, in every implementation and beside every bias."""
import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.registry import ATTENTION

from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.attention.channels import channel_attention
from projects.mmdet3d_plugin.models.utils.attention.multi_head import ScaledDotProductMHA

BATCH, HEADS, DIMS, QUERIES = 2, 2, 16, 5
SHAPES = ((3, 4), (2, 5))
KEYS = 22
NAMES = ['PETRMultiheadAttention', 'PETRMultiheadFlashAttention']


def build(name, qk_norm=6.0, **kwargs):
    torch.manual_seed(0)
    module = ATTENTION.build(dict(type=name, embed_dims=DIMS, num_heads=HEADS, qk_norm=qk_norm, **kwargs)).double()
    module.attn.log_temperature.data += torch.tensor([0.0, 0.7])  # heads differ
    torch.nn.init.normal_(module.attn.in_proj_bias)
    return module


def tensors():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, BATCH, DIMS, dtype=torch.float64, generator=generator).requires_grad_()
            for n in (QUERIES, KEYS, KEYS)]


def biases(kind):
    generator = torch.Generator().manual_seed(2)
    shape = (BATCH, HEADS, QUERIES, 2) if kind == 'per head' else (BATCH, QUERIES, 2)
    values = (torch.randn(shape, dtype=torch.float64, generator=generator) * 4).requires_grad_()
    if kind != 'local':
        return AttentionBias(values, SHAPES)
    cells = torch.randint(2, (BATCH, QUERIES, 2, 2), generator=generator)
    return AttentionBias(values, SHAPES, cells, torch.rand(BATCH, QUERIES, 2, generator=generator) < 0.7, (3, 5))


def oracle(module, query, key, value, bias=None):
    """Head by head, cosines written out."""
    attn, outs = module.attn, []
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), attn.in_proj_weight.chunk(3),
                                                    attn.in_proj_bias.chunk(3)))  # (N, B, C)
    size = DIMS // HEADS
    for head in range(HEADS):
        qh, kh, vh = (x[..., head * size:(head + 1) * size].transpose(0, 1) for x in (q, k, v))  # (B, N, d)
        cosine = F.cosine_similarity(qh[:, :, None], kh[:, None], dim=-1)
        scores = cosine * attn.log_temperature[head].exp()
        if bias is not None:
            scores = scores + (bias[:, head] if bias.dim() == 4 else bias)
        outs.append((scores.softmax(-1) @ vh).transpose(0, 1))
    return query + attn.out_proj(torch.cat(outs, dim=-1))


@pytest.mark.parametrize('kind', [None, 'global', 'local', 'per head'])
@pytest.mark.parametrize('name, kwargs', [(NAMES[0], {}), (NAMES[1], dict(impl='dense')),
                                          (NAMES[1], dict(impl='fused'))])
def test_equals_cosines_written_out(name, kwargs, kind):
    """Outputs and all gradients, the temperature's and the bias' included."""
    module, inputs = build(name, **kwargs), tensors()
    bias = None if kind is None else biases(kind)
    wanted = [*inputs, *module.parameters()] + ([] if bias is None else [bias.values])
    out = module(*inputs, attn_mask=bias)
    expected = oracle(module, *inputs, None if bias is None else bias.dense())
    torch.testing.assert_close(out, expected)
    for grad, want in zip(torch.autograd.grad(out.square().sum(), wanted),
                          torch.autograd.grad(expected.square().sum(), wanted)):
        torch.testing.assert_close(grad, want)


def test_equals_cosines_through_bias_channels():
    """The way of global biases off CPU."""
    module, (query, key, value), bias = build(NAMES[1]), tensors(), biases('global')
    attn = module.attn
    q, k, v = (F.linear(x.transpose(0, 1), w, b).unflatten(-1, (HEADS, -1)).transpose(1, 2) for x, w, b in
               zip((query, key, value), attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)))
    out = channel_attention(attn.normalize_query(q), attn.normalize_key(k), v, bias)
    out = attn.out_proj(out.transpose(1, 2).flatten(2))
    torch.testing.assert_close(query + out.transpose(0, 1), oracle(module, query, key, value, bias.dense()))


def test_gradcheck():
    module = ScaledDotProductMHA(4, 2, qk_norm=3.0).double()
    query, key = (torch.randn(1, n, 4, dtype=torch.float64, requires_grad=True) for n in (2, 3))
    values = torch.randn(1, 2, 1, dtype=torch.float64, requires_grad=True)

    def run(query, key, values, log_temperature):
        return torch.func.functional_call(module, dict(log_temperature=log_temperature),
                                          (query, key, key, AttentionBias(values, ((1, 3), ))))

    assert torch.autograd.gradcheck(run, (query, key, values, module.log_temperature.detach().requires_grad_()))


@pytest.mark.parametrize('name', NAMES)
def test_scores_are_bounded_however_large_the_inputs(name):
    module, (query, key, value) = build(name), tensors()
    torch.testing.assert_close(module(1e4 * query, 1e5 * key, value) - 1e4 * query,
                               module(query * 1e4, 1e7 * key, value) - 1e4 * query, rtol=1e-3, atol=1e-3)
    many = torch.randn(2, 1, HEADS, 50, 8, dtype=torch.float64) * 1e6
    scores = module.attn.normalize_query(many[0]) @ module.attn.normalize_key(many[1]).transpose(-1, -2) / math.sqrt(8)
    assert (scores.abs().amax(dim=(0, 2, 3)) <= module.attn.log_temperature.exp() + 1e-9).all()


@pytest.mark.parametrize('name', NAMES)
def test_start_and_published_parameters(name):
    module = ATTENTION.build(dict(type=name, embed_dims=DIMS, num_heads=HEADS, qk_norm=6.0))
    torch.testing.assert_close(module.attn.log_temperature.exp(), torch.full((HEADS, ), 6.0))
    plain = ATTENTION.build(dict(type=name, embed_dims=DIMS, num_heads=HEADS))
    added = {key: value for key, value in module.state_dict().items() if key not in plain.state_dict()}
    assert list(added) == ['attn.log_temperature']
    assert [key for key in plain.state_dict() if key not in module.state_dict()] == []


@pytest.mark.parametrize('name', NAMES)
def test_masks(name):
    """Bool, float and padding masks as without normalization: forbidden keys are as good as absent."""
    module, (query, key, value) = build(name), tensors()
    mask, padding = torch.zeros(QUERIES, KEYS, dtype=torch.bool), torch.zeros(BATCH, KEYS, dtype=torch.bool)
    mask[:, 9:] = padding[:, 9:] = True
    expected = module(query, key[:9], value[:9])
    for masks in (dict(attn_mask=mask), dict(attn_mask=torch.zeros(mask.shape).masked_fill(mask, -math.inf)),
                  dict(attn_mask=mask.expand(BATCH, -1, -1)), dict(key_padding_mask=padding),
                  dict(attn_mask=mask.expand(BATCH * HEADS, -1, -1), key_padding_mask=padding)):
        torch.testing.assert_close(module(query, key, value, **masks), expected)


@pytest.mark.parametrize('name', NAMES)
def test_batch_first_and_dropout(name):
    module, inputs = build(name), tensors()
    other = build(name, batch_first=True)
    torch.testing.assert_close(other(*(x.transpose(0, 1) for x in inputs)).transpose(0, 1), module(*inputs))
    dropping = build(name, attn_drop=0.5)
    assert not torch.equal(dropping(*inputs), dropping(*inputs))
    torch.testing.assert_close(dropping.eval()(*inputs), module(*inputs))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    module, inputs = build(NAMES[1]).float(), [x.detach().float() for x in tensors()]
    expected = module(*inputs)
    with torch.autocast('cpu', dtype=dtype):
        out = module(*inputs)
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.06)


@pytest.mark.parametrize('value', [0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize('name', NAMES)
def test_bad_values(name, value):
    with pytest.raises(ValueError, match='qk_norm must be'):
        build(name, qk_norm=value)
