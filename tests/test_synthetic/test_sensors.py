"""A single red box before the sensors, in known light."""
import numpy as np
import pytest
from nuscenes.utils.geometry_utils import view_points

from projects.mmdet3d_plugin.synthetic.nuscenes_writer import ego_mount
from projects.mmdet3d_plugin.synthetic.sensors import draw_cameras, lidar_mount, photograph, scan
from projects.mmdet3d_plugin.synthetic.shapes import Part
from projects.mmdet3d_plugin.synthetic.world import Actor, Light, World

EAST, HIGH = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])


def world_with_a_box(distance=10.0, **light):
    """A red cube of 2 m straight ahead of the ego vehicle, which looks along the global x axis."""
    world = World(np.random.default_rng(0), 0.0)
    world.ego_yaw, world.ego_yaw_rate = 0.0, 0.0
    part = Part((0, 0, 0), (1, 1, 1), intensity=100)
    world.actors = [Actor('vehicle.car', np.full(3, 2.0), (part, ), np.array([0.8, 0.1, 0.1]),
                          world.ego_start + [distance, 0], 0.0, 0.0, salt=1)]
    known = dict(sun=-EAST, ambient=0.5, strength=0.3, tint=np.ones(3), fog=0.0, noise=0.0)
    world.light = Light(**dict(known, **light))
    return world


def front_picture(world):
    """Image (225, 400, 3) and the pixels (225, 400) inside the box's outline, by its corners."""
    camera = draw_cameras(np.random.default_rng(0), 400, 225)['CAM_FRONT']
    mount, boxes = ego_mount(world, 0.0) @ camera.mount, world.boxes(0.0)
    image, shown, alone = photograph(world, boxes, camera, mount, np.random.default_rng(0))
    face = mount.to_local(boxes.corners()[0])
    face = face[np.argsort(face[:, 2])[:4]]  # the side that faces the camera
    (left, top), (right, bottom) = (f(view_points(face.T, camera.intrinsic, normalize=True)[:2], axis=1)
                                    for f in (np.min, np.max))
    inside = np.zeros((225, 400), bool)
    inside[int(top) + 3:int(bottom) - 2, int(left) + 3:int(right) - 2] = True
    assert shown == {0: alone[0]} and abs(alone[0] / inside.sum() - 1) < 0.35
    return image.astype(float), inside


def test_an_objects_color_lies_where_it_projects():
    image, inside = front_picture(world_with_a_box())
    redness = image[..., 0] / image[..., 2].clip(1)
    assert redness[inside].min() > 4 and np.median(redness[~inside]) < 1.2
    assert image[inside][:, 0].std() > 5  # textured


@pytest.mark.parametrize('change, brighter', [
    (dict(sun=EAST), False), (dict(sun=HIGH), False), (dict(ambient=0.8), True), (dict(strength=0.0), False),
    (dict(tint=np.array([0.5, 1, 1])), False)])
def test_light_changes_what_cameras_see(change, brighter):
    image, inside = front_picture(world_with_a_box())
    other, _ = front_picture(world_with_a_box(**change))
    ratio = other[inside][:, 0].mean() / image[inside][:, 0].mean()
    assert ratio > 1.2 if brighter else ratio < 0.8


def test_fog_hides_colors_with_distance():
    def redness(distance, fog):
        image, inside = front_picture(world_with_a_box(distance, fog=fog))
        return (image[inside][:, 0] / image[inside][:, 2]).mean()

    assert redness(8, 0.0) == pytest.approx(redness(16, 0.0), rel=0.05)
    assert redness(8, 1.0) == pytest.approx(1, rel=0.02)  # nothing but fog
    assert redness(16, 0.05) < redness(8, 0.05) < 0.9 * redness(8, 0.0)


def test_noise_is_as_strong_as_the_light_says():
    clean, other = (front_picture(world_with_a_box(noise=noise))[0] for noise in (0.0, 6.0))
    free = (clean > 30) & (clean < 225)  # no clipping
    assert np.std((other - clean)[free]) == pytest.approx(6, rel=0.1)


def test_lidar_measures_box_and_ground():
    world = world_with_a_box()
    mount = ego_mount(world, 0.0) @ lidar_mount()
    points = scan(world, world.boxes(0.0), mount, np.random.default_rng(0), 3600)
    assert points.shape[1:] == (5, ) and points.dtype == np.float32
    space = mount.position + points[:, :3] @ mount.rotation.T - [*world.ego_start, 0]
    on_box = (np.abs(space[:, :2] - [9, 0]) < [0.2, 0.99]).all(axis=1) & (np.abs(space[:, 2] - 1) < 0.95)
    assert on_box.sum() > 500
    assert space[on_box, 0].mean() == pytest.approx(9, abs=0.005)
    assert space[on_box, 0].std() == pytest.approx(0.02, rel=0.1)  # range noise
    assert points[on_box, 3].mean() == pytest.approx(100 * (0.4 + 0.6 * 1.0 / 3), rel=0.05)
    assert not ((space[:, 0] > 9.5) & (np.abs(space[:, 1]) < 0.9)).any()  # higher than the LiDAR, it hides what follows
    ground = np.abs(space[:, 2]) < 0.2
    assert points[ground, 3].mean() == pytest.approx(6, rel=0.05)
    assert np.linalg.norm(points[:, :3], axis=1).max() < 70.2
    rays = 3600 * (np.deg2rad(np.linspace(-30.67, 10.67, 32)) < -np.arcsin(1.84 / 70)).sum()
    assert ground.sum() + on_box.sum() == pytest.approx(0.95 * rays, rel=0.02)  # lost returns
