"""Stand-ins in the whole detector: neutral start, full distrust, and features of blank sensors that are never stale."""
import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.runner import EMAHook

from projects.mmdet3d_plugin.core.failure_record import FailureRecord

LIDAR, CAMERAS = 0, 1
CONFERRING = dict(aqr_router=dict(type='ConferringRouter', hidden_dims=32), aqr_weight_map='log_gate',
                  aqr_targets='trust')


def outputs(detector, data, pts_feats=None, img_feats=None):
    """Branches of the last layer, with other features in place of the batch's where given."""
    with torch.no_grad():
        img_feats_own, pts_feats_own = detector.extract_feat(data['points'], data['img'], data['img_metas'])
        blank = detector.blank_features(data['points'], data['img'], data['img_metas'])
        out, = detector.pts_bbox_head(pts_feats or pts_feats_own, img_feats or img_feats_own, data['img_metas'],
                                      *([blank] if blank is not None else []))
    return {name: value[-1] for name, value in out[0].items() if isinstance(value, torch.Tensor)}


def louder(detector):
    """The LiDAR branch of a fresh small detector says next to nothing."""
    torch.nn.init.constant_(detector.pts_bbox_head.shared_conv.bn.weight, 3e3)
    return detector


def distrust(detector, sensor, amount=100.0):
    """Let the router give one sensor a weight of sigmoid(-amount) everywhere, the other one 0.5."""
    last = detector.pts_bbox_head.aqr_router.mlp[-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([-amount, 0.0] if sensor == LIDAR else [0.0, -amount]))


@pytest.mark.parametrize('options', [dict(), dict(aqr_per_view=True), dict(aqr_weight_map='log_gate'),
                                     dict(aqr_strength_per_head=True), dict(CONFERRING)], ids=str)
def test_neutral_start_is_exact(make_detector, make_data, options):
    data = make_data()
    plain = make_detector().eval()
    expected = outputs(plain, data)
    detector = make_detector(enable_aqr=True, aqr_stand_ins=True, **options).eval()
    missing, unexpected = detector.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all('.aqr_' in name for name in missing)
    found = outputs(detector, data)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-5 * max(1, value.abs().max()), name
    if options == CONFERRING:  # which needs stand-ins
        return
    # With weights of exactly 0.5 the option changes nothing, bit for bit.
    without = make_detector(enable_aqr=True, **options).eval()
    without.load_state_dict(detector.state_dict())
    for name, value in outputs(without, data).items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize('sensor', [LIDAR, CAMERAS], ids=['LiDAR', 'cameras'])
@pytest.mark.parametrize('options', [dict(), dict(aqr_weight_map='log_gate', aqr_bias_strength=60.0)], ids=str)
def test_full_distrust_decodes_as_if_the_sensor_were_blank(make_detector, make_data, sensor, options):
    data = make_data()
    plain = louder(make_detector().eval())
    detector = make_detector(enable_aqr=True, aqr_stand_ins=True, **dict(dict(aqr_bias_strength=1e4), **options)).eval()
    detector.load_state_dict(plain.state_dict(), strict=False)
    distrust(detector, sensor)
    blank_pts, blank_img = detector.blank_features(data['points'], data['img'], data['img_metas'])
    blank = dict(pts_feats=blank_pts) if sensor == LIDAR else dict(img_feats=blank_img)
    expected, clean = outputs(plain, data, **blank), outputs(plain, data)
    for name, value in outputs(detector, data).items():
        assert (value - expected[name]).abs().max() <= 1e-5 * max(1, expected[name].abs().max()), name
    assert (expected['cls_logits'] - clean['cls_logits']).abs().max() > 1e-3  # there is something to see


def test_half_distrust_lies_between(make_detector, make_data):
    """And differs from the plain bias, which gives the mass to the other sensor."""
    data = make_data()
    results = {}
    for stand_ins in (True, False):
        detector = make_detector(enable_aqr=True, aqr_stand_ins=stand_ins).eval()
        distrust(detector, LIDAR, amount=1.0)
        results[stand_ins] = outputs(detector, data)['cls_logits']
    assert (results[True] - results[False]).abs().max() > 1e-4


@pytest.mark.parametrize('points', ['origin', 'none'])
def test_blank_features_are_those_of_blank_inputs(make_detector, make_data, points):
    detector = make_detector(enable_aqr=True, aqr_stand_ins=True, aqr_blank_points=points).eval()
    data = make_data()
    norm = data['img_metas'][0]['img_norm_cfg']
    black = torch.as_tensor(-norm['mean'] / norm['std']).view(3, 1, 1).expand_as(data['img'][0, 0])
    img = black.expand_as(data['img']).contiguous()
    clouds = [torch.zeros(500 if points == 'origin' else 0, 5) for _ in data['points']]
    with torch.no_grad():
        expected_img, expected_pts = detector.extract_feat(clouds, img, data['img_metas'])
    pts, image = detector.blank_features(data['points'], data['img'], data['img_metas'])
    torch.testing.assert_close(pts[0], expected_pts[0])
    torch.testing.assert_close(image[0], expected_img[0])


def test_blank_features_follow_the_weights(make_detector, make_data):
    detector, data = make_detector(enable_aqr=True, aqr_stand_ins=True).eval(), make_data()
    arguments = data['points'], data['img'], data['img_metas']
    first = [each[0].clone() for each in detector.blank_features(*arguments)]
    again = detector.blank_features(*arguments)
    assert all(torch.equal(a, b[0]) for a, b in zip(first, again))
    other = make_detector(seed=1, enable_aqr=True, aqr_stand_ins=True).eval()
    detector.load_state_dict(other.state_dict())
    fresh = other.blank_features(*arguments)
    for new, expected in zip(detector.blank_features(*arguments), fresh):
        assert torch.equal(new[0], expected[0])
    assert not torch.equal(detector.blank_features(*arguments)[1][0], first[1])
    twin = copy.deepcopy(detector)
    with torch.no_grad():
        twin.img_neck.lateral_convs[0].conv.weight.mul_(2)
    assert not torch.equal(twin.blank_features(*arguments)[1][0], detector.blank_features(*arguments)[1][0])


def test_blank_features_follow_weights_that_a_hook_exchanges(make_detector, make_data):
    """mmcv's EMAHook writes through ``.data``, which torch does not count as a change."""
    detector, data = make_detector(enable_aqr=True, aqr_stand_ins=True), make_data()
    arguments = data['points'], data['img'], data['img_metas']
    hook, runner = EMAHook(momentum=0.5, warm_up=1), SimpleNamespace(model=detector, iter=10)
    hook.before_run(runner)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(1.5)
    hook.after_train_iter(runner)
    trained = detector.train().blank_features(*arguments)[1][0].clone()
    hook.after_train_epoch(runner)  # before evaluation
    averaged = detector.eval().blank_features(*arguments)[1][0].clone()
    detector.train()  # as mmcv's runner does before it calls the hooks
    hook.before_train_epoch(runner)
    assert torch.equal(detector.blank_features(*arguments)[1][0], trained)
    hook.after_train_epoch(runner)
    assert torch.equal(copy.deepcopy(detector).eval().blank_features(*arguments)[1][0], averaged)
    assert not torch.equal(trained, averaged)


def test_samples_that_are_normalized_differently(make_detector, make_data):
    detector, data = make_detector(enable_aqr=True, aqr_stand_ins=True).eval(), make_data()
    data['img_metas'][1]['img_norm_cfg'] = dict(mean=np.zeros(3, np.float32), std=np.ones(3, np.float32))
    data['img_metas'][0]['img_norm_cfg'] = dict(mean=np.ones(3, np.float32), std=np.ones(3, np.float32))
    with pytest.raises(ValueError, match='must be normalized alike for one black image to stand for all, got levels'):
        detector.blank_features(data['points'], data['img'], data['img_metas'])


def test_a_training_step_leaves_statistics_to_the_batch(make_detector, make_data):
    """Blank inputs never reach the running statistics of BatchNorm, and no gradient flows through them."""
    data = make_data()
    states = []
    for stand_ins in (True, False):
        detector = make_detector(enable_aqr=True, aqr_stand_ins=stand_ins)
        distrust(detector, LIDAR, amount=0.5)
        torch.manual_seed(3)
        losses = detector.train()(return_loss=True, **copy.deepcopy(data))
        sum(losses.values()).backward()
        states.append(dict(detector.named_buffers()))
        assert all(module.training for module in detector.modules())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_looks_are_the_first_layer_with_one_sensor_blank(make_detector, make_data):
    detector = louder(make_detector(enable_aqr=True, aqr_stand_ins=True, **CONFERRING).eval())
    data, seen = make_data(), []
    detector.pts_bbox_head.aqr_router.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs['looks']), with_kwargs=True)
    outputs(detector, data)
    looks, = seen
    first, decoder = [], detector.pts_bbox_head.transformer.decoder
    decoder.layers[0].register_forward_hook(
        lambda module, args, out: first.append(decoder.post_norm(out).transpose(0, 1)))
    pts, img = detector.blank_features(data['points'], data['img'], data['img_metas'])
    for blank, states in ((dict(img_feats=img), looks.lidar_states), (dict(pts_feats=pts), looks.camera_states)):
        first.clear()
        outputs(detector, data, **blank)
        torch.testing.assert_close(states, first[-1])  # the last pass through the layer is that of detection
    assert (looks.lidar_states - looks.camera_states).abs().max() > 1e-3


@pytest.mark.parametrize('options', [dict(), dict(aqr_per_view=True), dict(aqr_strength_per_head=True)], ids=str)
def test_looks_and_decoder_share_the_first_layer(make_detector, make_data, options):
    """Without gradients the first layer reads each token and stand-in once; with gradients nothing is shared, and the
    result is the same.
    """
    detector = louder(make_detector(enable_aqr=True, aqr_stand_ins=True, **CONFERRING, **options).eval())
    head, data, keys = detector.pts_bbox_head, make_data(), []
    torch.nn.init.normal_(head.aqr_router.verdict[-1].weight)
    pts_feats, img_feats, blank = features_of(detector, data)
    unshared = head(pts_feats, img_feats, data['img_metas'], blank)[0][0]
    assert unshared['center'].requires_grad and (unshared['routing'].bias.values < 0).any()
    first = head.transformer.decoder.layers[0].attentions[1].attn
    project, tokens = first._key_value_heads, unshared['routing'].bias.num_tokens
    first._key_value_heads = lambda key, value: keys.append(key.shape[1]) or project(key, value)
    with torch.no_grad():
        shared = head(pts_feats, img_feats, data['img_metas'], blank)[0][0]
    assert sum(keys) == 2 * tokens
    for name, value in unshared.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-4)


def test_dropout_is_not_shared(make_detector, make_data):
    """In training mode queries of looks and decoder differ by dropout; without gradients the result is the same."""
    detector = louder(make_detector(enable_aqr=True, aqr_stand_ins=True, **CONFERRING).eval())
    head, data = detector.pts_bbox_head, make_data()
    torch.nn.init.normal_(head.aqr_router.verdict[-1].weight)
    for name, parameter in head.transformer.named_parameters():
        if 'attentions' in name and name.endswith('bias'):
            torch.nn.init.normal_(parameter)
    pts_feats, img_feats, blank = features_of(detector, data)
    head.transformer.train()
    for module in head.transformer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    outs = []
    for has_grad in (True, False):
        torch.manual_seed(0)
        with torch.set_grad_enabled(has_grad):
            outs.append(head(pts_feats, img_feats, data['img_metas'], blank)[0][0]['center'].detach())
    torch.testing.assert_close(*outs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('lean', [0.0, 1.0])
def test_later_layers_read_stand_ins_only_where_a_query_leans_on_them(make_detector, make_data, lean):
    detector = louder(make_detector(enable_aqr=True, aqr_stand_ins=True, **CONFERRING).eval())
    head, data, keys = detector.pts_bbox_head, make_data(), []
    with torch.no_grad():
        head.aqr_router.verdict[-1].bias.copy_(torch.tensor([3.0 - 6 * lean, 3.0]))  # LiDAR is trusted, or is not
        last = head.transformer.decoder.layers[-1].attentions[1].attn
        project = last._key_value_heads
        last._key_value_heads = lambda key, value: keys.append(key.shape[1]) or project(key, value)
        pts_feats, img_feats, blank = features_of(detector, data)
        bias = head(pts_feats, img_feats, data['img_metas'], blank)[0][0]['routing'].bias
    lidar = bias.segments[0]
    assert sum(keys) == bias.num_tokens + lean * (lidar.stop - lidar.start)


def features_of(detector, data):
    with torch.no_grad():
        img_feats, pts_feats = detector.extract_feat(data['points'], data['img'], data['img_metas'])
        return pts_feats, img_feats, detector.blank_features(data['points'], data['img'], data['img_metas'])


def test_stand_ins_for_looks_alone(make_detector, make_data):
    """Verdicts are the same; what is taken from LiDAR goes to the cameras, as without stand-ins."""
    data, routed, decoded = make_data(), {}, {}
    for stand_ins in (True, 'looks'):
        detector = louder(make_detector(enable_aqr=True, aqr_stand_ins=stand_ins, **CONFERRING).eval())
        torch.manual_seed(0)
        torch.nn.init.normal_(detector.pts_bbox_head.aqr_router.verdict[-1].weight)
        pts_feats, img_feats, blank = features_of(detector, data)
        seen = []
        detector.pts_bbox_head.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
        with torch.no_grad():
            out = detector.pts_bbox_head(pts_feats, img_feats, data['img_metas'], blank)[0][0]
        routed[stand_ins], decoded[stand_ins] = out['routing'], out['center']
        assert (seen[-1]['stand_ins'] is None) == (stand_ins == 'looks') and len(seen) == 3
    assert torch.equal(routed[True].lidar_weights, routed['looks'].lidar_weights)
    assert (routed[True].bias.values < 0).any() and not torch.equal(decoded[True], decoded['looks'])


def test_tokens_of_blank_sensors_are_made_once(make_detector, make_data):
    detector = make_detector(enable_aqr=True, aqr_stand_ins=True).eval()
    head, data, batches = detector.pts_bbox_head, make_data(), []
    head.shared_conv.register_forward_hook(lambda module, args, out: batches.append(len(out)))
    distrust(detector, LIDAR, amount=1.0)
    first, again = (outputs(detector, data) for _ in range(2))
    assert batches == [2, 1, 2]  # the blank BEV map once, not for each sample
    with torch.no_grad():
        head.shared_conv.bn.weight.mul_(2.0)
    changed = outputs(detector, data)
    assert batches == [2, 1, 2, 2, 1] and torch.equal(first['center'], again['center'])
    fresh = make_detector(enable_aqr=True, aqr_stand_ins=True).eval()
    fresh.load_state_dict(detector.state_dict())
    assert torch.equal(outputs(fresh, data)['center'], changed['center'])


def test_the_conferring_router_learns_alone(make_detector, make_data):
    """One step of the frozen detector: gradients in the router only, denoising queries without a say."""
    detector = make_detector(enable_aqr=True, aqr_stand_ins=True, aqr_loss_weight=1.0, **CONFERRING,
                             model=dict(train_only=['pts_bbox_head.aqr_router']))
    torch.nn.init.normal_(detector.pts_bbox_head.aqr_router.verdict[-1].weight)
    data, says = make_data(), []
    for meta in data['img_metas']:
        meta['failure'] = FailureRecord('lidar_drop', lidar_everywhere=True, views_lost=np.zeros(6, dtype=bool))
    detector.pts_bbox_head.aqr_router.register_forward_hook(
        lambda module, args, kwargs, out: says.append(kwargs['has_say']), with_kwargs=True)
    losses = detector.train()(return_loss=True, **data)
    losses['loss_aqr'].backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.abs().max() > 0)) == ('aqr_router' in name), name
    assert says[0].shape[1] > 12 and not says[0][:, :-12].any() and says[0][:, -12:].all()
    assert detector.training and detector.pts_bbox_head.transformer.training


def test_mistakes(make_detector, make_data):
    with pytest.raises(ValueError, match='aqr_stand_ins=True needs whole segments'):
        make_detector(enable_aqr=True, aqr_stand_ins=True, aqr_use_local_bias=True)
    with pytest.raises(ValueError, match='aqr_blank_points must be one of'):
        make_detector(enable_aqr=True, aqr_stand_ins=True, aqr_blank_points='somewhere')
    with pytest.raises(TypeError, match='aqr_stand_ins must be True or False'):
        make_detector(aqr_stand_ins=1)
    with pytest.raises(ValueError, match='ConferringRouter looks with one sensor at a time'):
        make_detector(enable_aqr=True, **CONFERRING)
    with pytest.raises(ValueError, match='aqr_targets must be one of'):
        make_detector(enable_aqr=True, aqr_targets='truth')
    detector, data = make_detector(enable_aqr=True, aqr_stand_ins=True).eval(), make_data()
    img_feats, pts_feats = detector.extract_feat(data['points'], data['img'], data['img_metas'])
    with pytest.raises(ValueError, match='aqr_stand_ins=True needs blank_feats'):
        detector.pts_bbox_head(pts_feats, img_feats, data['img_metas'])
    del data['img_metas'][0]['img_norm_cfg']
    with pytest.raises(ValueError, match="img_metas lack 'img_norm_cfg'"):
        detector.simple_test(data['points'], data['img_metas'], data['img'])
