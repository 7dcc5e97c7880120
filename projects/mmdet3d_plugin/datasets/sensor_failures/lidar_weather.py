"""Fog and snow as a LiDAR sees them: of all echoes of a pulse the strongest one becomes the point."""
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.constants import speed_of_light
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar

from .clouds import change_points, intensity_of, keep_points, places_of
from .registry import register_failure

# The receiver sees nothing before the first range (m) and everything from the second on (Hahner et al.).
_BLIND, _FULL = 0.9, 1.0

_FOG = {1: (0.02, 0.008), 2: (0.03, 0.008), 3: (0.06, 0.05)}  # attenuation (1/m) and backscatter (1/sr/m)
_TARGET_REFLECTIVITY = 1e-6 / np.pi                           # 1/sr
_PULSE = 2e-8                                                 # s, half-power width
_GHOST_SPREAD = 10.0                                          # m
_SIDES = 12                                                   # of the polygon around the circle that fog leaves
_FAR = 1000.0                                                 # m, beyond all places

_SNOW = {1: (0.5, 1.2), 2: (2.5, 1.6), 3: (1.5, 0.4)}  # snowfall (mm/h of water) and velocity of the flakes (m/s)
_FLAKE_DENSITY = 0.1                                   # of water's
_RATED_DIAMETER, _LARGEST_DIAMETER = 0.003, 0.02       # m
_BEAM = 0.003                                          # rad, divergence
_FLAKE_INTENSITY = 0.9 * 255
_NOISE_FLOOR = 0.7                                     # share of its light that a target must keep to be seen


@register_failure('lidar_fog', severities=tuple(_FOG))
@dataclass(frozen=True)
class LidarFog:
    """Targets are dimmed with distance; beyond some range the fog's own echo is stronger and takes the point's place.

    That range is 41.6, 34.5 or 15.8 m. Ghosts lie on the same beam near the peak of the fog's echo, at 4.6 m, scattered
    as MultiCorrupt scatters them: within 3.8 to 6.2, 3.6 to 6.6 or 2.8 to 12.6 m. Model: Hahner et al., "Fog simulation
    on real LiDAR point clouds" (ICCV 2021); attenuation and backscatter: MultiCorrupt. LiDAR is lost beyond the range.
    """

    needs = ('points', )
    severity: int

    def apply(self, results, rng):
        attenuation, backscatter = _FOG[self.severity]
        peak = _fog_peak(attenuation, backscatter)
        places = places_of(results)
        distance = np.linalg.norm(places, axis=1)
        is_ghost = distance > peak.farthest_target
        drowned = distance[is_ghost]
        scattered = drowned / rng.uniform(drowned - _GHOST_SPREAD, drowned + _GHOST_SPREAD)
        places[is_ghost] *= (peak.distance * scattered / drowned)[:, None]
        echo = np.where(is_ghost, peak.strength * distance ** 2, np.exp(-2 * attenuation * distance))
        change_points(results, places, echo * intensity_of(results))
        return dict(lost_boxes=_boxes_beyond(peak.farthest_target), details=dict(fog_ghosts=int(is_ghost.sum())))


class _FogPeak(NamedTuple):
    """The strongest echo of fog.

    Attributes:
        distance: m, where it comes from.
        strength: 1/m²; times the square of a target's distance it is the echo in shares of the target's in clear air.
        farthest_target: m, where a target's echo in fog is as strong.
    """

    distance: float
    strength: float
    farthest_target: float


@cache
def _fog_peak(attenuation, backscatter):
    def echo(distance):
        """The pulse (a squared sine) folded with what a layer of fog sends back, integrated over its length."""
        def layer(time):
            depth = distance - speed_of_light * time / 2
            seen = np.clip((depth - _BLIND) / (_FULL - _BLIND), 0, 1)
            return seen * np.sin(np.pi * time / (2 * _PULSE)) ** 2 * np.exp(-2 * attenuation * depth) / depth ** 2
        blind, full = (2 * (distance - depth) / speed_of_light for depth in (_BLIND, _FULL))
        return quad(layer, 0, min(2 * _PULSE, blind), points=[min(2 * _PULSE, full)])[0]

    highest = minimize_scalar(lambda distance: -echo(distance), bounds=(2, 8), method='bounded')
    strength = -highest.fun * backscatter / _TARGET_REFLECTIVITY
    farthest = brentq(lambda distance: strength * distance ** 2 - np.exp(-2 * attenuation * distance), 1, _FAR)
    return _FogPeak(highest.x, strength, farthest)


def _boxes_beyond(radius):
    """(12, 7) boxes that together cover the outside of a polygon around a circle, as a record's ``lost_boxes``."""
    yaw = 2 * np.pi * np.arange(_SIDES) / _SIDES
    center = radius + _FAR / 2
    flat, full = np.zeros(_SIDES), np.full(_SIDES, _FAR)
    return np.stack([center * np.cos(yaw), center * np.sin(yaw), flat, full, 2 * full, full, yaw], axis=1)


@register_failure('lidar_snow', severities=tuple(_SNOW))
@dataclass(frozen=True)
class LidarSnow:
    """Flakes in the beams send back ghosts close to the sensor and dim the targets behind them.

    Each beam meets flakes at random; flake and target reflect alike, and the echo falls with the square of the
    distance. Where a flake's is stronger the point moves to the flake; of the others, which lose the share of light
    that flakes take, those with less than 70 % left are gone. A planar model after Hahner et al., "LiDAR snowfall
    simulation for robust 3D object detection" (CVPR 2022), with the rates of MultiCorrupt and flakes drawn anew for
    each point. Most points are true, and ghosts are everywhere near the sensor: graded.
    """

    needs = ('points', )
    severity: int

    def apply(self, results, rng):
        places = places_of(results)
        distance = np.linalg.norm(places, axis=1)
        point, depth, share = _flakes(distance, *_snowfall(*_SNOW[self.severity]), rng)
        light = np.clip(1 - np.bincount(point, share, len(places)), 0, 1)
        echo = share * np.clip((depth - _BLIND) / (_FULL - _BLIND), 0, 1) / depth ** 2
        strongest = _strongest(echo, point, len(places))
        is_ghost = np.append(echo, 0)[strongest] * distance ** 2 > light
        flake = strongest[is_ghost]
        places[is_ghost] *= (depth[flake] / distance[is_ghost])[:, None]
        intensity = light * intensity_of(results)
        intensity[is_ghost] = _FLAKE_INTENSITY * share[flake]
        change_points(results, places, intensity)
        seen = is_ghost | (light >= _NOISE_FLOOR)
        keep_points(results, seen)
        return dict(is_graded=True, details=dict(snow_ghosts=int(is_ghost.sum()), snow_lost=int((~seen).sum())))


def _strongest(echo, point, number):
    """Of each of so many points the flake with the strongest echo, -1 where there is none."""
    by_echo = np.argsort(echo, kind='stable')
    strongest = np.full(number, -1)
    strongest[point[by_echo]] = by_echo  # of several the last one stays
    return strongest


def _snowfall(rate, velocity):
    """Flakes per m² of a plane and their mean diameter in m (Gunn and Marshall, 1958), from snowfall and velocity."""
    covered = rate / (3.6e6 * _FLAKE_DENSITY * velocity)  # share of the plane
    rain = (rate / (487 * _FLAKE_DENSITY * _RATED_DIAMETER * velocity)) ** 1.5  # mm/h
    diameter = 0.01 / (25.5 * rain ** -0.48)
    # A plane cuts balls of exponential diameters at any height: the mean area of the disks is pi d²/3.
    return covered / (np.pi * diameter ** 2 / 3), diameter


def _flakes(distance, density, diameter, rng):
    """Flakes that touch the beams to points at a distance (N,).

    Returns:
        tuple: of each flake the number of its point, its depth in m, and the share of the beam's width that it takes.
    """
    # Centers lie within the beam, or beside it by less than the disk's radius: drawn for the largest and thinned.
    within, beside = _BEAM * distance ** 2 / 2, _LARGEST_DIAMETER * distance  # m²
    number = rng.poisson(density * (within + beside))
    point = np.repeat(np.arange(len(distance)), number)
    is_within = rng.random(len(point)) * (within + beside)[point] < within[point]
    ball = np.minimum(rng.exponential(diameter, len(point)), _LARGEST_DIAMETER)
    disk = ball * np.sqrt(1 - rng.random(len(point)) ** 2)
    touches = is_within | (rng.random(len(point)) * _LARGEST_DIAMETER < disk)
    point, is_within, disk = point[touches], is_within[touches], disk[touches]
    draw = 1 - rng.random(len(point))  # in (0, 1]
    depth = distance[point] * np.where(is_within, np.sqrt(draw), draw)
    width = _BEAM * depth
    reach = (disk + width) / 2  # of centers to either side of the beam's axis
    overlap = np.minimum(reach - rng.uniform(0, reach), np.minimum(disk, width))
    return point, depth, overlap / width
