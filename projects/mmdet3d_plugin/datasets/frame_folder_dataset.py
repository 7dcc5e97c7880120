import json
import os.path as osp
from pathlib import Path

import numpy as np
from mmcv.utils import print_log
from mmdet.datasets import DATASETS
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.datasets import Custom3DDataset
from mmdet3d.utils import get_root_logger
from scipy.spatial.distance import cdist

from ..core.bbox.detection_records import detection_records
from ..core.greedy_match import greedy_match
from ..utils.atomic_file import atomic_path
from ..utils.restricted_pickle import load_pickle
from .camera_geometry import calibration_problem, camera_matrices
from .info_records import check_camera_counts
from .other_samples import OtherSamples, needs_other_samples
from .pipelines.point_files import LoadPointsFromFile
from .training_samples import training_sample

ORIGIN = ('A frame is in demo/data/nuscenes of https://github.com/open-mmlab/mmdetection3d (1.1 or later); '
          'docs/data.md says what else makes one')
_NOT_USED = -1
_UNKNOWN = -1  # number of LiDAR points


@DATASETS.register_module()
class FrameFolderDataset(Custom3DDataset):
    """Frames given as files in one directory: images, LiDAR points and an info file in mmdet3d 1.1 format.

    It feeds the same pipelines as :class:`CustomNuScenesDataset`. A frame has no earlier sweeps (``sweeps`` is empty).

    A record of the info file needs ``lidar_points.lidar_path`` and, for each of its ``images``, ``img_path``,
    ``cam2img`` and ``lidar2cam``. ``instances`` (with ``bbox_3d`` and ``bbox_label_3d``, and ``metainfo.categories`` to
    name the labels) are the ground truth, which training and evaluation need. The rest may be missing: ``timestamp``
    (then 0), ``token`` and ``sample_idx`` (then the frame's index), an instance's ``velocity`` (then unknown) and
    ``num_lidar_pts`` (then unknown, and no limit on it can be set).

    Args:
        data_root (str): The directory; file names in the info file are relative to it.
        ann_file (str | None): The info file; default: the only ``*.pkl`` in ``data_root``.
        pipeline (list[dict] | None): Data pipeline.
        classes (Sequence[str] | str | None): Class names in the order of the labels, or a file that lists them;
            default: the categories of the info file in its order. Boxes of other categories, and of label -1 in the
            info file ("not evaluated"), are left out.
        modality (dict | None): ``use_lidar``, ``use_camera``...; default: LiDAR and cameras.
        box_type_3d (str): Only 'LiDAR'.
        filter_empty_gt (bool): In training, draw another frame in place of one without boxes.
        test_mode (bool): Leave ``ann_info`` out of the samples.
        with_velocity (bool): Boxes have 9 numbers instead of 7. As in mmdet3d's nuScenes dataset an unknown velocity
            (NaN) becomes 0.
        min_lidar_points (int): Leave out boxes with fewer LiDAR points than this.
        load_failure_boxes (bool): See :class:`CustomNuScenesDataset`.
        repeat (int): In training, how many times an epoch contains each frame. If more than once, samples have their
            ``repetition`` (from 0), so that ``SimulateFailure`` draws anew each time.
        trust_data (bool): Load an info file that holds more than arrays and plain values, which runs any code in it.

    Raises:
        FileNotFoundError: if the directory, the info file, or a file that it names does not exist.
        ValueError: if the info file cannot be chosen, is damaged, is not in mmdet3d 1.1 format, lacks a key that is
            needed or has a calibration that cannot be; a point file's length is no multiple of the declared
            ``lidar_points.num_pts_feats``, or the pipeline reads another number; in training, frames have different
            numbers of cameras; ``classes`` has a name unknown to it, or ``filter_empty_gt`` would leave no frame to
            train on.
    """
    CLASSES = ()

    def __init__(self,
                 data_root,
                 ann_file=None,
                 pipeline=None,
                 classes=None,
                 modality=None,
                 box_type_3d='LiDAR',
                 filter_empty_gt=False,
                 test_mode=False,
                 with_velocity=True,
                 min_lidar_points=0,
                 load_failure_boxes=False,
                 repeat=1,
                 trust_data=False):
        if not osp.isdir(data_root):
            raise FileNotFoundError(f'data_root={data_root!r} is not a directory; looked for a folder of frames: give '
                                    f'it to the tools as --frame DIR, or as data_root of the data sets. {ORIGIN}')
        if box_type_3d != 'LiDAR':
            raise ValueError(f"box_type_3d must be 'LiDAR', got {box_type_3d!r}")
        if min_lidar_points < 0:
            raise ValueError(f'min_lidar_points must be >= 0, got {min_lidar_points}')
        if not isinstance(repeat, int) or isinstance(repeat, bool) or repeat < 1 or (repeat > 1 and test_mode):
            raise ValueError(f'repeat must be an integer >= 1, and 1 with test_mode=True, got {repeat!r}')
        self.repeat = repeat
        self.trust_data = trust_data
        self.with_velocity = with_velocity
        self.min_lidar_points = min_lidar_points
        self.load_failure_boxes = load_failure_boxes
        super().__init__(
            data_root,
            _the_info_file(data_root) if ann_file is None else _existing(ann_file, 'the info file (ann_file)'),
            pipeline=pipeline,
            classes=classes,
            modality=modality or dict(use_lidar=True, use_camera=True),
            box_type_3d=box_type_3d,
            filter_empty_gt=filter_empty_gt,
            test_mode=test_mode)
        for transform in self.pipeline.transforms if pipeline is not None else ():
            if isinstance(transform, LoadPointsFromFile):
                self._check_declared(transform.load_dim)
        if filter_empty_gt and not test_mode and not any(self.get_cat_ids(i) for i in range(len(self))):
            raise ValueError(f'filter_empty_gt=True leaves no frame of {self.ann_file}: no box of {list(self.CLASSES)} '
                             f'with >= {min_lidar_points} LiDAR points')

    def load_annotations(self, ann_file):
        """Load the info file, check that all files it names exist, and settle the classes.

        Returns:
            list[dict]: One record per frame and repetition, all frames once, then again.
        """
        ann_file.close()  # the parent opened it
        content = load_pickle(self.ann_file, 'info file', self.trust_data)
        if isinstance(content, dict) and 'infos' in content:
            raise ValueError(f'{self.ann_file} is in mmdet3d 1.0 info format (infos), a frame folder needs 1.1 '
                             '(data_list); CustomNuScenesDataset reads 1.0')
        if not isinstance(content, dict) or not isinstance(content.get('data_list'), list):
            raise ValueError(f'{self.ann_file} is not in mmdet3d 1.1 info format: it has no data_list')
        if not content['data_list']:
            raise ValueError(f'{self.ann_file} has no frame: its data_list is empty')
        for index, info in enumerate(content['data_list']):
            self._check_keys(index, info)
            self._check_point_file(info['lidar_points'], self._lidar_path(info))
            if self.modality['use_camera']:
                self._image_paths(info)
        if self.modality['use_camera'] and not self.test_mode:
            check_camera_counts(self.ann_file, {
                info.get('token', index): len(info['images']) for index, info in enumerate(content['data_list'])})
        self._drop_bad_boxes(content['data_list'])
        self._settle_classes((content.get('metainfo') or {}).get('categories'), content['data_list'])
        return content['data_list'] * self.repeat

    def _check_keys(self, index, info):
        """Raise ValueError where a frame's record lacks what this dataset will read."""

        def require(record, *keys, where=''):
            for key in keys:
                if not isinstance(record, dict) or record.get(key) is None:
                    raise ValueError(f'{self.ann_file}: frame {index} lacks {where}{key}')

        require(info, 'lidar_points')
        require(info['lidar_points'], 'lidar_path', where='lidar_points.')
        if self.modality['use_camera']:
            require(info, 'images')
            if not isinstance(info['images'], dict) or not info['images']:
                raise ValueError(f'{self.ann_file}: images of frame {index} must name at least one camera')
            for name, camera in info['images'].items():
                require(camera, 'img_path', 'cam2img', 'lidar2cam', where=f'images.{name}.')
                for key, kind in (('cam2img', 'intrinsic'), ('lidar2cam', 'pose')):
                    problem = calibration_problem(kind, [camera[key]])
                    if problem:
                        raise ValueError(f'{self.ann_file}: images.{name}.{key} of frame {index} {problem}')
        if not self.test_mode and info.get('instances') is None:
            raise ValueError(f'{self.ann_file}: frame {index} lacks instances, the ground truth to train on')
        for number, instance in enumerate(info.get('instances') or []):
            counted = ['num_lidar_pts'] if self.min_lidar_points > 0 else []
            require(instance, 'bbox_3d', 'bbox_label_3d', *counted, where=f'instances.{number}.')

    @staticmethod
    def _check_point_file(lidar_points, path):
        values = lidar_points.get('num_pts_feats')
        if values and osp.getsize(path) % (4 * values):
            raise ValueError(f'{path} has {osp.getsize(path)} bytes, no multiple of {4 * values} for the declared '
                             f'{values} float32 values of a point (num_pts_feats)')

    def _check_declared(self, load_dim):
        """Raise where a frame declares points of another number of values than the pipeline reads."""
        for index, info in enumerate(self.data_infos):
            declared = info['lidar_points'].get('num_pts_feats')
            if declared not in (None, load_dim):
                raise ValueError(f'{self.ann_file}: frame {index} declares points of {declared} values '
                                 f'(num_pts_feats), the pipeline reads {load_dim} (load_dim of LoadPointsFromFile)')

    def _drop_bad_boxes(self, infos):
        """Leave out boxes with numbers that are not finite or sizes not above 0; one warning says how many."""
        dropped = []
        for index, info in enumerate(infos):
            instances = info.get('instances') or []
            good = [np.isfinite(each['bbox_3d']).all() and min(each['bbox_3d'][3:6]) > 0 for each in instances]
            dropped += [index] * good.count(False)
            if not all(good):
                info['instances'] = [each for each, kept in zip(instances, good) if kept]
        if dropped:
            get_root_logger().warning(f'{self.ann_file}: {len(dropped)} boxes have numbers that are not finite or '
                                      f'sizes that are not above 0 and are left out, the first in frame {dropped[0]}')

    def _settle_classes(self, categories, infos):
        """Set the classes and how the labels of the info file map to them."""
        if not categories:
            annotated = [index for index, info in enumerate(infos) if info.get('instances')]
            if annotated or not self.CLASSES:
                raise ValueError(f'{self.ann_file} lacks metainfo.categories, which ' + (
                    f'name the labels of the instances of frame {annotated[0]}' if annotated else
                    'must list the classes where no classes are given'))
            categories = {}
        else:
            unknown = sorted(set(self.CLASSES) - set(categories))
            if unknown:
                raise ValueError(f'classes {unknown} are unknown to {self.ann_file}, which has {sorted(categories)}')
        self.CLASSES = tuple(self.CLASSES or sorted(categories, key=categories.get))
        self.cat2id = {name: label for label, name in enumerate(self.CLASSES)}
        self._label_of_category = {index: self.cat2id.get(name, _NOT_USED) for name, index in categories.items()}

    def _lidar_path(self, info):
        return _existing(osp.join(self.data_root, info['lidar_points']['lidar_path']), 'the LiDAR points of a frame')

    def _image_paths(self, info):
        return [
            _existing(osp.join(self.data_root, camera['img_path']), f'the {name} image of a frame')
            for name, camera in info['images'].items()
        ]

    def __getitem__(self, index):
        """A sample as the pipeline leaves it; in training, one with ground truth, see `training_sample`."""
        return self.prepare_test_data(index) if self.test_mode else training_sample(self, index)

    def get_data_info(self, index):
        """Describe one frame to the pipeline, with the keys of :meth:`CustomNuScenesDataset.get_data_info`."""
        info = self.data_infos[index]
        data_info = dict(
            sample_idx=self._sample_idx(index),
            pts_filename=self._lidar_path(info),
            sweeps=[],
            timestamp=info.get('timestamp', 0),
            img_sweeps=None,
            radar_info=None)
        if self.repeat > 1:
            data_info['repetition'] = index // (len(self.data_infos) // self.repeat)
        if self.modality['use_camera']:
            cameras = list(info['images'].values())
            data_info.update(
                camera_names=list(info['images']),
                img_filename=self._image_paths(info),
                img_timestamp=[camera.get('timestamp', data_info['timestamp']) for camera in cameras],
                **camera_matrices([camera['lidar2cam'] for camera in cameras],
                                  [camera['cam2img'] for camera in cameras]))
        if needs_other_samples(self):
            data_info['other_samples'] = OtherSamples(self, index)
        if self.load_failure_boxes:
            data_info['failure_boxes'] = self.get_ann_info(index)['gt_bboxes_3d']
        if not self.test_mode:
            data_info['ann_info'] = self.get_ann_info(index)
        return data_info

    def _sample_idx(self, index):
        info = self.data_infos[index]
        return info.get('token', info.get('sample_idx', str(index)))

    def has_ground_truth(self, index):
        """Whether a frame was annotated, even if no object was found in it."""
        return self.data_infos[index].get('instances') is not None

    def get_ann_info(self, index):
        """Ground truth of one frame: G boxes.

        Returns:
            dict: ``gt_bboxes_3d`` (LiDARInstance3DBoxes, (G, 9) or (G, 7)), ``gt_labels_3d`` (G,) int64, ``gt_names``
            (G,) str, ``num_lidar_pts`` (G,) int64, -1 where unknown.

        Raises:
            ValueError: if the frame has no ground truth.
        """
        used = [(label, instance) for label, instance in self._labeled_instances(index) if label != _NOT_USED]
        instances = [instance for _, instance in used]
        labels = np.array([label for label, _ in used], dtype=np.int64)
        boxes = np.array([instance['bbox_3d'] for instance in instances], dtype=np.float32).reshape(-1, 7)
        if self.with_velocity:
            velocities = [instance.get('velocity', (np.nan, np.nan)) for instance in instances]
            velocities = np.array(velocities, dtype=np.float32).reshape(-1, 2)
            boxes = np.concatenate([boxes, np.where(np.isnan(velocities), 0, velocities)], axis=1)  # (G, 9)
        return dict(
            gt_bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[1], origin=(0.5, 0.5, 0.5)),
            gt_labels_3d=labels,
            gt_names=np.array(self.CLASSES)[labels],
            num_lidar_pts=np.array([_lidar_point_count(instance) for instance in instances], dtype=np.int64))

    def _labeled_instances(self, index):
        """Pairs (label or -1, instance) of a frame's annotations that have enough LiDAR points."""
        if not self.has_ground_truth(index):
            raise ValueError(f'frame {index} of {self.ann_file} has no ground truth: it lacks instances')
        for instance in self.data_infos[index]['instances']:
            if self.min_lidar_points == 0 or instance['num_lidar_pts'] >= self.min_lidar_points:
                yield self._label_of_category.get(instance['bbox_label_3d'], _NOT_USED), instance

    def get_cat_ids(self, index):
        """Labels that occur in a frame; the class-balancing dataset wrappers ask for them."""
        return sorted({label for label, _ in self._labeled_instances(index)} - {_NOT_USED})

    def evaluate(self, results, metric='bbox', logger=None, max_distance=2.0, min_lidar_points=5, score_thr=0.0,
                 max_detections=300):
        """Recall of ground-truth boxes and how far the found centers are off.

        In every frame detections claim, in the order of their scores, the nearest box of their class that is still
        free and whose center is less than ``max_distance`` away in BEV (the matching of the nuScenes benchmark).

        Args:
            results (list[dict]): One per frame, ``boxes_3d``, ``scores_3d`` and ``labels_3d``, or these under
                ``pts_bbox``.
            metric (str | list[str]): Only 'bbox'.
            logger (logging.Logger | str | None): Where the result is printed.
            max_distance (float): Meters.
            min_lidar_points (int): Only ground truth with at least this many LiDAR points counts.
            score_thr (float): Detections with a lower score are ignored.
            max_detections (int): Only this many detections per frame count, those with the highest scores.

        Returns:
            dict[str, float]: ``recall`` in [0, 1], ``mean_center_error`` (m, over the boxes found), ``num_gt``,
            ``num_detections`` (that passed both limits, mean per frame). Recall and error are NaN where there is
            nothing to average.

        Raises:
            ValueError: if ``results`` does not have one entry per frame, ``metric`` is unknown, a frame has no ground
                truth, or ``min_lidar_points`` > 0 and a box's number of points is unknown.
        """
        if metric not in ('bbox', ['bbox']):
            raise ValueError(f"metric must be 'bbox', got {metric!r}")
        self._check_number(results)
        errors, num_detections = [], 0
        for index, result in enumerate(results):
            truth = self.get_ann_info(index)
            if min_lidar_points > 0 and (truth['num_lidar_pts'] == _UNKNOWN).any():
                raise ValueError(f'evaluate(min_lidar_points={min_lidar_points}) needs num_lidar_pts of each instance, '
                                 f'frame {index} of {self.ann_file} lacks it; with min_lidar_points=0 it is not needed')
            counted = truth['num_lidar_pts'].clip(min=0) >= min_lidar_points
            centers, labels = _best_detections(result.get('pts_bbox', result), score_thr, max_detections)
            num_detections += len(centers)
            # Matched with all boxes: the detection of a box that does not count must not claim one that does.
            errors.append(
                center_errors(centers, labels, truth['gt_bboxes_3d'].gravity_center.numpy(), truth['gt_labels_3d'],
                              max_distance)[counted])
        errors = np.concatenate(errors)
        found = np.isfinite(errors)
        summary = dict(
            recall=float(found.mean()) if len(errors) else float('nan'),
            mean_center_error=float(errors[found].mean()) if found.any() else float('nan'),
            num_gt=float(len(errors)),
            num_detections=num_detections / len(self))
        print_log(
            f'{found.sum()} of {len(errors)} boxes with >= {min_lidar_points} LiDAR points found within '
            f"{max_distance} m: recall {summary['recall']:.3f}, mean center error {summary['mean_center_error']:.3f} m",
            logger)
        return summary

    def format_results(self, results, jsonfile_prefix):
        """Write the detections of all frames to ``{jsonfile_prefix}.json``, in the form of the demo's files.

        Args:
            results (list[dict]): One per frame, see :meth:`evaluate`.
            jsonfile_prefix (str): The file's path without its suffix; the folder is created.

        Returns:
            str: The file; it holds a list of ``{"sample": ..., "detections": [...]}``, one per frame.

        Raises:
            ValueError: if ``results`` does not have one entry per frame.
        """
        self._check_number(results)
        path = f'{jsonfile_prefix}.json'
        frames = [
            dict(sample=self._sample_idx(index),
                 detections=detection_records(result.get('pts_bbox', result), self.CLASSES))
            for index, result in enumerate(results)
        ]
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(frames, indent=1, allow_nan=False))
        return path

    def _check_number(self, results):
        if len(results) != len(self):
            raise ValueError(f'results must have one entry for each of the {len(self)} frames, got {len(results)}')


def center_errors(centers, labels, gt_centers, gt_labels, max_distance):
    """BEV distance (m) of each ground-truth box to the detection that claims it, NaN where none does.

    Args:
        centers (np.ndarray): (D, 2 or 3) centers of detections, highest score first.
        labels (np.ndarray): (D,) their classes.
        gt_centers (np.ndarray): (G, 2 or 3).
        gt_labels (np.ndarray): (G,).
        max_distance (float): Meters.

    Returns:
        np.ndarray: (G,).
    """
    distances = cdist(centers[:, :2], gt_centers[:, :2])  # (D, G)
    distances[labels[:, None] != gt_labels] = np.inf
    match = greedy_match(distances, max_distance)
    errors, found = np.full(len(gt_centers), np.nan), np.flatnonzero(match >= 0)
    errors[match[found]] = distances[found, match[found]]
    return errors


def _lidar_point_count(instance):
    count = instance.get('num_lidar_pts')
    return _UNKNOWN if count is None else count


def _best_detections(detections, score_thr, max_detections):
    """Centers (D, 3) and labels (D,) of the detections that count, highest score first."""
    scores = detections['scores_3d'].cpu().numpy()
    order = np.argsort(-scores, kind='stable')[:max_detections]
    order = order[scores[order] >= score_thr]
    return detections['boxes_3d'].gravity_center.cpu().numpy()[order], detections['labels_3d'].cpu().numpy()[order]


def _existing(path, role):
    if not osp.isfile(path):
        raise FileNotFoundError(f'{path} does not exist; looked for {role}')
    return path


def _the_info_file(data_root):
    candidates = sorted(map(str, Path(data_root).glob('*.pkl')))
    if not candidates:
        raise FileNotFoundError(f'no *.pkl in {data_root}; looked for the info file, name it with ann_file')
    if len(candidates) > 1:
        raise ValueError(f'ann_file must be given: {data_root} has several *.pkl, {candidates}')
    return candidates[0]
