"""Info files of nuScenes (mmdetection3d 1.0), read with a check before anything long begins."""
import os
import os.path as osp
from pathlib import Path, PurePosixPath

import numpy as np
from mmdet3d.core.bbox import box_np_ops
from mmdet3d.utils import get_root_logger

from ..utils.restricted_pickle import load_pickle

_MAKE_AGAIN = 'make the info files again with tools/create_data.py'
_PER_BOX = ('gt_boxes', 'gt_names', 'gt_velocity', 'num_lidar_pts', 'num_radar_pts', 'valid_flag')
_LOOKED_AT = 8      # samples whose boxes are compared with their points
_LEAST_SHARE = 0.02  # of the points that boxes should hold: fewer at the wrong place say nothing
_DATA_FOLDERS = ('samples', 'sweeps')


def check_info_file(path, file_client_args=None):
    """Raise FileNotFoundError where an info file on disk is not there, and say what makes it."""
    if (file_client_args or {}).get('backend', 'disk') == 'disk' and not osp.isfile(path):
        where = '' if osp.isabs(path) else f' in the working directory {os.getcwd()}'
        raise FileNotFoundError(f'info file {path} is not there{where}: tools/create_data.py makes those of training '
                                'and validation, and of the test split from the tables of v1.0-test alone')


def load_infos(path, with_cameras, with_boxes, trust=False):
    """Read an info file in the format of mmdetection3d 1.0.

    Args:
        path (str): The file.
        with_cameras (bool): Records must have cameras.
        with_boxes (bool): Records must have boxes.
        trust (bool): See :func:`load_pickle`.

    Returns:
        tuple[list[dict], dict]: records, in the file's order, and metadata.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, lacks a key, or has a calibration that is not finite.
    """
    content = load_pickle(path, 'info file', trust)
    if isinstance(content, dict) and 'data_list' in content:
        raise ValueError(f'info file {path} is in the format of mmdetection3d 1.1 (data_list), this dataset reads 1.0 '
                         f'(infos, metadata): {_MAKE_AGAIN}; FrameFolderDataset reads 1.1')
    if not isinstance(content, dict) or not isinstance(content.get('infos'), list) or 'version' not in (
            content.get('metadata') or {}):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f'info file {path} is not in the format of mmdetection3d 1.0, a dict with a list infos and '
                         f'metadata.version; found {found[:10]}')
    required = ['token', 'timestamp', 'lidar_path', 'sweeps', *['cams'] * with_cameras]
    required += ['gt_boxes', 'gt_names', 'num_lidar_pts'] * with_boxes
    for number, info in enumerate(content['infos']):
        missing = [key for key in required if not isinstance(info, dict) or key not in info]
        if missing:
            raise ValueError(f'info file {path}: record {number} lacks {missing}; {_MAKE_AGAIN}')
    _check_calibration(path, content['infos'], with_cameras)
    return content['infos'], content['metadata']


def _check_calibration(path, infos, with_cameras):
    """Raise for matrices that are not finite, naming the sample."""
    keys = ('sensor2lidar_rotation', 'sensor2lidar_translation')
    for info in infos:
        sensors = [(f'sweep {number}', sweep, keys) for number, sweep in enumerate(info['sweeps'])]
        if with_cameras:
            sensors += [(name, camera, (*keys, 'cam_intrinsic')) for name, camera in info['cams'].items()]
        if not sensors:
            continue
        try:
            values = np.concatenate([np.ravel(sensor[key]) for _, sensor, own in sensors for key in own])
        except KeyError as error:
            raise ValueError(f'info file {path}: sample {info["token"]!r} has a sensor without {error}') from error
        if not np.isfinite(values).all():
            name, key = next((name, key) for name, sensor, own in sensors for key in own
                             if not np.isfinite(sensor[key]).all())
            raise ValueError(f'info file {path}: {key} of {name} of sample {info["token"]!r} is not finite')


def check_camera_counts(path, counts):
    """Raise where samples have different numbers of cameras: they cannot stand in one batch.

    Args:
        path (str): The info file.
        counts (dict[str, int]): Number of cameras by sample.
    """
    odd = [token for token, count in counts.items() if count != next(iter(counts.values()))]
    if odd:
        first = next(iter(counts))
        raise ValueError(f'info file {path}: training needs samples with equal numbers of cameras, to put them in one '
                         f'batch; sample {first!r} has {counts[first]}, {odd[0]!r} has {counts[odd[0]]}')


def drop_bad_boxes(path, infos):
    """Leave out boxes with values that are not finite or sizes that are not above 0; one warning says how many.

    A velocity that is not finite is unknown (NaN), which is nothing bad.

    Args:
        path (str): The info file.
        infos (list[dict]): Its records, which are replaced where they change.

    Returns:
        list[dict]: the records.
    """
    dropped, first, kept_infos = 0, None, []
    for info in infos:
        boxes = np.asarray(info.get('gt_boxes', ()), dtype=float)
        boxes = boxes[:, :7] if len(boxes) else np.zeros((0, 7))
        good = np.isfinite(boxes).all(axis=1) & (boxes[:, 3:6] > 0).all(axis=1)
        if not good.all():
            first = first or info['token']
            dropped += len(good) - int(good.sum())
            info = {**info, **{key: np.asarray(info[key])[good] for key in _PER_BOX if key in info}}
        if 'gt_velocity' in info and not np.isfinite(info['gt_velocity']).all():
            velocity = np.array(info['gt_velocity'], dtype=float)
            velocity[~np.isfinite(velocity).all(axis=1)] = np.nan
            info = {**info, 'gt_velocity': velocity}
        kept_infos.append(info)
    if dropped:
        get_root_logger().warning(f'info file {path}: {dropped} boxes have values that are not finite or sizes that '
                                  f'are not above 0 and are left out, the first in sample {first!r}')
    return kept_infos


def check_boxes_hold_points(path, infos, load_dim=5):
    """Raise for boxes of mmdetection3d < 1.0, which had length and width the other way round and yaw turned.

    Of a few samples the points in each box are counted: if their numbers are much nearer to the file's
    ``num_lidar_pts`` with boxes taken for older ones, they are older ones. (Read as they are, such boxes are mirrored,
    which those parallel to an axis do not show.) Samples without a point file on this machine's disk say nothing.

    Args:
        path (str): The info file.
        infos (list[dict]): Its records.
        load_dim (int): Values of a point.
    """
    annotated = [info for info in infos if len(info['gt_boxes']) and osp.isfile(info['lidar_path'])]
    total, wrong = 0, np.zeros(3)
    for info in annotated[::max(1, len(annotated) // _LOOKED_AT)][:_LOOKED_AT]:
        values = np.fromfile(info['lidar_path'], dtype=np.float32)
        points = values[:len(values) // load_dim * load_dim].reshape(-1, load_dim)
        points = points[np.isfinite(points).all(axis=1)]
        boxes = np.asarray(info['gt_boxes'], dtype=np.float32)
        swapped = boxes[:, [0, 1, 2, 4, 3, 5, 6]]
        turned = swapped * np.float32([1, 1, 1, 1, 1, 1, -1]) - np.float32([0, 0, 0, 0, 0, 0, np.pi / 2])
        total += np.sum(info['num_lidar_pts'])
        wrong += [np.abs(box_np_ops.points_in_rbbox(points, guess, origin=(0.5, 0.5, 0.5)).sum(axis=0)
                         - info['num_lidar_pts']).sum() for guess in (boxes, swapped, turned)]
    if wrong[0] > _LEAST_SHARE * total and wrong[0] > 2 * wrong[1:].min():
        raise ValueError(
            f'info file {path}: boxes of a few samples should hold {total} LiDAR points (num_lidar_pts), but '
            f'{wrong[0]:.0f} are in the wrong place, and {wrong[1:].min():.0f} when they are taken for boxes of '
            'mmdetection3d < 1.0 (length and width the other way round, yaw turned), which they are then; '
            + _MAKE_AGAIN)


def rebased(infos, data_root):
    """Records whose files are looked for below ``data_root`` where they do not lie where the records say.

    Info files keep paths as their maker's working folder had them. What begins with 'samples' or 'sweeps' is the same
    in all copies of nuScenes. The first record decides for all.

    Args:
        infos (list[dict]): Records.
        data_root (str | None): Folder of the set.

    Returns:
        list[dict]: the records, new ones where paths changed; the log says so.
    """
    if not infos or not data_root or osp.exists(infos[0]['lidar_path']):
        return infos

    def moved(path):
        parts = PurePosixPath(path).parts
        starts = [number for number, part in enumerate(parts) if part in _DATA_FOLDERS]
        return str(Path(data_root, *parts[starts[-1]:])) if starts else path

    if not osp.exists(moved(infos[0]['lidar_path'])):
        return infos  # neither is there: the loader names the file as the record has it
    get_root_logger().info(f'{infos[0]["lidar_path"]} is not there: files of the info file are taken from {data_root}')
    return [{
        **info, 'lidar_path': moved(info['lidar_path']),
        'sweeps': [{**sweep, 'data_path': moved(sweep['data_path'])} for sweep in info['sweeps']],
        **({'cams': {name: {**camera, 'data_path': moved(camera['data_path'])}
                     for name, camera in info['cams'].items()}} if 'cams' in info else {})
    } for info in infos]
