"""Images taken in snow, rain and fog, and with dirt on the lens (docs/corruptions.md)."""
from dataclasses import dataclass

import cv2
import numpy as np

from ..camera_geometry import project
from .clouds import places_of
from .images import changed_images, check_images, half_gaussian, line_kernel, native_scale, register_corruption
from .registry import register_failure
from .view_choice import ViewChoice

# Lengths in pixels: those of nuScenes' images, see native_scale.
_RAIN_LENGTH, _RAIN_LIGHT, _RAIN_OPACITY = 60, 200, 0.6  # pixels, gray
_MUD = (20, 42, 63)                                      # BGR
_SPATTER_CELL, _SPATTER_EDGE = 10, 6                     # pixels

_EXTINCTION = {1: 0.02, 2: 0.03, 3: 0.06}  # severity -> 1/m
_VISIBLE = 0.05          # contrast below which nothing is seen: the definition of meteorological optical range
_AIRLIGHT = 0.9          # share of pixels that are darker than fog
_FAR = 100.0             # m, of what has neither points nor ground
_GROUND = 0.2            # share of points below the ground's height
_POINT_SIZE, _POINT_REACH, _FOG_EDGE = 5, 40, 10  # pixels


@register_corruption('camera_snow', {1: (0.3, 5, 0.9, 7, 0.9), 2: (0.4, 4, 0.85, 8, 0.85), 3: (0.5, 3, 0.8, 10, 0.8)})
def snowy(image, level, rng):
    """Falling flakes over a paler scene (MultiCorrupt, "snow")."""
    density, size, threshold, blur, kept = level
    shape = _native_shape(image)
    noise = density + 0.3 * _resized(_noise_of_cells(shape, size, rng), shape)
    flakes = np.where(noise < threshold, 0, np.clip(noise, 0, 1))
    kernel = line_kernel(half_gaussian(2 * blur + 1, blur), np.deg2rad(rng.uniform(-135, -45)), 1)
    flakes = _shrunk(cv2.filter2D(flakes, -1, kernel, borderType=cv2.BORDER_REPLICATE), image)
    white = np.maximum(image, 1.5 * cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None] + 127.5)
    pale = kept * image + (1 - kept) * white
    return 0.9 * pale + 255 * (flakes + flakes[::-1, ::-1])[..., None]


@register_corruption('camera_rain', {1: (0.035, 0.1, 0.9), 2: (0.125, 0.2, 0.8), 3: (0.225, 0.3, 0.7)})
def rainy(image, level, rng):
    """Bright streaks within 15 degrees of vertical over a grayer, darker scene.

    Density, gray and darkness are those of "rain" in 3D_Corruptions_AD (Dong et al., CVPR 2023), severities 1, 3, 5.
    """
    density, gray, light = level  # streaks' share of the image, share of gray in the scene, its light
    streak = line_kernel(np.ones(_RAIN_LENGTH), np.deg2rad(rng.uniform(75, 105)), 1) > 0
    drops = rng.random(_native_shape(image), dtype=np.float32) < density / streak.sum()
    streaks = cv2.filter2D(drops.astype(np.float32), -1, streak.astype(np.float32), borderType=cv2.BORDER_CONSTANT)
    streaks = _shrunk(np.clip(streaks, 0, 1), image)
    scene = light * ((1 - gray) * image + gray * 128)
    return scene + _RAIN_OPACITY * streaks[..., None] * (_RAIN_LIGHT - scene)


@register_corruption('lens_spatter', {1: 0.1, 2: 0.3, 3: 0.5}, hides_from=3)
def spattered(image, share, rng):
    """Mud on the lens hides the given share of the image.

    After "spatter" of Hendrycks and Dietterich (ICLR 2019): blurred noise above a threshold, of the same color.
    """
    cells = _noise_of_cells(_native_shape(image), _SPATTER_CELL, rng)
    noise = _resized(cv2.GaussianBlur(cells, (0, 0), 2), image.shape)
    mud = (noise >= np.quantile(noise, 1 - share)).astype(np.float32)
    opacity = _softened(mud, _SPATTER_EDGE * native_scale(image.shape))[..., None]
    return image + opacity * (np.float32(_MUD) - image)


def _native_shape(image):
    """(height, width) of an image of nuScenes with the proportions of this one."""
    return tuple(max(round(side / native_scale(image.shape)), 1) for side in image.shape[:2])


def _noise_of_cells(shape, size, rng):
    """Standard normal noise, float32, a value for each square of so many pixels."""
    return rng.standard_normal([int(np.ceil(side / size)) for side in shape], dtype=np.float32)


def _resized(noise, shape):
    """Noise (h, w) interpolated to a shape (H, W, ...), corner on corner; cv2.resize would favor its own places."""
    height, width = shape[:2]
    steps = [(cells - 1) / max(side - 1, 1) for cells, side in zip(noise.shape, (height, width))]
    to_noise = np.array([[steps[1], 0, 0], [0, steps[0], 0]])
    return cv2.warpAffine(noise, to_noise, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)


def _shrunk(layer, image):
    """A layer drawn at the native size, brought to the size of an image: each pixel takes the mean of its own."""
    return cv2.resize(layer, image.shape[1::-1], interpolation=cv2.INTER_AREA)


def _softened(image, sigma):
    return cv2.GaussianBlur(image, (0, 0), max(sigma, 0.1))


@register_failure('camera_fog', 'camera_fog[:views]',
                  lambda views='all', *, severity: CameraFog(ViewChoice.parse(views), severity), tuple(_EXTINCTION))
@dataclass(frozen=True)
class CameraFog:
    """Koschmieder's law: of a pixel's contrast with the fog ``exp(-extinction * distance)`` is left.

    The distance is that of the nearest point of the cloud in the image (:func:`view_distances`), the fog's own gray the
    90 % quantile of all images. The extinctions, 0.02, 0.03 and 0.06 per m, are those of MultiCorrupt's LiDAR fog.
    Outlines are blurred over 10 pixels. A view counts as lost if less than 5 % of the contrast is left in half of its
    pixels or more; otherwise the failure is graded. With an empty cloud everything is 100 m away, and the record says
    so by ``fallback``.
    """

    views: ViewChoice
    severity: int

    @property
    def needs(self):
        return (*self.views.needs, 'points', 'lidar2img')

    def apply(self, results, rng):
        struck = self.views.choose(results, rng)
        check_images(results['img'])
        points = places_of(results)
        grays = [cv2.cvtColor(np.float32(image), cv2.COLOR_BGR2GRAY) for image in results['img']]
        airlight = np.float32(np.quantile(np.concatenate([gray[::4, ::4].ravel() for gray in grays]), _AIRLIGHT))
        lost = np.zeros(len(struck), dtype=bool)

        def foggy(view, image):
            distance = view_distances(points, results['lidar2img'][view], image.shape[:2])
            left = _softened(np.exp(-_EXTINCTION[self.severity] * distance), _FOG_EDGE * native_scale(image.shape))
            lost[view] = np.mean(left < _VISIBLE) >= 0.5
            return airlight + left[..., None] * (image - airlight)

        results['img'] = changed_images(results['img'], struck, foggy, 'camera_fog')
        details = dict(views=np.flatnonzero(struck).tolist(), airlight=float(airlight), fallback=not len(points))
        graded = dict(is_graded=True) if (struck & ~lost).any() else {}
        return dict(views_lost=lost, details=dict(camera_fog=details), **graded)


def view_distances(points, lidar2img, shape):
    """How far what each pixel of a view shows is from the camera, as far as a cloud of points knows.

    Points are squares of 5 pixels, the nearest one wins; pixels between take the nearest point in the image up to 40
    pixels away. Everything else is flat ground at the height of the lowest fifth of the points, at most 100 m away.

    Args:
        points (np.ndarray): (N, 3), m, LiDAR frame; without any all pixels are 100 m away.
        lidar2img (np.ndarray): (4, 4).
        shape (tuple[int, int]): (H, W) of the image.

    Returns:
        np.ndarray: (H, W) float32, m.
    """
    if not len(points):
        return np.full(shape, _FAR, np.float32)
    backdrop = _ground_distances(np.quantile(points[:, 2], _GROUND), lidar2img, shape)
    scale = native_scale(shape)
    nearest = _splatted(points, lidar2img, shape, max(round(_POINT_SIZE * scale), 1))
    known = np.isfinite(nearest)
    if not known.any():
        return backdrop
    gap, labels = cv2.distanceTransformWithLabels((~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5,
                                                  labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros(labels.max() + 1, np.float32)
    of_label[labels[known]] = nearest[known]
    return np.where(gap <= _POINT_REACH * scale, of_label[labels], backdrop)


def _splatted(points, lidar2img, shape, size):
    """(H, W) float32 distance in m of the nearest point that covers a pixel, inf where none does."""
    center = -np.linalg.solve(lidar2img[:3, :3], lidar2img[:3, 3])
    pixels, _ = project(points, lidar2img)
    columns, rows = np.floor(pixels).T
    inside = (columns >= 0) & (columns < shape[1]) & (rows >= 0) & (rows < shape[0])
    distance = np.linalg.norm(points[inside] - center, axis=1).astype(np.float32)
    nearest = np.full(shape, np.inf, np.float32)
    np.minimum.at(nearest, (rows[inside].astype(int), columns[inside].astype(int)), distance)
    return cv2.erode(nearest, np.ones((size, size), np.uint8), borderType=cv2.BORDER_REPLICATE)


def _ground_distances(ground, lidar2img, shape):
    """(H, W) float32 distance in m of the plane at height z = ``ground`` along the rays of the pixels, at most 100."""
    inverse = np.linalg.inv(lidar2img[:3, :3])
    center = -inverse @ lidar2img[:3, 3]
    rows, columns = (np.arange(side, dtype=np.float32) + 0.5 for side in shape)
    ray = [across * columns + (down * rows + ahead)[:, None] for across, down, ahead in inverse.astype(np.float32)]
    with np.errstate(divide='ignore', invalid='ignore'):
        steps = np.float32(ground - center[2]) / ray[2]
    distance = steps * np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
    return np.where((steps > 0) & (distance < _FAR), distance, _FAR).astype(np.float32)
