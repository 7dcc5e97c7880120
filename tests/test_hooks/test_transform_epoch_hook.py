"""Transforms learn the epoch in mmcv's runner: through wrappers, into workers, and when a run is resumed."""
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner import EpochBasedRunner
from mmdet.datasets import ConcatDataset, RepeatDataset
from mmdet3d.datasets.dataset_wrappers import CBGSDataset
from mmdet3d.datasets.pipelines import Compose
from torch import nn
from torch.utils.data import DataLoader

from projects.mmdet3d_plugin.apis import load_config, train_detector
from projects.mmdet3d_plugin.datasets.pipelines import SimulateFailure
from tests.tiny_detector import TinyDataset, write_config

MIXTURE = {'clean': 0.5, 'view_drop:3': 0.5}


class Samples:
    """Eight samples through a real pipeline; what comes out is epoch and draw of the simulated failure."""
    CLASSES = ('thing', )

    def __init__(self):
        self.pipeline = Compose([])
        self.pipeline.transforms = [self.load, SimulateFailure(MIXTURE), self.summarize]
        self.flag = np.zeros(len(self), dtype=np.uint8)

    @staticmethod
    def load(index):
        return dict(sample_idx=f'token{index}', img=[np.ones((2, 2, 3), np.uint8)] * 6)

    @staticmethod
    def summarize(results):
        return torch.tensor([results['failure'].seed[1], *results['failure'].views_lost.tolist()])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.pipeline(index)

    def get_cat_ids(self, index):
        return [0]


class Model(nn.Module):
    """Remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.epochs, self.draws = [], []

    def train_step(self, data, optimizer):
        self.epochs.append(data[:, 0].tolist())
        self.draws.append(data[:, 1:].tolist())
        return dict(loss=self.weight.sum() * 0, log_vars={}, num_samples=len(data))


def run(dataset, work_dir, epochs=3, workers=0, resume_from=None, registered=True, **loader):
    model = Model()
    runner = EpochBasedRunner(
        MMDataParallel(model, device_ids=[-1]), optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        work_dir=str(work_dir), logger=logging.getLogger('test'), meta={}, max_epochs=epochs)
    runner.register_training_hooks(dict(policy='fixed'), dict(grad_clip=None), dict(interval=1))
    if registered:
        runner.register_hook_from_cfg(dict(type='TransformEpochHook'))
    if resume_from is not None:
        runner.resume(str(resume_from))
    runner.run([DataLoader(dataset, batch_size=8, num_workers=workers, **loader)], [('train', 1)])
    return model


@pytest.mark.parametrize('workers, loader', [(0, {}), (1, {}), (2, dict(persistent_workers=True)),
                                             (1, dict(persistent_workers=True, prefetch_factor=4))], ids=str)
def test_every_epoch_draws_anew(tmp_path, workers, loader):
    model = run(Samples(), tmp_path, workers=workers, **loader)
    assert model.epochs == [[0] * 8, [1] * 8, [2] * 8]
    assert model.draws[0] != model.draws[1] != model.draws[2] != model.draws[0]
    assert model.draws == run(Samples(), tmp_path).draws


def test_without_the_hook_epochs_repeat(tmp_path):
    """The control of the tests above."""
    model = run(Samples(), tmp_path, registered=False)
    assert model.epochs == [[0] * 8] * 3 and model.draws[0] == model.draws[1]


@pytest.mark.parametrize('after', [1, 2])
def test_a_resumed_run_draws_as_an_uninterrupted_one(tmp_path, after):
    whole = run(Samples(), tmp_path / 'one')
    run(Samples(), tmp_path / 'two', epochs=after)
    resumed = run(Samples(), tmp_path / 'three', resume_from=tmp_path / f'two/epoch_{after}.pth')
    assert resumed.draws == whole.draws[after:] and resumed.epochs == whole.epochs[after:]


@pytest.mark.parametrize('wrapped', [
    lambda: RepeatDataset(Samples(), 2), lambda: CBGSDataset(Samples()),
    lambda: ConcatDataset([Samples(), Samples()]), lambda: RepeatDataset(ConcatDataset([Samples(), Samples()]), 2),
    lambda: CBGSDataset(RepeatDataset(Samples(), 1))], ids=['repeat', 'cbgs', 'concat', 'repeat concat', 'cbgs repeat'])
def test_wrappers_are_looked_through(tmp_path, wrapped):
    model = run(wrapped(), tmp_path, epochs=2)
    half = len(model.epochs) // 2
    assert all(epoch == 0 for batch in model.epochs[:half] for epoch in batch)
    assert all(epoch == 1 for batch in model.epochs[half:] for epoch in batch) and half >= 1


def test_datasets_without_a_pipeline_and_transforms_without_epochs(tmp_path):
    model = run([torch.ones(3)] * 8, tmp_path, epochs=1)
    assert len(model.epochs) == 1
    dataset = Samples()
    dataset.pipeline.transforms.insert(1, lambda results: results)
    assert run(dataset, tmp_path, epochs=2).epochs == [[0] * 8, [1] * 8]


def test_training_registers_it(tmp_path, monkeypatch):
    """Users need not think of it."""
    class Recorder:
        epochs = []

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    monkeypatch.setattr(TinyDataset, 'pipeline', SimpleNamespace(transforms=[Recorder()]), raising=False)
    cfg = load_config(write_config(tmp_path))
    cfg.work_dir = str(tmp_path / 'run')
    train_detector(cfg, 'tiny.py', seed=0, validate=False)
    assert Recorder.epochs == [0, 1]
