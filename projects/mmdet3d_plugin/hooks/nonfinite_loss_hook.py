"""A loss that is not finite: training stops, or goes on without the step that would use it."""
import math

import torch
import torch.distributed as dist
from mmcv.parallel import DataContainer
from mmcv.runner import HOOKS, GradientCumulativeOptimizerHook, Hook

from .bare_model import bare_model, optimizers


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Name the samples of a batch whose loss is NaN or infinite; stop, or skip its step.

    It watches the optimizer's step, so it needs no place of its own among the hooks. A skipped step leaves weights and
    optimizer as they are. Distributed processes decide alike.

    Args:
        action (str): 'stop' raises; 'skip' goes on without the step that would use the loss. Mixed precision, where
            overflows are normal, needs 'skip'.
        max_skips (int): 'skip' stops when more steps than this are skipped in a row.

    Raises:
        ValueError: for arguments that are not as said.
        FloatingPointError: see ``action``; also where statistics of the model (BatchNorm) have become NaN or infinite,
            for no later step could be right.
    """

    def __init__(self, action='stop', max_skips=10):
        if action not in ('stop', 'skip'):
            raise ValueError(f"action must be 'stop' or 'skip', got {action!r}")
        if not isinstance(max_skips, int) or isinstance(max_skips, bool) or max_skips < 0:
            raise ValueError(f'max_skips must be an integer >= 0, got {max_skips!r}')
        self.action = action
        self.max_skips = max_skips
        self._accumulates = False
        self._reported = None  # the last iteration whose loss was not finite
        self._spoiled = False  # gradients may still hold that loss: they accumulate, or a loss scaler refused the step
        self._skips = 0

    def before_run(self, runner):
        self._accumulates = any(isinstance(hook, GradientCumulativeOptimizerHook) for hook in runner.hooks)
        for optimizer in optimizers(runner):
            optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: self._before_step(runner, optimizer))

    def _before_step(self, runner, optimizer):
        """Clipped gradients are there, weights are still those of the forward pass."""
        self._check_loss(runner)
        is_spoiled = self._reported == runner.iter or (
            self._spoiled and (self._accumulates or not _gradients_are_finite(runner)))
        self._spoiled = False
        if is_spoiled:
            optimizer.zero_grad(set_to_none=True)  # then the step moves nothing, momentum and decay included

    def after_train_iter(self, runner):
        self._check_loss(runner)  # where no step was made
        if self._reported != runner.iter:
            self._skips = 0

    def _check_loss(self, runner):
        """In `log_vars` mmdet has averaged over all processes: they agree."""
        if not math.isfinite(runner.outputs['log_vars']['loss']) and self._reported != runner.iter:
            self._reported, self._spoiled = runner.iter, True
            self._report(runner)

    def _report(self, runner):
        """A loss is not finite: say where, and stop if that was asked for or goes on."""
        losses = [name for name, value in runner.outputs['log_vars'].items() if not math.isfinite(value)]
        samples = [] if torch.isfinite(runner.outputs['loss']).all() else _sample_names(runner)
        broken = [name for name, buffer in bare_model(runner).named_buffers()
                  if buffer.is_floating_point() and not torch.isfinite(buffer).all()]
        found = [(samples, broken)] * runner.world_size
        if runner.world_size > 1:
            dist.all_gather_object(found, (samples, broken))
        samples, broken = ([name for own in part for name in own] for part in zip(*found))
        message = f'iteration {runner.iter + 1}: not finite: {", ".join(losses)}; samples {", ".join(samples)}'
        if self.action == 'stop':
            raise FloatingPointError(f"{message} (NonFiniteLossHook(action='skip') goes on without them)")
        self._skips += 1
        runner.logger.error('%s; the step is skipped, %d in a row', message, self._skips)
        if self._skips > self.max_skips:
            raise FloatingPointError(f'{message}; more than max_skips={self.max_skips} steps in a row were skipped')
        if broken:
            raise FloatingPointError(f'{message}; statistics of the model are not finite any more, so that no later '
                                     f'step could be right: {", ".join(dict.fromkeys(broken))}')


def _gradients_are_finite(runner):
    return all(torch.isfinite(parameter.grad).all() for parameter in bare_model(runner).parameters()
               if parameter.grad is not None)


def _sample_names(runner):
    """list[str]: tokens of the batch's samples."""
    metas = runner.data_batch['img_metas']
    metas = metas.data if isinstance(metas, DataContainer) else metas
    while metas and isinstance(metas[0], (list, tuple)):
        metas = [meta for group in metas for meta in group]
    return [str(meta.get('sample_idx', meta)) for meta in metas]
