import math
from types import SimpleNamespace

import numpy as np
import pytest
from mmcv import Config
from mmdet3d.datasets import NuScenesDataset

from projects.mmdet3d_plugin.apis.training_checks import check_ground_truth, check_training_settings, rare_checkpoints


def config(**changes):
    return Config({**dict(runner=dict(max_epochs=2), optimizer=dict(type='SGD', lr=0.0), optimizer_config={},
                          workflow=[('train', 1)]),
                   **changes})


@pytest.mark.parametrize('changes', [
    {}, dict(optimizer_config=dict(grad_clip=None)), dict(optimizer_config=dict(grad_clip=dict(max_norm=35))),
    dict(optimizer=dict(lr=1e3)), dict(custom_hooks=[dict(type='EMAHook', priority=49)]),
    dict(custom_hooks=[dict(type='NonFiniteLossHook')]), dict(checkpoint_config=dict(interval=-1, max_keep_ckpts=-1)),
    dict(checkpoint_config=dict(filename_tmpl='last.pth')),
    dict(checkpoint_config=None, momentum_config=None, auto_scale_lr=dict(enable=False, base_batch_size=16)),
    dict(optimizer_config=dict(grad_clip=dict(max_norm=1, norm_type=math.inf))),
    dict(workflow=[('train', 2), ('val', 1)])])
def test_settings_that_can_train(changes):
    check_training_settings(config(**changes))


@pytest.mark.parametrize('changes, message', [
    (dict(runner=dict(max_epochs=0)), 'total_epochs. must be an integer >= 1, got 0'),
    (dict(runner=dict(max_epochs=1.5)), 'must be an integer >= 1, got 1.5'),
    (dict(runner=dict(max_epochs=True)), 'must be an integer >= 1, got True'),
    (dict(optimizer=dict(lr=math.nan)), 'optimizer.lr must be a number from 0 to 1000, got nan'),
    (dict(optimizer=dict(lr=math.inf)), 'optimizer.lr must be'), (dict(optimizer=dict(lr=1e4)), 'optimizer.lr must be'),
    (dict(optimizer=dict(lr=-0.1)), 'optimizer.lr must be'), (dict(optimizer=dict(lr='1e-4')), "got '1e-4'"),
    (dict(optimizer_config=dict(grad_clip=dict(max_norm=0))), 'max_norm must be a finite number > 0, got 0'),
    (dict(optimizer_config=dict(grad_clip=dict(max_norm=-1.0))), 'max_norm must be'),
    (dict(optimizer_config=dict(grad_clip=dict(norm_type=2))), 'max_norm must be a finite number > 0, got None'),
    (dict(evaluation=dict(interval=0)), 'evaluation.interval must be an integer >= 1, got 0'),
    (dict(evaluation=dict(interval=0.5)), 'evaluation.interval must be'),
    (dict(workflow=[('train', 1), ('train', 1)]), 'workflow must be'), (dict(workflow=[]), 'workflow must be'),
    (dict(checkpoint_config=dict(interval=-2)), 'interval must be an integer >= 1, or 0 or -1 for never, got -2'),
    (dict(checkpoint_config=dict(interval=0, save_last=False)), 'interval=0 with 2 epochs and save_last=False would '
     'leave no checkpoint'), (dict(checkpoint_config=dict(interval=3, save_last=False)), 'would leave no checkpoint'),
    *((dict(checkpoint_config=dict(filename_tmpl=template)), 'filename_tmpl must be a name with one {}.*, got ')
      for template in ('{}_{}.pth', 'e_{epoch}.pth', 'e_{.pth', 3)),
    (dict(checkpoint_config=dict(filename_tmpl='last.pth', max_keep_ckpts=1)), 'is one name for all epochs, and max_k'),
    (dict(lr_config=dict(min_lr=math.nan)), 'lr_config.min_lr must be a number, got nan'),
    (dict(momentum_config=dict(target_ratio=(0.9, math.nan))), 'momentum_config.target_ratio.1 must be a number'),
    (dict(lr_config=dict(cyclic_times=1.5)), 'lr_config.cyclic_times must be an integer >= 1, got 1.5'),
    (dict(custom_hooks=[dict(type='EMAHook')]), "EMAHook needs priority='ABOVE_NORMAL', got 'NORMAL'"),
    (dict(custom_hooks=[dict(type='ExpMomentumEMAHook', priority='LOW')]), "got 'LOW'")])
def test_settings_that_cannot(changes, message):
    with pytest.raises(ValueError, match=message):
        check_training_settings(config(**changes))


@pytest.mark.parametrize('checkpoints, best, words', [
    (dict(interval=2), None, ''), (dict(interval=500, by_epoch=False), None, ''),
    (dict(interval=0), None, 'interval=0 with 2 epochs: a checkpoint will be written at the end only; a run that is'),
    (dict(), 'mAP', 'interval=-1 with 2 epochs: a checkpoint will be written at the end only, but for those of save_b'),
    (dict(interval=3), None, 'interval=3 with 2 epochs: a checkpoint will be written at the end only'),
    (dict(interval=0, save_last=False), 'mAP', 'save_last=False: no checkpoints will be written, but for those of'),
    (None, None, 'checkpoint_config=None: no checkpoints will be written')])
def test_rare_checkpoints_are_told(checkpoints, best, words):
    found = rare_checkpoints(config(checkpoint_config=checkpoints, evaluation=dict(save_best=best)))
    assert words in found and bool(words) == bool(found)


def dataset(labels, classes=('car', ), **attributes):
    made = NuScenesDataset.__new__(NuScenesDataset)
    made.__dict__.update(dict(
        CLASSES=classes, filter_empty_gt=True, test_mode=False, ann_file='infos.pkl', data_infos=labels,
        get_ann_info=lambda index: dict(gt_labels_3d=np.array(labels[index]))), **attributes)
    return made


@pytest.mark.parametrize('wrap', [lambda inner: inner, lambda inner: SimpleNamespace(dataset=inner),
                                  lambda inner: SimpleNamespace(datasets=[dataset([[0]]), inner])])
def test_data_without_ground_truth(wrap):
    for labels in ([[], [-1]], [[]]):
        with pytest.raises(ValueError, match=rf"data.train: none of the {len(labels)} samples of infos.pkl has a box"):
            check_ground_truth(wrap(dataset(labels)), 'data.train')
    with pytest.raises(ValueError, match=r"no annotations of the classes \['tram'\]; allowed"):
        check_ground_truth(wrap(dataset([[0]], classes=('car', 'tram'))), 'data.train')
    check_ground_truth(wrap(dataset([[], [0, -1]])), 'data.train')
    check_ground_truth(wrap(dataset([[]], filter_empty_gt=False)), 'data.train')
    check_ground_truth(wrap(dataset([[]], test_mode=True)), 'data.train')
