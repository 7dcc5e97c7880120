"""Recorded attention against softmax written out, and the model that must not notice."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ConfigDict
from mmdet.models.utils import build_transformer
from torch import nn

from projects.mmdet3d_plugin.models.utils.attention.attention_bias import AttentionBias
from projects.mmdet3d_plugin.models.utils.token_layout import MODALITIES
from projects.mmdet3d_plugin.models.utils.transformer import attention_recorder
from projects.mmdet3d_plugin.models.utils.transformer.attention_recorder import AttentionRecorder

ORDERS = [('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'),
          ('cross_attn', 'norm', 'self_attn', 'norm', 'ffn', 'norm')]
FLASH, PLAIN = 'PETRMultiheadFlashAttention', 'PETRMultiheadAttention'
CHANNELS, HEADS, LAYERS = 8, 2, 2
BEV, VIEWS = (2, 3), (2, 1, 4)
KINDS = [None, 'global', 'per view', 'local', 'per head', 'local per head', 'one segment', 'tensor', 'bool', 'bool 3d',
         'bool beside global', 'bool beside local', 'heads', 'minus infinity']


def build(order=ORDERS[0], with_cp=False, dropout=0.0, seed=0, name=FLASH, **cross):
    torch.manual_seed(seed)
    attentions = dict(self_attn=dict(type='MultiheadAttention', attn_drop=dropout),
                      cross_attn=dict(type=name, dropout_layer=dict(type='Dropout', drop_prob=dropout), **cross))
    layer = dict(
        type='PETRTransformerDecoderLayer', with_cp=with_cp, operation_order=order,
        attn_cfgs=[dict(attentions[op], embed_dims=CHANNELS, num_heads=HEADS) for op in order if op in attentions],
        ffn_cfgs=dict(type='FFN', embed_dims=CHANNELS, feedforward_channels=16, num_fcs=2, ffn_drop=dropout))
    transformer = build_transformer(ConfigDict(type='CmtTransformer', position_in_content=True, decoder=dict(
        type='PETRTransformerDecoder', return_intermediate=True, num_layers=LAYERS, transformerlayers=layer)))
    transformer.init_weights()
    for parameter in transformer.parameters():  # biases and temperatures, too
        parameter.data += 0.3 * torch.randn_like(parameter)
    return transformer


def make_inputs(batch=2, num_query=4, modalities=MODALITIES, seed=0, bev=BEV, views=VIEWS, dtype=torch.float64):
    """Positional arguments of CmtTransformer.forward."""
    generator = torch.Generator().manual_seed(seed)
    x, x_img, query, bev_pos, rv_pos = (
        torch.randn(shape, dtype=dtype, generator=generator) * 2 for shape in (
            (batch, CHANNELS, *bev), (batch * views[0], CHANNELS, *views[1:]), (batch, num_query, CHANNELS),
            (bev[0] * bev[1], CHANNELS), (batch * views[0], *views[1:], CHANNELS)))
    if 'lidar' not in modalities:
        x = bev_pos = None
    if 'camera' not in modalities:
        x_img = rv_pos = None
    return [x, x_img, query, bev_pos, rv_pos]


def joined(mask, bias, shape, dtype):
    """What mask and bias add to the scores, (B, HEADS, Q, F), zeros where there is neither."""
    total = torch.zeros(shape, dtype=dtype)
    if bias is not None:
        dense = bias.dense() if isinstance(bias, AttentionBias) else bias
        total = total + (dense if dense.dim() == 4 else dense[:, None])
    if mask is not None:
        added = torch.where(mask, -math.inf, 0.0) if mask.dtype == torch.bool else mask
        if mask.dim() == 3:  # of each head, or shared by them
            heads = HEADS if len(mask) == shape[0] * HEADS else 1
            added = added.view(shape[0], heads, *shape[2:])
        total = total + added
    return total


def make_masks(kind, inputs, seed=0):
    """(mask for the cross-attention's slot, AQR bias, both together as (B, HEADS, Q, F) or None)."""
    generator = torch.Generator().manual_seed(seed + 1)
    x, x_img, query = inputs[:3]
    batch, num_query, _ = query.shape
    lidar = [] if x is None else [tuple(x.shape[-2:])]
    views = [] if x_img is None else [tuple(x_img.shape[-2:])] * (len(x_img) // batch)
    whole = lidar + [(len(views) * height, width) for height, width in views[:1]]
    num_tokens = sum(height * width for height, width in whole)

    def normal(*shape):
        return torch.randn(shape, dtype=query.dtype, generator=generator) * 3

    def windows(shapes):
        cells = torch.stack([torch.stack([torch.randint(size, (batch, num_query), generator=generator)
                                          for size in shape], dim=-1) for shape in shapes], dim=-2)
        seen = torch.rand(batch, num_query, len(shapes), generator=generator) < 0.7
        return cells, seen, tuple(itertools.islice(itertools.cycle([3, 5]), len(shapes)))

    def forbid(*shape):
        mask = normal(*shape) > 1
        mask[..., torch.randint(num_tokens, (), generator=generator)] = False  # no query without a key
        return mask

    mask = bias = None
    if kind in ('global', 'bool beside global'):
        bias = AttentionBias(normal(batch, num_query, len(whole)), tuple(whole))
    elif kind == 'per view':
        bias = AttentionBias(normal(batch, num_query, len(lidar + views)), tuple(lidar + views))
    elif kind in ('local', 'bool beside local'):
        bias = AttentionBias(normal(batch, num_query, len(lidar + views)), tuple(lidar + views),
                             *windows(lidar + views))
    elif kind == 'per head':
        bias = AttentionBias(normal(batch, HEADS, num_query, len(whole)), tuple(whole))
    elif kind == 'local per head':
        bias = AttentionBias(normal(batch, HEADS, num_query, len(lidar + views)), tuple(lidar + views),
                             *windows(lidar + views))
    elif kind == 'one segment':  # that ends where no modality does
        bias = AttentionBias(normal(batch, num_query, 2), ((1, num_tokens - 1), (1, 1)))
    elif kind == 'tensor':
        bias = normal(batch, num_query, num_tokens)
    elif kind == 'heads':
        mask = normal(batch * HEADS, num_query, num_tokens)
    if kind in ('bool', 'bool beside global'):
        mask = forbid(num_query, num_tokens)
    elif kind in ('bool 3d', 'bool beside local'):
        mask = forbid(batch, num_query, num_tokens)
    elif kind == 'minus infinity':
        mask = normal(num_query, num_tokens).masked_fill(forbid(num_query, num_tokens), -math.inf)

    shape = batch, HEADS, num_query, num_tokens
    return mask, bias, None if kind is None else joined(mask, bias, shape, query.dtype)


def scores_by_hand(attn, query, key):
    """Sequence-first queries (Q, B, C) and keys (F, B, C) -> scores (B, HEADS, Q, F), head by head."""
    size, per_sample = CHANNELS // HEADS, []
    temperature = getattr(attn, 'log_temperature', None)
    for sample in range(query.shape[1]):
        q = query[:, sample] @ attn.in_proj_weight[:CHANNELS].T + attn.in_proj_bias[:CHANNELS]
        k = key[:, sample] @ attn.in_proj_weight[CHANNELS:2 * CHANNELS].T + attn.in_proj_bias[CHANNELS:2 * CHANNELS]
        heads = []
        for head in range(HEADS):
            qh, kh = (x[:, head * size:(head + 1) * size] for x in (q, k))
            if temperature is None:
                heads.append(qh @ kh.T / math.sqrt(size))
            else:
                heads.append(F.cosine_similarity(qh[:, None], kh[None], dim=-1) * temperature[head].exp())
        per_sample.append(torch.stack(heads))
    return torch.stack(per_sample)


@torch.no_grad()
def walk(transformer, inputs, added=None, self_mask=None):
    """Scores (B, HEADS, Q, F) of every layer, going through the decoder operation by operation."""
    x, x_img, query_embed, bev_pos, rv_pos = inputs
    batch = len(query_embed)
    tokens, positions = [], []
    if x is not None:
        tokens.append(x.flatten(2).permute(2, 0, 1))
        positions.append(bev_pos[:, None].expand(-1, batch, -1))
    if x_img is not None:
        tokens.append(x_img.unflatten(0, (batch, -1)).permute(1, 3, 4, 0, 2).flatten(0, 2))
        positions.append(rv_pos.unflatten(0, (batch, -1)).permute(1, 2, 3, 0, 4).flatten(0, 2))
    memory, key_pos, query_pos = torch.cat(tokens), torch.cat(positions), query_embed.transpose(0, 1)
    query, found = transformer.query_start(query_pos), []
    for layer in transformer.decoder.layers:
        attentions, norms, ffns = iter(layer.attentions), iter(layer.norms), iter(layer.ffns)
        for operation in layer.operation_order:
            if operation == 'self_attn':
                query = next(attentions)(query, query, query, query_pos=query_pos, key_pos=query_pos,
                                         attn_mask=self_mask)
            elif operation == 'cross_attn':
                attention = next(attentions)
                found.append(scores_by_hand(attention.attn, query + query_pos, memory + key_pos))
                query = attention(query, memory, memory, query_pos=query_pos, key_pos=key_pos,
                                  attn_mask=None if added is None else added.flatten(0, 1))
            else:
                query = next(norms if operation == 'norm' else ffns)(query)
    return found


def expected_maps(scores, added):
    """Attention (B, HEADS, Q, F) with and without what is added to the scores; -inf forbids either way."""
    if added is None:
        return scores.softmax(-1), scores.softmax(-1)
    forbidding = torch.where(added == -math.inf, -math.inf, 0.0)
    return (scores + added).softmax(-1), (scores + forbidding).softmax(-1)


def expected_entropy(attention):
    """(B, Q) nats."""
    terms = torch.where(attention > 0, -attention * attention.log(), torch.zeros_like(attention))
    return terms.sum(-1).mean(1)


def expected_mass(attention, num_bev):
    """(B, Q, 2)."""
    return torch.stack([attention[..., :num_bev].sum(-1), attention[..., num_bev:].sum(-1)], dim=-1).mean(1)


def expected_range(scores, added, num_bev):
    """(smallest, largest) of the allowed keys of each modality."""
    allowed = torch.ones_like(scores, dtype=torch.bool) if added is None else added > -math.inf
    result = []
    for keys in (slice(0, num_bev), slice(num_bev, None)):
        values = scores[..., keys][allowed[..., keys]].tolist()
        result.append([min(values, default=math.inf), max(values, default=-math.inf)])
    return torch.tensor(result, dtype=scores.dtype)


def check(transformer, recorder, inputs, added, self_mask=None, queries=slice(None), **tolerance):
    """Compare all that was recorded of ``queries`` with the definition."""
    num_bev = 0 if inputs[0] is None else inputs[0][0, 0].numel()
    layers = walk(transformer, inputs, added, self_mask)
    assert len(recorder.statistics) == len(layers) == LAYERS
    added = None if added is None else added[:, :, queries]
    for layer, (record, scores) in enumerate(zip(recorder.statistics, layers)):
        scores = scores[:, :, queries]
        biased, unbiased = expected_maps(scores, added)
        close = {'mass': (record.mass, expected_mass(biased, num_bev)),
                 'mass_unbiased': (record.mass_unbiased, expected_mass(unbiased, num_bev)),
                 'entropy': (record.entropy, expected_entropy(biased)),
                 'stand_in_mass': (record.stand_in_mass.nan_to_num(), torch.zeros_like(record.mass)),
                 'score_range': (record.score_range, expected_range(scores, added, num_bev))}
        if recorder.keep_maps:
            maps = recorder.attention_maps(layer, record.query_index)
            close.update(biased=(maps.biased, biased), unbiased=(maps.unbiased, unbiased))
        for name, (actual, expected) in close.items():
            torch.testing.assert_close(actual, expected, equal_nan=True, msg=lambda m: f'{name}: {m}', **tolerance)


@given(name=st.sampled_from([(FLASH, 'auto'), (FLASH, 'dense'), (PLAIN, None)]), kind=st.sampled_from(KINDS),
       modalities=st.sampled_from([MODALITIES, MODALITIES[:1], MODALITIES[1:]]), order=st.sampled_from(ORDERS),
       qk_norm=st.sampled_from([None, 3.0]), batch=st.integers(1, 3), num_query=st.integers(1, 5),
       num_learned=st.integers(1, 5), num_queries=st.none() | st.integers(1, 5), block=st.integers(1, 150),
       seed=st.integers(0, 2**20))
@settings(max_examples=150)
def test_equals_definition(name, kind, modalities, order, qk_norm, batch, num_query, num_learned, num_queries, block,
                           seed):
    """Every attention, bias, mask and layout, for queries in one block or several."""
    num_learned = min(num_learned, num_query)
    num_queries = num_queries and min(num_queries, num_learned)
    name, impl = name
    cross = dict(name=name, qk_norm=qk_norm, **({} if impl is None else dict(impl=impl)))
    transformer = build(order, seed=seed, **cross).double().eval()
    inputs = make_inputs(batch, num_query, modalities, seed)
    mask, bias, added = make_masks(kind, inputs, seed)
    masks = [None, None]
    masks[transformer.decoder.attention_slot('cross_attn')] = mask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_recorder, 'BLOCK_SCORES', block)
        with AttentionRecorder(transformer, num_queries, seed, num_learned, keep_maps=True) as recorder:
            transformer(*inputs, attn_masks=masks, aqr_attention_bias=bias)
    queries = recorder.statistics[0].query_index
    assert len(queries) == (num_learned if num_queries is None else num_queries)
    assert queries.min() >= num_query - num_learned and queries.max() < num_query
    assert all(torch.equal(record.query_index, queries) for record in recorder.statistics)
    assert torch.equal(queries, queries.unique())
    check(transformer, recorder, inputs, added, queries=queries, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('name', [FLASH, PLAIN])
def test_denoising_mask_and_cross_attention_mask_are_told_apart(name):
    transformer, inputs = build(name=name).double().eval(), make_inputs(num_query=5)
    mask, bias, added = make_masks('bool beside global', inputs)
    denoising = torch.zeros(5, 5, dtype=torch.bool)
    denoising[2:, :2] = True
    with AttentionRecorder(transformer, num_learned=3) as recorder:
        transformer(*inputs, attn_masks=[denoising, mask], aqr_attention_bias=bias)
    assert recorder.statistics[0].query_index.tolist() == [2, 3, 4]
    check(transformer, recorder, inputs, added, denoising, slice(2, None))


def test_padded_keys():
    """Both attentions take a padding mask, though CMT gives none."""
    inputs = make_inputs()
    _, bias, added = make_masks('global', inputs)
    padding = torch.zeros(2, added.shape[-1], dtype=torch.bool)
    padding[1, 3:9] = True
    added = added.masked_fill(padding[:, None, None], -math.inf)
    for cross in (dict(name=FLASH), dict(name=PLAIN), dict(name=PLAIN, qk_norm=3.0)):
        transformer = build(**cross).double().eval()
        for layer in transformer.decoder.layers:
            layer.attentions[1].register_forward_pre_hook(
                lambda _, args, kwargs: (args, dict(kwargs, key_padding_mask=padding)), with_kwargs=True)
        with AttentionRecorder(transformer) as recorder:
            transformer(*inputs, attn_masks=[None, bias.dense().repeat_interleave(HEADS, 0)])
        check(transformer, recorder, inputs, added)


def test_query_without_keys():
    """Of one modality: no mass there. Of all: nothing is defined."""
    transformer, inputs = build(name=PLAIN).double().eval(), make_inputs()
    mask = torch.zeros(4, 14, dtype=torch.bool)
    mask[1, :6] = mask[2, 6:] = mask[3] = True
    with AttentionRecorder(transformer) as recorder:
        transformer(*inputs, attn_masks=[None, mask])
    first = recorder.statistics[0]
    assert (first.mass[:, 1] == torch.tensor([0.0, 1.0])).all() and (first.mass[:, 2] == torch.tensor([1.0, 0.0])).all()
    for values in (first.mass, first.mass_unbiased, first.entropy):
        assert values[:, 3].isnan().all() and not values[:, :3].isnan().any()
    assert first.score_range.isfinite().all()


def test_entropy_of_runaway_scores():
    """Scores in the hundreds, float32: no digits are lost to the difference of large numbers."""
    transformer, inputs = build().eval(), make_inputs(dtype=torch.float32)
    for layer in transformer.decoder.layers:
        layer.attentions[1].attn.in_proj_weight.data *= 10
    with AttentionRecorder(transformer) as recorder:
        transformer(*inputs)
    assert recorder.statistics[0].score_range.abs().max() > 500
    wide = walk(transformer.double(), [x.double() for x in inputs])[0]
    torch.testing.assert_close(recorder.statistics[0].entropy.double(), expected_entropy(wide.softmax(-1)), rtol=0.02,
                               atol=1e-3)


def step(transformer, inputs, bias, dtype, recorder=None):
    """Outputs, gradients and the random state after a training step with dropout."""
    torch.manual_seed(5)
    inputs = [x.clone().requires_grad_() for x in inputs]
    values = bias.values.clone().requires_grad_()
    transformer.zero_grad()
    if recorder is not None:
        recorder.__enter__()
    with torch.autocast('cpu', dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        out, memory = transformer(*inputs, aqr_attention_bias=AttentionBias(values, bias.shapes))
        records = None if recorder is None else list(recorder.statistics)
        (out.float().square().sum() + memory.float().sum()).backward()
    if recorder is not None:
        recorder.__exit__(None, None, None)
        assert len(records) == LAYERS and all(a is b for a, b in zip(records, recorder.statistics))
    gradients = [x.grad for x in (*inputs, values, *transformer.parameters())]
    return [out, memory, *gradients, torch.get_rng_state()]


@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('cross', [dict(name=FLASH), dict(name=FLASH, impl='dense', qk_norm=3.0), dict(name=PLAIN),
                                   dict(name=PLAIN, qk_norm=3.0)], ids=str)
def test_the_model_does_not_notice(cross, with_cp, dtype, monkeypatch):
    """Outputs, gradients and random states, to the bit; and recomputation in backward costs and changes nothing."""
    calls = []
    summarize = attention_recorder.summarize_attention
    monkeypatch.setattr(attention_recorder, 'summarize_attention', lambda *args: calls.append(args) or summarize(*args))
    transformer, inputs = build(with_cp=with_cp, dropout=0.2, **cross).train(), make_inputs(dtype=torch.float32)
    bias = make_masks('global', inputs)[1]
    expected = step(transformer, inputs, bias, dtype)
    assert not calls
    recorder = AttentionRecorder(transformer, num_queries=2, keep_maps=True)
    found = step(transformer, inputs, bias, dtype, recorder)
    assert len(calls) == LAYERS
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    torch.manual_seed(6)
    assert not torch.equal(transformer(*inputs)[0], expected[0])  # the seeds above matter: there is dropout
    for record in recorder.statistics:
        assert not any(x.requires_grad for x in (record.mass, record.mass_unbiased, record.entropy, record.score_range))
    assert not recorder.attention_maps(0, [1]).biased.requires_grad


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('cross', [dict(name=FLASH), dict(name=PLAIN, qk_norm=3.0)], ids=str)
def test_mixed_precision(cross, dtype):
    """What the first layer is given differs by the model's rounding alone; float32 comes out."""
    transformer, inputs = build(**cross).eval(), make_inputs(dtype=torch.float32)
    mask, bias, _ = make_masks('local', inputs)
    with AttentionRecorder(transformer) as recorder:
        transformer(*inputs, aqr_attention_bias=bias)
        exact = recorder.statistics[0]
        with torch.autocast('cpu', dtype=dtype):
            transformer(*inputs, aqr_attention_bias=bias)
    rounded = recorder.statistics[0]
    for name in ('mass', 'mass_unbiased', 'entropy', 'score_range'):
        assert getattr(rounded, name).dtype == torch.float32
        torch.testing.assert_close(getattr(rounded, name), getattr(exact, name), rtol=0.05, atol=0.05)


def hooks(model):
    return [hook for module in model.modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]


def test_hooks_are_there_inside_only():
    transformer, inputs = build().eval(), make_inputs(dtype=torch.float32)
    recorder = AttentionRecorder(transformer)
    assert not hooks(transformer)
    with recorder:
        assert hooks(transformer)
        transformer(*inputs)
        with pytest.raises(RuntimeError, match='recording already'):
            recorder.__enter__()
    assert not hooks(transformer)
    records = recorder.statistics
    transformer(*inputs)
    assert recorder.statistics is records and len(records) == LAYERS
    with pytest.raises(KeyError), recorder:
        raise KeyError
    assert not hooks(transformer)
    with recorder:
        transformer(*inputs)
    assert recorder.statistics is not records and len(recorder.statistics) == LAYERS


def test_a_pass_that_fails_leaves_no_record_and_no_trace():
    """Nor does a later backward through an earlier pass, whose layers are recomputed, count as the rest of it."""
    transformer, inputs = build(with_cp=True).train(), make_inputs(dtype=torch.float32)
    last = transformer.decoder.layers[-1].ffns[0]
    with AttentionRecorder(transformer, keep_maps=True) as recorder:
        out = transformer(*inputs)[0]
        assert len(recorder.statistics) == LAYERS and recorder.layout.num_bev == 6
        failing = last.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            transformer(*inputs)
        failing.remove()
        first = transformer.decoder.layers[0].ffns[0].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            transformer(*inputs)
        first.remove()
        out.sum().backward()
        assert recorder.statistics == [] and recorder.layout is None
        with pytest.raises(RuntimeError, match='complete forward pass'):
            recorder.attention_maps(0, [0])
        transformer(*inputs)
        assert len(recorder.statistics) == LAYERS


def test_draws():
    transformer, inputs = build().eval(), make_inputs(num_query=200, dtype=torch.float32)

    def draw(seed, passes):
        state = torch.get_rng_state()
        with AttentionRecorder(transformer, 20, seed, num_learned=150) as recorder:
            drawn = []
            for _ in range(passes):
                transformer(*inputs)
                drawn.append(recorder.statistics[0].query_index)
        assert torch.equal(torch.get_rng_state(), state)
        return drawn

    one, other = draw(0, 30), draw(1, 30)
    assert all(torch.equal(a, b) for a, b in zip(one, draw(0, 30)))
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], other[0])
    # 60 draws of 20 among 150: every one of them but, in expectation, 0.03
    assert set(torch.cat(one + other).tolist()) >= set(range(50, 200)) - {next(iter(range(50, 200)))} \
        or len(set(torch.cat(one + other).tolist())) >= 148


def test_attention_maps():
    """Any queries in any order, also those that were not drawn; the last pass counts."""
    transformer, inputs = build().double().eval(), make_inputs()
    _, bias, added = make_masks('per head', inputs)
    with AttentionRecorder(transformer, num_queries=1, keep_maps=True) as recorder:
        transformer(*make_inputs(seed=1))
        transformer(*inputs, aqr_attention_bias=bias)
    for layer, scores in zip((-2, -1), walk(transformer, inputs, added)):
        maps = recorder.attention_maps(layer, [3, 0])
        assert maps.biased.shape == (2, HEADS, 2, recorder.layout.num_tokens)
        for actual, expected in zip(maps, expected_maps(scores, added)):
            torch.testing.assert_close(actual, expected[:, :, [3, 0]])
    assert not torch.equal(maps.biased, maps.unbiased)
    for layer, queries in ((LAYERS, [0]), (0, [4])):
        with pytest.raises(IndexError):
            recorder.attention_maps(layer, queries)
    with AttentionRecorder(transformer) as recorder:
        transformer(*inputs)
    with pytest.raises(RuntimeError, match='keep_maps=True'):
        recorder.attention_maps(0, [0])


@pytest.mark.parametrize('kind', ['global', 'per view', 'per head'])
def test_stand_ins(kind):
    """Their mass apart from that of the tokens; "without the bias" there are none."""
    transformer, inputs = build().double().eval(), make_inputs()
    _, bias, _ = make_masks(kind, inputs)
    attention = transformer.decoder.layers[0].attentions[transformer.decoder.attention_slot('cross_attn')].attn
    calls = []
    attention.register_forward_pre_hook(lambda module, args: calls.append(args))
    with AttentionRecorder(transformer, keep_maps=True) as recorder:
        transformer(*inputs, aqr_attention_bias=bias, stand_ins=[torch.randn_like(x) for x in inputs[:2]])
    query, key = (x.transpose(0, 1) for x in calls[0][:2])
    scores, tokens, num_bev = scores_by_hand(attention, query, key), bias.num_tokens, inputs[0][0, 0].numel()
    added = bias.dense() if kind == 'per head' else bias.dense()[:, None]
    taken = (1 - added.clamp(max=0).exp()).log()
    biased = (scores + torch.cat([added, taken], dim=-1)).softmax(-1)
    unbiased = scores[..., :tokens].softmax(-1)
    record, maps = recorder.statistics[0], recorder.attention_maps(0, range(query.shape[0]))
    torch.testing.assert_close(record.mass, expected_mass(biased[..., :tokens], num_bev))
    torch.testing.assert_close(record.stand_in_mass, expected_mass(biased[..., tokens:], num_bev))
    torch.testing.assert_close(record.mass_unbiased, expected_mass(unbiased, num_bev))
    torch.testing.assert_close(record.entropy, expected_entropy(biased))
    torch.testing.assert_close(maps.biased, biased[..., :tokens])
    torch.testing.assert_close(maps.unbiased, unbiased)
    assert record.stand_in_mass.max() > 0.1


@pytest.mark.parametrize('holds', [lambda head: head, lambda head: nn.ModuleDict(dict(pts_bbox_head=head))])
def test_head_in_training(holds, make_head, make_batch, train_losses):
    """The head says which queries are learned; the neutral start adds nothing; the losses are the same."""
    head, batch = make_head(enable_aqr=True), make_batch((5, 0))
    expected = train_losses(head, batch)
    with AttentionRecorder(holds(head), num_queries=12) as recorder:
        losses = train_losses(head, batch)
    for record in recorder.statistics:
        assert record.mass.shape == (2, 12, 2)
        assert record.query_index.min() >= 15 and record.query_index.max() < 35  # 3 groups of 5 denoising queries
        torch.testing.assert_close(record.mass, record.mass_unbiased)
        torch.testing.assert_close(record.mass.sum(-1), torch.ones(2, 12))
    with pytest.raises(ValueError, match='num_learned is needed'), AttentionRecorder(head.transformer):
        train_losses(head, batch)
    assert losses.keys() == expected.keys()


def test_head_that_trusts_one_modality(make_head, make_batch):
    head, (x, x_img, metas) = make_head(enable_aqr=True).eval(), make_batch()
    bias = head.aqr_bias.compact
    head.aqr_bias.compact = lambda lidar, camera, *args: bias(lidar * 0 + 1, camera * 0, *args)
    with torch.no_grad(), AttentionRecorder(head.transformer) as recorder:
        head([x], [x_img], metas)
        assert recorder.layout.num_bev == 256 and recorder.layout.num_camera == 240
        for record in recorder.statistics:
            odds, before = (mass[..., 0] / mass[..., 1] for mass in (record.mass, record.mass_unbiased))
            assert (odds > 100 * before).all()
        head([x], None, metas)
    assert recorder.statistics[0].mass.tolist() == [[[1.0, 0.0]] * 20] * 2
    assert recorder.statistics[0].score_range[1].tolist() == [math.inf, -math.inf]


def test_bad_arguments():
    transformer = build()
    for model in (nn.Linear(1, 1), nn.ModuleList([transformer, build()])):
        with pytest.raises(ValueError, match='exactly one CmtTransformer'):
            AttentionRecorder(model)
    for arguments in (dict(num_queries=0), dict(num_learned=0)):
        with pytest.raises(ValueError, match=f'{list(arguments)[0]} must be None or >= 1, got 0'):
            AttentionRecorder(transformer, **arguments)
    with pytest.raises(ValueError, match='at most the 3 learned queries, got 4'):
        AttentionRecorder(transformer, num_queries=4, num_learned=3)
    for arguments in (dict(num_queries=5), dict(num_learned=5)):
        with AttentionRecorder(transformer, **arguments), pytest.raises(ValueError, match='with 4 queries, too few'):
            transformer(*make_inputs(dtype=torch.float32))
    with pytest.raises(ValueError, match='add_zero_attn'):
        AttentionRecorder(build(name=PLAIN, add_zero_attn=True))
    transformer.decoder.layers[1].attentions[1] = nn.Identity()
    with pytest.raises(TypeError, match='must be PETRMultiheadFlashAttention or .* got Identity'):
        AttentionRecorder(transformer)
