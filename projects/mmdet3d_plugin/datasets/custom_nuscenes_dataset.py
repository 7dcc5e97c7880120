import copy

import numpy as np
from mmdet.datasets import DATASETS
from mmdet3d.datasets import NuScenesDataset

from ..evaluation.devkit_evaluation import devkit_metrics
from .camera_geometry import as_homogeneous, camera_matrices
from .info_records import (
    check_boxes_hold_points,
    check_camera_counts,
    check_info_file,
    drop_bad_boxes,
    load_infos,
    rebased,
)
from .other_samples import OtherSamples, needs_other_samples
from .training_samples import training_sample

_SWEEP_LOADERS = ('LoadPointsFromMultiSweeps', 'LoadPointsFromMultiSweepsWithRings')


@DATASETS.register_module()
class CustomNuScenesDataset(NuScenesDataset):
    """nuScenes with the full calibration of every camera in each sample.

    :class:`mmdet3d.datasets.NuScenesDataset` gives ``lidar2img`` alone; the image transforms of CMT also need the two
    matrices it consists of.

    In tests the loaders of sweeps take the newest ones instead of drawing them, whatever the pipeline says: all models,
    numbers of workers and runs see the same points. Files that do not lie where the info file says are looked for below
    ``data_root``. Boxes with values that are not finite or without size are left out, with a warning.

    Args:
        return_gt_info (bool): Add a copy of the sample's info record as ``info``; the ground-truth database is made
            from it.
        load_failure_boxes (bool): Add the boxes of the ground truth as ``failure_boxes``, in tests, too: simulated
            object failures need them. ``Collect3D`` keeps them from the model.
        trust_data (bool): Load an info file that holds more than arrays and plain values, which runs any code in it.
        pipeline (list[dict] | None): Data pipeline.
        *args, **kwargs: See :class:`mmdet3d.datasets.NuScenesDataset`.

    Raises:
        FileNotFoundError: if there is no such info file.
        ValueError: for a ``load_interval`` below 1; for an info file that is damaged, of another format, of
            mmdetection3d < 1.0, has a calibration that is not finite, or names other files than those below
            ``data_root``; in training, for samples with different numbers of cameras.
    """

    def __init__(self, ann_file, pipeline=None, *args, return_gt_info=False, load_failure_boxes=False, trust_data=False,
                 test_mode=False, **kwargs):
        self.trust_data = trust_data
        if test_mode and pipeline is not None:
            pipeline = [dict(step, test_mode=True) if step['type'] in _SWEEP_LOADERS else step for step in pipeline]
        self.return_gt_info = return_gt_info
        self.load_failure_boxes = load_failure_boxes
        check_info_file(ann_file, kwargs.get('file_client_args'))
        super().__init__(ann_file, pipeline, *args, test_mode=test_mode, **kwargs)

    def load_annotations(self, ann_file):
        """Load and check the info file; every ``load_interval``-th record in the order of time."""
        ann_file.close()  # the parent opened it
        if not isinstance(self.load_interval, int) or self.load_interval < 1:
            raise ValueError(f'load_interval must be an integer >= 1, got {self.load_interval!r}')
        with_cameras = bool(self.modality and self.modality['use_camera'])
        with_boxes = not self.test_mode or self.load_failure_boxes
        infos, self.metadata = load_infos(self.ann_file, with_cameras, with_boxes, self.trust_data)
        self.version = self.metadata['version']
        infos = sorted(infos, key=lambda info: info['timestamp'])
        self.all_infos = drop_bad_boxes(self.ann_file, rebased(self.ann_file, infos, self.data_root))
        infos = self.all_infos[::self.load_interval]
        if not self.test_mode:
            check_boxes_hold_points(self.ann_file, infos)
            if with_cameras:
                check_camera_counts(self.ann_file, {info['token']: len(info['cams']) for info in infos})
        return infos

    def __getitem__(self, index):
        """A sample as the pipeline leaves it; in training, one with ground truth, see `training_sample`."""
        return self.prepare_test_data(index) if self.test_mode else training_sample(self, index)

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
        if needs_other_samples(self):
            data_info['other_samples'] = OtherSamples(self, index)
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
        """nuScenes' evaluation by the devkit, on the samples and classes of this dataset; see `devkit_metrics`."""
        return devkit_metrics(self, result_path, result_name, logger)


def _lidar2cam(camera):
    """LiDAR to camera (4, 4) from an info record's ``sensor2lidar_rotation`` (3, 3) and ``_translation`` (3,)."""
    cam2lidar = as_homogeneous(camera['sensor2lidar_rotation'])
    cam2lidar[:3, 3] = camera['sensor2lidar_translation']
    return np.linalg.inv(cam2lidar)
