import numpy as np
import pytest

from projects.mmdet3d_plugin.synthetic.shapes import FRONT, KINDS, REAR
from projects.mmdet3d_plugin.synthetic.world import ARENA_RADIUS, SQUARE_CENTER, WALL_DISTANCE, World


@pytest.fixture(scope='module', params=[(0, 0.5), (1, 4.5), (2, 19.5)], ids=str)
def world(request):
    """A world and its duration, s."""
    seed, duration = request.param
    return World(np.random.default_rng(seed), duration), duration


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.category)
def test_parts_fill_the_box_of_their_object(kind):
    """Nothing sticks out, and the box is about as tight as an annotator draws it."""
    for parts in (kind.parts, kind.parts + kind.rider):
        low = np.min([np.array(part.center) - np.array(part.size) / 2 for part in parts], axis=0)
        high = np.max([np.array(part.center) + np.array(part.size) / 2 for part in parts], axis=0)
        assert (low >= -0.5 - 1e-9).all() and (high <= 0.5 + 1e-9).all()
    assert (high - low >= 0.8).all()


def test_nothing_touches(world):
    world, duration = world
    for time in np.arange(0, duration + 0.01, 0.1):
        places = np.array([actor.center(time)[:2] for actor in world.actors if actor.category])
        radii = np.array([actor.footprint_radius for actor in world.actors if actor.category])
        in_row = np.array([actor.category.startswith('movable') for actor in world.actors if actor.category])
        gaps = np.linalg.norm(places[:, None] - places, axis=-1) - radii[:, None] - radii
        gaps[np.eye(len(radii), dtype=bool) | in_row[:, None] & in_row] = 1
        assert gaps.min() > 0
        ego = world.ego_pose(time)[0][:2]
        assert (np.linalg.norm(places - ego, axis=1) - radii).min() > 3
        assert np.linalg.norm(places - SQUARE_CENTER, axis=1).max() < ARENA_RADIUS + 0.1
        assert np.linalg.norm(ego - SQUARE_CENTER) < WALL_DISTANCE - 3


def test_the_ego_vehicle_drives_where_it_points(world):
    world, duration = world
    for time in np.linspace(0, duration, 5):
        (before, _), (after, _) = (world.ego_pose(time + step) for step in (-1e-4, 1e-4))
        velocity, yaw = (after - before) / 2e-4, world.ego_pose(time)[1]
        np.testing.assert_allclose(velocity, world.ego_speed * np.array([np.cos(yaw), np.sin(yaw), 0]), atol=1e-6)


def test_short_scenes_hold_nearly_all_that_is_asked_for():
    complete = moving = 0
    for seed in range(10):
        world = World(np.random.default_rng(seed), 0.5)
        counts = {kind: sum(actor.category == kind.category for actor in world.actors) for kind in KINDS}
        complete += all(count >= kind.count[0] for kind, count in counts.items())
        moving += sum(actor.speed > 0 for actor in world.actors)
        assert sum(not actor.category for actor in world.actors) > 12  # walls and scenery
    assert complete >= 8 and moving > 80


HAVE_NO_FRONT = ('movable_object.barrier', 'movable_object.trafficcone')


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind.category not in HAVE_NO_FRONT],
                         ids=lambda kind: kind.category)
def test_fronts_differ_from_rears_for_both_sensors(kind):
    """What a ray from ahead meets first is pale and reflects less than what one from behind meets, which is red."""
    seen = {}
    for side in (1, -1):
        height, along = max((part.size[1] * part.size[2], part.center[0] + side * part.size[0] / 2)
                            for part in kind.parts if part.color in (FRONT, REAR)
                            and side * part.center[0] > 0)
        assert height > 0.05 and side * along > 0.3  # of the unit box: large, and at the end
        seen[side], = {(part.color, part.intensity) for part in kind.parts
                       if part.color in (FRONT, REAR) and side * part.center[0] > 0}
    assert seen[1][0] == FRONT and seen[-1][0] == REAR
    assert seen[-1][1] > 1.5 * seen[1][1]


@pytest.mark.parametrize('duration', [0.5, 2.0, 19.5])
def test_every_scene_holds_all_classes(duration):
    for seed in range(25):
        world = World(np.random.default_rng([7, seed]), duration)
        counts = {kind.category: sum(actor.category == kind.category for actor in world.actors) for kind in KINDS}
        assert min(counts.values()) >= 1 and all(counts[kind.category] <= kind.count[1] for kind in KINDS)


def test_the_ego_vehicle_moves_between_keyframes():
    """Enough for a stale sensor to be wrong: mostly half a meter or more in half a second."""
    steps = [World(np.random.default_rng([7, seed]), 2.0).ego_speed * 0.5 for seed in range(25)]
    assert np.median(steps) > 0.8 and max(steps) <= 2
