import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.cnn.bricks.registry import ATTENTION

from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.attention.multi_head import ScaledDotProductMHA
from projects.mmdet3d_plugin.models.utils.attention.reference import masks_to_bias, reference_attention

NAMES = ['PETRMultiheadAttention', 'PETRMultiheadFlashAttention']


def oracle(module, query, key, value, bias):
    """(B, N, C) tensors through the projections of ``module`` and the eager reference."""
    attn, heads = module.attn, module.num_heads
    q, k, v = (torch.nn.functional.linear(x, w, b).unflatten(-1, (heads, -1)).transpose(1, 2) for x, w, b in
               zip((query, key, value), attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)))
    out, _ = reference_attention(q, k, v, bias)
    return attn.out_proj(out.transpose(1, 2).flatten(2))


def make_mask(kind, batch, heads, num_query, num_keys, generator):
    shape = {'2d': (num_query, num_keys), '3d': (batch, num_query, num_keys),
             'heads': (batch * heads, num_query, num_keys)}
    form, is_bool = kind
    values = torch.randn(shape[form], dtype=torch.float64, generator=generator) * 3
    if is_bool:
        mask = values > 1
        mask[..., 0] = False  # no row may be forbidden entirely
        return mask
    return values


@pytest.mark.parametrize('name', NAMES)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 7),
       st.one_of(st.none(), st.tuples(st.sampled_from(['2d', '3d', 'heads']), st.booleans())), st.booleans(),
       st.integers(0, 2**31))
def test_equals_reference(name, batch, num_query, num_keys, kind, batch_first, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    module = ATTENTION.build(dict(type=name, embed_dims=8, num_heads=2, batch_first=batch_first)).double()
    query, key, value, query_pos, key_pos = (
        torch.randn(batch, n, 8, dtype=torch.float64, generator=generator, requires_grad=True)
        for n in (num_query, num_keys, num_keys, num_query, num_keys))
    mask = None if kind is None else make_mask(kind, batch, 2, num_query, num_keys, generator)
    bias = None
    if mask is not None:
        bias = masks_to_bias(mask, torch.float64)
        if mask.dim() == 3:
            bias = bias[:, None] if len(mask) == batch else bias.unflatten(0, (batch, 2))
    expected = query + oracle(module, query + query_pos, key + key_pos, value, bias)
    order = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1))
    out = order(module(order(query), order(key), order(value), query_pos=order(query_pos), key_pos=order(key_pos),
                       attn_mask=mask))
    torch.testing.assert_close(out, expected)
    inputs = (query, key, value, query_pos, key_pos)
    for grad, want in zip(torch.autograd.grad(out.square().sum(), inputs),
                          torch.autograd.grad(expected.square().sum(), inputs)):
        torch.testing.assert_close(grad, want)


def test_gradient_reaches_the_bias():
    torch.manual_seed(0)
    module = ScaledDotProductMHA(8, 2).double()
    query, key, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in
                        [(1, 3, 8), (1, 5, 8), (1, 1, 3, 5)])
    assert torch.autograd.gradcheck(lambda q, k, b: module(q, k, k, b), (query, key, bias))


@pytest.mark.parametrize('mask', [None, 'bool', 'float'])
@pytest.mark.parametrize('name', NAMES)
def test_key_padding_mask(name, mask):
    """Padded keys are as good as absent, beside any other mask."""
    torch.manual_seed(0)
    module = ATTENTION.build(dict(type=name, embed_dims=8, num_heads=2))
    query, key = torch.randn(3, 2, 8), torch.randn(5, 2, 8)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    if mask == 'bool':
        mask = torch.randn(3, 5) > 1
    elif mask == 'float':
        mask = torch.randn(3, 5)
        if name == NAMES[0]:  # nn.MultiheadAttention wants both masks of one kind
            padding = torch.zeros(2, 5).masked_fill(padding, -torch.inf)
    out = module(query, key, key, attn_mask=mask, key_padding_mask=padding)
    short = None if mask is None else mask[:, :3]
    torch.testing.assert_close(out[:, 1:], module(query[:, 1:], key[:3, 1:], key[:3, 1:], attn_mask=short))
    torch.testing.assert_close(out[:, :1], module(query[:, :1], key[:, :1], key[:, :1], attn_mask=mask))


def test_published_dropout_argument_is_the_residual_one_alone():
    module = ATTENTION.build(dict(type='PETRMultiheadFlashAttention', embed_dims=8, num_heads=2, dropout=0.1))
    assert module.dropout_layer.p == 0.1 and module.attn.attn_drop == 0.0
    with pytest.raises(ValueError, match='dropout'):
        ATTENTION.build(dict(type='PETRMultiheadFlashAttention', embed_dims=8, num_heads=2, dropout=0.1,
                             dropout_layer=dict(type='Dropout', drop_prob=0.2)))


def test_attention_dropout_acts_in_training_only():
    torch.manual_seed(0)
    module = ATTENTION.build(dict(type='PETRMultiheadFlashAttention', embed_dims=8, num_heads=2, attn_drop=0.5))
    query, key = torch.randn(3, 1, 8), torch.randn(9, 1, 8)
    assert not torch.equal(module(query, key), module(query, key))
    module.eval()
    assert torch.equal(module(query, key), module(query, key))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_bias(dtype):
    torch.manual_seed(0)
    module = ATTENTION.build(dict(type='PETRMultiheadFlashAttention', embed_dims=32, num_heads=2))
    query, key, bias = torch.randn(4, 1, 32), torch.randn(50, 1, 32), torch.randn(1, 4, 50) * 3
    expected = module(query, key, key, attn_mask=bias)
    with torch.autocast('cpu', dtype=dtype):
        out = module(query, key, key, attn_mask=bias)
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.05)


def test_bad_arguments():
    with pytest.raises(ValueError, match='embed_dims'):
        ScaledDotProductMHA(10, 3)
    module = ATTENTION.build(dict(type='PETRMultiheadFlashAttention', embed_dims=8, num_heads=2))
    with pytest.raises(ValueError, match='attn_mask'):
        module(torch.randn(3, 2, 8), attn_mask=torch.zeros(3, 3, 3))


def test_dropout_does_not_leak_into_modules_built_later():
    """mmcv keeps the dropout of one module as the default of the next."""
    for dropout in (0.3, None, 0.3):
        options = {} if dropout is None else dict(dropout=dropout)
        module = ATTENTION.build(dict(type='PETRMultiheadAttention', embed_dims=8, num_heads=2, **options))
        assert module.dropout_layer.p == (dropout or 0.0)


@pytest.mark.parametrize('kind', ['PETRMultiheadAttention', 'PETRMultiheadFlashAttention'])
@pytest.mark.parametrize('impl', ['dense', 'auto'])
def test_strong_biases_cost_no_digits(kind, impl):
    """Scores next to a bias of 1e6 would keep one digit after the point; softmax needs their differences alone."""
    torch.manual_seed(0)
    options = dict(impl=impl) if kind == 'PETRMultiheadFlashAttention' else {}
    attention = ATTENTION.build(dict(type=kind, embed_dims=16, num_heads=2, **options)).eval()
    torch.nn.init.normal_(attention.attn.in_proj_weight, std=0.5)
    values = torch.tensor([1e6, 1e6, -1e6]).expand(1, 5, 3)
    bias = AttentionBias(values, ((2, 3), (1, 4), (1, 4)))
    query, key = torch.randn(5, 1, 16), torch.randn(14, 1, 16)
    with torch.no_grad():
        found = attention(query, key, key, attn_mask=bias)
        expected = attention.double()(query.double(), key.double(), key.double(),
                                      attn_mask=bias.dense().double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
