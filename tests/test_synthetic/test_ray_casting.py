import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects.mmdet3d_plugin.synthetic.nuscenes_writer import ego_mount
from projects.mmdet3d_plugin.synthetic.ray_casting import Boxes, cast_rays
from projects.mmdet3d_plugin.synthetic.sensors import (
    CAMERA_NAMES,
    LIDAR_ELEVATIONS,
    camera_windows,
    draw_cameras,
    lidar_mount,
    lidar_windows,
)
from projects.mmdet3d_plugin.synthetic.world import World, yaw_matrix


def random_boxes(rng, count):
    centers = rng.uniform(-10, 10, (count, 3))
    centers[:, 0] += 14  # the origin stays outside
    return Boxes(centers, np.stack([yaw_matrix(yaw) for yaw in rng.uniform(-4, 4, count)]),
                 rng.uniform(0.2, 1.5, (count, 3)), np.arange(count) // 2)


def everything(shape, count):
    return [(np.arange(shape[0]), np.arange(shape[1]))] * count


def first_hit(direction, boxes):
    """Distance, box and axis by the six planes of every box, one after the other."""
    best = (np.inf, -1, 0)
    for i in range(len(boxes)):
        for axis in range(3):
            for side in (-1, 1):
                normal = boxes.rotations[i][:, axis]
                on_plane = boxes.centers[i] + side * boxes.half_sizes[i][axis] * normal
                if abs(direction @ normal) < 1e-9:
                    continue
                distance = (on_plane @ normal) / (direction @ normal)
                local = (distance * direction - boxes.centers[i]) @ boxes.rotations[i]
                others = [k for k in range(3) if k != axis]
                if distance > 0 and (np.abs(local) <= boxes.half_sizes[i])[others].all() and distance < best[0]:
                    best = (distance, i, axis)
    return best


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_first_hits_equal_those_of_a_loop_over_planes(seed, count):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, count)
    aims = boxes.centers[rng.integers(count, size=(4, 5))] + rng.normal(0, 1, (4, 5, 3))
    hits = cast_rays(np.zeros(3), aims, boxes, everything((4, 5), count))
    for index in np.ndindex(4, 5):
        distance, box, axis = first_hit(aims[index], boxes)
        assert hits.distance[index] == pytest.approx(distance, rel=1e-4)
        if np.isfinite(distance):
            assert (hits.box[index], hits.axis[index]) == (box, axis)
        else:
            assert hits.box[index] == -1


def test_rays_along_a_face_and_away_from_the_box():
    box = Boxes(np.array([[5.0, 0, 0]]), np.eye(3)[None], np.ones((1, 3)), np.zeros(1, int))
    hits = cast_rays(np.zeros(3), np.array([[[1.0, 0, 0], [-1, 0, 0], [0, 0, 1]]]), box, everything((1, 3), 1))
    np.testing.assert_array_equal(hits.distance[0], [4, np.inf, np.inf])


def test_alone_counts_what_an_object_would_show_without_the_others():
    near, far = [4.0, 0, 0], [8.0, 0, 0]
    boxes = Boxes(np.array([near, far, far]), np.repeat(np.eye(3)[None], 3, axis=0), np.full((3, 3), 0.5),
                  np.array([0, 1, 1]))
    rays = np.stack(np.meshgrid([1.0], np.linspace(-0.2, 0.2, 41), [0.0]), axis=-1)[:, 0]  # (41, 1, 3)
    hits = cast_rays(np.zeros(3), rays, boxes, everything((41, 1), 3))
    angles = np.linspace(-0.2, 0.2, 41)
    assert hits.alone == {0: (np.abs(angles) <= 0.5 / 3.5).sum(), 1: (np.abs(angles) <= 0.5 / 7.5).sum()}
    assert (hits.box == 0).sum() == hits.alone[0] and not (hits.box > 0).any()  # both parts of 1 hide behind 0


@pytest.mark.parametrize('sensor', ['LIDAR_TOP', *CAMERA_NAMES])
def test_windows_lose_no_hit(sensor):
    world = World(np.random.default_rng(3), 2.0)
    boxes = world.boxes(1.0)
    if sensor == 'LIDAR_TOP':
        mount = ego_mount(world, 1.0) @ lidar_mount()
        azimuth = 2 * np.pi * np.arange(90) / 90 - np.pi
        elevation = LIDAR_ELEVATIONS[:, None]
        directions = np.stack(np.broadcast_arrays(np.cos(elevation) * np.cos(azimuth),
                                                  np.cos(elevation) * np.sin(azimuth), np.sin(elevation)), axis=-1)
        windows = lidar_windows(mount, boxes, 90)
    else:
        camera = draw_cameras(np.random.default_rng(0), 64, 36)[sensor]
        mount = ego_mount(world, 1.0) @ camera.mount
        directions, windows = camera.directions(), camera_windows(camera, mount, boxes)
    directions = (directions @ mount.rotation.T).astype(np.float32)
    found = cast_rays(mount.position, directions, boxes, windows)
    expected = cast_rays(mount.position, directions, boxes, everything(directions.shape[:2], len(boxes)))
    np.testing.assert_array_equal(found.distance, expected.distance)
    assert found.alone == expected.alone
    assert (found.box >= 0).any()
