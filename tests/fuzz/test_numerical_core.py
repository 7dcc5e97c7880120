"""Random cases of the numerical core against loops over numbers; ``FUZZ=nightly`` looks at over 10000 of them."""
import functools
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmcv.cnn import build_conv_layer
from spconv.pytorch import SparseConvTensor

from projects.mmdet3d_plugin.core.bbox.box_encoding import decode_boxes, encode_boxes
from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.models.utils import geometry
from projects.mmdet3d_plugin.models.utils.aqr.query_projection import QueryProjections
from projects.mmdet3d_plugin.models.utils.aqr.routing_record import RoutingRecord
from projects.mmdet3d_plugin.models.utils.aqr.supervision import routing_targets
from projects.mmdet3d_plugin.models.utils.attention.backends import BACKENDS
from projects.mmdet3d_plugin.models.utils.attention.cpu_tiles import tiled_attention
from projects.mmdet3d_plugin.models.utils.attention_bias_generator import AttentionBiasGenerator
from projects.mmdet3d_plugin.models.utils.transformer.denoising import DenoisingQueries
from tests.fuzz.oracles import (
    dense_convolution,
    loop_bev_cell,
    loop_bias,
    loop_mask,
    lost_place,
    naive_view_cell,
    plain_attention,
)
from tests.fuzz.strategies import GRID, biases, failures, ground_truth, routed_queries, tensors, voxels, with_values

# In CI the same few hundred cases every time; at night new ones.
NIGHTLY = os.environ.get('FUZZ') == 'nightly'
fuzz = settings(max_examples=1500 if NIGHTLY else 60, derandomize=not NIGHTLY, database=None, deadline=None,
                print_blob=True, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**31 - 1)
RANGE = [-10.0, -12.0, -3.0, 10.0, 12.0, 3.0]


@fuzz
@pytest.mark.filterwarnings('ignore:.*recommended range')
@given(routed_queries(), st.booleans(), st.sampled_from([1.0, 0.3, 1e3]))
def test_bias(case, local, factor):
    (lidar, camera), pts_idx, cells, seen, bev_shape, view_shape, alpha, windows = case
    generator = AttentionBiasGenerator(bev_shape, view_shape, alpha * factor, local, windows)
    found = generator.compact(lidar, camera, pts_idx, cells, seen)
    expected = loop_bias(lidar, camera, pts_idx, cells, seen, bev_shape, view_shape, alpha * factor,
                         windows if local else None)
    torch.testing.assert_close(found.dense(), expected)
    torch.testing.assert_close(found.top()[:, 0], expected.amax(dim=-1))


@fuzz
@given(biases(), st.sampled_from([1.0, 1e2, 1e4]), st.sampled_from([torch.float64, torch.float32]),
       st.sampled_from([*(backend.run for backend in BACKENDS), functools.partial(tiled_attention, tile_keys=4)]))
def test_attention_and_gradients(case, strength, dtype, attention):
    bias, generator = case
    served = {backend.run: backend.obstacle(bias, torch.device('cpu')) is None for backend in BACKENDS}
    if not served.get(attention, True):
        return
    inputs = tensors(bias, generator, dtype)
    values = (bias.values * strength / 10).to(dtype).requires_grad_()
    weight = torch.randn(inputs[0].shape, generator=generator, dtype=torch.float64)
    results = []
    for out in (attention(*inputs, with_values(bias, values)), plain_attention(*inputs, bias, values)):
        grads = torch.autograd.grad((out.double() * weight).sum(), [*inputs, values], allow_unused=True)
        results.append([out, *(torch.zeros_like(x) if g is None else g for g, x in zip(grads, [*inputs, values]))])
    scale = max(want.abs().max().item() for want in results[1])
    for name, got, want in zip(('out', 'dq', 'dk', 'dv', 'dvalues'), *results):
        difference = (got.double() - want).abs().max().item()
        assert difference <= (1e-6 if dtype == torch.float64 else 2e-5) * scale, f'{name}: {difference} of {scale}'


@fuzz
@given(seeds, st.integers(1, 7), st.integers(1, 9), st.integers(1, 7), st.integers(1, 9), st.floats(0.05, 3))
def test_projections_and_cells(seed, h, w, height, width, spread):
    rng = np.random.default_rng(seed)
    matrices = rng.normal(size=(2, 3, 4, 4)) * spread
    matrices[..., 0, :] *= 40
    matrices[..., 1, :] *= 30
    matrices[..., 3, :] = [0, 0, 0, 1]
    points = rng.uniform(-12, 12, (2, 20, 3))
    image = int(rng.integers(8, 99)), int(rng.integers(8, 99))
    pixels, depth = geometry.project_to_views(torch.tensor(points), torch.tensor(matrices))
    cells, seen = geometry.view_cells(pixels, depth, image, (h, w))
    size = tuple(rng.uniform(0.3, 4, 2).tolist())
    bev = geometry.bev_cells(torch.tensor(points), RANGE, size, (height, width))
    for b, q, view in np.ndindex(2, 20, 3):
        expected = naive_view_cell(points[b, q], matrices[b, view], image, (h, w))
        assert bool(seen[b, q, view]) == (expected is not None)
        assert tuple(cells[b, q, view].tolist()) == (expected or (-1, -1))
        cell = loop_bev_cell(points[b, q, :2].tolist(), RANGE, size, (height, width))
        assert cell is None or bev[b, q] == cell
    fractions = geometry.to_unit_range(torch.tensor(points), RANGE)
    torch.testing.assert_close(geometry.from_unit_range(fractions, RANGE), torch.tensor(points))


@fuzz
@given(st.lists(failures(), min_size=1, max_size=3), seeds, st.floats(0.1, 2), st.floats(0.1, 2))
def test_routing_targets(records, seed, cell_x, cell_y):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-9, 9, (len(records), 15, 3)) * [1, 1, 0.3]
    seen = rng.random((len(records), 15, 3)) < rng.choice([0.2, 0.6])
    low, high = np.array(RANGE[:3]), np.array(RANGE[3:])
    record = RoutingRecord(None, None, QueryProjections(None, None, torch.tensor(seen)), None, None,
                           torch.tensor((points - low) / (high - low)), None)
    found = routing_targets(record, [dict(failure=failure) for failure in records], RANGE, (cell_x, cell_y))
    for (b, q), failure in zip(np.ndindex(len(records), 15), np.repeat(records, 15)):
        views = [view for view in range(3) if seen[b, q, view]]
        cameras = failure.views_lost is not None and bool(views) and all(failure.views_lost[view] for view in views)
        lidar = lost_place(points[b, q], failure, max(cell_x, cell_y) / 2)
        assert bool(found.cameras_lost[b, q]) == cameras and bool(found.is_known[b, q]) != failure.is_graded
        if lidar is not None:
            aim = [0.5, 0.5] if lidar == cameras else [0.0, 1.0] if lidar else [1.0, 0.0]
            assert bool(found.lidar_lost[b, q]) == lidar and found.weights[b, q].tolist() == aim


@fuzz
@given(st.lists(st.tuples(*[st.floats(-100, 100)] * 3, *[st.floats(0.01, 60)] * 3, st.floats(-20, 20),
                          *[st.one_of(st.floats(-40, 40), st.just(math.nan))] * 2), min_size=1, max_size=5),
       st.sampled_from([7, 9]))
def test_box_codes(boxes, size):
    codes = encode_boxes(torch.tensor(boxes, dtype=torch.float64)[:, :size])
    for box, code in zip(boxes, codes.tolist()):
        x, y, z, dx, dy, dz, yaw, *velocity = box[:size]
        expected = [x, y, math.log(dx), math.log(dy), z, math.log(dz), math.sin(yaw), math.cos(yaw), *velocity]
        np.testing.assert_allclose(code, expected, rtol=1e-12, atol=1e-12)
    for box, back in zip(boxes, decode_boxes(codes).tolist()):
        turn = (back[6] - box[6]) / (2 * math.pi)
        assert abs(turn - round(turn)) < 1e-9 and -math.pi <= back[6] <= math.pi
        np.testing.assert_allclose(back[:6] + back[7:], [*box[:6], *box[7:size]], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(encode_boxes(decode_boxes(codes)), codes, equal_nan=True)


@fuzz
@given(seeds, st.integers(1, 60), st.integers(1, 2), st.booleans(), st.booleans(),
       st.tuples(*[st.sampled_from([1, 2, 3])] * 3), st.tuples(*[st.integers(1, 3)] * 3),
       st.tuples(*[st.integers(0, 1)] * 3))
def test_sparse_convolution(seed, count, batch, submanifold, bias, kernel, stride, padding):
    torch.manual_seed(seed)
    if submanifold:
        kernel = tuple(size // 2 * 2 + 1 for size in kernel)
        cfg = dict(kernel_size=kernel, padding=[size // 2 for size in kernel])
    else:
        cfg = dict(kernel_size=kernel, stride=stride, padding=[min(p, k // 2) for p, k in zip(padding, kernel)])
    if submanifold and kernel == (1, 1, 1):
        return  # spconv makes a linear layer of it
    conv = build_conv_layer(dict(type='SubMConv3d' if submanifold else 'SparseConv3d'), 3, 2, bias=bias, **cfg)
    features, coors = voxels(count, 3, batch, seed)
    features.requires_grad_()
    found = conv(SparseConvTensor(features, coors, GRID, batch)).dense()
    expected = dense_convolution(conv, features, coors, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    inputs = (features, *conv.parameters())
    for got, want in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (found, expected))):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@fuzz
@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(1, 15), st.integers(0, 4), seeds,
       st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 0.5]), st.sampled_from([0.3, 0.75]))
def test_denoising_layout(counts, num_query, num_groups, seed, scale, trans, split):
    boxes, labels = ground_truth(counts, seed)
    torch.manual_seed(seed)
    batch = DenoisingQueries(num_groups, scale, trans, split, RANGE, 4)(boxes, labels, num_query, torch.zeros(()))
    slots = max(counts)
    groups = min(num_groups, num_query // slots) if slots else 0
    if not groups:
        assert batch is None
        return
    assert torch.equal(batch.attn_mask, loop_mask(groups, slots, num_query))
    places = set(zip(batch.sample_index.tolist(), batch.slot_index.tolist()))
    assert len(places) == len(batch.boxes) == groups * sum(counts)
    assert places == {(sample, group * slots + box) for sample, count in enumerate(counts) for group in range(groups)
                      for box in range(count)} == set(map(tuple, batch.occupied.nonzero().tolist()))
    low, high = torch.tensor(RANGE[:3]), torch.tensor(RANGE[3:])
    for index, (sample, slot) in enumerate(zip(batch.sample_index.tolist(), batch.slot_index.tolist())):
        box, label = boxes[sample][slot % slots], labels[sample][slot % slots]
        assert torch.equal(batch.boxes[index], box) and batch.labels[index] == label
        shift = batch.reference_points[sample, slot] * (high - low) + low - box[:3]
        assert (shift.abs() <= (box[3:6] / 2 + trans) * scale + 1e-5).all()
        relative = (shift / (box[3:6] / 2 + trans) / scale).norm() if scale else torch.zeros(())
        if abs(relative - split) > 1e-3:
            assert batch.noisy_labels[index] == (4 if relative > split else label)
    assert (batch.reference_points[~batch.occupied] == 0).all()


def test_failures_of_every_kind_are_drawn():
    """The strategy would be worthless without them."""
    drawn = []

    @settings(max_examples=100, database=None, derandomize=True)
    @given(failures())
    def draw(failure):
        drawn.append(failure)

    draw()
    assert all(isinstance(failure, FailureRecord) for failure in drawn)
    for found in ({f.lidar_everywhere for f in drawn}, {f.is_graded for f in drawn},
                  {f.field_of_view is None for f in drawn}, {f.views_lost is None for f in drawn},
                  {len(f.lost_boxes) > 0 for f in drawn}):
        assert found == {True, False}
