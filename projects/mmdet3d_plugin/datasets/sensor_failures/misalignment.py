"""Clouds that are complete but in the wrong place: the LiDAR was moved and its calibration was not."""
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from .clouds import change_points, places_of, sweep_numbers
from .registry import register_failure

_SHARE_OF_SWEEPS = {1: 0.2, 2: 0.4, 3: 0.6}
_DEGREES = {1: 1.0, 2: 2.0, 3: 3.0}
_SHIFT = np.array([2.0, 0.0, 0.0])  # m
_FARTHEST_SHIFT = 100.0             # m


@register_failure('misalignment', severities=tuple(_DEGREES))
@dataclass(frozen=True)
class Misalignment:
    """Sweeps, each with a probability of 20, 40 or 60 %, are turned about all axes and shifted to the right.

    They are turned by -1, -2 or -3 degrees about z, then y, then x and shifted by 2 m along +x, as in "spatial
    misalignment" of MultiCorrupt, where each file draws for itself. LiDAR is lost everywhere where more than half of
    the points are false; a sample with fewer is graded, and one with none is as it was (``spared``). The number of
    false points is ``misaligned_points`` of the record's details.
    """

    needs = ('points', )
    severity: int

    def apply(self, results, rng):
        places, sweeps = places_of(results), sweep_numbers(results['points'])
        struck = rng.random(sweeps.max(initial=0) + 1) < _SHARE_OF_SWEEPS[self.severity]
        false = struck[sweeps]
        turn = Rotation.from_euler('XYZ', [-_DEGREES[self.severity]] * 3, degrees=True).as_matrix()
        places[false] = places[false] @ turn.T + _SHIFT
        change_points(results, places)
        number = int(false.sum())
        found = dict(details=dict(misaligned_points=number))
        if number:
            found['lidar_everywhere' if number > len(false) / 2 else 'is_graded'] = True
        return found


@register_failure('lidar_turn', 'lidar_turn:10 (degrees)', lambda degrees: LidarTurn(float(degrees)))
@dataclass(frozen=True)
class LidarTurn:
    """The cloud is turned about z by ``degrees``, to the left or to the right at random."""

    needs = ('points', )
    degrees: float

    def __post_init__(self):
        if not 0 < self.degrees <= 180:
            raise ValueError(f'lidar_turn: degrees must lie in (0, 180], got {self.degrees}')

    def apply(self, results, rng):
        degrees = self.degrees * float(rng.choice((-1, 1)))
        turn = Rotation.from_euler('z', degrees, degrees=True).as_matrix()
        change_points(results, places_of(results) @ turn.T)
        return dict(lidar_everywhere=True, details=dict(lidar_turn=degrees))


@register_failure('lidar_shift', 'lidar_shift:2 (m)', lambda meters: LidarShift(float(meters)))
@dataclass(frozen=True)
class LidarShift:
    """The cloud is shifted by ``meters`` in a random horizontal direction."""

    needs = ('points', )
    meters: float

    def __post_init__(self):
        if not 0 < self.meters <= _FARTHEST_SHIFT:
            raise ValueError(f'lidar_shift: meters must lie in (0, {_FARTHEST_SHIFT:g}], got {self.meters}')

    def apply(self, results, rng):
        direction = rng.uniform(-np.pi, np.pi)
        shift = self.meters * np.array([np.cos(direction), np.sin(direction), 0])
        change_points(results, places_of(results) + shift)
        return dict(lidar_everywhere=True, details=dict(lidar_shift=shift[:2].tolist()))
