"""Clouds that are thinner or noisier than they should be. No place is lost by that: all of these are graded."""
from dataclasses import dataclass

import numpy as np

from .clouds import change_points, keep_points, places_of, sweep_numbers
from .registry import register_failure

_REDUCED_SHARE = {1: 0.7, 2: 0.8, 3: 0.9}
_JITTER = {1: 0.02, 2: 0.06, 3: 0.10}            # m
_BLUR = {1: 0.06, 2: 0.10, 3: 0.13}              # m
_BLUR_OF_POINTS = np.array([0.15, 0.20, 0.12])   # of the blur of a sweep, along x, y, z
_CROSSTALK_SHARE = {1: 0.004, 2: 0.012, 3: 0.020}
_CROSSTALK = 3.0                                 # m


@register_failure('points_reduced', severities=tuple(_REDUCED_SHARE))
@dataclass(frozen=True)
class PointsReduced:
    """70, 80 or 90 % of the points are gone, at random; the number that is left is exact (MultiCorrupt)."""

    needs = ('points', )
    severity: int

    def apply(self, results, rng):
        number = len(results['points'])
        keep = rng.permutation(number) < round(number * (1 - _REDUCED_SHARE[self.severity]))
        keep_points(results, keep)
        return dict(is_graded=True)


@register_failure('jitter', severities=tuple(_JITTER))
@dataclass(frozen=True)
class Jitter:
    """Every coordinate of every point is off by Gaussian noise of 2, 6 or 10 cm.

    Severities 1, 3 and 5 of "Gaussian noise" of 3D_Corruptions_AD (Dong et al., CVPR 2023).
    """

    needs = ('points', )
    severity: int

    def apply(self, results, rng):
        places = places_of(results)
        change_points(results, places + rng.normal(0, _JITTER[self.severity], places.shape))
        return dict(is_graded=True)


@register_failure('lidar_motion_blur', severities=tuple(_BLUR))
@dataclass(frozen=True)
class LidarMotionBlur:
    """Each sweep is shifted by Gaussian noise of 6, 10 or 13 cm per axis, each point by a sixth of that (MultiCorrupt).

    Of a point the noise is 15, 20 and 12 % of the sweep's, along x, y and z.
    """

    needs = ('points', )
    severity: int

    def apply(self, results, rng):
        scale = _BLUR[self.severity]
        places, sweeps = places_of(results), sweep_numbers(results['points'])
        shifts = rng.normal(0, scale, (sweeps.max(initial=0) + 1, 3))
        change_points(results, places + shifts[sweeps] + rng.normal(0, 1, places.shape) * scale * _BLUR_OF_POINTS)
        return dict(is_graded=True)


@register_failure('crosstalk', severities=tuple(_CROSSTALK_SHARE))
@dataclass(frozen=True)
class Crosstalk:
    """0.4, 1.2 or 2 % of the points, at random, are off by Gaussian noise of 3 m per axis.

    They stand for pulses of other LiDARs. Severities 1, 3 and 5 of 3D_Corruptions_AD (Dong et al., CVPR 2023).
    """

    needs = ('points', )
    severity: int

    def apply(self, results, rng):
        places = places_of(results)
        struck = rng.choice(len(places), round(len(places) * _CROSSTALK_SHARE[self.severity]), replace=False)
        places[struck] += rng.normal(0, _CROSSTALK, (len(struck), 3))
        change_points(results, places)
        return dict(is_graded=True, details=dict(crosstalk_points=len(struck)))
