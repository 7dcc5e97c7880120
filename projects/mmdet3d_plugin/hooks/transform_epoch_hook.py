"""Transforms that draw by epoch learn which one it is."""
from mmcv.runner import HOOKS, Hook


@HOOKS.register_module()
class TransformEpochHook(Hook):
    """Call ``set_epoch(epoch)`` of every transform that has it before an epoch of training, as samplers are told.

    Wrappers of datasets are looked through. The training tools register it by themselves.
    """

    def before_train_epoch(self, runner):
        for transform in _transforms(runner.data_loader.dataset):
            if hasattr(transform, 'set_epoch'):
                transform.set_epoch(runner.epoch)


def _transforms(dataset):
    """All transforms of a dataset, of those that it wraps (``dataset``) or joins (``datasets``)."""
    for inner in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if inner is not None:
            yield from _transforms(inner)
    yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
