"""Training seen from inside: what the router decides, what attention looks at, gradients, unusable losses."""
import math

import numpy as np
import torch
import torch.distributed as dist
from mmcv.parallel import DataContainer
from mmcv.runner import HOOKS, GradientCumulativeOptimizerHook, Hook, LoggerHook, TensorboardLoggerHook

from ..models.utils.token_layout import MODALITIES
from ..models.utils.transformer.attention_recorder import AttentionRecorder
from .bare_model import bare_model

# Part of the model -> how the names of its parameters begin; the first that fits counts.
_PARTS = dict(router='pts_bbox_head.aqr_', head='pts_bbox_head.', lidar='pts_', camera='img_',
              auxiliary='auxiliary_heads.')
_SATURATED = 0.02  # a weight is, if nearer than this to 0 or 1
_BINS = 10  # of the histograms in the text log


@HOOKS.register_module()
class AQRMonitorHook(Hook):
    """Log numbers of the router, the cross-attention and the gradients; warn; stop or skip where a loss is not finite.

    At the first iteration that is logged after ``interval`` others, the loggers get beside the losses, of the batch at
    hand (in distributed training that of the first process)

    - ``aqr/lidar_weight_mean``, ``_std``, the same of ``camera``: over the learned queries, whose histograms go to
      TensorBoard and, as percentages by tenths, to the text log;
    - ``aqr/bias_min``, ``aqr/bias_max``, and ``aqr/clipped``, the share of weights whose bias is clipped;
    - ``aqr/no_view``: share of learned queries that no view sees;
    - ``aqr/head_strength_min``, ``_max`` with ``aqr_strength_per_head``;
    - ``attention/entropy_0`` in nats and ``attention/lidar_0``, the LiDAR tokens' share (the cameras have the rest), of
      layer 0 and so on, means over ``num_queries`` learned queries, drawn anew each time;
    - ``grad_norm/router``, ``/head``, ``/lidar``, ``/camera``: 2-norms before clipping, of parts that get gradients;
      where these accumulate, of the last step looked at.

    It watches the optimizer's step, so it needs no place of its own among the hooks. A model without router has no
    ``aqr/`` numbers.

    Args:
        interval (int): iterations, >= 1.
        num_queries (int): at most so many queries are sampled for the attention, >= 1.
        nonfinite_loss (str): 'stop' raises; 'skip' names the samples and goes on without the step that would use the
            loss: weights and optimizer stay as they are. Mixed precision, where overflows are normal, needs 'skip'.
        max_skips (int): 'skip' stops after more than so many skips in a row.
        saturated_share (float): warn where a larger share of queries has a weight below 0.02 or above 0.98.
        min_entropy (float): warn where the mean entropy of a layer's attention, in nats, is less.

    Raises:
        ValueError: for arguments that are not as said; before the run, for a model without CMT's head.
        FloatingPointError: see ``nonfinite_loss``; also where statistics of the model (BatchNorm) have become NaN or
            infinite, for no later step could be right.
    """

    def __init__(self, interval=50, num_queries=64, nonfinite_loss='stop', max_skips=10, saturated_share=0.9,
                 min_entropy=0.5):
        for name, number, least in (('interval', interval, 1), ('num_queries', num_queries, 1),
                                    ('max_skips', max_skips, 0)):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise ValueError(f'{name} must be an integer >= {least}, got {number!r}')
        if nonfinite_loss not in ('stop', 'skip'):
            raise ValueError(f"nonfinite_loss must be 'stop' or 'skip', got {nonfinite_loss!r}")
        if not 0 < saturated_share <= 1:
            raise ValueError(f'saturated_share must lie in (0, 1], got {saturated_share!r}')
        if not min_entropy >= 0:
            raise ValueError(f'min_entropy must be >= 0, got {min_entropy!r}')
        self.interval = interval
        self.num_queries = num_queries
        self.nonfinite_loss = nonfinite_loss
        self.max_skips = max_skips
        self.saturated_share = saturated_share
        self.min_entropy = min_entropy
        self._last_look = 0
        self._recorder = self._head_handle = self._routing = self._factors = None
        self._wants_norms, self._norms = False, {}
        self._accumulates = False
        self._reported = None  # the last iteration whose loss was not finite
        self._spoiled = False  # gradients may still hold that loss: they accumulate, or a loss scaler refused the step
        self._skips = 0
        self._warned = set()

    def before_run(self, runner):
        if not hasattr(getattr(bare_model(runner), 'pts_bbox_head', None), 'transformer'):
            raise ValueError("AQRMonitorHook needs a CMT model, whose pts_bbox_head has a transformer; remove it from "
                             'custom_hooks')
        self._last_look = runner.iter  # of a resumed run
        self._accumulates = any(isinstance(hook, GradientCumulativeOptimizerHook) for hook in runner.hooks)
        optimizers = runner.optimizer.values() if isinstance(runner.optimizer, dict) else [runner.optimizer]
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: self._before_step(runner, optimizer))

    def before_train_iter(self, runner):
        if runner.rank != 0 or runner.iter + 1 - self._last_look < self.interval or not _is_logged(runner):
            return
        self._last_look = runner.iter + 1
        self._wants_norms = True
        head = bare_model(runner).pts_bbox_head
        self._recorder = AttentionRecorder(head, num_queries=min(self.num_queries, head.num_query), seed=runner.iter)
        self._recorder.__enter__()
        self._head_handle = head.register_forward_hook(self._keep_routing)

    def _keep_routing(self, head, args, output):
        self._routing = output[0][0].get('routing')
        if self._routing is not None and head.aqr_head_strength is not None:
            self._factors = head.aqr_head_strength.factors().detach()

    def _before_step(self, runner, optimizer):
        """Clipped gradients are there, weights are still those of the forward pass."""
        self._check_loss(runner)
        is_spoiled = self._reported == runner.iter or (
            self._spoiled and (self._accumulates or not _gradients_are_finite(runner)))
        self._spoiled = False
        if is_spoiled:
            optimizer.zero_grad(set_to_none=True)  # then the step moves nothing, momentum and decay included
        elif self._wants_norms:
            self._norms, self._wants_norms = _gradient_norms(runner), False
            if self._recorder is None and self._last_look == runner.iter + 1:  # the rest is written already
                self._write_norms(runner)

    def after_train_iter(self, runner):
        self._check_loss(runner)  # where no step was made
        if self._reported != runner.iter:
            self._skips = 0
        if self._recorder is not None:
            self._log(runner)

    def _check_loss(self, runner):
        """In `log_vars` mmdet has averaged over all processes: they agree."""
        if not math.isfinite(runner.outputs['log_vars']['loss']) and self._reported != runner.iter:
            self._reported, self._spoiled = runner.iter, True
            self._report(runner)

    def _log(self, runner):
        """Write down what the iteration showed, and stop watching."""
        self._recorder.__exit__(None, None, None)
        self._head_handle.remove()
        layers, routing, factors = self._recorder.statistics, self._routing, self._factors
        self._recorder = self._head_handle = self._routing = self._factors = None
        self._write_norms(runner)
        numbers = {}
        for index, layer in enumerate(layers):
            numbers[f'attention/entropy_{index}'] = layer.entropy.mean().item()
            numbers[f'attention/lidar_{index}'] = layer.mass[..., 0].mean().item()
            self._warn(runner, f'attention/entropy_{index}', numbers[f'attention/entropy_{index}'] < self.min_entropy,
                       f'attention of decoder layer {index} collapses: mean entropy '
                       f'{numbers[f"attention/entropy_{index}"]:.2f} nats')
        if routing is not None:
            numbers.update(routing_numbers(routing, bare_model(runner).pts_bbox_head.aqr_bias))
            self._log_histograms(runner, routing)
        if factors is not None:
            numbers.update({'aqr/head_strength_min': factors.min().item(),
                            'aqr/head_strength_max': factors.max().item()})
        runner.log_buffer.output.update(numbers)

    def _write_norms(self, runner):
        runner.log_buffer.output.update(self._norms)
        self._norms = {}

    def _log_histograms(self, runner, routing):
        learned = routing.is_learned
        writers = [hook.writer for hook in runner.hooks if isinstance(hook, TensorboardLoggerHook)]
        shares = {}
        for modality in MODALITIES:
            weights = getattr(routing, f'{modality}_weights')[:, learned].detach().float().cpu().numpy().ravel()
            for writer in writers:
                writer.add_histogram(f'train/aqr/{modality}_weight', weights, runner.iter + 1)
            counts, _ = np.histogram(weights, bins=_BINS, range=(0, 1))
            shares[modality] = ' '.join(f'{100 * count / max(1, len(weights)):.0f}' for count in counts)
            saturated = float(np.mean((weights < _SATURATED) | (weights > 1 - _SATURATED)))
            self._warn(runner, modality, saturated > self.saturated_share,
                       f'{modality} weights are saturated: {100 * saturated:.0f} % of the queries are within '
                       f'{_SATURATED} of 0 or 1')
        runner.logger.info('weights by tenths from 0 to 1, %% of queries: LiDAR %s; cameras %s', shares['lidar'],
                           shares['camera'])

    def _warn(self, runner, name, is_bad, message):
        """Once, until it was well again."""
        if is_bad and name not in self._warned:
            runner.logger.warning('iteration %d: %s', runner.iter + 1, message)
        (self._warned.add if is_bad else self._warned.discard)(name)

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
        if self.nonfinite_loss == 'stop':
            raise FloatingPointError(f"{message} (nonfinite_loss='skip' of AQRMonitorHook goes on without them)")
        self._skips += 1
        runner.logger.error('%s; the step is skipped, %d in a row', message, self._skips)
        if self._skips > self.max_skips:
            raise FloatingPointError(f'{message}; that were more than max_skips={self.max_skips} in a row')
        if broken:
            raise FloatingPointError(f'{message}; statistics of the model are not finite any more, so that no later '
                                     f'step could be right: {", ".join(dict.fromkeys(broken))}')


def routing_numbers(routing, generator):
    """Scalars of a routing record.

    Args:
        routing (RoutingRecord): of a batch with queries in the map.
        generator (AttentionBiasGenerator): that made its bias.

    Returns:
        dict[str, float]: the ``aqr/`` numbers of :class:`AQRMonitorHook`, of the learned queries.
    """
    learned = routing.is_learned
    numbers, biases = {}, []
    for modality in MODALITIES:
        weights = getattr(routing, f'{modality}_weights')[:, learned].detach().float()  # (B, Q)
        numbers[f'aqr/{modality}_weight_mean'] = weights.mean().item()
        numbers[f'aqr/{modality}_weight_std'] = weights.std(unbiased=False).item()
        biases.append(generator.weight_to_bias(weights))
    biases = torch.stack(biases)
    numbers['aqr/bias_min'], numbers['aqr/bias_max'] = biases.min().item(), biases.max().item()
    clip = generator.bias_clip
    numbers['aqr/clipped'] = 0.0 if clip is None else (biases.abs() >= clip).float().mean().item()
    seen = routing.projections.pts_pers_valid[:, learned].any(dim=-1)  # (B, Q)
    numbers['aqr/no_view'] = 1 - seen.float().mean().item()
    return numbers


def _is_logged(runner):
    """Whether a logger writes at this iteration, by mmcv's rule.

    What is left for a later iteration would be taken for a number of that one, or of a validation in between.
    """
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook):
            due = hook.every_n_inner_iters if hook.by_epoch else hook.every_n_iters
            if due(runner, hook.interval) or (hook.end_of_epoch(runner) and not hook.ignore_last):
                return True
    return False


def _gradient_norms(runner):
    """2-norm of the gradients by part, as they were before clipping, which left all of them in proportion."""
    gradients = {}
    for name, parameter in bare_model(runner).named_parameters():
        if parameter.grad is not None:
            part = next((part for part, prefix in _PARTS.items() if name.startswith(prefix)), 'other')
            gradients.setdefault(part, []).append(parameter.grad.detach().float())
    factor = 1.0
    history = runner.log_buffer.val_history.get('grad_norm')  # of all parts, noted where gradients are clipped
    clips = [hook.grad_clip for hook in runner.hooks if getattr(hook, 'grad_clip', None)]
    if history and clips:
        kind = float(clips[0].get('norm_type', 2))
        clipped = torch.stack([gradient.norm(kind) for part in gradients.values() for gradient in part]).norm(kind)
        factor = history[-1] / clipped.item() if clipped > 0 else 1.0
    norms = {part: torch.stack([gradient.norm() for gradient in own]).norm() for part, own in gradients.items()}
    return {f'grad_norm/{part}': norms[part].item() * factor for part in (*_PARTS, 'other') if part in norms}


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
