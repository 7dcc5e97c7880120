import copy

import mmcv
import numpy as np
from mmdet.datasets import DATASETS
from mmdet3d.datasets import NuScenesDataset

from .camera_geometry import as_homogeneous, camera_matrices


@DATASETS.register_module()
class CustomNuScenesDataset(NuScenesDataset):
    """nuScenes with the full calibration of every camera in each sample.

    :class:`mmdet3d.datasets.NuScenesDataset` gives ``lidar2img`` alone; the image transforms of CMT also need the two
    matrices it consists of.

    Args:
        return_gt_info (bool): Add a copy of the sample's info record as ``info``; the ground-truth database is made
            from it.
        load_failure_boxes (bool): Add the boxes of the ground truth as ``failure_boxes``, in tests, too: simulated
            object failures need them. ``Collect3D`` keeps them from the model.
        *args, **kwargs: See :class:`mmdet3d.datasets.NuScenesDataset`.
    """

    def __init__(self, *args, return_gt_info=False, load_failure_boxes=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.return_gt_info = return_gt_info
        self.load_failure_boxes = load_failure_boxes

    def get_data_info(self, index):
        """Describe one sample to the pipeline.

        Returns:
            dict: The parent's keys (``sample_idx``, ``pts_filename``, ``sweeps``, ``timestamp`` (s), in training
            ``ann_info``) and ``img_sweeps``, ``radar_info`` (None where the info file has none). With cameras, lists
            over views: ``camera_names``, ``img_filename``, ``img_timestamp`` (s), ``lidar2img``, ``lidar2cam``,
            ``cam_intrinsic`` ((4, 4) float64 each).
        """
        data_info = super().get_data_info(index)
        info = self.data_infos[index]
        data_info.update(img_sweeps=info.get('img_sweeps'), radar_info=info.get('radars'))
        if self.modality['use_camera']:
            cameras = list(info['cams'].values())
            data_info.update(
                camera_names=list(info['cams']),
                img_timestamp=[camera['timestamp'] / 1e6 for camera in cameras],
                **camera_matrices([_lidar2cam(camera) for camera in cameras],
                                  [camera['cam_intrinsic'] for camera in cameras]))
        if self.load_failure_boxes:
            data_info['failure_boxes'] = self.get_ann_info(index)['gt_bboxes_3d']
        if self.return_gt_info:
            data_info['info'] = copy.deepcopy(info)
        return data_info

    def get_ann_info(self, index):
        """The parent's annotations, with integer labels also where a sample has no box (there they come as float64)."""
        annotations = super().get_ann_info(index)
        annotations['gt_labels_3d'] = annotations['gt_labels_3d'].astype(np.int64)
        return annotations

    def _evaluate_single(self, result_path, logger=None, metric='bbox', result_name='pts_bbox'):
        """The parent's evaluation by the nuScenes devkit, which raises where no sample has any detection.

        A model at the start of its training may well be there; by definition both scores are then 0.
        """
        if not any(mmcv.load(result_path)['results'].values()):
            return {f'{result_name}_NuScenes/{score}': 0.0 for score in ('NDS', 'mAP')}
        return super()._evaluate_single(result_path, logger, metric, result_name)


def _lidar2cam(camera):
    """LiDAR to camera (4, 4) from an info record's ``sensor2lidar_rotation`` (3, 3) and ``_translation`` (3,)."""
    cam2lidar = as_homogeneous(camera['sensor2lidar_rotation'])
    cam2lidar[:3, 3] = camera['sensor2lidar_translation']
    return np.linalg.inv(cam2lidar)
