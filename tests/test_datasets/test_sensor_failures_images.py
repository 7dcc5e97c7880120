"""Every corruption of images against the formula of its source, on plain images and on the real frame."""
import colorsys
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.core.points import LiDARPoints
from mmdet3d.datasets.pipelines import Compose
from scipy import ndimage, optimize, stats

from projects.mmdet3d_plugin.datasets.sensor_failures import FAILURES, FailureCase
from projects.mmdet3d_plugin.datasets.sensor_failures.image_weather import view_distances
from projects.mmdet3d_plugin.datasets.sensor_failures.images import line_kernel, register_corruption

VIEWS = ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_FRONT_LEFT']
LOST_FROM = dict(brightness=None, darkness=None, image_noise=3, camera_motion_blur=None, glare=2, camera_snow=None,
                 camera_rain=None, lens_spatter=3, camera_fog=None)  # severity from which on views count as lost
PIXEL_CASES = list(LOST_FROM)
CASES = [*PIXEL_CASES, 'miscalibration']
SEVERITIES = (1, 2, 3)
EXTINCTION = {1: 0.02, 2: 0.03, 3: 0.06}
FAR = 100.0


def picture(height=90, width=160, seed=0):
    """A scene of blocks of all colors and shades, no pixel at a limit."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(10, 140, (height // 15 + 1, width // 20 + 1, 3))
    return np.rint(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)).astype(np.uint8)


def plain(value, height=90, width=160):
    return np.full((height, width, 3), value, np.float32)


def camera(degrees, height=90, width=160, focal=0.8):
    """(4, 4) lidar2cam and cam_intrinsic of a level camera that looks at an azimuth, 0 forward, from (0.5, 0.2, -0.3).

    The LiDAR looks along y with z up, the camera along z with y down."""
    angle = math.radians(degrees)
    ahead, right, down = (-math.sin(angle), math.cos(angle), 0), (math.cos(angle), math.sin(angle), 0), (0, 0, -1)
    lidar2cam = np.eye(4)
    lidar2cam[:3, :3] = [right, down, ahead]
    lidar2cam[:3, 3] = -lidar2cam[:3, :3] @ [0.5, 0.2, -0.3]
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = [[focal * width, 0, width / 2], [0, focal * width, height / 2], [0, 0, 1]]
    return lidar2cam, intrinsic


def scene(images=None, points=None, token='token'):
    """A sample as loaders leave it; by default six pictures and a cloud on flat ground with a wall all around."""
    images = [picture(seed=view) for view in range(6)] if images is None else images
    if points is None:
        rng = np.random.default_rng(1)
        azimuth, radius = rng.uniform(0, 2 * np.pi, 4000), rng.uniform(3, 30, 4000)
        height = np.where(radius < 25, -1.8, rng.uniform(-1.8, 4, 4000))
        points = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), height], axis=1)
    cameras = [camera(60 * view, *image.shape[:2]) for view, image in enumerate(images)]
    return dict(
        sample_idx=token, img=list(images), camera_names=VIEWS[:len(images)], points=cloud(points),
        lidar2cam=[outer for outer, _ in cameras], cam_intrinsic=[inner for _, inner in cameras],
        lidar2img=[inner @ outer for outer, inner in cameras])


def cloud(points):
    values = np.zeros((len(points), 5), np.float32)
    values[:, :3] = points
    return LiDARPoints(values, points_dim=5)


def strike(case, results, *seed):
    return FailureCase.parse(case).strike(results, *seed)


def struck(name, severity, image, token='token'):
    """One image alone, struck; a floating one comes back unrounded."""
    results = scene([image], token=token)
    strike(f'{name}@{severity}', results, 0)
    return results['img'][0]


def every_case(test):
    return pytest.mark.parametrize('severity', SEVERITIES)(pytest.mark.parametrize('name', PIXEL_CASES)(test))


# What all have in common

@every_case
def test_types_shapes_and_ranges_stay(name, severity):
    """Float images change as whole ones do; sizes may differ; what was loaded is not written to."""
    shapes = [(90, 160), (45, 200), (33, 64)]
    loaded = [picture(*shape, seed=view) for view, shape in enumerate(shapes)]
    copies, found = [image.copy() for image in loaded], {}
    for kind in (np.uint8, np.float32, np.float64):
        results = scene([image.astype(kind) for image in loaded])
        before = list(results['img'])
        record = strike(f'{name}@{severity}', results, 0)
        for own, new in zip(before, results['img']):
            assert new.dtype == kind and new.shape == own.shape and 0 <= new.min() and new.max() <= 255
            assert (new != own).any()
        assert all((image == copy).all() for image, copy in zip(before, copies))
        found[kind] = results['img']
    for whole, single, double in zip(*found.values()):
        np.testing.assert_array_equal(np.rint(single), whole)
        np.testing.assert_array_equal(single, double)
    is_lost = LOST_FROM[name] is not None and severity >= LOST_FROM[name]
    assert record.views_lost.tolist() == [is_lost] * 3 and record.is_graded == (not is_lost)
    assert record.severities == {name: severity} and record.details[name]['views'] == [0, 1, 2]
    assert not record.has_lidar_region and record.details['points_before'] == record.details['points_after']


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('choice, expected', [
    ('CAM_BACK,CAM_FRONT', [True, False, False, True, False, False]), ('2', None), ('all', [True] * 6)])
def test_only_chosen_views_change(name, choice, expected):
    results = scene()
    before = dict(results, **{key: list(results[key]) for key in ('img', 'lidar2cam', 'lidar2img')})
    record = strike(f'{name}:{choice}@3', results, 0)
    key = 'lidar2img' if name == 'miscalibration' else 'img'
    changed = [own is not new for own, new in zip(before[key], results[key])]
    assert changed == (expected or changed) and (expected or sum(changed) == 2)
    if name == 'miscalibration' or LOST_FROM[name]:
        assert record.views_lost.tolist() == changed and not record.is_graded
    for key in ('points', 'lidar2cam', 'lidar2img', 'cam_intrinsic'):
        assert name == 'miscalibration' or results[key] is before.get(key, results[key]) or results[key] == before[key]


@pytest.mark.parametrize('name', PIXEL_CASES)
def test_the_worse_the_severity_the_more_changes(name):
    change = []
    for severity in SEVERITIES:
        results = scene()
        strike(f'{name}@{severity}', results, 0)
        change.append(np.mean([np.abs(new.astype(float) - own).mean() for new, own in zip(results['img'],
                                                                                          scene()['img'])]))
    assert 0.5 < change[0] and 1.03 * change[0] < change[1] and 1.03 * change[1] < change[2]


class Struck(torch.utils.data.Dataset):
    """Every case on the same scene, as bytes."""

    cases = [f'{name}:2@2' for name in CASES]

    def __init__(self, *tokens):
        self.tokens = tokens

    def __len__(self):
        return len(self.cases) * len(self.tokens)

    def __getitem__(self, index):
        case, token = self.cases[index % len(self.cases)], self.tokens[index // len(self.cases)]
        results = scene(token=token)
        strike(case, results, 3)
        return b''.join(array.tobytes() for key in ('img', 'lidar2cam', 'lidar2img') for array in results[key])


def test_draws_repeat_in_workers_and_differ_between_samples():
    np.random.seed(5)
    torch.manual_seed(5)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    here = [Struck('a', 'b')[index] for index in range(2 * len(CASES))]
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # global generators are not drawn from
    assert torch.equal(torch.get_rng_state(), states[1])
    loader = torch.utils.data.DataLoader(Struck('a', 'b'), batch_size=None, num_workers=2,
                                         worker_init_fn=lambda _: cv2.setNumThreads(0))
    assert list(loader) == here
    assert all(first != second for first, second in zip(here, here[len(CASES):]))
    assert len(set(here)) == len(here)


@settings(max_examples=40)
@given(st.sampled_from(PIXEL_CASES), st.sampled_from(SEVERITIES), st.integers(1, 4), st.integers(8, 12),
       st.sampled_from([np.uint8, np.float32]), st.integers(0, 255))
def test_tiny_images(name, severity, height, width, kind, value):
    image = struck(name, severity, plain(value, height, width).astype(kind))
    assert image.shape == (height, width, 3) and image.dtype == kind and 0 <= image.min() and image.max() <= 255


@pytest.mark.parametrize('name', PIXEL_CASES)
@pytest.mark.parametrize('wrong, found', [
    (np.zeros((9, 16), np.uint8), r'shape \(9, 16\) and values from 0 to 0'),
    (np.zeros((9, 16, 4), np.uint8), r'shape \(9, 16, 4\)'), (np.zeros((0, 16, 3), np.uint8), r'shape \(0, 16, 3\)$'),
    (plain(-1.5), r'shape \(90, 160, 3\) and values from -1.5 to -1.5'), (plain(255.5), 'values from 255.5'),
    (plain(np.nan), 'values from nan')])
def test_images_that_no_loader_leaves(name, wrong, found):
    results = scene()
    results['img'][2] = wrong
    with pytest.raises(ValueError, match=f'image 2 must have shape .* as loaders leave it; it has .*{found}'):
        strike(f'{name}@1', results, 0)


@pytest.mark.parametrize('name', CASES)
def test_names_and_mistakes(name):
    assert FAILURES[name].severities == SEVERITIES
    assert str(FailureCase.parse(f'{name}:CAM_FRONT@2')) == f'{name}:CAM_FRONT@2'
    for text in (name, f'{name}@0', f'{name}@4', f'{name}@', f'{name}:3'):
        with pytest.raises(ValueError, match=f'{name} has the severities @1, @2, @3, got {text!r}$'):
            FailureCase.parse(text)
    for text in (f'{name}:0@1', f'{name}:CAM_A,CAM_A@1'):
        with pytest.raises(ValueError, match='allowed: clean'):
            FailureCase.parse(text)
    with pytest.raises(ValueError, match='7 views are to fail, but the sample has 6'):
        strike(f'{name}:7@1', scene(), 0)
    with pytest.raises(ValueError, match=r"no cameras \['CAM_REAR'\]"):
        strike(f'{name}:CAM_REAR@1', scene(), 0)
    results = scene()
    del results['img']
    with pytest.raises(ValueError, match="needs.*'img'"):
        strike(f'{name}@1', results, 0)


# Light and noise

@pytest.mark.parametrize('severity, amount', [(1, 0.5), (2, 0.6), (3, 0.7)])
def test_brightness(severity, amount):
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 255, (12, 16, 3)).astype(np.float32)
    image[0, 0], image[0, 1] = 0, 120  # black and gray
    expected = []
    for blue, green, red in image.reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        expected.append(colorsys.hsv_to_rgb(hue, saturation, min(value + amount, 1))[::-1])
    expected = 255 * np.reshape(expected, image.shape)
    np.testing.assert_allclose(struck('brightness', severity, image), expected, atol=0.05)


def clipped_moments(light, sigma):
    """Mean and deviation in grays of light (a distribution over 0 to 1: values, weights) after noise and clipping."""
    values, weights = light
    grid = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    seen = 255 * np.clip(values[:, None] + sigma * grid, 0, 1)  # (n, 4000)
    mean = (seen.mean(axis=1) * weights).sum()
    return mean, math.sqrt(((seen ** 2).mean(axis=1) * weights).sum() - mean ** 2)


@pytest.mark.parametrize('severity, white, photons, sigma', [(1, 0.6, 250, 0.008), (2, 0.4, 120, 0.018),
                                                            (3, 0.3, 50, 0.026)])
def test_darkness(severity, white, photons, sigma):
    for gray in (0, 60, 128, 200, 255):
        image = struck('darkness', severity, plain(gray, 120, 200))
        counts = np.arange(2 * photons)
        weights = stats.poisson.pmf(counts, photons * white * (gray / 255) ** 2)
        mean, deviation = clipped_moments((np.minimum(counts / photons, 1), weights), sigma)
        assert abs(image.mean() - mean) < 5 * deviation / math.sqrt(280)  # draws for a level
        assert image.std() == pytest.approx(deviation, rel=0.15)
        neighbors = np.corrcoef([image[:, 1:, 0].ravel(), image[:, :-1, 0].ravel(), image[:, :-1, 1].ravel()])
        assert abs(neighbors - np.eye(3)).max() < 0.03


@pytest.mark.parametrize('severity, sigma', [(1, 0.08), (2, 0.18), (3, 0.26)])
@pytest.mark.parametrize('gray', [10, 128])
def test_image_noise(severity, sigma, gray):
    image = struck('image_noise', severity, plain(gray, 120, 200))
    mean, deviation = clipped_moments((np.array([gray / 255]), np.ones(1)), sigma)
    assert abs(image.mean() - mean) < 5 * deviation / math.sqrt(image.size)
    assert image.std() == pytest.approx(deviation, rel=0.02)
    neighbors = np.corrcoef([image[:, 1:, 0].ravel(), image[:, :-1, 0].ravel(), image[:, :-1, 1].ravel()])
    assert abs(neighbors - np.eye(3)).max() < 0.04
    assert severity < 3 or sigma * 255 >= 60


def lit(name, severity, height, width, token):
    """What becomes of one white pixel in the middle of black: places relative to it (n, 2) x and y, and values."""
    image = np.zeros((height, width, 3), np.float32)
    image[height // 2, width // 2] = 255
    image = struck(name, severity, image, token)
    assert (image == image[..., :1]).all() and image.sum() / 3 == pytest.approx(255, rel=1e-3)
    rows, columns = np.nonzero(image[..., 0] > 1e-2)
    return np.stack([columns - width // 2, rows - height // 2], axis=1), image[rows, columns, 0]


@pytest.mark.parametrize('severity, sigma', [(1, 6), (2, 10), (3, 13)])
def test_camera_motion_blur(severity, sigma):
    weights = np.exp(-0.5 * (np.arange(31) / sigma) ** 2)
    mean, angles = (weights * np.arange(31)).sum() / weights.sum(), []
    for token in range(10):
        places, values = lit('camera_motion_blur', severity, 71, 1600, f'token{token}')
        distance = np.hypot(*places.T)
        assert distance.max() <= 31 and len(places) <= 31
        far = places[distance.argmax()]
        direction = far / np.linalg.norm(far)
        assert np.abs(places @ [direction[1], -direction[0]]).max() < 1.1  # on a line, to one side
        assert (places @ direction > -0.5).all()
        assert (values * distance).sum() / values.sum() == pytest.approx(mean, abs=0.3)
        angles.append(math.degrees(math.atan2(abs(far[1]), abs(far[0]))) * np.sign(far[0] * far[1]))
    assert max(map(abs, angles)) <= 47 and min(angles) < -20 and max(angles) > 20
    np.testing.assert_allclose(struck('camera_motion_blur', severity, plain(100)), 100, atol=1e-3)


def test_lengths_follow_the_width_of_the_image():
    """A quarter of nuScenes' width: a quarter of the length."""
    reach = [np.hypot(*lit('camera_motion_blur', 3, 71, width, 'token')[0].T).max() for width in (1600, 400)]
    assert reach[0] > 20 and reach[1] == pytest.approx(reach[0] / 4, abs=1.5)


@pytest.mark.parametrize('name', ['camera_snow', 'camera_rain'])
def test_weather_is_the_same_in_small_images(name):
    """A quarter of nuScenes' width: what the large image shows, in a quarter of the size."""
    large, small = (struck(name, 1, plain(20, height, width)) for height, width in ((400, 1600), (100, 400)))
    expected = large.reshape(100, 4, 400, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, expected, atol=0.5)


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=40), st.floats(-7, 7), st.floats(0.01, 2))
def test_line_kernel(weights, angle, scale):
    kernel = line_kernel(np.array(weights), angle, scale)
    size = len(kernel)
    assert kernel.shape == (size, size) and size % 2 == 1 and kernel.dtype == np.float32 and (kernel >= 0).all()
    middle = size // 2
    rows, columns = np.nonzero(kernel)
    expected = {}
    for step, weight in enumerate(weights):
        place = middle + round(step * scale * math.sin(angle)), middle + round(step * scale * math.cos(angle))
        expected[place] = expected.get(place, 0) + weight / sum(weights)
    assert {*zip(rows.tolist(), columns.tolist())} == set(expected)
    assert all(kernel[place] == pytest.approx(value, rel=1e-4) for place, value in expected.items())


@pytest.mark.parametrize('severity, share', [(1, 0.2), (2, 0.5), (3, 0.8)])
def test_glare(severity, share):
    """Around the sun a white disc; beyond it, light falls as a Gaussian of 200 pixels of nuScenes, here 20."""
    suns = []
    for token in range(8):
        image = struck('glare', severity, plain(100), f'token{token}')
        assert np.mean(image >= 254.99) == pytest.approx(share, abs=0.01)
        veil = (image[..., 0] - 100) / 155
        rows, columns = np.nonzero((veil > 0.01) & (veil < 0.99))
        beyond = 20 * np.sqrt(-2 * np.log(veil[rows, columns]))  # distance from the disc
        off = lambda sun: np.hypot(columns - sun[0], rows - sun[1]) - sun[2] - beyond  # noqa: E731
        fit = optimize.least_squares(off, [80, 40, 60])
        assert np.abs(fit.fun).max() < 0.05
        suns.append([fit.x[0] / 160, fit.x[1] / 90])
        if token == 0 and severity == 1:  # colors fade with the same veil
            colors = struck('glare', severity, picture().astype(np.float32), 'token0')
            np.testing.assert_allclose(colors, picture() + veil[..., None] * (255. - picture()), atol=0.01)
    column, row = np.transpose(suns)
    assert (0.25 <= column).all() and (column <= 0.75).all() and (0.30 <= row).all() and (row <= 0.45).all()
    assert np.ptp(column) > 0.2 and np.ptp(row) > 0.05


# Weather

def simulated_flakes(seed, density, size, threshold, blur):
    """(300, 1600) flakes in gray levels, by scipy, falling straight down."""
    noise = np.random.default_rng(seed).normal(density, 0.3, (300 // size, 1600 // size))
    noise = ndimage.zoom(noise, (300 / noise.shape[0], 1600 / noise.shape[1]), order=1)
    weights = np.exp(-0.5 * (np.arange(2 * blur + 1) / blur) ** 2)
    weights = np.concatenate([np.zeros(2 * blur), weights / weights.sum()])
    return 255 * ndimage.convolve1d(np.where(noise < threshold, 0, np.minimum(noise, 1)), weights, axis=0)


@pytest.mark.parametrize('severity, density, size, threshold, blur, kept', [
    (1, 0.3, 5, 0.9, 7, 0.9), (2, 0.4, 4, 0.85, 8, 0.85), (3, 0.5, 3, 0.8, 10, 0.8)])
def test_camera_snow(severity, density, size, threshold, blur, kept):
    images = [struck('camera_snow', severity, plain(0, 300, 1600), f'token{token}') for token in range(3)]
    base = 0.9 * (1 - kept) * 127.5
    part = (np.arange(200) + 0.5) / 200  # place between two values of the noise
    spread = 0.3 * np.sqrt(np.multiply.outer(part ** 2 + (1 - part) ** 2, part ** 2 + (1 - part) ** 2))
    limit = (threshold - density) / spread
    above = lambda limit: density * stats.norm.sf(limit) + spread * stats.norm.pdf(limit)  # noqa: E731  E[x; x > limit]
    top = (1 - density) / spread
    expected = np.mean(above(limit) - above(top) + stats.norm.sf(top))
    for image in images:
        assert image.min() == pytest.approx(base, abs=0.01) and (image == image[..., :1]).all()
        np.testing.assert_allclose(image, image[::-1, ::-1], atol=0.01)  # two layers, one turned by 180 degrees
    assert np.mean(images) - base == pytest.approx(2 * 255 * expected, rel=0.1)
    layers = [simulated_flakes(seed, density, size, threshold, blur) for seed in range(3)]
    deviation = np.mean([np.std(layer + layer[::-1, ::-1]) for layer in layers])
    assert np.mean([image.std() for image in images]) == pytest.approx(deviation, rel=0.05)  # as large, blurred as much
    across, along = (np.mean([np.abs(np.diff(image[..., 0], axis=axis)).mean() for image in images]) for axis in (1, 0))
    assert across > 1.1 * along  # flakes fall
    colors = np.array([[[30, 200, 90]]], np.float32)
    gray = 0.114 * 30 + 0.587 * 200 + 0.299 * 90
    pale = [0.9 * (kept * value + (1 - kept) * max(value, 1.5 * gray + 127.5)) for value in (30, 200, 90)]
    image = struck('camera_snow', severity, np.tile(colors, (300, 1600, 1)))
    np.testing.assert_allclose(image.min(axis=(0, 1)), pale, atol=0.02)


@pytest.mark.parametrize('severity, density, gray, light', [(1, 0.035, 0.1, 0.9), (2, 0.125, 0.2, 0.8),
                                                            (3, 0.225, 0.3, 0.7)])
def test_camera_rain(severity, density, gray, light):
    dry = light * ((1 - gray) * 100 + gray * 128)
    wet = dry + 0.6 * (200 - dry)
    shares = []
    for token in range(3):
        image = struck('camera_rain', severity, plain(100, 400, 1600), f'token{token}')[..., 0]
        is_wet = np.abs(image - wet) < 0.01
        assert (is_wet | (np.abs(image - dry) < 0.01)).all()
        shares.append(is_wet[60:-60].mean())
        if severity == 1:
            _, _, boxes, _ = cv2.connectedComponentsWithStats(is_wet.astype(np.uint8), connectivity=8)
            width, height = np.median(boxes[1:, 2:4], axis=0)
            assert 55 <= height <= 65 and width <= 60 * math.sin(math.radians(15)) + 3
    assert np.mean(shares) == pytest.approx(1 - math.exp(-density), rel=0.06)


@pytest.mark.parametrize('severity, share', [(1, 0.1), (2, 0.3), (3, 0.5)])
def test_lens_spatter(severity, share):
    image = struck('lens_spatter', severity, plain(200, 300, 1600))
    opacity = (200 - image) / (200 - np.array([20, 42, 63]))  # mud: red 63, green 42, blue 20
    np.testing.assert_allclose(opacity, np.broadcast_to(opacity[..., :1], opacity.shape), atol=1e-4)
    assert opacity.mean() == pytest.approx(share, abs=0.02) and opacity.min() >= 0 and opacity.max() <= 1 + 1e-5
    drops, _ = cv2.connectedComponents((opacity[..., 0] > 0.5).astype(np.uint8))
    assert drops > 8 and ((opacity > 0.05) & (opacity < 0.95)).mean() < 0.4
    assert 0.1 * share < (opacity > 0.99).mean() < share


# Fog

def rays(height, width, lidar2img):
    """(H, W, 3) directions of length 1 in the LiDAR frame of the middles of pixels, and the camera's center (3,)."""
    inverse = np.linalg.inv(lidar2img)
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    ones = np.ones_like(rows)
    near, far = (np.stack([columns * depth, rows * depth, ones * depth, ones], axis=-1) @ inverse.T for depth in (1, 2))
    direction = (far - near)[..., :3]
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True), inverse[:3, 3]


def foggy_scene(distance):
    """A scene whose cloud has a point for each pixel of the first view, at a distance (H, W) in m from its camera."""
    results = scene()
    direction, center = rays(90, 160, results['lidar2img'][0])
    results['points'] = cloud((center + np.multiply(direction, np.expand_dims(distance, -1))).reshape(-1, 3))
    return results


def airlight_of(images):
    gray = [(image.astype(float) @ [0.114, 0.587, 0.299])[::4, ::4] for image in images]
    return np.quantile(np.concatenate([values.ravel() for values in gray]), 0.9)


@pytest.mark.parametrize('severity', SEVERITIES)
@pytest.mark.parametrize('distance', [0.5, 12.0, 44.0, 90.0])
def test_fog_leaves_of_a_pixel_what_its_distance_says(severity, distance):
    results = foggy_scene(np.full((90, 160), distance))
    images = results['img'] = [image.astype(np.float32) for image in results['img']]
    record = strike(f'camera_fog:CAM_FRONT@{severity}', results, 0)
    left, airlight = math.exp(-EXTINCTION[severity] * distance), airlight_of(images)
    np.testing.assert_allclose(results['img'][0], airlight + left * (images[0] - airlight), atol=0.01)
    assert record.details['camera_fog'] == dict(views=[0], airlight=pytest.approx(airlight, abs=1e-3), fallback=False)
    assert record.views_lost.tolist() == [left < 0.05, *[False] * 5] and record.is_graded == (left >= 0.05)


@pytest.mark.parametrize('edge, is_lost', [(70, True), (100, False)])  # hidden: 56 % of the pixels, or 38 %
def test_fog_is_denser_beyond_an_edge(edge, is_lost):
    """Near things on the left, far ones on the right: each side by itself, but for the blurred edge."""
    results = foggy_scene(np.where(np.arange(160) < edge, 10.0, 60.0) * np.ones((90, 1)))
    images = results['img'] = [image.astype(np.float32) for image in results['img']]
    record = strike('camera_fog:CAM_FRONT@3', results, 0)
    airlight = airlight_of(images)
    for columns, distance in ((slice(0, edge - 6), 10), (slice(edge + 6, 160), 60)):
        expected = airlight + math.exp(-0.06 * distance) * (images[0][:, columns] - airlight)
        np.testing.assert_allclose(results['img'][0][:, columns], expected, atol=0.05)
    assert record.views_lost.tolist() == [is_lost, *[False] * 5] and record.is_graded == (not is_lost)


@pytest.mark.parametrize('severity', SEVERITIES)
def test_fog_without_points_takes_everything_for_far(severity):
    results = scene(points=np.zeros((0, 3)))
    images = list(results['img'])
    record = strike(f'calibration:1+camera_fog@{severity}', results, 0)
    left, airlight = math.exp(-EXTINCTION[severity] * FAR), airlight_of(images)
    for own, new in zip(images, results['img']):
        np.testing.assert_allclose(new, airlight + left * (own - airlight), atol=0.51)
    assert record.details['camera_fog']['fallback'] and record.views_lost.tolist() == [left < 0.05] * 6
    assert record.is_graded  # because of the calibration alone, if all views are lost


@pytest.mark.parametrize('missing', ['points', 'lidar2img'])
def test_fog_needs_distances(missing):
    results = scene()
    del results[missing]
    with pytest.raises(ValueError, match=f"camera_fog@1' needs .*'{missing}'"):
        strike('camera_fog@1', results, 0)


def known_distances(points, lidar2img, shape, half):
    """(H, W) by the definition, a point after the other: the nearest of those up to ``half`` pixels away, inf: none."""
    found = np.full(shape, np.inf)
    center = np.linalg.inv(lidar2img)[:3, 3]
    for point in points:
        u, v, depth = (lidar2img @ [*point, 1])[:3]
        row, column = (math.floor(v / depth), math.floor(u / depth)) if depth > 0 else (-1, -1)
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            own = found[max(row - half, 0):row + half + 1, max(column - half, 0):column + half + 1]
            np.minimum(own, np.linalg.norm(point - center), out=own)
    return found


@pytest.mark.parametrize('shape, half, reach', [((150, 1600), 2, 40), ((90, 160), 0, 4)])
@pytest.mark.parametrize('number', [0, 1, 300])
def test_distances(shape, half, reach, number):
    rng = np.random.default_rng(number)
    outer, inner = camera(20, *shape)
    lidar2img = inner @ outer
    points = rng.uniform([-20, -20, -1.8], [20, 20, 3], (number, 3))
    hidden = points + 0.5 * (points - np.linalg.inv(lidar2img)[:3, 3])  # behind a point, in the same pixel
    points = np.concatenate([points, hidden, np.tile([0, -9, -1.8], (80, 1))])
    distances = view_distances(points, lidar2img, shape)
    assert distances.shape == shape and distances.dtype == np.float32
    known = known_distances(points, lidar2img, shape, half)
    is_known = np.isfinite(known)
    np.testing.assert_allclose(distances[is_known], known[is_known], rtol=1e-6)
    direction, center = rays(*shape, lidar2img)
    with np.errstate(divide='ignore'):
        ground = (np.quantile(points[:, 2], 0.2) - center[2]) / direction[..., 2]
    ground = np.where(ground > 0, np.minimum(ground, FAR), FAR)
    places = np.argwhere(is_known)
    for row, column in np.argwhere(~is_known)[::37]:
        gaps = np.hypot(*(places - [row, column]).T)
        near = known[tuple(places[gaps <= gaps.min() * 1.03 + 0.1].T)] if len(places) else []
        if not len(places) or gaps.min() > 1.03 * reach:
            assert distances[row, column] == pytest.approx(ground[row, column], rel=1e-3)
        elif gaps.min() < reach / 1.03:
            assert np.abs(near - distances[row, column]).min() < 1e-4


def test_no_points_are_far_away():
    assert (view_distances(np.zeros((0, 3)), camera(0)[1] @ camera(0)[0], (9, 16)) == FAR).all()


# Calibration

@pytest.mark.parametrize('severity, degrees, meters', [(1, 1, 0.04), (2, 3, 0.12), (3, 5, 0.20)])
def test_miscalibration(severity, degrees, meters):
    results = scene()
    results['lidar2img'] = [matrix * (1 + 1e-9) for matrix in results['lidar2img']]  # of views that stay: not anew
    before = {key: [matrix.copy() for matrix in results[key]] for key in ('lidar2img', 'lidar2cam', 'cam_intrinsic')}
    images = list(results['img'])
    record = strike(f'miscalibration:3@{severity}', results, 0)
    errors = []
    for view, is_lost in enumerate(record.views_lost):
        old, new, intrinsic = before['lidar2cam'][view], results['lidar2cam'][view], before['cam_intrinsic'][view]
        np.testing.assert_array_equal(results['cam_intrinsic'][view], intrinsic)
        if is_lost:
            error = new @ np.linalg.inv(old)
            errors.append(error)
            np.testing.assert_allclose(error[:3, :3] @ error[:3, :3].T, np.eye(3), atol=1e-12)
            assert math.degrees(math.acos((np.trace(error[:3, :3]) - 1) / 2)) == pytest.approx(degrees, rel=1e-6)
            assert np.linalg.norm(error[:3, 3]) == pytest.approx(meters)
            np.testing.assert_allclose(results['lidar2img'][view], intrinsic @ new, atol=1e-9)
        else:
            np.testing.assert_array_equal(new, old)
            np.testing.assert_array_equal(results['lidar2img'][view], before['lidar2img'][view])
    assert record.views_lost.sum() == 3 and not record.is_graded and record.severities == dict(miscalibration=severity)
    assert record.details['miscalibration'] == dict(degrees=degrees, meters=meters)
    assert np.std(errors, axis=0).max() > 1e-3 and results['img'] == images  # each has an error of its own


def test_miscalibration_goes_in_all_directions():
    axes, shifts = [], []
    results = scene()
    for token in range(100):
        sample = dict(results, sample_idx=f'token{token}')
        strike('miscalibration@3', sample, 0)
        for old, new in zip(results['lidar2cam'], sample['lidar2cam']):
            error = new @ np.linalg.inv(old)
            axes.append([error[2, 1] - error[1, 2], error[0, 2] - error[2, 0], error[1, 0] - error[0, 1]])
            shifts.append(error[:3, 3])
    for directions in (np.array(axes) / 2 / math.sin(math.radians(5)), np.array(shifts) / 0.2):
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(directions.mean(axis=0), 0, atol=4 * math.sqrt(1 / 3 / 600))
        np.testing.assert_allclose(directions.T @ directions / 600, np.eye(3) / 3, atol=0.07)
    assert abs(np.corrcoef(np.ravel(axes), np.ravel(shifts))[0, 1]) < 0.1


@pytest.mark.parametrize('missing', ['lidar2cam', 'cam_intrinsic'])
def test_miscalibration_needs_a_calibration(missing):
    results = scene()
    del results[missing]
    with pytest.raises(ValueError, match=f"miscalibration@1' needs .*'{missing}'"):
        strike('miscalibration@1', results, 0)


# The real frame

LOAD = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='LoadMultiViewImageFromFiles')]


def test_the_real_frame(sample):
    """All cases strike a view; fog leaves of each pixel that a point is seen in what its distance says."""
    loaded = Compose(LOAD)(sample)
    front, points = loaded['camera_names'].index('CAM_FRONT'), loaded['points'].coord.numpy().astype(float)
    for name in PIXEL_CASES:
        results = dict(loaded)
        record = strike(f'{name}:CAM_FRONT@2', results, 0)
        new = results['img'][front]
        assert np.abs(new.astype(float) - loaded['img'][front]).mean() > 2 and new.dtype == np.uint8
        assert [own is not image for own, image in zip(results['img'], loaded['img'])].count(True) == 1
        assert record.views_lost.sum() == (1 if name == 'glare' else 0)
    airlight, matrix = airlight_of(loaded['img']), loaded['lidar2img'][front]  # fog is the last
    scaled = points @ matrix[:3, :3].T + matrix[:3, 3]
    points, scaled = points[scaled[:, 2] > 1], scaled[scaled[:, 2] > 1]
    columns, rows = np.floor(scaled[:, :2] / scaled[:, 2:]).astype(int).T
    inside = (0 <= columns) & (columns < 1600) & (0 <= rows) & (rows < 900)
    distance = np.linalg.norm(points - np.linalg.inv(matrix)[:3, 3], axis=1)[inside]
    own, new = (image[front][rows[inside], columns[inside]].astype(float) for image in (loaded['img'], results['img']))
    error = np.abs(new - airlight - np.exp(-0.03 * distance)[:, None] * (own - airlight))
    assert len(distance) > 2000 and np.median(error) < 1 and error.mean() < 4


@pytest.mark.parametrize('change, found', [
    (lambda image, level, rng: None, 'None'),
    (lambda image, level, rng: image[::2, ::2], r'an array \(45, 80, 3\)'),
    (lambda image, level, rng: image[..., 0], r'an array \(90, 160\)'),
    (lambda image, level, rng: image * np.nan, r'an array \(90, 160, 3\)'),
    (lambda image, level, rng: image.astype(str), r'an array \(90, 160, 3\)'),
], ids=['nothing', 'half the size', 'gray', 'NaN', 'text'])
def test_a_corruption_must_return_an_image(change, found):
    register_corruption('own', {1: 0.5})(change)
    try:
        message = rf"the failure 'own' must return the image, an array \(90, 160, 3\) of finite numbers, got {found}"
        with pytest.raises(ValueError, match=message):
            strike('own@1', scene())
    finally:
        del FAILURES['own']
