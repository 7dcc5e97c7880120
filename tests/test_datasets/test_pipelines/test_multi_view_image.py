import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmdet3d.datasets.pipelines import Compose

from projects.mmdet3d_plugin.datasets.camera_geometry import project
from projects.mmdet3d_plugin.datasets.pipelines import NormalizeMultiviewImage, PadMultiViewImage, ResizeCropFlipImage
from projects.mmdet3d_plugin.datasets.pipelines.multi_view_image import ImageAugmentation

CONF = dict(H=900, W=1600, final_dim=(320, 800), resize_lim=(0.47, 0.625), bot_pct_lim=(0., 0.1), rot_lim=(-10., 10.),
            rand_flip=True)


def views(num=6, height=90, width=160, seed=0):
    """Results dict of random images and random calibration."""
    rng = np.random.default_rng(seed)
    lidar2cam = [np.eye(4) + 0.1 * rng.standard_normal((4, 4)) for _ in range(num)]
    cam_intrinsic = [np.diag([100., 100., 1., 1.]) + np.eye(4, k=2) * [[50.], [40.], [0.], [0.]] for _ in range(num)]
    return dict(img=[rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(num)],
                lidar2cam=lidar2cam, cam_intrinsic=cam_intrinsic,
                lidar2img=[k @ e for k, e in zip(cam_intrinsic, lidar2cam)])


@pytest.mark.parametrize('arguments, shape', [(dict(size_divisor=32), (96, 160)), (dict(size=(100, 170)), (100, 170))])
def test_pad_keeps_the_image_and_records_both_shapes(arguments, shape):
    results = views(2)
    originals = list(results['img'])
    PadMultiViewImage(pad_val=7, **arguments)(results)
    for original, img in zip(originals, results['img']):
        np.testing.assert_array_equal(img[:90, :160], original)
        assert (img[90:] == 7).all() and (img[:, 160:] == 7).all()
    assert results['pad_shape'] == [shape + (3, )] * 2
    assert results['img_shape'] == [(90, 160, 3)] * 2


@pytest.mark.parametrize('arguments', [dict(), dict(size=(1, 1), size_divisor=2)])
def test_pad_wants_exactly_one_size(arguments):
    with pytest.raises(ValueError, match='exactly one of size and size_divisor'):
        PadMultiViewImage(**arguments)


@pytest.mark.parametrize('to_rgb', [False, True])
def test_normalize(to_rgb):
    results = views(2)
    originals = [img.astype(np.float64)[..., ::-1 if to_rgb else 1] for img in results['img']]
    NormalizeMultiviewImage([1, 2, 3], [4, 5, 6], to_rgb)(results)
    for original, img in zip(originals, results['img']):
        assert img.dtype == np.float32
        np.testing.assert_allclose(img, (original - [1, 2, 3]) / [4, 5, 6], rtol=1e-5, atol=1e-5)
    assert results['img_norm_cfg']['to_rgb'] is to_rgb


augmentations = st.builds(
    lambda scale, left, top, flip, rotate, height, width: ImageAugmentation(
        (int(160 * scale), int(90 * scale)), (left, top, left + width, top + height), flip, rotate),
    st.floats(0.4, 1.3), st.integers(-10, 30), st.integers(-10, 30), st.booleans(), st.floats(-20, 20),
    st.integers(30, 60), st.integers(40, 90))


@given(augmentations, st.floats(0, 160), st.floats(0, 90))
def test_matrix_equals_moving_a_pixel_step_by_step(augmentation, u, v):
    (width, height), (left, top, right, bottom), flip, rotate = augmentation
    x, y = u * width / 160 - left, v * height / 90 - top
    if flip:
        x = (right - left) - x
    radians = np.deg2rad(rotate)
    dx, dy = x - (right - left) / 2, y - (bottom - top) / 2
    x = np.cos(radians) * dx + np.sin(radians) * dy + (right - left) / 2
    y = -np.sin(radians) * dx + np.cos(radians) * dy + (bottom - top) / 2
    np.testing.assert_allclose(augmentation.matrix((90, 160, 3)) @ [u, v, 1], [x, y, 1], atol=1e-9)


@settings(max_examples=50)
@given(augmentations, st.floats(0.3, 0.7), st.floats(0.3, 0.7))
def test_image_content_follows_the_matrix(augmentation, x, y):
    """A soft spot that the matrix sends to (x, y) of the result has its center of brightness there (0.2 pixels)."""
    left, top, right, bottom = augmentation.crop
    expected = x * (right - left), y * (bottom - top)
    u, v, _ = np.linalg.inv(augmentation.matrix((90, 160))) @ [*expected, 1]
    assume(6 < u < 154 and 6 < v < 84)
    columns, rows = np.meshgrid(np.arange(160) + 0.5, np.arange(90) + 0.5)
    spot = 255 * np.exp(-((columns - u)**2 + (rows - v)**2) / (2 * 1.5**2))
    moved = augmentation.apply(np.repeat(spot[..., None], 3, axis=2).astype(np.float32))
    assert moved.shape == (bottom - top, right - left, 3) and moved.dtype == np.float32
    weight = moved[..., 0] / moved[..., 0].sum()
    columns, rows = np.meshgrid(np.arange(right - left) + 0.5, np.arange(bottom - top) + 0.5)
    assert ((weight * columns).sum(), (weight * rows).sum()) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('pic_wise', [True, False])
def test_calibration_follows_the_images(training, pic_wise):
    results, original = views(), views()
    np.random.seed(3)
    transform = ResizeCropFlipImage(dict(CONF, H=90, W=160, final_dim=(32, 80)), training, pic_wise)
    transform(results)
    assert results['img_shape'] == [(32, 80, 3)] * 6
    np.random.seed(3)
    draws = [transform.draw() for _ in range(6)] if pic_wise else [transform.draw()] * 6
    assert len(set(draws)) == (6 if training and pic_wise else 1)
    point = np.array([0.3, -0.2, 4.])
    for view, draw in enumerate(draws):
        np.testing.assert_array_equal(results['img'][view], draw.apply(original['img'][view]))
        before, depth = project(point, original['lidar2img'][view])
        after, depth_after = project(point, results['lidar2img'][view])
        assert depth_after == pytest.approx(depth)
        np.testing.assert_allclose(after, (draw.matrix((90, 160)) @ [*before, 1])[:2], atol=1e-9)
        np.testing.assert_allclose(results['lidar2img'][view],
                                   results['cam_intrinsic'][view] @ original['lidar2cam'][view])
        assert results['lidar2img'][view].dtype == np.float64


def test_inputs_are_not_written_to():
    results, original = views(), views()
    held = {key: list(results[key]) for key in original}
    ResizeCropFlipImage(dict(CONF, H=90, W=160, final_dim=(32, 80)))(results)
    for key in original:
        np.testing.assert_array_equal(held[key], original[key])


def test_evaluation_scales_by_half_and_keeps_the_bottom():
    """The published test setting: 1600x900 -> 800x450 -> the lower 320 rows."""
    assert ResizeCropFlipImage(dict(CONF, bot_pct_lim=(0., 0.)), training=False).draw() == ImageAugmentation(
        (800, 450), (0, 130, 800, 450), False, 0.)


def test_training_draws_stay_in_their_limits_and_repeat_with_the_seed():
    transform = ResizeCropFlipImage(CONF)
    np.random.seed(0)
    draws = [transform.draw() for _ in range(300)]
    np.random.seed(0)
    assert draws == [transform.draw() for _ in range(300)]
    widths, lefts, bottoms = np.array([(d.size[0], d.crop[0], d.crop[3] / d.size[1]) for d in draws]).T
    assert 752 <= widths.min() < 765 and 985 < widths.max() <= 1000
    assert lefts.min() == 0 and (lefts <= np.maximum(0, widths - 800)).all()
    assert 0.895 < bottoms.min() < 0.91 and 0.99 < bottoms.max() <= 1
    assert 0.4 < np.mean([d.flip for d in draws]) < 0.6
    assert -10 <= min(d.rotate for d in draws) < -9 and 9 < max(d.rotate for d in draws) <= 10


def test_real_image_content_follows_a_real_point(sample):
    """The surroundings of a projected LiDAR point look the same before and after, flip and scale considered."""
    loaded = Compose([dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
                      dict(type='LoadMultiViewImageFromFiles')])(sample)
    originals, lidar2img = loaded['img'], loaded['lidar2img']
    points = loaded['points'].coord.numpy()[::50]
    np.random.seed(1)
    transform = ResizeCropFlipImage(dict(CONF, rot_lim=(0., 0.)), pic_wise=True)
    results = transform(loaded)
    differences, control = [], []
    for view, (original, img) in enumerate(zip(originals, results['img'])):
        small = cv2.GaussianBlur(original, (9, 9), 3).astype(int)
        img = cv2.GaussianBlur(img, (5, 5), 1.5).astype(int)
        before, _ = project(points, lidar2img[view])
        after, _ = project(points, results['lidar2img'][view])
        inside = ((before > 5) & (before < [1595, 895])).all(1) & ((after > 5) & (after < [795, 315])).all(1)
        (x0, y0), (x1, y1) = before[inside].astype(int).T, after[inside].astype(int).T
        differences.append(np.abs(small[y0, x0] - img[y1, x1]).mean(1))
        control.append(np.abs(small[y0, x0] - img[y1, 799 - x1]).mean(1))  # mirrored: must not fit
    differences, control = np.concatenate(differences), np.concatenate(control)
    assert len(differences) > 200
    assert np.median(differences) < 3 < 10 < np.median(control)


def test_unknown_configuration_is_refused():
    with pytest.raises(ValueError, match='rot_lim'):
        ResizeCropFlipImage({key: value for key, value in CONF.items() if key != 'rot_lim'})
    with pytest.raises(ValueError, match='resize_limit'):
        ResizeCropFlipImage(dict(CONF, resize_limit=1))
