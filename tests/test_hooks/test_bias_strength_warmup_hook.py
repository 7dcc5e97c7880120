"""The warm-up in mmcv's runner: the strength of every iteration, resumed, evaluated in between, and wrapped models."""
import logging

import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner import EpochBasedRunner, Hook
from torch import nn

from projects.mmdet3d_plugin.hooks.bias_strength_warmup_hook import BiasStrengthWarmupHook
from projects.mmdet3d_plugin.models.utils.attention_bias_generator import AttentionBiasGenerator

ITERS = 3  # of an epoch


class Head(nn.Module):

    def __init__(self):
        super().__init__()
        self.aqr_bias = AttentionBiasGenerator((1, 1), (1, 1, 1), bias_strength=5.0)
        self.weight = nn.Parameter(torch.ones(1, 1))


class Model(nn.Module):
    """Remembers the bias of a query that trusts LiDAR alone, which is the strength."""

    def __init__(self, head=Head):
        super().__init__()
        self.pts_bbox_head = head()
        self.strengths = []

    def step(self, data, optimizer):
        head = self.pts_bbox_head
        bias = head.aqr_bias(head.weight.clamp(0, 1), head.weight.clamp(0, 1))
        self.strengths.append((self.training, bias[0, 0, 0].item()))
        return dict(loss=0 * bias.sum(), log_vars={}, num_samples=1)

    train_step = val_step = step


class Headless(nn.Module):
    train_step = val_step = None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


def run(model, work_dir, iters, epochs=3, resume_from=None, workflow=(('train', 1), ), wrap=True):
    runner = EpochBasedRunner(
        MMDataParallel(model, device_ids=[-1]) if wrap else model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1), work_dir=str(work_dir),
        logger=logging.getLogger('test'), meta={}, max_epochs=epochs)
    runner.register_training_hooks(
        dict(policy='fixed'), dict(grad_clip=None), dict(interval=1),
        custom_hooks_config=[dict(type='BiasStrengthWarmupHook', iters=iters)])
    if resume_from is not None:
        runner.resume(str(resume_from))
    data = [torch.ones(1)] * ITERS
    runner.run([data] * len(workflow), [tuple(flow) for flow in workflow])
    return [strength for training, strength in model.strengths if training]


@pytest.mark.parametrize('wrap', [True, False])
@pytest.mark.parametrize('iters, expected', [
    (1, [5] * 9), (5, [1, 2, 3, 4, 5, 5, 5, 5, 5]), (20, [0.25 * (i + 1) for i in range(9)])])
def test_strength_rises_linearly(tmp_path, iters, expected, wrap):
    model = Model()
    assert run(model, tmp_path, iters, wrap=wrap) == pytest.approx(expected)
    assert model.pts_bbox_head.aqr_bias.bias_strength == 5.0


@pytest.mark.parametrize('after', [1, 2])
def test_a_resumed_run_goes_on(tmp_path, after):
    whole = run(Model(), tmp_path / 'one', 8)
    run(Model(), tmp_path / 'two', 8, epochs=after)
    resumed = run(Model(), tmp_path / 'three', 8, resume_from=tmp_path / f'two/epoch_{after}.pth')
    assert resumed == whole[after * ITERS:] and len(set(whole)) == 8
    assert 'pts_bbox_head.weight' in torch.load(tmp_path / f'two/epoch_{after}.pth')['state_dict']


def test_evaluation_uses_the_strength_reached(tmp_path):
    model = Model()
    run(model, tmp_path, 12, epochs=2, workflow=(('train', 1), ('val', 1)))
    assert [strength for training, strength in model.strengths if not training] == pytest.approx(
        [5 * 3 / 12] * 3 + [5 * 6 / 12] * 3)


@pytest.mark.parametrize('iters', [0, -1, 2.0, '5', True, None])
def test_bad_iters(iters):
    with pytest.raises(ValueError, match='iters must be an integer >= 1, got'):
        BiasStrengthWarmupHook(iters)


@pytest.mark.parametrize('model', [lambda: Model(head=nn.Module), Headless])
def test_a_model_that_routes_nothing_is_refused_before_the_run(tmp_path, model):
    class NeverHook(Hook):

        def before_train_epoch(self, runner):
            raise AssertionError('the run began')

    model = model()
    runner = EpochBasedRunner(model, optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1),
                              work_dir=str(tmp_path), logger=logging.getLogger('test'), meta={}, max_epochs=1)
    runner.register_hook(NeverHook())
    runner.register_hook(BiasStrengthWarmupHook(3))
    with pytest.raises(ValueError, match='enable_aqr=True'):
        runner.run([[torch.ones(1)]], [('train', 1)])
