"""A detector and a dataset with the randomness and containers of the real ones, small enough to test the tools."""
import os
import random
import signal

import mmcv
import numpy as np
import torch
from mmcv.fileio.file_client import HardDiskBackend
from mmcv.parallel import DataContainer
from mmcv.runner import HOOKS, Hook
from mmdet.datasets import DATASETS
from mmdet.models.builder import DETECTORS
from mmdet.models.detectors import BaseDetector
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from torch import nn

CONFIG = """
custom_imports = dict(imports=['tests.tiny_detector'], allow_failed_imports=False)
plugin = True
plugin_dir = 'projects/mmdet3d_plugin/'
model = dict(type='TinyDetector')
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=0,
    train=dict(type='TinyDataset', num_samples=8),
    val=dict(type='TinyDataset', num_samples=5),
    test=dict(type='TinyDataset', num_samples=5))
optimizer = dict(type='AdamW', lr=1e-2)
optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(policy='cyclic', target_ratio=(6, 1e-4), cyclic_times=1, step_ratio_up=0.4)
momentum_config = dict(policy='cyclic', target_ratio=(0.85 / 0.95, 1), cyclic_times=1, step_ratio_up=0.4)
runner = dict(type='EpochBasedRunner', max_epochs=2)
checkpoint_config = dict(interval=1)
evaluation = dict(interval=1)
log_config = dict(interval=1, hooks=[dict(type='TextLoggerHook'), dict(type='TensorboardLoggerHook')])
dist_params = dict(backend='nccl')
workflow = [('train', 1)]
"""


def write_config(folder, extra=''):
    """Write the tiny config into a folder and return its path."""
    path = folder / 'tiny.py'
    path.write_text(CONFIG + extra)
    return path


@DETECTORS.register_module()
class TinyDetector(BaseDetector):
    """Per-point network with BatchNorm and dropout; the mean over a sample's points is its prediction."""

    def __init__(self, width=8, router=False, train_only=None, train_cfg=None, test_cfg=None):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3))
        self.pts_bbox_head = nn.ModuleDict(dict(reg=nn.Linear(width, 1)))
        if router:
            self.pts_bbox_head['aqr_router'] = nn.Linear(width, 2)
        self.train_only = train_only

    def extract_feat(self, points):
        sizes = [len(cloud) for cloud in points]
        features = self.pts_bbox_head['reg'](self.encoder(torch.cat(points)))  # (sum of sizes, 1)
        return torch.stack([cloud.mean() for cloud in features.split(sizes)])  # (B,)

    def forward(self, return_loss=True, rescale=False, **kwargs):
        return self.forward_train(**kwargs) if return_loss else self.simple_test(**kwargs)

    def forward_train(self, points, img_metas, target):
        assert isinstance(points, list) and len(points) == len(img_metas) == len(target)
        return dict(loss_reg=(self.extract_feat(points) - target.squeeze(1)).square().mean())

    def simple_test(self, points, img_metas):
        (points, ), (img_metas, ) = points, img_metas  # one test-time augmentation
        predictions = self.extract_feat(points)
        return [
            dict(
                index=meta['index'],
                pts_bbox=dict(
                    boxes_3d=LiDARInstance3DBoxes(prediction.new_ones(1, 7) * prediction),
                    scores_3d=prediction.reshape(1).sigmoid(),
                    labels_3d=torch.zeros(1, dtype=torch.long)))
            for prediction, meta in zip(predictions, img_metas)
        ]

    def aug_test(self, imgs, img_metas, **kwargs):
        raise NotImplementedError


@DATASETS.register_module()
class TinyDataset:
    """Point clouds of different sizes, augmented with python's, numpy's and torch's generators."""
    CLASSES = ('thing', )

    def __init__(self, num_samples, test_mode=False, classes=None):
        self.CLASSES = classes or self.CLASSES
        self.num_samples = num_samples
        self.test_mode = test_mode
        self.flag = np.zeros(num_samples, dtype=np.uint8)

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        points = torch.randn(5 + index % 3, 4, generator=generator)
        meta = DataContainer(dict(index=index), cpu_only=True)
        if self.test_mode:
            return dict(points=[DataContainer(points)], img_metas=[meta])
        target = points.mean().reshape(1)
        points = points * random.uniform(0.9, 1.1) + np.random.normal(0, 0.1) + 0.1 * torch.randn(points.shape)
        target = DataContainer(target, stack=True, pad_dims=None)
        return dict(points=DataContainer(points), img_metas=meta, target=target)

    def evaluate(self, results, metric='bbox', logger=None, scale=1.0):
        assert [result['index'] for result in results] == list(range(len(self)))
        return dict(mean_score=scale * float(np.mean([result['pts_bbox']['scores_3d'] for result in results])))

    def format_results(self, results, jsonfile_prefix):
        mmcv.dump([result['index'] for result in results], f'{jsonfile_prefix}.json')


@HOOKS.register_module()
class KillHook(Hook):
    """SIGKILL in an epoch: at its start, amid its iterations, while its checkpoint is written or it is evaluated."""

    def __init__(self, epoch, moment='start'):
        assert moment in ('start', 'iteration', 'writing', 'evaluation')
        self.epoch = epoch
        self.moment = moment

    def before_train_epoch(self, runner):
        if runner.epoch == self.epoch:
            if self.moment == 'start':
                kill()
            elif self.moment == 'writing':
                HardDiskBackend.put = write_half_and_kill
            elif self.moment == 'evaluation':
                TinyDataset.evaluate = lambda *args, **kwargs: kill()

    def after_train_iter(self, runner):
        if (runner.epoch, runner.inner_iter, self.moment) == (self.epoch, 1, 'iteration'):
            kill()


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def write_half_and_kill(self, obj, filepath):
    """In the place of what mmcv writes checkpoints with."""
    with open(filepath, 'wb') as file:
        file.write(obj[:len(obj) // 2])
        file.flush()
        kill()
