"""The training step of the 800x320 config without AQRMonitorHook, with it between two looks, and while it looks."""
import copy
import logging
from itertools import repeat
from operator import call

import torch
from mmcv.runner import IterBasedRunner, IterLoader, LoggerHook, OptimizerHook

from benchmarks.harness import Comparison
from benchmarks.settings import Settings
from projects.mmdet3d_plugin.hooks.aqr_monitor_hook import AQRMonitorHook

from .scenes import AQR, published_detector, training_data

_NEVER = 10**9  # iterations


def build(settings):
    """Compare iterations of mmcv's runner, which train the same model; of the settings only the batch counts."""
    scale = Settings().scale  # of the 800x320 config
    model = published_detector(scale, **AQR['AQR global'])
    data = training_data(scale, settings.batch)
    hooks = {'no hook': None, 'idle': AQRMonitorHook(interval=_NEVER), 'looking': AQRMonitorHook(interval=1)}
    return Comparison({name: _iteration(model, data, hook) for name, hook in hooks.items()}, {'training step': call})


class SilentLogger(LoggerHook):
    """Due at every iteration, as AQRMonitorHook looks only where a logger writes; this one writes nothing."""

    def __init__(self):
        super().__init__(interval=1, by_epoch=False)

    def log(self, runner):
        pass


def _iteration(model, data, monitor):
    """Function that runs one iteration of a runner of its own, with an AQRMonitorHook or None."""
    runner = IterBasedRunner(model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-6),
                             logger=logging.getLogger('benchmark'))
    runner.register_hook(OptimizerHook(grad_clip=dict(max_norm=35, norm_type=2)), 'ABOVE_NORMAL')
    if monitor is not None:
        runner.register_hook(monitor)
    runner.register_hook(SilentLogger(), 'VERY_LOW')
    for moment in ('before_run', 'before_train_epoch'):  # the second one makes the monitor watch the steps
        runner.call_hook(moment)
    loader = IterLoader(map(copy.deepcopy, repeat(data)))  # a step changes its data
    return lambda: runner.train(loader)
