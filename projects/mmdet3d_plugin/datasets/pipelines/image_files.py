"""Camera images, read with a check."""
import mmcv
import numpy as np
from mmdet3d.datasets import pipelines
from mmdet3d.datasets.builder import PIPELINES
from mmdet3d.utils import get_root_logger

_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
_HOLE = bytes(1024)  # OpenCV fills what a hole in a JPEG leaves with gray; large areas of one color may look alike
_announced = set()


def read_image(path, color_type='unchanged'):
    """Read an image (H, W, 3), BGR.

    Args:
        path (str): The file.
        color_type (str): mmcv's; 'color' also turns gray images and those with transparency into BGR.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole image, or has other than three channels of 8 bits.
    """
    data = mmcv.FileClient(backend='disk').get(path)
    # OpenCV fills what a JPEG that was cut lacks with gray and goes on.
    if data.startswith(_JPEG_START) and data.find(_JPEG_END, len(data) // 2) < 0:
        raise ValueError(f'image {path} ({len(data)} bytes) was cut short: the end of the JPEG is missing')
    try:
        image = mmcv.imfrombytes(data, color_type)
    except Exception as error:  # decoders raise their own
        raise ValueError(f'{path} ({len(data)} bytes) is no image: {error}') from error
    if image is None:
        raise ValueError(f'{path} ({len(data)} bytes) is no image that OpenCV can read')
    if image.dtype != np.uint8:
        raise ValueError(f'image {path} must have 8 bits a channel, got {image.dtype}; LoadMultiViewImageFromFiles '
                         "with color_type='color' converts those with 16")
    if data.startswith(_JPEG_START) and _HOLE in data[data.rfind(_JPEG_SCAN):]:
        _announce(path, f'has {len(_HOLE)} zero bytes or more in a row, as a file has that was not copied whole')
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'image {path} must have three channels, got shape {image.shape}; LoadMultiViewImageFromFiles '
                         "with color_type='color' turns gray images and those with transparency into colors")
    return image


def _announce(path, message):
    if path not in _announced:
        _announced.add(path)
        get_root_logger().warning(f'image {path} {message}')


@PIPELINES.register_module(force=True)
class LoadMultiViewImageFromFiles(pipelines.LoadMultiViewImageFromFiles):
    """mmdet3d's loader with :func:`read_image`; it takes its place, so that published configs have it, too.

    Images of different sizes are welcome: `ResizeCropFlipImage` brings each to one size, with its own matrix. Then
    ``img_shape``, ``ori_shape`` and ``pad_shape`` are lists of shapes; of equal images they are mmdet3d's (H, W, 3, V).

    Raises:
        ValueError: reading: see :func:`read_image`.
    """

    def __call__(self, results):
        images = [read_image(path, self.color_type) for path in results['img_filename']]
        if self.to_float32:
            images = [image.astype(np.float32) for image in images]
        shapes = [image.shape for image in images]
        shape = (*shapes[0], len(images)) if len(set(shapes)) == 1 else shapes
        results.update(
            filename=results['img_filename'], img=images, img_shape=shape, ori_shape=shape, pad_shape=shape,
            scale_factor=1.0,
            img_norm_cfg=dict(mean=np.zeros(3, np.float32), std=np.ones(3, np.float32), to_rgb=False))
        return results
