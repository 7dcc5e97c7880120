"""Point files, read with a check: a file of another layout is an error, broken points are dropped and counted.

Both loaders take the place of mmdet3d's of the same name, so that published configs have them, too.
"""
import os.path as osp

import mmcv
import numpy as np
from mmdet3d.datasets import pipelines
from mmdet3d.datasets.builder import PIPELINES
from mmdet3d.utils import get_root_logger

MAX_COORDINATE = 1000.0  # m: no LiDAR sees that far, but values of another layout read as coordinates do
MAX_RING = 255           # nuScenes' LiDAR has 32 rings, others up to 128
_CHECKED_SHARE = 0.01    # of the points may be implausible before the layout counts as another one
_SMALL_SHARE = 0.5       # of the points of the largest cloud: a cloud with fewer may have been cut at a point's end
_announced = set()
_largest = {}            # cloud with rings that this process has read, by folder: its file and number of points


def checked_points(data, path, values, ring_dim):
    """Read points from the bytes of a file.

    Args:
        data (bytes): The file's contents, float32.
        path (str): Its name, for the messages.
        values (int): Values of a point, x, y and z first.
        ring_dim (int | None): Which of them is the ring, an integer from 0 to `MAX_RING`; None: none is.

    Returns:
        np.ndarray: (N, values) float32, a copy. Points with a value that is not finite are left out; the log has one
        warning with their number for each file and process. For clouds with rings (not for objects, which have none)
        it also has one for a file without points, with few ones, or with points or intensities that say nothing.

    Raises:
        ValueError: the length is no multiple of a point's, or over 1 % of the points lie further away than
            `MAX_COORDINATE` or have no ring: the file has another layout.
    """
    given = f'{path} ({len(data)} bytes) was read as points of {values} float32 values'
    if len(data) % (4 * values):
        raise ValueError(f'{given}, {4 * values} bytes each, of which that is no multiple: the file was cut short or '
                         'its points have another number of values (load_dim) or type')
    points = np.frombuffer(data, dtype=np.float32).reshape(-1, values)
    finite = np.isfinite(points).all(axis=1)
    if len(points) and not finite.any():
        raise ValueError(f'{given}: no point is finite')
    kept = points[finite]
    far = (np.abs(kept[:, :3]) > MAX_COORDINATE).any(axis=1)
    if far.sum() > _CHECKED_SHARE * len(kept):
        raise ValueError(f'{given}: {far.sum()} of {len(kept)} points have |x|, |y| or |z| > {MAX_COORDINATE:g} m. Its '
                         'points have another number of values (load_dim), type or unit')
    if ring_dim is not None:
        ring = kept[:, ring_dim]
        strange = (ring != np.round(ring)) | (ring < 0) | (ring > MAX_RING)
        if strange.sum() > _CHECKED_SHARE * len(kept):
            raise ValueError(f'{given}: {strange.sum()} of {len(kept)} have no ring index, an integer in '
                             f'0..{MAX_RING}, at place {ring_dim}. Its points have another number of values '
                             '(load_dim) or type; if this value is something else, say so with ring_dim=None')
        _announce_poor_cloud(path, kept)
    if len(kept) < len(points):
        _announce(path, f'{len(points) - len(kept)} of {len(points)} points have values that are not finite and are '
                  'left out')
    return kept.copy()


def _announce_poor_cloud(path, points):
    """Warn of a cloud that no LiDAR records, or one on another scale: (N, >= 4) of a whole revolution."""
    if not len(points):
        _announce(path, 'has no point')
        return
    folder = osp.dirname(path)
    largest, most = _largest.get(folder, (path, 0))
    if len(points) < _SMALL_SHARE * most:
        _announce(path, f'has {len(points)} points, and {largest} {most}: was it cut short?')
    elif len(points) > most:
        _largest[folder] = path, len(points)
    if not (np.abs(points[:, :3]) > 1).any():
        _announce(path, f'all of its {len(points)} points are within 1 m of the sensor')
    elif not (points[:, 3] > 1).any():  # all files of a folder are alike
        _announce(folder, f'no intensity of {osp.basename(path)} is above 1: nuScenes has 0 to 255, and a model that '
                  'was trained with one of them finds less with the other')


def _announce(path, message):
    if (path, message) not in _announced:
        _announced.add((path, message))
        get_root_logger().warning(f'{path}: {message}')


def _ring_dim(ring_dim, load_dim):
    """'auto' is nuScenes' layout where points have its five values."""
    if ring_dim == 'auto':
        return 4 if load_dim == 5 else None
    if ring_dim is not None and not 3 <= ring_dim < load_dim:
        raise ValueError(f"ring_dim must be 'auto', None or in 3..{load_dim - 1} with load_dim={load_dim}, got "
                         f'{ring_dim!r}')
    return ring_dim


def _bytes(loader, path):
    if loader.file_client is None:
        loader.file_client = mmcv.FileClient(**loader.file_client_args)
    return loader.file_client.get(path)


@PIPELINES.register_module(force=True)
class LoadPointsFromFile(pipelines.LoadPointsFromFile):
    """mmdet3d's loader with :func:`checked_points`.

    Args:
        ring_dim (int | str | None): Which value is the ring; 'auto': the last of five, as in nuScenes' files. None
            leaves the check out.
        *args, **kwargs: See the parent.

    Raises:
        ValueError: if there is no such value. Reading: if the file has another layout.
    """

    def __init__(self, *args, ring_dim='auto', **kwargs):
        super().__init__(*args, **kwargs)
        self.ring_dim = _ring_dim(ring_dim, self.load_dim)

    def _load_points(self, pts_filename):
        return checked_points(_bytes(self, pts_filename), pts_filename, self.load_dim, self.ring_dim)


@PIPELINES.register_module(force=True)
class LoadPointsFromMultiSweeps(pipelines.LoadPointsFromMultiSweeps):
    """mmdet3d's loader with :func:`checked_points`.

    With ``test_mode=True`` it takes the newest sweeps, otherwise it draws. `CustomNuScenesDataset` sets that in tests.

    Args:
        ring_dim (int | str | None): See :class:`LoadPointsFromFile`.
        *args, **kwargs: See the parent.
    """

    def __init__(self, *args, ring_dim='auto', **kwargs):
        super().__init__(*args, **kwargs)
        self.ring_dim = _ring_dim(ring_dim, self.load_dim)
        self._file_dim = self.load_dim

    def _load_points(self, pts_filename):
        return checked_points(_bytes(self, pts_filename), pts_filename, self._file_dim, self.ring_dim)
