"""False and degraded clouds against plain definitions of them, on random clouds, planted objects and the real frame."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.core.points import LiDARPoints
from mmdet3d.datasets.pipelines import Compose
from scipy.stats import ks_2samp, kstest
from shapely.geometry import Polygon

from projects.mmdet3d_plugin.datasets.sensor_failures import FailureCase

LEVELS = (1, 2, 3)
GRADED = ['points_reduced', 'jitter', 'lidar_motion_blur', 'crosstalk', 'lidar_snow']
EVERY_CASE = [*(f'{name}@{level}' for name in (*GRADED, 'lidar_fog', 'misalignment') for level in LEVELS),
              'lidar_turn:10', 'lidar_shift:2', 'phantoms:5']
# MultiCorrupt: attenuation (1/m), backscatter (1/sr/m); its tables of the echo's integral: where the peak is (m, in
# steps of 10 cm), how high it is.
FOG = {1: (0.02, 0.008, 4.70, 4.3466e-9), 2: (0.03, 0.008, 4.70, 4.2058e-9), 3: (0.06, 0.05, 4.60, 3.8156e-9)}
SNOW = {1: (0.5, 1.2), 2: (2.5, 1.6), 3: (1.5, 0.4)}  # MultiCorrupt: snowfall (mm/h), velocity (m/s)


def cloud(num_points=3000, token='token', sweeps=3, boxes=(), seed=0):
    """A sample as loaders leave it: points in all directions up to 70 m away, of several sweeps, with rings."""
    rng = np.random.default_rng(seed)
    angle, distance = rng.uniform(-np.pi, np.pi, num_points), rng.uniform(1.5, 70, num_points)
    slope = rng.uniform(-0.5, 0.1, num_points)
    points = np.stack([
        distance * np.cos(slope) * np.cos(angle), distance * np.cos(slope) * np.sin(angle), distance * np.sin(slope),
        rng.integers(1, 200, num_points), np.arange(num_points) % sweeps * 0.0499], axis=1).astype(np.float32)
    return dict(sample_idx=token, points=LiDARPoints(points, points_dim=5), rings=np.arange(num_points) % 32,
                gt_bboxes_3d=LiDARInstance3DBoxes(np.array(boxes, np.float32).reshape(-1, 9), box_dim=9))


def strike(case, sample, *seed):
    """The sample after the case, its record, its values before and after (float64)."""
    before = sample['points'].tensor.numpy().astype(float)
    results = dict(sample)
    record = FailureCase.parse(case).strike(results, *seed or (0, ))
    return results, record, before, results['points'].tensor.numpy().astype(float)


def is_true_everywhere(record):
    return not record.has_lidar_region and not record.is_graded


def assert_only_graded(record, case):
    assert record.is_graded and not record.has_lidar_region and record.views_lost is None
    name, _, level = case.partition('@')
    assert record.severities == {name: int(level)}


# Wrong place

def turned(points, x=0.0, y=0.0, z=0.0):
    """Points (N, 3) turned counterclockwise by degrees about z, then y, then x."""
    a, b, c = points.T
    cos, sin = math.cos(math.radians(z)), math.sin(math.radians(z))
    a, b = a * cos - b * sin, a * sin + b * cos
    cos, sin = math.cos(math.radians(y)), math.sin(math.radians(y))
    c, a = c * cos - a * sin, c * sin + a * cos
    cos, sin = math.cos(math.radians(x)), math.sin(math.radians(x))
    b, c = b * cos - c * sin, b * sin + c * cos
    return np.stack([a, b, c], axis=1)


@pytest.mark.parametrize('degrees', [0.5, 10, 180])
def test_turn(degrees):
    signs = []
    for number in range(12):
        results, record, before, after = strike(f'lidar_turn:{degrees}', cloud(200, f'token{number}'))
        said = record.details['lidar_turn']
        np.testing.assert_allclose(after[:, :3], turned(before[:, :3], z=said), atol=1e-4)
        np.testing.assert_array_equal(after[:, 2:], before[:, 2:])
        assert results['rings'].tolist() == [number % 32 for number in range(200)]
        assert record.lidar_everywhere and not record.is_graded and abs(said) == degrees
        signs.append(math.copysign(1, said))
    assert set(signs) == {-1, 1}


@pytest.mark.parametrize('meters', [0.25, 2, 100])
def test_shift(meters):
    shifts = []
    for number in range(200):
        _, record, before, after = strike(f'lidar_shift:{meters}', cloud(5, f'token{number}'))
        shift = after - before
        np.testing.assert_allclose(shift, shift[:1].repeat(5, axis=0), atol=1e-4)
        np.testing.assert_array_equal(after[:, 2:], before[:, 2:])
        assert math.hypot(*shift[0, :2]) == pytest.approx(meters, abs=1e-4)
        np.testing.assert_allclose(record.details['lidar_shift'], shift[0, :2], atol=1e-4)
        assert record.lidar_everywhere and not record.is_graded
        shifts.append(math.atan2(shift[0, 1], shift[0, 0]))
    assert kstest(shifts, 'uniform', (-np.pi, 2 * np.pi)).pvalue > 1e-3


@pytest.mark.parametrize('level', LEVELS)
def test_misalignment_strikes_sweeps(level):
    """Each sweep by itself, as MultiCorrupt strikes files; the record says how many points are false."""
    share, degrees, sweeps, tokens = level / 5, level, 10, 150
    struck = 0
    for number in range(tokens):
        _, record, before, after = strike(f'misalignment@{level}', cloud(40, f'token{number}', sweeps))
        expected = turned(before[:, :3], -degrees, -degrees, -degrees) + [2, 0, 0]
        moved = (after != before).any(axis=1)
        np.testing.assert_allclose(after[moved, :3], expected[moved], atol=1e-4)
        np.testing.assert_array_equal(after[:, 3:], before[:, 3:])
        false = [sweep for sweep in range(sweeps) if moved[sweep]]
        assert moved.tolist() == [point % sweeps in false for point in range(40)]
        assert record.details['misaligned_points'] == 4 * len(false)
        assert record.lidar_everywhere == (len(false) > 5) and record.is_graded == (0 < len(false) <= 5)
        assert record.spared == (() if false else ('misalignment', ))
        assert record.severities == dict(misalignment=level)
        struck += len(false)
    number = tokens * sweeps
    assert abs(struck / number - share) < 4 * math.sqrt(share * (1 - share) / number)


@pytest.mark.parametrize('last_value', ['ring', 'missing', 'zero'])
def test_a_cloud_without_sweeps_is_one(last_value):
    moved = set()
    for number in range(30):
        sample = cloud(64, f'token{number}')
        sample['points'].tensor[:, 4] = torch.arange(64) % 32 if last_value == 'ring' else 0
        if last_value == 'missing':
            sample['points'] = LiDARPoints(sample['points'].tensor[:, :4], points_dim=4)
        _, record, before, after = strike('misalignment@2', sample)
        moved.add(record.details['misaligned_points'])
        assert (after != before).any() == bool(record.details['misaligned_points'])
    assert moved == {0, 64}


# Thinner and noisier

@pytest.mark.parametrize('level, gone', [(1, 0.7), (2, 0.8), (3, 0.9)])
@pytest.mark.parametrize('num_points', [1, 7, 3000])
def test_points_reduced(level, gone, num_points):
    results, record, before, after = strike(f'points_reduced@{level}', cloud(num_points))
    left = round(num_points * (1 - gone))
    order = {tuple(row): number for number, row in enumerate(before)}
    kept = [order[tuple(row)] for row in after]
    assert len(kept) == left and kept == sorted(set(kept))
    assert results['rings'].tolist() == [number % 32 for number in kept]
    assert_only_graded(record, f'points_reduced@{level}')
    assert record.details == dict(points_before=num_points, points_after=left)


def test_every_point_is_as_likely_to_stay():
    counts = np.zeros(20)
    for number in range(400):
        results, *_ = strike('points_reduced@1', cloud(20, f'token{number}'))
        counts[results['rings']] += 1
    assert np.abs(counts / 400 - 0.3).max() < 4 * math.sqrt(0.3 * 0.7 / 400)


def assert_gaussian(values, deviation):
    """Of many independent values: mean, standard deviation and shape are what they should be."""
    assert abs(values.mean()) < 4 * deviation / math.sqrt(values.size)
    assert abs(values.std() / deviation - 1) < 4 / math.sqrt(2 * values.size)
    assert kstest(values.ravel(), 'norm', (0, deviation)).pvalue > 1e-3


@pytest.mark.parametrize('level, deviation', [(1, 0.02), (2, 0.06), (3, 0.10)])
def test_jitter(level, deviation):
    sample = cloud(20000)
    sample['points'].tensor[:, :3] /= 50  # near the origin float32 does not round the noise
    _, record, before, after = strike(f'jitter@{level}', sample)
    noise = after[:, :3] - before[:, :3]
    for axis in range(3):
        assert_gaussian(noise[:, axis], deviation)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 4 / math.sqrt(len(noise))
    np.testing.assert_array_equal(after[:, 3:], before[:, 3:])
    assert_only_graded(record, f'jitter@{level}')


@pytest.mark.parametrize('level, deviation', [(1, 0.06), (2, 0.10), (3, 0.13)])
def test_motion_blur(level, deviation):
    """A shift for each sweep, and a smaller one for each point."""
    shifts, noise = [], []
    for number in range(60):
        sample = cloud(600, f'token{number}', sweeps=6)
        sample['points'].tensor[:, :3] /= 50
        _, record, before, after = strike(f'lidar_motion_blur@{level}', sample)
        motion = (after - before)[:, :3].reshape(100, 6, 3)  # point, sweep, axis
        shifts.append(motion.mean(axis=0))
        noise.append(motion - shifts[-1])
        np.testing.assert_array_equal(after[:, 3:], before[:, 3:])
        assert_only_graded(record, f'lidar_motion_blur@{level}')
    assert_gaussian(np.concatenate(shifts), deviation)
    for axis, share in enumerate((0.15, 0.20, 0.12)):
        found = np.stack(noise)[..., axis].std() * math.sqrt(100 / 99)
        assert found == pytest.approx(share * deviation, rel=0.02)


@pytest.mark.parametrize('level, share', [(1, 0.004), (2, 0.012), (3, 0.020)])
def test_crosstalk(level, share):
    noise, struck = [], np.zeros(1000)
    for number in range(60):
        _, record, before, after = strike(f'crosstalk@{level}', cloud(1000, f'token{number}'))
        moved = (after != before).any(axis=1)
        assert moved.sum() == round(1000 * share) == record.details['crosstalk_points']
        np.testing.assert_array_equal(after[:, 3:], before[:, 3:])
        noise.append((after - before)[moved, :3])
        struck += moved
        assert_only_graded(record, f'crosstalk@{level}')
    assert_gaussian(np.concatenate(noise), 3)
    assert struck.max() <= 10 and (struck[:500].sum() > 0.4 * struck.sum())  # anywhere


# Weather

def fog_limit(level):
    """Where the echo of a target in fog is as strong as that of the fog, by bisection."""
    attenuation, backscatter, _, integral = FOG[level]
    near, far = 1.0, 200.0
    for _ in range(60):
        middle = (near + far) / 2
        drowned = integral * backscatter * math.pi * 1e6 * middle ** 2 > math.exp(-2 * attenuation * middle)
        near, far = (near, middle) if drowned else (middle, far)
    return near


@pytest.mark.parametrize('level, stated, ghosts_in', [(1, 41.6, (3.8, 6.2)), (2, 34.5, (3.6, 6.6)),
                                                      (3, 15.8, (2.8, 12.7))])
def test_fog(level, stated, ghosts_in):
    """Against the published tables of the echo's integral."""
    attenuation, backscatter, peak, integral = FOG[level]
    results, record, before, after = strike(f'lidar_fog@{level}', cloud(20000))
    distance, now = (np.linalg.norm(points[:, :3], axis=1) for points in (before, after))
    limit = fog_limit(level)
    assert limit == pytest.approx(stated, abs=0.06)
    ghost = (after[:, :3] != before[:, :3]).any(axis=1)
    sure = np.abs(distance - limit) > 0.01
    np.testing.assert_array_equal(ghost[sure], distance[sure] > limit)
    np.testing.assert_allclose(after[~ghost, 3], before[~ghost, 3] * np.exp(-2 * attenuation * distance[~ghost]),
                               rtol=1e-5)
    # The same beam, within the stated range, and scattered as MultiCorrupt does.
    was_toward, is_toward = before[ghost, :3] / distance[ghost, None], after[ghost, :3] / now[ghost, None]
    np.testing.assert_allclose(is_toward, was_toward, atol=1e-5)
    assert ghosts_in[0] - 0.05 < now[ghost].min() and now[ghost].max() < ghosts_in[1] + 0.05
    offset = distance[ghost] * peak / now[ghost] - distance[ghost]
    assert kstest(offset, 'uniform', (-10, 20)).statistic < 0.05 + 2 / math.sqrt(ghost.sum())  # the peak to 5 cm
    strength = after[ghost, 3] / before[ghost, 3] / distance[ghost] ** 2
    np.testing.assert_allclose(strength, integral * backscatter * math.pi * 1e6, rtol=1e-3)
    assert record.details['fog_ghosts'] == ghost.sum() and not record.is_graded and not record.lidar_everywhere
    assert results['rings'].tolist() == [number % 32 for number in range(20000)]
    angle = np.linspace(0, 2 * np.pi, 400)
    ring = torch.tensor(np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1))
    assert not record.lidar_lost(ring * (limit - 0.01)).any() and not record.lidar_lost(ring * 0).any()
    assert all(record.lidar_lost(ring * limit * far).all() for far in (1.04, 1.5, 3))


def brute_force_snow(level, distance, beams, rng):
    """Disks in a plane, wedges as beams (after Hahner et al.).

    Returns:
        np.ndarray: (beams, 3), where the flake is that hides the target (m), the share of the beam that it takes, NaN
        for none; the share of light that all flakes leave.
    """
    rate, velocity = SNOW[level]
    rain = math.sqrt((rate / (487 * 0.1 * 0.003 * velocity)) ** 3)
    to_cover = rate / (3.6e6 * 0.1 * velocity) * math.pi * distance ** 2
    disks = []
    while to_cover > 0:
        diameter = rng.exponential(10 / (25.5 * rain ** -0.48)) / 1000
        radius = math.sqrt((diameter / 2) ** 2 - rng.uniform(-diameter / 2, diameter / 2) ** 2)
        to_cover -= math.pi * radius ** 2
        disks.append((distance * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi), radius))
    depth, angle, radius = np.array(disks).T
    half_disk = np.arcsin(np.minimum(1, radius / depth))
    found = np.full((beams, 3), np.nan)
    for number in range(beams):
        beam = 2 * np.pi * number / beams
        offset = np.abs((angle - beam + np.pi) % (2 * np.pi) - np.pi)
        overlap = np.minimum(offset + half_disk, 0.0015) - np.maximum(offset - half_disk, -0.0015)
        hit = overlap > 0
        share, place = overlap[hit] / 0.003, depth[hit]
        light = max(0, 1 - share.sum())
        echo = share * np.clip((place - 0.9) / 0.1, 0, 1) / place ** 2  # which the receiver sees from 0.9 m on
        found[number, 2] = light
        if (echo > light / distance ** 2).any():
            found[number, :2] = place[echo.argmax()], share[echo.argmax()]
    return found


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('distance', [8.0, 25.0])
def test_how_snow_hides_targets(level, distance):
    """How often, where the ghosts are, how bright, how many targets are lost, how much of the others' light is."""
    rng = np.random.default_rng(level)
    beams, planes, points = 1000, int(400 / distance), 40000
    place, share, light = np.concatenate([brute_force_snow(level, distance, beams, rng) for _ in range(planes)]).T
    is_ghost = np.isfinite(place)
    sample = cloud(points)
    values = sample['points'].tensor
    values[:, :3] *= distance / values[:, :3].norm(dim=1, keepdim=True)
    values[:, 3] = 100
    _, record, _, after = strike(f'lidar_snow@{level}', sample)
    ranges = np.linalg.norm(after[:, :3], axis=1)
    ghosts = ranges < distance - 1e-3

    def assert_alike(expected, found):
        assert abs(found - expected) < 4 * math.sqrt(expected / (beams * planes) + expected / points)

    assert_alike(is_ghost.mean(), record.details['snow_ghosts'] / points)
    assert_alike((light < 0.7)[~is_ghost].sum() / light.size, record.details['snow_lost'] / points)
    assert ghosts.sum() == record.details['snow_ghosts'] and 0.005 < ghosts.sum() / points < 0.15
    chance = 2 * math.sqrt(1 / ghosts.sum() + 1 / is_ghost.sum())
    assert ks_2samp(ranges[ghosts], place[is_ghost]).statistic < chance
    assert ks_2samp(after[ghosts, 3] / (0.9 * 255), share[is_ghost]).statistic < chance
    dimmed = 1 - light[~is_ghost & (light >= 0.7)]
    assert (1 - after[~ghosts, 3] / 100).mean() == pytest.approx(dimmed.mean(), rel=0.1)


@pytest.mark.parametrize('level', LEVELS)
def test_what_snow_does(level):
    results, record, before, after = strike(f'lidar_snow@{level}', cloud(20000))
    direction = [points[:, :3] / np.linalg.norm(points[:, :3], axis=1, keepdims=True) for points in (before, after)]
    place, source = 0, []
    for number in range(len(after)):  # points keep their order and their beams
        while np.abs(direction[0][place] - direction[1][number]).max() > 1e-5:
            place += 1
        source.append(place)
        place += 1
    assert results['rings'].tolist() == [number % 32 for number in source]
    was, now = (np.linalg.norm(points[:, :3], axis=1) for points in (before[source], after))
    ghost = (after[:, :3] != before[source, :3]).any(axis=1)
    assert ghost.sum() == record.details['snow_ghosts'] and 20000 - len(after) == record.details['snow_lost']
    assert (now[ghost] < was[ghost]).all() and now[ghost].min() > 0.9 and np.median(now[ghost]) < 10
    assert 0 < after[ghost, 3].min() and after[ghost, 3].max() <= 0.9 * 255 * (1 + 1e-6)
    dimmed = after[~ghost, 3] / before[source, 3][~ghost]
    assert 0.7 - 1e-6 <= dimmed.min() and dimmed.max() == 1 and 0.2 < (dimmed < 1).mean()
    np.testing.assert_array_equal(after[:, 4], before[source, 4])
    assert_only_graded(record, f'lidar_snow@{level}')
    assert 0 < record.details['snow_lost'] < 0.02 * 20000


@pytest.mark.parametrize('name, measure', [
    ('lidar_fog', lambda record: record.details['fog_ghosts']),
    ('lidar_snow', lambda record: record.details['snow_ghosts'] + record.details['snow_lost']),
    ('crosstalk', lambda record: record.details['crosstalk_points']),
    ('points_reduced', lambda record: -record.details['points_after'])])
def test_severities_rise(name, measure):
    sample = cloud(60000)
    struck = [measure(strike(f'{name}@{level}', sample)[1]) for level in LEVELS]
    assert struck == sorted(set(struck))


# Phantoms

def planted(token='token', angles=(0.5, 2.0, 4.0), rings=True):
    """Objects of three sizes, each with points of its own, on a plain 5 cm above their bottoms."""
    rng = np.random.default_rng(0)
    boxes, points = [], [np.stack([*rng.uniform(-40, 40, (2, 1500)), np.full(1500, -1.75)], axis=1)]
    for number, angle in enumerate(angles):
        distance, size = 12 + 4 * number, np.array([[4.5, 1.9, 1.7], [0.8, 0.8, 1.8], [9, 2.6, 3.2]][number])
        boxes.append([distance * math.cos(angle), distance * math.sin(angle), -1.8, *size, 0.3 + number, 0, 0])
        inner = rng.uniform(-0.5, 0.5, (30, 3)) * size + [0, 0, size[2] / 2]
        points.append(turned(inner, z=math.degrees(boxes[-1][6])) + boxes[-1][:3])
    places = np.concatenate(points)
    values = np.concatenate([places, np.arange(len(places))[:, None], np.zeros((len(places), 1))], axis=1)
    sample = dict(sample_idx=token, points=LiDARPoints(values.astype(np.float32), points_dim=5),
                  gt_bboxes_3d=LiDARInstance3DBoxes(np.array(boxes, np.float32).reshape(-1, 9), box_dim=9))
    return dict(sample, rings=np.arange(len(places)) % 32) if rings else sample


def footprint(x, y, length, width, yaw):
    forward, left = np.array([math.cos(yaw), math.sin(yaw)]), np.array([-math.sin(yaw), math.cos(yaw)])
    return Polygon([np.array([x, y]) + a * forward * length / 2 + b * left * width / 2
                    for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))])


def in_box(points, box, margin=0.0):
    """(N,) whether points lie in a box of gravity center, l, w, h, yaw, wider by a margin to each side."""
    local = turned(points[:, :3] - box[:3], z=-math.degrees(box[6]))
    return (np.abs(local) <= np.array(box[3:6]) / 2 + [margin, margin, 1e-4]).all(axis=1)


@pytest.mark.parametrize('number', range(8))
@pytest.mark.parametrize('count', [1, 4])
def test_phantoms(count, number):
    sample = planted(f'token{number}')
    results, record, before, after = strike(f'phantoms:{count}', sample)
    phantoms = record.lost_boxes
    assert len(phantoms) == record.details['phantoms'] == count and not record.is_graded
    assert not record.lidar_everywhere
    np.testing.assert_array_equal(after[:len(before)], before)
    boxes = sample['gt_bboxes_3d'].tensor.numpy().astype(float)
    centers = boxes[:, :7] + [0, 0, 1, 0, 0, 0, 0] * boxes[:, 5:6] / 2
    rest, rings = after[len(before):], results['rings'][len(before):]
    for phantom in phantoms:
        source, = np.flatnonzero(np.abs(boxes[:, 3:6] - phantom[3:6]).max(axis=1) < 1e-5)
        own = np.flatnonzero(in_box(before, centers[source], 1e-4))
        copy, rest = rest[:len(own)], rest[len(own):]
        angle = math.degrees(phantom[6] - centers[source, 6])
        np.testing.assert_allclose(turned(centers[source, None, :3], z=angle)[0], phantom[:3], atol=1e-4)
        np.testing.assert_allclose(copy[:, :3], turned(before[own, :3], z=angle), atol=1e-4)
        np.testing.assert_array_equal(copy[:, 3:], before[own, 3:])
        assert rings[:len(own)].tolist() == results['rings'][own].tolist() and len(own) >= 30
        rings = rings[len(own):]
        ground = phantom[2] - phantom[5] / 2
        assert not (in_box(before, phantom, 0.299) & (before[:, 2] > ground + 0.301)).any()
        assert record.lidar_lost(torch.tensor(phantom[:3]))
    assert not len(rest)
    shapes = [footprint(*box[[0, 1, 3, 4, 6]]) for box in (*centers, *phantoms)]
    assert not [1 for i, one in enumerate(shapes) for other in shapes[:i] if one.intersects(other)]
    assert not record.lidar_lost(torch.tensor(centers[:, :3])).any()


def test_phantoms_keep_away_from_boxes_without_points():
    sample = planted(rings=False)
    sample['points'] = sample['points'][np.arange(1500, 1530)]  # one object's; the others have none
    _, record, *_ = strike('phantoms:60', sample)
    boxes = sample['gt_bboxes_3d'].tensor.numpy().astype(float)
    shapes = [footprint(*box[[0, 1, 3, 4, 6]]) for box in (*boxes, *record.lost_boxes)]
    assert not [1 for i, one in enumerate(shapes) for other in shapes[:i] if one.intersects(other)]
    assert 5 < record.details['phantoms'] == len(record.lost_boxes) < 60  # the circle is full


def test_phantoms_come_from_all_objects_and_go_anywhere():
    sources, angles = [], []
    for number in range(150):
        _, record, *_ = strike('phantoms:1', planted(f'token{number}', rings=False))
        sources.append(record.lost_boxes[0, 3].round(1))
        angles.append(math.atan2(record.lost_boxes[0, 1], record.lost_boxes[0, 0]))
    assert set(sources) == {4.5, 0.8, 9.0} and min(map(sources.count, set(sources))) > 25
    assert np.histogram(angles, 6, (-np.pi, np.pi))[0].min() > 10


@pytest.mark.parametrize('change', ['no boxes', 'few points', 'empty'])
def test_without_an_object_there_is_no_phantom_and_the_record_says_so(change):
    sample = planted()
    if change == 'no boxes':
        sample['gt_bboxes_3d'] = sample['gt_bboxes_3d'][:0]
    else:
        keep = np.arange(1500, 1504) if change == 'few points' else np.zeros(0, int)
        sample.update(points=sample['points'][keep], rings=sample['rings'][keep])
    results, record, before, after = strike('phantoms:5', sample)
    np.testing.assert_array_equal(after, before)
    assert record.details['phantoms'] == 0 and is_true_everywhere(record) and len(results['rings']) == len(after)


def test_where_everything_is_taken_there_are_fewer_phantoms():
    sample = planted()
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(-25, 25, 0.8), np.arange(-25, 25, 0.8)))
    walls = LiDARPoints(np.stack([x, y, 0 * x - 1, x, 0 * x], axis=1).astype(np.float32), points_dim=5)
    sample['points'] = sample['points'].cat([sample['points'], walls])
    del sample['rings']
    _, record, before, after = strike('phantoms:20', sample)
    assert record.details['phantoms'] == 0 and len(after) == len(before)


def test_phantoms_need_boxes():
    sample = planted()
    sample['failure_boxes'] = sample.pop('gt_bboxes_3d')
    assert strike('phantoms:3', sample)[1].details['phantoms'] == 3
    del sample['failure_boxes']
    with pytest.raises(ValueError, match='phantoms needs boxes.*load_failure_boxes=True'):
        strike('phantoms:3', sample)
    assert 'boxes' in FailureCase.parse('phantoms:3').needs


# All of them

@pytest.mark.parametrize('case', EVERY_CASE)
@pytest.mark.parametrize('num_points', [0, 1])
def test_clouds_of_almost_nothing(case, num_points):
    results, record, _, after = strike(case, cloud(num_points))
    assert type(results['points']) is LiDARPoints and results['points'].tensor.dtype == torch.float32
    assert after.shape == (len(results['rings']), 5) and len(after) <= num_points and np.isfinite(after).all()
    assert record.details['points_after'] == len(after)


@settings(max_examples=60)
@given(st.data())
def test_any_cloud(data):
    """Points anywhere, also at the origin, with three to six values."""
    dims = data.draw(st.integers(3, 6))
    numbers = st.floats(-200, 200, width=32)
    rows = data.draw(st.lists(st.lists(numbers, min_size=dims, max_size=dims), max_size=12))
    case = data.draw(st.sampled_from(EVERY_CASE))
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, dims)
    sample = dict(sample_idx=data.draw(st.text(max_size=3)), points=LiDARPoints(values.clone(), points_dim=dims),
                  rings=np.arange(len(rows)), gt_bboxes_3d=LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9))
    results, record, _, after = strike(case, sample)
    assert torch.equal(sample['points'].tensor, values) and np.isfinite(after).all()
    assert after.shape == (len(results['rings']), dims) and results['points'].points_dim == dims
    assert set(results['rings']) <= set(range(len(rows)))
    for row, ring in zip(after, results['rings']):  # from the sixth value on nothing changes
        np.testing.assert_array_equal(row[4:], values[ring, 4:])


@pytest.mark.parametrize('case', EVERY_CASE)
def test_draws_repeat_and_differ(case):
    sample, state = planted(), np.random.get_state()[1].copy()
    sample['points'].tensor[:, 4] = torch.arange(len(sample['points'])) % 10 * 0.0499
    loaded = sample['points'].tensor.clone(), sample['rings'].copy()

    def outcome(token, *seed):
        results, record, *_ = strike(case, dict(sample, sample_idx=token), *seed)
        return results['points'].tensor.numpy().tobytes(), results['rings'].tobytes(), repr(record.details)

    assert outcome('token', 0) == outcome('token', 0)
    differ = {outcome('token', 0), outcome('other', 0), outcome('token', 1)}
    assert len(differ) == 3 or case.startswith(('misalignment', 'lidar_turn'))  # which have few outcomes
    assert torch.equal(sample['points'].tensor, loaded[0]) and (sample['rings'] == loaded[1]).all()
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_a_mild_case_does_not_undo_the_record_of_a_bad_one():
    for number in range(5):
        for case in ('lidar_drop+misalignment@1', 'beams:8+misalignment@1', 'lidar_turn:5+lidar_fog@1+jitter@1'):
            _, record, *_ = strike(case, cloud(100, f'token{number}'))
            assert record.lidar_everywhere or 'beams' in case
            assert record.is_graded or record.lidar_everywhere


@pytest.mark.parametrize('case', ['phantoms:3+beams:8', 'points_reduced@1+beams:16', 'lidar_snow@3+beams:4'])
def test_beams_after_other_failures_still_know_their_rings(case):
    results, *_ = strike(case, planted())
    assert (results['rings'] % 2 == 1).all() and len(results['rings']) == len(results['points']) > 0


@pytest.mark.parametrize('case', [
    'misalignment', 'misalignment@0', 'misalignment@4', 'misalignment:2@1', 'lidar_fog', 'lidar_fog@4', 'lidar_snow@x',
    'crosstalk@', 'jitter:3', 'points_reduced:0.5', 'lidar_turn', 'lidar_turn:0', 'lidar_turn:-10', 'lidar_turn:181',
    'lidar_turn:nan', 'lidar_turn:10@1', 'lidar_shift:0', 'lidar_shift:inf', 'lidar_shift:-2', 'lidar_shift:101',
    'phantoms', 'phantoms:0', 'phantoms:101', 'phantoms:2.5', 'phantoms:many'])
def test_mistakes_name_what_is_allowed(case):
    allowed = r'allowed: clean, .*lidar_fog@1\|2\|3|has (the severities @1, @2, @3|no severities), got'
    with pytest.raises(ValueError, match=allowed) as error:
        FailureCase.parse(case)
    assert repr(case) in str(error.value)


@pytest.mark.parametrize('case', EVERY_CASE)
def test_without_a_lidar_they_cannot_strike(case):
    sample = dict(sample_idx='token', img=[np.zeros((2, 2, 3), np.uint8)])
    with pytest.raises(ValueError, match="needs.*'points'"):
        FailureCase.parse(case).strike(sample, 0)


# The real frame

LOAD = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='LoadPointsFromMultiSweepsWithRings', sweeps_num=0, use_dim=[0, 1, 2, 3, 4]),
        dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)]


def test_all_on_the_real_frame(sample):
    """Shares of points struck, as docs/corruptions.md states them."""
    loaded = Compose(LOAD)(sample)
    shares = {}
    for case in EVERY_CASE:
        results, record, before, after = strike(case, loaded)
        assert len(results['rings']) == len(after) and np.isfinite(after).all(), case
        details = record.details
        shares[case] = sum(details.get(f'{key}s', 0) for key in ('fog_ghost', 'snow_ghost', 'crosstalk_point'))
        assert len(after) == len(before) - details.get('snow_lost', 0) or 'reduced' in case or 'phantoms' in case
    expected = {'lidar_fog@1': 0.047, 'lidar_fog@2': 0.081, 'lidar_fog@3': 0.229, 'lidar_snow@1': 0.025,
                'lidar_snow@2': 0.029, 'lidar_snow@3': 0.033, 'crosstalk@3': 0.020}
    assert {case: shares[case] / len(before) for case in expected} == pytest.approx(expected, abs=0.004)
    assert record.details['phantoms'] == 5
