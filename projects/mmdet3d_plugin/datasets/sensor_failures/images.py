"""Images with wrong light, noise, blur or glare, as benchmarks of robustness define them (docs/corruptions.md)."""
from dataclasses import dataclass
from typing import Any, Callable

import cv2
import numpy as np

from .registry import register_failure, source_file
from .view_choice import ViewChoice

# Lengths in pixels are those in nuScenes' images; images of another width have them in proportion.
_NATIVE_WIDTH = 1600
_NOISE_DRAWS = 1024   # at most, for each level of gray
_GLARE_FALLOFF = 200  # pixels


@dataclass(frozen=True)
class ImageCorruption:
    """The images of some views are changed by a function, see :func:`register_corruption`."""

    name: str
    change: Callable
    level: Any
    hides: bool
    views: ViewChoice

    @property
    def needs(self):
        return self.views.needs

    def apply(self, results, rng):
        struck = self.views.choose(results, rng)
        check_images(results['img'])
        results['img'] = changed_images(
            results['img'], struck, lambda _, image: self.change(image, self.level, rng), self.name)
        found = dict(details={self.name: dict(views=np.flatnonzero(struck).tolist())})
        if self.hides:
            found['views_lost'] = struck
        elif struck.any():
            found['is_graded'] = True
        return found


def register_corruption(name, levels, hides_from=None):
    """Decorator: let cases ask by name for a change of images.

    The function gets an image (H, W, 3), BGR, float32 in [0, 255], the level of the severity, and a random generator.
    It returns the changed image, whose values are clipped afterward; another shape and values that are not finite raise
    ValueError.

    Args:
        name (str): of the failure; its argument is a :class:`ViewChoice`, by default all views.
        levels (dict[int, Any]): severity -> what the function gets for it.
        hides_from (int | None): from this severity on an image is mostly hidden, so that its view counts as lost.
            Milder ones, and all where it is None, are graded.

    Raises:
        ValueError: for levels that are not a dict with integers as keys, or empty, and ``hides_from`` that is none of
            them; see ``register_failure`` for the name.
    """
    if not isinstance(levels, dict) or not levels:
        raise ValueError(f'the levels of {name!r} must be a dict, severity -> what the function gets, such as '
                         f'{{1: 0.1, 2: 0.2, 3: 0.3}}, got {levels!r}')
    if hides_from is not None and hides_from not in levels:
        raise ValueError(f'hides_from of {name!r} must be None or one of its severities {list(levels)}, got '
                         f'{hides_from!r}')

    def register(change):
        def make(views='all', *, severity):
            hides = hides_from is not None and severity >= hides_from
            return ImageCorruption(name, change, levels[severity], hides, ViewChoice.parse(views))

        register_failure(name, f'{name}[:views]', make, tuple(levels), source_file(change))(ImageCorruption)
        return change

    return register


def check_images(images):
    """Raise ValueError unless all images (H, W, 3) have values in [0, 255], as loaders leave them."""
    for view, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or not image.size or not 0 <= image.min() <= image.max() <= 255:
            found = f' and values from {image.min()} to {image.max()}' if image.size else ''
            raise ValueError(f'image {view} must have shape (H, W, 3) and values in [0, 255], as loaders leave it; it '
                             f'has shape {image.shape}{found}')


def changed_images(images, struck, change, name):
    """Images of which some are changed.

    Args:
        images (list[np.ndarray]): V images (H, W, 3), values in [0, 255] of any type; shapes may differ.
        struck (np.ndarray): (V,) bool, which to change.
        change (Callable): from the number of a view and its image as float32 to the changed image, any finite values.
        name (str): of the failure, for errors.

    Returns:
        list[np.ndarray]: images of the same types and shapes, values in [0, 255]; those not struck are the same
        objects.

    Raises:
        ValueError: where ``change`` gives anything but such an image.
    """
    images = list(images)
    for view in np.flatnonzero(struck):
        image = images[view]
        changed = np.clip(_checked(change(view, image.astype(np.float32)), image.shape, name), 0, 255)
        is_whole = np.issubdtype(image.dtype, np.integer)
        images[view] = (np.rint(changed) if is_whole else changed).astype(image.dtype)
    return images


def _checked(changed, shape, name):
    if not isinstance(changed, np.ndarray):
        found = repr(changed)
    elif changed.shape != shape or not np.issubdtype(changed.dtype, np.number):
        found = f'an array {changed.shape} of {changed.dtype}'
    elif not np.isfinite(changed).all():
        count = np.count_nonzero(~np.isfinite(changed))
        found = f'an array {changed.shape} of {changed.dtype}, {count} of its {changed.size} numbers NaN or infinite'
    else:
        return changed
    raise ValueError(f'the failure {name!r} must return the image, an array {shape} of finite numbers, got {found}')


def native_scale(shape):
    """float: pixels of an image of this shape (H, W, ...) for one pixel of nuScenes."""
    return shape[1] / _NATIVE_WIDTH


def line_kernel(weights, angle, scale):
    """Kernel of a blur along a line, to one side.

    Args:
        weights (array): (n,) weight of the pixels 0, 1, ... away, in pixels of nuScenes.
        angle (float): of the line, rad.
        scale (float): see :func:`native_scale`.

    Returns:
        np.ndarray: (k, k), k odd, float32 with a sum of 1.
    """
    steps = np.arange(len(weights)) * scale
    reach = int(np.ceil(steps[-1]))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    rows, columns = (reach + np.rint(steps * part).astype(int) for part in (np.sin(angle), np.cos(angle)))
    np.add.at(kernel, (rows, columns), np.asarray(weights, np.float32))
    return kernel / kernel.sum()


def half_gaussian(length, sigma):
    """(length,) weights of a Gaussian from its middle on; sigma in steps."""
    return np.exp(-0.5 * (np.arange(length) / sigma) ** 2)


@register_corruption('brightness', {1: 0.5, 2: 0.6, 3: 0.7})
def brighter(image, amount, rng):
    """Value (of HSV, 0 to 1) plus an amount, clipped (MultiCorrupt, "brightness")."""
    hsv = cv2.cvtColor(image / 255, cv2.COLOR_BGR2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + amount, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) * 255


@register_corruption('darkness', {1: (0.6, 250, 0.008), 2: (0.4, 120, 0.018), 3: (0.3, 50, 0.026)})
def darker(image, level, rng):
    """Less light, squared, with the noise of few photons (Poisson) and of the sensor (MultiCorrupt, "dark").

    To be fast it draws at most 1024 pixels of each level of gray, of which the image's pixels take one each.
    """
    white, photons, sigma = level  # light that a white pixel gets, photons at light 1, deviation of the sensor
    light = white * (np.arange(256) / 255) ** 2
    draws = min(image.size // 256 + 1, _NOISE_DRAWS)
    counted = rng.poisson(photons * light[:, None], (256, draws)) / photons
    seen = np.minimum(counted, 1) + sigma * rng.standard_normal(counted.shape)
    grays = np.rint(image).astype(np.int32)
    return np.take(255 * seen.astype(np.float32), grays * draws + rng.integers(draws, size=image.shape, dtype=np.int32))


@register_corruption('image_noise', {1: 0.08, 2: 0.18, 3: 0.26}, hides_from=3)
def noisy(image, sigma, rng):
    """Gaussian noise, independent for every pixel and color; its deviation as a share of white.

    Severities 1, 3 and 4 of "gaussian_noise" (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to
    Common Corruptions and Perturbations", ICLR 2019).
    """
    return image + 255 * np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)


@register_corruption('camera_motion_blur', {1: 6, 2: 10, 3: 13})
def blurred(image, sigma, rng):
    """Blur to one side along a line within 45 degrees of horizontal, 31 pixels long (MultiCorrupt, "motionblur")."""
    angle = np.deg2rad(rng.uniform(-45, 45))
    kernel = line_kernel(half_gaussian(31, sigma), angle, native_scale(image.shape))
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


@register_corruption('glare', {1: 0.2, 2: 0.5, 3: 0.8}, hides_from=2)
def glaring(image, share, rng):
    """A low sun: the given share of the image, all around it, is white, and a veil of light lies on the rest.

    The sun's place is drawn as in "strong sunlight" of 3D_Corruptions_AD (Dong et al., CVPR 2023).
    """
    height, width = image.shape[:2]
    column, row = rng.uniform(0.25, 0.75) * width, rng.uniform(0.30, 0.45) * height
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    distance = np.hypot(rows - np.float32(row), columns - np.float32(column))
    beyond = np.maximum(distance - np.quantile(distance, share), 0) / (_GLARE_FALLOFF * native_scale(image.shape))
    veil = np.exp(-0.5 * beyond ** 2)[..., None].astype(np.float32)
    return image + veil * (255 - image)
