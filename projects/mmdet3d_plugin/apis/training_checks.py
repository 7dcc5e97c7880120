"""Settings and data that no training can come of, found before anything is written."""
import math

from mmcv.runner import HOOKS, get_priority
from mmdet3d.datasets import NuScenesDataset
from nuscenes.eval.detection.constants import DETECTION_NAMES

from .runner import EMA_HOOKS

_HIGHEST_LR = 1e3  # beyond any use: a slip of the exponent


def check_training_settings(cfg):
    """Raise ValueError for numbers with which a training could only fail or do nothing.

    Args:
        cfg (mmcv.Config): with `runner.max_epochs`.
    """

    def require(name, value, allowed, is_allowed):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and is_allowed(value)):
            raise ValueError(f'{name} must be {allowed}, got {value!r}')

    def require_count(name, value, least=1, never=()):
        exception = f', or {" or ".join(map(str, never))} for never' if never else ''
        require(name, value, f'an integer >= {least}{exception}',
                lambda value: isinstance(value, int) and (value >= least or value in never))

    require_count('runner.max_epochs (total_epochs)', cfg.runner.max_epochs)
    lr = (cfg.get('optimizer') or {}).get('lr')
    if lr is not None:
        require('optimizer.lr', lr, f'a number from 0 to {_HIGHEST_LR:g}', lambda value: 0 <= value <= _HIGHEST_LR)
    grad_clip = (cfg.get('optimizer_config') or {}).get('grad_clip')
    if grad_clip is not None:
        require('optimizer_config.grad_clip.max_norm', grad_clip.get('max_norm'), 'a finite number > 0',
                lambda value: 0 < value < math.inf)
        require('optimizer_config.grad_clip.norm_type', grad_clip.get('norm_type', 2), 'a number > 0',
                lambda value: value > 0)
    for schedule in ('lr_config', 'momentum_config'):
        require_count(f'{schedule}.cyclic_times', (cfg.get(schedule) or {}).get('cyclic_times', 1))
    require_count('evaluation.interval', (cfg.get('evaluation') or {}).get('interval', 1))
    require_count('log_config.interval', (cfg.get('log_config') or {}).get('interval', 1))
    checkpoints = cfg.get('checkpoint_config') or {}
    require_count('checkpoint_config.interval', checkpoints.get('interval', -1), never=(0, -1))
    require_count('checkpoint_config.max_keep_ckpts', checkpoints.get('max_keep_ckpts', -1), never=(-1, ))
    _check_template(checkpoints)
    for section in ('optimizer', 'lr_config', 'momentum_config'):
        _check_no_nan(section, cfg.get(section))
    rare_checkpoints(cfg)
    loader = cfg.get('data', {}).get('train_dataloader', {})  # where mmdet puts them
    require_count('data.samples_per_gpu', loader.get('samples_per_gpu', 1))
    require_count('data.workers_per_gpu', loader.get('workers_per_gpu', 0), least=0)
    require_count('auto_scale_lr.base_batch_size', (cfg.get('auto_scale_lr') or {}).get('base_batch_size', 1))
    _check_workflow(cfg.get('workflow', []))
    _check_ema_priority(cfg.get('custom_hooks') or [])


def _check_no_nan(name, setting):
    """A learning rate that becomes NaN in the last epoch takes the weights with it."""
    for key, value in setting.items() if isinstance(setting, dict) else (
            enumerate(setting) if isinstance(setting, (list, tuple)) else ()):
        _check_no_nan(f'{name}.{key}', value)
    if isinstance(setting, float) and math.isnan(setting):
        raise ValueError(f'{name} must be a number, got nan')


def _check_template(checkpoints):
    """Names of checkpoints are made when they are saved, after an epoch; those beyond max_keep_ckpts are deleted."""
    template = checkpoints.get('filename_tmpl', 'epoch_{}.pth')
    try:
        names = [template.format(number) for number in (1, 2)]
    except (AttributeError, IndexError, KeyError, ValueError) as error:
        raise ValueError('checkpoint_config.filename_tmpl must be a name with one {}, the place of the epoch, such as '
                         f"'epoch_{{}}.pth', got {template!r}") from error
    if names[0] == names[1] and checkpoints.get('max_keep_ckpts', -1) > 0:
        raise ValueError(f'checkpoint_config.filename_tmpl={template!r} is one name for all epochs, and max_keep_ckpts='
                         f'{checkpoints["max_keep_ckpts"]} would delete it: leave one of them out')


def rare_checkpoints(cfg):
    """Words on when a training writes checkpoints that none of its epochs writes, '' for others.

    Args:
        cfg (mmcv.Config): with `runner.max_epochs`.

    Raises:
        ValueError: it would end without any: none at an interval, none at the end, none of the best evaluation.
    """
    checkpoints, best = cfg.get('checkpoint_config'), (cfg.get('evaluation') or {}).get('save_best')
    at_best = ', but for those of save_best' if best else ''
    if checkpoints is None:
        return f'checkpoint_config=None: no checkpoints will be written{at_best}'
    interval = checkpoints.get('interval', -1)
    if interval > 0 and (interval <= cfg.runner.max_epochs or not checkpoints.get('by_epoch', True)):
        return ''
    setting = f'checkpoint_config.interval={interval} with {cfg.runner.max_epochs} epochs'
    if checkpoints.get('save_last', True):
        return f'{setting}: a checkpoint will be written at the end only{at_best}; a run that is killed leaves none'
    if not best:
        raise ValueError(f'{setting} and save_last=False would leave no checkpoint: change one of them, or set '
                         'evaluation.save_best')
    return f'{setting} and save_last=False: no checkpoints will be written{at_best}'


def _check_workflow(workflow):
    """Training, then perhaps losses on data.val. mmcv goes round for ever in a workflow without epochs."""
    entries = [entry if isinstance(entry, (list, tuple)) and len(entry) == 2 else (None, 0) for entry in workflow]
    if [mode for mode, _ in entries] not in (['train'], ['train', 'val']) or not all(
            isinstance(epochs, int) and epochs >= 1 for _, epochs in entries):
        raise ValueError("workflow must be [('train', epochs)] or [('train', epochs), ('val', epochs)] with epochs >= "
                         f'1, got {workflow}')


def _check_ema_priority(hooks):
    """An EMA hook must put the averaged weights into the model before the checkpoint is written, not after."""
    for hook in hooks:
        cls = HOOKS.get(hook['type']) if isinstance(hook, dict) and isinstance(hook.get('type'), str) else None
        if isinstance(cls, type) and issubclass(cls, EMA_HOOKS):
            priority = hook.get('priority', 'NORMAL')
            if get_priority(priority) >= get_priority('NORMAL'):
                raise ValueError(f"custom_hooks: {hook['type']} needs priority='ABOVE_NORMAL', got {priority!r}: it "
                                 'must swap the weights before they are written, or files name one for the other')


def check_ground_truth(dataset, name):
    """Raise ValueError where samples without ground truth are left out and there are no others.

    mm's datasets draw another sample then, for ever.

    Args:
        dataset (Dataset): wrappers are looked through.
        name (str): for the message.
    """
    parts = getattr(dataset, 'datasets', None) or [part for part in [getattr(dataset, 'dataset', None)] if part]
    for part in parts:
        check_ground_truth(part, name)
    if parts or getattr(dataset, 'test_mode', False) or not hasattr(dataset, 'CLASSES'):
        return
    unknown = [label for label in dataset.CLASSES if label not in DETECTION_NAMES]
    if isinstance(dataset, NuScenesDataset) and unknown:
        raise ValueError(f'{name}: nuScenes has no annotations of the classes {unknown}; allowed: {DETECTION_NAMES}')
    if getattr(dataset, 'filter_empty_gt', False) and hasattr(dataset, 'get_ann_info') and not any(
            (dataset.get_ann_info(index)['gt_labels_3d'] >= 0).any() for index in range(len(dataset))):
        raise ValueError(f'{name}: none of the {len(dataset)} samples of {dataset.ann_file} has a box with LiDAR '
                         f'points of the classes {list(dataset.CLASSES)}; filter_empty_gt=True leaves out such samples')
