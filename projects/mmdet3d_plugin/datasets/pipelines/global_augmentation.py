"""Augmentations that move the whole LiDAR scene; points, boxes and the camera calibration move together."""
import numpy as np
from mmdet.datasets.builder import PIPELINES
from mmdet3d.datasets.pipelines import GlobalRotScaleTrans, RandomFlip3D

from ..camera_geometry import follow_lidar_motion


@PIPELINES.register_module()
class GlobalRotScaleTransAll(GlobalRotScaleTrans):
    """:class:`mmdet3d.datasets.pipelines.GlobalRotScaleTrans` for samples with cameras.

    ``lidar2img`` and ``lidar2cam`` follow. The scene is rotated exactly once, whether a sample has no box, one field
    of boxes or several.

    Args:
        rot_range, scale_ratio_range, translation_std, shift_height: See the parent.
    """

    def _rot_bbox_points(self, input_dict):
        angle = np.random.uniform(*self.rot_range)
        input_dict['pcd_rotation'] = input_dict['points'].rotate(angle)
        input_dict['pcd_rotation_angle'] = angle
        for key in input_dict['bbox3d_fields']:
            input_dict[key].rotate(angle)

    def __call__(self, input_dict):
        results = super().__call__(input_dict)
        cos, sin = np.cos(results['pcd_rotation_angle']), np.sin(results['pcd_rotation_angle'])
        motion = np.eye(4)
        motion[:2, :2] = [[cos, -sin], [sin, cos]]
        motion[:3, :3] *= results['pcd_scale_factor']
        motion[:3, 3] = results['pcd_trans']
        follow_lidar_motion(results, motion)
        return results


@PIPELINES.register_module()
class CustomRandomFlip3D(RandomFlip3D):
    """:class:`mmdet3d.datasets.pipelines.RandomFlip3D` for samples with surround cameras.

    The LiDAR scene is mirrored (horizontal: y, vertical: x), ``lidar2img`` and ``lidar2cam`` follow, the images stay.

    Args:
        sync_2d (bool): Only False: one mirrored image can follow a mirrored scene, six cannot.
        flip_ratio_bev_horizontal (float): Probability of mirroring y.
        flip_ratio_bev_vertical (float): Probability of mirroring x.

    Raises:
        ValueError: if ``sync_2d`` is True.
    """

    def __init__(self, sync_2d=False, flip_ratio_bev_horizontal=0.0, flip_ratio_bev_vertical=0.0):
        if sync_2d:
            raise ValueError('sync_2d must be False: surround images are not mirrored with the LiDAR scene')
        super().__init__(
            sync_2d=False,
            flip_ratio_bev_horizontal=flip_ratio_bev_horizontal,
            flip_ratio_bev_vertical=flip_ratio_bev_vertical)

    def random_flip_data_3d(self, input_dict, direction='horizontal'):
        """Mirror the points and every field of boxes (the parent allows one field only)."""
        input_dict['points'].flip(direction)
        for key in input_dict['bbox3d_fields']:
            input_dict[key].flip(direction)

    def __call__(self, input_dict):
        # these two keys keep the parent from drawing a 2D flip that nothing would carry out
        input_dict.setdefault('flip', False)
        input_dict.setdefault('flip_direction', None)
        results = super().__call__(input_dict)
        follow_lidar_motion(
            results, np.diag([
                -1. if results['pcd_vertical_flip'] else 1.,
                -1. if results['pcd_horizontal_flip'] else 1.,
                1.,
                1.,
            ]))
        return results


@PIPELINES.register_module()
class GlobalRotScaleTransImage:
    """Turn, scale and mirror the scene of samples whose points, if any, nothing else moves: camera-only training.

    Boxes, points, ``lidar2img`` and ``lidar2cam`` move together, counterclockwise seen from above; the images stay.

    Args:
        rot_range (Sequence[float]): least and largest angle, rad.
        scale_ratio_range (Sequence[float]): least and largest factor.
        translation_std (Sequence[float]): only zeros, as published: the scene is not shifted.
        reverse_angle, training (bool): stated by published configs, without effect. The first turned boxes against the
            sense that they had before mmdet3d 1.0; there boxes and cameras would part.
        flip_dx_ratio, flip_dy_ratio (float): probability of mirroring x and y.

    Raises:
        ValueError: for a shift.
    """

    def __init__(self, rot_range=(-0.3925, 0.3925), scale_ratio_range=(0.95, 1.05), translation_std=(0, 0, 0),
                 reverse_angle=False, training=True, flip_dx_ratio=0.0, flip_dy_ratio=0.0):
        if any(translation_std):
            raise ValueError(f'translation_std must be zeros, got {list(translation_std)}; GlobalRotScaleTransAll '
                             'shifts scenes')
        self.rot_range, self.scale_ratio_range = rot_range, scale_ratio_range
        self.flip_dx_ratio, self.flip_dy_ratio = flip_dx_ratio, flip_dy_ratio

    def __call__(self, results):
        angle, scale = np.random.uniform(*self.rot_range), np.random.uniform(*self.scale_ratio_range)
        is_mirrored = [np.random.rand() < ratio for ratio in (self.flip_dx_ratio, self.flip_dy_ratio)]
        for key in ('points', *results['bbox3d_fields']):
            if key in results:
                results[key].rotate(angle)
                results[key].scale(scale)
                for direction, mirrored in zip(('vertical', 'horizontal'), is_mirrored):
                    if mirrored:
                        results[key].flip(direction)
        cos, sin = np.cos(angle), np.sin(angle)
        motion = np.eye(4)
        motion[:2, :2] = np.diag(np.where(is_mirrored, -1, 1)) @ [[cos, -sin], [sin, cos]]
        motion[:3, :3] *= scale
        follow_lidar_motion(results, motion)
        return results

    def __repr__(self):
        return (f'{type(self).__name__}(rot_range={self.rot_range}, scale_ratio_range={self.scale_ratio_range}, '
                f'flip_dx_ratio={self.flip_dx_ratio}, flip_dy_ratio={self.flip_dy_ratio})')
