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
