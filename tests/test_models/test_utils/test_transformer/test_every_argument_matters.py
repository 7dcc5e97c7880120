"""No argument of an attention class is silently ignored: each changes the result, or raises."""
import inspect
import types

import pytest
import torch
from mmcv.cnn.bricks.registry import ATTENTION

from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.attention.multi_head import ScaledDotProductMHA
from projects.mmdet3d_plugin.models.utils.transformer import petr_attention
from projects.mmdet3d_plugin.models.utils.transformer.petr_attention import (
    PETRMultiheadAttention,
    PETRMultiheadFlashAttention,
)

BATCH, QUERIES, KEYS, DIMS, HEADS = 2, 3, 8, 8, 2
CLASSES = [PETRMultiheadAttention, PETRMultiheadFlashAttention]


def data():
    generator = torch.Generator().manual_seed(0)
    query, key, value, identity, query_pos, key_pos = (
        torch.randn(n, BATCH, DIMS, generator=generator) for n in (QUERIES, KEYS, KEYS, QUERIES, QUERIES, KEYS))
    return dict(query=query, key=key, value=value, identity=identity, query_pos=query_pos, key_pos=key_pos)


def bias(local=False, heads=(), scale=3.0):
    values = torch.randn(BATCH, *heads, QUERIES, 2, generator=torch.Generator().manual_seed(1)) * scale
    where = (torch.zeros(BATCH, QUERIES, 2, 2, dtype=torch.long), torch.ones(BATCH, QUERIES, 2, dtype=torch.bool),
             (1, 1)) if local else ()
    return AttentionBias(values, ((2, 2), (1, 4)), *where)


def masks():
    generator = torch.Generator().manual_seed(2)
    forbidden = torch.rand(QUERIES, KEYS, generator=generator) < 0.3
    return {
        'bool': forbidden, 'float': torch.randn(QUERIES, KEYS, generator=generator),
        'per sample': torch.randn(BATCH, QUERIES, KEYS, generator=generator),
        'per head': torch.randn(BATCH * HEADS, QUERIES, KEYS, generator=generator),
        'global bias': bias(), 'local bias': bias(local=True), 'bias per head': bias(heads=(HEADS, ))}


def build(cls, **kwargs):
    torch.manual_seed(0)
    return cls(embed_dims=DIMS, num_heads=HEADS, **kwargs).eval()


@pytest.mark.parametrize('cls', CLASSES)
def test_every_forward_argument_matters(cls):
    module, base = build(cls), data()
    expected = module(**base)
    changes = {name: value + 0.5 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
               for name, value in base.items()}
    padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
    padding[:, 2:] = True
    changes['key_padding_mask'] = padding
    signature = inspect.signature(PETRMultiheadFlashAttention.forward)
    assert set(changes) | {'attn_mask', 'self'} == set(signature.parameters), 'a new argument needs a case here'
    for name, value in changes.items():
        assert (module(**{**base, name: value}) - expected).abs().max() > 1e-3, name
    for kind, mask in masks().items():
        assert (module(**base, attn_mask=mask) - expected).abs().max() > 1e-3, kind
    with pytest.raises(TypeError):
        module.attn(**base, unknown=1)


@pytest.mark.parametrize('cls', CLASSES)
@pytest.mark.parametrize('kind', ['global bias', 'local bias', 'bias per head'])
def test_a_compact_bias_equals_its_dense_form(cls, kind):
    module, base, compact = build(cls), data(), masks()[kind]
    dense = compact.dense()
    dense = dense.flatten(0, 1) if dense.dim() == 4 else dense
    torch.testing.assert_close(module(**base, attn_mask=compact), module(**base, attn_mask=dense), rtol=1e-5, atol=1e-6)


FLASH_ARGUMENTS = dict(
    embed_dims=dict(embed_dims=16), num_heads=dict(num_heads=4), attn_drop=dict(attn_drop=0.9),
    proj_drop=dict(proj_drop=0.9), dropout_layer=dict(dropout_layer=dict(type='Dropout', drop_prob=0.9)),
    dropout=dict(dropout=0.9), batch_first=dict(batch_first=True), bias=dict(bias=False),
    qk_norm=dict(qk_norm=2.0))


def test_every_constructor_argument_of_the_flash_class_matters():
    names = set(inspect.signature(PETRMultiheadFlashAttention.__init__).parameters) - {'self'}
    assert names == set(FLASH_ARGUMENTS) | {'impl', 'init_cfg'}, 'a new argument needs a case here'
    default = build(PETRMultiheadFlashAttention).train()
    for name, change in FLASH_ARGUMENTS.items():
        torch.manual_seed(0)
        module = PETRMultiheadFlashAttention(**{**dict(embed_dims=DIMS, num_heads=HEADS), **change}).train()
        shapes = {key: value.shape for key, value in module.state_dict().items()}
        if shapes != {key: value.shape for key, value in default.state_dict().items()}:
            continue  # other parameters
        torch.manual_seed(0)
        expected = default(**data())
        torch.manual_seed(0)
        if name == 'batch_first':
            base = {key: value.transpose(0, 1) for key, value in data().items()}
            assert module(**base).shape == (BATCH, QUERIES, DIMS)
            continue
        assert not torch.allclose(module(**data()), expected), name
    initialized = build(PETRMultiheadFlashAttention, init_cfg=dict(type='Constant', layer='Linear', val=0.25))
    initialized.init_weights()
    assert (initialized.attn.out_proj.weight == 0.25).all()
    with pytest.raises(TypeError, match='unknown'):
        PETRMultiheadFlashAttention(embed_dims=DIMS, num_heads=HEADS, unknown=1)


def test_scaled_dot_product_class():
    names = set(inspect.signature(ScaledDotProductMHA.__init__).parameters) - {'self'}
    assert names == {'embed_dims', 'num_heads', 'attn_drop', 'bias', 'qk_norm'}  # passed on by the class above


class TestImplementations:

    def run(self, impl, mask, training=False, attn_drop=0.0, **kwargs):
        module = build(PETRMultiheadFlashAttention, impl=impl, attn_drop=attn_drop).train(training)
        return module(**data(), attn_mask=mask, **kwargs)

    @pytest.mark.parametrize('kind', ['global bias', 'local bias', 'bias per head'])
    def test_dense_fused_and_auto_agree(self, kind):
        mask = masks()[kind]
        dense, fused, auto = (self.run(impl, mask) for impl in ('dense', 'fused', 'auto'))
        torch.testing.assert_close(fused, dense, rtol=1e-5, atol=1e-6)
        assert torch.equal(fused, auto)

    def test_the_paths_taken_are_those_asked_for(self, monkeypatch):
        calls = []
        monkeypatch.setattr(AttentionBias, 'dense', lambda self: calls.append(1) or torch.zeros(BATCH, QUERIES, KEYS))
        self.run('fused', bias()), self.run('auto', bias())
        assert not calls
        self.run('dense', bias())
        assert len(calls) == 1

    @pytest.mark.parametrize('kwargs, obstacle', [
        (dict(mask=bias(), training=True, attn_drop=0.5), 'dropout'),
        (dict(mask=bias(), key_padding_mask=torch.zeros(BATCH, KEYS, dtype=torch.bool)), 'key_padding_mask'),
        (dict(mask=None, key_padding_mask=torch.zeros(BATCH, KEYS, dtype=torch.bool)), 'key_padding_mask'),
        (dict(mask=torch.zeros(QUERIES, KEYS)), 'tensor')])
    def test_fused_raises_where_it_cannot_serve(self, kwargs, obstacle):
        with pytest.raises(ValueError, match=obstacle):
            self.run('fused', **kwargs)

    def test_auto_takes_dense_there_and_says_so_once(self, monkeypatch):
        petr_attention.log_once.cache_clear()
        messages = []
        monkeypatch.setattr(petr_attention, 'get_logger', lambda name: types.SimpleNamespace(
            log=lambda level, message: messages.append(message)))
        padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
        padding[:, 6:] = True
        results = [self.run('auto', bias(), key_padding_mask=padding) for _ in range(3)]
        torch.testing.assert_close(results[0], self.run('dense', bias(), key_padding_mask=padding))
        assert len(messages) == 1 and 'key_padding_mask' in messages[0]

    def test_dropout_off_in_evaluation_is_served(self):
        torch.testing.assert_close(self.run('fused', bias(), attn_drop=0.5), self.run('dense', bias(), attn_drop=0.5))

    def test_unknown_implementation(self):
        with pytest.raises(ValueError, match='impl'):
            build(PETRMultiheadFlashAttention, impl='flash')


def test_the_classes_are_those_registered():
    for cls in CLASSES:
        assert ATTENTION.get(cls.__name__) is cls
