"""Transforms that draw by epoch learn which one it is."""
from mmcv.runner import HOOKS, Hook

from ..datasets.wrapped_datasets import all_transforms


@HOOKS.register_module()
class TransformEpochHook(Hook):
    """Call ``set_epoch(epoch)`` of every transform that has it before an epoch of training, as samplers are told.

    Wrappers of datasets are looked through. The training tools register it by themselves.
    """

    def before_train_epoch(self, runner):
        set_epoch(runner.data_loader.dataset, runner.epoch)


def set_epoch(dataset, epoch):
    """Call ``set_epoch(epoch)`` of every transform of a dataset, wrapped or not, that has it."""
    for transform in all_transforms(dataset):
        if hasattr(transform, 'set_epoch'):
            transform.set_epoch(epoch)
