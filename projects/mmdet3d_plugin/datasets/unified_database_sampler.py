import os.path as osp
from pathlib import Path, PurePosixPath

import mmcv
import numpy as np
import torch
from mmcv.ops import box_iou_rotated
from mmdet3d.datasets.builder import OBJECTSAMPLERS, PIPELINES
from mmdet3d.datasets.pipelines import DataBaseSampler
from mmdet3d.datasets.pipelines.dbsampler import BatchSampler
from mmdet3d.utils import get_root_logger

from ..utils.restricted_pickle import load_pickle

_KEYS = ('name', 'path', 'image_path', 'box3d_lidar', 'num_points_in_gt', 'difficulty')
_POINTS_LOADER = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=[0, 1, 2, 3])


@OBJECTSAMPLERS.register_module()
class UnifiedDataBaseSampler(DataBaseSampler):
    """Sample ground-truth objects with their points and their image crops from a database on disk.

    The database is a pickle ``{class name: [record, ...]}``. A record has ``name``, ``path`` (points, float32 .bin,
    relative to the bottom center of the box), ``image_path`` (crop, .png; '' where no camera saw the object),
    ``box3d_lidar`` (x, y, z of the bottom center, l, w, h, yaw, and vx, vy where the dataset has velocities),
    ``num_points_in_gt`` and ``difficulty``.

    Args:
        info_path (str): The pickle.
        data_root (str | None): Prepended to the records' paths (None: the working directory). Where the files are not
            there, they are looked for beside ``info_path``.
        rate, prepare, sample_groups, classes, bbox_code_size, points_loader:
            See :class:`mmdet3d.datasets.pipelines.dbsampler.DataBaseSampler`.
        trust_data (bool): Load a database that holds more than arrays and plain values, which runs any code in it.

    Raises:
        FileNotFoundError: if there is no such database, or its files are not there.
        ValueError: if ``sample_groups`` names a class that is not in ``classes``, or the database is damaged or of
            another format.
    """

    def __init__(self, info_path, data_root, rate, prepare, sample_groups, classes, bbox_code_size=None,
                 points_loader=_POINTS_LOADER, trust_data=False):
        unknown = sorted(set(sample_groups) - set(classes))
        if unknown:
            raise ValueError(f'sample_groups has classes {unknown}; allowed are those in classes: {list(classes)}')
        # All that the parent's __init__ sets. It is not called: it unpickles whatever the file holds.
        self.info_path, self.data_root, self.rate, self.prepare = info_path, data_root, rate, prepare
        self.classes, self.bbox_code_size = classes, bbox_code_size
        self.cat2label = {name: label for label, name in enumerate(classes)}
        self.label2cat = dict(enumerate(classes))
        if points_loader['type'] == 'LoadPointsFromFile':
            points_loader = dict(points_loader, ring_dim=None)  # objects have the time lag where scans have the ring
        self.points_loader = mmcv.build_from_cfg(points_loader, PIPELINES)
        self.db_infos = _checked(load_pickle(info_path, 'object database', trust_data), info_path)
        for function, value in prepare.items():
            self.db_infos = getattr(self, function)(self.db_infos, value)
        if bbox_code_size is not None:
            for record in (record for records in self.db_infos.values() for record in records):
                record['box3d_lidar'] = record['box3d_lidar'][:bbox_code_size]
        self.sample_groups = [{name: int(number)} for name, number in sample_groups.items()]
        self.group_db_infos = self.db_infos
        self.sample_classes = list(sample_groups)
        self.sample_max_nums = [int(number) for number in sample_groups.values()]
        self.sampler_dict = {name: BatchSampler(records, name) for name, records in self.db_infos.items()}
        self._beside_index = self._is_beside_index()
        numbers = ', '.join(f'{len(records)} {name}' for name, records in self.db_infos.items())
        get_root_logger().info(f'{info_path}: objects to paste: {numbers}')
        absent = [name for name in self.sample_classes if not self.db_infos.get(name)]
        if absent:
            get_root_logger().warning(f'{info_path} has no usable object of {absent}: none will be sampled')

    @staticmethod
    def filter_by_min_points(db_infos, min_gt_points_dict):
        """Drop objects with too few points; classes that a (small) database lacks have nothing to drop."""
        present = {name: num for name, num in min_gt_points_dict.items() if name in db_infos}
        return DataBaseSampler.filter_by_min_points(db_infos, present)

    def sample_class_v2(self, name, num, gt_bboxes):
        """Draw up to ``num`` objects of a class that collide with no box in BEV, neither given nor drawn.

        The parent's collision test overlooks boxes that coincide, so that it would paste a frame's own objects onto
        themselves; the overlap of rotated boxes has no such exception.
        """
        if not self.db_infos.get(name):
            return []
        free, occupied = [], gt_bboxes
        for info in self.sampler_dict[name].sample(num):
            box = info['box3d_lidar'][None]
            if not _overlap_in_bev(box, occupied).any():
                free.append(info)
                occupied = np.concatenate([occupied, box])
        return free

    def sample_all(self, gt_bboxes, gt_labels, with_img=False):
        """Draw objects of every class until each has its number of ``sample_groups`` (times ``rate``).

        Args:
            gt_bboxes (np.ndarray): (G, D) boxes present, bottom center; D = 7, or 9 with velocity.
            gt_labels (np.ndarray): (G,) their class indices.
            with_img (bool): Also load the image crops.

        Returns:
            dict | None: None if nothing was drawn, else for K objects with P points in all ``gt_bboxes_3d`` (K, D),
            ``gt_labels_3d`` (K,) int64, ``points`` (BasePoints, P), ``points_idx`` (P,) the object of each point,
            ``images`` (K crops (h, w, 3), BGR, None where the object has none; empty without ``with_img``) and
            ``group_ids`` (K,).

        Raises:
            ValueError: if the database's boxes do not have D numbers.
        """
        self._check_box_size(gt_bboxes.shape[1])
        sampled = self._sample_infos(gt_bboxes, gt_labels)
        if not sampled:
            return None
        points = [self._load_points(info) for info in sampled]
        return dict(
            gt_labels_3d=np.array([self.cat2label[info['name']] for info in sampled], dtype=np.int64),
            gt_bboxes_3d=np.stack([info['box3d_lidar'] for info in sampled]),
            points=points[0].cat(points),
            points_idx=np.repeat(np.arange(len(sampled)), [len(p) for p in points]),
            images=[self._load_crop(info) for info in sampled] if with_img else [],
            group_ids=len(gt_bboxes) + np.arange(len(sampled)))

    def _sample_infos(self, gt_bboxes, gt_labels):
        """Records of the drawn objects; each class avoids the boxes of those before it."""
        sampled, occupied = [], gt_bboxes
        for name, wanted in zip(self.sample_classes, self.sample_max_nums):
            present = int(np.sum(gt_labels == self.cat2label[name]))
            missing = int(np.round(self.rate * (wanted - present)))
            if missing <= 0:
                continue
            drawn = self.sample_class_v2(name, missing, occupied)
            sampled += drawn
            occupied = np.concatenate([occupied] + [info['box3d_lidar'][None] for info in drawn])
        return sampled

    def _check_box_size(self, size):
        sizes = {len(info['box3d_lidar']) for infos in self.db_infos.values() for info in infos[:1]}
        if sizes - {size}:
            raise ValueError(f'boxes in {self.info_path} have {sorted(sizes)} numbers, those of the sample {size}; set '
                             "bbox_code_size of the sampler or with_velocity of the dataset")

    def _is_beside_index(self):
        """Whether the database lies in the folder of its index alone, not where the records say: it was moved."""
        paths = [record['path'] for records in self.db_infos.values() for record in records[:1]]
        if not self._on_disk or not paths or osp.exists(self._below_data_root(paths[0])):
            return False
        if not osp.exists(self._below_index(paths[0])):
            raise FileNotFoundError(self._missing(paths[0]))
        return True

    @property
    def _on_disk(self):
        return getattr(self.points_loader, 'file_client_args', {}).get('backend', 'disk') == 'disk'

    def _missing(self, relative):
        return (f'object database {self.info_path}: {relative} is neither at {self._below_data_root(relative)} '
                f'(db_sampler.data_root={self.data_root!r}) nor at {self._below_index(relative)}, beside the index. '
                'Set db_sampler.data_root to the folder in which the paths of the records begin, or make the database '
                'again with tools/create_data.py')

    def _below_data_root(self, path):
        return osp.join(self.data_root, path) if self.data_root else path

    def _below_index(self, path):
        """Of <folders>/<database>/<pts_dir or img_dir>/<file> the last three parts, in the folder of the index."""
        return str(Path(self.info_path).parent.joinpath(*PurePosixPath(path).parts[-3:]))

    def _path(self, relative):
        path = self._below_index(relative) if self._beside_index else self._below_data_root(relative)
        if self._on_disk and not osp.exists(path):
            raise FileNotFoundError(self._missing(relative))
        return path

    def _load_points(self, info):
        points = self.points_loader(dict(pts_filename=self._path(info['path'])))['points']
        points.translate(info['box3d_lidar'][:3])
        return points

    def _load_crop(self, info):
        return mmcv.imread(self._path(info['image_path']), 'color') if info['image_path'] else None


def _checked(database, path):
    """The database, if it has the form that the sampler reads."""
    if not isinstance(database, dict) or not all(isinstance(records, list) for records in database.values()):
        found = f'a dict of {sorted(map(str, database))[:5]}' if isinstance(database, dict) else type(database).__name__
        raise ValueError(f'object database {path} must be a dict of lists of records by class, got {found}; make it '
                         'with tools/create_data.py')
    for name, records in database.items():
        for number, record in enumerate(records):
            missing = [key for key in _KEYS if not isinstance(record, dict) or key not in record]
            if missing:
                raise ValueError(f'object database {path}: record {number} of {name} lacks {missing} (databases of '
                                 'mmdet3d have no image_path); make it with tools/create_data.py')
    return database


def _overlap_in_bev(boxes, others):
    """Whether the footprints of boxes (N, >= 7) and others (M, >= 7) overlap: (N, M) bool."""
    footprints = [torch.as_tensor(b[:, [0, 1, 3, 4, 6]], dtype=torch.float32) for b in (boxes, others)]
    return box_iou_rotated(*footprints).numpy() > 0
