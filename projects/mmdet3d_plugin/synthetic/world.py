"""A scene of the synthetic world: a walled square with scenery, objects of ten classes, and the ego vehicle."""
from dataclasses import dataclass

import numpy as np

from .ray_casting import Boxes
from .shapes import KINDS, Part, local_parts

SQUARE_CENTER = np.array([100.0, 100.0])  # m, global frame: the map mask covers 0 to 200 m
ARENA_RADIUS = 22.0                       # objects stay within, m
WALL_DISTANCE = 29.0                      # m
EGO_RADIUS = 3.5                          # kept free around the ego vehicle, m
EGO_PATH = 10.0                           # the ego vehicle drives at most so far, m


@dataclass
class Actor:
    """An object on a straight path at constant speed; 0 if it stands.

    Attributes:
        category: nuScenes' category name, '' for scenery, which is not annotated.
        size: (3,) length, width, height, m.
        parts: boxes that make it up.
        color: (3,) RGB in [0, 1].
        position: (2,) global, at time 0, m.
        yaw: global, rad.
        speed: m/s, along the yaw.
        salt: seeds the texture.
        has_rider: whether a cycle is ridden.
    """

    category: str
    size: np.ndarray
    parts: tuple
    color: np.ndarray
    position: np.ndarray
    yaw: float
    speed: float
    salt: int
    has_rider: bool = False

    @property
    def footprint_radius(self):
        return float(np.hypot(*self.size[:2]) / 2)

    def center(self, time):
        """(..., 3) gravity center at times (...), s."""
        heading = np.array([np.cos(self.yaw), np.sin(self.yaw)])
        xy = self.position + self.speed * np.asarray(time)[..., None] * heading
        return np.concatenate([xy, np.full((*xy.shape[:-1], 1), self.size[2] / 2)], axis=-1)

    @property
    def attribute(self):
        """nuScenes' attribute name, '' where the class has none."""
        moves = self.speed > 0.3
        if self.category in ('vehicle.bicycle', 'vehicle.motorcycle'):
            return 'cycle.with_rider' if self.has_rider else 'cycle.without_rider'
        if self.category.startswith('vehicle'):
            return 'vehicle.moving' if moves else 'vehicle.parked'
        if self.category.startswith('human'):
            return 'pedestrian.moving' if moves else 'pedestrian.standing'
        return ''


@dataclass
class Light:
    """Direction to the sun (3,), ambient and sun strength, tint (3,), fog per m, noise of the cameras (of 255)."""

    sun: np.ndarray
    ambient: float
    strength: float
    tint: np.ndarray
    fog: float
    noise: float

    @classmethod
    def draw(cls, rng):
        azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.3)
        day = rng.uniform(0.35, 1.0)  # dusk to noon
        return cls(
            sun=np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)]),
            ambient=0.6 * day, strength=rng.uniform(0.1, 0.6) * day, tint=rng.uniform(0.85, 1.1, 3),
            fog=rng.uniform(0, 0.012), noise=rng.uniform(2, 8))


class World:
    """Everything that a scene holds, drawn from a generator.

    Args:
        rng (numpy.random.Generator): source of all randomness.
        duration (float): seconds that the scene lasts; all the while no two objects touch, except neighbors in a row.

    Raises:
        RuntimeError: no room was found for one of the ten classes, of which every scene has at least one object.
    """

    def __init__(self, rng, duration):
        self.times = np.linspace(0, duration, max(2, int(duration / 0.25) + 1))
        self.light = Light.draw(rng)
        self.ground_salt = int(rng.integers(1 << 30))
        self.ground_tone = rng.uniform(0.25, 0.5)
        self.ego_yaw = rng.uniform(-np.pi, np.pi)
        self.ego_yaw_rate = rng.uniform(-0.15, 0.15) / max(1.0, duration / 4)
        self.ego_speed = min(rng.uniform(1.0, 4.0), EGO_PATH / max(duration, 1.0))
        start = -0.5 * self.ego_speed * duration
        self.ego_start = SQUARE_CENTER + rng.uniform(-1.5, 1.5, 2) + start * np.array(
            [np.cos(self.ego_yaw), np.sin(self.ego_yaw)])
        self.ego_path = np.stack([self.ego_pose(time)[0][:2] for time in self.times])  # (T, 2)
        self.actors = []
        for kind in sorted(KINDS, key=lambda kind: -kind.longest_group):  # while there is room
            self._place_kind(rng, kind)
        self.actors += self._walls(rng)
        self._place_scenery(rng)

    @property
    def parts(self):
        """All parts with their actors, in the order of :meth:`boxes`."""
        return [(part, actor) for actor in self.actors for part in actor.parts]

    def ego_pose(self, time):
        """Position (3,) and yaw of the ego vehicle on its arc at a time, s."""
        yaw = self.ego_yaw + self.ego_yaw_rate * time
        if abs(self.ego_yaw_rate) < 1e-6:
            traveled = self.ego_speed * time * np.array([np.cos(yaw), np.sin(yaw)])
        else:
            traveled = self.ego_speed / self.ego_yaw_rate * np.array(
                [np.sin(yaw) - np.sin(self.ego_yaw), np.cos(self.ego_yaw) - np.cos(yaw)])
        return np.array([*(self.ego_start + traveled), 0.0]), yaw

    def boxes(self, time):
        """All parts of all actors at a time, s, as Boxes in the global frame; owners index ``actors``."""
        centers, rotations, halves, owners = [], [], [], []
        for index, actor in enumerate(self.actors):
            rotation = yaw_matrix(actor.yaw)
            offsets, half_sizes = local_parts(actor.parts, actor.size)
            centers.append(actor.center(time) + offsets @ rotation.T)
            rotations.append(np.repeat(rotation[None], len(offsets), axis=0))
            halves.append(half_sizes)
            owners.append(np.full(len(offsets), index))
        return Boxes(*(np.concatenate(x) for x in (centers, rotations, halves, owners)))

    def _place_kind(self, rng, kind):
        """Place as many objects of a class as are drawn and find room, at least one; rows may be shortened."""
        missing = int(rng.integers(kind.count[0], kind.count[1] + 1))
        groups = [missing - k for k in range(missing)] if kind.row else [1] * missing
        is_placed = False
        for group in groups:
            if group <= missing and self._place_group(rng, kind, group):
                missing, is_placed = missing - group, True
        if not is_placed and not self._place_group(rng, kind, 1, attempts=2000):
            raise RuntimeError(f'no room for a {kind.category} among {len(self.actors)} objects')

    def _place_group(self, rng, kind, count, attempts=60):
        """Try to place a row of objects; returns how many were placed, 0 or all."""
        color = np.array(kind.palette[rng.integers(len(kind.palette))]) if kind.palette else rng.uniform(0.1, 0.95, 3)
        for attempt in range(attempts):
            yaw = rng.uniform(-np.pi, np.pi)
            stands = kind.max_speed == 0 or attempt > attempts // 2 or rng.random() < 0.4
            speed = 0.0 if stands else rng.uniform(0.3, 1.0) * kind.max_speed
            anchor = _draw_place(rng)
            across = np.array([-np.sin(yaw), np.cos(yaw)])
            group = []
            for k in range(count):
                size = np.array(kind.size) * rng.uniform(0.88, 1.12, 3)
                has_rider = bool(rng.random() < 0.7)
                parts = kind.parts + (kind.rider if has_rider else ())
                group.append(Actor(kind.category, size, parts, np.clip(color + rng.uniform(-0.06, 0.06, 3), 0, 1),
                                   anchor + k * kind.row * across, yaw, speed, int(rng.integers(1 << 30)), has_rider))
            if all(self._is_free(actor) for actor in group):
                self.actors += group
                return count
        return 0

    def _is_free(self, actor):
        path = actor.center(self.times)[:, :2]  # (T, 2)
        if (np.linalg.norm(path - SQUARE_CENTER, axis=1) > ARENA_RADIUS).any():
            return False
        if (np.linalg.norm(path - self.ego_path, axis=1) < actor.footprint_radius + EGO_RADIUS).any():
            return False
        for other in self.actors:
            gap = np.linalg.norm(path - other.center(self.times)[:, :2], axis=1).min()
            if gap < actor.footprint_radius + other.footprint_radius + 0.2:
                return False
        return True

    def _walls(self, rng):
        """Buildings around the square, seen from everywhere, so that no ray leaves it at the height of objects."""
        walls, count = [], 12
        for k in range(count):
            angle = 2 * np.pi * k / count
            size = np.array([4.0, 2.2 * WALL_DISTANCE * np.tan(np.pi / count), rng.uniform(5, 12)])
            place = SQUARE_CENTER + (WALL_DISTANCE + 2 + rng.uniform(0, 2)) * np.array([np.cos(angle), np.sin(angle)])
            walls.append(_scenery(rng, size, place, angle, rng.uniform(0.3, 0.8, 3)))
        return walls

    def _place_scenery(self, rng):
        """Poles, bushes and kiosks: things that are not annotated."""
        for size in ((0.3, 0.3, 5.0), (0.3, 0.3, 4.0), (1.4, 1.4, 1.6), (1.8, 1.8, 2.6), (0.9, 0.9, 1.2),
                     (2.6, 2.2, 2.8), (1.2, 0.6, 1.0), (0.5, 0.5, 1.5)):
            for _ in range(20):
                place = _draw_place(rng)
                color = rng.uniform(0.1, 0.8, 3)
                actor = _scenery(rng, np.array(size) * rng.uniform(0.8, 1.2, 3), place, rng.uniform(-np.pi, np.pi),
                                 color)
                if self._is_free(actor):
                    self.actors.append(actor)
                    break


def _draw_place(rng):
    """A place (2,) in the arena, uniform over its area."""
    radius, angle = ARENA_RADIUS * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    return SQUARE_CENTER + radius * np.array([np.cos(angle), np.sin(angle)])


def _scenery(rng, size, position, yaw, color):
    return Actor('', size, (Part((0, 0, 0), (1, 1, 1), None, rng.uniform(10, 60)), ), color, position, yaw, 0.0,
                 int(rng.integers(1 << 30)))


def yaw_matrix(yaw):
    """(3, 3) rotation about z."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
