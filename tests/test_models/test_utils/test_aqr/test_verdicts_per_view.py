"""A router that judges view by view: verdicts, bias, targets and loss against loops; a whole head."""
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.models.utils import AttentionBiasGenerator
from projects.mmdet3d_plugin.models.utils.aqr import AQROptions, ConferringRouter, Looks
from projects.mmdet3d_plugin.models.utils.aqr.supervision import (
    RoutingTargets,
    paying_targets,
    routing_loss,
    targets_of_views,
    trust_targets,
    views_lost,
)
from tests.test_models.conftest import make_batch, make_head  # noqa: F401  (fixtures)

PER_VIEW = dict(enable_aqr=True, aqr_router=dict(type='ConferringRouter', per_view=True), aqr_stand_ins=True,
                aqr_per_view=True, aqr_weight_map='log_gate', aqr_bias_strength=1.5, aqr_targets='trust',
                aqr_loss_weight=1.0)


def some_looks(batch, queries, channels=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Looks(*(torch.randn(batch, queries, size, generator=generator) for size in (channels, channels, 5, 5)))


def lively_router(**options):
    torch.manual_seed(0)
    router = ConferringRouter(8, 16, num_heads=2, num_layers=1, **options)
    torch.nn.init.normal_(router.verdict[-1].weight)
    return router


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 2), queries=st.integers(1, 5), num_views=st.integers(1, 4))
def test_verdicts_against_routers_that_see_one_view_at_a_time(seed, batch, queries, num_views):
    """The weights are the same for both kinds of router; so a query that only view v saw would get v's verdict."""
    generator = torch.Generator().manual_seed(seed)
    one, each = lively_router(), lively_router(per_view=True)
    each.load_state_dict(one.state_dict())
    looks, say = some_looks(batch, queries, seed=seed % 1000), torch.ones(batch, queries, dtype=torch.bool)
    seen = torch.rand(batch, queries, num_views, generator=generator) < 0.6
    tokens = []
    one.confer.register_forward_hook(lambda module, args, out: tokens.append(out))
    whole, verdicts = one.judge(looks, seen, say), each.judge(looks, seen, say)
    torch.testing.assert_close(verdicts[..., 0], whole[..., 0])
    for b, q, v in itertools.product(range(batch), range(queries), range(num_views)):
        evidence = one._evidence(looks)[b, q]
        expected = one.verdict(torch.cat([evidence, tokens[0][b, 0], tokens[0][b, 1 + v]]))[1]
        torch.testing.assert_close(verdicts[b, q, 1 + v], expected)
        if seen[b, q].nonzero().flatten().tolist() == [v]:
            torch.testing.assert_close(verdicts[b, q, 1 + v], whole[b, q, 1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), per_sample=st.booleans(), pays=st.booleans())
def test_targets_against_a_loop(seed, per_sample, pays):
    rng = np.random.default_rng(seed)
    batch, queries, num_views = 2, 4, 3
    seen = torch.from_numpy(rng.random((batch, queries, num_views)) < 0.6)
    lost_views = torch.from_numpy(rng.random((batch, num_views)) < 0.5)
    lidar_lost = torch.from_numpy(rng.random((batch, queries)) < 0.3)
    working = ~lost_views.unsqueeze(1)
    cameras_lost = seen.any(dim=-1) & ~(seen & working).any(dim=-1)
    if pays:
        touched = torch.ones(batch, 2, dtype=torch.bool)
        given_targets = paying_targets(lidar_lost, cameras_lost, touched, torch.from_numpy(rng.normal(size=(batch, 2))),
                                       0.01)
    else:
        has_target = torch.from_numpy(rng.random((batch, 1, 2)) < 0.7).expand(batch, queries, 2)
        given_targets = RoutingTargets(lidar_lost, cameras_lost, trust_targets(lidar_lost, cameras_lost), None,
                                       has_target)
    targets = targets_of_views(given_targets, seen, lost_views)
    for b, q in itertools.product(range(batch), range(queries)):
        assert targets.weights[b, q, 0] == given_targets.weights[b, q, 0]
        assert targets.has_target[b, q, 0] == given_targets.has_target[b, q, 0]
        for v in range(num_views):
            struck = lost_views[b, v] or not lost_views[b].any()
            least = min(given_targets.weights[b, other, 1] for other in range(queries))
            taught = 0.5 if given_targets.weights[b, q, 1] == 0.5 else least  # both sensors are lost there
            assert targets.weights[b, q, 1 + v] == (taught if struck else 1)
            assert targets.has_target[b, q, 1 + v] == (given_targets.has_target[b, q, 1] and seen[b, q, v])
            if pays:
                assert targets.importance[b, q, 1 + v] == given_targets.importance[b, q, 1]
    lidar, views = torch.rand(batch, queries), torch.rand(batch, queries, num_views)
    supervised = torch.from_numpy(rng.random((batch, queries)) < 0.7)
    total = weight = 0.0
    for b, q, w in itertools.product(range(batch), range(queries), range(1 + num_views)):
        if supervised[b, q] and targets.has_target[b, q, w]:
            factor = 1.0 if targets.importance is None else targets.importance[b, q, w].item()
            found, aim = (lidar[b, q] if w == 0 else views[b, q, w - 1]).item(), targets.weights[b, q, w].item()
            total -= factor * (aim * np.log(found) + (1 - aim) * np.log(1 - found))
            weight += factor
    loss = routing_loss(lidar, views, targets, supervised).item()
    assert loss == pytest.approx(total / weight if weight else 0.0, rel=1e-4)


def test_views_that_a_failure_took():
    seen = torch.ones(2, 5, 3, dtype=torch.bool)
    metas = [dict(failure=FailureRecord('clean')),
             dict(failure=FailureRecord('view_drop:1', views_lost=np.array([False, True, False])))]
    assert views_lost(metas, seen).tolist() == [[False] * 3, [False, True, False]]


def test_bias_of_each_view_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    bias = AttentionBiasGenerator(bias_strength=2.0, per_view=True, bias_clip=1.5)
    lidar, camera = torch.rand(2, 3, generator=generator), torch.rand(2, 3, 4, generator=generator)
    seen = torch.rand(2, 3, 4, generator=generator) < 0.5
    cells = torch.zeros(2, 3, 4, 2, dtype=torch.long)
    dense = bias(lidar, camera, None, cells, seen, (2, 3), (4, 1, 2))
    for b, q in itertools.product(range(2), range(3)):
        torch.testing.assert_close(dense[b, q, :6], bias.weight_to_bias(lidar[b, q]).expand(6))
        for v in range(4):
            expected = bias.weight_to_bias(camera[b, q, v]) if seen[b, q, v] else torch.tensor(0.0)
            torch.testing.assert_close(dense[b, q, 6 + 2 * v:8 + 2 * v], expected.expand(2))
    same = bias(lidar, camera[..., :1].expand_as(camera), None, cells, seen, (2, 3), (4, 1, 2))
    torch.testing.assert_close(same, bias(lidar, camera[..., 0], None, cells, seen, (2, 3), (4, 1, 2)))
    with pytest.raises(ValueError, match=r'must both be \(B, Q\), or camera_weights \(B, Q, 4\), got'):
        bias(lidar, camera[..., :3], None, cells, seen, (2, 3), (4, 1, 2))
    with pytest.raises(ValueError, match=r'must both be \(B, Q\), got'):
        AttentionBiasGenerator()(lidar, camera, None, cells, seen, (2, 3), (4, 1, 2))


@pytest.mark.parametrize('changes', [dict(aqr_per_view=False), dict(aqr_targets='preference')])
def test_options_that_contradict_each_other(changes):
    options = {name: value for name, value in PER_VIEW.items() if name != 'enable_aqr'}
    AQROptions.of_head(options)
    with pytest.raises(ValueError, match="per_view=True needs aqr_per_view=True.*'trust'"):
        AQROptions.of_head({**options, **changes})


def test_nobody_confers():
    with pytest.raises(ValueError, match='per_view=True judges views by their tokens, which num_layers=0 leaves out'):
        ConferringRouter(8, num_layers=0, per_view=True)


def detect(head, batch):
    x, x_img, metas = batch
    return head([x], [x_img], metas, ([torch.zeros_like(x)], [torch.zeros_like(x_img)]))


def test_a_fresh_head_is_neutral(make_head, make_batch):  # noqa: F811
    batch, plain, routed = make_batch(), make_head().eval(), make_head(**PER_VIEW).eval()
    routed.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        expected, found = plain([batch[0]], [batch[1]], batch[2]), detect(routed, batch)
    for one, other in zip(expected, found):
        for name, value in one[0].items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(other[0][name], value)
    record = found[0][0]['routing']
    assert (record.view_weights == 0.5).all() and record.view_weights.shape == (2, 20, 6)


@pytest.mark.parametrize('bias_denoising', [True, False])
def test_a_head_in_training(make_head, make_batch, bias_denoising):  # noqa: F811
    """Weights, bias and loss fit together; the loss teaches the router alone."""
    head = make_head(**PER_VIEW, aqr_bias_denoising=bias_denoising)
    torch.nn.init.normal_(head.aqr_router.verdict[-1].weight)
    x, x_img, metas = make_batch()
    for meta, lost in zip(metas, ([0, 3], [])):
        failure = np.isin(np.arange(6), lost)
        meta['failure'] = FailureRecord('view_drop:2', views_lost=failure, changed=frozenset(['camera'] * bool(lost)))
    outs = detect(head, (x, x_img, metas))
    record = outs[0][0]['routing']
    seen, weights = record.projections.pts_pers_valid, record.view_weights
    assert weights.shape == seen.shape and (weights[~seen] == 0.5).all() and weights[seen].std() > 1e-3
    best = torch.where(seen, weights, 0).amax(dim=-1)
    torch.testing.assert_close(record.camera_weights, torch.where(seen.any(dim=-1), best, 0.5))
    torch.testing.assert_close(record.bias.values[..., 1:], head.aqr_bias.weight_to_bias(weights) * seen)
    assert ((weights[:, ~record.is_learned] == 0.5).all() | bias_denoising).all()
    losses = head.loss([meta['gt_bboxes_3d'].data for meta in metas], [meta['gt_labels_3d'].data for meta in metas],
                       outs, metas)
    with torch.no_grad():
        used = record.is_used & record.is_learned
        aim = torch.ones_like(weights)
        aim[0, :, [0, 3]] = 0
        terms = [-torch.where(aim == 1, weights, 1 - weights)[(used.unsqueeze(-1) & seen)].log(),
                 -record.lidar_weights[used].log()]
        expected = torch.cat(terms).mean()
    torch.testing.assert_close(losses['loss_aqr'].detach(), expected)
    losses['loss_aqr'].backward()
    trained = {name.split('.')[0] for name, value in head.named_parameters() if value.grad is not None}
    assert trained == {'aqr_router'}
