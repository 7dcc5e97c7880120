import numpy as np
from mmdet3d.core.bbox import CameraInstance3DBoxes
from mmdet3d.datasets.builder import PIPELINES
from mmdet3d.datasets.pipelines import transforms_3d


@PIPELINES.register_module(force=True)
class ObjectRangeFilter(transforms_3d.ObjectRangeFilter):
    """mmdet3d's transform of this name, which in 1.0.0rc6 fails with numpy >= 1.24 (``np.bool``), so it replaces it.

    Args:
        point_cloud_range (Sequence[float]): x_min, y_min, z_min, x_max, y_max, z_max in meters. Boxes whose center is
            outside in BEV are dropped with their labels.
    """

    def __call__(self, input_dict):
        boxes = input_dict['gt_bboxes_3d']
        bev_axes = [0, 2, 3, 5] if isinstance(boxes, CameraInstance3DBoxes) else [0, 1, 3, 4]
        inside = boxes.in_range_bev(self.pcd_range[bev_axes])
        input_dict['gt_bboxes_3d'] = boxes[inside]
        input_dict['gt_bboxes_3d'].limit_yaw(offset=0.5, period=2 * np.pi)
        input_dict['gt_labels_3d'] = input_dict['gt_labels_3d'][inside.numpy()]
        return input_dict
