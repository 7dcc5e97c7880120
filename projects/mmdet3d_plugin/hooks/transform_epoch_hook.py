"""Transforms that draw by epoch learn which one it is."""
from mmcv.runner import HOOKS, Hook


@HOOKS.register_module()
class TransformEpochHook(Hook):
    """Call ``set_epoch(epoch)`` of every transform that has it before an epoch of training, as samplers are told.

    Wrappers of datasets are looked through. The training tools register it by themselves.
    """

    def before_train_epoch(self, runner):
        set_epoch(runner.data_loader.dataset, runner.epoch)


def set_epoch(dataset, epoch):
    """Call ``set_epoch(epoch)`` of every transform of a dataset, wrapped or not, that has it."""
    for transform in transforms_of(dataset):
        if hasattr(transform, 'set_epoch'):
            transform.set_epoch(epoch)


def transforms_of(dataset):
    """All transforms of a dataset, of those that it wraps (``dataset``) or joins (``datasets``)."""
    for inner in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if inner is not None:
            yield from transforms_of(inner)
    yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
