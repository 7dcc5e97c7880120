"""Failures of the cameras and of their calibration."""
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from ..camera_geometry import camera_matrices
from .registry import register_failure
from .view_choice import ViewChoice

_MISCALIBRATION = {1: (1, 0.04), 2: (3, 0.12), 3: (5, 0.20)}  # severity -> degrees, m


@register_failure('view_drop', 'view_drop:3 (random views), view_drop:0.2 (each with this probability) or '
                  'view_drop:CAM_FRONT,CAM_BACK',
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
        turned = [_rotation(axis, self.degrees) @ lidar2cam
                  for axis, lidar2cam in zip(axes, results['lidar2cam'])]
        results.update(camera_matrices(turned, results['cam_intrinsic']))
        return dict(is_graded=True, details=dict(degrees=self.degrees))


@register_failure('miscalibration', 'miscalibration[:views]',
                  lambda views='all', *, severity: Miscalibration(ViewChoice.parse(views), severity),
                  tuple(_MISCALIBRATION))
@dataclass(frozen=True)
class Miscalibration:
    """Views are believed to look elsewhere: each turned and shifted on its own, about and along random directions.

    By 1, 3, 5 degrees (the range of nuScenes-R: Yu et al., "Benchmarking the Robustness of LiDAR-Camera Fusion for 3D
    Object Detection", 2022) and 4, 12, 20 cm (the deviations of "spatial misalignment" of severities 1, 3, 5 in
    3D_Corruptions_AD: Dong et al., CVPR 2023). ``lidar2img`` follows. Unlike :class:`CalibrationNoise` it says which
    views tell where things are not.
    """

    views: ViewChoice
    severity: int

    @property
    def needs(self):
        return (*self.views.needs, 'lidar2cam', 'cam_intrinsic')

    def apply(self, results, rng):
        lost = self.views.choose(results, rng)
        degrees, meters = _MISCALIBRATION[self.severity]
        believed = list(results['lidar2cam'])
        for view in np.flatnonzero(lost):
            axis, direction = rng.standard_normal((2, 3))
            error = _rotation(axis, degrees)
            error[:3, 3] = meters * direction / np.linalg.norm(direction)
            believed[view] = error @ believed[view]
        for key, wrong in camera_matrices(believed, results['cam_intrinsic']).items():
            results[key] = [false if is_lost else own for false, own, is_lost in zip(wrong, results[key], lost)]
        return dict(views_lost=lost, details=dict(miscalibration=dict(degrees=degrees, meters=meters)))


def _rotation(axis, degrees):
    """(4, 4) rotation about an axis (3,) of any length > 0."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(degrees * axis / np.linalg.norm(axis), degrees=True).as_matrix()
    return turn
