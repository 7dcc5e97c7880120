import cv2
import mmcv
import numpy as np
from mmdet3d.core.bbox import box_np_ops
from mmdet3d.datasets.builder import PIPELINES
from mmdet3d.datasets.pipelines import ObjectSample

from ..camera_geometry import project
from ..sensor_failures.lidar import UNKNOWN_RING

_NOT_COVERED = -1


# Also in the place of mmdet3d's, which published LiDAR configs name: that one unpickles whatever a database holds, and
# reads objects as scans, with a ring.
@PIPELINES.register_module(name=['UnifiedObjectSample', 'ObjectSample'], force=True)
class UnifiedObjectSample(ObjectSample):
    """Paste ground-truth objects of a database into the point cloud and into the images (UVTR, NeurIPS 2022).

    Points inside a pasted box give way to the object's own points. With ``sample_2d`` the object's image crop is
    stretched to the rectangle that its box projects to, in every view that has the whole box in front of the camera;
    where the rectangle reaches beyond the image, so does the crop. Objects of the scene that are nearer than a pasted
    one are put back on top of it. Where the sample has ``rings`` (LoadPointsFromMultiSweepsWithRings), pasted points
    get an unknown one.

    Args:
        db_sampler (dict): Config of the sampler; type :class:`UnifiedDataBaseSampler` unless given.
        sample_2d (bool): Paste into the images, too.
        sample_method (str): 'depth': paste from far to near; 'by_order': first the scene's objects, then the pasted
            ones.
        modify_points (bool): Drop points that project to where the image shows a pasted object they do not belong to.
        mixup_rate (float): Weight of what is pasted over what was there, in [0, 1]; negative: replace.

    Raises:
        ValueError: if ``sample_method`` is unknown, ``mixup_rate`` exceeds 1, or ``modify_points`` comes without
            ``sample_2d``.
    """
    SAMPLE_METHODS = ('depth', 'by_order')

    def __init__(self, db_sampler, sample_2d=False, sample_method='depth', modify_points=False, mixup_rate=-1):
        if sample_method not in self.SAMPLE_METHODS:
            raise ValueError(f'sample_method must be one of {self.SAMPLE_METHODS}, got {sample_method!r}')
        if mixup_rate > 1:
            raise ValueError(f'mixup_rate must be negative or in [0, 1], got {mixup_rate}')
        if modify_points and not sample_2d:
            raise ValueError('modify_points=True needs sample_2d=True: it drops points by what the images show')
        super().__init__(dict(dict(type='UnifiedDataBaseSampler'), **db_sampler), sample_2d=sample_2d)
        self.sample_method = sample_method
        self.modify_points = modify_points
        self.mixup_rate = mixup_rate

    def __call__(self, input_dict):
        boxes, labels = input_dict['gt_bboxes_3d'], input_dict['gt_labels_3d']
        present = boxes.tensor.numpy()
        sampled = self.db_sampler.sample_all(present, labels, with_img=self.sample_2d)
        if sampled is None:
            return input_dict

        pasted = sampled['gt_bboxes_3d']
        kept = ~box_np_ops.points_in_rbbox(input_dict['points'].coord.numpy(), pasted).any(axis=1)
        scene = input_dict['points'][kept]
        points = scene.cat([scene, sampled['points']])
        rings = None
        if 'rings' in input_dict:
            rings = np.concatenate([input_dict['rings'][kept], np.full(len(sampled['points']), UNKNOWN_RING)])
        boxes = boxes.new_box(np.concatenate([present, pasted]))
        if self.sample_2d:
            images, covers = self._paste_crops(
                input_dict['img'], input_dict['lidar2img'], boxes.corners.numpy(), sampled['images'])
            if self.modify_points:
                owner = np.concatenate([np.full(len(scene), _NOT_COVERED), sampled['points_idx']])
                shown = _shown(points.coord.numpy(), owner, input_dict['lidar2img'], covers)
                points, rings = points[shown], rings if rings is None else rings[shown]
            input_dict['img'] = images
        input_dict['points'] = points
        if rings is not None:
            input_dict['rings'] = rings
        input_dict['gt_bboxes_3d'] = boxes
        input_dict['gt_labels_3d'] = np.concatenate([labels, sampled['gt_labels_3d']]).astype(np.int64)
        return input_dict

    def _paste_crops(self, images, lidar2img, corners, crops):
        """Paste the crops into copies of the images.

        Args:
            images (list[np.ndarray]): V images (H, W, 3).
            lidar2img (list[np.ndarray]): V (4, 4).
            corners (np.ndarray): (G + K, 8, 3) corners of the scene's G boxes and of the K pasted ones.
            crops (list[np.ndarray | None]): K crops.

        Returns:
            tuple[list, list]: the images, and for each a map (H, W) of the pasted object, 0 to K - 1, that it shows
            there, -1 elsewhere.
        """
        num_present = len(corners) - len(crops)
        crops = [None] * num_present + crops
        pasted_images, covers = [], []
        for original, matrix in zip(images, lidar2img):
            img = np.ascontiguousarray(original).copy()
            cover = np.full(img.shape[:2], _NOT_COVERED, dtype=np.int32)
            for index, rectangle, visible in self._in_paste_order(corners, matrix, img.shape):
                left, top, right, bottom = visible
                window = np.s_[top:bottom, left:right]
                if index < num_present:
                    cover[window] = _NOT_COVERED
                    patch = original[window]
                elif crops[index] is not None:
                    cover[window] = index - num_present
                    patch = _cut_and_resize(crops[index], rectangle, visible)
                else:
                    continue
                img[window] = self._blend(img[window], patch.astype(img.dtype))
            pasted_images.append(img)
            covers.append(cover)
        return pasted_images, covers

    def _in_paste_order(self, corners, lidar2img, img_shape):
        """List (index of box, its rectangle, the part inside the image), rectangles (left, top, right, bottom)."""
        height, width = img_shape[:2]
        pixels, depth = project(corners, lidar2img)  # (N, 8, 2), (N, 8)
        index = np.flatnonzero((depth > 0).all(axis=1))
        rectangles = np.concatenate([pixels[index].min(axis=1), pixels[index].max(axis=1)], axis=1)  # (M, 4)
        rectangles = np.floor(rectangles.clip(-1e6, 1e6)).astype(int)  # corners near the camera plane are far out
        visible = rectangles.clip(0, [width, height, width, height])
        order = np.argsort(-depth[index].mean(axis=1), kind='stable') if self.sample_method == 'depth' else \
            np.arange(len(index))
        large_enough = (visible[:, 2:] - visible[:, :2] > 1).all(axis=1)
        return [(index[i], rectangles[i], visible[i]) for i in order if large_enough[i]]

    def _blend(self, below, above):
        if self.mixup_rate < 0:
            return above
        return cv2.addWeighted(below, 1 - self.mixup_rate, above, self.mixup_rate, 0)

    def __repr__(self):
        return (f'{type(self).__name__}(db_sampler={self.sampler_cfg}, sample_2d={self.sample_2d}, '
                f'sample_method={self.sample_method!r}, modify_points={self.modify_points}, '
                f'mixup_rate={self.mixup_rate})')


def _cut_and_resize(crop, rectangle, visible):
    """Stretch a crop to its rectangle and return the visible part of that (only this part is ever computed)."""
    rectangle, visible = rectangle.reshape(2, 2), visible.reshape(2, 2)  # rows: left top, right bottom
    crop_size = np.array(crop.shape[1::-1])
    share = (visible - rectangle[0]) / (rectangle[1] - rectangle[0])
    left, top = np.floor(share[0] * crop_size).astype(int).clip(0, crop_size - 1)
    right, bottom = np.ceil(share[1] * crop_size).astype(int).clip([left + 1, top + 1], crop_size)
    return mmcv.imresize(crop[top:bottom, left:right], tuple(visible[1] - visible[0]))


def _shown(points, owner, lidar2img, covers):
    """Mask (P,) of the points (P, 3) that no image covers with a pasted object other than their ``owner`` (P,)."""
    shown = np.ones(len(points), dtype=bool)
    for matrix, cover in zip(lidar2img, covers):
        pixels, _ = project(points, matrix)
        inside = ((pixels >= 0) & (pixels < cover.shape[::-1])).all(axis=1)  # NaN, behind the camera: not inside
        columns, rows = pixels[inside].astype(int).T
        covered_by = cover[rows, columns]
        shown[inside] &= (covered_by == _NOT_COVERED) | (covered_by == owner[inside])
    return shown
