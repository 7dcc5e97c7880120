import pytest
import torch
from mmcv import ConfigDict
from mmdet.models.utils import build_transformer

from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias

BEV, VIEWS = (3, 4), (2, 2, 3)
NUM_TOKENS = 12 + 12


def _layer_config(operation_order, **layer):
    attn = dict(self_attn=dict(type='MultiheadAttention', embed_dims=16, num_heads=2),
                cross_attn=dict(type='PETRMultiheadFlashAttention', embed_dims=16, num_heads=2))
    return ConfigDict(dict(dict(type='PETRTransformerDecoderLayer', with_cp=False), operation_order=operation_order,
                           attn_cfgs=[attn[op] for op in operation_order if op in attn],
                           ffn_cfgs=dict(type='FFN', embed_dims=16, feedforward_channels=16, num_fcs=2, ffn_drop=0.0),
                           **layer))


def build(operation_order=('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'), options=None, **layer):
    torch.manual_seed(0)
    transformer = build_transformer(ConfigDict(type='CmtTransformer', **(options or {}), decoder=dict(
        type='PETRTransformerDecoder', return_intermediate=True, num_layers=2,
        transformerlayers=_layer_config(operation_order, **layer))))
    transformer.init_weights()
    return transformer.double()


def inputs(batch=2, num_query=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 16, *BEV), (batch * VIEWS[0], 16, *VIEWS[1:]), (batch, num_query, 16), (BEV[0] * BEV[1], 16),
              (batch * VIEWS[0], *VIEWS[1:], 16)]
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes]


class Recorder(torch.nn.Module):
    """Stands in front of an attention and keeps the mask that it was given."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.masks = []

    def forward(self, *args, attn_mask=None, **kwargs):
        self.masks.append(attn_mask)
        return self.attention(*args, attn_mask=attn_mask, **kwargs)


ORDERS = [('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'),
          ('cross_attn', 'norm', 'self_attn', 'norm', 'ffn', 'norm')]


@pytest.mark.parametrize('order', ORDERS)
def test_bias_reaches_cross_attention_and_only_it(order):
    transformer = build(order)
    recorders = {'self_attn': [], 'cross_attn': []}
    for layer in transformer.decoder.layers:
        for slot, op in enumerate(op for op in order if op in recorders):
            layer.attentions[slot] = Recorder(layer.attentions[slot])
            recorders[op].append(layer.attentions[slot])
    bias = torch.randn(2, 5, NUM_TOKENS, dtype=torch.float64)
    dn_mask = torch.zeros(5, 5, dtype=torch.bool)
    dn_mask[3:, :3] = True
    transformer(*inputs(), attn_masks=dn_mask, aqr_attention_bias=bias)
    for recorder in recorders['self_attn']:
        assert torch.equal(recorder.masks[0], dn_mask)
    for recorder in recorders['cross_attn']:
        assert torch.equal(recorder.masks[0], bias)


def test_zero_bias_changes_nothing_and_others_do():
    transformer, args = build(), inputs()
    plain, memory = transformer(*args)
    assert plain.shape == (2, 2, 5, 16) and memory.shape == (NUM_TOKENS, 2, 16)
    zero = torch.zeros(2, 5, NUM_TOKENS, dtype=torch.float64)
    torch.testing.assert_close(transformer(*args, aqr_attention_bias=zero)[0], plain, rtol=1e-12, atol=1e-12)
    one_query = zero.clone()
    one_query[0, 2, :12] = 4.0
    changed = (transformer(*args, aqr_attention_bias=one_query)[0] - plain).abs().amax(dim=-1)
    assert (changed[0, 0] > 1e-6).tolist() == [False, False, True, False, False]  # first layer: that query alone
    assert (changed[:, 1] == 0).all()  # the other sample


def test_forms_of_attn_masks():
    transformer, args = build(), inputs()
    dn_mask = torch.zeros(5, 5, dtype=torch.bool)
    dn_mask[3:, :3] = True
    cross_mask = torch.zeros(5, NUM_TOKENS, dtype=torch.bool)
    cross_mask[:, 5:] = True
    bias = torch.randn(2, 5, NUM_TOKENS, dtype=torch.float64)

    torch.testing.assert_close(transformer(*args, attn_masks=dn_mask)[0],
                               transformer(*args, attn_masks=[dn_mask, None])[0])
    # Bool and float masks of the cross slot join the bias instead of replacing it.
    expected = transformer(*args, aqr_attention_bias=bias.masked_fill(cross_mask, -torch.inf))[0]
    as_float = torch.zeros(5, NUM_TOKENS, dtype=torch.float64).masked_fill(cross_mask, -torch.inf)
    for mask in (cross_mask, as_float, as_float.expand(2, -1, -1)):
        torch.testing.assert_close(transformer(*args, attn_masks=[None, mask], aqr_attention_bias=bias)[0], expected)


def test_a_compact_bias_joins_other_masks():
    transformer, args = build(), inputs()
    compact = AttentionBias(torch.randn(2, 5, 2, dtype=torch.float64), (BEV, (VIEWS[0] * VIEWS[1], VIEWS[2])))
    other = torch.randn(5, NUM_TOKENS, dtype=torch.float64)
    expected = transformer(*args, aqr_attention_bias=compact.dense() + other)[0]
    torch.testing.assert_close(transformer(*args, attn_masks=[None, other], aqr_attention_bias=compact)[0], expected)
    torch.testing.assert_close(transformer(*args, attn_masks=[None, compact])[0],
                               transformer(*args, aqr_attention_bias=compact)[0])


def test_one_bias_for_all_layers_joins_other_masks_once(monkeypatch):
    """Joined, they are as large as a dense bias: one, not one for each layer."""
    transformer, args = build(), inputs()
    compact = AttentionBias(torch.randn(2, 5, 2, dtype=torch.float64), (BEV, (VIEWS[0] * VIEWS[1], VIEWS[2])))
    made, dense = [], AttentionBias.dense
    monkeypatch.setattr(AttentionBias, 'dense', lambda self: made.append(1) or dense(self))
    transformer(*args, attn_masks=[None, torch.zeros(5, NUM_TOKENS, dtype=torch.float64)], aqr_attention_bias=compact)
    assert len(transformer.decoder.layers) > len(made) == 1


def test_a_bias_for_each_layer():
    """Layers that get the same bias decode as with one for all; the second one's bias leaves the first layer alone."""
    transformer, args = build(), inputs()
    shapes = (BEV, (VIEWS[0] * VIEWS[1], VIEWS[2]))
    first, second = (AttentionBias(torch.randn(2, 5, 2, dtype=torch.float64), shapes) for _ in range(2))
    torch.testing.assert_close(transformer(*args, aqr_attention_bias=[first, first])[0],
                               transformer(*args, aqr_attention_bias=first)[0])
    mixed = transformer(*args, aqr_attention_bias=[first, second])[0]
    same = transformer(*args, aqr_attention_bias=first)[0]
    torch.testing.assert_close(mixed[0], same[0])
    assert (mixed[1] - same[1]).abs().amax() > 1e-3


def test_layers_must_share_one_order():
    decoder = type(build().decoder)
    with pytest.raises(ValueError, match='operation_order'):
        decoder(transformerlayers=[_layer_config(order) for order in ORDERS], num_layers=2)


def test_single_modalities():
    transformer, (x, x_img, query, bev_pos, rv_pos) = build(), inputs()
    assert transformer(x, None, query, bev_pos, None)[1].shape[0] == 12
    assert transformer(None, x_img, query, None, rv_pos)[1].shape[0] == 12


@pytest.mark.parametrize('kwargs, error, name', [
    (dict(attn_masks='mask'), TypeError, 'attn_masks'),
    (dict(attn_masks={0: None}), TypeError, 'attn_masks'),
    (dict(attn_masks=[None]), ValueError, 'attn_masks'),
    (dict(attn_masks=torch.zeros(4, 4)), ValueError, 'attn_masks'),
    (dict(aqr_attention_bias=torch.zeros(2, 5, 7)), ValueError, 'aqr_attention_bias'),
    (dict(aqr_attention_bias=torch.zeros(5, NUM_TOKENS)), ValueError, 'aqr_attention_bias'),
    (dict(aqr_attention_bias=[None]), ValueError, r'one bias per layer \(2\), got 1'),
    (dict(reg_branch=torch.nn.Identity()), ValueError, 'reg_branch'),
    (dict(attn_masks=['a', None]), TypeError, r'attn_masks\[0\]'),
    (dict(attn_masks=[None, 'a']), TypeError, r'attn_masks\[1\]'),
    (dict(attn_masks=[AttentionBias(torch.zeros(2, 5, 1), ((1, 5), )), None]), TypeError, r'attn_masks\[0\]'),
    (dict(attn_masks=[None, AttentionBias(torch.zeros(2, 5, 1), ((1, 7), ))]), ValueError, 'cross-attention mask'),
    (dict(attn_masks=[None, torch.zeros(1, NUM_TOKENS)]), ValueError, 'cross-attention mask'),
    (dict(aqr_attention_bias=torch.zeros(2, 5, NUM_TOKENS, dtype=torch.bool)), TypeError, 'aqr_attention_bias'),
    (dict(attn_masks=[None, torch.zeros(2, 5, NUM_TOKENS)],
          aqr_attention_bias=AttentionBias(torch.zeros(2, 2, 5, 1), ((4, 6), ))), ValueError, 'per head'),
    (dict(attn_masks=[None, torch.zeros(4, 5, NUM_TOKENS)], aqr_attention_bias=torch.zeros(2, 5, NUM_TOKENS)),
     ValueError, 'attn_masks'),
])
def test_bad_masks(kwargs, error, name):
    with pytest.raises(error, match=name):
        build()(*inputs(), **kwargs)


def test_bad_operation_order():
    with pytest.raises(ValueError, match='operation_order'):
        build(('self_attn', 'norm', 'self_attn', 'norm', 'ffn', 'norm'))


def test_activation_checkpointing_gives_the_same_gradients():
    grads = []
    for with_cp in (False, True):
        transformer = build(with_cp=with_cp).train()
        args = [x.requires_grad_() for x in inputs()]
        weights = torch.full((2, 5), 0.3, dtype=torch.float64, requires_grad=True)
        bias = (weights.unsqueeze(-1) * torch.linspace(-3, 3, NUM_TOKENS, dtype=torch.float64))
        dn_mask = torch.zeros(5, 5, dtype=torch.bool)
        out, _ = transformer(*args, attn_masks=dn_mask, aqr_attention_bias=bias)
        out.square().sum().backward()
        grads.append([weights.grad, *(x.grad for x in args), *(p.grad for p in transformer.parameters())])
    assert len(grads[0]) == len(grads[1]) and grads[0][0].abs().min() > 0
    for plain, recomputed in zip(*grads):
        assert torch.equal(plain, recomputed)


def test_recomputation_really_happens():
    transformer = build(with_cp=True).train()
    calls = []
    transformer.decoder.layers[0].ffns[0].register_forward_hook(lambda *_: calls.append(1))
    transformer(*inputs())[0].sum().backward()
    assert len(calls) == 2


class TestLocalStart:

    @pytest.mark.parametrize('order', ORDERS)
    def test_queries_and_keys_of_cross_attention_share_an_orthogonal_matrix(self, order):
        plain, local = build(order), build(order, dict(local_start=3.0))
        slot = local.decoder.attention_slot('cross_attn')
        starts = []
        for before, after in zip(plain.decoder.layers, local.decoder.layers):
            attn = after.attentions[slot].attn
            query, key, value = attn.in_proj_weight.detach().chunk(3)
            assert torch.equal(query, key) and not attn.in_proj_bias[:32].any()
            torch.testing.assert_close(query @ query.T, 9 * torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-5)
            starts.append(query)
            # All else is as it was.
            torch.testing.assert_close(value, before.attentions[slot].attn.in_proj_weight.detach().chunk(3)[2])
            torch.testing.assert_close(after.attentions[1 - slot].attn.in_proj_weight,
                                       before.attentions[1 - slot].attn.in_proj_weight)
        assert not torch.allclose(*starts)

    def test_attention_falls_on_tokens_of_like_position(self):
        """A query with the embedding of a token attends to it; without the option it does not."""
        x, x_img, query, bev_pos, rv_pos = inputs(batch=1, num_query=12)
        query = bev_pos[None]
        mass = {}
        for start in (None, 2.0):
            transformer = build(options=dict(local_start=start)).eval()
            recorded = []
            attn = transformer.decoder.layers[0].attentions[1].attn
            attn.register_forward_pre_hook(lambda module, args: recorded.append(args[:2]))
            transformer(0.1 * x, 0.1 * x_img, query, bev_pos, rv_pos)
            q, k = (torch.nn.functional.linear(*args).unflatten(-1, (2, -1)).transpose(1, 2) for args in
                    zip(recorded[0], attn.in_proj_weight.chunk(3)))
            attention = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)  # (1, heads, 12, F)
            mass[start] = attention[..., :12].diagonal(dim1=-2, dim2=-1).mean().item()
        assert mass[None] < 3 / NUM_TOKENS and mass[2.0] > 0.5, mass

    @pytest.mark.parametrize('value', [0, -1.0, float('inf'), float('nan')])
    def test_bad_values(self, value):
        with pytest.raises(ValueError, match='local_start must be'):
            build(options=dict(local_start=value))


class TestPositionInContent:
    """Queries start from a linear map of their position embedding, which is zero at first."""

    def test_starts_as_without(self):
        plain, option = build(), build(options=dict(position_in_content=True))
        missing = option.load_state_dict(plain.state_dict(), strict=False).missing_keys
        assert missing == ['query_start.weight', 'query_start.bias']
        torch.testing.assert_close(option(*inputs())[0], plain(*inputs())[0], rtol=0, atol=0)

    def test_queries_start_from_the_map(self):
        transformer = build(options=dict(position_in_content=True))
        torch.nn.init.normal_(transformer.query_start.weight)
        taken = {}
        transformer.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: taken.update(kwargs), with_kwargs=True)
        transformer(*inputs())
        weight = transformer.query_start.weight
        torch.testing.assert_close(taken['query'], torch.einsum('ij,qbj->qbi', weight, taken['query_pos']))

    def test_learns_from_the_first_step(self):
        transformer = build(options=dict(position_in_content=True))
        transformer(*inputs())[0].square().sum().backward()
        assert transformer.query_start.weight.grad.abs().max() > 1e-6


@pytest.mark.parametrize('name, proposal', [('local_strat', "did you mean 'local_start'"), ('zzz', 'allowed: '),
                                            ('position_in_contents', "did you mean 'position_in_content'")])
def test_misspelt_arguments(name, proposal):
    with pytest.raises(TypeError, match=f"unexpected argument '{name}'.*{proposal}"):
        build(options={name: 1})
