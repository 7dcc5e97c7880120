"""One optimisation step of two gloo processes against one process on the same two samples.

Losses are divided by the number of positives of a process's own batch (classification, matched boxes) or by the mean
over processes (denoising boxes), and DDP averages gradients. With equally many boxes in both samples that is the
division by the number over both samples; with different numbers it is the mean of per-sample means, which the last test
pins down.
"""
import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from projects.mmdet3d_plugin.apis import distributed
from tests.two_processes import on_two_processes

from .conftest import AUXILIARY_HEADS


def without_chance(detector):
    """Everything that depends on chance or on the other samples of a batch is off."""
    nn.init.normal_(detector.pts_bbox_head.aqr_router.mlp[-1].weight, std=0.1)
    for module in detector.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True: None
    return detector


@pytest.fixture
def detector(make_detector):
    return without_chance(make_detector(enable_aqr=True, noise_scale=0.0))


def step(detector, data):
    detector = copy.deepcopy(detector)
    wrapped = distributed.wrap_model(detector, dist.is_initialized())
    wrapped.train()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    out = wrapped.train_step(copy.deepcopy(data), optimizer)
    out['loss'].backward()
    optimizer.step()
    return dict(loss=out['log_vars']['loss'], gradients={name: p.grad for name, p in detector.named_parameters()},
                state=detector.state_dict())


def sample(data, index):
    return {name: value[index:index + 1] for name, value in data.items()}


def assert_same(found, expected):
    scale = max(value.abs().max() for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5 * scale.item(),
                                   msg=lambda m: f'{name}: {m}')


def test_equal_box_counts_give_the_step_of_one_process(detector, make_data, tmp_path, monkeypatch):
    data = make_data((300, 200), (3, 3))
    one = step(detector, data)
    first, second = on_two_processes(lambda rank: step(detector, sample(data, rank)), tmp_path, monkeypatch)
    assert first['loss'] == second['loss'] == pytest.approx(one['loss'], rel=1e-5)
    assert all(torch.equal(first['state'][name], value) for name, value in second['state'].items())
    assert_same(first['gradients'], one['gradients'])
    alone = step(detector, sample(data, 0))['gradients']['pts_bbox_head.reference_points.weight']
    assert not torch.allclose(alone, one['gradients']['pts_bbox_head.reference_points.weight'], rtol=1e-2)


def test_different_box_counts_give_the_mean_of_the_samples(detector, make_data, tmp_path, monkeypatch):
    data = make_data((300, 200), (4, 2))
    detector.pts_bbox_head.denoising.num_groups = 0  # its box loss is divided by the mean count instead
    alone = [step(detector, sample(data, index))['gradients'] for index in range(2)]
    first, _ = on_two_processes(lambda rank: step(detector, sample(data, rank)), tmp_path, monkeypatch)
    assert_same(first['gradients'], {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]})


def test_a_process_without_denoising_queries_keeps_step_with_the_other(detector, make_data, tmp_path, monkeypatch):
    """More boxes than queries in one process only: the collective calls of the two must still match."""
    data = make_data((300, 200), (15, 2))
    first, second = on_two_processes(lambda rank: step(detector, sample(data, rank)), tmp_path, monkeypatch)
    assert all(torch.equal(first['state'][name], value) for name, value in second['state'].items())


def test_denoising_boxes_are_averaged_over_processes(detector, make_data, tmp_path, monkeypatch):
    """4 and 2 boxes: each process divides by their mean, 3 (times the groups), instead of its own number."""
    data = make_data((300, 200), (4, 2))

    def dn_loss_bbox(rank):
        torch.manual_seed(0)
        return copy.deepcopy(detector).train()(return_loss=True,
                                               **copy.deepcopy(sample(data, rank)))['dn_loss_bbox'].item()

    alone = [dn_loss_bbox(rank) for rank in range(2)]
    together = on_two_processes(dn_loss_bbox, tmp_path, monkeypatch)
    assert together == pytest.approx([alone[0] * 4 / 3, alone[1] * 2 / 3], rel=1e-4)


def test_auxiliary_losses(make_detector, make_data, tmp_path, monkeypatch):
    """One process has no box and no points: every parameter takes part, and positives are averaged over processes."""
    detector = without_chance(make_detector(enable_aqr=True, noise_scale=0.0, model=dict(
        auxiliary_heads=AUXILIARY_HEADS)))
    data = make_data((300, 0), (4, 0))
    first, second = on_two_processes(lambda rank: step(detector, sample(data, rank)), tmp_path, monkeypatch)
    assert all(torch.equal(first['state'][name], value) for name, value in second['state'].items())

    def box_loss(rank):
        return copy.deepcopy(detector).train()(return_loss=True, **copy.deepcopy(sample(data, rank)))[
            'loss_aux_bev_box'].item()

    alone = box_loss(0)
    assert on_two_processes(box_loss, tmp_path, monkeypatch) == pytest.approx([2 * alone, 0], rel=1e-4)
