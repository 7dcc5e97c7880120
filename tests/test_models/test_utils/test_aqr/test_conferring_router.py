"""The conferring router: neutral start, who has a say, and evidence against loops over queries and views."""
import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from projects.mmdet3d_plugin.models.utils.aqr import ConferringRouter, Looks
from projects.mmdet3d_plugin.models.utils.aqr.conferring_router import mean_states
from projects.mmdet3d_plugin.models.utils.token_layout import TokenLayout

BATCH, QUERIES, CHANNELS, HIDDEN = 2, 6, 8, 16
PC_RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]


def views(count):
    """Cameras at the origin, evenly around, 90 degrees wide each."""
    matrices = []
    for yaw in torch.arange(count) * 2 * torch.pi / count:
        rotation = torch.tensor([[yaw.sin(), -yaw.cos(), 0], [0, 0, -1], [yaw.cos(), yaw.sin(), 0]])
        matrix = torch.eye(4)
        matrix[:3, :3] = torch.tensor([[16.0, 0, 16], [0, 16, 8], [0, 0, 1]]) @ rotation
        matrices.append(matrix.numpy().astype('float64'))
    return matrices


def make(seed=0, **options):
    torch.manual_seed(seed)
    router = ConferringRouter(CHANNELS, HIDDEN, num_heads=2, **{'num_layers': 1, **options})
    router.init_weights()
    return router


def inputs(num_views=3, seed=0, queries=QUERIES):
    generator = torch.Generator().manual_seed(seed)
    looks = Looks(*(torch.randn(BATCH, queries, size, generator=generator) for size in (CHANNELS, CHANNELS, 5, 5)))
    metas = [dict(lidar2img=views(num_views), pad_shape=[(16, 32, 3)] * num_views)] * BATCH
    return dict(
        query_embed=None, x=None, x_img=None, reference_points=torch.rand(BATCH, queries, 3, generator=generator),
        img_metas=metas, pc_range=PC_RANGE, bev_cell_size=(1.0, 1.0),
        layout=TokenLayout((108, 108), (num_views, 2, 4)), looks=looks,
        has_say=torch.rand(BATCH, queries, generator=generator) < 0.7)


def lively(router):
    """A verdict that depends on everything."""
    torch.nn.init.normal_(router.verdict[-1].weight)
    return router


@pytest.mark.parametrize('num_views', [1, 3, 6])
def test_neutral_start_is_exact(num_views):
    lidar, camera, projections = make()(**inputs(num_views))
    assert torch.equal(lidar, torch.full((BATCH, QUERIES), 0.5)) and torch.equal(camera, lidar)
    assert projections.pts_pers_valid.shape == (BATCH, QUERIES, num_views)


def test_tokens_are_means_over_those_who_have_a_say():
    router, arguments = lively(make()), inputs()
    tokens = []
    router.confer.register_forward_hook(lambda module, args, out: tokens.append((args[0], out)))
    lidar, camera, projections = router(**arguments)
    looks, say, seen = arguments['looks'], arguments['has_say'], projections.pts_pers_valid
    given, answered = tokens[0]
    for b in range(BATCH):
        evidence = []
        for q in range(QUERIES):
            a, c = looks.lidar_states[b, q], looks.camera_states[b, q]
            best = torch.stack([looks.lidar_logits[b, q].max(), looks.camera_logits[b, q].max()])
            evidence.append(router.evidence(torch.cat([a, c, a * c, best])))
        groups = [[q for q in range(QUERIES) if say[b, q]]]
        groups += [[q for q in range(QUERIES) if say[b, q] and seen[b, q, v]] for v in range(3)]
        for g, members in enumerate(groups):
            mean = sum((evidence[q] for q in members), torch.zeros(HIDDEN)) / max(len(members), 1)
            torch.testing.assert_close(given[b, g], mean + router.kind[min(g, 1)])
        for q in range(QUERIES):
            own_views = [answered[b, 1 + v] for v in range(3) if seen[b, q, v]]
            mean = sum(own_views, torch.zeros(HIDDEN)) / max(len(own_views), 1)
            logits = router.verdict(torch.cat([evidence[q], answered[b, 0], mean]))
            torch.testing.assert_close(torch.stack([lidar[b, q], camera[b, q]]), logits.sigmoid())


def test_queries_without_a_say_change_nobody_else():
    router, arguments = lively(make()), inputs()
    arguments['has_say'] = torch.arange(QUERIES).expand(BATCH, -1) >= 2
    before = router(**arguments)
    states = arguments['looks'].lidar_states
    states[:, :2] += 100
    after = router(**arguments)
    for old, new in zip(before[:2], after[:2]):
        assert torch.equal(old[:, 2:], new[:, 2:]) and not torch.equal(old[:, :2], new[:, :2])


def test_order_of_views_does_not_matter():
    router, arguments = lively(make()), inputs()
    lidar, camera, _ = router(**arguments)
    turned = [dict(meta, lidar2img=meta['lidar2img'][::-1]) for meta in arguments['img_metas']]
    again = router(**dict(arguments, img_metas=turned))
    torch.testing.assert_close(again[0], lidar)
    torch.testing.assert_close(again[1], camera)


def test_nobody_has_a_say_and_no_view_sees_anything():
    router, arguments = lively(make()), inputs(num_views=1)
    arguments['has_say'][:] = False
    arguments['reference_points'][..., 0] = 0.01  # behind the only camera
    lidar, camera, projections = router(**arguments)
    assert not projections.pts_pers_valid.any() and torch.isfinite(lidar + camera).all()


@pytest.mark.parametrize('detach', [True, False])
def test_gradients_into_the_decoder_only_where_asked_for(detach):
    router, arguments = lively(make(detach=detach)), inputs()
    states = arguments['looks'].lidar_states.requires_grad_()
    lidar, camera, _ = router(**arguments)
    (lidar.sum() + camera.sum()).backward()
    assert (states.grad is None) == detach
    for name, parameter in router.named_parameters():
        assert parameter.grad is not None, name


def test_published_size():
    assert sum(p.numel() for p in ConferringRouter(256).parameters()) <= 500_000


def test_heads_must_divide():
    with pytest.raises(ValueError, match='hidden_dims must be divisible by num_heads, got 10 and 4'):
        ConferringRouter(8, hidden_dims=10)


@pytest.mark.parametrize('options, error, message', [
    (dict(per_view='no'), TypeError, "per_view must be True or False, got 'no'"),
    (dict(detach=0), TypeError, 'detach must be True or False, got 0'),
    (dict(num_layers=-1), ValueError, 'num_layers must be an integer >= 0, got -1'),
    (dict(num_heads=0), ValueError, 'num_heads must be an integer >= 1, got 0'),
    (dict(hidden_dims=0), ValueError, 'hidden_dims must be an integer >= 1, got 0')])
def test_mistakes(options, error, message):
    with pytest.raises(error, match=message):
        ConferringRouter(8, **options)


def test_distance_is_that_of_mahalanobis():
    """Against scipy, on samples whose states are correlated; queries without a say do not count."""
    router, rng = make(), np.random.default_rng(0)
    mixing = rng.normal(size=(2 * CHANNELS, 2 * CHANNELS))
    states = torch.as_tensor(rng.normal(size=(300, 2 * CHANNELS)) @ mixing + 3, dtype=torch.float32)
    router.learn_familiar(states, torch.arange(300))
    arguments = inputs()
    looks, has_say = arguments['looks'], arguments['has_say']
    found = router.distance(looks, has_say)
    for sample in range(BATCH):
        both = torch.cat([looks.lidar_states[sample], looks.camera_states[sample]], dim=-1)[has_say[sample]]
        assert found[sample].item() == pytest.approx(distance_to(both.mean(dim=0), states), rel=1e-3)


def distance_to(state, known):
    known = known.double().numpy()
    covariance = np.cov(known.T)
    covariance += 1e-3 * np.diag(covariance).mean() * np.eye(len(covariance))
    return mahalanobis(state.double().numpy(), known.mean(axis=0), np.linalg.inv(covariance))


def test_the_limit_is_that_of_scenes_that_were_left_out():
    """Samples of a scene are alike: among themselves they lie much nearer than a new scene does."""
    router, generator = make(), torch.Generator().manual_seed(0)
    scenes = torch.arange(24).repeat_interleave(5)
    states = torch.randn(24, 2 * CHANNELS, generator=generator)[scenes]
    states = states + 0.05 * torch.randn(states.shape, generator=generator)
    router.learn_familiar(states, scenes + 100, share=0.9, folds=4)
    own = [distance_to(state, states[scenes % 4 != scene % 4]) for state, scene in zip(states, scenes)]
    assert router.familiar_limit.item() == pytest.approx(np.quantile(own, 0.9), rel=1e-3)
    among_themselves = [distance_to(state, states) for state in states]
    assert router.familiar_limit > 1.5 * np.quantile(among_themselves, 0.9)
    router.learn_familiar(states, torch.zeros(120, dtype=torch.int64), share=0.9)  # a single scene
    assert router.familiar_limit.item() == pytest.approx(np.quantile(among_themselves, 0.9), rel=1e-3)


def test_what_is_unfamiliar_is_not_judged():
    router, arguments = lively(make()), inputs()
    before = router(**arguments)[:2]
    states = mean_states(arguments['looks'], arguments['has_say'])  # (B, 2 C)
    near = states[:1] + 0.1 * torch.randn(50, 2 * CHANNELS)  # around the first sample alone
    router.learn_familiar(near, torch.arange(50), share=1.0)
    after = router(**arguments)[:2]
    for old, new in zip(before, after):
        assert torch.equal(new[0], old[0]) and not torch.equal(old[1], new[1])
        assert torch.equal(new[1], torch.full((QUERIES, ), 0.5))
    router.init_weights()
    assert router.familiar_limit == 0 and not router.distance(arguments['looks'], arguments['has_say']).any()


@pytest.mark.parametrize('count, share', [(1, 0.9), (10, 0.0), (10, 1.5)])
def test_bad_samples_to_be_familiar_with(count, share):
    states = torch.randn(count, 2 * CHANNELS)
    with pytest.raises(ValueError, match='learn_familiar needs a share'):
        make().learn_familiar(states, torch.arange(count), share)


def test_without_layers_each_query_judges_alone():
    router, given = make(num_layers=0), inputs()
    torch.nn.init.normal_(router.verdict[-1].weight)
    assert not any('confer' in name or 'kind' in name for name in router.state_dict())
    before = torch.stack(router(**given)[:2])
    given['looks'].lidar_states[:, 0] += 1
    changed = (torch.stack(router(**given)[:2]) != before).any(dim=0)  # (B, Q)
    assert changed[:, 0].all() and not changed[:, 1:].any()
