"""Failures of the cameras and of their calibration."""
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from ..camera_geometry import camera_matrices
from .registry import register_failure


def _blank_views(results, lost):
    """Make the images of a bool mask (V,) zero, as they are before normalization."""
    results['img'] = [np.zeros_like(img) if is_lost else img for img, is_lost in zip(results['img'], lost)]
    return lost


@register_failure('camera_drop')
class CameraDrop:
    """All images are zero."""

    needs = ('img', )

    def apply(self, results, rng):
        return dict(views_lost=_blank_views(results, np.ones(len(results['img']), dtype=bool)))


@register_failure('view_drop', 'view_drop:3 (random views) or view_drop:CAM_FRONT,CAM_BACK',
                  lambda views: ViewDrop.parse(views))
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
                or not all(self.cameras) or len(set(self.cameras)) < len(self.cameras):
            raise ValueError('ViewDrop needs either a count >= 1 or different names of cameras, got '
                             f'count={self.count} and cameras={self.cameras}')

    @classmethod
    def parse(cls, views):
        """A number, or names with commas between them."""
        return cls(count=int(views)) if views.isdigit() else cls(cameras=tuple(views.split(',')))

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


@register_failure('calibration', 'calibration:1 (degrees)', lambda degrees: CalibrationNoise(float(degrees)))
@dataclass(frozen=True)
class CalibrationNoise:
    """Every camera is turned by ``degrees`` about an axis of its own, uniform over all directions, through its center.

    ``lidar2img`` follows. Turning it alone would have no effect, since image transforms compute it anew
    (docs/design.md, "Sensor failures").
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
