"""Places that failures took away, against shapely's polygons in the frame where the failure struck."""
import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity
from shapely.geometry import Point
from shapely.geometry import box as rectangle

from projects.mmdet3d_plugin.core.failure_record import FailureRecord


def place_lost(x, y, field_of_view, boxes, margin):
    """The definition in the frame where the failure struck: (is lost, distance to the nearest border in m)."""
    lost, distances = False, [math.inf]
    if field_of_view is not None:
        off_axis = math.degrees(math.acos(max(-1, min(1, y / math.hypot(x, y)))))
        lost = off_axis > field_of_view
        distances.append(abs(math.radians(off_axis - field_of_view)) * math.hypot(x, y))
    for center_x, center_y, _, length, width, _, yaw in boxes:
        place = rectangle(-length / 2 - margin, -width / 2 - margin, length / 2 + margin, width / 2 + margin)
        place = affinity.translate(affinity.rotate(place, yaw, origin=(0, 0), use_radians=True), center_x, center_y)
        lost |= place.covers(Point(x, y))
        distances.append(place.exterior.distance(Point(x, y)))
    return lost, min(distances)


def similarity(angle, scale, shift, flip_x, flip_y):
    motion = np.eye(4)
    motion[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    motion[:3, :3] *= scale
    motion[:3, 3] = shift
    return np.diag([-1. if flip_x else 1., -1. if flip_y else 1., 1., 1.]) @ motion


numbers = st.integers(0, 2**31 - 1)
motions = st.builds(similarity, st.floats(-3.2, 3.2), st.floats(0.5, 2), st.tuples(*[st.floats(-5, 5)] * 3),
                    st.booleans(), st.booleans())


@settings(max_examples=40)
@given(numbers, st.integers(0, 3), st.sampled_from([None, 20.0, 60.0, 90.0, 170.0]), st.floats(0, 2),
       st.lists(motions, max_size=3))
def test_lidar_lost_equals_polygons_through_any_motion(seed, num_boxes, field_of_view, margin, steps):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(-10, 10, (num_boxes, 3)), rng.uniform(0.5, 6, (num_boxes, 3)),
                            rng.uniform(-4, 4, (num_boxes, 1))], axis=1)
    places = rng.uniform(-12, 12, (40, 3))
    record = FailureRecord('case', field_of_view=field_of_view, lost_boxes=boxes)
    moved, scale = places, 1.0
    for step in steps:
        record = record.moved(step)
        moved = moved @ step[:3, :3].T + step[:3, 3]
        scale *= np.linalg.norm(step[:3, 0])
    lost = record.lidar_lost(torch.as_tensor(moved), margin).tolist()
    assert record.has_lidar_region == (num_boxes > 0 or field_of_view is not None)
    for (x, y, _), is_lost in zip(places, lost):
        expected, distance = place_lost(x, y, field_of_view, boxes, margin / scale)
        assert distance < 1e-6 or is_lost == expected


def test_a_box_counts_with_its_whole_column():
    record = FailureRecord('case', lost_boxes=np.array([[1., 2, 0, 4, 2, 1, 0]]))
    points = torch.tensor([[1., 2, 50], [1, 2, -50], [2.9, 2, 0], [3.1, 2, 0], [1, 2.9, 0], [1, 3.1, 0]])
    assert record.lidar_lost(points).tolist() == [True, True, True, False, True, False]
    assert record.lidar_lost(points, margin=0.2).all()


def test_the_margin_is_in_meters_after_scaling():
    """The scene grows to twice its size: its box, once 2 m long, is now 4 m long, and the margin reaches 1 m beyond."""
    record = FailureRecord('case', lost_boxes=np.array([[10., 0, 0, 2, 2, 2, 0]])).moved(np.diag([2., 2, 2, 1]))
    along = torch.tensor([16.9, 17.1, 22.9, 23.1])
    assert record.lidar_lost(torch.stack([along, 0 * along, 0 * along], dim=-1), 1.0).tolist() == [
        False, True, True, False]


@pytest.mark.parametrize('everywhere', [True, False])
@pytest.mark.parametrize('shape', [(3, ), (0, 3), (5, 3), (2, 0, 3), (2, 4, 3)])
def test_everywhere_and_nowhere(everywhere, shape):
    record = FailureRecord('case', lidar_everywhere=everywhere)
    lost = record.lidar_lost(torch.rand(shape) * 100 - 50, margin=1.0)
    assert lost.dtype == torch.bool and lost.shape == shape[:-1] and (lost == everywhere).all()
    assert record.has_lidar_region == everywhere


@pytest.mark.parametrize('shape', [(3, ), (0, 3), (2, 4, 3)])
def test_shapes_with_a_region(shape):
    record = FailureRecord('case', field_of_view=60, lost_boxes=np.array([[1., 2, 0, 4, 2, 1, 0]]))
    lost = record.lidar_lost(torch.rand(shape))
    assert lost.dtype == torch.bool and lost.shape == shape[:-1]


def test_everywhere_beside_regions():
    record = FailureRecord('case', lidar_everywhere=True, field_of_view=60)
    assert record.lidar_lost(torch.tensor([[0., 10, 0]])).all()  # straight ahead


def test_straight_ahead_is_y():
    record = FailureRecord('case', field_of_view=60)
    ahead, left, behind = [0., 9, 0], [-9., 0, 0], [0., -9, 0]
    within, beyond = ([math.sin(math.radians(degrees)), math.cos(math.radians(degrees)), 0] for degrees in (59, 61))
    assert record.lidar_lost(torch.tensor([ahead, left, behind, within, beyond])).tolist() == [
        False, True, True, False, True]


@given(numbers, st.integers(1, 6))
def test_cameras_lost(seed, views):
    rng = np.random.default_rng(seed)
    views_lost, seen = rng.random(views) < 0.5, rng.random((3, 5, views)) < 0.3
    lost = FailureRecord('case', views_lost=views_lost).cameras_lost(torch.as_tensor(seen))
    for sample in range(3):
        for query in range(5):
            watching = [view for view in range(views) if seen[sample, query, view]]
            assert lost[sample, query].item() == (watching != [] and all(views_lost[view] for view in watching))


def test_cameras_of_a_sample_without_cameras_and_of_another_number():
    seen = torch.ones(2, 3, 6, dtype=torch.bool)
    lost = FailureRecord('case').cameras_lost(seen)
    assert lost.shape == (2, 3) and not lost.any()
    with pytest.raises(ValueError, match=r'5 views.*\(2, 3, 6\)'):
        FailureRecord('case', views_lost=np.ones(5, bool)).cameras_lost(seen)


def test_motion_makes_new_records_in_order():
    turn, shift = similarity(math.pi / 2, 1, (0, 0, 0), False, False), similarity(0, 1, (5, 0, 0), False, False)
    record = FailureRecord('case', field_of_view=60)
    moved = record.moved(turn).moved(shift)
    np.testing.assert_array_equal(record.motion, np.eye(4))
    np.testing.assert_allclose(moved.motion @ [1, 0, 0, 1], [5, 1, 0, 1], atol=1e-12)  # turned first
    with pytest.raises(AttributeError):
        record.case = 'other'
    assert not np.shares_memory(FailureRecord('a').motion, FailureRecord('b').motion)


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))])
def test_it_travels_between_processes(copied):
    record = FailureRecord('case', (1, 2), False, 60., np.array([[1., 2, 0, 4, 2, 1, 0]]), np.array([True, False]),
                           True, dict(points_before=3)).moved(similarity(1, 1.1, (1, 2, 3), True, False))
    other = copied(record)
    assert repr(vars(other)) == repr(vars(record))


def test_places_are_looked_up_in_double_precision_under_autocast():
    record = FailureRecord('case', field_of_view=60, lost_boxes=np.array([[30., 30, 0, 2, 2, 2, 0]])).moved(
        similarity(0.3, 1.1, (1, 2, 0), False, True))
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 80 - 40
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = record.lidar_lost(points, 0.9)
    assert torch.equal(half, record.lidar_lost(points, 0.9)) and 0 < half.sum() < 500
