"""What the ten classes of the nuScenes detection task look like in the synthetic world.

All but barriers and cones, whose heading nobody asks for, have a front that LiDAR and cameras tell from their rear.
"""
from dataclasses import dataclass

import numpy as np

# RGB in [0, 1]. Fronts are pale and rears red, as headlights and tail lights are; LiDAR tells them by their intensity.
DARK, GLASS, WHITE, ORANGE, YELLOW = (0.12, 0.12, 0.13), (0.2, 0.28, 0.38), (0.9, 0.9, 0.9), (0.95, 0.4, 0.08), \
    (0.9, 0.68, 0.1)
FRONT, REAR, SKIN, WINDSCREEN = (1.0, 0.95, 0.75), (0.8, 0.05, 0.05), (0.85, 0.65, 0.52), (0.55, 0.72, 0.9)
FRONT_INTENSITY, REAR_INTENSITY = 110.0, 230.0  # of 255; a rear has reflectors


@dataclass(frozen=True)
class Part:
    """A box inside the unit box [-0.5, 0.5]^3 of its object (x forward, y left, z up).

    ``color`` is RGB in [0, 1], or None for the object's own.
    """

    center: tuple
    size: tuple
    color: tuple = None
    intensity: float = 30.0


@dataclass(frozen=True)
class Kind:
    """One class.

    Attributes:
        category: nuScenes' category name.
        size: mean length, width and height, m.
        count: smallest and largest number per scene, as far as there is room.
        max_speed: m/s; 0 never moves.
        parts: boxes that make it up.
        palette: RGB colors to draw from, () for any.
        row: distance (m) between the centers of objects that stand in a row, 0 for single ones.
        rider: parts that a cycle has besides if it is ridden.
    """

    category: str
    size: tuple
    count: tuple
    max_speed: float
    parts: tuple
    palette: tuple = ()
    row: float = 0.0
    rider: tuple = ()

    @property
    def longest_group(self):
        """Length in m of the object, or of the longest row."""
        return max(self.size[0], self.row * self.count[1])


def _front(center, size):
    return Part(center, size, FRONT, FRONT_INTENSITY)


def _rear(center, size):
    return Part(center, size, REAR, REAR_INTENSITY)


def _rider(x, z):
    """Someone on a cycle who sits at x and reaches from the seat to the top: a pale chest, a red rucksack."""
    height, center = 0.5 - z, (0.5 + z) / 2
    return (Part((x, 0, center), (0.16, 0.62, height), GLASS, 20), _front((x + 0.11, 0, center), (0.06, 0.56, height)),
            _rear((x - 0.12, 0, center - 0.04), (0.08, 0.6, height - 0.14)))


KINDS = (
    Kind('vehicle.car', (4.6, 1.95, 1.73), (3, 5), 4.0,
         (Part((0, 0, -0.42), (0.9, 0.96, 0.16), DARK, 8), Part((0, 0, -0.17), (0.96, 1, 0.34)),
          Part((-0.33, 0, 0.07), (0.3, 0.96, 0.14)), Part((-0.14, 0, 0.29), (0.5, 0.88, 0.42), GLASS, 12),
          Part((0.13, 0, 0.22), (0.06, 0.86, 0.36), WINDSCREEN, 4),
          _front((0.46, 0, -0.12), (0.08, 0.96, 0.22)), _rear((-0.46, 0, -0.05), (0.08, 0.98, 0.34)))),
    Kind('vehicle.truck', (6.9, 2.5, 2.85), (1, 2), 3.0,
         (Part((0, 0, -0.4), (0.95, 0.9, 0.2), DARK, 8), Part((0.34, 0, -0.06), (0.26, 0.95, 0.64), WHITE),
          Part((-0.16, 0, 0.09), (0.64, 1, 0.82)), Part((0.475, 0, 0.08), (0.03, 0.86, 0.28), WINDSCREEN, 4),
          _front((0.48, 0, -0.22), (0.04, 0.95, 0.24)), _rear((-0.49, 0, -0.1), (0.02, 1, 0.44)))),
    Kind('vehicle.bus.rigid', (10.5, 2.9, 3.5), (1, 1), 3.0,
         (Part((0, 0, -0.02), (0.97, 0.98, 0.96)), Part((-0.03, 0, 0.15), (0.92, 1, 0.26), GLASS, 12),
          Part((0.49, 0, 0.16), (0.02, 0.94, 0.5), WINDSCREEN, 4), Part((-0.25, 0, 0.49), (0.4, 0.6, 0.02), DARK, 8),
          _front((0.49, 0, -0.28), (0.02, 0.98, 0.36)), _rear((-0.49, 0, -0.1), (0.02, 0.98, 0.7)))),
    Kind('vehicle.trailer', (10.0, 2.8, 3.8), (1, 2), 2.0,
         (Part((0, 0, 0.14), (0.98, 1, 0.72), None, 45), Part((-0.3, 0, -0.36), (0.28, 0.9, 0.28), DARK, 8),
          Part((0.42, 0, -0.36), (0.06, 0.4, 0.28), DARK, 8),
          _front((0.495, 0, 0.1), (0.01, 0.96, 0.6)), _rear((-0.495, 0, 0.1), (0.01, 0.98, 0.64))),
         ((0.75, 0.75, 0.78), (0.85, 0.85, 0.8), (0.6, 0.65, 0.7))),
    Kind('vehicle.construction', (6.4, 2.8, 3.2), (1, 2), 1.0,
         (Part((-0.12, 0, -0.34), (0.72, 1, 0.32), DARK, 8), Part((-0.2, 0, 0.08), (0.5, 0.8, 0.52)),
          Part((0.2, 0, 0.4), (0.5, 0.2, 0.2)), Part((0.41, 0, 0), (0.14, 0.7, 0.6)),
          Part((-0.1, 0.1, 0.4), (0.22, 0.5, 0.18), GLASS, 12),
          _front((0.49, 0, -0.1), (0.02, 0.7, 0.4)), _rear((-0.48, 0, -0.1), (0.04, 0.9, 0.5))), (YELLOW, ORANGE)),
    Kind('movable_object.barrier', (0.5, 2.4, 1.0), (3, 5), 0.0,
         (Part((0, 0, 0.18), (0.4, 1, 0.64), None, 60), Part((0, 0.4, -0.32), (1, 0.08, 0.36), DARK, 10),
          Part((0, -0.4, -0.32), (1, 0.08, 0.36), DARK, 10)), ((0.85, 0.2, 0.15), (0.8, 0.78, 0.74)), 2.6),
    Kind('vehicle.motorcycle', (2.1, 0.8, 1.5), (2, 3), 3.0,
         (Part((0, 0, -0.24), (0.9, 0.35, 0.52), DARK, 15), Part((0.08, 0, -0.05), (0.4, 0.45, 0.3)),
          Part((0.26, 0, 0.2), (0.08, 1, 0.1), DARK, 10),
          _front((0.4, 0, 0.08), (0.2, 0.6, 0.3)), _rear((-0.42, 0, 0.0), (0.16, 0.6, 0.26))),
         rider=_rider(-0.12, -0.06)),
    Kind('vehicle.bicycle', (1.7, 0.6, 1.3), (2, 3), 2.0,
         (Part((-0.32, 0, -0.26), (0.36, 0.12, 0.48), DARK, 10), Part((0.32, 0, -0.26), (0.36, 0.12, 0.48), DARK, 10),
          Part((0, 0, -0.05), (0.5, 0.14, 0.16), None, 40), Part((0.3, 0, 0.18), (0.06, 1, 0.08), DARK, 10),
          Part((-0.1, 0, 0.02), (0.12, 0.2, 0.3), DARK, 10),
          _front((0.4, 0, 0.1), (0.12, 0.6, 0.26)), _rear((-0.42, 0, 0.05), (0.14, 0.5, 0.22))),
         rider=_rider(-0.08, -0.06)),
    Kind('human.pedestrian.adult', (0.72, 0.68, 1.77), (4, 7), 1.5,
         (Part((0, 0, -0.26), (0.5, 0.6, 0.48), GLASS, 15), Part((0, 0, 0.15), (0.4, 1, 0.36)),
          Part((0, 0, 0.42), (0.4, 0.4, 0.16), DARK, 10), Part((0.21, 0, 0.41), (0.12, 0.36, 0.14), SKIN, 40),
          _front((0.31, 0, 0.15), (0.22, 0.8, 0.36)), _rear((-0.35, 0, 0.13), (0.3, 0.8, 0.34)))),
    Kind('movable_object.trafficcone', (0.42, 0.42, 1.05), (3, 6), 0.0,
         (Part((0, 0, -0.46), (1, 1, 0.08), DARK, 10), Part((0, 0, -0.22), (0.66, 0.66, 0.4), None, 80),
          Part((0, 0, 0.1), (0.48, 0.48, 0.24), WHITE, 120), Part((0, 0, 0.36), (0.3, 0.3, 0.28), None, 80)),
         (ORANGE, ), 2.2),
)


def local_parts(parts, size):
    """Centers and half sizes (P, 3) in m of an object's parts, for its length, width and height."""
    return (np.array([part.center for part in parts]) * size, np.array([part.size for part in parts]) * size / 2)
