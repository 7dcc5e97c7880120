"""Testing: the detections of a checkpoint on a dataset, their evaluation and their files."""
import inspect
import os.path as osp
from pathlib import Path

import mmcv
import torch
from mmcv.cnn import fuse_conv_bn
from mmcv.runner import DistEvalHook, get_dist_info, wrap_fp16_model
from mmdet.apis import single_gpu_test
from mmdet.datasets import build_dataloader
from mmdet.utils import compat_cfg, setup_multi_processes
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model

from ..core.bbox.class_selection import select_classes
from ..utils.atomic_file import atomic_path
from ..utils.restricted_pickle import load_pickle
from .checkpoint import load_weights, read_checkpoint
from .class_names import (
    check_same_classes,
    checkpoint_classes,
    has_fewer_classes,
    head_classes,
    report_classes_of_data,
)
from .distributed import init_distributed, multi_process_test, seed_everything, wrap_model
from .evaluation_checks import check_arguments, check_box_limit, check_evaluation


def build_trained_model(cfg, checkpoint_path, drop_router=False, trust_checkpoint=False, classes=None):
    """Build the model of a config in evaluation mode with the weights of a checkpoint.

    Where the data has fewer classes than the model, it detects these alone, and a line says so.

    Args:
        cfg (mmcv.Config): from `load_config`.
        checkpoint_path (str): weights of the same architecture; those of plain CMT also fit a model with AQR.
        drop_router (bool): see `load_weights`.
        trust_checkpoint (bool): see `read_checkpoint`.
        classes (Sequence[str] | None): those of the data that it will meet, `dataset.CLASSES`; None where it meets
            none.

    Returns:
        nn.Module: the detector, on CPU.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint` and `load_weights`; or checkpoint, head and data do not
            name the same classes in one order, but for those that the data lacks.
    """
    checkpoint = read_checkpoint(checkpoint_path, trusted=trust_checkpoint)
    model = build_model(cfg.model, train_cfg=None, test_cfg=cfg.get('test_cfg'))
    if cfg.get('fp16') is not None and torch.cuda.is_available():  # the CPU has no fp16 here: see the hook
        wrap_fp16_model(model)
    load_weights(model, checkpoint['state_dict'], checkpoint_path, router_missing_ok=True, drop_router=drop_router)
    trained = {checkpoint_path: checkpoint_classes(checkpoint)}
    check_same_classes({**trained, 'model.pts_bbox_head': head_classes(model)})
    report_classes_of_data(model, 'data.test', classes, trained)
    if trained[checkpoint_path] is not None:
        model.CLASSES = trained[checkpoint_path]
    return model.eval()


def results_folder(cfg):
    """Folder for what a test writes when no other is named: `results` in the work directory of a config.

    Args:
        cfg (mmcv.Config): from `load_config`.
    """
    return osp.join(cfg.get('work_dir') or osp.join('./work_dirs', Path(cfg.filename).stem), 'results')


def run_test(cfg, checkpoint_path, out=None, metrics=None, format_only=False, eval_options=None, fuse_bn=False,
             launcher='none', gpu_id=0, gpu_collect=False, tmpdir=None, seed=None, deterministic=False,
             drop_router=False, trust_checkpoint=False):
    """Run a checkpoint over `cfg.data.test`; write, format or evaluate the detections.

    Args:
        cfg (mmcv.Config): from `load_config`.
        checkpoint_path (str): see `build_trained_model`.
        out (str): pickle file for the detections, one entry a sample, with the `class_names` of their labels.
        metrics (list[str]): evaluate with these metrics.
        format_only (bool): only write the dataset's submission files, to `results_folder` unless `eval_options` name
            another `jsonfile_prefix`.
        eval_options (dict): further arguments of `dataset.evaluate` or `dataset.format_results`.
        fuse_bn (bool): merge BatchNorm into convolutions before running.
        launcher (str): see `init_distributed`.
        gpu_id (int): GPU of a single process.
        gpu_collect, tmpdir: see `multi_process_test`.
        seed, deterministic: see `seed_everything`.
        drop_router, trust_checkpoint: see `build_trained_model`.

    Returns:
        dict | None: the metrics, on rank 0 where asked for.

    Raises:
        FileNotFoundError, ValueError: before the first sample: arguments that the dataset does not take, samples that
            it cannot evaluate (`check_evaluation`), more boxes than it accepts, a checkpoint that does not fit, or one
            for other classes.
    """
    cfg = compat_cfg(cfg)
    setup_multi_processes(cfg)
    torch.backends.cudnn.benchmark = cfg.get('cudnn_benchmark', False)
    distributed = init_distributed(launcher, **cfg.get('dist_params', {}))
    seed_everything(seed, deterministic=deterministic)

    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    eval_options = _checked_options(cfg, dataset, metrics, format_only, eval_options or {})
    model = build_trained_model(cfg, checkpoint_path, drop_router, trust_checkpoint, dataset.CLASSES)
    if metrics or format_only:
        check_box_limit(dataset, *most_boxes(model))
    if fuse_bn:
        model = fuse_conv_bn(model)
    options = dict(samples_per_gpu=1, workers_per_gpu=2, dist=distributed, shuffle=False)
    loader = build_dataloader(dataset, **{**options, **cfg.data.get('test_dataloader', {})})
    if not hasattr(model, 'CLASSES'):
        model.CLASSES = dataset.CLASSES
    model = wrap_model(model, distributed, gpu_id)
    if distributed:
        detections = multi_process_test(model, loader, tmpdir, gpu_collect)
    else:
        detections = single_gpu_test(model, loader)
    return _finish(dataset, detections, out, metrics, format_only, eval_options) if get_dist_info()[0] == 0 else None


def most_boxes(model):
    """How many boxes a detector returns for a sample at most, None where it does not say, and the setting's name."""
    coder = getattr(getattr(model, 'pts_bbox_head', None), 'bbox_coder', None)
    return getattr(coder, 'max_num', None), 'model.pts_bbox_head.bbox_coder.max_num'


def evaluate_results(cfg, path, eval_options=None, trust_data=False):
    """Evaluate the detections that `run_test` wrote to a file.

    Args:
        cfg (mmcv.Config): from `load_config`; `cfg.data.test` must be the samples that were tested, in their order. It
            may have fewer classes than they were tested with.
        path (str): pickle file.
        eval_options (dict): further arguments of `dataset.evaluate`.
        trust_data (bool): read a file that holds more than boxes, tensors and plain values, which runs any code in it.

    Returns:
        dict: the metrics.

    Raises:
        FileNotFoundError: no such file, or see `check_evaluation`.
        ValueError: see `check_evaluation`; arguments that the dataset does not take; a file that cannot be read or may
            run code, without one entry with boxes for each sample, or with more boxes, labels or other classes than
            the dataset knows.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(f'no such file of detections: {path}')
    cfg = compat_cfg(cfg)
    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    options = _checked_options(cfg, dataset, ['bbox'], False, eval_options or {})
    detections = load_pickle(path, 'file of detections', trust_data, with_boxes=True, permission='--trust-data')
    check_results(dataset, detections, path)
    _fit_classes(dataset, detections, path)
    return _finish(dataset, detections, None, ['bbox'], False, options)


def check_results(dataset, detections, origin):
    """Raise ValueError where detections are not one entry with boxes for each sample of a dataset, or do not suit it.

    Args:
        dataset (Dataset): what evaluates.
        detections (list[dict]): `boxes_3d`, `scores_3d`, `labels_3d` and, where known, the `class_names` of these; or
            dicts of such.
        origin (str): where they come from, for the message.
    """
    if not isinstance(detections, list) or len(detections) != len(dataset):
        number = len(detections) if isinstance(detections, list) else f'a {type(detections).__name__} and not a list'
        raise ValueError(f'{origin} must have one entry for each of the {len(dataset)} samples of data.test, has '
                         f'{number}')
    for index, entry in enumerate(detections):
        entry = entry if isinstance(entry, dict) else {}
        parts = _parts(entry)
        if not parts or not all({'boxes_3d', 'scores_3d', 'labels_3d'} <= set(part) for part in parts):
            raise ValueError(f'{origin}: entry {index} has no boxes_3d, scores_3d and labels_3d, it has {list(entry)}')
        for part in parts:
            check_box_limit(dataset, len(part['boxes_3d']), f'{origin}: the number of boxes in entry {index}')
            labels, source = part['labels_3d'], 'its class_names are' if 'class_names' in part else 'data.test has'
            names = list(part.get('class_names', dataset.CLASSES))
            if len(labels) and not 0 <= int(min(labels)) <= int(max(labels)) < len(names):
                raise ValueError(f'{origin}: entry {index} has labels from {int(min(labels))} to {int(max(labels))}, '
                                 f'{source} the {len(names)} classes {names}')


def _parts(entry):
    """What has boxes in the detections of one sample: the dict itself or dicts in it."""
    if not isinstance(entry, dict):
        return []
    return [entry] if 'boxes_3d' in entry else [part for part in entry.values() if isinstance(part, dict)]


def _fit_classes(dataset, detections, origin):
    """Make labels positions among the classes of a dataset, which may have fewer; raises for other classes."""
    for part in (part for entry in detections for part in _parts(entry) if 'class_names' in part):
        own = list(part['class_names'])
        if not has_fewer_classes(dataset.CLASSES, own):
            check_same_classes({origin: own, 'data.test': dataset.CLASSES})
            continue
        keys = 'boxes_3d', 'scores_3d', 'labels_3d'
        part.update(zip(keys, select_classes(*(part[key] for key in keys), own, dataset.CLASSES)),
                    class_names=dataset.CLASSES)


def _checked_options(cfg, dataset, metrics, format_only, options):
    """Arguments of what the dataset will do with the detections; raises where it would refuse them."""
    if format_only:
        if 'jsonfile_prefix' in inspect.signature(dataset.format_results).parameters:
            options = {'jsonfile_prefix': results_folder(cfg), **options}
        check_arguments(dataset, 'format_results', options)
    if metrics:
        for_hook = {*inspect.signature(DistEvalHook).parameters, 'dynamic_intervals'}  # not for the dataset
        arguments = {key: value for key, value in cfg.get('evaluation', {}).items() if key not in for_hook}
        options = {**arguments, **options, 'metric': metrics}
        check_arguments(dataset, 'evaluate', options)
        left_out = check_evaluation(dataset)
        if left_out and get_dist_info()[0] == 0:
            print(f'Note: the evaluation will be on {left_out}')
    return options


def _finish(dataset, detections, out, metrics, format_only, eval_options):
    """Write, format or evaluate detections; returns the metrics, None where not asked for."""
    if out is not None:
        names = list(dataset.CLASSES)
        for part in (part for entry in detections for part in _parts(entry) if 'boxes_3d' in part):
            part['class_names'] = names
        with atomic_path(out) as temporary:
            mmcv.dump(detections, str(temporary))
        print(f'\nwrote {len(detections)} results to {out}')
    if format_only:
        dataset.format_results(detections, **eval_options)
        print(f'\nwrote the files of a submission, {len(detections)} samples: '
              f'{eval_options.get("jsonfile_prefix", "where the dataset says")}')
    if metrics:
        result = dataset.evaluate(detections, **eval_options)
        print('\n' + '\n'.join(f'{key}: {value}' for key, value in result.items()))
        return result
    return None
