"""Info files in the format of mmdetection3d 1.0 from the tables of a nuScenes set.

mmdetection3d's own converter is a script in a hidden folder of its package, not a function to call: it writes beside
the data and not atomically, counts scenes of no split as validation, and moves every box into all six cameras to get at
a file name. The tests compare with it: the records are equal.
"""
import json
from contextlib import ExitStack
from pathlib import Path

import mmcv
import numpy as np
from mmdet3d.datasets import NuScenesDataset
from nuscenes import NuScenes
from nuscenes.utils import splits
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion
from tqdm import tqdm

from ..utils.atomic_file import atomic_path

CAMERAS = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT')
# Version: its splits and the names of their scenes. The tables of the test split have no annotations.
SPLITS = {
    'v1.0-mini': dict(train=splits.mini_train, val=splits.mini_val),
    'v1.0-trainval': dict(train=splits.train, val=splits.val),
    'v1.0-test': dict(test=splits.test),
}


def create_nuscenes_infos(root_path, version, out_dir, prefix='nuscenes', max_sweeps=10, splits_file=None,
                          skip_missing=False):
    """Write ``<prefix>_infos_<split>.pkl`` for every split of a version, all of them or none.

    A file holds ``dict(infos=[...], metadata=dict(version=version))``; :func:`sample_info` describes a record. A split
    of which the set has no scene gets an empty list.

    Args:
        root_path (str | Path): Folder of the set, with ``<version>/*.json`` and ``samples/``. Paths in the records
            begin with it as it is given here; where they are not valid, `CustomNuScenesDataset` looks below its
            ``data_root``.
        version (str): One of :data:`SPLITS`.
        out_dir (str | Path): Folder for the files.
        prefix (str): First part of their names.
        max_sweeps (int): Number of LiDAR sweeps before the keyframe in each record, >= 0.
        splits_file (str | Path | None): JSON file ``{split: [name of scene, ...]}`` for scenes with own names; default:
            the official splits of the version. Scenes that it does not name are left out, and counted.
        skip_missing (bool): Leave out samples of which a file of the LiDAR or a camera is missing, and missing sweeps,
            as with a part of the downloads; the numbers are printed.

    Returns:
        dict[str, Path]: split: file.

    Raises:
        ValueError: if the version is unknown, ``max_sweeps`` negative, a scene is in no split of the version, the file
            of splits is of another form or names scenes that the set lacks, or no sample has all its files.
        FileNotFoundError: if there are no such tables, or files that they name are missing.
    """
    if version not in SPLITS:
        raise ValueError(f'version must be one of {list(SPLITS)}, got {version!r}')
    if max_sweeps < 0:
        raise ValueError(f'max_sweeps must be >= 0, got {max_sweeps}')
    if not (Path(root_path) / version).is_dir():
        raise FileNotFoundError(f'root_path {str(root_path)!r} has no folder {version} with tables')
    splits = SPLITS[version] if splits_file is None else _read_splits(splits_file)
    nusc = NuScenes(version, str(root_path))
    split_of_scene = _splits_by_scene_token(nusc, splits, official=splits_file is None)
    samples = [sample for sample in nusc.sample if sample['scene_token'] in split_of_scene]
    infos = {split: [] for split in splits}
    for sample in tqdm(samples, desc='samples', unit=''):
        info = sample_info(nusc, sample, max_sweeps, with_annotations=version != 'v1.0-test')
        infos[split_of_scene[sample['scene_token']]].append(info)
    if skip_missing:
        infos = _without_missing(infos)
    _check_files(info for records in infos.values() for info in records)

    paths = {split: Path(out_dir) / f'{prefix}_infos_{split}.pkl' for split in infos}
    with ExitStack() as complete:
        for split, path in paths.items():
            content = dict(infos=infos[split], metadata=dict(version=version))
            mmcv.dump(content, str(complete.enter_context(atomic_path(path))))
    for split, path in paths.items():
        print(f'{path}: {len(infos[split])} samples')
    return paths


def sample_info(nusc, sample, max_sweeps, with_annotations=True):
    """Describe one sample as mmdetection3d 1.0 does.

    Args:
        nusc (NuScenes): The tables.
        sample (dict): Row of the table ``sample``.
        max_sweeps (int): Number of sweeps, newest first; fewer where the scene begins.
        with_annotations (bool): Whether to add the boxes.

    Returns:
        dict: ``token``, ``timestamp`` (us), ``lidar_path``, ``lidar2ego_translation`` (3,) (m), ``lidar2ego_rotation``
        (4,) (quaternion w, x, y, z), ``ego2global_translation``, ``ego2global_rotation`` (of the LiDAR's moment),
        ``sweeps`` (list) and ``cams`` (by name), whose records have ``data_path``, ``type``, ``sample_data_token``,
        ``timestamp``, ``sensor2ego_*``, ``ego2global_*`` (of their own moment), ``sensor2lidar_rotation`` (3, 3) and
        ``sensor2lidar_translation`` (3,): coordinates in the keyframe's LiDAR frame are ``rotation @ p +
        translation``; cameras have ``cam_intrinsic`` (3, 3), too. With annotations, for G boxes: ``gt_boxes`` (G, 7)
        (LiDAR frame: gravity center, l, w, h in m, yaw in radians), ``gt_names`` (G,) (detection class, or the
        category where it belongs to none), ``gt_velocity`` (G, 2) (m/s, LiDAR frame, NaN where unknown),
        ``num_lidar_pts``, ``num_radar_pts`` (G,), ``valid_flag`` (G,) (any LiDAR or radar point).
    """
    lidar = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
    calibration, pose = _calibration_and_pose(nusc, lidar)
    lidar2global = _sensor2global(nusc, lidar)
    info = dict(
        lidar_path=nusc.get_sample_data_path(lidar['token']),
        token=sample['token'],
        sweeps=[],
        cams={name: _sensor_info(nusc, sample['data'][name], name, lidar2global)
              for name in _cameras(nusc, sample)},
        lidar2ego_translation=calibration['translation'],
        lidar2ego_rotation=calibration['rotation'],
        ego2global_translation=pose['translation'],
        ego2global_rotation=pose['rotation'],
        timestamp=sample['timestamp'])
    previous = lidar['prev']
    while previous and len(info['sweeps']) < max_sweeps:
        info['sweeps'].append(_sensor_info(nusc, previous, 'lidar', lidar2global))
        previous = nusc.get('sample_data', previous)['prev']
    if with_annotations:
        info.update(_annotations(nusc, sample, lidar2global))
    return info


def _calibration_and_pose(nusc, sample_data):
    return (nusc.get('calibrated_sensor', sample_data['calibrated_sensor_token']),
            nusc.get('ego_pose', sample_data['ego_pose_token']))


def _sensor2global(nusc, sample_data):
    """(4, 4) from the sensor's coordinates to global ones, at the moment of the measurement."""
    sensor2ego, ego2global = (
        transform_matrix(row['translation'], Quaternion(row['rotation']))
        for row in _calibration_and_pose(nusc, sample_data))
    return ego2global @ sensor2ego


def _sensor_info(nusc, token, kind, lidar2global):
    sample_data = nusc.get('sample_data', token)
    calibration, pose = _calibration_and_pose(nusc, sample_data)
    sensor2lidar = np.linalg.inv(lidar2global) @ _sensor2global(nusc, sample_data)
    info = dict(
        data_path=nusc.get_sample_data_path(token),
        type=kind,
        sample_data_token=token,
        sensor2ego_translation=calibration['translation'],
        sensor2ego_rotation=calibration['rotation'],
        ego2global_translation=pose['translation'],
        ego2global_rotation=pose['rotation'],
        timestamp=sample_data['timestamp'],
        sensor2lidar_rotation=sensor2lidar[:3, :3],
        sensor2lidar_translation=sensor2lidar[:3, 3])
    if calibration['camera_intrinsic']:
        info['cam_intrinsic'] = np.array(calibration['camera_intrinsic'])
    return info


def _annotations(nusc, sample, lidar2global):
    _, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])  # in the LiDAR frame, in the order of the tokens
    rows = [nusc.get('sample_annotation', token) for token in sample['anns']]
    velocity = np.array([nusc.box_velocity(token) for token in sample['anns']]).reshape(-1, 3)
    velocity[:, 2] = 0  # upstream's definition: the global velocity in the ground plane, seen from the LiDAR
    num_lidar_pts = np.array([row['num_lidar_pts'] for row in rows], dtype=int)
    num_radar_pts = np.array([row['num_radar_pts'] for row in rows], dtype=int)
    return dict(
        gt_boxes=np.array([[*box.center, *box.wlh[[1, 0, 2]], box.orientation.yaw_pitch_roll[0]]
                           for box in boxes]).reshape(-1, 7),
        gt_names=np.array([NuScenesDataset.NameMapping.get(box.name, box.name) for box in boxes], dtype=str),
        gt_velocity=(velocity @ lidar2global[:3, :3])[:, :2],  # rows times R are the rows turned by R's inverse
        num_lidar_pts=num_lidar_pts,
        num_radar_pts=num_radar_pts,
        valid_flag=num_lidar_pts + num_radar_pts > 0)


def _cameras(nusc, sample):
    """Names of a sample's cameras: nuScenes' in its order, as far as they are there, then any others."""
    own = [name for name, token in sample['data'].items()
           if nusc.get('sample_data', token)['sensor_modality'] == 'camera']
    return [name for name in CAMERAS if name in own] + sorted(set(own) - set(CAMERAS))


def _read_splits(path):
    """The splits of a file: {split: [name of scene, ...]}, each scene once."""
    try:
        splits = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f'splits_file {path} is no JSON: {error}') from error
    if not isinstance(splits, dict) or not splits or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in splits.values()):
        raise ValueError(f'splits_file {path} must hold {{"train": [name of scene, ...], "val": [...]}}')
    odd = [split for split in splits if not split.isidentifier()]
    if odd:
        raise ValueError(f'splits_file {path}: splits become file names, letters, digits and _ are allowed, got {odd}')
    names = [name for members in splits.values() for name in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'splits_file {path} has scenes more than once: {twice[:5]}')
    return splits


def _splits_by_scene_token(nusc, splits, official):
    """Split of each scene that is in one; only own splits may leave scenes out."""
    split_of_name = {name: split for split, names in splits.items() for name in names}
    here = {scene['name'] for scene in nusc.scene}
    unknown = sorted(here - set(split_of_name))
    if unknown and official:
        raise ValueError(f'scenes {unknown} are in no split of {nusc.version} ({list(splits)}); give the splits of own '
                         'scenes in a file (splits_file, --splits)')
    absent = sorted(set(split_of_name) - here)
    if absent and not official:
        raise ValueError(f'the file of splits names scenes that {nusc.version} of {nusc.dataroot} lacks: {absent[:5]}')
    if unknown:
        print(f'{len(unknown)} of {len(here)} scenes are in no split of the file and are left out')
    return {scene['token']: split_of_name[scene['name']] for scene in nusc.scene if scene['name'] in split_of_name}


def _without_missing(infos):
    """Records by split without samples and sweeps of which files are missing; prints how many that were."""
    samples, sweeps, kept = 0, 0, {}
    for split, records in infos.items():
        kept[split] = []
        for info in records:
            sensors = [info['lidar_path'], *(camera['data_path'] for camera in info['cams'].values())]
            if not all(Path(path).is_file() for path in sensors):
                samples += 1
                continue
            here = [sweep for sweep in info['sweeps'] if Path(sweep['data_path']).is_file()]
            sweeps += len(info['sweeps']) - len(here)
            kept[split].append(dict(info, sweeps=here))
    print(f'left out for missing files: {samples} samples, and {sweeps} sweeps of others')
    if not any(kept.values()):
        raise ValueError('no sample has all files of its LiDAR and its cameras')
    return kept


def _check_files(infos):
    """Raise if a file that the records name is missing: better here than after hours of training."""
    paths = set()
    for info in infos:
        paths.add(info['lidar_path'])
        paths.update(sensor['data_path'] for sensor in [*info['sweeps'], *info['cams'].values()])
    missing = sorted(path for path in paths if not Path(path).is_file())
    if missing:
        raise FileNotFoundError(f'{len(missing)} of the {len(paths)} files named by the tables are missing, among them '
                                f'{missing[0]} (skip_missing, --skip-missing, leaves their samples out)')
