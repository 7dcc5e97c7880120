"""Targets of the router: markers go through every augmentation, and what was lost is decided where it was lost."""
import math

import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.core.points import LiDARPoints
from torch import distributed as dist

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.datasets.pipelines import (
    CustomRandomFlip3D,
    GlobalRotScaleTransAll,
    ResizeCropFlipImage,
    SimulateFailure,
)
from projects.mmdet3d_plugin.models.utils.aqr.query_projection import QueryProjections, project_queries
from projects.mmdet3d_plugin.models.utils.aqr.routing_record import RoutingRecord
from projects.mmdet3d_plugin.models.utils.aqr.supervision import RoutingTargets, routing_loss, routing_targets
from projects.mmdet3d_plugin.models.utils.token_layout import TokenLayout
from tests.two_processes import on_two_processes

PC_RANGE = [-40.0, -36.0, -5.0, 44.0, 40.0, 5.0]
BEV_CELL = (1.5, 2.0)  # m
IMAGE_SIZE, FINAL_SIZE = (90, 160), (64, 128)  # height, width
VIEWS = 6
BOXES = np.array([[8., 3, -1, 6, 2, 2, 0.4], [-10, 8, -1, 5, 2, 2, 2.0], [2, -12, -1, 9, 3, 3, -1.0],
                  [15, -9, -1, 4, 4, 2, 0.8], [-14, -6, -1, 8, 2, 2, 3.0]])  # bottom centers


# The oracle

def cameras():
    """(lidar2cam, intrinsic) of six views of 56 to 96 degrees, each at a place of its own: gaps beside overlaps."""
    poses, intrinsics = [], []
    for view in range(VIEWS):
        yaw, focal = view * math.pi / 3 + 0.2, 80 / math.tan(math.radians(28 + 4 * view))
        forward, left = [math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0]
        pose = np.eye(4)
        pose[:3, :3] = [[-x for x in left], [0, 0, -1], forward]
        pose[:3, 3] = -pose[:3, :3] @ (np.array(forward) + [0, 0, 0.1 * view])
        poses.append(pose)
        intrinsics.append(np.array([[focal, 0, 82, 0], [0, focal, 40, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    return poses, intrinsics


def coordinate_image():
    """Every pixel shows where it is: u, v and 1; fillings are 0."""
    height, width = IMAGE_SIZE
    v, u = np.mgrid[:height, :width] + 0.5
    return np.stack([u, v, np.ones_like(u)], axis=-1).astype(np.float32)


def scene(seed):
    """A sample as loaders leave it, 50 points in each box."""
    rng = np.random.default_rng(seed)
    cloud = [rng.uniform([-30, -30, -1], [30, 30, 3], (3000, 3))]
    for x, y, z, length, width, height, yaw in BOXES:
        along, across, up = rng.uniform(-0.48, 0.48, (3, 50)) * [[length], [width], [height]]
        cloud.append(np.stack([x + along * math.cos(yaw) - across * math.sin(yaw),
                               y + along * math.sin(yaw) + across * math.cos(yaw), z + height / 2 + up], axis=1))
    points = np.concatenate(cloud)
    poses, intrinsics = cameras()
    return dict(
        sample_idx=f'token{seed}',
        points=LiDARPoints(np.pad(points, ((0, 0), (0, 2))).astype(np.float32), points_dim=5),
        rings=np.arange(len(points)) % 32, img=[coordinate_image() for _ in range(VIEWS)],
        camera_names=[f'CAM_{view}' for view in range(VIEWS)], lidar2cam=poses, cam_intrinsic=intrinsics,
        lidar2img=[intrinsic @ pose for intrinsic, pose in zip(intrinsics, poses)], bbox3d_fields=['gt_bboxes_3d'],
        gt_bboxes_3d=LiDARInstance3DBoxes(np.pad(BOXES, ((0, 0), (0, 2))).astype(np.float32), box_dim=9))


def run(case, markers, seed, flips):
    """Let a case strike, put markers in the place of the points and augment: (points left, views lost, results)."""
    results = scene(seed)
    results = SimulateFailure(case)(results)
    left = results['points'].coord.numpy().astype(float)
    views_lost = np.array([not img.any() for img in results['img']])
    results['points'] = LiDARPoints(np.pad(markers, ((0, 0), (0, 2))).astype(np.float32), points_dim=5)
    np.random.seed(seed)
    GlobalRotScaleTransAll([-0.8, 0.8], [0.7, 1.4], [2, 2, 0.3])(results)
    CustomRandomFlip3D(False, float(flips[0]), float(flips[1]))(results)
    ResizeCropFlipImage(dict(H=IMAGE_SIZE[0], W=IMAGE_SIZE[1], final_dim=FINAL_SIZE, resize_lim=(0.85, 0.95),
                             bot_pct_lim=(0., 0.05), rot_lim=(-8., 8.), rand_flip=True), pic_wise=True)(results)
    return left, views_lost, results


def in_column(points, box, margin):
    x, y, _, length, width, _, yaw = box
    offset = (points[:, 0] - x + 1j * (points[:, 1] - y)) * np.exp(-1j * yaw)
    return (np.abs(offset.real) <= length / 2 + margin) & (np.abs(offset.imag) <= width / 2 + margin)


def lidar_oracle(case, markers, left, margin):
    """(is lost, is sure) of markers where the failure struck: boxes are lost that were left without a point."""
    lost, sure = np.zeros((2, len(markers)), bool)
    if len(left) == 0:
        return ~lost, ~sure
    sure |= True
    for part in case.split('+'):
        if part.startswith('fov'):
            limit = float(part[4:])
            angle = np.degrees(np.arccos(markers[:, 1] / np.hypot(markers[:, 0], markers[:, 1])))
            lost |= angle > limit
            sure &= np.abs(angle - limit) > 0.01
        if 'object' in part:
            for box in BOXES:
                above = (box[2] < left[:, 2]) & (left[:, 2] < box[2] + box[5])
                if not (in_column(left, box, -0.01) & above).any():
                    if 'fov' in case and box[1] < abs(box[0]):  # not ahead: gone with the view, perhaps not by itself
                        sure &= ~in_column(markers, box, margin)
                    lost |= in_column(markers, box, margin)
                    sure &= in_column(markers, box, margin + 1e-3) == in_column(markers, box, margin - 1e-3)
    return lost, sure


def view_oracle(markers, images):
    """(seen, is sure) (M, V): what the augmented coordinate images say of where original pixels went to."""
    seen, sure = [], []
    for img, pose, intrinsic in zip(images, *cameras()):
        rows, columns = np.nonzero(img[..., 2] > 0.999)
        known = np.column_stack([img[rows, columns, :2], np.ones(len(rows))])
        motion, residual, *_ = np.linalg.lstsq(known, np.column_stack([columns, rows]) + 0.5, rcond=None)  # (3, 2)
        assert np.sqrt(residual / len(rows)).max() < 0.2 and len(rows) > 2000
        x, y, depth = pose[:3, :3] @ markers.T + pose[:3, 3:]
        pixels = np.column_stack([intrinsic[0, 0] * x / depth + 82, intrinsic[1, 1] * y / depth + 40, 0 * x + 1])
        inward = (FINAL_SIZE[1], FINAL_SIZE[0]) - np.abs(2 * (pixels @ motion) - (FINAL_SIZE[1], FINAL_SIZE[0]))
        inward = inward.min(axis=1) / 2  # pixels from the border
        seen.append((depth > 0) & (inward > 0))
        sure.append(((depth > 0) & (np.abs(inward) > 0.7)) | (depth < -1e-3))
    return np.stack(seen, axis=1), np.stack(sure, axis=1)


def record_of(moved, results):
    """What a head would record of queries at given places."""
    low, high = np.array(PC_RANGE[:3]), np.array(PC_RANGE[3:])
    reference = torch.as_tensor((moved - low) / (high - low), dtype=torch.float32).unsqueeze(0)  # (1, M, 3)
    meta = dict(lidar2img=results['lidar2img'], pad_shape=[img.shape for img in results['img']],
                failure=results['failure'])
    projections = project_queries(reference, [meta], PC_RANGE, BEV_CELL, TokenLayout((38, 56), (VIEWS, 8, 16)))
    return RoutingRecord(None, None, projections, None, None, reference, None), meta


CASES = ['clean', 'lidar_drop', 'camera_drop', 'view_drop:3', 'view_drop:CAM_1,CAM_2', 'fov:60', 'fov:90',
         'object_failure:0.5', 'frame_object_failure:1', 'fov:60+view_drop:3+object_failure:0.6',
         'lidar_drop+view_drop:4']


@pytest.mark.parametrize('flips', [(0, 0), (1, 0), (0, 1), (1, 1)], ids=['', 'flip y', 'flip x', 'flip both'])
@pytest.mark.parametrize('case', CASES)
def test_markers_through_every_augmentation(case, flips):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        near = BOXES[rng.integers(len(BOXES), size=300), :3] + rng.uniform(-6, 6, (300, 3)) * [1, 1, 0.3]
        markers = np.concatenate([near, rng.uniform([-28, -28, -2], [28, 28, 3], (300, 3))]).astype(np.float32)
        markers = markers.astype(float)
        left, views_lost, results = run(case, markers, seed, flips)
        images = run('clean', markers, seed, flips)[2]['img']
        moved = results['points'].coord.numpy().astype(float)
        scale = np.linalg.norm(moved[0] - moved[1]) / np.linalg.norm(markers[0] - markers[1])
        assert abs(scale - 1) > 0.02
        record, meta = record_of(moved, results)
        targets = routing_targets(record, [meta], PC_RANGE, BEV_CELL)

        lidar_lost, sure = lidar_oracle(case, markers, left, margin=max(BEV_CELL) / 2 / scale)
        assert sure.mean() > 0.8
        np.testing.assert_array_equal(targets.lidar_lost[0].numpy()[sure], lidar_lost[sure])
        seen, sure_views = view_oracle(markers, images)
        cameras_lost = seen.any(axis=1) & ~(seen & ~views_lost).any(axis=1)
        sure_views = sure_views.all(axis=1)
        assert sure_views.mean() > 0.7 and 0 < seen.any(axis=1).mean() < 1 and (seen.sum(axis=1) > 1).any()
        np.testing.assert_array_equal(record.projections.pts_pers_valid[0].numpy()[sure_views], seen[sure_views])
        np.testing.assert_array_equal(targets.cameras_lost[0].numpy()[sure_views], cameras_lost[sure_views])
        # the cases do what they are here for
        assert (0 < lidar_lost.mean() < 1) == ('fov' in case or 'object' in case)
        assert cameras_lost.any() == ('view' in case or 'camera' in case)
        assert targets.is_known.all() and targets.is_known.shape == (1, 600)


@pytest.mark.parametrize('case, margin_only', [('object_failure:0.5', True), ('fov:60', False)])
def test_half_a_cell_matters(case, margin_only):
    """The test above would not see a lost margin otherwise: many markers lie within it, and none without boxes."""
    markers = np.concatenate([BOXES[:, :3], BOXES[:, :3] + [[0, 2.1, 0]]]).repeat(20, axis=0)
    markers = markers + np.random.default_rng(0).uniform(-2, 2, markers.shape)
    _, _, results = run(case, markers, 1, (1, 0))
    moved = torch.as_tensor(results['points'].coord.numpy())
    differ = results['failure'].lidar_lost(moved, 1.0) != results['failure'].lidar_lost(moved, 0.0)
    assert differ.any() == margin_only


# By hand

def record_and_metas(failures, seen):
    """Queries at x = 0, 10, 20, ... m, straight to the right, seen by views as told: (B, Q, V)."""
    seen = torch.tensor(seen)
    batch, num_query = seen.shape[:2]
    low, high = torch.tensor(PC_RANGE[:3]), torch.tensor(PC_RANGE[3:])
    points = torch.zeros(batch, num_query, 3)
    points[..., 0] = 10.0 * torch.arange(num_query)
    projections = QueryProjections(None, None, seen)
    record = RoutingRecord(None, None, projections, None, None, (points - low) / (high - low), None)
    return record, [dict(failure=failure) for failure in failures]


def test_weights_to_aim_at():
    """A box at x = 10 lost its points, view 1 is lost. Queries: nothing, LiDAR, both, cameras, and unseen."""
    box = np.array([[10., 0, 0, 4, 4, 2, 0], [20, 0, 0, 4, 4, 2, 0]])
    failure = FailureRecord('case', lost_boxes=box, views_lost=np.array([False, True]))
    seen = [[[True, True], [True, False], [False, True], [False, True], [False, False]]]
    targets = routing_targets(*record_and_metas([failure], seen), PC_RANGE, BEV_CELL)
    assert targets.lidar_lost.tolist() == [[False, True, True, False, False]]
    assert targets.cameras_lost.tolist() == [[False, False, True, True, False]]
    assert targets.weights.tolist() == [[[0.5, 0.5], [0, 1], [0.5, 0.5], [1, 0], [0.5, 0.5]]]
    assert targets.weights.dtype == torch.float32 and not targets.weights.requires_grad


def test_the_margin_is_half_the_longer_side_of_a_cell():
    failure = FailureRecord('case', lost_boxes=np.array([[7.0, 0, 0, 4, 4, 2, 0]]))  # its side is at x = 9
    for cell, expected in (((1.9, 1.0), False), ((2.1, 1.0), True), ((1.0, 2.1), True)):
        targets = routing_targets(*record_and_metas([failure], [[[True], [True]]]), PC_RANGE, cell)
        assert targets.lidar_lost.tolist() == [[False, expected]]  # the query is at x = 10


def test_samples_of_a_batch_have_failures_of_their_own():
    seen = [[[True, True]] * 3] * 4
    failures = [FailureRecord('clean', views_lost=np.zeros(2, bool)), FailureRecord('a', lidar_everywhere=True),
                FailureRecord('b', views_lost=np.ones(2, bool)),
                FailureRecord('c', lidar_everywhere=True, is_graded=True)]
    targets = routing_targets(*record_and_metas(failures, seen), PC_RANGE, BEV_CELL)
    assert targets.weights[:, 0].tolist() == [[0.5, 0.5], [0, 1], [1, 0], [0, 1]]
    assert targets.is_known.tolist() == [[True] * 3] * 3 + [[False] * 3]


def test_a_record_is_needed():
    record, metas = record_and_metas([FailureRecord('clean')] * 2, [[[True]]] * 2)
    del metas[1]['failure']
    with pytest.raises(ValueError, match="'failure'.*SimulateFailure.*Collect3D"):
        routing_targets(record, metas, PC_RANGE, BEV_CELL)


@pytest.mark.parametrize('changed', [(), ('lidar', ), ('camera', ), ('lidar', 'camera')])
@pytest.mark.parametrize('targets', ['trust', 'preference'])
def test_of_a_graded_failure_the_sensor_that_it_spared_is_taught_trust(changed, targets):
    failures = [FailureRecord('darkness', is_graded=True, changed=frozenset(changed)), FailureRecord('clean')]
    found = routing_targets(*record_and_metas(failures, [[[True]]] * 2), PC_RANGE, BEV_CELL, targets)
    spared = [targets == 'trust' and sensor not in changed for sensor in ('lidar', 'camera')]
    assert found.has_target[0].tolist() == [spared] and found.has_target[1].all()
    assert found.is_known[:, 0].tolist() == [False, True]
    if targets == 'trust':
        assert (found.weights == 1).all()


# The loss

def random_targets(batch=2, num_query=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    choice = torch.tensor([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
    weights = choice[torch.randint(3, (batch, num_query), generator=generator)]
    has_target = torch.ones(batch, num_query, 2, dtype=torch.bool)
    has_target[-1] = False
    has_target[-1, :3, 1] = True
    lidar, camera = torch.rand(2, batch, num_query, generator=generator)
    supervised = torch.rand(batch, num_query, generator=generator) < 0.6
    targets = RoutingTargets(None, None, weights, None, has_target)
    return lidar.requires_grad_(), camera.requires_grad_(), targets, supervised


def slow_loss(lidar, camera, targets, supervised):
    terms = []
    for b in range(lidar.shape[0]):
        for q in range(lidar.shape[1]):
            for sensor, weights in enumerate((lidar, camera)):
                weight, target = weights[b, q].item(), targets.weights[b, q, sensor].item()
                if supervised[b, q] and targets.has_target[b, q, sensor]:
                    terms.append(-target * math.log(weight) - (1 - target) * math.log(1 - weight))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize('seed', range(5))
def test_loss_by_hand(seed):
    case = random_targets(batch=3, seed=seed)
    loss = routing_loss(*case)
    assert loss.item() == pytest.approx(slow_loss(*case), rel=1e-5) and loss.shape == ()
    loss.backward()
    for sensor, (weights, gradient_of) in enumerate(zip(case[:2], case[2].weights.unbind(-1))):
        counts = case[3] & case[2].has_target[..., sensor]
        assert ((weights.grad != 0) == counts).all()
        assert (torch.sign(weights.grad) == torch.sign(weights.detach() - gradient_of))[counts].all()


def test_least_loss():
    neutral, sure = torch.full((1, 3), 0.5), RoutingTargets(None, None, torch.tensor([[[0., 1]] * 3]), None,
                                                            torch.ones(1, 3, 2, dtype=torch.bool))
    every = torch.ones(1, 3, dtype=torch.bool)
    assert routing_loss(neutral, neutral, sure, every).item() == pytest.approx(math.log(2))
    assert routing_loss(torch.zeros(1, 3), torch.ones(1, 3), sure, every).item() == pytest.approx(0, abs=1e-6)
    undecided = sure._replace(weights=torch.full((1, 3, 2), 0.5))
    assert routing_loss(neutral, neutral, undecided, every).item() == pytest.approx(math.log(2))


def test_nothing_to_learn_from():
    lidar, camera, targets, supervised = random_targets()
    for targets, supervised in ((targets, torch.zeros_like(supervised)),
                                (targets._replace(has_target=torch.zeros_like(targets.has_target)), supervised)):
        lidar.grad = camera.grad = None
        loss = routing_loss(lidar, camera, targets, supervised)
        loss.backward()
        assert loss == 0 and (lidar.grad == 0).all() and (camera.grad == 0).all()


def test_saturated_weights_give_finite_numbers():
    logits = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    targets = RoutingTargets(None, None, torch.tensor([[[1.0, 0.0]] * 3]), None,
                             torch.ones(1, 3, 2, dtype=torch.bool))
    loss = routing_loss(logits.sigmoid(), (-logits).sigmoid(), targets, torch.ones(1, 3, dtype=torch.bool))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_loss_under_autocast_is_that_of_full_precision(dtype):
    lidar, camera, targets, supervised = random_targets()
    expected = routing_loss(lidar, camera, targets, supervised)
    with torch.autocast('cpu', dtype=dtype):
        loss = routing_loss(lidar, camera, targets, supervised)
        half = routing_loss(lidar.to(dtype), camera.to(dtype), targets, supervised)
    assert loss.dtype == half.dtype == torch.float32 and loss == expected
    assert half.item() == pytest.approx(expected.item(), rel=0.02)
    half.backward()
    assert torch.isfinite(lidar.grad).all()


@pytest.mark.parametrize('counts', [(5, 2), (1, 0), (0, 0)])
def test_two_processes_equal_one_with_both_samples(tmp_path, monkeypatch, counts):
    """Each process has one sample, with different numbers of supervised queries; gradients are averaged as DDP does."""
    lidar, camera, targets, supervised = random_targets(num_query=6, seed=3)
    targets = targets._replace(has_target=torch.ones_like(targets.has_target))
    supervised = torch.arange(6) < torch.tensor(counts).unsqueeze(1)  # (2, 6)
    one = routing_loss(lidar, camera, targets, supervised)
    one.backward()

    def own_part(rank):
        row = slice(rank, rank + 1)
        own = [weights.detach()[row].requires_grad_() for weights in (lidar, camera)]
        loss = routing_loss(*own, RoutingTargets(*(part if part is None else part[row] for part in targets)),
                            supervised[row])
        loss.backward()
        assert dist.get_world_size() == 2
        return loss.item(), [weights.grad / 2 for weights in own]  # of the mean over processes

    (first, first_grads), (second, second_grads) = on_two_processes(own_part, tmp_path, monkeypatch)
    assert (first + second) / 2 == pytest.approx(one.item(), rel=1e-5)
    for weights, *parts in zip((lidar, camera), first_grads, second_grads):
        torch.testing.assert_close(torch.cat(parts), weights.grad)
