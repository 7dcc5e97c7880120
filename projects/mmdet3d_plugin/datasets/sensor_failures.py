"""Sensor failures (design section 7) and the names by which configs and tools ask for them.

Every failure changes a sample as the loaders leave it (``points``, ``rings``, ``img``, ``lidar2cam``...), drawing from
the random generator that it is given and from nothing else, and returns the fields of a ``FailureRecord`` that say what
it did. ``needs`` are the keys that the sample must have.
"""
import hashlib
import inspect
import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
from mmdet3d.core.bbox import box_np_ops

from ..core.failure_record import FailureRecord
from .camera_geometry import camera_matrices

NUM_RINGS = 32
UNKNOWN_RING = -1
# Rings of nuScenes' 32-beam LiDAR that are left, by their number.
BEAM_RINGS = {16: tuple(range(1, 32, 2)), 8: tuple(range(1, 32, 4)), 4: tuple(range(1, 32, 8))}


def _keep_points(results, mask):
    """Keep the points of a bool mask (N,), and their rings where the sample has them."""
    results['points'] = results['points'][mask]
    if 'rings' in results:
        results['rings'] = results['rings'][mask]


def _blank_views(results, lost):
    """Make the images of a bool mask (V,) zero, as they are before normalisation."""
    results['img'] = [np.zeros_like(img) if is_lost else img for img, is_lost in zip(results['img'], lost)]
    return lost


class LidarDrop:
    """All points are gone."""

    needs = ('points', )

    def apply(self, results, rng):
        _keep_points(results, np.zeros(len(results['points']), dtype=bool))
        return dict(lidar_everywhere=True)


class CameraDrop:
    """All images are zero."""

    needs = ('img', )

    def apply(self, results, rng):
        return dict(views_lost=_blank_views(results, np.ones(len(results['img']), dtype=bool)))


@dataclass(frozen=True)
class ViewDrop:
    """Some images are zero: ``count`` random ones, or those of the ``cameras`` named.

    Raises:
        ValueError: unless exactly one of the two is given; in ``apply``, if the sample has fewer or other cameras.
    """

    count: Optional[int] = None
    cameras: Tuple[str, ...] = ()

    def __post_init__(self):
        if (self.count is None) == (not self.cameras) or (self.count is not None and self.count < 1) \
                or not all(self.cameras):
            raise ValueError('ViewDrop needs either a count >= 1 or names of cameras, got '
                             f'count={self.count} and cameras={self.cameras}')

    @property
    def needs(self):
        return ('img', 'camera_names') if self.cameras else ('img', )

    def apply(self, results, rng):
        lost = np.zeros(len(results['img']), dtype=bool)
        if self.cameras:
            names = list(results['camera_names'])
            unknown = sorted(set(self.cameras) - set(names))
            if unknown:
                raise ValueError(f'view_drop: the sample has no cameras {unknown}, but {names}')
            lost[[names.index(name) for name in self.cameras]] = True
        elif self.count > len(lost):
            raise ValueError(f'view_drop: {self.count} views to drop, but the sample has {len(lost)}')
        else:
            lost[rng.choice(len(lost), self.count, replace=False)] = True
        return dict(views_lost=_blank_views(results, lost))


@dataclass(frozen=True)
class LimitedFieldOfView:
    """Points are left within ``degrees`` (0 to 180, without the ends) to either side of forward, +y."""

    needs = ('points', )
    degrees: float

    def __post_init__(self):
        if not 0 < self.degrees < 180:
            raise ValueError(f'fov: degrees must lie between 0 and 180, got {self.degrees}')

    def apply(self, results, rng):
        x, y = results['points'].coord.numpy()[:, :2].T.astype(np.float64)
        _keep_points(results, np.abs(np.arctan2(x, y)) <= np.deg2rad(self.degrees))
        return dict(field_of_view=self.degrees)


@dataclass(frozen=True)
class ObjectFailure:
    """Points inside boxes of the ground truth are gone, with ``probability``: of each object, or of all of a frame."""

    needs = ('points', )
    probability: float
    per_frame: bool = False

    def __post_init__(self):
        if not 0 < self.probability <= 1:
            raise ValueError(f'object_failure: the probability must lie in (0, 1], got {self.probability}')

    def apply(self, results, rng):
        boxes = results.get('gt_bboxes_3d', results.get('failure_boxes'))
        if boxes is None:
            raise ValueError('object_failure needs boxes: gt_bboxes_3d in training, in tests failure_boxes, which '
                             'the dataset adds with load_failure_boxes=True')
        draws = np.full(len(boxes), rng.random()) if self.per_frame else rng.random(len(boxes))
        fails = draws < self.probability
        points = results['points'].coord.numpy()
        own = box_np_ops.points_in_rbbox(points, boxes.tensor[:, :7].numpy()[fails])  # (N, n), bottom centres
        _keep_points(results, ~own.any(axis=1))
        lost = np.concatenate([boxes.gravity_center.numpy(), boxes.tensor[:, 3:7].numpy()], axis=1)[fails]
        return dict(lost_boxes=lost.astype(np.float64), details=dict(objects=len(boxes)))


@dataclass(frozen=True)
class BeamReduction:
    """Of 32 rings 16 (the odd ones), 8 (1, 5, ..., 29) or 4 (1, 9, 17, 25) are left, in keyframe and sweeps.

    Rings come from ``LoadPointsFromMultiSweepsWithRings``. Points of pasted objects, whose rings are unknown, are
    thinned at random to the same share.
    """

    needs = ('points', )
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
        _keep_points(results, keep)
        return dict(is_graded=True)


@dataclass(frozen=True)
class CalibrationNoise:
    """Every camera is turned by ``degrees`` about an axis of its own, uniform over all directions, through its centre.

    ``lidar2img`` follows; it would not do to turn it alone, since image transforms compute it anew (design section 7).
    """

    needs = ('lidar2cam', 'cam_intrinsic')
    degrees: float

    def __post_init__(self):
        if not 0 < self.degrees <= 180:
            raise ValueError(f'calibration: degrees must lie in (0, 180], got {self.degrees}')

    def apply(self, results, rng):
        axes = rng.standard_normal((len(results['lidar2cam']), 3))
        turned = [_rotation(axis, np.deg2rad(self.degrees)) @ lidar2cam
                  for axis, lidar2cam in zip(axes, results['lidar2cam'])]
        results.update(camera_matrices(turned, results['cam_intrinsic']))
        return dict(is_graded=True, details=dict(degrees=self.degrees))


def _rotation(axis, angle):
    """(4, 4) rotation about an axis (3,) of any length > 0 by an angle in rad (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(4)
    turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


# Name of a failure: how to make it of the text behind the name.
_FAILURES = {
    'lidar_drop': lambda: LidarDrop(),
    'camera_drop': lambda: CameraDrop(),
    'view_drop': lambda views: (ViewDrop(count=int(views)) if views.isdigit() else
                                ViewDrop(cameras=tuple(views.split(',')))),
    'fov': lambda degrees: LimitedFieldOfView(float(degrees)),
    'object_failure': lambda probability: ObjectFailure(float(probability)),
    'frame_object_failure': lambda probability: ObjectFailure(float(probability), per_frame=True),
    'beams': lambda number: BeamReduction(int(number)),
    'calibration': lambda degrees: CalibrationNoise(float(degrees)),
}
CASE_HELP = ('clean, lidar_drop, camera_drop, view_drop:3 (random views) or view_drop:CAM_FRONT,CAM_BACK, fov:60, '
             'object_failure:0.5 (per object), frame_object_failure:0.5, beams:16|8|4, calibration:1 (degrees); '
             'several at once joined by +')


def parse_case(case):
    """Failures of a case.

    Args:
        case (str): 'clean', or failures joined by '+', each a name and, where it takes one, ':' and its argument:
            see ``CASE_HELP``.

    Returns:
        list: failures, in the order in which they are applied.

    Raises:
        ValueError: for names and arguments that do not exist, naming what is allowed.
    """
    if case == 'clean':
        return []
    failures = []
    for part in str(case).split('+'):
        name, colon, argument = part.partition(':')
        make = _FAILURES.get(name)
        if make is None or bool(colon) != bool(inspect.signature(make).parameters):
            raise ValueError(f'case {case!r}: {part!r} is no failure; allowed: {CASE_HELP}')
        try:
            failures.append(make(argument) if colon else make())
        except ValueError as error:
            raise ValueError(f'case {case!r}: {error}; allowed: {CASE_HELP}') from error
    return failures


def needs_boxes(case):
    """Whether a case needs the boxes of the ground truth."""
    return any(isinstance(failure, ObjectFailure) for failure in parse_case(case))


def needs_rings(case):
    """Whether a case needs the rings of the points."""
    return any(isinstance(failure, BeamReduction) for failure in parse_case(case))


def failure_rng(token, case, *seed):
    """Random generator that depends on a sample's token, the case and the seed alone, on every machine alike."""
    digest = hashlib.sha256('|'.join(map(str, (token, case, *seed))).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype='<u4'))


def apply_case(results, case, *seed):
    """Let a case strike a sample.

    Args:
        results (dict): a sample after its loaders; changed in place, arrays and images are replaced.
        case (str): see :func:`parse_case`.
        *seed (int): further numbers the draw depends on, beside ``results['sample_idx']`` and the case.

    Returns:
        FailureRecord: its ``details`` have the number of points before and after.

    Raises:
        ValueError: for a case that does not exist, or one that the sample lacks the sensors for.
    """
    rng = failure_rng(results['sample_idx'], case, *seed)
    record = dict(case=case, seed=seed, details={})
    if 'img' in results:
        record['views_lost'] = np.zeros(len(results['img']), dtype=bool)
    if 'points' in results:
        record['details']['points_before'] = len(results['points'])
    for failure in parse_case(case):
        missing = [key for key in failure.needs if key not in results]
        if missing:
            raise ValueError(f'case {case!r} needs {missing}, which the sample lacks; it has {sorted(results)}')
        done = failure.apply(results, rng)
        record['details'].update(done.pop('details', {}))
        if 'views_lost' in done:
            record['views_lost'] = record['views_lost'] | done.pop('views_lost')
        if 'field_of_view' in done:
            record['field_of_view'] = min(done.pop('field_of_view'), record.get('field_of_view', math.inf))
        if 'lost_boxes' in record and 'lost_boxes' in done:
            done['lost_boxes'] = np.concatenate([record['lost_boxes'], done['lost_boxes']])
        record.update(done)
    if 'points' in results:
        record['details']['points_after'] = len(results['points'])
    return FailureRecord(**record)
