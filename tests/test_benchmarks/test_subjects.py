"""What the subjects compare: the same work in other ways, on a small model."""
import pytest
import torch

from benchmarks.settings import Settings
from benchmarks.subjects import attention, head, monitor, router, scenes, train_step

SMALL = Settings(batch=2, queries=10)


def test_attentions_that_stand_for_the_same_bias_agree(tiny_scale):
    candidates = attention.build(SMALL).candidates
    outputs = {name: candidate() for name, candidate in candidates.items()}
    for name, reference in (('global fused', 'global channels'), ('local fused', 'local dense')):
        torch.testing.assert_close(outputs[name], outputs[reference])
    shown = [outputs[name] for name in ('plain', 'global fused', 'per view fused', 'local fused')]
    assert all(out.shape == (2, scenes.HEADS, 10, scenes.DIMS) for out in shown)
    assert all((one - other).abs().max() > 1e-3 for i, one in enumerate(shown) for other in shown[:i])


def test_one_query_in_seven_is_in_an_overlap(tiny_scale):
    seen = attention.random_projections(Settings(queries=5000), torch.Generator().manual_seed(0))['pts_pers_valid']
    assert seen.any(dim=-1).all() and seen.sum(dim=-1).max() == 2
    assert (seen.sum(dim=-1) == 2).float().mean().item() == pytest.approx(1 / 7, abs=0.02)


def test_routers_decide(tiny_scale):
    lidar, camera, projections = router.build(SMALL).candidates['router']()
    assert lidar.shape == camera.shape == (2, 10)
    assert (lidar - 0.5).abs().max() > 1e-3 and (camera - 0.5).abs().max() > 1e-3
    assert projections.pts_pers_valid.any()


def test_as_many_queries_lean_on_stand_ins_as_is_said(tiny_scale):
    candidates = head.build(SMALL).candidates
    for name, share in scenes.LOOKS.items():
        values = candidates[name]()[0][0]['routing'].bias.values  # (B, Q, 2)
        assert (values[..., 0] < 0).float().mean() == share and not values[..., 1].any()


def test_a_training_step_trains(tiny_scale, monkeypatch):
    built = []
    original = scenes.published_detector
    monkeypatch.setattr(train_step, 'published_detector',
                        lambda *args, **options: built.append(original(*args, **options)) or built[-1])
    for index, step in enumerate(train_step.build(SMALL).candidates.values()):
        before = built[index].pts_bbox_head.reference_points.weight.detach().clone()
        step()
        assert not torch.equal(before, built[index].pts_bbox_head.reference_points.weight)
        assert built[index].pts_bbox_head.enable_aqr == bool(index)


def test_the_monitor_looks_where_it_is_said_to(tiny_scale, monkeypatch):
    logged = []
    monkeypatch.setattr(monitor.SilentLogger, 'log', lambda self, runner: logged.append(set(runner.log_buffer.output)))
    for iteration in monitor.build(SMALL).candidates.values():
        iteration(), iteration()
    assert len(logged) == 6 and all({'loss', 'grad_norm'} <= names for names in logged)
    looks = [{'aqr/lidar_weight_mean', 'attention/entropy_0', 'grad_norm/router'} <= names for names in logged]
    assert looks == [False] * 4 + [True] * 2
    assert not any(name.startswith('aqr/') for names in logged[:4] for name in names)


def test_cameras_look_all_around(tiny_scale):
    """A point 10 m away is in the image of one or two of the six cameras, in whatever direction."""
    height, width = scenes.image_size(tiny_scale)
    angles = torch.linspace(0, 6.28, 100, dtype=torch.float64)
    points = torch.stack([10 * angles.cos(), 10 * angles.sin(), 0 * angles, 0 * angles + 1])  # (4, N)
    seen = 0
    for matrix in scenes.camera_ring((height, width)):
        u, v, depth, _ = torch.from_numpy(matrix) @ points
        u, v = u / depth, v / depth
        seen = seen + ((depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)).int()
    assert seen.min() == 1 and seen.max() == 2
