"""Testing: the detections of a checkpoint on a dataset, their evaluation and their files."""
import inspect

import mmcv
import torch
from mmcv.cnn import fuse_conv_bn
from mmcv.runner import DistEvalHook, get_dist_info, wrap_fp16_model
from mmdet.apis import single_gpu_test
from mmdet.datasets import build_dataloader
from mmdet.utils import compat_cfg, setup_multi_processes
from mmdet3d.datasets import NuScenesDataset, build_dataset
from mmdet3d.models import build_model

from ..datasets import FrameFolderDataset
from ..utils.atomic_file import atomic_path
from .checkpoint import load_weights, read_checkpoint
from .distributed import init_distributed, multi_process_test, seed_everything, wrap_model


def build_trained_model(cfg, checkpoint_path, drop_router=False, trust_checkpoint=False):
    """Build the model of a config in evaluation mode with the weights of a checkpoint.

    Args:
        cfg (mmcv.Config): from `load_config`.
        checkpoint_path (str): weights of the same architecture; those of plain CMT also fit a model with AQR.
        drop_router (bool): see `load_weights`.
        trust_checkpoint (bool): see `read_checkpoint`.

    Returns:
        nn.Module: the detector, on CPU.
    """
    checkpoint = read_checkpoint(checkpoint_path, trusted=trust_checkpoint)
    model = build_model(cfg.model, train_cfg=None, test_cfg=cfg.get('test_cfg'))
    if cfg.get('fp16') is not None:
        wrap_fp16_model(model)
    load_weights(model, checkpoint['state_dict'], checkpoint_path, router_missing_ok=True, drop_router=drop_router)
    classes = (checkpoint.get('meta') or {}).get('CLASSES')
    if classes is not None:
        model.CLASSES = classes
    return model.eval()


def check_arguments(dataset, method, arguments):
    """Raise ValueError where a method of a dataset would refuse its arguments: before the detections, not after hours.

    Args:
        dataset (Dataset): what evaluates or formats.
        method (str): 'evaluate' or 'format_results'.
        arguments (dict): all but the detections; `metric` is checked where the dataset is known to have but one.
    """
    name = f'{type(dataset).__name__}.{method}'
    try:
        inspect.signature(getattr(dataset, method)).bind(None, **arguments)
    except TypeError as error:
        raise ValueError(f'{name} does not take {arguments} (from evaluation in the config and from --eval-options): '
                         f'{error}') from error
    metric = arguments.get('metric', 'bbox')
    if isinstance(dataset, (NuScenesDataset, FrameFolderDataset)) and metric not in ('bbox', ['bbox']):
        raise ValueError(f"{name}: metric must be 'bbox', got {metric!r}")


def run_test(cfg, checkpoint_path, out=None, metrics=None, format_only=False, eval_options=None, fuse_bn=False,
             launcher='none', gpu_id=0, gpu_collect=False, tmpdir=None, seed=None, deterministic=False,
             drop_router=False, trust_checkpoint=False):
    """Run a checkpoint over `cfg.data.test`; write, format or evaluate the detections.

    Args:
        cfg (mmcv.Config): from `load_config`.
        checkpoint_path (str): see `build_trained_model`.
        out (str): pickle file for the detections, one entry a sample.
        metrics (list[str]): evaluate with these metrics.
        format_only (bool): only write the dataset's submission files.
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
        ValueError: arguments that the dataset does not take (before it runs), or a checkpoint that does not fit.
    """
    cfg = compat_cfg(cfg)
    setup_multi_processes(cfg)
    torch.backends.cudnn.benchmark = cfg.get('cudnn_benchmark', False)
    distributed = init_distributed(launcher, **cfg.get('dist_params', {}))
    seed_everything(seed, deterministic=deterministic)

    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    eval_options = _checked_options(cfg, dataset, metrics, format_only, eval_options or {})
    model = build_trained_model(cfg, checkpoint_path, drop_router, trust_checkpoint)
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


def _checked_options(cfg, dataset, metrics, format_only, options):
    """Arguments of what the dataset will do with the detections; raises where it would refuse them."""
    if format_only:
        check_arguments(dataset, 'format_results', options)
    if metrics:
        for_hook = {*inspect.signature(DistEvalHook).parameters, 'dynamic_intervals'}  # not for the dataset
        arguments = {key: value for key, value in cfg.get('evaluation', {}).items() if key not in for_hook}
        options = {**arguments, **options, 'metric': metrics}
        check_arguments(dataset, 'evaluate', options)
    return options


def _finish(dataset, detections, out, metrics, format_only, eval_options):
    """Write, format or evaluate detections; returns the metrics, None where not asked for."""
    if out is not None:
        with atomic_path(out) as temporary:
            mmcv.dump(detections, str(temporary))
        print(f'\nwrote {len(detections)} results to {out}')
    if format_only:
        dataset.format_results(detections, **eval_options)
    if metrics:
        result = dataset.evaluate(detections, **eval_options)
        print('\n' + '\n'.join(f'{key}: {value}' for key, value in result.items()))
        return result
    return None
