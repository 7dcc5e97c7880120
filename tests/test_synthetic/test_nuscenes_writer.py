import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import NuScenesEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import Box, LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box, view_points
from nuscenes.utils.splits import create_splits_scenes
from pyquaternion import Quaternion

from projects.mmdet3d_plugin.synthetic import nuscenes_writer, write_nuscenes
from projects.mmdet3d_plugin.synthetic.nuscenes_writer import ego_mount, scene_names
from projects.mmdet3d_plugin.synthetic.ray_casting import cast_rays
from projects.mmdet3d_plugin.synthetic.sensors import (
    CAMERA_NAMES,
    Camera,
    Mount,
    camera_windows,
    draw_cameras,
    photograph,
)
from projects.mmdet3d_plugin.synthetic.world import World, yaw_matrix

SMALL = dict(scenes=2, samples_per_scene=2, azimuths=90, image_width=64)


@pytest.fixture(scope='module')
def nusc(synthetic_nuscenes):
    return NuScenes('v1.0-mini', str(synthetic_nuscenes), verbose=False)


def test_names_of_the_official_splits():
    splits = create_splits_scenes()
    assert scene_names('v1.0-mini', 10) == splits['mini_train'] + splits['mini_val']
    names = scene_names('v1.0-trainval', 100, 40)
    assert len(names) == 100 and set(names[:60]) <= set(splits['train']) and set(names[60:]) <= set(splits['val'])
    assert scene_names('v1.0-trainval', 850) == splits['train'] + splits['val']


def test_devkit_draws_a_sample(nusc, tmp_path):
    import matplotlib.pyplot as plt
    nusc.render_sample(nusc.sample[0]['token'], out_path=str(tmp_path / 'sample.png'), verbose=False)
    plt.close('all')
    assert (tmp_path / 'sample.png').stat().st_size > 10_000


def test_every_class_attribute_and_link(nusc):
    names = {category_to_detection_name(annotation['category_name']) for annotation in nusc.sample_annotation}
    assert len(names) == 10 and None not in names
    for annotation in nusc.sample_annotation:
        assert len(annotation['attribute_tokens']) == int(not annotation['category_name'].startswith('movable_object'))
    for sample in nusc.sample:
        assert sorted(sample['data']) == sorted([*CAMERA_NAMES, 'LIDAR_TOP'])
    channel = {row['token']: row['channel'] for row in nusc.sample_data}
    for row in nusc.sample_data:
        assert (Path(nusc.dataroot) / row['filename']).exists()
        if row['next']:
            following = nusc.get('sample_data', row['next'])
            assert following['prev'] == row['token'] and channel[row['token']] == following['channel']
            assert following['timestamp'] > row['timestamp']
    sweeps = [row for row in nusc.sample_data if not row['is_key_frame']]
    assert len(sweeps) == 2 * len(nusc.scene) and {channel[row['token']] for row in sweeps} == {'LIDAR_TOP'}


def test_devkit_finds_the_boxes_of_sweeps(nusc):
    """It interpolates between the keyframe that a sweep belongs to, the following one, and the one before."""
    for scene in nusc.scene[:3]:
        world = World(np.random.default_rng([0, int(scene['name'][-4:])]), 0.5)
        sample = nusc.get('sample', scene['first_sample_token'])
        lidar = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
        while not (lidar := nusc.get('sample_data', lidar['next']))['is_key_frame']:
            time = (lidar['timestamp'] - sample['timestamp']) / 1e6
            expected = [actor.center(time) for actor in world.actors if actor.category]
            np.testing.assert_allclose([box.center for box in nusc.get_boxes(lidar['token'])], expected, atol=1e-5)


def test_ring_indices_are_those_of_the_elevation(nusc):
    path = nusc.get_sample_data_path(nusc.sample[0]['data']['LIDAR_TOP'])
    points = np.fromfile(path, np.float32).reshape(-1, 5)
    elevation = np.rad2deg(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    np.testing.assert_allclose(points[:, 4], (elevation + 30.67) / (41.34 / 31), atol=1e-2)
    assert set(points[:, 4]) <= set(range(32)) and len(set(points[:, 4])) > 25
    assert 0 <= points[:, 3].min() and points[:, 3].max() <= 255


def test_visibility_and_attributes_are_those_of_the_world(nusc):
    """Visible shares by pictures of every object with and without the others."""
    found = set()
    for scene in nusc.scene[:4]:
        number = int(scene['name'][-4:])
        world = World(np.random.default_rng([0, number]), 0.5)
        cameras = draw_cameras(np.random.default_rng([0, number, 0]), 400, 225)
        boxes, annotations = world.boxes(0.0), nusc.get('sample', scene['first_sample_token'])['anns']
        objects = [index for index, actor in enumerate(world.actors) if actor.category]
        shown, alone = np.zeros(len(world.actors)), np.zeros(len(world.actors))
        for camera in cameras.values():
            mount = ego_mount(world, 0.0) @ camera.mount
            directions = (camera.directions() @ mount.rotation.T).astype(np.float32)
            windows = camera_windows(camera, mount, boxes)
            seen = cast_rays(mount.position, directions, boxes, windows).box
            np.add.at(shown, boxes.owners[seen[seen >= 0]], 1)
            for index in objects:
                own = [window if owner == index else None for window, owner in zip(windows, boxes.owners)]
                alone[index] += (cast_rays(mount.position, directions, boxes, own).box >= 0).sum()
        for index, annotation in zip(objects, (nusc.get('sample_annotation', token) for token in annotations)):
            share = shown[index] / max(alone[index], 1)
            low, high = nusc.get('visibility', annotation['visibility_token'])['level'][1:].split('-')
            assert float(low) / 100 <= share < float(high) / 100 or (share, high) == (1.0, '100')
            names = [nusc.get('attribute', token)['name'] for token in annotation['attribute_tokens']]
            actor, kind = world.actors[index], annotation['category_name'].split('.')[0]
            assert annotation['category_name'] == actor.category
            if 'cycle' in actor.category:
                assert names == [f'cycle.{"with" if len(actor.parts) > 3 and actor.has_rider else "without"}_rider']
            elif kind != 'movable_object':
                moves = np.linalg.norm(nusc.box_velocity(annotation['token'])) > 0.1
                still = dict(vehicle='parked', human='standing')[kind]
                assert names == [f'{dict(human="pedestrian").get(kind, kind)}.{"moving" if moves else still}']
            found |= {high, *names}
    assert len(found) >= 4 + 5  # every level, and all six attributes that the world knows, but for chance


def test_point_counts_equal_the_devkits(nusc):
    for sample in nusc.sample[:4]:
        path, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            count = nusc.get('sample_annotation', box.token)['num_lidar_pts']
            # Points on a face may fall to either side of it in single precision.
            assert count == pytest.approx(points_in_box(box, points).sum(), abs=2)


def test_velocities_are_those_of_the_world(nusc):
    moving = 0
    for scene in nusc.scene:
        world = World(np.random.default_rng([0, int(scene['name'][-4:])]), 0.5)
        expected = {tuple(actor.center(0.0).round(6)): actor.speed * np.array([np.cos(actor.yaw), np.sin(actor.yaw), 0])
                    for actor in world.actors if actor.category}
        for token in nusc.get('sample', scene['first_sample_token'])['anns']:
            place = tuple(np.round(nusc.get('sample_annotation', token)['translation'], 6))
            np.testing.assert_allclose(nusc.box_velocity(token), expected[place], atol=1e-6)
            moving += bool(np.linalg.norm(expected[place]) > 0.3)
    assert moving > 20


def test_lidar_points_on_a_box_project_onto_its_silhouette(nusc):
    """By the devkit's transforms, into the hull of the box's corners, and onto pixels that show it or what hides it."""
    checked = agreed = 0
    for scene in nusc.scene[:4]:
        number = int(scene['name'][-4:])
        world = World(np.random.default_rng([0, number]), 0.5)
        cameras = draw_cameras(np.random.default_rng([0, number, 0]), 400, 225)
        sample = nusc.get('sample', scene['first_sample_token'])
        lidar = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
        path, lidar_boxes, _ = nusc.get_sample_data(lidar['token'])
        cloud = LidarPointCloud.from_file(path).points[:3]
        owners = {tuple(actor.center(0.0).round(6)): index for index, actor in enumerate(world.actors)}
        for name, camera in cameras.items():
            row = nusc.get('sample_data', sample['data'][name])
            _, camera_boxes, intrinsic = nusc.get_sample_data(row['token'])
            camera_boxes = {box.token: box for box in camera_boxes}  # those that the camera sees
            points = through_global(nusc, lidar, row, cloud)
            mount = ego_mount(world, 0.0) @ camera.mount
            boxes = world.boxes(0.0)
            hits = cast_rays(mount.position, (camera.directions() @ mount.rotation.T).astype(np.float32), boxes,
                             camera_windows(camera, mount, boxes))
            for box in lidar_boxes:
                if box.token not in camera_boxes:
                    continue
                on_box = points[:, points_in_box(box, cloud)]
                on_box = on_box[:, on_box[2] > 0.5]
                corners = camera_boxes[box.token].corners()
                if not on_box.size or (corners[2] < 0.5).any():
                    continue
                pixels = view_points(on_box, intrinsic, normalize=True)[:2]
                outline = view_points(corners, intrinsic, normalize=True)[:2]
                assert (pixels.min(axis=1) >= outline.min(axis=1) - 1e-3).all()
                assert (pixels.max(axis=1) <= outline.max(axis=1) + 1e-3).all()
                column, line = np.floor(pixels).astype(int)
                inside = (column >= 0) & (column < 400) & (line >= 0) & (line < 225)
                column, line, depth = column[inside], line[inside], on_box[2, inside]
                owner = owners[tuple(np.round(nusc.get('sample_annotation', box.token)['translation'], 6))]
                shown = np.where(hits.box[line, column] >= 0, boxes.owners[hits.box[line, column]], -1)
                hidden = hits.distance[line, column] < depth - 0.1
                checked += len(depth)
                agreed += ((shown == owner) | hidden).sum()
    assert checked > 3000
    assert agreed / checked > 0.93  # the rest lies on edges: a pixel's center is not the point


def through_global(nusc, source, target, points):
    """Points (3, N) of one sensor in the frame of another, by the tables."""
    for row, inverse in ((source, False), (target, True)):
        steps = [nusc.get(table, row[f'{table}_token']) for table in ('calibrated_sensor', 'ego_pose')]
        for step in reversed(steps) if inverse else steps:
            rotation, shift = Quaternion(step['rotation']).rotation_matrix, np.array(step['translation'])[:, None]
            points = rotation.T @ (points - shift) if inverse else rotation @ points + shift
    return points


def evaluate(nusc, shift, folder):
    """The devkit's metrics of the ground truth, moved by ``shift`` (3,) in m, as detections."""
    val = set(create_splits_scenes()['mini_val'])
    results = {}
    for sample in nusc.sample:
        if nusc.get('scene', sample['scene_token'])['name'] not in val:
            continue
        results[sample['token']] = [
            dict(sample_token=sample['token'], translation=(np.array(annotation['translation']) + shift).tolist(),
                 size=annotation['size'], rotation=annotation['rotation'],
                 velocity=nusc.box_velocity(annotation['token'])[:2].tolist(), detection_score=0.5,
                 detection_name=category_to_detection_name(annotation['category_name']),
                 attribute_name=''.join(nusc.get('attribute', token)['name']
                                        for token in annotation['attribute_tokens']))
            for annotation in (nusc.get('sample_annotation', token) for token in sample['anns'])
            if annotation['num_lidar_pts'] > 0]  # others are no ground truth to the devkit
    path = folder / 'results.json'
    path.write_text(json.dumps(dict(meta=dict(use_camera=True, use_lidar=True, use_radar=False, use_map=False,
                                              use_external=False), results=results)))
    evaluation = NuScenesEval(nusc, config_factory('detection_cvpr_2019'), str(path), 'mini_val', str(folder),
                              verbose=False)
    return evaluation.evaluate()[0].serialize()


def test_ground_truth_as_prediction_is_perfect(nusc, tmp_path):
    metrics = evaluate(nusc, np.zeros(3), tmp_path)
    classes = {name for name, aps in metrics['label_aps'].items() if max(aps.values()) > 0}
    assert len(classes) == 10
    assert metrics['mean_ap'] == pytest.approx(1.0)
    assert metrics['nd_score'] == pytest.approx(1.0, abs=1e-4)
    assert max(metrics['tp_errors'].values()) < 1e-4


@pytest.mark.parametrize('shift, expected', [(0.3, 1.0), (0.7, 0.75), (1.5, 0.5)])
def test_shifted_ground_truth_scores_by_distance(nusc, tmp_path, shift, expected):
    """A match needs a distance on the ground below 0.5, 1, 2 and 4 m; upwards a shift is free."""
    metrics = evaluate(nusc, np.array([0.6 * shift, 0.8 * shift, 2.0]), tmp_path)
    assert metrics['mean_ap'] == pytest.approx(expected, abs=0.03)  # a neighbor within reach may take a match
    assert 0.95 * shift < metrics['tp_errors']['trans_err'] < shift + 1e-6
    assert metrics['tp_errors']['scale_err'] < 0.1  # sizes are right but for those neighbors'


def test_images_show_the_world_where_the_tables_say(nusc):
    """Every image of a scene, drawn again with the calibration and the ego pose of the tables."""
    scene = nusc.scene[1]
    number = int(scene['name'][-4:])
    world = World(np.random.default_rng([0, number]), 0.5)
    start = nusc.get('sample', scene['first_sample_token'])['timestamp']
    for sample in (row for row in nusc.sample if row['scene_token'] == scene['token']):
        for name in CAMERA_NAMES:
            row = nusc.get('sample_data', sample['data'][name])
            calibration = nusc.get('calibrated_sensor', row['calibrated_sensor_token'])
            ego, mounted = (Mount(np.array(pose['translation']), Quaternion(pose['rotation']).rotation_matrix)
                            for pose in (nusc.get('ego_pose', row['ego_pose_token']), calibration))
            camera = Camera(mounted, np.array(calibration['camera_intrinsic']), row['width'], row['height'])
            drawn = photograph(world, world.boxes((row['timestamp'] - start) / 1e6), camera, ego @ mounted,
                               np.random.default_rng(0))[0].astype(float)
            image = cv2.imread(nusc.get_sample_data_path(row['token']))[..., ::-1].astype(float)
            assert image.shape == drawn.shape
            drawn *= image.mean() / drawn.mean()  # the exposure is the image's own
            assert np.abs(image - drawn).mean() < 12  # noise of both
            assert np.corrcoef(image.ravel(), drawn.ravel())[0, 1] > 0.9


def global_points(nusc, token):
    """(3, N) of a LiDAR measurement, by its own calibration and ego pose."""
    points, row = LidarPointCloud.from_file(nusc.get_sample_data_path(token)).points[:3], nusc.get('sample_data', token)
    for table in ('calibrated_sensor', 'ego_pose'):
        step = nusc.get(table, row[f'{table}_token'])
        points = Quaternion(step['rotation']).rotation_matrix @ points + np.array(step['translation'])[:, None]
    return points


def test_walls_stay_where_they_are_in_every_sweep(nusc):
    """Points above all other things lie on the walls: a sweep's pose is that of its own moment."""
    for scene in nusc.scene[:3]:
        world = World(np.random.default_rng([0, int(scene['name'][-4:])]), 0.5)
        walls = [actor for actor in world.actors if actor.size[2] >= 5 and actor.size[0] == 4]
        token = nusc.get('sample', scene['first_sample_token'])['data']['LIDAR_TOP']
        while token:
            points = global_points(nusc, token).T
            points = points[points[:, 2] > 6.2]
            local = np.stack([Mount(wall.center(0.0), yaw_matrix(wall.yaw)).to_local(points) for wall in walls])
            assert len(walls) == 12 and len(points) > 100
            assert np.median(np.abs(local[..., 0] + 2).min(axis=0)) < 0.03  # from an inner face
            token = nusc.get('sample_data', token)['next']


def test_sweeps_see_objects_where_they_are_at_their_moment(nusc):
    """Points of sweeps inside the moving boxes: as many as in the keyframe, which a box left behind would not hold."""
    counts = np.zeros(4)
    for scene in nusc.scene:
        world = World(np.random.default_rng([0, int(scene['name'][-4:])]), 0.5)
        token = nusc.get('sample', scene['first_sample_token'])['data']['LIDAR_TOP']
        for k in range(4):
            cloud = global_points(nusc, token)
            for actor in world.actors:
                if actor.category and actor.speed > 2:
                    box = Box(actor.center(k / 6), actor.size[[1, 0, 2]], Quaternion(axis=[0, 0, 1], radians=actor.yaw))
                    counts[k] += points_in_box(box, cloud).sum()
            token = nusc.get('sample_data', token)['next']
    assert counts.min() > 500
    np.testing.assert_allclose(counts, counts.mean(), rtol=0.06)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob('*')) if path.is_file()}


def test_a_set_depends_on_its_seed_not_on_workers(tmp_path):
    assert write_nuscenes(str(tmp_path / 'a'), seed=5, **SMALL)
    assert write_nuscenes(str(tmp_path / 'b'), seed=5, workers=2, **SMALL)
    assert write_nuscenes(str(tmp_path / 'c'), seed=6, **SMALL)
    first, second, other = (files(tmp_path / name) for name in 'abc')
    assert first == second
    images = [path for path in first if path.suffix == '.jpg']
    assert images and all(first[path] != other[path] for path in images)


def test_a_complete_set_is_left_alone_and_another_is_refused(tmp_path):
    out = str(tmp_path)
    assert write_nuscenes(out, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    assert not write_nuscenes(out, **SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    with pytest.raises(ValueError, match='other arguments'):
        write_nuscenes(out, seed=1, **SMALL)
    with pytest.raises(ValueError, match='other arguments'):
        write_nuscenes(out, 'v1.0-trainval', **SMALL)
    (tmp_path / 'v1.0-mini' / 'made_with.json').unlink()  # as in a folder of nuScenes itself
    for version in ('v1.0-mini', 'v1.0-test'):
        (tmp_path / 'v1.0-mini').rename(tmp_path / version)
        with pytest.raises(ValueError, match=f'{version} is a set .* nothing known'):
            write_nuscenes(out, **SMALL)
        (tmp_path / version).rename(tmp_path / 'v1.0-mini')


def test_a_killed_run_leaves_no_tables_and_is_repeated(tmp_path, repo_root):
    command = [sys.executable, 'tools/make_synthetic_nuscenes.py', '--out', str(tmp_path / 'a'), '--scenes', '2',
               '--samples-per-scene', '2', '--azimuths', '90', '--image-width', '64', '--workers', '1']
    process = subprocess.Popen(command, cwd=repo_root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    deadline = time.time() + 120
    while not list(tmp_path.glob('a/samples/*/*')) and time.time() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob('a/samples/*/*')) and not (tmp_path / 'a' / 'v1.0-mini').exists()
    with pytest.raises(ValueError, match='v1.0-mini.part is a set made with other arguments'):
        write_nuscenes(str(tmp_path / 'a'), seed=1, **SMALL)
    assert write_nuscenes(str(tmp_path / 'a'), **SMALL)
    assert write_nuscenes(str(tmp_path / 'b'), **SMALL)
    assert files(tmp_path / 'a') == files(tmp_path / 'b')


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    real = nuscenes_writer._write_scene
    calls = []

    def write(name, **kwargs):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(name, **kwargs)

    monkeypatch.setattr(nuscenes_writer, '_write_scene', write)
    with pytest.raises(KeyboardInterrupt):
        write_nuscenes(str(tmp_path / 'a'), **SMALL)
    assert write_nuscenes(str(tmp_path / 'a'), **SMALL)
    assert calls == [calls[0], calls[1], calls[1]]  # the first scene once
    assert write_nuscenes(str(tmp_path / 'b'), **SMALL)
    assert files(tmp_path / 'a') == files(tmp_path / 'b')


def _kill_the_first(name, marker, **kwargs):
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return nuscenes_writer.real_write_scene(name, **kwargs)
    return os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(nuscenes_writer, 'real_write_scene', nuscenes_writer._write_scene, raising=False)
    monkeypatch.setattr(nuscenes_writer, '_write_scene', partial(_kill_the_first, marker=tmp_path / 'killed'))
    with pytest.raises(BrokenProcessPool):
        write_nuscenes(str(tmp_path / 'a'), workers=2, **SMALL)
    assert not (tmp_path / 'a/v1.0-mini').exists()
    assert write_nuscenes(str(tmp_path / 'a'), workers=2, **SMALL)


@pytest.mark.parametrize('change, message', [
    (dict(version='v1.0-test'), 'version must be one of'),
    (dict(scenes=11), 'scenes must leave'),
    (dict(scenes=5, val_scenes=3), r'val_scenes must be in \[0, 2\]'),
    (dict(samples_per_scene=0), 'samples_per_scene must be at least 1'),
    (dict(samples_per_scene=61), 'samples_per_scene must be at most 60'),
    (dict(azimuths=1), 'azimuths must be at least 8'),
    (dict(seed=-1), 'seed must be at least 0'),
])
def test_arguments_are_checked_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_nuscenes(str(tmp_path / 'out'), **dict(SMALL, **change))
    assert not (tmp_path / 'out').exists()
