"""Failures of the LiDAR."""
from dataclasses import dataclass

import numpy as np
from mmdet3d.core.bbox import box_np_ops

from .clouds import boxes_of, keep_points
from .registry import register_failure

NUM_RINGS = 32
UNKNOWN_RING = -1
# Rings of nuScenes' 32-beam LiDAR that are left, by their number.
BEAM_RINGS = {16: tuple(range(1, 32, 2)), 8: tuple(range(1, 32, 4)), 4: tuple(range(1, 32, 8))}


@register_failure('lidar_drop')
class LidarDrop:
    """All points are gone."""

    needs = ('points', )

    def apply(self, results, rng):
        keep_points(results, np.zeros(len(results['points']), dtype=bool))
        return dict(lidar_everywhere=True)


@register_failure('fov', 'fov:60', lambda degrees: LimitedFieldOfView(float(degrees)))
@dataclass(frozen=True)
class LimitedFieldOfView:
    """Only points within ``degrees`` (above 0, below 180) to either side of forward (+y) are left."""

    needs = ('points', )
    degrees: float

    def __post_init__(self):
        if not 0 < self.degrees < 180:
            raise ValueError(f'fov: degrees must lie between 0 and 180, got {self.degrees}')

    def apply(self, results, rng):
        x, y = results['points'].coord.numpy()[:, :2].T.astype(np.float64)
        keep_points(results, np.abs(np.arctan2(x, y)) <= np.deg2rad(self.degrees))
        return dict(field_of_view=self.degrees)


@register_failure('object_failure', 'object_failure:0.5 (per object)', lambda share: ObjectFailure(float(share)))
@register_failure('frame_object_failure', 'frame_object_failure:0.5',
                  lambda share: ObjectFailure(float(share), per_frame=True))
@dataclass(frozen=True)
class ObjectFailure:
    """Points inside ground-truth boxes are gone, with ``probability`` for each box.

    With ``per_frame`` all boxes of a frame lose their points together, or none does.
    """

    needs = ('points', 'boxes')
    probability: float
    per_frame: bool = False

    def __post_init__(self):
        if not 0 < self.probability <= 1:
            raise ValueError(f'object_failure: the probability must lie in (0, 1], got {self.probability}')

    def apply(self, results, rng):
        boxes = boxes_of(results, 'object_failure')
        draws = np.full(len(boxes), rng.random()) if self.per_frame else rng.random(len(boxes))
        fails = draws < self.probability
        points = results['points'].coord.numpy()
        own = box_np_ops.points_in_rbbox(points, boxes.tensor[:, :7].numpy()[fails])  # (N, n), bottom centers
        keep_points(results, ~own.any(axis=1))
        lost = np.concatenate([boxes.gravity_center.numpy(), boxes.tensor[:, 3:7].numpy()], axis=1)[fails]
        return dict(lost_boxes=lost.astype(np.float64), details=dict(objects=len(boxes)))


@register_failure('beams', 'beams:16|8|4', lambda number: BeamReduction(int(number)))
@dataclass(frozen=True)
class BeamReduction:
    """Of 32 rings 16 (the odd ones), 8 (1, 5, ..., 29) or 4 (1, 9, 17, 25) are left, in keyframe and sweeps.

    Rings come from ``LoadPointsFromMultiSweepsWithRings``. Points of pasted objects, whose rings are unknown, are
    thinned at random to the same share.
    """

    needs = ('points', 'rings')
    beams: int

    def __post_init__(self):
        if self.beams not in BEAM_RINGS:
            raise ValueError(f'beams must be one of {sorted(BEAM_RINGS)}, got {self.beams}')

    def apply(self, results, rng):
        rings = results.get('rings')
        if rings is None or len(rings) != len(results['points']):
            raise ValueError('beams needs the ring of every point: load sweeps with '
                             'LoadPointsFromMultiSweepsWithRings, and let no other transform change the points before '
                             'the failure; got '
                             f'{"no rings" if rings is None else f"{len(rings)} rings"} for '
                             f'{len(results["points"])} points')
        keep = np.isin(rings, BEAM_RINGS[self.beams])
        unknown = rings == UNKNOWN_RING
        keep[unknown] = rng.random(unknown.sum()) < self.beams / NUM_RINGS
        keep_points(results, keep)
        return dict(is_graded=True)
