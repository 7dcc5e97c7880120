import copy
import warnings

import numpy as np
import pytest
from mmdet3d.core.bbox import LiDARInstance3DBoxes, box_np_ops
from mmdet3d.core.points import LiDARPoints
from mmdet3d.datasets.builder import OBJECTSAMPLERS
from mmdet3d.datasets.pipelines import Compose

from projects.mmdet3d_plugin.datasets.camera_geometry import camera_matrices, project
from projects.mmdet3d_plugin.datasets.pipelines import UnifiedObjectSample

# A camera at the LiDAR's place that looks along +x; 200 x 100 pixels, focal length 100.
LOOK_AHEAD = np.array([[0., -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
INTRINSIC = np.array([[100., 0, 100], [0, 100, 50], [0, 0, 1]])


@OBJECTSAMPLERS.register_module()
class GivenObjects:
    """Stands in for the database: always the same objects, given with their points and crops."""

    def __init__(self, boxes, points, crops):
        self.boxes, self.points, self.crops = boxes, points, crops

    def sample_all(self, gt_bboxes, gt_labels, with_img=False):
        if not self.boxes:
            return None
        return dict(
            gt_bboxes_3d=np.array(self.boxes, np.float32), gt_labels_3d=np.arange(len(self.boxes)) + 5,
            points=cloud(np.concatenate(self.points)),
            points_idx=np.repeat(np.arange(len(self.points)), [len(p) for p in self.points]),
            images=self.crops if with_img else [])


def cloud(xyz):
    xyz = np.asarray(xyz, np.float32).reshape(-1, 3)
    return LiDARPoints(np.concatenate([xyz, np.ones((len(xyz), 2), np.float32)], 1), points_dim=5)


def box(x, y=0., size=2.):
    """A cube at the height of the camera, yaw 0."""
    return [x, y, -size / 2, size, size, size, 0., 0., 0.]


def rectangle(corners_of):
    """left, top, right, bottom of a box by the pinhole formula."""
    x, y, _, size = corners_of[:4]
    near, far = x - size / 2, x + size / 2
    u = [100 - 100 * edge / depth for edge in (y - size / 2, y + size / 2) for depth in (near, far)]
    v = [50 - 100 * edge / depth for edge in (-size / 2, size / 2) for depth in (near, far)]
    return [int(np.floor(value)) for value in (min(u), min(v), max(u), max(v))]


def scene(present=(), points=((50., 0., 0.), ), value=100):
    camera = camera_matrices([LOOK_AHEAD], [INTRINSIC])
    return dict(
        gt_bboxes_3d=LiDARInstance3DBoxes(np.array(present, np.float32).reshape(-1, 9), box_dim=9),
        gt_labels_3d=np.zeros(len(present), np.int64), points=cloud(points),
        img=[np.full((100, 200, 3), value, np.uint8)], **camera)


def crop(value, height=8, width=8):
    return np.full((height, width, 3), value, np.uint8)


def transform(boxes, points=None, crops=None, **arguments):
    points = [[b[:3]] for b in boxes] if points is None else points
    crops = [crop(200 + i) for i in range(len(boxes))] if crops is None else crops
    return UnifiedObjectSample(dict(type='GivenObjects', boxes=boxes, points=points, crops=crops),
                               **dict(dict(sample_2d=True), **arguments))


def test_points_boxes_and_labels():
    """Points inside the pasted box give way to the object's own; boxes and labels are appended."""
    inside, outside, own = [10.5, 0., 0.], [14., 0., 0.], [10., 0.5, 0.5]
    results = transform([box(10)], [[own]], sample_2d=False)(scene([box(30)], [inside, outside]))
    np.testing.assert_array_equal(results['points'].coord.numpy(), np.float32([outside, own]))
    np.testing.assert_array_equal(results['gt_bboxes_3d'].tensor.numpy(), np.float32([box(30), box(10)]))
    assert results['gt_labels_3d'].tolist() == [0, 5]
    assert (results['img'][0] == 100).all()  # sample_2d=False


@pytest.mark.parametrize('present', [(), (box(30), )], ids=['no ground truth', 'one box'])
def test_crop_is_pasted_at_the_projected_place(present):
    results = scene(present)
    original = results['img'][0]
    image = transform([box(10, 1.5)])(results)['img'][0]
    left, top, right, bottom = rectangle(box(10, 1.5))
    expected = np.full_like(original, 100)
    expected[top:bottom, left:right] = 200
    np.testing.assert_array_equal(image, expected)
    assert (original == 100).all()  # the loaded image is not written to


def test_nothing_sampled_changes_nothing():
    results = scene([box(30)])
    before = copy.deepcopy(results)
    after = transform([])(results)
    np.testing.assert_array_equal(after['img'], before['img'])
    np.testing.assert_array_equal(after['points'].tensor, before['points'].tensor)
    assert len(after['gt_bboxes_3d']) == 1


def test_crop_is_stretched_and_cut_at_the_border():
    """The left half of an object beyond the left border: only the right part of the crop is seen, unsqueezed."""
    place = box(4, 3.5)
    left, top, right, bottom = rectangle(place)
    assert left < 0 < right < 200 and top > 0 and bottom < 100
    gradient = np.repeat(np.linspace(0, 240, 64, dtype=np.uint8)[None, :, None].repeat(32, 0), 3, axis=2)
    image = transform([place], crops=[gradient])(scene(value=0))['img'][0]
    row = image[(top + bottom) // 2, :, 0].astype(float)
    assert (row[right:] == 0).all()
    columns = np.arange(right)
    np.testing.assert_allclose(row[:right], (columns + 0.5 - left) / (right - left) * 240, atol=8)


def test_near_objects_hide_far_ones():
    """Pasted far, scene near, pasted nearest; each is hidden by those in front of it."""
    far, near, nearest = box(20), box(10), box(6, size=1.)
    results = scene([near], value=100)
    left, top, right, bottom = rectangle(near)
    results['img'][0][top:bottom, left:right] = 150  # what the scene's object looks like
    image = transform([nearest, far], crops=[crop(210), crop(220, 4, 4)])(results)['img'][0]
    left, top, right, bottom = rectangle(nearest)
    assert (image[top:bottom, left:right] == 210).all()
    left, top, right, bottom = rectangle(near)
    ring = image[top:bottom, left:right].copy()
    assert set(np.unique(ring)) == {150, 210}
    assert not (image == 220).any()  # the far one lies behind the near one entirely


def test_by_order_pastes_over_the_scene():
    far, near = box(20), box(10)
    image = transform([far], sample_method='by_order')(scene([near]))['img'][0]
    left, top, right, bottom = rectangle(far)
    assert (image[top:bottom, left:right] == 200).all()
    hidden = transform([far])(scene([near]))['img'][0]
    assert (hidden == 100).all()


@pytest.mark.parametrize('rate, value', [(-1, 200), (0., 100), (0.5, 150), (0.25, 125), (1., 200)])
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_mixup_weighs_crop_against_image(rate, value, dtype):
    results = scene()
    results['img'] = [results['img'][0].astype(dtype)]
    image = transform([box(10)], mixup_rate=rate)(results)['img'][0]
    left, top, right, bottom = rectangle(box(10))
    assert (image[top:bottom, left:right] == value).all() and image.dtype == dtype
    assert (image[:, :left] == 100).all()


def test_objects_without_crop_behind_or_at_the_camera_are_not_pasted():
    places = [box(10), box(-10), box(0.5), box(10, 50.)]  # no crop, behind, around the camera plane, beside the image
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # no arithmetic on corners that have no pixel
        results = transform(places, crops=[None, crop(200), crop(200), crop(200)])(scene())
    assert (results['img'][0] == 100).all()
    assert len(results['gt_bboxes_3d']) == 4 and len(results['points']) == 5  # the point cloud has them


def test_modify_points_keeps_what_the_image_shows():
    far, near = box(20), box(8)
    behind_near, beside, behind_camera = [40., 0., 0.], [40., 30., 0.], [-10., 0., 0.]
    arguments = dict(boxes=[far, near], points=[[[19., 0.2, 0.]], [[7., 0., 0.]]])
    results = transform(**arguments, modify_points=True)(scene(points=[behind_near, beside, behind_camera]))
    # shown at the pixel: the near object; so its own point stays, the far object's and the scene's behind it go
    np.testing.assert_array_equal(results['points'].coord.numpy(), np.float32([beside, behind_camera, [7., 0., 0.]]))
    kept = transform(**arguments)(scene(points=[behind_near, beside, behind_camera]))
    assert len(kept['points']) == 5


def test_modify_points_sees_the_scene_in_front_of_a_pasted_object():
    near, far = box(8), box(20)
    on_near, far_away = [7.2, 0., 0.], [60., 0., 0.]
    results = transform([far], modify_points=True)(scene([near], [on_near, far_away]))
    assert len(results['points']) == 3  # the image shows the scene's object there, so no point is taken away
    without = transform([far], modify_points=True)(scene((), [on_near, far_away]))
    np.testing.assert_array_equal(without['points'].coord.numpy(), np.float32([far[:3]]))


def test_modify_points_on_an_empty_cloud():
    results = transform([box(8)], modify_points=True)(scene(points=()))
    assert results['points'].tensor.shape == (1, 5)


@pytest.mark.parametrize('sample_2d', [False, True])
def test_rings_stay_with_their_points(sample_2d):
    """Points inside the pasted box go with their rings; the rings of pasted points are unknown."""
    results = scene([box(30)], [[14., 0, 0], [10.5, 0, 0], [50., 0, 0], [9.5, 0, 0], [0., 9, 0]])
    results['rings'] = np.array([3, 4, 5, 6, 7])
    results = transform([box(10), box(20)], [[[10., 0, 0], [10.1, 0, 0]], [[20., 0, 0]]], sample_2d=sample_2d)(results)
    assert results['points'].coord[:, 0].tolist() == pytest.approx([14, 50, 0, 10, 10.1, 20])
    assert results['rings'].tolist() == [3, 5, 7, -1, -1, -1] and results['rings'].dtype == np.int64


def test_rings_of_points_that_the_image_hides_go_too():
    """As in test_modify_points_keeps_what_the_image_shows."""
    results = scene(points=[[40., 0., 0.], [40., 30., 0.], [-10., 0., 0.]])
    results['rings'] = np.array([3, 4, 5])
    results = transform([box(20), box(8)], [[[19., 0.2, 0.]], [[7., 0., 0.]]], modify_points=True)(results)
    assert results['points'].coord[:, 0].tolist() == [40, -10, 7] and results['rings'].tolist() == [4, 5, -1]


def test_samples_without_rings_get_none():
    assert 'rings' not in transform([box(8)], modify_points=True)(scene())
    results = scene()
    results['rings'] = np.array([9])
    assert transform([])(results)['rings'].tolist() == [9]  # nothing sampled


@pytest.mark.parametrize('arguments, message', [
    (dict(sample_method='random'), 'sample_method'),
    (dict(mixup_rate=1.5), 'mixup_rate'),
    (dict(modify_points=True, sample_2d=False), 'needs sample_2d'),
])
def test_bad_configuration_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        transform([], **arguments)


LOAD = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='LoadMultiViewImageFromFiles'),
        dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)]


def test_database_on_the_real_frame(sample, sampler_cfg):
    """The frame's boxes are taken out of the annotations, then its own objects are pasted back from the database."""
    results = Compose(LOAD)(sample)
    images = [img.copy() for img in results['img']]
    cloud_before = results['points'].tensor.numpy().copy()
    results['gt_bboxes_3d'], results['gt_labels_3d'] = results['gt_bboxes_3d'][:0], results['gt_labels_3d'][:0]
    np.random.seed(0)
    results = UnifiedObjectSample(sampler_cfg, sample_2d=True)(results)
    boxes = results['gt_bboxes_3d']
    assert len(boxes) >= 5 and set(results['gt_labels_3d'].tolist()) == {0, 8}
    counts = box_np_ops.points_in_rbbox(cloud_before, boxes.tensor.numpy()).sum(0)
    counts_after = box_np_ops.points_in_rbbox(results['points'].tensor.numpy(), boxes.tensor.numpy()).sum(0)
    np.testing.assert_allclose(counts_after, counts, atol=1)  # the same points (rounding at a box's face)
    assert len(results['points']) == pytest.approx(len(cloud_before), abs=2)
    # pasting an object where it came from gives the image back, but where another object stood before it
    differences = []
    for before, after, matrix in zip(images, results['img'], results['lidar2img']):
        pixels, depth = project(boxes.corners.numpy(), matrix)
        allowed = np.zeros(before.shape[:2], dtype=bool)
        for corners in pixels[(depth > 0).all(1)]:
            (left, top), (right, bottom) = np.floor([corners.min(0), corners.max(0)]).clip(0, [1600, 900]).astype(int)
            allowed[top:bottom, left:right] = True
        difference = np.abs(before.astype(int) - after).max(axis=-1)
        assert not difference[~allowed].any()
        differences.append(difference[allowed])
    differences = np.concatenate(differences)
    assert len(differences) > 10000 and (differences < 10).mean() > 0.9
