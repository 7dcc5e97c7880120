"""Writes synthetic scenes in nuScenes' on-disk format (schema: nuscenes-devkit, docs/schema_nuscenes.md)."""
import hashlib
import json
import os
import os.path as osp
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import cv2
import mmcv
import numpy as np
from nuscenes.utils.splits import create_splits_scenes
from pyquaternion import Quaternion
from tqdm import tqdm

from ..utils.atomic_file import atomic_path
from .sensors import CAMERA_NAMES, Mount, draw_cameras, lidar_mount, photograph, scan
from .shapes import KINDS
from .world import SQUARE_CENTER, World, yaw_matrix

KEYFRAME_INTERVAL = 0.5  # s
MAX_SAMPLES = 60         # per scene: later the fastest ego vehicle would drive through the walls
MAP_RESOLUTION = 0.1     # m, nuScenes'
SPLITS = {'v1.0-mini': ('mini_train', 'mini_val'), 'v1.0-trainval': ('train', 'val')}
_SCENES = 'scenes'        # folder of the rows of complete scenes
_EPOCH = 1_530_000_000_000_000  # us
_ATTRIBUTES = ('vehicle.moving', 'vehicle.stopped', 'vehicle.parked', 'cycle.with_rider', 'cycle.without_rider',
               'pedestrian.sitting_lying_down', 'pedestrian.standing', 'pedestrian.moving')
_VISIBILITY = (('1', 'v0-40', 0.0), ('2', 'v40-60', 0.4), ('3', 'v60-80', 0.6), ('4', 'v80-100', 0.8))


def write_nuscenes(out, version='v1.0-mini', scenes=10, val_scenes=None, samples_per_scene=10, seed=0, sweeps=2,
                   azimuths=720, image_width=400, workers=1):
    """Write a synthetic data set that nuscenes-devkit and mmdet3d read as they read nuScenes.

    A set depends on its arguments alone (not on ``workers``). An interrupted call leaves no tables but a hidden folder
    with its arguments and the rows of the scenes that are complete; a repeated one goes on with the others.

    Args:
        out (str): root folder of the data set.
        version (str): 'v1.0-mini' or 'v1.0-trainval'; scenes get names of its official splits.
        scenes (int): number of scenes, training and validation together.
        val_scenes (int | None): how many of them are validation scenes; if None a fifth, but at least one and at most
            all that the split has.
        samples_per_scene (int): keyframes per scene, half a second apart, 1 to 60. The longer a scene, the fewer
            objects move: their straight paths have to stay within the square and free of each other.
        seed (int): of everything random.
        sweeps (int): LiDAR sweeps between two keyframes.
        azimuths (int): LiDAR steps per revolution.
        image_width (int): pixels; nuScenes' own is 1600, and the height is 9/16 of it, rounded down.
        workers (int): processes.

    Returns:
        bool: False if exactly this set was there already and nothing was done.

    Raises:
        ValueError: for invalid arguments, or a folder that holds a set, or a part of one, made with other arguments.
        BrokenProcessPool: a worker was killed.
    """
    names = scene_names(version, scenes, val_scenes)
    for name, value, least in (('samples_per_scene', samples_per_scene, 1), ('sweeps', sweeps, 0), ('seed', seed, 0),
                               ('azimuths', azimuths, 8), ('image_width', image_width, 16), ('workers', workers, 1)):
        if value < least:
            raise ValueError(f'{name} must be at least {least}, got {value}')
    if samples_per_scene > MAX_SAMPLES:
        raise ValueError(f'samples_per_scene must be at most {MAX_SAMPLES}, got {samples_per_scene}')
    made_with = dict(scenes=names, samples_per_scene=samples_per_scene, seed=seed, sweeps=sweeps, azimuths=azimuths,
                     image_width=image_width)
    complete, unfinished = Path(out) / version, Path(out) / f'.{version}.part'
    if _is_there(out, complete, unfinished, made_with):
        return False
    _write_table(unfinished, 'made_with', made_with)
    make = partial(_write_scene, out=out, samples=samples_per_scene, seed=seed, sweeps=sweeps, azimuths=azimuths,
                   width=image_width)
    _make_scenes(make, names, unfinished / _SCENES, workers)
    parts = [json.loads((unfinished / _SCENES / f'{name}.json').read_text()) for name in names]
    tables = {name: [row for part in parts for row in part[name]] for name in parts[0]}
    tables.update(_common_tables(tables['log']))
    with atomic_path(osp.join(out, tables['map'][0]['filename'])) as path:
        height, width = (int(2 * extent / MAP_RESOLUTION) for extent in SQUARE_CENTER[::-1])
        cv2.imwrite(str(path), np.full((height, width), 255, np.uint8))  # one large square to drive on
    for name, rows in tables.items():
        _write_table(unfinished, name, rows)
    shutil.rmtree(unfinished / _SCENES)
    unfinished.rename(complete)
    return True


def _make_scenes(make, names, folder, workers):
    """Write the scenes that have no file of rows in a folder; the file comes last, with the scene complete."""
    missing = [name for name in names if not (folder / f'{name}.json').exists()]
    with tqdm(total=len(names), initial=len(names) - len(missing), desc='scenes', unit='') as progress:
        if workers == 1:
            for name in missing:
                _write_table(folder, name, make(name))
                progress.update()
            return
        with ProcessPoolExecutor(workers) as pool:  # unlike multiprocessing.Pool it notices a worker that was killed
            scenes = {pool.submit(make, name): name for name in missing}
            for scene in as_completed(scenes):
                _write_table(folder, scenes[scene], scene.result())
                progress.update()


def _write_table(folder, name, rows):
    with atomic_path(folder / f'{name}.json') as path:
        path.write_text(json.dumps(rows, indent=0))


def _is_there(out, complete, unfinished, made_with):
    """Whether exactly this set is complete. Any other one is an error: files of both would lie in the same folders."""
    begun = [stamp.parent for stamp in Path(out).glob('.v1.0-*.part/made_with.json')]
    for folder in sorted([*Path(out).glob('v1.0-*'), *begun]):
        stamp = folder / 'made_with.json'
        found = mmcv.load(str(stamp)) if stamp.exists() else 'nothing known'
        if folder not in (complete, unfinished) or found != made_with:
            raise ValueError(f'out: {folder} is a set made with other arguments; give another folder or remove it with '
                             f'its files. Asked for {complete.name} with {made_with}, found {found}')
    return complete.exists()


def scene_names(version, scenes, val_scenes=None):
    """Official names for a number of scenes, training scenes first.

    Raises:
        ValueError: for an unknown version or more scenes than its splits have.
    """
    if version not in SPLITS:
        raise ValueError(f'version must be one of {sorted(SPLITS)}, got {version!r}')
    train, val = (create_splits_scenes()[split] for split in SPLITS[version])
    if val_scenes is None:
        val_scenes = min(max(1, round(scenes / 5)), len(val))
    if not 0 <= val_scenes <= len(val):
        raise ValueError(f'val_scenes must be in [0, {len(val)}] for {version}, got {val_scenes}')
    if not 1 <= scenes - val_scenes <= len(train):
        raise ValueError(f'scenes must leave 1 to {len(train)} training scenes beside {val_scenes} validation scenes '
                         f'for {version}, got {scenes}')
    return train[:scenes - val_scenes] + val[:val_scenes]


def _write_scene(name, out, samples, seed, sweeps, azimuths, width):
    """Files of one scene; returns its rows of the tables, dict name -> list."""
    number = int(name.split('-')[1])
    world = World(np.random.default_rng([seed, number]), (samples - 1) * KEYFRAME_INTERVAL)
    cameras = draw_cameras(np.random.default_rng([seed, number, 0]), width, width * 9 // 16)
    scene = _SceneTables(name, number, seed, world, cameras, samples)
    lidar = lidar_mount()
    for k in range(samples):
        time = k * KEYFRAME_INTERVAL
        boxes, ego = world.boxes(time), ego_mount(world, time)
        shown, alone = np.zeros(len(world.actors)), np.zeros(len(world.actors))
        for camera_index, (channel, camera) in enumerate(cameras.items()):
            rng = np.random.default_rng([seed, number, 1, k, camera_index])
            image, visible, unoccluded = photograph(world, boxes, camera, ego @ camera.mount, rng)
            for total, counts in ((shown, visible), (alone, unoccluded)):
                total[list(counts)] += list(counts.values())
            row = scene.add_sample_data(channel, time, k, True, 'jpg', width=camera.width, height=camera.height)
            with atomic_path(osp.join(out, row['filename'])) as path:
                cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        for j in range(sweeps + 1 if k + 1 < samples else 1):
            sweep_time = time + j * KEYFRAME_INTERVAL / (sweeps + 1)
            rng = np.random.default_rng([seed, number, 2, k, j])
            points = scan(world, world.boxes(sweep_time), ego_mount(world, sweep_time) @ lidar, rng, azimuths)
            keyframe = k if j == 0 else k + 1  # nuScenes: a sweep belongs to the keyframe that follows
            row = scene.add_sample_data('LIDAR_TOP', sweep_time, keyframe, j == 0, 'pcd')
            with atomic_path(osp.join(out, row['filename'])) as path:
                points.tofile(str(path))
            if j == 0:
                scene.add_annotations(time, k, points, ego @ lidar, shown, alone)
    return scene.finish()


def ego_mount(world, time):
    """The ego vehicle in the global frame."""
    position, yaw = world.ego_pose(time)
    return Mount(position, yaw_matrix(yaw))


class _SceneTables:
    """Rows of one scene, with nuScenes' tokens and links.

    All sensors of a keyframe measure at its time stamp.
    """

    def __init__(self, name, number, seed, world, cameras, samples):
        self.name, self.seed, self.world, self.number = name, seed, world, number
        self.rows = {table: [] for table in ('log', 'scene', 'calibrated_sensor', 'sample', 'sample_data', 'ego_pose',
                                             'instance', 'sample_annotation')}
        self.rows['log'].append(dict(token=self.token('log'), logfile=f'n000-synthetic-{name}', vehicle='n000',
                                     date_captured='2026-11-24', location='synthetic-square'))
        light = world.light
        self.rows['scene'].append(dict(
            token=self.token('scene'), log_token=self.token('log'), nbr_samples=samples, name=name,
            first_sample_token=self.token('sample', 0), last_sample_token=self.token('sample', samples - 1),
            description=f'Synthetic square, ambient light {light.ambient:.2f}, fog {light.fog:.3f} per m'))
        mounts = {channel: (camera.mount, camera.intrinsic.tolist()) for channel, camera in cameras.items()}
        for channel, (mount, intrinsic) in dict(mounts, LIDAR_TOP=(lidar_mount(), [])).items():
            self.rows['calibrated_sensor'].append(dict(
                token=self.token('calibrated_sensor', channel), sensor_token=_token('sensor', channel),
                translation=mount.position.tolist(), rotation=_quaternion(mount.rotation), camera_intrinsic=intrinsic))
        for k in range(samples):
            self.rows['sample'].append(dict(
                token=self.token('sample', k), timestamp=self.timestamp(k * KEYFRAME_INTERVAL),
                prev=self.token('sample', k - 1) if k else '', scene_token=self.token('scene'),
                next=self.token('sample', k + 1) if k + 1 < samples else ''))

    def token(self, *parts):
        return _token(self.seed, self.name, *parts)

    def timestamp(self, time):
        """Microseconds; scenes lie 1000 s apart."""
        return _EPOCH + self.number * 1_000_000_000 + round(time * 1e6)

    def add_sample_data(self, channel, time, k, is_key_frame, fileformat, width=0, height=0):
        """Row of a measurement at a time (s) that belongs to keyframe k, with its ego pose."""
        token, stamp = self.token(channel, f'{time:.6f}'), self.timestamp(time)
        position, yaw = self.world.ego_pose(time)
        self.rows['ego_pose'].append(dict(token=token, timestamp=stamp, translation=position.tolist(),
                                          rotation=_quaternion(yaw_matrix(yaw))))
        suffix = 'pcd.bin' if fileformat == 'pcd' else fileformat
        row = dict(
            token=token, sample_token=self.token('sample', k), ego_pose_token=token,
            calibrated_sensor_token=self.token('calibrated_sensor', channel), timestamp=stamp, fileformat=fileformat,
            is_key_frame=is_key_frame, height=height, width=width, prev='', next='',
            filename=f'{"samples" if is_key_frame else "sweeps"}/{channel}/n000-synthetic__{channel}__{stamp}.{suffix}')
        self.rows['sample_data'].append(row)
        return row

    def add_annotations(self, time, k, points, lidar, shown, alone):
        """Rows of all objects at keyframe k.

        ``points`` (N, 5) lie in the frame of ``lidar``, the LiDAR's mount in the global frame; ``shown`` and ``alone``
        count per actor the pixels that show it and those that would without occlusion.
        """
        points = lidar.position + points[:, :3] @ lidar.rotation.T
        for index, actor in enumerate(self.world.actors):
            if not actor.category:
                continue
            local = Mount(actor.center(time), yaw_matrix(actor.yaw)).to_local(points)
            visible = shown[index] / alone[index] if alone[index] else 0.0
            self.rows['sample_annotation'].append(dict(
                token=self.token('annotation', index, k), sample_token=self.token('sample', k),
                instance_token=self.token('instance', index),
                visibility_token=[token for token, _, least in _VISIBILITY if visible >= least][-1],
                attribute_tokens=[_token('attribute', actor.attribute)] if actor.attribute else [],
                translation=actor.center(time).tolist(), size=actor.size[[1, 0, 2]].tolist(),
                rotation=_quaternion(yaw_matrix(actor.yaw)), num_radar_pts=0,
                num_lidar_pts=int((np.abs(local) <= actor.size / 2).all(axis=1).sum()), prev='', next=''))

    def finish(self):
        """Link measurements and annotations in time; returns all rows."""
        _link(self.rows['sample_data'], 'calibrated_sensor_token')
        by_instance = _link(self.rows['sample_annotation'], 'instance_token')
        categories = {self.token('instance', index): actor.category for index, actor in enumerate(self.world.actors)}
        for token, annotations in by_instance.items():
            self.rows['instance'].append(dict(
                token=token, category_token=_token('category', categories[token]), nbr_annotations=len(annotations),
                first_annotation_token=annotations[0]['token'], last_annotation_token=annotations[-1]['token']))
        return self.rows


def _link(rows, key):
    """Set prev and next among rows that share a key, in their order; returns dict key -> rows."""
    chains = {}
    for row in rows:
        chains.setdefault(row[key], []).append(row)
    for chain in chains.values():
        for first, second in zip(chain, chain[1:]):
            first['next'], second['prev'] = second['token'], first['token']
    return chains


def _common_tables(logs):
    """Tables that do not depend on the scenes."""
    channels = [(channel, 'camera') for channel in CAMERA_NAMES] + [('LIDAR_TOP', 'lidar')]
    return dict(
        category=[dict(token=_token('category', kind.category), name=kind.category, description='', index=index)
                  for index, kind in enumerate(KINDS, start=1)],
        attribute=[dict(token=_token('attribute', name), name=name, description='') for name in _ATTRIBUTES],
        visibility=[dict(token=token, level=level, description='') for token, level, _ in _VISIBILITY],
        sensor=[dict(token=_token('sensor', channel), channel=channel, modality=modality)
                for channel, modality in channels],
        map=[dict(token=_token('map'), log_tokens=[log['token'] for log in logs], category='semantic_prior',
                  filename='maps/synthetic_square.png')])


def _token(*parts):
    return hashlib.md5('/'.join(map(str, parts)).encode()).hexdigest()


def _quaternion(rotation):
    return Quaternion(matrix=rotation).elements.tolist()


def folder_size(path):
    """Bytes of all files below a folder."""
    return sum(osp.getsize(osp.join(folder, file)) for folder, _, files in os.walk(path) for file in files)
