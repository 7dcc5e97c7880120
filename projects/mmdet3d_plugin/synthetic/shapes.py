"""What the ten classes of the nuScenes detection task look like in the synthetic world."""
from dataclasses import dataclass

import numpy as np

DARK, GLASS, WHITE, ORANGE, YELLOW = (0.12, 0.12, 0.13), (0.2, 0.28, 0.38), (0.9, 0.9, 0.9), (0.95, 0.4, 0.08), \
    (0.9, 0.68, 0.1)


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
        rider: part that a cycle has besides if it is ridden.
    """

    category: str
    size: tuple
    count: tuple
    max_speed: float
    parts: tuple
    palette: tuple = ()
    row: float = 0.0
    rider: Part = None


KINDS = (
    Kind('vehicle.car', (4.6, 1.95, 1.73), (3, 5), 4.0,
         (Part((0, 0, -0.42), (0.9, 0.96, 0.16), DARK, 8), Part((0, 0, -0.13), (1, 1, 0.44)),
          Part((-0.06, 0, 0.29), (0.55, 0.9, 0.42), GLASS, 12))),
    Kind('vehicle.truck', (6.9, 2.5, 2.85), (1, 2), 3.0,
         (Part((0, 0, -0.4), (0.95, 0.9, 0.2), DARK, 8), Part((0.36, 0, -0.06), (0.28, 0.95, 0.64), WHITE),
          Part((-0.16, 0, 0.09), (0.68, 1, 0.82)))),
    Kind('vehicle.bus.rigid', (10.5, 2.9, 3.5), (1, 1), 3.0,
         (Part((0, 0, -0.02), (0.995, 0.98, 0.96)), Part((0, 0, 0.15), (1, 1, 0.26), GLASS, 12))),
    Kind('vehicle.trailer', (10.0, 2.8, 3.8), (1, 2), 2.0,
         (Part((0, 0, 0.14), (1, 1, 0.72), None, 45), Part((-0.3, 0, -0.36), (0.28, 0.9, 0.28), DARK, 8),
          Part((0.42, 0, -0.36), (0.06, 0.4, 0.28), DARK, 8)),
         ((0.75, 0.75, 0.78), (0.85, 0.85, 0.8), (0.6, 0.65, 0.7))),
    Kind('vehicle.construction', (6.4, 2.8, 3.2), (1, 2), 1.0,
         (Part((-0.12, 0, -0.34), (0.75, 1, 0.32), DARK, 8), Part((-0.2, 0, 0.08), (0.5, 0.8, 0.52)),
          Part((0.2, 0, 0.4), (0.5, 0.2, 0.2)), Part((0.42, 0, 0), (0.16, 0.7, 0.6)),
          Part((-0.1, 0.1, 0.4), (0.22, 0.5, 0.18), GLASS, 12)), (YELLOW, ORANGE)),
    Kind('movable_object.barrier', (0.5, 2.4, 1.0), (3, 5), 0.0,
         (Part((0, 0, 0.18), (0.4, 1, 0.64), None, 60), Part((0, 0.4, -0.32), (1, 0.08, 0.36), DARK, 10),
          Part((0, -0.4, -0.32), (1, 0.08, 0.36), DARK, 10)), ((0.85, 0.2, 0.15), (0.8, 0.78, 0.74)), 2.6),
    Kind('vehicle.motorcycle', (2.1, 0.8, 1.5), (2, 3), 3.0,
         (Part((0, 0, -0.24), (1, 0.35, 0.52), DARK, 15), Part((0.08, 0, -0.05), (0.4, 0.45, 0.3)),
          Part((0.26, 0, 0.2), (0.08, 1, 0.1), DARK, 10)),
         rider=Part((-0.12, 0, 0.22), (0.26, 0.6, 0.56), GLASS, 20)),
    Kind('vehicle.bicycle', (1.7, 0.6, 1.3), (2, 3), 2.0,
         (Part((-0.32, 0, -0.26), (0.36, 0.12, 0.48), DARK, 10), Part((0.32, 0, -0.26), (0.36, 0.12, 0.48), DARK, 10),
          Part((0, 0, -0.05), (0.5, 0.14, 0.16), None, 40), Part((0.3, 0, 0.18), (0.06, 1, 0.08), DARK, 10),
          Part((-0.1, 0, 0.02), (0.12, 0.2, 0.3), DARK, 10)),
         rider=Part((-0.08, 0, 0.2), (0.28, 0.75, 0.6), (0.3, 0.45, 0.35), 25)),
    Kind('human.pedestrian.adult', (0.72, 0.68, 1.77), (4, 7), 1.5,
         (Part((0, 0, -0.26), (0.5, 0.6, 0.48), GLASS, 15), Part((0, 0, 0.15), (0.8, 1, 0.36)),
          Part((0, 0, 0.42), (0.4, 0.4, 0.16), (0.85, 0.65, 0.52), 25))),
    Kind('movable_object.trafficcone', (0.42, 0.42, 1.05), (3, 6), 0.0,
         (Part((0, 0, -0.46), (1, 1, 0.08), DARK, 10), Part((0, 0, -0.22), (0.66, 0.66, 0.4), None, 80),
          Part((0, 0, 0.1), (0.48, 0.48, 0.24), WHITE, 120), Part((0, 0, 0.36), (0.3, 0.3, 0.28), None, 80)),
         (ORANGE, ), 2.2),
)


def local_parts(parts, size):
    """Centers and half sizes (P, 3) in m of an object's parts, for its length, width and height."""
    return (np.array([part.center for part in parts]) * size, np.array([part.size for part in parts]) * size / 2)
