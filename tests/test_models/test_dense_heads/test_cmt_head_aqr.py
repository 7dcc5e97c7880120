"""AQR in the head: neutral start, effect, denoising, gradients, absent modalities."""
import pytest
import torch

from ..conftest import randomize

BRANCHES = ('center', 'height', 'dim', 'rot', 'vel', 'cls_logits')
LOCAL = dict(aqr_use_local_bias=True, aqr_local_window_size=dict(lidar=5, camera=5))


def outputs(head, batch):
    x, x_img, metas = batch
    with torch.no_grad():
        return head.eval()([x], [x_img], metas)[0][0]


def largest_change(out, base):
    return max(((out[name] - base[name]).abs().max() / base[name].abs().max()).item() for name in BRANCHES)


@pytest.mark.parametrize('mode', [{}, LOCAL])
@pytest.mark.parametrize('strength', [0.0, 1.0, 5.0, 10.0])
def test_neutral_start(make_head, make_batch, mode, strength):
    batch = make_batch()
    baseline = make_head()
    base = outputs(baseline, batch)
    routed = make_head(seed=1, enable_aqr=True, aqr_bias_strength=strength, **mode)
    assert largest_change(outputs(routed, batch), base) > 1e-2, 'another initialization must show'
    result = routed.load_state_dict(baseline.state_dict(), strict=False)
    assert not result.unexpected_keys and all(key.startswith('aqr_router.') for key in result.missing_keys)
    assert largest_change(outputs(routed, batch), base) < 1e-5
    randomize(routed.aqr_router)
    changed = largest_change(outputs(routed, batch), base)
    assert changed > 1e-3 if strength else changed < 1e-5


def test_init_weights_keeps_the_head_neutral(make_head, make_batch):
    batch = make_batch()
    head = make_head(enable_aqr=True)
    base = outputs(head, batch)
    assert (base['routing'].lidar_weights == 0.5).all() and (base['routing'].camera_weights == 0.5).all()
    assert (base['routing'].bias.dense() == 0).all()


def test_state_dict_adds_the_router_alone(make_head):
    baseline, routed = set(make_head().state_dict()), set(make_head(enable_aqr=True).state_dict())
    assert baseline < routed and all(key.startswith('aqr_router.') for key in routed - baseline)


@pytest.mark.parametrize('num_boxes', [(5, 3), (0, 4), (0, 0)])
@pytest.mark.parametrize('mode', [{}, LOCAL])
def test_detection_loss_reaches_the_router(make_head, make_batch, train_losses, mode, num_boxes):
    head = make_head(enable_aqr=True, **mode).train()
    randomize(head.aqr_router, std=0.1)
    losses = train_losses(head, make_batch(num_boxes))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in head.aqr_router.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


def test_neutral_router_receives_a_gradient_at_the_first_step(make_head, make_batch, train_losses):
    head = make_head(enable_aqr=True).train()
    sum(train_losses(head, make_batch()).values()).backward()
    assert head.aqr_router.mlp[-1].weight.grad.abs().max() > 0


@pytest.mark.parametrize('bias_denoising', [True, False])
def test_denoising_queries(make_head, make_batch, bias_denoising):
    head = make_head(enable_aqr=True, aqr_bias_denoising=bias_denoising).train()
    randomize(head.aqr_router)
    x, x_img, metas = make_batch((5, 3))
    out = head([x], [x_img], metas)[0][0]
    routing, pad = out['routing'], out['dn_batch'].pad_size
    assert pad == 15 and routing.bias.shape == (2, 35, 256 + 240)
    assert routing.is_learned.tolist() == [False] * 15 + [True] * 20
    assert torch.equal(routing.is_used[:, :15], out['dn_batch'].occupied) and routing.is_used[:, 15:].all()
    assert not routing.is_used.all(), 'the smaller sample has padding'
    denoising_weights = routing.lidar_weights[:, :15]
    assert (denoising_weights != 0.5).any() == bias_denoising
    assert (routing.bias.dense()[:, :15] != 0).any() == bias_denoising
    assert (routing.bias.dense()[:, 15:] != 0).any()


def test_batch_of_two_equals_two_batches_of_one(make_head, make_batch):
    head = make_head(enable_aqr=True, **LOCAL)
    randomize(head.aqr_router)
    x, x_img, metas = make_batch((1, 1))
    both = outputs(head, (x, x_img, metas))
    for sample in range(2):
        alone = outputs(head, (x[sample:sample + 1], x_img[sample * 6:sample * 6 + 6], metas[sample:sample + 1]))
        for name in BRANCHES:
            torch.testing.assert_close(both[name][:, sample:sample + 1], alone[name], rtol=1e-4, atol=1e-4)
        assert torch.equal(both['routing'].projections.pts_pers_idx[sample],
                           alone['routing'].projections.pts_pers_idx[0])


@pytest.mark.parametrize('absent', ['x', 'x_img'])
@pytest.mark.parametrize('training', [True, False])
def test_absent_modality_runs_without_bias(make_head, make_batch, train_losses, absent, training):
    x, x_img, metas = make_batch()
    head = make_head(enable_aqr=True).train(training)
    randomize(head.aqr_router)
    x, x_img = (None, x_img) if absent == 'x' else (x, None)
    out = head([x], [x_img], metas)[0][0]
    assert 'routing' not in out and all(torch.isfinite(out[name]).all() for name in BRANCHES)
    if training:
        assert all(torch.isfinite(loss) for loss in train_losses(head, (x, x_img, metas)).values())


def test_modulation_returns_the_same_feature_objects(make_head, make_batch):
    _, x_img, metas = make_batch()
    x = torch.randn(2, 64, 16, 16)
    for head in (make_head(), make_head(enable_aqr=True)):
        reference = torch.rand(2, 7, 3)
        before = x.clone(), x_img.clone()
        got_x, got_x_img, bias, record = head._apply_aqr_modulation(x, x_img, reference, metas)
        assert got_x is x and got_x_img is x_img and torch.equal(x, before[0]) and torch.equal(x_img, before[1])
        assert (bias is None) == (not head.enable_aqr) == (record is None)
        if bias is not None:
            assert bias.shape == (2, 7, 256 + 240) and record.is_learned.all()


def test_no_cameras_see_the_query(make_head, make_batch):
    """All cameras look away: camera bias 0 in local mode, nothing is NaN."""
    x, x_img, metas = make_batch((2, 1))
    for meta in metas:
        away = meta['lidar2img'][0].copy()
        away[:3] *= -1  # flips the sign of the depth of everything in front
        behind = [away] * 6
        meta['lidar2img'] = behind
    head = make_head(enable_aqr=True, **LOCAL)
    randomize(head.aqr_router)
    with torch.no_grad():
        head.reference_points.weight[:, 0] = 0.9  # in front of the original camera
        head.reference_points.weight[:, 1] = 0.5
        out = head.eval()([x], [x_img], metas)[0][0]
    assert not out['routing'].projections.pts_pers_valid.any()
    assert (out['routing'].bias.dense()[..., 256:] == 0).all() and (out['routing'].bias.dense()[..., :256] != 0).any()
    assert all(torch.isfinite(out[name]).all() for name in BRANCHES)


@pytest.mark.parametrize('num_boxes', [(0, 0), (0, 3), (25, 2)])
@pytest.mark.parametrize('aqr', [False, True])
def test_degenerate_ground_truth(make_head, make_batch, train_losses, num_boxes, aqr):
    """No boxes at all, none in one sample, more boxes than queries: finite losses under the same names."""
    head = make_head(enable_aqr=aqr).train()
    names = set(train_losses(head, make_batch((2, 2))))
    losses = train_losses(head, make_batch(num_boxes))
    assert set(losses) == names and all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    if num_boxes != (0, 3):
        assert losses['dn_loss_cls'] == 0


def test_one_query(make_head, make_batch, train_losses):
    head = make_head(num_query=1, enable_aqr=True, **LOCAL)
    assert outputs(head, make_batch())['center'].shape == (2, 2, 1, 2)
    losses = train_losses(head.train(), make_batch((1, 0)))
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_on_cpu(make_head, make_batch, train_losses, dtype):
    head = make_head(enable_aqr=True, **LOCAL).train()
    randomize(head.aqr_router, std=0.1)
    with torch.autocast('cpu', dtype=dtype):
        losses = train_losses(head, make_batch())
        total = sum(losses.values())
    full = sum(train_losses(head, make_batch()).values())
    assert torch.isfinite(total) and abs(total - full) / full < 0.2  # other noise, same scale
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize('overrides', [dict(aqr_bias_strength=-1.0), dict(aqr_local_window_size=4),
                                       dict(aqr_weight_map='cubic'), dict(aqr_router=dict(windows=2)),
                                       dict(init_cfg=dict(type='Normal')), dict(train_cfg=None, test_cfg=None)])
def test_bad_options(make_head, overrides):
    with pytest.raises(ValueError):
        make_head(enable_aqr=True, **overrides)


@pytest.mark.parametrize('name', ['enable_aqr', 'aqr_use_local_bias', 'aqr_per_view', 'aqr_bias_denoising'])
@pytest.mark.parametrize('value', ['no', 1, None])
def test_switches_must_be_booleans(make_head, name, value):
    with pytest.raises(TypeError, match=name):
        make_head(**{name: value})


@pytest.mark.parametrize('enable_aqr', [False, True])
@pytest.mark.parametrize('name, proposal', [('aqr_bias_strenght', 'aqr_bias_strength'), ('num_querys', 'num_query'),
                                            ('aqr_router_windows', 'aqr_router'), ('zzz', 'allowed:')])
def test_misspelt_options(make_head, enable_aqr, name, proposal):
    with pytest.raises(TypeError, match=f"unexpected argument '{name}'.*{proposal}"):
        make_head(enable_aqr=enable_aqr, **{name: 1})


@pytest.mark.parametrize('overrides', [dict(aqr_bias_strength=-7.0), dict(aqr_local_window_size=14)])
def test_mistakes_show_before_aqr_is_on(make_head, overrides):
    with pytest.raises(ValueError):
        make_head(enable_aqr=False, **overrides)


@pytest.mark.parametrize('change',
                         [dict(out_size_factor=4), dict(point_cloud_range=[-50.0, -54.0, -5.0, 54.0, 54.0, 3.0])])
def test_geometry_must_agree(make_head, change):
    """Another stride or range would misplace every window without a word."""
    with pytest.raises(ValueError, match='downsample_scale'):
        make_head(test_cfg=dict(voxel_size=[0.84375, 0.84375, 0.2], **change))


@pytest.mark.parametrize('label', [-1, 10])
def test_labels_outside_the_classes_raise(make_head, make_batch, train_losses, label):
    batch = make_batch()
    batch[2][0]['gt_labels_3d'].data[0] = label
    for scalar in (0, 3):
        with pytest.raises(ValueError, match='gt_labels_3d'):
            train_losses(make_head(scalar=scalar).train(), batch)


def test_strength_zero_is_off_but_keeps_the_router_in_the_graph(make_head, make_batch, train_losses):
    head = make_head(enable_aqr=True, aqr_bias_strength=0.0).train()
    randomize(head.aqr_router)
    losses = train_losses(head, make_batch())
    sum(losses.values()).backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in head.aqr_router.parameters())


@pytest.mark.parametrize('options', [dict(enable_aqr=True), dict(enable_aqr=True, **LOCAL), {}])
@pytest.mark.parametrize('value', [float('inf'), float('nan')])
@pytest.mark.parametrize('place', ['x', 'x_img', 'weight'])
def test_what_is_not_finite_ends_in_a_loss_of_nan(make_head, make_batch, train_losses, options, value, place):
    """The pass gets through, and all parameters get a gradient, which is how all processes come to refuse the step."""
    head = make_head(**options).train()
    x, x_img, metas = make_batch()
    {'x': x, 'x_img': x_img, 'weight': head.task_heads[0].center[0].weight.data}[place].view(-1)[0] = value
    losses = train_losses(head, (x, x_img, metas))
    assert all(torch.isnan(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_a_finite_pass_is_left_alone(make_head, make_batch, train_losses):
    head = make_head(enable_aqr=True).train()
    assert all(torch.isfinite(loss) for loss in train_losses(head, make_batch()).values())
    x, x_img, metas = make_batch()
    assert head([x], [x_img], metas)[0][0]['is_finite'] is True
    assert 'is_finite' not in outputs(head, (x, x_img, metas))


def test_a_head_built_for_inference_has_no_losses(make_head, make_batch, train_losses):
    with pytest.raises(ValueError, match='train_cfg'):
        train_losses(make_head(train_cfg=None).train(), make_batch())


def test_unknown_option_is_not_swallowed(make_head):
    with pytest.raises(TypeError, match='aqr_strenght'):
        make_head(aqr_strenght=3.0)


def test_bias_strength_scales_the_bias(make_head, make_batch):
    biases = []
    for strength in (3.0, 6.0):
        head = make_head(enable_aqr=True, aqr_bias_strength=strength)
        randomize(head.aqr_router)
        biases.append(outputs(head, make_batch())['routing'].bias.dense())
    torch.testing.assert_close(biases[1], 2 * biases[0])
    assert biases[0].abs().max() <= 3
