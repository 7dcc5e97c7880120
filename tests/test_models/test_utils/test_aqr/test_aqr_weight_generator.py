import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.models.utils import build_transformer

from projects.mmdet3d_plugin.models.utils.aqr.aqr_weight_generator import WindowAttention
from projects.mmdet3d_plugin.models.utils.token_layout import TokenLayout

from ...conftest import randomize

RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]


def loop_oracle(module, query, features, cells, seen):
    """One softmax per query and head over every cell of its windows that lies inside a map."""
    batch, num_query, _ = query.shape
    heads, window = module.num_heads, module.window
    dims = module.query.out_features // heads
    out = torch.zeros(batch, num_query, module.query.out_features, dtype=query.dtype)
    for b in range(batch):
        for q in range(num_query):
            keys, values, offsets = [], [], []
            for view in range(features.shape[1]):
                if not seen[b, q, view]:
                    continue
                for i in range(window):
                    for j in range(window):
                        row, col = cells[b, q, view, 0] + i - window // 2, cells[b, q, view, 1] + j - window // 2
                        if 0 <= row < features.shape[2] and 0 <= col < features.shape[3]:
                            keys.append(module.key(features[b, view, row, col]))
                            values.append(module.value(features[b, view, row, col]))
                            offsets.append(i * window + j)
            for head in range(heads if keys else 0):
                part = slice(head * dims, (head + 1) * dims)
                scores = torch.stack([module.query(query[b, q])[part] @ key[part] / math.sqrt(dims)
                                      + module.relative_position[head, offset] for key, offset in zip(keys, offsets)])
                out[b, q, part] = sum(p * value[part] for p, value in zip(scores.softmax(0), values))
    return out


@st.composite
def cases(draw):
    batch, num_query, views = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height, width, window = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 5]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    torch.manual_seed(0)
    module = WindowAttention(6, 8, 2, window, whole_map=draw(st.sampled_from([0, 100]))).double()
    torch.nn.init.normal_(module.relative_position, generator=generator)
    query = torch.randn(batch, num_query, 6, dtype=torch.float64, generator=generator)
    features = torch.randn(batch, views, height, width, 6, dtype=torch.float64, generator=generator)
    seen = torch.rand(batch, num_query, views, generator=generator) < 0.6
    cells = torch.stack([torch.randint(height, seen.shape, generator=generator),
                         torch.randint(width, seen.shape, generator=generator)], dim=-1)
    return module, query, features, torch.where(seen.unsqueeze(-1), cells, torch.full_like(cells, -1)), seen


@given(cases())
def test_window_attention_equals_loop_oracle(case):
    module, query, features, cells, seen = case
    query.requires_grad_(), features.requires_grad_()
    out, expected = module(query, features, cells, seen), loop_oracle(module, query, features, cells, seen)
    torch.testing.assert_close(out, expected.to(out.dtype), rtol=1e-5, atol=1e-5)  # its softmax runs in float32
    inputs = (query, features, module.relative_position)
    grads = torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)
    wants = torch.autograd.grad(expected.square().sum() + 0 * sum(x.sum() for x in inputs), inputs)
    for grad, want in zip(grads, wants):
        torch.testing.assert_close(torch.zeros_like(want) if grad is None else grad, want, rtol=1e-4, atol=1e-5)


def test_query_without_a_view_gets_zeros_and_no_nan():
    torch.manual_seed(0)
    module = WindowAttention(6, 8, 2, 3)
    features = torch.randn(1, 2, 3, 3, 6, requires_grad=True)
    cells = torch.full((1, 2, 2, 2), -1)
    cells[0, 0, 0] = 0
    seen = (cells >= 0).all(-1)
    out = module(torch.randn(1, 2, 6), features, cells, seen)
    assert (out[0, 1] == 0).all() and (out[0, 0] != 0).any()
    out.sum().backward()
    assert torch.isfinite(features.grad).all()
    assert (module(torch.randn(1, 2, 6), features, cells, torch.zeros_like(seen)) == 0).all()


@pytest.fixture
def routed(make_batch):
    def run(router, dtype=torch.float32):
        _, x_img, metas = make_batch((1, 1))
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(2, 64, 16, 16, generator=generator).to(dtype)
        layout = TokenLayout((16, 16), (6, 4, 10))
        return router(torch.randn(2, 30, 64, generator=generator).to(dtype), x, x_img.to(dtype),
                      torch.rand(2, 30, 3, generator=generator), metas, RANGE, (6.75, 6.75), layout)

    return run


def build(**kwargs):
    torch.manual_seed(0)
    return build_transformer(dict(type='AQRWeightGenerator', embed_dims=64, **kwargs))


def test_fresh_router_is_exactly_neutral(routed):
    router = build()
    for _ in range(2):
        lidar, camera, _ = routed(router)
        assert (lidar == 0.5).all() and (camera == 0.5).all()
        router.init_weights()
    randomize(router, std=0.5)
    lidar, camera, projections = routed(router)
    assert lidar.std() > 0.01 and camera.std() > 0.01 and (lidar - camera).abs().max() > 0.01
    assert lidar.shape == camera.shape == projections.pts_idx.shape == (2, 30)
    router.init_weights()
    assert (routed(router)[0] == 0.5).all(), 'init_weights must restore the neutral start'


def test_half_precision_weights_stay_allowed(routed):
    router = build()
    torch.nn.init.normal_(router.mlp[-1].weight, std=50)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        lidar, camera, _ = routed(router)
    assert lidar.dtype == torch.float32
    assert ((lidar >= 0) & (lidar <= 1) & (camera >= 0) & (camera <= 1)).all()


def test_evidence_comes_from_the_windows(routed, make_batch):
    """A change of features outside every window leaves the weights, one inside changes them."""
    router = build(windows=dict(lidar=1, camera=1))
    randomize(router, std=0.5)
    _, x_img, metas = make_batch((1, ))
    query, x = torch.randn(1, 1, 64), torch.randn(1, 64, 16, 16)
    layout = TokenLayout((16, 16), (6, 4, 10))
    reference = torch.tensor([[[0.7, 0.5, 0.6]]])

    def weights(x, x_img):
        return torch.stack(router(query, x, x_img, reference, metas, RANGE, (6.75, 6.75), layout)[:2])

    base = weights(x, x_img)
    row, col = 8, 11  # y = 0 m, x = 21.6 m
    for cell, changes in [((row, col), True), ((row, col + 1), False), ((row - 1, col), False)]:
        other = x.clone()
        other[0, :, cell[0], cell[1]] += 3
        assert (weights(other, x_img) != base).any().item() == changes


@pytest.mark.parametrize('kwargs, name', [(dict(windows=4), 'odd'), (dict(windows=dict(lidar=3)), 'lidar'),
                                          (dict(attn_dims=30), 'attn_dims')])
def test_bad_arguments(kwargs, name):
    with pytest.raises(ValueError, match=name):
        build(**kwargs)


@pytest.mark.parametrize('whole_map', [0, 100])
def test_gradients_repeat_bit_for_bit_with_two_threads(whole_map):
    """Those of plain indexing do not: two threads add to one row in any order."""
    torch.manual_seed(0)
    module = WindowAttention(32, 32, 4, 9, whole_map)
    query, features = torch.randn(2, 300, 32, requires_grad=True), torch.randn(2, 2, 12, 20, 32, requires_grad=True)
    cells = torch.stack([torch.randint(12, (2, 300, 2)), torch.randint(20, (2, 300, 2))], dim=-1)
    seen = torch.rand(2, 300, 2) < 0.7
    weight = torch.randn(2, 300, 32)
    parameters = (query, features, *module.parameters())
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [torch.autograd.grad((module(query, features, cells, seen) * weight).sum(), parameters)
                for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    for run in runs:
        assert all(map(torch.equal, run, runs[0]))
