"""Failures of the cameras and of their calibration."""
from dataclasses import dataclass

import numpy as np

from ..camera_geometry import camera_matrices
from .registry import register_failure
from .view_choice import ViewChoice


@register_failure('view_drop', 'view_drop:3 (random views) or view_drop:CAM_FRONT,CAM_BACK',
                  lambda views: ViewDrop(ViewChoice.parse(views)))
@register_failure('camera_drop', make=lambda: ViewDrop(ViewChoice()))
@dataclass(frozen=True)
class ViewDrop:
    """Images are zero, as they are before normalization."""

    views: ViewChoice

    @property
    def needs(self):
        return self.views.needs

    def apply(self, results, rng):
        lost = self.views.choose(results, rng)
        results['img'] = [np.zeros_like(img) if is_lost else img for img, is_lost in zip(results['img'], lost)]
        return dict(views_lost=lost)


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
