"""Transforms of the camera images; ``results['img']`` is a list of V arrays (H, W, 3), BGR."""
from typing import NamedTuple, Tuple

import mmcv
import numpy as np
from mmdet.datasets.builder import PIPELINES

from ..camera_geometry import as_homogeneous


@PIPELINES.register_module()
class PadMultiViewImage:
    """Pad all images at the right and bottom; adds ``pad_shape`` (V shapes), ``pad_fixed_size``, ``pad_size_divisor``.

    Args:
        size (tuple[int] | None): Padded size (height, width).
        size_divisor (int | None): Pad to the next multiples of this instead. Exactly one of the two is given.
        pad_val (float): Value of the padding.

    Raises:
        ValueError: if both or neither of ``size`` and ``size_divisor`` are given.
    """

    def __init__(self, size=None, size_divisor=None, pad_val=0):
        if (size is None) == (size_divisor is None):
            raise ValueError(f'exactly one of size and size_divisor must be given, got {size} and {size_divisor}')
        self.size = size
        self.size_divisor = size_divisor
        self.pad_val = pad_val

    def __call__(self, results):
        results['img_shape'] = [img.shape for img in results['img']]
        results['img'] = [self._pad(img) for img in results['img']]
        results['pad_shape'] = [img.shape for img in results['img']]
        results['pad_fixed_size'] = self.size
        results['pad_size_divisor'] = self.size_divisor
        return results

    def _pad(self, img):
        pad_val = (self.pad_val, ) * img.shape[-1]  # OpenCV pads only the first channel with a lone number
        if self.size is None:
            return mmcv.impad_to_multiple(img, self.size_divisor, pad_val=pad_val)
        return mmcv.impad(img, shape=self.size, pad_val=pad_val)

    def __repr__(self):
        return f'{type(self).__name__}(size={self.size}, size_divisor={self.size_divisor}, pad_val={self.pad_val})'


@PIPELINES.register_module()
class NormalizeMultiviewImage:
    """Subtract the mean and divide by the standard deviation of each channel; images become float32.

    Args:
        mean (Sequence[float]): Per channel, 0 to 255, in the order of the normalized image.
        std (Sequence[float]): Per channel.
        to_rgb (bool): Convert from BGR first.
    """

    def __init__(self, mean, std, to_rgb=True):
        self.mean = np.array(mean, dtype=np.float32)
        self.std = np.array(std, dtype=np.float32)
        self.to_rgb = to_rgb

    def __call__(self, results):
        results['img'] = [mmcv.imnormalize(img, self.mean, self.std, self.to_rgb) for img in results['img']]
        results['img_norm_cfg'] = dict(mean=self.mean, std=self.std, to_rgb=self.to_rgb)
        return results

    def __repr__(self):
        return f'{type(self).__name__}(mean={self.mean}, std={self.std}, to_rgb={self.to_rgb})'


class ImageAugmentation(NamedTuple):
    """One draw of resize, crop, flip and rotation, in that order, as an image operation and as a matrix.

    Attributes:
        size: (width, height) after resizing, pixels.
        crop: (left, top, right, bottom) in the resized image; what reaches beyond it is filled with zeros.
        flip: Mirror left and right.
        rotate: Degrees about the center, counterclockwise as seen.
    """
    size: Tuple[int, int]
    crop: Tuple[int, int, int, int]
    flip: bool
    rotate: float

    def apply(self, img):
        """Augment one image (H, W, C); the type stays."""
        left, top, right, bottom = self.crop
        img = mmcv.imresize(img, self.size)
        img = mmcv.imcrop(img, np.array([left, top, right - 1, bottom - 1]), pad_fill=0)  # (bottom-top, right-left, C)
        if self.flip:
            img = mmcv.imflip(img)
        if self.rotate:
            img = mmcv.imrotate(img, -self.rotate)  # mmcv counts clockwise
        return img

    def matrix(self, img_shape):
        """(3, 3) matrix from pixels (u, v, 1) of the given image to those of the augmented one.

        The scale is the one really applied, rounded size over original size, so that right and bottom edges are exact.
        """
        left, top, right, bottom = self.crop
        width, height = right - left, bottom - top
        scale = np.diag([self.size[0] / img_shape[1], self.size[1] / img_shape[0], 1.])
        matrix = _translation(-left, -top) @ scale
        if self.flip:
            matrix = _translation(width, 0) @ np.diag([-1., 1., 1.]) @ matrix
        cos, sin = np.cos(np.deg2rad(self.rotate)), np.sin(np.deg2rad(self.rotate))
        rotation = np.array([[cos, sin, 0.], [-sin, cos, 0.], [0., 0., 1.]])  # v points down
        return _translation(width / 2, height / 2) @ rotation @ _translation(-width / 2, -height / 2) @ matrix


def _translation(du, dv):
    return np.array([[1., 0., du], [0., 1., dv], [0., 0., 1.]])


@PIPELINES.register_module()
class ResizeCropFlipImage:
    """Resize, crop, flip and rotate the images; ``cam_intrinsic`` and ``lidar2img`` follow.

    ``lidar2img`` is computed anew as ``cam_intrinsic @ lidar2cam``.

    Args:
        data_aug_conf (dict): ``H``, ``W`` (size of the images that ``resize_lim`` is relative to), ``final_dim``
            (height, width of the result), ``resize_lim`` (least and largest scale), ``bot_pct_lim`` (least and
            largest share cut at the bottom), ``rot_lim`` (degrees), ``rand_flip`` (bool).
        training (bool): Draw at random. Otherwise scale to cover ``final_dim``, then cut left and right alike and, at
            the bottom, the mean share of ``bot_pct_lim``; no flip, no rotation.
        pic_wise (bool): Draw for every image instead of once per sample.

    Raises:
        ValueError: if ``data_aug_conf`` lacks a key or has unknown ones.
    """
    CONF_KEYS = frozenset(['H', 'W', 'final_dim', 'resize_lim', 'bot_pct_lim', 'rot_lim', 'rand_flip'])

    def __init__(self, data_aug_conf, training=True, pic_wise=False):
        if set(data_aug_conf) != self.CONF_KEYS:
            raise ValueError(f'data_aug_conf must have the keys {sorted(self.CONF_KEYS)}, got {sorted(data_aug_conf)}')
        self.data_aug_conf = data_aug_conf
        self.training = training
        self.pic_wise = pic_wise

    def __call__(self, results):
        augmentation = self.draw()
        images, intrinsics = [], []
        for view, (img, intrinsic) in enumerate(zip(results['img'], results['cam_intrinsic'])):
            if self.pic_wise and view:
                augmentation = self.draw()
            images.append(augmentation.apply(img))
            intrinsics.append(as_homogeneous(augmentation.matrix(img.shape)) @ intrinsic)
        results['img'] = images
        results['img_shape'] = [img.shape for img in images]
        results['cam_intrinsic'] = intrinsics
        results['lidar2img'] = [intrinsic @ lidar2cam for intrinsic, lidar2cam in zip(intrinsics, results['lidar2cam'])]
        return results

    def draw(self):
        """Draw an :class:`ImageAugmentation` (the same one every time if not ``training``)."""
        conf = self.data_aug_conf
        final_height, final_width = conf['final_dim']
        if self.training:
            scale = np.random.uniform(*conf['resize_lim'])
        else:
            scale = max(final_height / conf['H'], final_width / conf['W'])
        size = width, height = int(conf['W'] * scale), int(conf['H'] * scale)
        spare = max(0, width - final_width)
        if self.training:
            bottom_share = np.random.uniform(*conf['bot_pct_lim'])
            left = int(np.random.uniform(0, spare))
            flip = bool(conf['rand_flip'] and np.random.choice([0, 1]))
            rotate = np.random.uniform(*conf['rot_lim'])
        else:
            bottom_share, left, flip, rotate = np.mean(conf['bot_pct_lim']), spare // 2, False, 0.
        top = int((1 - bottom_share) * height) - final_height
        return ImageAugmentation(size, (left, top, left + final_width, top + final_height), flip, rotate)

    def __repr__(self):
        return (f'{type(self).__name__}(data_aug_conf={self.data_aug_conf}, training={self.training}, '
                f'pic_wise={self.pic_wise})')
