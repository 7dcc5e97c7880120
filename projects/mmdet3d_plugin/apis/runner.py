"""The epoch-based runner of the training tools: checkpoints are written atomically, read safely, resumed strictly."""
import copy
import math
import os.path as osp

from mmcv.fileio import FileClient
from mmcv.parallel import is_module_wrapper
from mmcv.runner import HOOKS, RUNNERS, EMAHook, EpochBasedRunner, TextLoggerHook
from mmdet.core.hook.ema import BaseEMAHook

from ..utils.atomic_file import atomic_path, atomic_symlink
from ..utils.plain_values import plain_values
from .checkpoint import averaging_keys, check_resumable, load_pretrained, load_weights, read_checkpoint
from .class_names import check_same_classes, checkpoint_classes

EMA_HOOKS = (EMAHook, BaseEMAHook)


@HOOKS.register_module()
class StrictJsonLoggerHook(TextLoggerHook):
    """`TextLoggerHook` whose .log.json is valid JSON: numbers that JSON lacks (NaN, infinity) become null."""

    def _round_float(self, items):
        if isinstance(items, float) and not math.isfinite(items):
            return None
        return super()._round_float(items)


@RUNNERS.register_module()
class CheckpointSafeRunner(EpochBasedRunner):
    """`EpochBasedRunner` whose checkpoints survive a kill at any moment and whose resumption leaves nothing out.

    Args:
        trust_checkpoint (bool): read checkpoints that hold arbitrary Python objects.
        **kwargs: see `mmcv.runner.EpochBasedRunner`.
    """

    def __init__(self, *args, trust_checkpoint=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.trust_checkpoint = trust_checkpoint
        self.meta = {**(self.meta or {}), 'world_size': self.world_size}
        self._num_steps = 0
        for optimizer in self.optimizer.values() if isinstance(self.optimizer, dict) else [self.optimizer]:
            if optimizer is not None:
                optimizer.register_step_post_hook(self._count_step)

    def _count_step(self, optimizer, args, kwargs):
        # A hook that refuses a step takes the gradients away: then the step moves nothing.
        self._num_steps += any(parameter.grad is not None
                               for group in optimizer.param_groups for parameter in group['params'])

    def run(self, *args, **kwargs):
        """As mmcv's.

        Raises:
            RuntimeError: at the end of a training in which no step of the optimizer changed anything.
        """
        first = self.iter
        super().run(*args, **kwargs)
        if self.iter > first and self.optimizer is not None and self._num_steps == 0:
            raise RuntimeError(f'the optimizer made no step in {self.iter - first} iterations, so the weights are '
                               'those of the start: all losses or gradients were NaN or infinite, see the log')

    def call_hook(self, fn_name):
        super().call_hook(fn_name)
        if fn_name == 'before_train_epoch':
            self.model.train()  # EvalHook(start=...) may have evaluated, which leaves the model in evaluation mode

    def register_logger_hooks(self, log_config):
        """As mmcv's, with `StrictJsonLoggerHook` for `TextLoggerHook`."""
        log_config = copy.deepcopy(log_config)
        for hook in (log_config or {}).get('hooks', []):
            if hook['type'] == TextLoggerHook.__name__:
                hook['type'] = StrictJsonLoggerHook.__name__
        super().register_logger_hooks(log_config)

    def _classes(self):
        return getattr(self.model.module if is_module_wrapper(self.model) else self.model, 'CLASSES', None)

    def save_checkpoint(self,
                        out_dir,
                        filename_tmpl='epoch_{}.pth',
                        save_optimizer=True,
                        meta=None,
                        create_symlink=True):
        """As mmcv's, but the file and the link `latest.pth` appear whole or not at all; `meta` becomes plain values."""
        meta, self.meta = plain_values(meta or {}), plain_values(self.meta)  # a best score is often a numpy number
        if FileClient.parse_uri_prefix(out_dir) is not None:  # object stores write whole objects by themselves
            super().save_checkpoint(out_dir, filename_tmpl, save_optimizer, meta, create_symlink)
            return
        filename = filename_tmpl.format(self.epoch + 1)
        with atomic_path(osp.join(out_dir, filename)) as temporary:  # names with a slash lie in a folder
            super().save_checkpoint(str(temporary.parent), temporary.name, save_optimizer, meta, create_symlink=False)
        if create_symlink:
            atomic_symlink(filename, osp.join(out_dir, 'latest.pth'))

    def load_checkpoint(self, filename, map_location='cpu'):
        """Start from the weights of a checkpoint (`load_from`), see `load_pretrained`.

        Raises:
            FileNotFoundError, ValueError: see `read_checkpoint` and `load_pretrained`.
        """
        checkpoint = read_checkpoint(filename, map_location, self.trust_checkpoint)
        try:
            check_same_classes({filename: checkpoint_classes(checkpoint), 'data.train': self._classes()})
        except ValueError as difference:  # a start for other classes is usual, that of the same size goes unnoticed
            self.logger.warning(f'load_from: {difference}; weights of the classes are loaded where shapes fit')
        load_pretrained(self.model, checkpoint['state_dict'], filename, self.logger)
        return checkpoint

    def resume(self, checkpoint, resume_optimizer=True, map_location='cpu'):
        """Go on where a checkpoint was written: weights, optimizer, counters, messages of hooks, RNG states.

        Unlike mmcv's, it demands weights that fit exactly, does not execute the config text stored in the file, and
        keeps this run's own config and environment in `meta`.

        Args:
            checkpoint (str): path of the file.
            resume_optimizer (bool): restore the optimizer's state as well.
            map_location: see `torch.load`; optimizers move their state to the device of their parameters.

        A checkpoint of an EMA hook is read once more when that hook has made its copies of the weights, in its
        `before_run`; without such a hook training goes on from the averaged weights.

        Raises:
            FileNotFoundError, ValueError: see `read_checkpoint` and `load_weights`; or the file was not written while
                training, or for other classes.
        """
        path, checkpoint = checkpoint, read_checkpoint(checkpoint, map_location, self.trust_checkpoint)
        check_resumable(checkpoint, path, resume_optimizer and self.optimizer is not None)
        check_same_classes({path: checkpoint_classes(checkpoint), 'data.train': self._classes()})
        load_weights(self.model, checkpoint['state_dict'], path, logger=self.logger)
        if averaging_keys(checkpoint['state_dict']):
            for hook in self.hooks:
                if isinstance(hook, EMA_HOOKS):
                    hook.checkpoint = hook.checkpoint or path
        if resume_optimizer and isinstance(self.optimizer, dict):
            for name, optimizer in self.optimizer.items():
                _load_optimizer(optimizer, checkpoint['optimizer'][name], path)
        elif resume_optimizer and self.optimizer is not None:
            _load_optimizer(self.optimizer, checkpoint['optimizer'], path)

        meta = checkpoint['meta']
        self._epoch, self._iter = meta['epoch'], meta['iter']
        previous_world_size = meta.get('world_size', self.world_size)
        if previous_world_size != self.world_size:  # the same epoch has another number of iterations
            self._iter = self._iter * previous_world_size // self.world_size
            self.logger.info(f'{path} was written by {previous_world_size} processes, now {self.world_size}: '
                             f'iteration {meta["iter"]} becomes {self._iter}')
        self.meta = {**meta, **self.meta, 'hook_msgs': meta.get('hook_msgs', {})}
        self.logger.info(f'resumed from {path}: epoch {self.epoch}, iteration {self.iter}')


def _load_optimizer(optimizer, state, path):
    """Restore an optimizer's state; ValueError where it is of another optimizer or of other groups of parameters."""
    advice = 'to start a new training from its weights use --cfg-options load_from=FILE'
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise ValueError(f'{path} cannot be resumed from with this optimizer, which has other groups of parameters '
                         f'({error}): optimizer and paramwise_cfg must be those of then; {advice}') from error
    missing = sorted({key for group in optimizer.param_groups for key in set(optimizer.defaults) - set(group)})
    if missing:  # versions of torch differ in keys, but fill in those that older ones lack
        raise ValueError(f'{path} cannot be resumed from with {type(optimizer).__name__}: the optimizer that it was '
                         f'written with has no {missing}; {advice}')
