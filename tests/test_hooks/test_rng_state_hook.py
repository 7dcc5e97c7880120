import json
import logging
import random
from functools import partial

import numpy as np
import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner import EpochBasedRunner, Hook
from mmdet.core import EvalHook
from mmdet.datasets import build_dataloader

from projects.mmdet3d_plugin.hooks.rng_state_hook import RNGStateHook, get_rng_state, set_rng_state
from tests.tiny_detector import TinyDataset, TinyDetector

EPOCHS = 3


class Interruption(Exception):
    pass


class InterruptHook(Hook):
    """Ends the run when an epoch starts, as a kill would: the last epoch is saved and evaluated."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train_epoch(self, runner):
        if runner.epoch == self.epoch:
            raise Interruption


def draw():
    """One number from each generator that training may use."""
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()


def run(work_dir, workers, with_hook=True, interrupt_after=None, resume_from=None, seed=0):
    """Train the tiny model and return its final weights; evaluation, which draws numbers, runs in between."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    model = MMDataParallel(TinyDetector())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    runner = EpochBasedRunner(
        model, optimizer=optimizer, work_dir=str(work_dir), logger=logging.getLogger(), meta=dict(), max_epochs=EPOCHS)
    runner.register_training_hooks(
        dict(policy='cyclic', target_ratio=(6, 1e-4), cyclic_times=1, step_ratio_up=0.4), dict(grad_clip=None),
        checkpoint_config=dict(interval=1), log_config=dict(interval=1, hooks=[dict(type='TextLoggerHook')]),
        momentum_config=dict(policy='cyclic', target_ratio=(0.9, 1), cyclic_times=1, step_ratio_up=0.4))
    loader = partial(build_dataloader, samples_per_gpu=2, workers_per_gpu=workers, dist=False)
    runner.register_hook(EvalHook(loader(TinyDataset(3, test_mode=True), shuffle=False), interval=2))
    if with_hook:
        runner.register_hook_from_cfg(dict(type='RNGStateHook', priority='LOWEST'))
    if interrupt_after is not None:
        runner.register_hook(InterruptHook(interrupt_after))
    if resume_from is not None:
        runner.resume(str(resume_from))
    try:
        runner.run([loader(TinyDataset(8))], [('train', 1)])
    except Interruption:
        assert interrupt_after is not None
    return model.module.state_dict()


def equal(one, other):
    return all(torch.equal(one[key], other[key]) for key in one | other)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('after', [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, workers, after):
    uninterrupted = run(tmp_path / 'one', workers)
    interrupted = run(tmp_path / 'two', workers, interrupt_after=after)
    assert not equal(uninterrupted, interrupted)
    resumed = run(tmp_path / 'two', workers, resume_from=tmp_path / 'two' / f'epoch_{after}.pth', seed=99)
    assert equal(uninterrupted, resumed)


def test_without_the_hook_the_resumed_run_differs(tmp_path):
    """The control of the test above: the tiny model's training does depend on the generators."""
    uninterrupted = run(tmp_path / 'one', 0, with_hook=False)
    run(tmp_path / 'two', 0, with_hook=False, interrupt_after=1)
    resumed = run(tmp_path / 'two', 0, with_hook=False, resume_from=tmp_path / 'two' / 'epoch_1.pth', seed=99)
    assert not equal(uninterrupted, resumed)


def test_states_round_trip_through_json_and_a_checkpoint_without_pickled_objects(tmp_path):
    random.gauss(0, 1), np.random.randn()  # a second normal number now waits in both generators
    state = json.loads(json.dumps(get_rng_state()))
    torch.save(state, tmp_path / 'state.pth')
    expected = draw()
    draw()
    set_rng_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert draw() == expected


def test_resuming_a_checkpoint_without_states_or_of_other_processes_warns(tmp_path, caplog):
    run(tmp_path, 0, with_hook=False, interrupt_after=1)
    run(tmp_path, 0, resume_from=tmp_path / 'epoch_1.pth')
    assert 'the checkpoint holds no RNG states' in caplog.text
    checkpoint = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)
    checkpoint['meta']['rng_states'] *= 2
    torch.save(checkpoint, tmp_path / 'two_processes.pth')
    run(tmp_path, 0, resume_from=tmp_path / 'two_processes.pth')
    assert 'RNG states of 2 processes cannot be restored in 1' in caplog.text


def test_it_is_registered():
    from mmcv.runner import HOOKS
    assert HOOKS.get('RNGStateHook') is RNGStateHook
