"""Training: from a config to checkpoints and logs, on CUDA or CPU, in one process or several."""
import copy
import os.path as osp
import random
import time
from contextlib import nullcontext
from functools import partial

import mmdet
import mmdet3d
import mmseg
import numpy as np
import torch
from mmcv.runner import DistSamplerSeedHook, build_optimizer, build_runner, get_dist_info
from mmdet.apis.train import auto_scale_lr
from mmdet.core import DistEvalHook, EvalHook
from mmdet.datasets import build_dataloader
from mmdet.utils import compat_cfg, get_root_logger, setup_multi_processes
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model
from mmdet3d.utils import collect_env

from ..hooks.fp16_optimizer_hook import CustomFp16OptimizerHook
from ..utils.atomic_file import atomic_path
from ..utils.postponed_log import PostponedLog
from ..utils.run_lock import run_lock
from .class_names import check_same_classes, head_classes, report_classes_of_data
from .distributed import check_gpu_collect, default_device, init_distributed, seed_everything, wrap_model
from .evaluation_checks import check_arguments, check_best_metric, check_box_limit, check_evaluation
from .latest_checkpoint import checkpoint_folder, find_checkpoint
from .runner import CheckpointSafeRunner
from .test import most_boxes
from .training_checks import check_ground_truth, check_training_settings, rare_checkpoints


def train_detector(cfg, name, launcher='none', seed=None, diff_seed=False, deterministic=False, validate=True,
                   trust_checkpoint=False):
    """Train the model of a config and write config, logs and checkpoints to its work directory.

    A checkpoint to resume from that has all epochs leaves nothing to train: one line says so, and nothing is written.

    Args:
        cfg (mmcv.Config): from `load_config`; `cfg.work_dir` defaults to ./work_dirs/<name>, `cfg.gpu_ids` to [0].
        name (str): file name of the config, for the work directory and the logs.
        launcher (str): see `init_distributed`.
        seed, diff_seed, deterministic: see `seed_everything`.
        validate (bool): evaluate during training as `cfg.evaluation` says.
        trust_checkpoint (bool): see `read_checkpoint`.

    Raises:
        FileNotFoundError: a checkpoint to start from does not exist.
        ValueError: settings that contradict one another or that cannot be served, a checkpoint that does not fit.
            Nothing has been written then.
        RuntimeError: another training runs in the work directory; or, at the end, no step of the optimizer was made.
    """
    cfg = _consistent_config(cfg)
    setup_multi_processes(cfg)
    torch.backends.cudnn.benchmark = cfg.get('cudnn_benchmark', False)
    cfg.work_dir = cfg.work_dir or osp.join('./work_dirs', osp.splitext(name)[0])
    start_from = _starting_checkpoint(cfg)

    distributed = init_distributed(launcher, **cfg.get('dist_params', {}))
    cfg.device = default_device()
    if distributed:
        cfg.gpu_ids = list(range(get_dist_info()[1]))
    cfg.seed = seed_everything(seed, diff_seed, deterministic)
    evaluation = _build_evaluation(cfg, distributed) if validate else None
    model = build_model(cfg.model, train_cfg=cfg.get('train_cfg'), test_cfg=cfg.get('test_cfg'))
    datasets = _build_datasets(cfg)
    _fit_classes(model, datasets, evaluation)

    timestamp = time.strftime('%Y%m%d_%H%M%S', time.localtime())
    logger = get_root_logger(log_level=cfg.get('log_level', 'INFO'))
    with PostponedLog(logger, osp.join(cfg.work_dir, f'{timestamp}.log')) as log:
        run = _new_run(cfg, name, model, evaluation, distributed, trust_checkpoint, logger, timestamp)
        if run.epoch >= run.max_epochs:
            logger.info(f'nothing was left to train: {start_from} has {run.epoch} of {run.max_epochs} epochs')
            return
        loaders = [build_train_loader(dataset, cfg, distributed, logger) for dataset in datasets]
        with run_lock(cfg.work_dir) if get_dist_info()[0] == 0 else nullcontext():
            if get_dist_info()[0] == 0:
                log.create_file()
                with atomic_path(osp.join(cfg.work_dir, name)) as temporary:
                    cfg.dump(str(temporary))
            run.work_dir = osp.abspath(cfg.work_dir)
            logger.info(f'Environment:\n{run.meta["env_info"]}')
            logger.info(f'Config:\n{cfg.pretty_text}')
            logger.info(f'Processes: {get_dist_info()[1]}, device: {cfg.device}, seed: {cfg.seed}, '
                        f'deterministic: {deterministic}')
            logger.info(f'Model:\n{model}')
            # Models of one seed see the same data and augmentation, however many numbers their initialization drew.
            seed_everything(cfg.seed, diff_seed, deterministic)
            run.run(loaders, cfg.workflow)


def _fit_classes(model, datasets, evaluation):
    """Check that model and data have the same classes; data to evaluate on may have fewer."""
    model.CLASSES = datasets[0].CLASSES
    check_same_classes({'data.train': model.CLASSES, 'model.pts_bbox_head': head_classes(model)})
    for dataset in datasets[1:]:  # labels of losses are positions among all classes
        check_same_classes({'data.train': model.CLASSES, 'data.val': dataset.CLASSES})
    if evaluation is not None:
        dataset = evaluation.dataloader.dataset
        report_classes_of_data(model, 'data.val', dataset.CLASSES, {'data.train': model.CLASSES})
        check_box_limit(dataset, *most_boxes(model))


def _new_run(cfg, name, model, evaluation, distributed, trust_checkpoint, logger, timestamp):
    """The runner of an initialized model, with the weights and the state that it starts from; writes nothing."""
    left_out = check_evaluation(evaluation.dataloader.dataset) if evaluation is not None else ''
    if left_out:
        logger.info(f'evaluations will be on {left_out}')
    if cfg.get('auto_resume') and not cfg.resume_from:
        logger.info(f'auto_resume: no checkpoint in {checkpoint_folder(cfg)}, training starts anew')
    rare = rare_checkpoints(cfg)
    if rare:
        logger.warning(rare)
    model.init_weights()
    environment = '\n'.join(f'{key}: {value}' for key, value in collect_env().items())
    run = _build_runner(cfg, model, distributed, trust_checkpoint, logger, timestamp, meta=dict(
        env_info=environment, config=cfg.pretty_text, seed=cfg.seed, exp_name=name))
    if evaluation is not None:
        run.register_hook(evaluation, priority='LOW')
    if cfg.resume_from:
        run.resume(cfg.resume_from)
    elif cfg.load_from:
        run.load_checkpoint(cfg.load_from)
    elif cfg.model.get('train_only') is not None:
        logger.warning(f'model.train_only={cfg.model.train_only} without load_from or resume_from: all other weights '
                       'are frozen as initialized, that is, mostly at random')
    return run


def _starting_checkpoint(cfg):
    """Path or address of the checkpoint that training starts or goes on from, None for none; sets `cfg.resume_from`."""
    if cfg.resume_from is None and cfg.get('auto_resume'):
        cfg.resume_from = find_checkpoint(cfg)
    start_from = cfg.resume_from or cfg.load_from
    if start_from and '://' not in start_from and not osp.isfile(start_from):
        option = 'resume_from' if cfg.resume_from else 'load_from'
        origin = ('' if not start_from.startswith('ckpts/') else
                  '. CMT publishes its checkpoints and pretrained backbones: https://github.com/junjie18/CMT')
        raise FileNotFoundError(f'{option}: no such checkpoint: {start_from} (--cfg-options {option}=None for none)'
                                f'{origin}')
    return start_from


def _consistent_config(cfg):
    """A copy of the config in mmdet's current form; contradictions raise."""
    cfg = copy.deepcopy(cfg)
    runner = dict(cfg.get('runner') or {})
    runner.setdefault('type', 'EpochBasedRunner')
    max_epochs = runner.setdefault('max_epochs', cfg.get('total_epochs'))
    if max_epochs is None or cfg.get('total_epochs', max_epochs) != max_epochs:
        raise ValueError('the number of epochs must be given by total_epochs, by runner.max_epochs or by both alike; '
                         f'got total_epochs={cfg.get("total_epochs")} and runner.max_epochs={max_epochs}')
    cfg.runner = runner
    cfg = compat_cfg(cfg)
    if cfg.runner.type not in ('EpochBasedRunner', CheckpointSafeRunner.__name__):
        raise ValueError(f'runner.type must be EpochBasedRunner, got {cfg.runner.type!r}')
    cfg.setdefault('gpu_ids', [0])
    check_training_settings(cfg)
    return cfg


def _build_datasets(cfg):
    """Data of each entry of the workflow."""
    try:
        datasets = [build_dataset(cfg.data.train)]
    except ZeroDivisionError as error:  # mmdet3d's class-balanced sampling divides by the boxes of each class
        raise ValueError('data.train: CBGSDataset needs boxes of all of its classes, and some have none') from error
    check_ground_truth(datasets[0], 'data.train')
    if len(cfg.workflow) == 2:  # losses on validation data: they need the training pipeline and its annotations
        train_cfg = cfg.data.train
        while 'dataset' in train_cfg:
            train_cfg = train_cfg.dataset
        datasets.append(build_dataset({**cfg.data.val, 'pipeline': train_cfg.pipeline, 'test_mode': False}))
    return datasets


def _build_runner(cfg, model, distributed, trust_checkpoint, logger, timestamp, meta):
    cfg = copy.deepcopy(cfg)  # scaling changes it, registering takes it apart; the run keeps it as it was given
    model = wrap_model(model, distributed, cfg.gpu_ids[0], cfg.get('find_unused_parameters', False))
    auto_scale_lr(cfg, distributed, logger)
    runner = build_runner(
        {**cfg.runner, 'type': CheckpointSafeRunner.__name__},
        dict(
            model=model,
            optimizer=build_optimizer(model, cfg.optimizer),
            work_dir=None,  # the runner would create it
            logger=logger,
            meta=meta,
            trust_checkpoint=trust_checkpoint))
    runner.timestamp = timestamp  # text and JSON log get the same name

    optimizer_config = cfg.optimizer_config
    if cfg.get('fp16') is not None:
        if 'type' in optimizer_config:
            raise ValueError(f'fp16 and optimizer_config.type={optimizer_config.type!r} exclude each other: leave out '
                             'fp16, and set what it has (loss_scale) in optimizer_config')
        optimizer_config = CustomFp16OptimizerHook(**optimizer_config, **cfg.fp16, distributed=distributed)
    checkpoint_config = cfg.checkpoint_config
    if checkpoint_config is not None:
        checkpoint_config['meta'] = dict(
            mmdet_version=mmdet.__version__, mmseg_version=mmseg.__version__, mmdet3d_version=mmdet3d.__version__)
    runner.register_training_hooks(
        cfg.lr_config, optimizer_config, checkpoint_config, cfg.log_config, cfg.get('momentum_config'),
        custom_hooks_config=cfg.get('custom_hooks'))
    runner.register_hook_from_cfg(dict(type='TransformEpochHook'))
    runner.register_hook_from_cfg(dict(type='RNGStateHook', priority='LOWEST'))
    if distributed:
        runner.register_hook(DistSamplerSeedHook())
    return runner


def build_train_loader(dataset, cfg, distributed, logger):
    options = {
        **dict(samples_per_gpu=2, workers_per_gpu=2, num_gpus=1, dist=distributed, seed=cfg.seed),
        **cfg.data.get('train_dataloader', {})
    }
    if options.get('persistent_workers'):
        logger.warning('persistent_workers=True: random states of workers outlive an epoch and cannot be saved; '
                       'a resumed run will not repeat the interrupted one exactly')
    loader = build_dataloader(dataset, **options)
    if not len(loader):
        raise ValueError('data.train: there is no sample to train on')
    # mmdet seeds workers alike at every epoch, which repeats the augmentation of each epoch in the next one.
    loader.worker_init_fn = partial(seed_worker, rank=get_dist_info()[0])
    return loader


def seed_worker(worker_id, rank):
    """Tell the workers of different processes apart; torch has seeded them by epoch and `worker_id` already."""
    words = np.random.SeedSequence([torch.initial_seed(), rank]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


def _build_evaluation(cfg, distributed):
    """The hook that evaluates during training, its arguments checked."""
    dataset = build_dataset(cfg.data.val, dict(test_mode=True))
    options = dict(samples_per_gpu=1, workers_per_gpu=2, dist=distributed, shuffle=False)
    loader = build_dataloader(dataset, **{**options, **cfg.data.get('val_dataloader', {})})
    evaluation = cfg.get('evaluation', {})
    check_gpu_collect(evaluation.get('gpu_collect', False))
    known = EvalHook._default_greater_keys
    evaluation = {'greater_keys': [*known, 'NDS', 'recall'], 'less_keys': [*EvalHook._default_less_keys, 'error'],
                  **evaluation}
    hook = (DistEvalHook if distributed else EvalHook)(loader, by_epoch=True, **evaluation)
    check_arguments(dataset, 'evaluate', {'logger': None, **hook.eval_kwargs})
    check_best_metric(dataset, evaluation.get('save_best'), evaluation.get('result_names', ('pts_bbox', )))
    return hook
