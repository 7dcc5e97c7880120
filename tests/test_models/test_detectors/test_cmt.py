import copy

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from .conftest import AUXILIARY_HEADS


def losses_of(detector, data):
    return detector.train()(return_loss=True, **copy.deepcopy(data))


def detect(detector, data):
    data = copy.deepcopy(data)
    with torch.no_grad():
        return detector.eval()(return_loss=False, rescale=True, points=[data['points']], img=[data['img']],
                               img_metas=[data['img_metas']])


def test_training_step_reaches_every_parameter(make_detector, make_data):
    detector = make_detector(enable_aqr=True)
    torch.nn.init.normal_(detector.pts_bbox_head.aqr_router.mlp[-1].weight, std=0.1)
    losses = losses_of(detector, make_data())
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    # Upsampling of the image neck's second level and the deeper branch of the position MLPs included.
    missing = [name for name, p in detector.named_parameters() if p.grad is None]
    assert not missing, missing


@pytest.mark.parametrize('num_points, num_boxes', [
    ((0, 0), (3, 2)),       # LiDAR gone everywhere
    ((300, 0), (3, 2)),     # the last sample without a voxel
    ((0, 300), (0, 2)),     # the first without voxel and boxes
    ((1, ), (2, )),         # one voxel in a training batch of one: BatchNorm
    ((0, ), (0, )),         # nothing at all
    ((300, ), (15, )),      # more boxes than queries
])
@pytest.mark.parametrize('aqr', [dict(), dict(enable_aqr=True, aqr_use_local_bias=True)])
def test_degenerate_batches(make_detector, make_data, num_points, num_boxes, aqr):
    detector, data = make_detector(**aqr), make_data(num_points, num_boxes)
    losses = losses_of(detector, data)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in detector.parameters())
    assert all(torch.isfinite(buffer).all() for buffer in detector.buffers())
    results = detect(detector, data)
    assert len(results) == len(num_points)
    assert all(torch.isfinite(result['pts_bbox']['boxes_3d'].tensor).all() for result in results)


def test_empty_sample_does_not_disturb_its_neighbor(make_detector, make_data):
    detector, data = make_detector(), make_data((300, 0))
    alone = {name: value[:1] for name, value in data.items()}
    both, single = detect(detector, data)[0]['pts_bbox'], detect(detector, alone)[0]['pts_bbox']
    torch.testing.assert_close(both['scores_3d'], single['scores_3d'])
    torch.testing.assert_close(both['boxes_3d'].tensor, single['boxes_3d'].tensor, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('absent', ['points', 'img'])
def test_absent_sensor(make_detector, make_data, absent):
    detector, data = make_detector(enable_aqr=True), make_data()
    data[absent] = None
    assert all(torch.isfinite(loss) for loss in losses_of(detector, data).values())
    arguments = {name: [data[name]] for name in ('points', 'img', 'img_metas') if data[name] is not None}
    with torch.no_grad():
        assert len(detector.eval()(return_loss=False, **arguments)) == 2


@pytest.mark.parametrize('branch', ['img_backbone', 'pts_backbone'])
def test_aqr_on_a_single_modality_is_refused(make_detector, branch):
    with pytest.raises(ValueError, match=branch):
        make_detector(model={branch: None}, enable_aqr=True)


@pytest.mark.parametrize('model, present', [
    (dict(img_backbone=None, img_neck=None), 'points'),
    (dict(pts_backbone=None, pts_neck=None, pts_middle_encoder=None, pts_voxel_encoder=None, pts_voxel_layer=None),
     'img')])
def test_single_modality_models(make_detector, make_data, model, present):
    detector, data = make_detector(model=model), make_data()
    data['img' if present == 'points' else 'points'] = None
    assert all(torch.isfinite(loss) for loss in losses_of(detector, data).values())


class TestAuxiliaryHeads:
    NAMES = {f'loss_aux_{name}_{part}' for name in AUXILIARY_HEADS for part in ('heatmap', 'box')}

    def test_losses_are_added_and_reach_every_parameter(self, make_detector, make_data):
        plain = losses_of(make_detector(), make_data())
        detector = make_detector(model=dict(auxiliary_heads=AUXILIARY_HEADS))
        losses = losses_of(detector, make_data())
        assert set(losses) - set(plain) == self.NAMES and set(plain) < set(losses)
        assert all(torch.isfinite(losses[name]) and losses[name] > 0 for name in self.NAMES)
        sum(losses[name] for name in self.NAMES).backward()
        assert all(p.grad is not None for p in detector.auxiliary_heads.parameters())
        for branch in (detector.img_backbone.conv1, detector.pts_backbone.blocks[0][0]):
            assert branch.weight.grad.abs().max() > 0

    def test_detections_do_not_depend_on_them(self, make_detector, make_data):
        detector, data = make_detector(model=dict(auxiliary_heads=AUXILIARY_HEADS)), make_data()
        plain = make_detector(seed=1)
        state = detector.state_dict()
        own = [name for name in state if name.startswith('auxiliary_heads.')]
        assert len(own) == 2 * 10
        for name in own:
            del state[name]
        plain.load_state_dict(state)
        for found, expected in zip(detect(detector, data), detect(plain, data)):
            assert torch.equal(found['pts_bbox']['boxes_3d'].tensor, expected['pts_bbox']['boxes_3d'].tensor)

    @pytest.mark.parametrize('num_boxes', [(3, 2), (0, 0)])
    def test_silenced_sensors_give_no_targets(self, make_detector, make_data, num_boxes):
        """Points of the first sample at the origin, images of the second black: their maps take no part."""
        detector, data = make_detector(model=dict(auxiliary_heads=AUXILIARY_HEADS)), make_data(num_boxes=num_boxes)
        given = {}
        for name, head in detector.auxiliary_heads.items():
            loss = head.loss
            head.loss = lambda *args, name=name, loss=loss: given.update({name: args[-1]}) or loss(*args)
        data['points'][0] = torch.zeros(50, 5)
        data['img'][1] = 0
        losses = losses_of(detector, data)
        assert given['bev'].tolist() == [False, True] and given['camera'].tolist() == [True] * 6 + [False] * 6
        sum(losses.values()).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())

    @pytest.mark.parametrize('absent', ['points', 'img'])
    def test_absent_sensors(self, make_detector, make_data, absent):
        data = make_data()
        del data[absent]
        losses = losses_of(make_detector(model=dict(auxiliary_heads=AUXILIARY_HEADS)), data)
        assert {name for name in losses if 'aux' in name} == {name for name in self.NAMES
                                                              if ('bev' in name) == (absent == 'img')}

    @pytest.mark.parametrize('heads, model', [(dict(lidar=AUXILIARY_HEADS['bev']), {}),
                                              (AUXILIARY_HEADS, dict(img_backbone=None, img_neck=None))])
    def test_heads_without_features(self, make_detector, heads, model):
        with pytest.raises(ValueError, match='auxiliary_heads: no features'):
            make_detector(model=dict(auxiliary_heads=heads, **model))


class TestTrainOnly:
    ROUTER = 'pts_bbox_head.aqr_router'

    @pytest.fixture
    def detector(self, make_detector):
        return make_detector(model=dict(train_only=[self.ROUTER]), enable_aqr=True)

    def test_nothing_else_changes(self, detector, make_data):
        before = {name: value.clone() for name, value in detector.state_dict().items()}
        optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            out = detector.train().train_step(make_data(), optimizer)
            out['loss'].backward()
            optimizer.step()
        changed = {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
        assert changed and all(name.startswith(self.ROUTER) for name in changed)

    def test_batch_norms_stay_in_eval_mode_through_train(self, detector):
        detector.train()
        assert detector.training
        assert not any(module.training for module in detector.modules() if isinstance(module, _BatchNorm))

    def test_unknown_prefix(self, make_detector):
        with pytest.raises(ValueError, match='train_only'):
            make_detector(model=dict(train_only=[self.ROUTER]))
        with pytest.raises(ValueError, match='pts_bbox'):
            make_detector(model=dict(train_only=['pts_bbox']), enable_aqr=True)  # a prefix of a name, not a module


def test_bad_input(make_detector, make_data):
    detector, data = make_detector(), make_data()
    with pytest.raises(ValueError, match='num_point_features'):
        losses_of(detector, dict(data, points=[cloud[:, :4] for cloud in data['points']]))
    with pytest.raises(ValueError, match='img must be'):
        losses_of(detector, dict(data, img=data['img'][0]))
    with pytest.raises(ValueError, match='one entry per sample'):
        losses_of(detector, dict(data, gt_bboxes_3d=data['gt_bboxes_3d'][:1]))
    with pytest.raises(TypeError, match='train_only'):
        make_detector(model=dict(train_only='pts_bbox_head'))
    with pytest.raises(ValueError, match='augment'):
        detector.eval()(return_loss=False, points=[data['points']] * 2, img=[data['img']] * 2,
                        img_metas=[data['img_metas']] * 2)


@pytest.mark.parametrize('mode',
                         [dict(), dict(aqr_use_local_bias=True, aqr_local_window_size=dict(lidar=5, camera=15))])
@pytest.mark.parametrize('strength', [1.0, 5.0, 10.0])
def test_neutral_start_from_a_baseline_state_dict(make_detector, make_data, mode, strength):
    data = make_data()
    baseline = make_detector(seed=0)
    expected = detect(baseline, data)
    detector = make_detector(seed=1, enable_aqr=True, aqr_bias_strength=strength, **mode)
    result = detector.load_state_dict(baseline.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith('pts_bbox_head.aqr_router.') for key in result.missing_keys)

    def largest_change():
        changes = []
        for found, want in zip(detect(detector, data), expected):
            for got, exp in [(found['pts_bbox']['boxes_3d'].tensor, want['pts_bbox']['boxes_3d'].tensor),
                             (found['pts_bbox']['scores_3d'], want['pts_bbox']['scores_3d'])]:
                changes.append(1.0 if got.shape != exp.shape else ((got - exp).abs().max() / exp.abs().max()).item())
        return max(changes)

    assert largest_change() < 1e-5
    torch.nn.init.normal_(detector.pts_bbox_head.aqr_router.mlp[-1].weight, std=1.0)
    assert largest_change() > 1e-4


def test_training_in_bfloat16_on_cpu(make_detector, make_data):
    detector = make_detector(enable_aqr=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = losses_of(detector, make_data())
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in detector.parameters())


# One sample: half-precision convolutions are slow on CPUs.
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_detection_in_half_precision_on_cpu(make_detector, make_data, dtype):
    detector, data = make_detector(enable_aqr=True, aqr_use_local_bias=True), make_data((300, ), (2, ))
    with torch.autocast('cpu', dtype=dtype):
        result, = detect(detector, data)
    assert torch.isfinite(result['pts_bbox']['scores_3d']).all() and len(result['pts_bbox']['scores_3d'])


@pytest.mark.parametrize('name, proposal', [('use_grid_maks', "did you mean 'use_grid_mask'"),
                                            ('pts_bbox_haed', "did you mean 'pts_bbox_head'"), ('zzz', 'allowed: ')])
def test_misspelt_arguments(make_detector, name, proposal):
    with pytest.raises(TypeError, match=f"unexpected argument '{name}'.*{proposal}"):
        make_detector(model={name: True})


def test_training_repeats_bit_for_bit_with_two_threads(make_detector, make_data):
    """Gradients of all parameters, whatever thread is first."""
    detector = make_detector(enable_aqr=True, aqr_use_local_bias=True, aqr_loss_weight=0.0)
    torch.nn.init.normal_(detector.pts_bbox_head.aqr_router.mlp[-1].weight, std=0.1)
    threads, runs = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            detector.zero_grad()
            torch.manual_seed(0)
            np.random.seed(0)
            sum(losses_of(detector, make_data()).values()).backward()
            runs.append({name: parameter.grad for name, parameter in detector.named_parameters()})
    finally:
        torch.set_num_threads(threads)
    for name, gradient in runs[0].items():
        assert all(torch.equal(gradient, run[name]) for run in runs[1:]), name
