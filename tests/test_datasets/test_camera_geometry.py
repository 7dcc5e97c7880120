import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from projects.mmdet3d_plugin.datasets.camera_geometry import (
    as_homogeneous,
    camera_matrices,
    follow_lidar_motion,
    project,
)


def test_as_homogeneous_pads_without_touching_the_input():
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    padded = as_homogeneous(matrix)
    np.testing.assert_array_equal(padded, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [0, 0, 0, 1]])
    assert padded.dtype == np.float64
    square = np.eye(4)
    assert as_homogeneous(square) is not square
    with pytest.raises(ValueError, match=r'\(2, 2\)'):
        as_homogeneous(np.eye(2))


@given(arrays(np.float64, (5, 3), elements=st.floats(-50, 50)))
def test_project_equals_pinhole_by_hand(points):
    # the camera looks along LiDAR +y, 1 m ahead of the LiDAR
    lidar2cam = np.array([[1., 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, -1], [0, 0, 0, 1]])
    matrices = camera_matrices([lidar2cam], [[[100., 0, 80], [0, 90, 40], [0, 0, 1]]])
    pixels, depth = project(points, matrices['lidar2img'][0])
    for (x, y, z), (u, v), d in zip(points, pixels, depth):
        assert d == pytest.approx(y - 1)
        if d > 0:
            assert (u, v) == pytest.approx((100 * x / d + 80, 90 * -z / d + 40))
        else:
            assert np.isnan(u) and np.isnan(v)


def test_follow_lidar_motion_replaces_the_lists(sample):
    before = {key: sample[key] for key in ('lidar2img', 'lidar2cam')}
    values = {key: np.array(before[key]) for key in before}
    motion = np.array([[0., -2, 0, 1], [2, 0, 0, 5], [0, 0, 2, 3], [0, 0, 0, 1]])
    follow_lidar_motion(sample, motion)
    point = np.array([10., 20, 1, 1])
    for key in before:
        assert sample[key] is not before[key]
        np.testing.assert_array_equal(before[key], values[key])
        np.testing.assert_allclose(np.array(sample[key]) @ (motion @ point), values[key] @ point)
    lidar_only = {}
    follow_lidar_motion(lidar_only, motion)
    assert lidar_only == {}
