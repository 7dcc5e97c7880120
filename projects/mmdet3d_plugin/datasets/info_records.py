"""Info files of nuScenes (mmdetection3d 1.0), read with a check before anything long begins."""
import os
import os.path as osp
from pathlib import Path, PurePosixPath

import numpy as np
from mmdet3d.core.bbox import box_np_ops
from mmdet3d.utils import get_root_logger

from ..utils.restricted_pickle import load_pickle
from .camera_geometry import ROTATION_ERROR, calibration_problem

_MAKE_AGAIN = 'make the info files again with tools/create_data.py'
_PER_BOX = ('gt_boxes', 'gt_names', 'gt_velocity', 'num_lidar_pts', 'num_radar_pts', 'valid_flag')
_LOOKED_AT = 8      # samples whose boxes are compared with their points
_LEAST_SHARE = 0.02  # of the points that boxes should hold: fewer at the wrong place say nothing
_MANY_POINTS = 10    # of a box: where it has so many, a cloud of fewer beams still has some of them
_LONGEST_SWEEP = 60e6   # microseconds from a sweep to its sample
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
        ValueError: if it is damaged, of another format, lacks a key, has annotations of different numbers in a record,
            or a calibration, a pose or a time that cannot be.
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
        counts = {key: len(info[key]) for key in _PER_BOX if with_boxes and key in info}
        if len(set(counts.values())) > 1:
            raise ValueError(f'info file {path}: sample {info["token"]!r} has annotations of different numbers: '
                             f'{counts}')
        _check_poses_and_times(path, info)
    _check_calibration(path, content['infos'], with_cameras)
    return content['infos'], content['metadata']


def _check_poses_and_times(path, info):
    """Raise for poses that are none and for times that are not in one unit; keys that a record lacks pass."""
    where = f'info file {path}: sample {info["token"]!r}'
    for key in ('lidar2ego', 'ego2global'):
        rotation, translation = (np.asarray(info.get(f'{key}_{part}', default), dtype=float)
                                 for part, default in (('rotation', (1, 0, 0, 0)), ('translation', (0, 0, 0))))
        if rotation.shape != (4, ) or not abs(np.linalg.norm(rotation) - 1) < ROTATION_ERROR:
            raise ValueError(f'{where}: {key}_rotation must be a unit quaternion w, x, y, z, got {rotation.tolist()}')
        if translation.shape != (3, ) or not np.isfinite(translation).all():
            raise ValueError(f'{where}: {key}_translation must be x, y, z, got {translation.tolist()}')
    times = np.array([info['timestamp'], *(sweep.get('timestamp', info['timestamp']) for sweep in info['sweeps'])],
                     dtype=float)
    apart = np.abs(times - times[0])
    if not (apart <= _LONGEST_SWEEP).all():
        number = int(np.argmin(apart <= _LONGEST_SWEEP))
        raise ValueError(f'{where}: timestamp {times[0]} and {times[number]} of sweep {number - 1} must be numbers, in '
                         f'microseconds, at most {_LONGEST_SWEEP / 1e6:g} s apart')


def _check_calibration(path, infos, with_cameras):
    """Raise for matrices that are not finite or no calibration, naming the sample."""
    for info in infos:
        sensors = [(f'sweep {number}', sweep) for number, sweep in enumerate(info['sweeps'])]
        cameras = list(info['cams'].items()) if with_cameras else []
        every = sensors + cameras
        for key, named in (('sensor2lidar_rotation', every), ('sensor2lidar_translation', every),
                           ('cam_intrinsic', cameras)):
            lacking = [name for name, sensor in named if key not in sensor]
            if lacking:
                raise ValueError(f'info file {path}: sample {info["token"]!r} has a sensor without {key!r}: '
                                 f'{lacking[0]}')
            kind = key.rpartition('_')[2]
            if named and calibration_problem(kind, [sensor[key] for _, sensor in named]):
                for name, sensor in named:  # together they may only have different shapes
                    problem = calibration_problem(kind, [sensor[key]])
                    if problem:
                        raise ValueError(f'info file {path}: {key} of {name} of sample {info["token"]!r} {problem}')


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
    """Raise for boxes of another convention, such as those of mmdetection3d < 1.0, or of another frame.

    Of a few samples the points in each box are counted: if their numbers are much nearer to the file's
    ``num_lidar_pts`` with boxes taken for those of another convention, they are such ones. (Read as they are, boxes of
    mmdetection3d < 1.0 are mirrored, which those parallel to an axis do not show.) If most boxes hold none of their
    points, it is another frame or unit. Samples without a point file on this machine's disk say nothing.

    Args:
        path (str): The info file.
        infos (list[dict]): Its records.
        load_dim (int): Values of a point.
    """
    annotated = [info for info in infos if len(info['gt_boxes']) and osp.isfile(info['lidar_path'])]
    total, wrong, empty = 0, {}, []
    for info in annotated[::max(1, len(annotated) // _LOOKED_AT)][:_LOOKED_AT]:
        values = np.fromfile(info['lidar_path'], dtype=np.float32)
        points = values[:len(values) // load_dim * load_dim].reshape(-1, load_dim)
        points = points[np.isfinite(points).all(axis=1)]
        expected = np.asarray(info['num_lidar_pts'])
        total += expected.sum()
        for meaning, boxes in _meanings(np.asarray(info['gt_boxes'], dtype=np.float32)):
            held = box_np_ops.points_in_rbbox(points, boxes, origin=(0.5, 0.5, 0.5)).sum(axis=0)
            wrong[meaning] = wrong.get(meaning, 0) + np.abs(held - expected).sum()
            if not meaning:
                empty += list(held[expected >= _MANY_POINTS] == 0)
    if not total:
        return
    given, best = wrong[''], min(wrong, key=wrong.get)
    expectation = f'info file {path}: boxes of a few samples should hold {total} LiDAR points (num_lidar_pts), but '
    if given > _LEAST_SHARE * total and given > 2 * wrong[best]:
        raise ValueError(f'{expectation}{given:.0f} are in the wrong place, and {wrong[best]:.0f} when they are taken '
                         f'for {best}, which they are then; {_MAKE_AGAIN}')
    if np.mean(empty or [0]) > 0.5:
        raise ValueError(f'{expectation}{sum(empty)} of {len(empty)} boxes hold none. They must be in the LiDAR frame: '
                         'x, y, z of the center, length, width, height in m, yaw in rad, and the point files those of '
                         f'their samples; {_MAKE_AGAIN}')


def _meanings(boxes):
    """Pairs (what boxes (N, >= 7) may be, '' for what they should be; boxes as they should be then)."""
    older = 'boxes of mmdetection3d < 1.0 (length and width the other way round, yaw turned)'
    yield '', boxes[:, :7]
    swapped = boxes[:, [0, 1, 2, 4, 3, 5, 6]]
    yield f'{older}, or a part of that', swapped
    yield older, swapped * np.float32([1, 1, 1, 1, 1, 1, -1]) - np.float32([0, 0, 0, 0, 0, 0, np.pi / 2])
    yield 'boxes with z of the bottom, not of the center', boxes[:, :7] + np.pad(boxes[:, 5:6] / 2, ((0, 0), (2, 4)))
    yield 'boxes with x and y the other way round', boxes[:, [1, 0, 2, 3, 4, 5, 6]]
    yield 'boxes with yaw in degrees', np.c_[boxes[:, :6], np.deg2rad(boxes[:, 6])]


def rebased(path, infos, data_root):
    """Records whose files are looked for below ``data_root`` where they do not lie where the records say.

    Info files keep paths as their maker's working folder had them. What begins with 'samples' or 'sweeps' is the same
    in all copies of nuScenes. The first record decides for all.

    Args:
        path (str): The info file.
        infos (list[dict]): Its records.
        data_root (str | None): Folder of the set.

    Returns:
        list[dict]: the records, new ones where paths changed; the log says so.

    Raises:
        ValueError: files lie where the record says, and others in their place below ``data_root``.
    """
    if not infos or not data_root:
        return infos

    def moved(path):
        parts = PurePosixPath(path).parts
        starts = [number for number, part in enumerate(parts) if part in _DATA_FOLDERS]
        return str(Path(data_root, *parts[starts[-1]:])) if starts else path

    if osp.exists(infos[0]['lidar_path']):
        cameras = infos[0].get('cams', {}).values()
        for own in (infos[0]['lidar_path'], *(camera['data_path'] for camera in cameras)):
            other = moved(own)
            if osp.exists(own) and osp.exists(other) and not osp.samefile(own, other):
                raise ValueError(f'info file {path} names {own}, but data_root={data_root!r} has another such file, '
                                 f'{other}: give the data_root that belongs to the info file, or the info file that '
                                 'tools/create_data.py --root-path made for data_root')
        return infos
    if not osp.exists(moved(infos[0]['lidar_path'])):
        return infos  # neither is there: the loader names the file as the record has it
    get_root_logger().info(f'{infos[0]["lidar_path"]} is not there: files of the info file are taken from {data_root}')
    return [{
        **info, 'lidar_path': moved(info['lidar_path']),
        'sweeps': [{**sweep, 'data_path': moved(sweep['data_path'])} for sweep in info['sweeps']],
        **({'cams': {name: {**camera, 'data_path': moved(camera['data_path'])}
                     for name, camera in info['cams'].items()}} if 'cams' in info else {})
    } for info in infos]
