"""Two real processes over gloo, compared with one."""
import copy
import logging
import os
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmcv import Config
from mmcv.parallel import collate
from mmcv.runner import EpochBasedRunner, OptimizerHook
from mmdet.apis import single_gpu_test
from mmdet.datasets import build_dataloader
from torch import nn

from projects.mmdet3d_plugin.apis import distributed
from projects.mmdet3d_plugin.apis.train import build_train_loader
from tests.tiny_detector import TinyDataset, TinyDetector
from tests.two_processes import on_two_processes


def without_noise(model):
    """Batch statistics and dropout off: samples no longer depend on one another or on chance."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.Dropout)):
            module.eval()
            module.train = lambda mode=True: None
    return model


def fixed_samples(count):
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    dataset = TinyDataset(count)
    return [dataset[index] for index in range(count)]


def gradients_of(model, samples):
    model = copy.deepcopy(model)
    wrapped = distributed.wrap_model(model, dist.is_initialized())
    wrapped.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs = wrapped.train_step(collate(samples, samples_per_gpu=len(samples)), optimizer)
    outputs['loss'].backward()
    optimizer.step()
    return dict(loss=outputs['log_vars']['loss'], **model.state_dict())


@pytest.mark.parametrize('launcher', ['pytorch', 'mpi', 'slurm'])
def test_one_step_of_two_processes_equals_one_process_on_both_samples(tmp_path, monkeypatch, launcher):
    model, samples = without_noise(TinyDetector()), fixed_samples(2)
    one = gradients_of(model, samples)
    first, second = on_two_processes(
        lambda rank: gradients_of(model, samples[rank:rank + 1]), tmp_path, monkeypatch, launcher)
    for key in one:
        assert torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key]))
        torch.testing.assert_close(torch.as_tensor(first[key]), torch.as_tensor(one[key]), rtol=1e-5, atol=1e-7)
    alone = gradients_of(model, samples[:1])
    assert not torch.allclose(alone['encoder.0.weight'], one['encoder.0.weight'], rtol=1e-3)


def detections(results):
    return [(result['index'], result['pts_bbox']['scores_3d'].item()) for result in results]


@pytest.mark.parametrize('samples_per_gpu', [1, 2])
@pytest.mark.parametrize('count', [1, 5, 6])
def test_results_of_two_processes_are_complete_and_in_order(tmp_path, monkeypatch, count, samples_per_gpu):
    model, dataset = TinyDetector().eval(), TinyDataset(count, test_mode=True)
    loader = dict(samples_per_gpu=samples_per_gpu, workers_per_gpu=0, shuffle=False)
    expected = single_gpu_test(distributed.wrap_model(model), build_dataloader(dataset, dist=False, **loader))

    def collect(rank):
        wrapped = distributed.wrap_model(model, distributed=True)
        return distributed.multi_process_test(wrapped, build_dataloader(dataset, dist=True, **loader))

    monkeypatch.setattr('mmdet.apis.test.time.sleep', lambda seconds: None)
    first, second = on_two_processes(collect, tmp_path, monkeypatch)
    assert [index for index, _ in detections(first)] == list(range(count))
    np.testing.assert_allclose(detections(first), detections(expected), rtol=1e-6)
    assert second is None
    assert not [name for name in os.listdir(tmp_path) if name.startswith('.dist_test')]


def test_forward_and_val_step_unpack_containers_too(tmp_path, monkeypatch):
    model, samples = without_noise(TinyDetector()), fixed_samples(2)

    def losses(rank):
        wrapped = distributed.wrap_model(model, distributed=True)
        batch = collate(samples, samples_per_gpu=2)
        return wrapped(**batch)['loss_reg'].item(), wrapped.val_step(batch)['loss'].item()

    for forward, val_step in on_two_processes(losses, tmp_path, monkeypatch):
        assert forward == val_step > 0


def test_rng_states_of_all_processes_are_saved_and_restored(tmp_path, monkeypatch):
    """Two processes with seeds of their own, resumed by ranks with other seeds, go on as they would have."""
    monkeypatch.setattr('mmcv.runner.epoch_based_runner.time.sleep', lambda seconds: None)

    def train(seed, folder, resume_from=None, max_epochs=2):
        distributed.seed_everything(seed, diff_seed=True)
        model = distributed.wrap_model(TinyDetector(), distributed=True)
        runner = EpochBasedRunner(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), work_dir=folder,
                                  logger=logging.getLogger(), meta=dict(), max_epochs=max_epochs)
        runner.register_training_hooks(dict(policy='fixed'), OptimizerHook(), dict(interval=1))
        runner.register_hook_from_cfg(dict(type='RNGStateHook', priority='LOWEST'))
        if resume_from:
            runner.resume(resume_from)
        loader = build_dataloader(TinyDataset(8), samples_per_gpu=2, workers_per_gpu=0, dist=True)
        runner.run([loader], [('train', 1)])
        return torch.rand(1).item(), model.module.state_dict()

    def compare(rank):
        expected = train(0, 'whole')
        train(0, 'part', max_epochs=1)
        return expected, train(7, 'part', resume_from='part/epoch_1.pth')

    ranks = on_two_processes(compare, tmp_path, monkeypatch)
    for rank, ((number, weights), (resumed_number, resumed_weights)) in enumerate(ranks):
        assert number == resumed_number
        for key in weights:  # the checkpoint holds the BatchNorm statistics of rank 0, as everywhere in mm
            assert torch.equal(weights[key], resumed_weights[key]) or (rank == 1 and 'running' in key)
    assert ranks[0][0][0] != ranks[1][0][0]


class TestInitDistributed:

    def test_none_means_one_process(self):
        assert distributed.init_distributed('none', backend='nccl') is False
        assert not dist.is_initialized()

    def test_unknown_launcher(self):
        with pytest.raises(ValueError, match="launcher must be one of .*, got 'magic'"):
            distributed.init_distributed('magic')

    @pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
    def test_without_the_environment_of_the_launcher(self, monkeypatch, launcher):
        for name in distributed.LAUNCHER_VARIABLES[launcher]:
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(KeyError, match=f"launcher '{launcher}' needs the environment variables .*dist_train.sh"):
            distributed.init_distributed(launcher)


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without CUDA')
def test_collecting_through_gpus_that_are_not_there():
    with pytest.raises(ValueError, match='gpu_collect=True needs CUDA'):
        distributed.multi_process_test(None, None, gpu_collect=True)


class TestSeedEverything:

    def test_all_generators(self):
        def draws(seed):
            assert distributed.seed_everything(seed) == seed
            return random.random(), np.random.rand(), torch.rand(1).item()

        assert draws(3) == draws(3)
        assert all(a != b for a, b in zip(draws(3), draws(4)))

    def test_deterministic(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, 'deterministic', False)
        monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
        try:
            distributed.seed_everything(0, deterministic=True)
            assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        finally:
            torch.use_deterministic_algorithms(False)

    def test_a_drawn_seed_is_the_same_in_all_processes(self, tmp_path, monkeypatch):
        first, second = on_two_processes(
            lambda rank: (np.random.seed(rank), distributed.seed_everything()), tmp_path, monkeypatch)
        assert first == second

    def test_another_seed_in_each_process_deals_out_every_sample_once(self, tmp_path, monkeypatch):
        def epoch(rank):
            cfg = Config(dict(seed=distributed.seed_everything(5, diff_seed=True), data=dict(train_dataloader=dict(
                samples_per_gpu=2, workers_per_gpu=0))))
            loader = build_train_loader(TinyDataset(8), cfg, distributed=True, logger=logging.getLogger())
            return torch.rand(1).item(), [meta['index'] for batch in loader for meta in batch['img_metas'].data[0]]

        first, second = on_two_processes(epoch, tmp_path, monkeypatch)
        assert first[0] != second[0] and sorted(first[1] + second[1]) == list(range(8))
