"""``loss_aqr`` of the head: when it is there, which queries it counts, what it teaches, and in several processes."""
import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.models.utils.aqr.supervision import routing_targets
from tests.two_processes import on_two_processes

from ..conftest import randomize

SUPERVISED = dict(enable_aqr=True, aqr_loss_weight=1.0)
NO_VIEW = np.zeros(6, dtype=bool)
CLEAN = FailureRecord('clean', views_lost=NO_VIEW)
NO_LIDAR = FailureRecord('lidar_drop', lidar_everywhere=True, views_lost=NO_VIEW)
NO_CAMERAS = FailureRecord('camera_drop', views_lost=~NO_VIEW)
AHEAD_ONLY = FailureRecord('fov:90', field_of_view=90.0, views_lost=NO_VIEW)
GRADED = FailureRecord('beams:8', is_graded=True, views_lost=NO_VIEW)


def with_failures(batch, *failures):
    x, x_img, metas = batch
    return x, x_img, [dict(meta, failure=failure) for meta, failure in zip(metas, failures)]


def losses_of(head, batch, seed=0):
    """(losses, routing) of a training pass."""
    torch.manual_seed(seed)
    x, x_img, metas = batch
    outs = head([x], [x_img], metas)
    boxes, labels = ([meta[name].data for meta in metas] for name in ('gt_bboxes_3d', 'gt_labels_3d'))
    return head.loss(boxes, labels, outs, metas), outs[0][0].get('routing')


def decided(head, std=0.3):
    """A head whose router has weights off 0.5."""
    randomize(head.aqr_router, std)
    return head


def sample_by_sample(head):
    """The head in training, but for batch normalization, which looks at the other samples of a batch."""
    head.train()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return head


def cross_entropy(routing, metas, head):
    """The definition for the learned queries, in numpy."""
    targets = routing_targets(routing, metas, head.pc_range, head.bev_cell_size)
    rows = targets.is_known.numpy() & routing.is_learned.numpy()[None]
    aims = targets.weights.numpy()[rows].astype(float)
    weights = torch.stack([routing.lidar_weights, routing.camera_weights], dim=-1).detach().numpy()[rows].astype(float)
    return -(aims * np.log(weights) + (1 - aims) * np.log(1 - weights)).mean()


@pytest.mark.parametrize('failures', [(CLEAN, NO_LIDAR), (AHEAD_ONLY, NO_CAMERAS), (GRADED, AHEAD_ONLY)],
                         ids=lambda failures: '+'.join(failure.case for failure in failures))
@pytest.mark.parametrize('num_boxes', [(5, 3), (0, 4), (0, 0), (25, 2)], ids=str)
def test_it_is_the_cross_entropy_of_the_learned_queries(make_head, make_batch, failures, num_boxes):
    """Whatever denoising queries there are: none, with padding, or none for too many boxes."""
    head = decided(make_head(**SUPERVISED).train())
    batch = with_failures(make_batch(num_boxes), *failures)
    losses, routing = losses_of(head, batch)
    assert losses['loss_aqr'].item() == pytest.approx(cross_entropy(routing, batch[2], head), rel=1e-5)
    if num_boxes == (5, 3):
        assert not routing.is_used.all() and not routing.is_learned.all()


def test_denoising_and_padded_queries_do_not_count(make_head, make_batch):
    batch = with_failures(make_batch((5, 3)), AHEAD_ONLY, NO_LIDAR)
    found = []
    for scalar in (0, 3):
        head = decided(make_head(scalar=scalar, **SUPERVISED).train())
        losses, routing = losses_of(head, batch)
        found.append(losses['loss_aqr'].item())
        gradient, = torch.autograd.grad(losses['loss_aqr'], routing.lidar_weights)
        assert ((gradient != 0) == routing.is_learned).all() and routing.lidar_weights.shape[1] == 20 + 5 * scalar
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_neutral_router_starts_at_log_2(make_head, make_batch):
    for failures in ((CLEAN, CLEAN), (NO_LIDAR, NO_CAMERAS), (AHEAD_ONLY, GRADED)):
        losses, _ = losses_of(make_head(**SUPERVISED).train(), with_failures(make_batch(), *failures))
        assert losses['loss_aqr'].item() == pytest.approx(math.log(2), rel=1e-6)


def test_graded_failures_give_no_target(make_head, make_batch):
    head = decided(make_head(**SUPERVISED).train())
    losses, _ = losses_of(head, with_failures(make_batch(), GRADED, GRADED))
    assert losses['loss_aqr'] == 0
    losses['loss_aqr'].backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in head.aqr_router.parameters())
    sample_by_sample(head)
    both, _ = losses_of(head, with_failures(make_batch(), NO_LIDAR, GRADED))
    x, x_img, metas = with_failures(make_batch(), NO_LIDAR)
    alone, _ = losses_of(head, (x[:1], x_img[:6], metas[:1]))
    assert both['loss_aqr'].item() == pytest.approx(alone['loss_aqr'].item(), rel=1e-4)


# When it is there

def test_weight(make_head, make_batch):
    """0: no such loss, and no record is needed; otherwise it scales this loss alone."""
    batch = make_batch()
    off = decided(make_head(enable_aqr=True).train())
    base, _ = losses_of(off, batch)
    assert 'loss_aqr' not in base
    values = []
    for weight in (1.0, 2.5):
        head = decided(make_head(**dict(SUPERVISED, aqr_loss_weight=weight)).train())
        losses, _ = losses_of(head, with_failures(batch, NO_LIDAR, AHEAD_ONLY))
        assert {name: value.item() for name, value in losses.items() if name != 'loss_aqr'} == {
            name: value.item() for name, value in base.items()}
        values.append(losses['loss_aqr'].item())
    assert values[1] == pytest.approx(2.5 * values[0]) and values[0] > 0.1


@pytest.mark.parametrize('absent', ['x', 'x_img'])
def test_absent_with_one_modality(make_head, make_batch, absent):
    x, x_img, metas = make_batch()
    head = make_head(**SUPERVISED).train()
    losses, routing = losses_of(head, (None, x_img, metas) if absent == 'x' else (x, None, metas))
    assert 'loss_aqr' not in losses and routing is None


def test_absent_without_aqr(make_head, make_batch):
    losses, _ = losses_of(make_head(aqr_loss_weight=1.0).train(), make_batch())
    assert 'loss_aqr' not in losses


def test_the_record_is_needed(make_head, make_batch):
    head = make_head(**SUPERVISED).train()
    x, x_img, metas = batch = with_failures(make_batch(), NO_LIDAR, NO_LIDAR)
    del metas[1]['failure']
    with pytest.raises(ValueError, match="img_metas: every sample needs 'failure'.*aqr_loss_weight"):
        losses_of(head, batch)
    outs = head([x], [x_img], metas)
    with pytest.raises(ValueError, match='img_metas are needed.*aqr_loss_weight'):
        head.loss([meta['gt_bboxes_3d'].data for meta in metas], [meta['gt_labels_3d'].data for meta in metas], outs)


@pytest.mark.parametrize('weight', [-1.0, math.nan, math.inf])
@pytest.mark.parametrize('enable_aqr', [True, False])
def test_bad_weight(make_head, weight, enable_aqr):
    with pytest.raises(ValueError, match='aqr_loss_weight must be a finite number >= 0'):
        make_head(enable_aqr=enable_aqr, aqr_loss_weight=weight)


@pytest.mark.parametrize('enable_aqr', [True, False])
def test_bad_clip(make_head, enable_aqr):
    with pytest.raises(ValueError, match='bias_clip'):
        make_head(enable_aqr=enable_aqr, aqr_bias_clip=0)
    assert make_head(enable_aqr=True, aqr_bias_clip=2).aqr_bias.bias_clip == 2


# What it teaches

def test_gradients_reach_the_router_from_either_loss_alone(make_head, make_batch):
    head = decided(make_head(**SUPERVISED).train())
    losses, _ = losses_of(head, with_failures(make_batch(), NO_LIDAR, AHEAD_ONLY))
    routing = losses.pop('loss_aqr')
    parameters = dict(head.aqr_router.named_parameters())
    for loss in (routing, sum(losses.values())):
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        for name, gradient in zip(parameters, gradients):
            assert torch.isfinite(gradient).all() and gradient.abs().max() > 0, name


@pytest.mark.parametrize('failure, towards', [(NO_LIDAR, (-1, 1)), (NO_CAMERAS, (1, -1)), (CLEAN, (0, 0))],
                         ids=lambda value: value.case if isinstance(value, FailureRecord) else '')
def test_one_step_moves_weight_to_the_sensor_that_works(make_head, make_batch, failure, towards):
    head = make_head(**SUPERVISED).train()
    batch = with_failures(make_batch(), failure, failure)
    losses, _ = losses_of(head, batch)
    losses['loss_aqr'].backward()
    torch.optim.SGD(head.aqr_router.parameters(), lr=0.5).step()
    _, routing = losses_of(head, batch)
    seen = routing.projections.pts_pers_valid.any(dim=-1)
    moves = torch.stack([routing.lidar_weights, routing.camera_weights], dim=-1)[seen & routing.is_learned] - 0.5
    assert len(moves) > 5 and (torch.sign(moves.mean(dim=0)) == torch.tensor(towards)).all()


def test_the_router_learns_where_points_are_gone(make_head, make_batch):
    """BEV features are zero behind the car. Trained with this loss alone, the router sees it."""
    x, x_img, metas = with_failures(make_batch(), AHEAD_ONLY, AHEAD_ONLY)
    x = x.clone()
    x[:, :, :8] = 0  # rows along y: behind
    head = make_head(**SUPERVISED).train()
    optimizer = torch.optim.Adam(head.aqr_router.parameters(), lr=3e-3)
    for _ in range(25):
        losses, routing = losses_of(head, (x, x_img, metas))
        optimizer.zero_grad()
        losses['loss_aqr'].backward()
        optimizer.step()
    behind = routing.reference_points[..., 1] < 0.5
    wrong = torch.where(behind, routing.lidar_weights > 0.3, routing.lidar_weights < 0.3)[:, routing.is_learned]
    assert wrong.float().mean() < 0.1


# Precision and processes

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(make_head, make_batch, dtype):
    head = decided(make_head(**SUPERVISED).train())
    batch = with_failures(make_batch(), NO_LIDAR, AHEAD_ONLY)
    full, _ = losses_of(head, batch)
    with torch.autocast('cpu', dtype=dtype):
        half, _ = losses_of(head, batch)
    assert half['loss_aqr'].dtype == torch.float32
    assert half['loss_aqr'].item() == pytest.approx(full['loss_aqr'].item(), rel=0.02)
    half['loss_aqr'].backward()
    assert all(torch.isfinite(p.grad).all() for p in head.aqr_router.parameters())


def test_an_overflow_shows_in_the_loss(make_head, make_batch):
    """Features that overflowed to inf: the pass ends in a loss of NaN, by which such a step is refused."""
    head = decided(make_head(**SUPERVISED).train())
    x, x_img, metas = with_failures(make_batch(), NO_LIDAR, CLEAN)
    x_img[0, 0, 0, 0] = float('inf')
    losses, _ = losses_of(head, (x, x_img, metas))
    assert all(torch.isnan(loss) for loss in losses.values()) and 'loss_aqr' in losses


@pytest.mark.parametrize('failures', [(NO_LIDAR, GRADED), (AHEAD_ONLY, NO_CAMERAS)],
                         ids=lambda failures: '+'.join(failure.case for failure in failures))
def test_two_processes_equal_one_with_both_samples(make_head, make_batch, tmp_path, monkeypatch, failures):
    """20 queries with a target in one process and none in the other; gradients are averaged as DDP does."""
    head = sample_by_sample(decided(make_head(**SUPERVISED)))
    x, x_img, metas = with_failures(make_batch((3, 3)), *failures)

    def gradients(rows):
        own = copy.deepcopy(head)
        views = torch.arange(12).view(2, 6)[rows].flatten()
        losses, _ = losses_of(own, (x[rows], x_img[views], [metas[row] for row in rows]))
        losses['loss_aqr'].backward()
        return losses['loss_aqr'].item(), {name: p.grad for name, p in own.named_parameters() if p.grad is not None}

    loss, expected = gradients([0, 1])
    (first, first_grads), (second, second_grads) = on_two_processes(lambda rank: gradients([rank]), tmp_path,
                                                                    monkeypatch)
    assert (first + second) / 2 == pytest.approx(loss, rel=1e-5)
    assert any(name.startswith('aqr_router') for name in expected)
    for name, gradient in expected.items():
        torch.testing.assert_close((first_grads[name] + second_grads[name]) / 2, gradient, rtol=1e-3, atol=1e-6)
