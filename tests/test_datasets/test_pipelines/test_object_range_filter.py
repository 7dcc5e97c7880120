import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import CameraInstance3DBoxes, LiDARInstance3DBoxes
from mmdet3d.datasets.pipelines import Compose

from projects.mmdet3d_plugin.datasets.pipelines import ObjectRangeFilter

RANGE = [-10., -20., -5., 10., 20., 3.]


@pytest.mark.parametrize('centers, kept', [([], []), ([[0, 0, 0]], [0]), ([[11, 0, 0]], []),
                                           ([[0, 19, 9], [0, 21, 0], [-11, 0, 0], [9, 0, 0]], [0, 3])])
def test_keeps_boxes_whose_center_is_inside_in_bev(centers, kept):
    boxes = np.array([[*center, 4, 2, 1, 9., 1, 1] for center in centers], np.float32).reshape(-1, 9)
    results = dict(gt_bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), gt_labels_3d=np.arange(len(boxes)))
    transform, = Compose([dict(type='ObjectRangeFilter', point_cloud_range=RANGE)]).transforms
    assert type(transform) is ObjectRangeFilter  # configs that name mmdet3d's transform get the one that works
    results = transform(results)
    np.testing.assert_array_equal(results['gt_bboxes_3d'].bottom_center.numpy(), boxes[kept, :3])
    assert results['gt_labels_3d'].tolist() == kept
    torch.testing.assert_close(results['gt_bboxes_3d'].yaw, torch.full((len(kept), ), 9 - 2 * np.pi))


def test_camera_boxes_use_x_and_z():
    boxes = CameraInstance3DBoxes(np.array([[0, 100, 0, 1, 1, 1, 0], [0, 0, 100, 1, 1, 1, 0]], np.float32))
    results = ObjectRangeFilter([-10, -10, -10, 10, 10, 10])(dict(gt_bboxes_3d=boxes, gt_labels_3d=np.arange(2)))
    assert results['gt_labels_3d'].tolist() == [0]
