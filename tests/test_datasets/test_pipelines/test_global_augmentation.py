import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.core.points import LiDARPoints

from projects.mmdet3d_plugin.datasets.camera_geometry import project
from projects.mmdet3d_plugin.datasets.pipelines import (
    CustomRandomFlip3D,
    GlobalRotScaleTransAll,
    GlobalRotScaleTransImage,
)

MOVE_ALL = dict(rot_range=[-0.785, 0.785], scale_ratio_range=[0.9, 1.1], translation_std=[0.5, 0.5, 0.5])
FLIP_BOTH = dict(sync_2d=False, flip_ratio_bev_horizontal=1., flip_ratio_bev_vertical=1.)


def scene(num_boxes=5, num_points=50, fields=('gt_bboxes_3d', ), cameras=True, seed=0):
    """Results dict; box i of every field holds point i at its bottom center."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(-40, 40, (max(num_points, 0), 3)), rng.uniform(0, 1, (num_points, 2))], axis=1)
    sizes, yaw_and_velocity = rng.uniform(1, 4, (num_boxes, 3)), rng.uniform(-3, 3, (num_boxes, 3))
    boxes = np.concatenate([points[:num_boxes, :3], sizes, yaw_and_velocity], axis=1)
    results = dict(points=LiDARPoints(points.astype(np.float32), points_dim=5), bbox3d_fields=list(fields),
                   box_type_3d=LiDARInstance3DBoxes, img_fields=[])
    for field in fields:
        results[field] = LiDARInstance3DBoxes(boxes.astype(np.float32), box_dim=9)
    if cameras:
        results['lidar2cam'] = [np.eye(4)[[0, 2, 1, 3]] + 0.1 * rng.standard_normal((4, 4)) for _ in range(6)]
        results['lidar2img'] = [np.diag([500., 500., 1, 1]) @ matrix for matrix in results['lidar2cam']]
    return results


def assert_same_pixels(before, after, atol=0.05):
    """Every point projects to the pixel where it was, in all views, and the matrices are float64."""
    for key in ('lidar2img', 'lidar2cam'):
        for old, new in zip(before[key], after[key]):
            assert new.dtype == np.float64
            pixels, depth = project(before['points'].coord.numpy(), old)
            new_pixels, new_depth = project(after['points'].coord.numpy(), new)
            front = depth > 1  # float32 points: pixels right in front of the camera are not well defined
            assert front.sum() >= min(5, len(depth))
            np.testing.assert_allclose(new_pixels[front], pixels[front], atol=atol, rtol=1e-4)
            np.testing.assert_allclose(new_depth, depth, atol=1e-4)


transforms = pytest.mark.parametrize(
    'transform', [GlobalRotScaleTransAll(**MOVE_ALL), CustomRandomFlip3D(**FLIP_BOTH),
                  CustomRandomFlip3D(flip_ratio_bev_horizontal=1.), CustomRandomFlip3D(flip_ratio_bev_vertical=1.),
                  GlobalRotScaleTransImage(reverse_angle=True),
                  GlobalRotScaleTransImage(flip_dx_ratio=1., flip_dy_ratio=1.),
                  GlobalRotScaleTransImage(flip_dx_ratio=1.), GlobalRotScaleTransImage(flip_dy_ratio=1.)],
    ids=['move', 'flip both', 'flip y', 'flip x', 'turn', 'turn, flip both', 'turn, flip x', 'turn, flip y'])


@transforms
@pytest.mark.parametrize('fields', [(), ('gt_bboxes_3d', ), ('gt_bboxes_3d', 'other_boxes_3d')], ids=len)
@pytest.mark.parametrize('num_boxes', [0, 1, 5])
def test_points_boxes_and_cameras_move_together(transform, fields, num_boxes):
    results = scene(num_boxes, fields=fields)
    before = copy.deepcopy(results)
    np.random.seed(1)
    transform(results)
    assert not torch.allclose(results['points'].coord, before['points'].coord)
    torch.testing.assert_close(results['points'].tensor[:, 3:], before['points'].tensor[:, 3:])
    assert_same_pixels(before, results)
    assert results['bbox3d_fields'] == list(fields)
    for field in fields:
        assert results[field].tensor.shape == (num_boxes, 9)
        torch.testing.assert_close(
            results[field].tensor[:, :3], results['points'].coord[:num_boxes], rtol=1e-4, atol=1e-4)


@transforms
def test_boxes_keep_their_points(transform):
    """Points at the same relative place of each box stay there, and velocities turn and grow with the scene."""
    results = scene(5)
    boxes = results['gt_bboxes_3d']
    corners = boxes.corners  # corner 0 is the minimum, 3, 4 and 1 differ from it along y, x and z
    edges = [corners[:, i] - corners[:, 0] for i in (4, 3, 1)]
    inner = corners[:, 0] + 0.3 * edges[0] + 0.4 * edges[1] + 0.8 * edges[2]
    tip = boxes.bottom_center.clone()
    tip[:, :2] += boxes.tensor[:, 7:9]
    results['points'].tensor[:5, :3] = inner
    results['points'].tensor[5:10, :3] = tip
    np.random.seed(5)
    transform(results)
    boxes, points = results['gt_bboxes_3d'], results['points'].coord
    local = points[:5] - boxes.gravity_center
    cos, sin = torch.cos(boxes.yaw), torch.sin(boxes.yaw)
    local = torch.stack([cos * local[:, 0] + sin * local[:, 1], -sin * local[:, 0] + cos * local[:, 1], local[:, 2]], 1)
    expected = torch.tensor([[0.2, 0.1, 0.3]]).repeat(5, 1)
    torch.testing.assert_close((local / boxes.dims).abs(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close((points[5:10] - boxes.bottom_center)[:, :2], boxes.tensor[:, 7:9], rtol=1e-3, atol=1e-3)


@transforms
@pytest.mark.parametrize('num_points', [0, 1])
def test_empty_cloud(transform, num_points):
    results = scene(0, num_points)
    before = copy.deepcopy(results)
    np.random.seed(2)
    transform(results)
    assert results['points'].tensor.shape == (num_points, 5)
    for old, new in zip(before['lidar2img'], results['lidar2img']):
        assert not np.allclose(old, new)


@transforms
def test_without_cameras(transform):
    results = scene(cameras=False)
    transform(results)
    assert 'lidar2img' not in results and 'lidar2cam' not in results


@transforms
def test_the_samples_own_calibration_is_not_written_to(transform):
    results = scene()
    held = {key: list(results[key]) for key in ('lidar2img', 'lidar2cam')}
    lists = {key: results[key] for key in held}
    values = copy.deepcopy(held)
    transform(results)
    for key in held:
        np.testing.assert_array_equal(lists[key], values[key])
        np.testing.assert_array_equal(held[key], values[key])


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1))
def test_chain_of_augmentations(seed):
    results = scene(seed=seed % 100)
    before = copy.deepcopy(results)
    np.random.seed(seed)
    for transform in (GlobalRotScaleTransAll(**MOVE_ALL), CustomRandomFlip3D(False, 0.5, 0.5),
                      GlobalRotScaleTransAll(**MOVE_ALL)):
        results.pop('pcd_scale_factor', None)
        transform(results)
    assert_same_pixels(before, results)


def test_global_motion_by_hand():
    results = scene(1)
    start = results['points'].coord.numpy().astype(np.float64)
    np.random.seed(7)
    GlobalRotScaleTransAll(**MOVE_ALL)(results)
    np.random.seed(7)
    angle, scale = np.random.uniform(-0.785, 0.785), np.random.uniform(0.9, 1.1)
    shift = np.random.normal(scale=np.float32([0.5] * 3), size=3)
    x, y, z = start.T
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, z], axis=1)
    expected = scale * turned + shift
    np.testing.assert_allclose(results['points'].coord.numpy(), expected, atol=1e-4)
    assert results['pcd_scale_factor'] == scale and results['transformation_3d_flow'] == ['R', 'S', 'T']
    np.testing.assert_array_equal(results['pcd_trans'], shift)


def test_preset_scale_and_flips_are_obeyed():
    """Test-time augmentation decides them beforehand."""
    results = scene()
    results.update(pcd_scale_factor=1.25, pcd_horizontal_flip=True, pcd_vertical_flip=False)
    before = copy.deepcopy(results)
    GlobalRotScaleTransAll([0, 0], [1, 1], [0, 0, 0])(results)
    CustomRandomFlip3D(False, 0., 1.)(results)
    torch.testing.assert_close(results['points'].coord, before['points'].coord * torch.tensor([1.25, -1.25, 1.25]))
    assert_same_pixels(before, results)


def test_flip_frequencies_and_flags():
    transform = CustomRandomFlip3D(sync_2d=False, flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.25)
    np.random.seed(0)
    flags = []
    for _ in range(400):
        results = scene(0, 1)
        x, y = results['points'].coord[0, :2].tolist()
        transform(results)
        assert results['points'].coord[0, :2].tolist() == [-x if results['pcd_vertical_flip'] else x,
                                                           -y if results['pcd_horizontal_flip'] else y]
        assert results['flip'] is False  # the images are not mirrored
        flags.append((results['pcd_horizontal_flip'], results['pcd_vertical_flip']))
    horizontal, vertical = np.mean(flags, axis=0)
    assert horizontal == pytest.approx(0.5, abs=0.08) and vertical == pytest.approx(0.25, abs=0.08)


def test_synchronised_flip_is_refused():
    with pytest.raises(ValueError, match='sync_2d must be False'):
        CustomRandomFlip3D(sync_2d=True)


def test_scenes_without_points_move_with_their_cameras():
    results = scene(5)
    before = copy.deepcopy(results)
    centers = results.pop('points').coord[:5]
    np.random.seed(1)
    GlobalRotScaleTransImage(reverse_angle=True, flip_dx_ratio=1.)(results)
    assert 'points' not in results
    moved = results['gt_bboxes_3d'].tensor[:, :3]
    assert (moved - centers).abs().max() > 1
    for old, new in zip(before['lidar2img'], results['lidar2img']):
        pixels, depth = project(centers.numpy(), old)
        new_pixels, _ = project(moved.numpy(), new)
        np.testing.assert_allclose(new_pixels[depth > 1], pixels[depth > 1], atol=0.05, rtol=1e-4)


def test_a_shift_of_camera_scenes_is_refused():
    with pytest.raises(ValueError, match=r'translation_std must be zeros, got \[0, 0, 0.5\]'):
        GlobalRotScaleTransImage(translation_std=[0, 0, 0.5])
