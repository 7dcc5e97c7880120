"""The hook in mmcv's runner on a real head: its numbers against plain sums, warnings, losses that are not finite."""
import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.parallel import DataContainer, MMDataParallel
from mmcv.runner import HOOKS, EpochBasedRunner, Hook, OptimizerHook
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from projects.mmdet3d_plugin.hooks.aqr_monitor_hook import AQRMonitorHook, look_numbers, routing_numbers
from projects.mmdet3d_plugin.hooks.nonfinite_loss_hook import NonFiniteLossHook
from projects.mmdet3d_plugin.models.utils.aqr.looks import Looks
from projects.mmdet3d_plugin.models.utils.aqr.routing_record import RoutingRecord
from projects.mmdet3d_plugin.models.utils.attention_bias_generator import AttentionBiasGenerator
from tests.test_models.conftest import make_batch, make_head, train_losses  # noqa: F401  (fixtures)
from tests.two_processes import on_two_processes

ITERS = 4  # of an epoch


class Model(nn.Module):
    """A detector whose features are parameters of its branches; iterations in `spoiled` have a loss that is not finite,
    by `how`: times NaN, plus infinity (then gradients are finite), or by NaN in the features.
    """

    def __init__(self, head, batch, losses_of, spoiled=(), break_statistics=False, how='times NaN'):
        super().__init__()
        self.pts_bbox_head = head
        x, x_img, self.metas = batch
        self.pts_neck, self.img_neck = (nn.ParameterDict(dict(features=nn.Parameter(f))) for f in (x, x_img))
        self.norm = nn.BatchNorm1d(1)
        self.losses_of, self.spoiled, self.break_statistics = losses_of, spoiled, break_statistics
        self.how, self.seen = how, []

    def train_step(self, data, optimizer):
        self.seen.append({name: parameter.detach().clone() for name, parameter in self.named_parameters()})
        is_spoiled = len(self.seen) in self.spoiled
        x, x_img = self.pts_neck['features'], self.img_neck['features']
        if is_spoiled and self.how == 'features':
            x_img = x_img * math.nan
        losses = self.losses_of(self.pts_bbox_head, (x, x_img, self.metas))
        if is_spoiled and self.how != 'features':
            bbox = losses['loss_bbox']
            losses['loss_bbox'] = bbox * math.nan if self.how == 'times NaN' else bbox + math.inf
        if is_spoiled and self.break_statistics:
            self.norm.running_mean.fill_(math.nan)
        loss = sum(losses.values())
        log_vars = {name: value.item() for name, value in losses.items()}
        return dict(loss=loss, log_vars=dict(log_vars, loss=loss.item()), num_samples=2)


def batch_of(metas):
    """What a loader gives: the samples' tokens in a container."""
    return dict(img_metas=DataContainer([[dict(sample_idx=f'token{i}') for i in range(len(metas))]], cpu_only=True))


@pytest.fixture
def run(make_head, make_batch, train_losses, tmp_path):  # noqa: F811
    """Function that trains a model with the hook; returns runner and the lines of the JSON log."""

    def train(hook=None, epochs=1, head=None, grad_clip=dict(max_norm=0.1, norm_type=2), model=None, lr=1e-3,  # noqa
              hooks_first=False, wrap=True, log_interval=1, optimizer_hook={}, other_hooks=(), **model_options):  # noqa
        head = head or dict(enable_aqr=True, aqr_router=dict(windows=3))
        if model is None:
            batch = make_batch()
            model = Model(make_head(**head).train(), batch, train_losses, **model_options)
        stream = logging.getLogger(f'monitor {tmp_path}')
        stream.setLevel(logging.INFO)
        runner = EpochBasedRunner(
            MMDataParallel(model, device_ids=[-1]) if wrap else model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1), work_dir=str(tmp_path),
            logger=stream, meta={}, max_epochs=epochs)
        runner.timestamp = 'run'
        runner.register_training_hooks(
            dict(policy='fixed'), dict(grad_clip=grad_clip, **optimizer_hook), None,
            dict(interval=log_interval, hooks=[dict(type='TextLoggerHook'), dict(type='TensorboardLoggerHook')]),
            custom_hooks_config=[dict(type='AQRMonitorHook', **(hook or dict(interval=2)),
                                      **(dict(priority='VERY_HIGH') if hooks_first else {}))])
        for hook in other_hooks:
            runner.register_hook(hook)
        runner.model_under_test = model
        try:
            runner.run([[batch_of(getattr(model, 'metas', [0]))] * ITERS], [('train', 1)])
        finally:
            path = tmp_path / 'run.log.json'
            runner.lines = [json.loads(line) for line in path.read_text().splitlines()[1:]] if path.is_file() else []
        return runner

    return train


def test_numbers_are_those_of_the_iteration(run, make_head, make_batch, train_losses):  # noqa: F811
    """Recomputed from the weights before the step: weights, bias, attention as dense softmax, gradients unclipped."""
    options = dict(enable_aqr=True, aqr_bias_clip=0.6, aqr_strength_per_head=True, aqr_router=dict(windows=3))
    head = make_head(**options).train()
    nn.init.normal_(head.aqr_router.mlp[-1].weight, std=0.3)
    runner = run(dict(interval=2, num_queries=20), model=Model(head, make_batch(), train_losses), lr=1e-4)
    assert [('aqr/no_view' in line, line['iter']) for line in runner.lines] == [
        (False, 1), (True, 2), (False, 3), (True, 4)]
    for line, state in ((runner.lines[index], runner.model_under_test.seen[index]) for index in (1, 3)):
        model = Model(make_head(**options).train(), make_batch(), train_losses)
        model.load_state_dict(state, strict=False)
        head, kept = model.pts_bbox_head, []
        scale = head.transformer.embed_dims // 4
        for layer in head.transformer.decoder.layers:
            layer.attentions[1].attn.register_forward_pre_hook(lambda module, args, kwargs: kept.append(
                (module, {**dict(zip(('query', 'key', 'value', 'attn_mask'), args)), **kwargs})), with_kwargs=True)
        outs = []
        head.register_forward_hook(lambda module, args, output: outs.append(output))
        # The denoising noise of that iteration is not known; the learned queries do not see it.
        sum(train_losses(head, (model.pts_neck['features'], model.img_neck['features'], model.metas)).values())
        routing = outs[0][0][0]['routing']
        first = int((~routing.is_learned).sum())
        for name in ('lidar', 'camera'):
            weights = getattr(routing, f'{name}_weights')[:, first:].detach().numpy()
            assert line[f'aqr/{name}_weight_mean'] == pytest.approx(weights.mean(), abs=1e-5)
            assert line[f'aqr/{name}_weight_std'] == pytest.approx(weights.std(), abs=1e-5)
        both = torch.cat([routing.lidar_weights[:, first:], routing.camera_weights[:, first:]])
        bias = (both - 0.5).mul(10).detach().numpy()
        clipped = np.clip(bias, -0.6, 0.6)
        assert line['aqr/bias_min'] == pytest.approx(clipped.min(), abs=1e-5)
        assert line['aqr/bias_max'] == pytest.approx(clipped.max(), abs=1e-5)
        assert line['aqr/clipped'] == pytest.approx((abs(bias) >= 0.6).mean(), abs=1e-4)
        seen = routing.projections.pts_pers_valid[:, first:].numpy()
        assert line['aqr/no_view'] == pytest.approx((~seen.any(axis=2)).mean(), abs=1e-5)
        camera = routing.camera_weights[:, first:].detach().numpy()
        for view in range(seen.shape[2]):
            name = f'aqr/camera_weight_view_{view}'
            assert (name in line) == seen[..., view].any()
            if name in line:
                assert line[name] == pytest.approx(camera[seen[..., view]].mean(), abs=1e-5)
        factors = 2 / (1 + torch.exp(-state['pts_bbox_head.aqr_head_strength.logits']))
        assert line['aqr/head_strength_min'] == pytest.approx(factors.min().item(), abs=1e-5)
        assert line['aqr/head_strength_max'] == pytest.approx(factors.max().item(), abs=1e-5)
        for index, (module, arguments) in enumerate(kept):
            query, key = (nn.functional.linear(arguments[name], weight, b) for name, weight, b in zip(
                ('query', 'key'), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)))
            query, key = (part.unflatten(-1, (4, scale)).transpose(1, 2) for part in (query[:, first:], key))
            scores = query @ key.transpose(2, 3) / scale ** 0.5 + arguments['attn_mask'].dense()[:, :, first:]
            attention = scores.softmax(dim=-1)
            entropy = torch.special.entr(attention).sum(-1).mean().item()
            assert line[f'attention/entropy_{index}'] == pytest.approx(entropy, abs=1e-3)
            assert line[f'attention/lidar_{index}'] == pytest.approx(attention[..., :256].sum(-1).mean().item(),
                                                                     abs=1e-4)
        assert len(kept) == 2
    assert 0.1 < runner.lines[3]['aqr/clipped'] < 0.9 and line['aqr/head_strength_max'] > 1


@pytest.mark.parametrize('stand_ins', [True, False])
def test_attention_on_stand_ins(run, make_head, make_batch, stand_ins):  # noqa: F811
    """That which LiDAR lost, where all queries distrust it; no such number without stand-ins."""

    def losses_of(head, batch):
        x, x_img, metas = batch
        outs = head([x], [x_img], metas, ([torch.zeros_like(x)], [torch.zeros_like(x_img)]))
        return head.loss([meta['gt_bboxes_3d'].data for meta in metas],
                         [meta['gt_labels_3d'].data for meta in metas], outs)

    head = make_head(enable_aqr=True, aqr_router=dict(windows=3), aqr_stand_ins=stand_ins, aqr_bias_strength=60.0)
    with torch.no_grad():
        head.aqr_router.mlp[-1].bias.copy_(torch.tensor([-50.0, 0.0]))
    line = run(dict(interval=2, num_queries=20), model=Model(head.train(), make_batch(), losses_of), lr=0.0).lines[1]
    for layer in (0, 1):
        assert line[f'attention/lidar_{layer}'] == pytest.approx(0, abs=1e-6)
        share = line.get(f'attention/stand_ins_{layer}')
        assert 0.1 < share < 0.9 if stand_ins else share is None


class Evaluation(Hook):
    """Writes a result after every epoch, as mmdet's hook does."""

    def after_train_epoch(self, runner):
        runner.log_buffer.output['recall'] = 0.5
        runner.log_buffer.ready = True


@pytest.mark.parametrize('interval, expected', [(2, [3, 7, 11]), (5, [7]), (9, [11]), (1, [3, 7, 11])])
def test_numbers_stand_beside_their_iteration(run, tmp_path, interval, expected):
    """Epochs of 4, logged at their third iteration: nothing is left for a later line or for a validation."""
    runner = run(dict(interval=interval), epochs=3, log_interval=3, other_hooks=[Evaluation()])
    looked = [(line['mode'], line['epoch'], line['iter']) for line in runner.lines if 'aqr/no_view' in line]
    assert looked == [('train', (step - 1) // 4 + 1, 3) for step in expected]
    assert sum(line['mode'] == 'val' for line in runner.lines) == 3
    events = EventAccumulator(str(tmp_path / 'tf_logs'), size_guidance=dict(histograms=0, scalars=0)).Reload()
    for records in (events.Scalars('train/aqr/no_view'), events.Scalars('train/grad_norm/head'),
                    events.Histograms('train/aqr/camera_weight')):
        assert [record.step for record in records] == expected
    assert not any(tag.startswith('val/a') for tag in events.Tags()['scalars'])


@pytest.mark.parametrize('norm_type', [1, 2, math.inf])
@pytest.mark.parametrize('clip', [None, 0.05, 1e4])
def test_gradient_norms_are_those_before_clipping(run, clip, norm_type):
    """From gradients that a hook of its own keeps as backward leaves them."""
    kept = []

    class Keeping(Model):

        def train_step(self, data, optimizer):
            if not kept:
                for name, parameter in self.named_parameters():
                    parameter.register_post_accumulate_grad_hook(
                        lambda p, name=name: kept[-1].update({name: p.grad.norm().item()}))
            kept.append({})
            return super().train_step(data, optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), 'Model', Keeping)
        runner = run(dict(interval=1), grad_clip=None if clip is None else dict(max_norm=clip, norm_type=norm_type))
    parts = dict(router='pts_bbox_head.aqr_router', head='pts_bbox_head.', lidar='pts_neck', camera='img_neck')
    for line, norms in zip(runner.lines, kept):
        for part, prefix in parts.items():
            own = [norm for name, norm in norms.items() if name.startswith(prefix)
                   and (part != 'head' or 'aqr_router' not in name)]
            assert own and line[f'grad_norm/{part}'] == pytest.approx(math.hypot(*own), rel=1e-3, abs=2e-5), part
    assert not any('auxiliary' in name for name in runner.lines[0])


def test_histograms_in_tensorboard_and_text(run, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        runner = run(dict(interval=3))
    events = EventAccumulator(str(tmp_path / 'tf_logs'), size_guidance=dict(histograms=0)).Reload()
    assert set(events.Tags()['histograms']) == {'train/aqr/lidar_weight', 'train/aqr/camera_weight'}
    record, = events.Histograms('train/aqr/lidar_weight')  # the next would be iteration 6
    assert record.step == 3 and record.histogram_value.num == 2 * 20
    assert 'train/attention/entropy_1' in events.Tags()['scalars']
    shares, = [message for message in caplog.messages if 'by tenths' in message]
    lidar = [int(share) for share in shares.partition('LiDAR ')[2].partition(';')[0].split()]
    assert len(lidar) == 10 and sum(lidar) == 100 and lidar[4] + lidar[5] == 100  # a young router is near neutral
    assert len(runner.lines) == ITERS


def test_a_model_without_router(run):
    runner = run(dict(interval=2), head=dict(enable_aqr=False))
    names = set(runner.lines[1])
    assert not any(name.startswith('aqr/') for name in names) and 'grad_norm/router' not in names
    assert {'attention/entropy_0', 'attention/lidar_1', 'grad_norm/head', 'grad_norm/camera'} <= names


def test_training_is_the_same_with_the_hook(run):
    """Weights after each step are those of a run that is never looked into."""
    watched, alone = run(dict(interval=1)), run(dict(interval=1000))
    for ours, theirs in zip(watched.model_under_test.seen, alone.model_under_test.seen):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(ours['pts_neck.features'], watched.model_under_test.seen[0]['pts_neck.features'])
    # Nothing stays behind to watch iterations that are not asked for.
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched.model_under_test.modules())


class TestNonfiniteLoss:

    @pytest.mark.parametrize('hooks_first', [False, True])
    def test_stop(self, run, hooks_first):
        with pytest.raises(FloatingPointError, match=r'iteration 3: not finite: loss_bbox, loss; samples token0, '
                                                     r"token1 \(NonFiniteLossHook\(action='skip'\)"):
            run(spoiled=[3], hooks_first=hooks_first)

    @pytest.mark.parametrize('hooks_first', [False, True])
    @pytest.mark.parametrize('grad_clip', [None, dict(max_norm=0.1, norm_type=2)])
    @pytest.mark.parametrize('how', ['times NaN', 'plus inf', 'features'])
    def test_skip(self, run, caplog, grad_clip, hooks_first, how):
        """As if the batch had not been: the weights of the next iteration are the same, its step the next."""
        skipping = run(dict(interval=1, nonfinite_loss='skip'), spoiled=[3], grad_clip=grad_clip,
                       hooks_first=hooks_first, how=how)
        seen = skipping.model_under_test.seen
        assert all(torch.equal(seen[3][name], value) for name, value in seen[2].items())
        assert not torch.equal(seen[2]['pts_neck.features'], seen[1]['pts_neck.features'])
        state = skipping.optimizer.state[skipping.model_under_test.pts_neck['features']]
        assert state['step'] == 3  # of four
        assert all(torch.isfinite(parameter).all() for parameter in skipping.model_under_test.parameters())
        error, = [record for record in caplog.records if record.levelname == 'ERROR']
        assert 'loss_bbox' in error.message and error.message.startswith('iteration 3: not finite: ')
        assert error.message.endswith(', loss; samples token0, token1; the step is skipped, 1 in a row')
        assert not math.isfinite(skipping.lines[2]['loss_bbox'])  # shown as it is
        assert 'grad_norm/head' not in skipping.lines[2] and 'grad_norm/head' in skipping.lines[3]

    @pytest.mark.parametrize('statistics', [False, True])
    def test_processes_agree(self, tmp_path, monkeypatch, statistics):
        """Only one of two has the loss; both name its samples, skip or stop."""
        def report(rank):
            told = []
            model = nn.BatchNorm1d(1)
            if statistics and rank == 1:
                model.running_mean.fill_(math.inf)
            runner = SimpleNamespace(
                iter=4, rank=rank, world_size=2, model=model,
                logger=SimpleNamespace(error=lambda *args: told.append(args)),
                outputs=dict(log_vars=dict(loss=math.nan), loss=torch.tensor(math.nan if rank == 1 else 1.0)),
                data_batch=dict(img_metas=DataContainer([[dict(sample_idx=f'token{rank}')]], cpu_only=True)))
            try:
                NonFiniteLossHook(action='skip').after_train_iter(runner)
            except FloatingPointError as error:
                told.append(('stopped', str(error)))
            return told

        first, second = on_two_processes(report, tmp_path, monkeypatch)
        assert first == second and 'iteration 5: not finite: loss; samples token1' in first[0]
        assert [entry[0] for entry in first[1:]] == (['stopped'] if statistics else [])

    def test_a_refused_step_does_not_spoil_the_next(self, run):
        """As loss scalers refuse: no step is made, the next gradients are new."""
        class Scaler(OptimizerHook):

            def after_train_iter(self, runner):
                runner.optimizer.zero_grad()
                runner.outputs['loss'].backward()
                if math.isfinite(runner.outputs['loss']):
                    runner.optimizer.step()

        HOOKS.register_module(Scaler, force=True)
        runner = run(dict(nonfinite_loss='skip'), spoiled=[2], how='features', optimizer_hook=dict(type='Scaler'))
        state = runner.optimizer.state[runner.model_under_test.pts_neck['features']]
        assert state['step'] == 3

    def test_too_many_in_a_row(self, run):
        with pytest.raises(FloatingPointError, match='iteration 4: .* more than max_skips=1 steps in a row'):
            run(dict(nonfinite_loss='skip', max_skips=1), spoiled=[1, 3, 4])

    def test_broken_statistics(self, run):
        with pytest.raises(FloatingPointError, match='iteration 2: .* not finite any more.*: norm.running_mean'):
            run(dict(nonfinite_loss='skip'), spoiled=[2], break_statistics=True)

    @pytest.mark.parametrize('how', ['times NaN', 'plus inf'])
    def test_accumulated_gradients(self, run, how):
        """A loss of NaN between two steps spoils the step that would use its gradients, and no later one."""
        runner = run(dict(nonfinite_loss='skip', interval=1), spoiled=[1], how=how,
                     optimizer_hook=dict(type='GradientCumulativeOptimizerHook', cumulative_iters=2))
        assert ['grad_norm/head' in line for line in runner.lines] == [False, False, False, True]
        seen = [*runner.model_under_test.seen, dict(runner.model_under_test.named_parameters())]
        assert torch.equal(seen[2]['pts_neck.features'], seen[0]['pts_neck.features'])
        assert not torch.equal(seen[4]['pts_neck.features'], seen[2]['pts_neck.features'])
        assert torch.isfinite(seen[4]['pts_neck.features']).all()


class TestWarnings:

    def warnings(self, caplog):
        return [record.message for record in caplog.records if record.levelname == 'WARNING']

    def test_saturated_weights(self, run, make_head, make_batch, train_losses, caplog):  # noqa: F811
        head = make_head(enable_aqr=True, aqr_router=dict(windows=3)).train()
        torch.nn.init.constant_(head.aqr_router.mlp[-1].bias, 6.0)
        run(dict(interval=1), model=Model(head, make_batch(), train_losses))
        told = [message for message in self.warnings(caplog) if 'saturated' in message]
        assert told == [f'iteration 1: {name} weights are saturated: 100 % of the queries are within 0.02 of 0 or 1'
                        for name in ('lidar', 'camera')]  # once, though every iteration has it

    def test_again_after_recovery(self, run, make_head, make_batch, train_losses, caplog):  # noqa: F811
        class Swinging(Model):
            """The router is saturated, saturated, fine, saturated."""

            def train_step(self, data, optimizer):
                bias = (6.0, 6.0, 0.0, 6.0)[len(self.seen)]
                nn.init.constant_(self.pts_bbox_head.aqr_router.mlp[-1].bias, bias)
                return super().train_step(data, optimizer)

        head = make_head(enable_aqr=True, aqr_router=dict(windows=3)).train()
        run(dict(interval=1), model=Swinging(head, make_batch(), train_losses))
        told = [message for message in self.warnings(caplog) if 'lidar weights are saturated' in message]
        assert [message.partition(':')[0] for message in told] == ['iteration 1', 'iteration 4']

    def test_collapsed_entropy(self, run, caplog):
        runner = run(dict(interval=2, min_entropy=100.0))
        told = [message for message in self.warnings(caplog) if 'collapses' in message]
        entropy = runner.lines[1]['attention/entropy_1']
        assert len(told) == 2
        assert told[1] == f'iteration 2: attention of decoder layer 1 collapses: mean entropy {entropy:.2f} nats'

    def test_silence(self, run, caplog):
        run(dict(interval=1))
        assert not self.warnings(caplog)


def test_no_clip_clips_nothing():
    record = RoutingRecord(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.5]]),
        SimpleNamespace(pts_pers_valid=torch.tensor([[[True, False], [False, False]]])),
        torch.tensor([True, True]), None, None, None)
    assert routing_numbers(record, AttentionBiasGenerator(bias_strength=3.0)) == pytest.approx({
        'aqr/lidar_weight_mean': 0.5, 'aqr/lidar_weight_std': 0.5, 'aqr/camera_weight_mean': 0.375,
        'aqr/camera_weight_std': 0.125, 'aqr/bias_min': -3.0, 'aqr/bias_max': 3.0, 'aqr/clipped': 0.0,
        'aqr/no_view': 0.5, 'aqr/camera_weight_view_0': 0.25})
    assert routing_numbers(record, AttentionBiasGenerator(bias_strength=3.0, bias_clip=1.5))['aqr/clipped'] == 0.75


@pytest.mark.parametrize('is_seen', [True, False])
def test_a_weight_for_each_view(is_seen):
    """A view that is distrusted beside one that is trusted shows in the bias; the query that no view sees has none."""
    seen = torch.tensor([[[is_seen, is_seen], [False, False]]])
    record = RoutingRecord(
        torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.5]]), SimpleNamespace(pts_pers_valid=seen),
        torch.tensor([True, True]), None, None, None, view_weights=torch.tensor([[[0.0, 0.9], [0.5, 0.5]]]))
    numbers = routing_numbers(record, AttentionBiasGenerator(bias_strength=3.0, per_view=True, bias_clip=3.0))
    expected = {'bias_min': -3.0, 'clipped': 0.25, 'camera_weight_view_0': 0.0, 'camera_weight_view_1': 0.9}
    for name in expected if is_seen else ('bias_min', 'clipped'):
        assert numbers[f'aqr/{name}'] == pytest.approx(expected[name] if is_seen else 0.0, abs=1e-6), name


def test_what_each_sensor_alone_sees():
    def logits(*queries):
        return torch.logit(torch.tensor([queries]))  # (1, Q, K)

    looks = Looks(None, None, logits([0.9, 0.2], [0.1, 0.3], [0.6, 0.4], [0.99, 0.5]),
                  logits([0.7, 0.1], [0.2, 0.1], [0.1, 0.2], [0.5, 0.1]))
    learned = torch.tensor([True, True, True, False])
    assert look_numbers(looks, learned) == pytest.approx({
        'looks/lidar_score': 0.6, 'looks/camera_score': 1.1 / 3, 'looks/agreement': 1 / 3})


@pytest.mark.parametrize('options, message', [
    (dict(interval=0), 'interval must be an integer >= 1'), (dict(interval=True), 'interval must be'),
    (dict(num_queries=0), 'num_queries must be an integer >= 1'), (dict(max_skips=-1), 'max_skips must be an integer'),
    (dict(nonfinite_loss='zero'), "must be 'stop' or 'skip', got 'zero'"),
    (dict(saturated_share=0), 'saturated_share must lie in'), (dict(saturated_share=1.5), 'saturated_share must lie'),
    (dict(min_entropy=-1), 'min_entropy must be >= 0'), (dict(min_entropy=math.nan), 'min_entropy must be >= 0')])
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        AQRMonitorHook(**options)


def test_a_model_without_cmts_head_is_refused(run):
    with pytest.raises(ValueError, match='AQRMonitorHook needs a CMT model'):
        run(model=nn.Linear(1, 1))


def test_a_loss_guard_of_its_own(run):
    """Whatever their order among the hooks; the monitor adds none then."""
    for hooks_first in (False, True):
        runner = run(dict(interval=1), spoiled=[2], hooks_first=hooks_first,
                     other_hooks=[NonFiniteLossHook(action='skip')])
        assert sum(isinstance(hook, NonFiniteLossHook) for hook in runner.hooks) == 1
        assert ['grad_norm/head' in line for line in runner.lines[:ITERS]] == [True, False, True, True]
    with pytest.raises(ValueError, match='contradict the NonFiniteLossHook'):
        run(dict(nonfinite_loss='skip'), other_hooks=[NonFiniteLossHook()])


def test_the_loss_guard_alone(run):
    runner = run(other_hooks=[NonFiniteLossHook(action='skip')], hook=dict(interval=1000), spoiled=[1, 2])
    seen = runner.model_under_test.seen
    assert torch.equal(seen[2]['pts_neck.features'], seen[0]['pts_neck.features'])
