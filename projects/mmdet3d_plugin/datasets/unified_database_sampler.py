import os.path as osp

import mmcv
import numpy as np
import torch
from mmcv.ops import box_iou_rotated
from mmdet3d.datasets.builder import OBJECTSAMPLERS
from mmdet3d.datasets.pipelines import DataBaseSampler
from mmdet3d.utils import get_root_logger


@OBJECTSAMPLERS.register_module()
class UnifiedDataBaseSampler(DataBaseSampler):
    """Sample ground-truth objects with their points and their image crops from a database on disk.

    The database is a pickle ``{class name: [record, ...]}`` (load only files that you trust: unpickling runs code). A
    record has ``name``, ``path`` (points, float32 .bin, relative to the bottom center of the box), ``image_path``
    (crop, .png; '' where no camera saw the object), ``box3d_lidar`` (x, y, z of the bottom center, l, w, h, yaw, and
    vx, vy where the dataset has velocities), ``num_points_in_gt`` and ``difficulty``.

    Args:
        info_path, data_root, rate, prepare, sample_groups, classes, bbox_code_size, points_loader, file_client_args:
            See :class:`mmdet3d.datasets.pipelines.dbsampler.DataBaseSampler`. ``data_root`` (None: the working
            directory) is prepended to the records' paths.

    Raises:
        ValueError: if ``sample_groups`` names a class that is not in ``classes``.
    """

    def __init__(self, info_path, data_root, rate, prepare, sample_groups, classes, **kwargs):
        unknown = sorted(set(sample_groups) - set(classes))
        if unknown:
            raise ValueError(f'sample_groups has classes {unknown}; allowed are those in classes: {list(classes)}')
        super().__init__(info_path, data_root, rate, prepare, sample_groups, classes, **kwargs)
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

    def _path(self, relative):
        return osp.join(self.data_root, relative) if self.data_root else relative

    def _load_points(self, info):
        points = self.points_loader(dict(pts_filename=self._path(info['path'])))['points']
        points.translate(info['box3d_lidar'][:3])
        return points

    def _load_crop(self, info):
        return mmcv.imread(self._path(info['image_path']), 'color') if info['image_path'] else None


def _overlap_in_bev(boxes, others):
    """Whether the footprints of boxes (N, >= 7) and others (M, >= 7) overlap: (N, M) bool."""
    footprints = [torch.as_tensor(b[:, [0, 1, 3, 4, 6]], dtype=torch.float32) for b in (boxes, others)]
    return box_iou_rotated(*footprints).numpy() > 0
