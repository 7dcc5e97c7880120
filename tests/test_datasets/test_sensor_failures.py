"""Every failure against a plain definition of it, on planted points and on the real frame."""
import copy
import hashlib
import math
import pickle
import re

import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.core.points import LiDARPoints
from mmdet3d.datasets.pipelines import Compose

from projects.mmdet3d_plugin.datasets.sensor_failures import (
    FAILURES,
    FailureCase,
    case_help,
    failure_rng,
    register_failure,
)
from projects.mmdet3d_plugin.datasets.sensor_failures.images import register_corruption
from projects.mmdet3d_plugin.datasets.sensor_failures.view_choice import ViewChoice

VIEWS = ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_FRONT_LEFT']
ALL_RINGS = list(range(32))
ONE_OF_EACH = ['lidar_drop', 'camera_drop', 'view_drop:3', 'view_drop:CAM_BACK', 'fov:60', 'object_failure:0.5',
               'frame_object_failure:1', 'beams:8', 'calibration:2']


def scene(token='token', num_points=2000, boxes=(), seed=0):
    """A sample as loaders leave it: points all around with rings, images without a zero, cameras anywhere."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(-20, 20, (num_points, 2)), rng.uniform(-2, 2, (num_points, 1)),
                             np.arange(num_points)[:, None], np.zeros((num_points, 1))], axis=1)  # names in column 3
    lidar2cam, intrinsic = [], []
    for _ in VIEWS:
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        extrinsic[:3, 3] = rng.uniform(-2, 2, 3)
        lidar2cam.append(extrinsic)
        intrinsic.append(np.array([[300. + len(intrinsic), 0, 100, 0], [0, 310, 60, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    return dict(
        sample_idx=token, points=LiDARPoints(points.astype(np.float32), points_dim=5), rings=np.arange(num_points) % 32,
        img=[np.full((4, 6, 3), 10 + view, np.uint8) for view in range(6)], camera_names=list(VIEWS),
        lidar2cam=lidar2cam, cam_intrinsic=intrinsic,
        lidar2img=[inner @ outer for inner, outer in zip(intrinsic, lidar2cam)],
        gt_bboxes_3d=LiDARInstance3DBoxes(np.array(boxes, np.float32).reshape(-1, 9), box_dim=9))


def strike(case, results, *seed):
    return FailureCase.parse(case).strike(results, *seed)


def names(results):
    """Names of the points that are left."""
    return results['points'].tensor[:, 3].int().tolist()


def inside(points, box):
    """(N,) whether points (N, >= 3) lie in a box of bottom center, l, w, h, yaw: its directions written out."""
    x, y, z = (np.asarray(points)[:, :3].astype(float) - box[:3]).T
    forward, left = (math.cos(box[6]), math.sin(box[6])), (-math.sin(box[6]), math.cos(box[6]))
    return (np.abs(x * forward[0] + y * forward[1]) <= box[3] / 2) & (0 <= z) & (z <= box[5]) \
        & (np.abs(x * left[0] + y * left[1]) <= box[4] / 2)


def in_any(points, boxes):
    return np.any([np.zeros(len(points), bool), *(inside(points, box) for box in boxes)], axis=0)


def grid_of_boxes():
    """Sixteen long boxes of all directions that do not touch one another."""
    return [[9. * i - 13.5, 9. * j - 13.5, -1.5, 6, 2.5, 3, 0.7 * (4 * i + j) - 5, 1, 2]
            for i in range(4) for j in range(4)]


def frozen(results):
    """Bytes that change if anything in a sample does."""
    return pickle.dumps({key: value.tensor.numpy() if hasattr(value, 'tensor') else value
                         for key, value in results.items()})


# Names of cases

@pytest.mark.parametrize('case, parameters', [
    ('clean', []),
    ('lidar_drop', [('LidarDrop', {})]),
    ('camera_drop', [('ViewDrop', dict(views=ViewChoice()))]),
    ('view_drop:3', [('ViewDrop', dict(views=ViewChoice(count=3)))]),
    ('view_drop:CAM_FRONT,CAM_BACK', [('ViewDrop', dict(views=ViewChoice(cameras=('CAM_FRONT', 'CAM_BACK'))))]),
    ('view_drop:0.25', [('ViewDrop', dict(views=ViewChoice(probability=0.25)))]),
    ('fov:60', [('LimitedFieldOfView', dict(degrees=60.0))]),
    ('fov:47.5', [('LimitedFieldOfView', dict(degrees=47.5))]),
    ('object_failure:0.5', [('ObjectFailure', dict(probability=0.5, per_frame=False))]),
    ('frame_object_failure:1', [('ObjectFailure', dict(probability=1.0, per_frame=True))]),
    ('beams:4', [('BeamReduction', dict(beams=4))]),
    ('calibration:2', [('CalibrationNoise', dict(degrees=2.0))]),
    ('fov:90+beams:8+camera_drop', [('LimitedFieldOfView', dict(degrees=90.0)), ('BeamReduction', dict(beams=8)),
                                    ('ViewDrop', dict(views=ViewChoice()))]),
])
def test_names(case, parameters):
    assert [(type(failure).__name__, vars(failure)) for failure in FailureCase.parse(case).failures] == parameters
    parsed = FailureCase.parse(case)
    needs = parsed.needs
    assert ('boxes' in needs) == ('object' in case) and ('rings' in needs) == ('beams' in case)
    assert str(parsed) == case and FailureCase.parse(parsed) is parsed and FailureCase.parse(case) == parsed


@pytest.mark.parametrize('case', [
    '', 'cleen', 'clean:1', 'clean+fov:60', 'lidar_drop:1', 'lidar_drop:', 'lidar_drop+', '+lidar_drop', 'lidar_drop ',
    'camera_drop:CAM_FRONT', 'view_drop', 'view_drop:', 'view_drop:0', 'view_drop:CAM_FRONT,', 'fov', 'fov:',
    'fov:wide', 'fov:0', 'fov:-60', 'fov:180', 'fov:nan', 'object_failure', 'object_failure:0', 'object_failure:1.5',
    'object_failure:nan', 'frame_object_failure:-1', 'beams:5', 'beams:32', 'beams:8.0', 'beams:', 'calibration:0',
    'calibration:-1', 'calibration:181', 'calibration:nan', 'calibration:inf', 'fov:60,beams:4', 'beams:1_6',
    'view_drop:CAM_FRONT,CAM_FRONT', 'view_drop:0.0', 'view_drop:1.0', 'view_drop:3.0', 'view_drop:-1', 'view_drop:nan',
    None, 3])
def test_mistakes_name_what_is_allowed(case):
    with pytest.raises(ValueError, match='allowed: clean, camera_drop, view_drop') as error:
        FailureCase.parse(case)
    assert repr(case) in str(error.value) and case_help() in str(error.value)


def test_every_name_of_the_help_exists():
    assert set(FAILURES) == {'lidar_drop', 'camera_drop', 'view_drop', 'fov', 'object_failure', 'frame_object_failure',
                             'beams', 'calibration', 'stale_views', 'stale_lidar',
                             'brightness', 'darkness', 'image_noise', 'camera_motion_blur', 'glare', 'camera_snow',
                             'camera_rain', 'lens_spatter', 'camera_fog', 'miscalibration',
                             'lidar_fog', 'lidar_snow', 'misalignment', 'lidar_turn', 'lidar_shift', 'phantoms',
                             'points_reduced', 'jitter', 'lidar_motion_blur', 'crosstalk', 'temporal_misalignment'}
    for name in FAILURES:
        assert name in case_help()


@pytest.mark.parametrize('case, message', [
    ('fvo:60', r"'fvo:60' is no failure \(did you mean fov\?\); allowed: "), ('fov', 'fov takes an argument; allowed'),
    ('fog', r"'fog' is no failure \(did you mean camera_fog or lidar_fog\?\); allowed: "),
    ('quite other', "'quite other' is no failure; allowed: "),
    ('glare@4', "^case 'glare@4': glare has the severities @1, @2, @3, got 'glare@4'$"),
    ('glare', "^case 'glare': glare has the severities @1, @2, @3, got 'glare'$"),
    ('lidar_drop@1', "^case 'lidar_drop@1': lidar_drop has no severities, got 'lidar_drop@1'$"),
    ('lidar_drop:1', 'lidar_drop takes no argument')])
def test_mistakes_say_what_is_wrong(case, message):
    with pytest.raises(ValueError, match=message):
        FailureCase.parse(case)


# New failures

def test_one_of_ones_own():
    try:
        register_corruption('own_2', {1: 40, 5: 90}, hides_from=5)(lambda image, level, rng: image + level)
        for severity in (1, 5):
            results = scene()
            record = strike(f'own_2@{severity}', results, 0)
            assert [image[0, 0, 0] for image in results['img']] == [10 + view + {1: 40, 5: 90}[severity]
                                                                     for view in range(6)]
            assert record.views_lost.all() == (severity == 5) == (not record.is_graded)
    finally:
        del FAILURES['own_2']


@pytest.mark.parametrize('name', [
    '', 'Dust', '2dust', '_dust', 'du st', 'dust@1', 'dust:1', 'dust+fov', 'düst', 'clean', 'dust\n',
    None, 3])
def test_names_that_no_case_could_have(name):
    message = f"lower-case letter, then letters, .* not 'clean', got {re.escape(repr(name))}$"
    for register in (lambda: register_failure(name), lambda: register_corruption(name, {1: 2})(lambda *_: None)):
        with pytest.raises(ValueError, match=message):
            register()
    assert name not in FAILURES


def test_a_name_that_is_taken():
    before = dict(FAILURES)
    for register in (lambda: register_failure('fov'), lambda: register_corruption('fov', {1: 2})(lambda *_: None)):
        with pytest.raises(ValueError, match="there is a sensor failure 'fov' already"):
            register()
    assert before == FAILURES


@pytest.mark.parametrize('levels, options, message', [
    ({}, {}, "levels of 'own' must be a dict, .* got {}"), ([0.1, 0.2], {}, r'must be a dict, .* got \[0.1, 0.2\]'),
    (None, {}, 'must be a dict'),
    ({'1': 0.1}, {}, r"severities of 'own' must be different integers >= 0, got \('1',\)"),
    ({1.5: 0.1}, {}, 'must be different integers'), ({True: 0.1}, {}, 'must be different integers'),
    ({-1: 0.1}, {}, 'must be different integers'),
    ({1: 0.1, 2: 0.2}, dict(hides_from=3),
     r"hides_from of 'own' must be None or one of its severities \[1, 2\], got 3"),
    ({1: 0.1}, dict(hides_from='1'), r"one of its severities \[1\], got '1'"),
])
def test_levels_that_no_corruption_has(levels, options, message):
    with pytest.raises(ValueError, match=message):
        register_corruption('own', levels, **options)(lambda image, level, rng: image)
    assert 'own' not in FAILURES


def test_severities_differ():
    with pytest.raises(ValueError, match=r'must be different integers >= 0, got \[1, 1\]'):
        register_failure('own', severities=[1, 1])


@pytest.mark.parametrize('change, found', [
    (lambda image: np.where(np.arange(4)[:, None, None] == 1, np.nan, image.astype(float)),
     r'\(4, 6, 3\) of float64, 18 of its 72 numbers'),
    (lambda image: image / np.float32(0), r'\(4, 6, 3\) of float32, 72 of its 72 numbers NaN or infinite'),
    (lambda image: image.astype(str), r'an array \(4, 6, 3\) of <U32'),
])
def test_what_is_no_image_is_told_exactly(change, found):
    try:
        register_corruption('own', {1: None})(lambda image, level, rng: change(image))
        with pytest.raises(ValueError, match=found):
            strike('own@1', scene(), 0)
    finally:
        del FAILURES['own']


def test_a_case_is_an_object():
    case = FailureCase.parse('view_drop:CAM_FRONT,CAM_BACK+fov:60.0')
    assert str(case) == 'view_drop:CAM_FRONT,CAM_BACK+fov:60' and case == FailureCase.parse(str(case)) != 'fov:60'
    assert case.kinds == ('fov', 'view_drop') == FailureCase.parse('fov:90+view_drop:1').kinds
    assert case.severity == 'CAM_FRONT,CAM_BACK+60' and case.label == 'view_drop:CAM_FRONT,CAM_BACK\n+ fov:60'
    assert FailureCase.parse('object_failure:0.30000001') != FailureCase.parse('object_failure:0.3')
    assert case.file_name == 'view_drop_CAM_FRONT-CAM_BACK+fov_60'
    assert case.needs == {'img', 'camera_names', 'points'}
    clean = FailureCase.parse('clean')
    assert clean.is_clean and not case.is_clean and str(clean) == 'clean' and not clean.needs and clean.kinds == ()
    assert len({case, FailureCase.parse('view_drop:CAM_FRONT,CAM_BACK+fov:60'), clean}) == 2
    assert str(FailureCase.parse('glare:all@2+fov:60')) == 'glare@2+fov:60'  # what a failure does without an argument
    assert FailureCase.parse('view_drop:all') != 'view_drop'  # which must have one


# What each failure does

def test_clean_changes_nothing():
    results = scene(boxes=grid_of_boxes())
    before = frozen(results)
    record = strike('clean', results, 0)
    assert frozen(results) == before
    assert record.case == 'clean' and not record.has_lidar_region and not record.is_graded
    assert record.views_lost.tolist() == [False] * 6


@pytest.mark.parametrize('case', ONE_OF_EACH)
def test_what_was_loaded_is_not_written_to(case):
    results = scene(boxes=grid_of_boxes())
    loaded, before = dict(results), frozen(results)
    record = strike(case, results, 0)
    assert frozen(loaded) == before and frozen(results) != before
    assert record.case == case and record.seed == (0, )


@pytest.mark.parametrize('num_points', [0, 1, 2000])
def test_lidar_drop(num_points):
    results = scene(num_points=num_points)
    record = strike('lidar_drop', results, 0)
    assert results['points'].tensor.shape == (0, 5) and type(results['points']) is LiDARPoints
    assert results['points'].tensor.dtype == torch.float32 and len(results['rings']) == 0
    assert record.lidar_everywhere and record.details == dict(points_before=num_points, points_after=0)
    assert not record.views_lost.any() and not record.is_graded and (results['img'][0] == 10).all()


def test_camera_drop():
    results = scene()
    record = strike('camera_drop', results, 0)
    assert all(not img.any() and img.shape == (4, 6, 3) and img.dtype == np.uint8 for img in results['img'])
    assert record.views_lost.tolist() == [True] * 6 and not record.has_lidar_region and not record.is_graded
    assert len(results['points']) == 2000


@pytest.mark.parametrize('dropped', [['CAM_BACK'], ['CAM_FRONT_LEFT', 'CAM_FRONT'], VIEWS])
def test_named_views(dropped):
    results = scene()
    record = strike(f'view_drop:{",".join(dropped)}', results, 0)
    assert [not img.any() for img in results['img']] == [name in dropped for name in VIEWS]
    assert record.views_lost.tolist() == [name in dropped for name in VIEWS]


def test_names_of_views_come_from_the_sample():
    results = scene()
    results['camera_names'] = VIEWS[::-1]
    record = strike('view_drop:CAM_FRONT', results, 0)
    assert record.views_lost.tolist() == [False] * 5 + [True]
    with pytest.raises(ValueError, match=r"no cameras \['CAM_REAR'\], but \['CAM_FRONT', 'CAM_FRONT_RIGHT'"):
        strike('view_drop:CAM_REAR,CAM_BACK', scene(), 0)


@pytest.mark.parametrize('count', [1, 3, 6])
def test_random_views(count):
    lost = []
    for number in range(600):
        results = dict(sample_idx=f'token{number}', img=[np.ones((2, 2, 3), np.uint8)] * 6)
        record = strike(f'view_drop:{count}', results, 0)
        lost.append([not img.any() for img in results['img']])
        assert record.views_lost.tolist() == lost[-1]
    assert (np.sum(lost, axis=1) == count).all()
    np.testing.assert_allclose(np.mean(lost, axis=0), count / 6, atol=0.09)  # each view alike: 4 standard deviations
    if count == 3:
        assert len({tuple(views) for views in lost}) == 20  # every choice of 3 out of 6


@pytest.mark.parametrize('share', [0.2, 0.4, 0.6])
def test_views_with_a_probability(share):
    """Each view by itself, as MultiCorrupt draws its missing cameras; a sample without one is counted as spared."""
    lost, spared = [], 0
    for number in range(600):
        results = dict(sample_idx=f'token{number}', img=[np.ones((2, 2, 3), np.uint8)] * 6)
        record = strike(f'view_drop:{share}', results, 0)
        lost.append([not img.any() for img in results['img']])
        assert record.views_lost.tolist() == lost[-1]
        assert record.spared == (() if any(lost[-1]) else ('view_drop', ))
        spared += len(record.spared)
    none = (1 - share) ** 6
    np.testing.assert_allclose(np.mean(lost, axis=0), share, atol=4 * math.sqrt(share * (1 - share) / 600))
    assert abs(spared / 600 - none) < 4 * math.sqrt(none / 600)
    assert np.abs(np.corrcoef(np.transpose(lost)) - np.eye(6)).max() < 4 / math.sqrt(600)


def test_more_views_than_there_are():
    with pytest.raises(ValueError, match='7 views are to fail, but the sample has 6'):
        strike('view_drop:7', scene(), 0)


@pytest.mark.parametrize('degrees', [60, 90, 179])
def test_field_of_view(degrees):
    results = scene()
    places = results['points'].coord.numpy().astype(float)
    record = strike(f'fov:{degrees}', results, 0)
    cosine = places[:, 1] / np.hypot(places[:, 0], places[:, 1])  # with +y
    expected = np.flatnonzero(cosine >= math.cos(math.radians(degrees))).tolist()
    assert names(results) == expected and 0.9 < len(expected) / (2000 * degrees / 180) < 1.1
    assert results['rings'].tolist() == [name % 32 for name in expected]
    assert record.field_of_view == degrees and not record.lidar_everywhere and not record.is_graded
    assert record.details == dict(points_before=2000, points_after=len(expected))


def test_object_failure_takes_the_points_of_its_objects_alone():
    results = scene(boxes=grid_of_boxes())
    points, boxes = results['points'].tensor.numpy(), results['gt_bboxes_3d'].tensor.numpy()
    record = strike('object_failure:0.5', results, 0)
    left = names(results)
    gone = [number for number, box in enumerate(boxes) if not set(np.flatnonzero(inside(points, box))) & set(left)]
    assert 3 <= len(gone) <= 13 and record.details == dict(objects=16, points_before=2000, points_after=len(left))
    assert left == np.flatnonzero(~in_any(points, boxes[gone])).tolist()
    assert results['rings'].tolist() == [name % 32 for name in left]
    expected = np.array([[*box[:2], box[2] + box[5] / 2, *box[3:7]] for box in boxes[gone]])
    np.testing.assert_allclose(record.lost_boxes, expected, atol=1e-6)
    assert len(results['gt_bboxes_3d']) == 16  # they are still to be found
    assert not record.lidar_everywhere and not record.is_graded


@pytest.mark.parametrize('case, probability', [('object_failure:0.5', 0.5), ('object_failure:0.2', 0.2),
                                               ('frame_object_failure:0.5', 0.5), ('frame_object_failure:0.8', 0.8)])
def test_how_often_objects_fail(case, probability):
    results = scene(num_points=2, boxes=grid_of_boxes())
    lost = np.array([len(strike(case, dict(results, sample_idx=f'token{number}'), 0).lost_boxes)
                     for number in range(300)])
    per_frame = case.startswith('frame')
    deviation = math.sqrt(probability * (1 - probability) / (300 if per_frame else 4800))
    assert abs(lost.mean() / 16 - probability) < 4 * deviation
    assert (set(lost) == {0, 16}) == per_frame


@pytest.mark.parametrize('case', ['object_failure:1', 'frame_object_failure:1'])
@pytest.mark.parametrize('boxes', [[], grid_of_boxes()], ids=len)
@pytest.mark.parametrize('num_points', [0, 500])
def test_all_objects_fail(case, boxes, num_points):
    results = scene(num_points=num_points, boxes=boxes)
    record = strike(case, results, 0)
    assert record.lost_boxes.shape == (len(boxes), 7) and record.has_lidar_region == (len(boxes) > 0)
    assert not in_any(results['points'].tensor.numpy(), boxes).any()
    assert results['points'].tensor.shape == (record.details['points_after'], 5)


def test_boxes_of_tests_serve_where_there_is_no_ground_truth():
    results = scene(boxes=grid_of_boxes())
    other = scene(boxes=grid_of_boxes())
    other['failure_boxes'] = other.pop('gt_bboxes_3d')
    expected, record = (strike('object_failure:0.5', sample, 0) for sample in (results, other))
    np.testing.assert_array_equal(record.lost_boxes, expected.lost_boxes)
    assert names(other) == names(results)
    del other['failure_boxes']
    with pytest.raises(ValueError, match='needs boxes.*load_failure_boxes=True'):
        strike('object_failure:0.5', other, 0)


@pytest.mark.parametrize('beams, rings', [(16, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31]),
                                          (8, [1, 5, 9, 13, 17, 21, 25, 29]), (4, [1, 9, 17, 25])])
def test_beams(beams, rings):
    results = scene()
    record = strike(f'beams:{beams}', results, 0)
    expected = [name for name in range(2000) if name % 32 in rings]
    assert names(results) == expected and results['rings'].tolist() == [name % 32 for name in expected]
    assert record.is_graded and not record.has_lidar_region and not record.views_lost.any()
    assert record.details == dict(points_before=2000, points_after=len(expected))


@pytest.mark.parametrize('beams', [16, 8, 4])
def test_points_of_unknown_ring_are_thinned_to_the_same_share(beams):
    results = scene()
    results['rings'] = np.where(np.arange(2000) < 1000, -1, results['rings'])
    strike(f'beams:{beams}', results, 0)
    left = np.array(names(results))
    share, deviation = (left < 1000).mean() * len(left) / 1000, math.sqrt(beams / 32 * (1 - beams / 32) / 1000)
    assert abs(share - beams / 32) < 4 * deviation
    assert 0 < (np.diff(left[left < 1000]) > 1).mean()  # at random, not the first ones
    assert (left >= 1000).sum() == pytest.approx(1000 * beams / 32, abs=beams)
    again, other = (scene(token) for token in ('token', 'other'))
    for sample in (again, other):
        sample['rings'] = np.where(np.arange(2000) < 1000, -1, sample['rings'])
        strike(f'beams:{beams}', sample, 0)
    assert names(again) == left.tolist() != names(other)


@pytest.mark.parametrize('change, found', [
    (lambda results: results.pop('rings'), 'no rings for 2000 points'),
    (lambda results: results.update(rings=np.zeros(1999)), '1999 rings for 2000 points'),
])
def test_beams_need_the_ring_of_every_point(change, found):
    results = scene()
    change(results)
    with pytest.raises(ValueError, match=f'LoadPointsFromMultiSweepsWithRings.*got {found}'):
        strike('beams:8', results, 0)


@pytest.mark.parametrize('degrees', [0.5, 1, 2, 90, 180])
def test_calibration(degrees):
    results = scene()
    before = copy.deepcopy(results)
    record = strike(f'calibration:{degrees}', results, 0)
    axes = []
    for view in range(6):
        old, new = before['lidar2cam'][view], results['lidar2cam'][view]
        turn = new[:3, :3] @ old[:3, :3].T
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        assert math.degrees(math.acos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) == pytest.approx(degrees, rel=1e-5)
        center = np.linalg.solve(old, [0, 0, 0, 1])
        np.testing.assert_allclose(new @ center, [0, 0, 0, 1], atol=1e-12)  # the camera stays where it is
        np.testing.assert_array_equal(results['cam_intrinsic'][view], before['cam_intrinsic'][view])
        np.testing.assert_allclose(results['lidar2img'][view], before['cam_intrinsic'][view] @ new, atol=1e-9)
        axes.append(turn)
    assert np.std(axes, axis=0).max() > 1e-3  # each camera has an axis of its own
    assert record.is_graded and not record.has_lidar_region and not record.views_lost.any()
    assert record.details['degrees'] == degrees


def test_axes_are_uniform_over_all_directions():
    axes = []
    cameras = scene(num_points=1)
    for number in range(300):
        results = dict(cameras, sample_idx=f'token{number}')
        before = results['lidar2cam']
        strike('calibration:90', results, 0)
        for old, new in zip(before, results['lidar2cam']):
            turn = new[:3, :3] @ old[:3, :3].T  # 90 degrees: its antisymmetric part is the axis
            axes.append([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    axes = np.array(axes) / 2
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(axes.mean(axis=0), 0, atol=4 * math.sqrt(1 / 3 / len(axes)))
    np.testing.assert_allclose(axes.T @ axes / len(axes), np.eye(3) / 3, atol=0.04)


# Several at once

def test_joined_cases():
    case = 'fov:90+object_failure:1+view_drop:CAM_BACK+beams:16+stale_views:CAM_FRONT@1'
    results = scene(boxes=grid_of_boxes())
    results['other_samples'] = PreviousIsBlack()
    points, boxes = results['points'].tensor.numpy(), results['gt_bboxes_3d'].tensor.numpy()
    record = strike(case, results, 0)
    expected = np.flatnonzero((points[:, 1] >= 0) & (points[:, 3] % 2 == 1) & ~in_any(points, boxes)).tolist()
    assert names(results) == expected and results['rings'].tolist() == [name % 32 for name in expected]
    assert record.field_of_view == 90 and not record.spared
    assert len(record.lost_boxes) == 16 and record.is_graded and not record.lidar_everywhere
    assert record.views_lost.tolist() == [name in ('CAM_BACK', 'CAM_FRONT') for name in VIEWS]
    assert [not img.any() for img in results['img']] == record.views_lost.tolist()
    assert record.details.pop('stale_views')['sample'] == 'previous' and record.severities == dict(stale_views=1)
    assert record.details == dict(objects=16, points_before=2000, points_after=len(expected))


class PreviousIsBlack:
    """Other samples: the previous keyframe has black images."""

    most_distant = None

    def earlier(self, steps):
        return dict(sample_idx='previous', img=[np.zeros((4, 6, 3), np.uint8)] * 6, camera_names=VIEWS), 0.5 * steps


@pytest.mark.parametrize('case, repeated', [
    ('fov:60+fov:90', r"\['fov'\]"), ('glare:1@1+lidar_drop+glare:CAM_BACK@3', r"\['glare'\]"),
    ('view_drop:1+beams:8+beams:4+view_drop:1', r"\['beams', 'view_drop'\]")])
def test_a_failure_strikes_once(case, repeated):
    """The record has one severity and one set of details for each."""
    with pytest.raises(ValueError, match=f'a failure strikes once, it names {repeated} more often') as error:
        FailureCase.parse(case)
    assert repr(case) in str(error.value)


@pytest.mark.parametrize('case', ['lidar_drop+camera_drop', 'camera_drop+lidar_drop'])
def test_both_sensors(case):
    record = strike(case, scene(), 0)
    assert record.lidar_everywhere and record.views_lost.all()


@pytest.mark.parametrize('case', ['lidar_drop+fov:60', 'beams:4+lidar_drop', 'lidar_drop+beams:4',
                                  'lidar_drop+object_failure:0.5'])
def test_nothing_forgets_that_all_points_are_gone(case):
    results = scene(boxes=grid_of_boxes())
    record = strike(case, results, 0)
    assert len(results['points']) == len(results['rings']) == record.details['points_after'] == 0
    assert record.lidar_everywhere and record.details['points_before'] == 2000
    assert record.is_graded == ('beams' in case)


def test_boxes_of_joined_object_failures_add_up():
    results = scene(boxes=grid_of_boxes())
    record = strike('object_failure:0.4+frame_object_failure:1', results, 0)
    points = results['points'].tensor.numpy()
    emptied = [box for box in results['gt_bboxes_3d'].tensor.numpy() if not inside(points, box).any()]
    assert {tuple(box[:2]) for box in record.lost_boxes.astype(np.float32)} == {tuple(box[:2]) for box in emptied}
    assert len(emptied) == 16 < len(record.lost_boxes)  # some fail twice


# Samples that a failure leaves as they were

@pytest.mark.parametrize('case, change, spared', [
    ('lidar_drop', dict(points=0), ['lidar_drop']), ('lidar_drop', {}, []),
    ('camera_drop', dict(black=True), ['camera_drop']), ('fov:179.99', dict(points=9), ['fov']),
    ('object_failure:1', {}, ['object_failure']), ('object_failure:1', dict(boxes=True), []),
    ('phantoms:3', {}, ['phantoms']), ('beams:4', dict(points=1), []), ('beams:4', dict(points=0), ['beams']),
    ('crosstalk@1', dict(points=9), ['crosstalk']), ('crosstalk@1', {}, []), ('jitter@1', {}, []),
    ('brightness:0.001@1', {}, ['brightness']), ('glare:0.001@3', {}, ['glare']), ('brightness:1@1', {}, []),
    ('calibration:1', {}, []), ('miscalibration:0.001@1', {}, ['miscalibration']),
    ('lidar_drop+crosstalk@3+camera_drop+lidar_fog@1', {}, ['crosstalk', 'lidar_fog'])])
def test_what_changes_nothing_is_named(case, change, spared):
    results = scene(num_points=change.get('points', 2000), boxes=grid_of_boxes() if 'boxes' in change else ())
    if 'black' in change:
        results['img'] = [np.zeros_like(img) for img in results['img']]
    record = strike(case, results, 0)
    assert list(record.spared) == spared
    if case.endswith(('glare:0.001@3', 'brightness:0.001@1')):
        assert not record.is_graded and not record.views_lost.any()


# Sensors that a sample does not have

@pytest.mark.parametrize('case, changed', [
    ('clean', []), ('lidar_drop', ['lidar']), ('fov:60', ['lidar']), ('image_noise@1', ['camera']),
    ('calibration:1', ['camera']), ('view_drop:1+lidar_turn:5', ['camera', 'lidar']), ('darkness@2', ['camera'])])
def test_sensors_that_a_case_changed_are_named(case, changed):
    assert sorted(strike(case, scene()).changed) == changed


@pytest.mark.parametrize('case, missing', [
    ('lidar_drop', 'points'), ('fov:60', 'points'), ('beams:8', 'points'), ('object_failure:0.5', 'points'),
    ('camera_drop', 'img'), ('view_drop:1', 'img'), ('view_drop:CAM_FRONT', 'camera_names'),
    ('calibration:1', 'lidar2cam'), ('calibration:1', 'cam_intrinsic')])
def test_a_sensor_that_is_not_there_cannot_fail(case, missing):
    results = scene()
    del results[missing]
    with pytest.raises(ValueError, match=f"{case}.*needs.*'{missing}'"):
        strike(case, results, 0)


def test_samples_of_one_sensor():
    lidar = {key: value for key, value in scene().items() if key in ('sample_idx', 'points')}
    record = strike('fov:60', lidar, 0)
    assert record.views_lost is None and record.field_of_view == 60
    cameras = {key: value for key, value in scene().items() if key in ('sample_idx', 'img')}
    assert strike('view_drop:2', cameras, 0).views_lost.sum() == 2


# What the draw depends on

def test_the_draw_is_the_hash_of_token_case_and_seed():
    """As anyone can compute it anew, on any machine."""
    digest = hashlib.sha256(b'abc|fov:60|7|2').digest()
    words = np.array([int.from_bytes(digest[i:i + 4], 'little') for i in range(0, 32, 4)], dtype=np.uint32)
    expected = np.random.Generator(np.random.PCG64(words)).random(3)
    np.testing.assert_array_equal(failure_rng('abc', 'fov:60', 7, 2).random(3), expected)


@pytest.mark.parametrize('case', ['view_drop:3', 'object_failure:0.5', 'calibration:1'])
def test_draws_repeat_and_differ(case):
    loaded = scene(boxes=grid_of_boxes(), num_points=100)

    def outcome(prefix='token', *seed):
        text = ''
        for number in range(5):
            results = dict(loaded, sample_idx=f'{prefix}{number}')
            record = strike(case, results, *seed)
            text += repr((record.views_lost, record.lost_boxes, results['lidar2cam'], names(results)))
        return text

    np.random.seed(5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = outcome('token', 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # global generators are not drawn from
    assert torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(6)
    assert outcome('token', 0) == first  # nor do they play a part
    assert len({first, outcome('other', 0), outcome('token', 1), outcome('token', 0, 1)}) == 4


# The real frame

LOAD = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='LoadPointsFromMultiSweepsWithRings', sweeps_num=1, use_dim=[0, 1, 2, 3, 4], pad_empty_sweeps=True),
        dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)]


def test_rings_of_the_real_frame_rise_with_elevation(sample):
    """The last value of nuScenes' points is the ring, 0 to 31, from the lowest beam to the highest."""
    points = np.fromfile(sample['pts_filename'], np.float32).reshape(-1, 5)
    assert np.unique(points[:, 4]).tolist() == ALL_RINGS
    elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    medians = [np.median(elevation[points[:, 4] == ring]) for ring in ALL_RINGS]
    assert (np.diff(medians) > 1).all() and medians[0] < -30 and medians[-1] > 10  # HDL-32E: -30.7 to 10.7 degrees
    results = Compose(LOAD)(sample)
    assert results['rings'].tolist() == points[:, 4].astype(int).tolist() * 2  # the keyframe stands in for its sweep


@pytest.mark.parametrize('beams', [16, 8, 4])
def test_beams_of_the_real_frame(sample, beams):
    """Every 2nd, 4th, 8th beam: that share of the points, and that many elevations."""
    results = Compose(LOAD)(sample)
    total = len(results['points'])
    strike(f'beams:{beams}', results, 0)
    assert len(results['points']) == total * beams // 32 == len(results['rings'])
    assert sorted(set(results['rings'].tolist())) == list(range(1, 32, 32 // beams))


@pytest.mark.parametrize('degrees', [60, 90])
def test_field_of_view_of_the_real_frame(sample, degrees):
    """Forward is where the front camera looks."""
    results = Compose(LOAD)(sample)
    total, front = len(results['points']), sample['camera_names'].index('CAM_FRONT')
    axis = sample['lidar2cam'][front][2, :2]  # the optical axis in the LiDAR frame
    assert axis[1] / np.linalg.norm(axis) > math.cos(math.radians(2))
    strike(f'fov:{degrees}', results, 0)
    places = results['points'].coord.numpy()[:, :2].astype(float)
    distance = np.linalg.norm(places, axis=1)
    angle = np.degrees(np.arccos((places[:, 1] / distance)[distance > 0].clip(-1, 1)))
    assert angle.max() <= degrees + 1e-4 and angle.max() > degrees - 0.5
    assert 0.1 < len(places) / total < 0.9


def test_objects_of_the_real_frame(sample):
    results = Compose(LOAD)(sample)
    boxes = results['gt_bboxes_3d']
    before = results['points'].coord.numpy()
    record = strike('object_failure:0.5', results, 0)
    after = results['points'].coord.numpy()
    lost = [number for number, center in enumerate(boxes.gravity_center.numpy())
            if (np.abs(record.lost_boxes[:, :3] - center).max(axis=1) < 1e-5).any()]
    assert len(lost) == len(record.lost_boxes) and 15 < len(lost) < len(boxes) - 15
    emptied = 0
    for number, box in enumerate(boxes.tensor.numpy()):
        count, left = inside(before, box).sum(), inside(after, box).sum()
        if number in lost:
            assert left <= 1  # rounding at a face
            emptied += count > 1
        else:
            assert left > 0.8 * count - 2  # neighbors may reach into it
    assert emptied > 10


@pytest.mark.parametrize('text', [
    'view_drop:CAM/../../CAM_BACK', 'view_drop:..\\x', f'view_drop:{",".join(f"C{number}" for number in range(80))}'])
def test_file_names_stay_in_their_folder_and_are_short(text, tmp_path):
    names = {FailureCase.parse(case).file_name for case in (text, f'{text}+lidar_drop', 'fov:60', 'lidar_drop')}
    assert len(names) == 4
    for name in names:
        (tmp_path / f'{name}.png').write_text('')
    assert len(list(tmp_path.iterdir())) == 4
