"""Testing: the detections of a checkpoint on a dataset, their evaluation and their files."""
import inspect
import os.path as osp
from pathlib import Path

import torch
from mmcv.cnn import fuse_conv_bn
from mmcv.runner import DistEvalHook, get_dist_info, wrap_fp16_model
from mmdet.apis import single_gpu_test
from mmdet.datasets import build_dataloader
from mmdet.utils import compat_cfg, setup_multi_processes
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model

from ..utils.atomic_file import check_destination
from .checkpoint import load_weights, read_checkpoint
from .class_names import (
    check_same_classes,
    checkpoint_classes,
    head_classes,
    report_classes_of_data,
)
from .distributed import init_distributed, multi_process_test, seed_everything, wrap_model
from .evaluation_checks import check_arguments, check_box_limit, check_evaluation
from .stored_results import load_results, write_results


def build_trained_model(cfg, checkpoint_path, drop_router=False, trust_checkpoint=False, classes=None,
                        new_router=False):
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
    load_weights(model, checkpoint['state_dict'], checkpoint_path, router_missing_ok=True, drop_router=drop_router,
                 new_router=new_router)
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
        OSError, ValueError: before the first sample: arguments that the dataset does not take, samples that it cannot
            evaluate (`check_evaluation`), more boxes than it accepts, a checkpoint that does not fit, or one for other
            classes, files that could not be written.
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
    if get_dist_info()[0] == 0:
        _check_destinations(out, eval_options)
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
        ValueError: see `check_evaluation` and `load_results`; arguments that the dataset does not take.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(f'no such file of detections: {path}')
    cfg = compat_cfg(cfg)
    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    options = _checked_options(cfg, dataset, ['bbox'], False, eval_options or {})
    detections = load_results(dataset, path, trust_data)
    return _finish(dataset, detections, None, ['bbox'], False, options)


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


def _check_destinations(out, options):
    """Raise OSError where the files of a test could not be written after it."""
    if out is not None:
        check_destination(out)
    if options.get('jsonfile_prefix') is not None:
        check_destination(osp.join(options['jsonfile_prefix'], 'results'))  # a folder for nuScenes


def _finish(dataset, detections, out, metrics, format_only, eval_options):
    """Write, format or evaluate detections; returns the metrics, None where not asked for."""
    if out is not None:
        write_results(dataset, detections, out)
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
