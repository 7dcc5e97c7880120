"""Training seen from inside: what the router decides, what attention looks at, gradients."""
import math

import numpy as np
import torch
from mmcv.runner import HOOKS, Hook, LoggerHook, TensorboardLoggerHook

from ..models.utils.token_layout import MODALITIES
from ..models.utils.transformer.attention_recorder import AttentionRecorder
from .bare_model import bare_model, optimizers
from .nonfinite_loss_hook import NonFiniteLossHook

# Part of the model -> how the names of its parameters begin; the first that fits counts.
_PARTS = dict(router='pts_bbox_head.aqr_', head='pts_bbox_head.', lidar='pts_', camera='img_',
              auxiliary='auxiliary_heads.')
_SATURATED = 0.02  # a weight is, if nearer than this to 0 or 1
_BINS = 10  # of the histograms in the text log


@HOOKS.register_module()
class AQRMonitorHook(Hook):
    """Log numbers of the router, the cross-attention and the gradients, and warn where they look bad.

    At the first iteration that is logged after ``interval`` others, the loggers get beside the losses, of the batch at
    hand (in distributed training that of the first process)

    - ``aqr/lidar_weight_mean``, ``_std``, the same of ``camera``: over the learned queries, whose histograms go to
      TensorBoard and, as percentages by tenths, to the text log;
    - ``aqr/bias_min``, ``aqr/bias_max``, and ``aqr/clipped``, the share of weights whose bias is clipped; here and in
      the histograms, a router that judges view by view has a camera weight for every view that sees a query;
    - ``aqr/no_view``: share of learned queries that no view sees; ``aqr/camera_weight_view_0`` and so on: mean camera
      weight of those that this view sees, if any;
    - ``looks/lidar_score``, ``looks/camera_score``, of a router that looks with one sensor at a time: mean probability
      of the best class that this sensor alone shows; ``looks/agreement``: share of queries to which both show the same;
    - ``aqr/head_strength_min``, ``_max`` with ``aqr_strength_per_head``;
    - ``attention/entropy_0`` in nats and ``attention/lidar_0``, the LiDAR tokens' share (the cameras have the rest), of
      layer 0 and so on, means over ``num_queries`` learned queries, drawn anew each time; with ``aqr_stand_ins`` also
      ``attention/stand_ins_0``, the share that goes to them, which LiDAR and cameras do not have;
    - ``grad_norm/router``, ``/head``, ``/lidar``, ``/camera``: 2-norms before clipping, of parts that get gradients;
      where these accumulate, of the last step looked at.

    It watches the optimizer's step, so it needs no place of its own among the hooks. A model without router has no
    ``aqr/`` numbers.

    Args:
        interval (int): iterations, >= 1.
        num_queries (int): at most so many queries are sampled for the attention, >= 1.
        nonfinite_loss (str | None): as older configs say it: ``action`` of a NonFiniteLossHook that is added to the
            run. None: 'stop', unless the run has such a hook of its own.
        max_skips (int | None): likewise its ``max_skips``, default 10.
        saturated_share (float): warn where a larger share of queries has a weight below 0.02 or above 0.98.
        min_entropy (float): warn where the mean entropy of a layer's attention, in nats, is less.

    Raises:
        ValueError: for arguments that are not as said; before the run, for a model without CMT's head, or
            ``nonfinite_loss`` beside a NonFiniteLossHook.
    """

    def __init__(self, interval=50, num_queries=64, nonfinite_loss=None, max_skips=None, saturated_share=0.9,
                 min_entropy=0.5):
        for name, number in (('interval', interval), ('num_queries', num_queries)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ValueError(f'{name} must be an integer >= 1, got {number!r}')
        self._guards_loss = nonfinite_loss is not None or max_skips is not None
        self._loss_guard = NonFiniteLossHook(
            'stop' if nonfinite_loss is None else nonfinite_loss, 10 if max_skips is None else max_skips)
        if not 0 < saturated_share <= 1:
            raise ValueError(f'saturated_share must lie in (0, 1], got {saturated_share!r}')
        if not min_entropy >= 0:
            raise ValueError(f'min_entropy must be >= 0, got {min_entropy!r}')
        self.interval = interval
        self.num_queries = num_queries
        self.saturated_share = saturated_share
        self.min_entropy = min_entropy
        self._last_look = 0
        self._recorder = self._head_handle = self._routing = self._factors = None
        self._wants_norms, self._norms = False, {}
        self._watches_steps = False
        self._warned = set()

    def before_run(self, runner):
        if not hasattr(getattr(bare_model(runner), 'pts_bbox_head', None), 'transformer'):
            raise ValueError("AQRMonitorHook needs a CMT model, whose pts_bbox_head has a transformer; remove it from "
                             'custom_hooks')
        self._last_look = runner.iter  # of a resumed run
        guards = [hook for hook in runner.hooks if isinstance(hook, NonFiniteLossHook)]
        if guards and self._guards_loss:
            raise ValueError('nonfinite_loss and max_skips of AQRMonitorHook contradict the NonFiniteLossHook beside '
                             'it; give them there alone, as action and max_skips')
        if not guards:
            runner.register_hook(self._loss_guard)

    def before_train_epoch(self, runner):
        if self._watches_steps:
            return
        self._watches_steps = True
        # Not in before_run: steps that NonFiniteLossHook empties are to be seen empty.
        for optimizer in optimizers(runner):
            optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: self._before_step(runner))

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
        if self._routing is not None and head.aqr.head_strength is not None:
            self._factors = head.aqr.head_strength.factors().detach()

    def _before_step(self, runner):
        """Clipped gradients are there, weights are still those of the forward pass."""
        if self._wants_norms and math.isfinite(runner.outputs['log_vars']['loss']):
            norms = _gradient_norms(runner)
            if not norms:
                return  # a step that is skipped
            self._norms, self._wants_norms = norms, False
            if self._recorder is None and self._last_look == runner.iter + 1:  # the rest is written already
                self._write_norms(runner)

    def after_train_iter(self, runner):
        if self._recorder is not None:
            self._log(runner)

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
            if bare_model(runner).pts_bbox_head.aqr_options.stand_ins:
                numbers[f'attention/stand_ins_{index}'] = layer.stand_in_mass.sum(dim=-1).mean().item()
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
        writers = [hook.writer for hook in runner.hooks if isinstance(hook, TensorboardLoggerHook)]
        shares = {}
        for modality in MODALITIES:
            weights = _weights_that_bias(routing, modality).cpu().numpy()
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
        """Warn once; again only after it has been fine in between."""
        if is_bad and name not in self._warned:
            runner.logger.warning('iteration %d: %s', runner.iter + 1, message)
        (self._warned.add if is_bad else self._warned.discard)(name)


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
        biases.append(generator.weight_to_bias(_weights_that_bias(routing, modality)))
    biases = torch.cat(biases)
    numbers['aqr/bias_min'], numbers['aqr/bias_max'] = biases.min().item(), biases.max().item()
    clip = generator.bias_clip
    numbers['aqr/clipped'] = 0.0 if clip is None else (biases.abs() >= clip).float().mean().item()
    seen = routing.projections.pts_pers_valid[:, learned]  # (B, Q, V)
    numbers['aqr/no_view'] = 1 - seen.any(dim=-1).float().mean().item()
    of_views = routing.weights_of_views()[:, learned].detach().float()  # (B, Q, V)
    numbers.update({f'aqr/camera_weight_view_{view}': of_views[..., view][seen[..., view]].mean().item()
                    for view in range(seen.shape[-1]) if seen[..., view].any()})
    if routing.looks is not None:
        numbers.update(look_numbers(routing.looks, learned))
    return numbers


def _weights_that_bias(routing, modality):
    """Weights (N,) of the learned queries from which the bias on a modality comes: for the cameras, where each view has
    a weight of its own, those of the views that see the query.
    """
    learned, weights = routing.is_learned, getattr(routing, f'{modality}_weights')
    if modality == 'camera' and routing.view_weights is not None:
        seen = routing.projections.pts_pers_valid[:, learned]  # (B, Q, V)
        if seen.any():
            return routing.view_weights[:, learned][seen].detach().float()
    return weights[:, learned].detach().float().flatten()


def look_numbers(looks, learned):
    """dict[str, float]: the ``looks/`` numbers of :class:`AQRMonitorHook`, of the queries in ``learned`` (Q,)."""
    (lidar, lidar_class), (camera, camera_class) = (looks.verdicts(sensor) for sensor in MODALITIES)  # (B, Q) each
    agree = (lidar_class == camera_class).float()
    numbers = dict(lidar_score=lidar, camera_score=camera, agreement=agree)
    return {f'looks/{name}': values[:, learned].mean().item() for name, values in numbers.items()}


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
    if not gradients:
        return {}
    factor = 1.0
    history = runner.log_buffer.val_history.get('grad_norm')  # of all parts, noted where gradients are clipped
    clips = [hook.grad_clip for hook in runner.hooks if getattr(hook, 'grad_clip', None)]
    if history and clips:
        kind = float(clips[0].get('norm_type', 2))
        clipped = torch.stack([gradient.norm(kind) for part in gradients.values() for gradient in part]).norm(kind)
        factor = history[-1] / clipped.item() if clipped > 0 else 1.0
    norms = {part: torch.stack([gradient.norm() for gradient in own]).norm() for part, own in gradients.items()}
    return {f'grad_norm/{part}': norms[part].item() * factor for part in (*_PARTS, 'other') if part in norms}
