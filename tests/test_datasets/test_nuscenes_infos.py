"""Info files of a generated set, against nuscenes-devkit, mmdetection3d's converter and its unmodified loaders."""
import importlib.util
import json
import os
import pickle
import shutil
from pathlib import Path

import mmcv
import mmdet3d
import numpy as np
import pytest
from mmdet3d.datasets import NuScenesDataset, build_dataset
from nuscenes import NuScenes
from nuscenes.utils import splits
from nuscenes.utils.data_classes import Box, LidarPointCloud
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion

from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset, nuscenes_infos
from projects.mmdet3d_plugin.datasets.camera_geometry import project
from projects.mmdet3d_plugin.datasets.nuscenes_infos import CAMERAS, create_nuscenes_infos


@pytest.fixture(scope='module')
def nusc(synthetic_nuscenes):
    return NuScenes('v1.0-mini', str(synthetic_nuscenes), verbose=False)


@pytest.fixture(scope='module')
def infos(synthetic_nuscenes):
    """Records by split."""
    return {split: mmcv.load(str(synthetic_nuscenes / f'nuscenes_infos_{split}.pkl'))['infos']
            for split in ('train', 'val')}


@pytest.fixture(scope='module')
def with_sweeps(infos):
    """A record with sweeps and boxes."""
    return next(info for info in infos['train'] if len(info['sweeps']) > 2 and len(info['gt_boxes']) > 5)


@pytest.fixture
def copied(synthetic_nuscenes, tmp_path):
    """The set with tables that a test may change: function (version, {table: function of its rows}) -> folder."""

    def copy(version='v1.0-mini', **changes):
        root = tmp_path / 'copy'
        shutil.copytree(synthetic_nuscenes / 'v1.0-mini', root / version)
        for name in ('samples', 'sweeps', 'maps'):
            os.symlink(synthetic_nuscenes / name, root / name)
        for table, change in changes.items():
            path = root / version / f'{table}.json'
            path.write_text(json.dumps(change(json.loads(path.read_text()))))
        return root

    return copy


@pytest.fixture
def hilly(copied):
    """The set on slopes, with objects that rise, every fifth of which is annotated in single samples only."""

    def tilt(rows):
        slope = Quaternion(axis=[1, 2, 0], degrees=8)
        return [dict(row, rotation=(slope * Quaternion(row['rotation'])).elements.tolist()) for row in rows]

    def rise(rows):
        once = set(sorted({row['instance_token'] for row in rows})[::5])
        for i, row in enumerate(rows):
            row['translation'][2] += i % 7
            if row['instance_token'] in once:
                row.update(prev='', next='')
        return rows

    return copied(ego_pose=tilt, sample_annotation=rise)


def assert_same(ours, theirs):
    """Same structure and, to rounding, same numbers."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)) and theirs and isinstance(theirs[0], (dict, str)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_same(one, other)
    elif isinstance(theirs, str) or np.asarray(theirs).dtype.kind in 'US':
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert np.shape(ours) == np.shape(theirs)
        assert np.asarray(ours).dtype.kind == np.asarray(theirs).dtype.kind
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize('max_sweeps', [10, 1, 0])
def test_records_are_those_of_mmdet3ds_converter(hilly, tmp_path, max_sweeps):
    script = Path(mmdet3d.__file__).parent / '.mim/tools/data_converter/nuscenes_converter.py'
    spec = importlib.util.spec_from_file_location('mmdet3d_nuscenes_converter', script)
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    nusc, out = NuScenes('v1.0-mini', str(hilly), verbose=False), tmp_path / 'out'
    in_train = {scene['token'] for scene in nusc.scene if scene['name'] in splits.mini_train}
    in_val = {scene['token'] for scene in nusc.scene} - in_train
    theirs = dict(zip(('train', 'val'), converter._fill_trainval_infos(nusc, in_train, in_val, False, max_sweeps)))

    files = create_nuscenes_infos(hilly, 'v1.0-mini', out, 'any', max_sweeps)
    for split, records in theirs.items():
        assert files[split] == out / f'any_infos_{split}.pkl' and len(records) == dict(train=16, val=4)[split]
        assert_same(mmcv.load(str(files[split])), dict(infos=records, metadata=dict(version='v1.0-mini')))
    assert len(os.listdir(out)) == 2
    assert max(len(info['sweeps']) for info in theirs['train']) == min(max_sweeps, 3)


def test_splits_are_the_devkits(nusc, infos):
    for split, scenes in (('train', splits.mini_train), ('val', splits.mini_val)):
        named = {nusc.get('scene', nusc.get('sample', info['token'])['scene_token'])['name'] for info in infos[split]}
        assert named == set(scenes)
    tokens = [info['token'] for records in infos.values() for info in records]
    assert sorted(tokens) == sorted(sample['token'] for sample in nusc.sample)


@pytest.mark.parametrize('sensor', [*CAMERAS, 'sweep'])
def test_a_sensors_points_reach_the_lidar_frame_step_by_step(nusc, with_sweeps, sensor):
    """The devkit's own steps: sensor, ego vehicle then, world, ego vehicle at the keyframe, LiDAR."""
    record = with_sweeps['sweeps'][-1] if sensor == 'sweep' else with_sweeps['cams'][sensor]
    keyframe = nusc.get('sample_data', nusc.get('sample', with_sweeps['token'])['data']['LIDAR_TOP'])
    sample_data = nusc.get('sample_data', record['sample_data_token'])
    points = np.random.default_rng(0).uniform(-30, 30, (3, 50))
    cloud = LidarPointCloud(np.concatenate([points, np.zeros((1, 50))]))
    for row in (nusc.get('calibrated_sensor', sample_data['calibrated_sensor_token']),
                nusc.get('ego_pose', sample_data['ego_pose_token'])):
        cloud.rotate(Quaternion(row['rotation']).rotation_matrix)
        cloud.translate(np.array(row['translation']))
    for row in (nusc.get('ego_pose', keyframe['ego_pose_token']),
                nusc.get('calibrated_sensor', keyframe['calibrated_sensor_token'])):
        cloud.translate(-np.array(row['translation']))
        cloud.rotate(Quaternion(row['rotation']).inverse.rotation_matrix)
    ours = record['sensor2lidar_rotation'] @ points + record['sensor2lidar_translation'][:, None]
    np.testing.assert_allclose(ours, cloud.points[:3], atol=1e-9)
    assert record['timestamp'] == sample_data['timestamp'] and Path(record['data_path']).is_file()


def test_boxes_lie_in_the_world_where_the_tables_say(nusc, infos):
    for info in [*infos['train'][:4], *infos['val']]:
        for (x, y, z, length, width, height, yaw), token in zip(info['gt_boxes'],
                                                                nusc.get('sample', info['token'])['anns']):
            box = Box([x, y, z], [width, length, height], Quaternion(axis=[0, 0, 1], radians=yaw))
            for kind in ('lidar2ego', 'ego2global'):
                box.rotate(Quaternion(info[f'{kind}_rotation']))
                box.translate(np.array(info[f'{kind}_translation']))
            truth = nusc.get_box(token)
            np.testing.assert_allclose(box.center, truth.center, atol=1e-6)
            np.testing.assert_allclose(box.wlh, truth.wlh)
            assert abs(box.orientation.yaw_pitch_roll[0] - truth.orientation.yaw_pitch_roll[0]) % (2 * np.pi) < 5e-3


def test_velocities_are_the_devkits_turned_into_the_lidar_frame(hilly, tmp_path):
    nusc = NuScenes('v1.0-mini', str(hilly), verbose=False)
    found = []
    for info in mmcv.load(str(create_nuscenes_infos(hilly, 'v1.0-mini', tmp_path / 'out')['train']))['infos']:
        global2lidar = (Quaternion(info['ego2global_rotation']) * Quaternion(info['lidar2ego_rotation'])).inverse
        for velocity, token in zip(info['gt_velocity'], nusc.get('sample', info['token'])['anns']):
            truth = nusc.box_velocity(token)
            expected = global2lidar.rotate([truth[0], truth[1], 0.]) if np.isfinite(truth).all() else [np.nan] * 3
            np.testing.assert_allclose(velocity, expected[:2], atol=1e-9)
            found.append(np.linalg.norm(velocity))
    assert 20 < np.isnan(found).sum() < len(found) / 2 and np.nanmax(found) > 2


def test_merged_sweeps_are_the_devkits(nusc, with_sweeps, synthetic_nuscenes):
    """mmdet3d's unmodified loaders on our records."""
    dataset = NuScenesDataset(str(synthetic_nuscenes / 'nuscenes_infos_train.pkl'), test_mode=True, pipeline=[
        dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='LoadPointsFromMultiSweeps', use_dim=[0, 1, 2, 3, 4], remove_close=True),
    ])
    index = [info['token'] for info in dataset.data_infos].index(with_sweeps['token'])
    ours = dataset[index]['points'].tensor.numpy()
    cloud, lag = LidarPointCloud.from_file_multisweep(
        nusc, nusc.get('sample', with_sweeps['token']), 'LIDAR_TOP', 'LIDAR_TOP', nsweeps=11)
    near = (ours[:, 4] == 0) & (np.abs(ours[:, :2]) < 1).all(axis=1)  # the devkit drops these of the keyframe, too
    ours = ours[~near]
    assert len(np.unique(ours[:, 4])) == len(with_sweeps['sweeps']) + 1 > 3
    np.testing.assert_allclose(ours[:, :4], cloud.points.T, atol=1e-4)
    np.testing.assert_allclose(ours[:, 4], lag[0], atol=1e-5)


def test_boxes_project_into_the_images_as_the_devkit_projects_them(nusc, synthetic_nuscenes):
    dataset = CustomNuScenesDataset(str(synthetic_nuscenes / 'nuscenes_infos_val.pkl'),
                                    modality=dict(use_lidar=True, use_camera=True), test_mode=True)
    seen = 0
    for index, info in enumerate(dataset.data_infos):
        matrices = dict(zip(CAMERAS, dataset.get_data_info(index)['lidar2img']))
        for name, token in nusc.get('sample', info['token'])['data'].items():
            if name in CAMERAS:
                path, boxes, intrinsic = nusc.get_sample_data(token)
                assert info['cams'][name]['data_path'] == path
                for box in boxes:
                    at = nusc.get('sample', info['token'])['anns'].index(box.token)
                    pixels, depth = project(info['gt_boxes'][at][:3], matrices[name])
                    truth = view_points(box.center[:, None], intrinsic, normalize=True)[:2, 0]
                    np.testing.assert_allclose(pixels, truth, atol=0.01)
                    assert depth == pytest.approx(box.center[2], abs=1e-4)
                    seen += 1
    assert seen > 30


def test_a_sample_without_objects(copied, nusc, tmp_path):
    token = nusc.sample[0]['token']
    root = copied(sample_annotation=lambda rows: [dict(row, prev='', next='') for row in rows
                                                  if row['sample_token'] != token])
    create_nuscenes_infos(root, 'v1.0-mini', tmp_path)
    dataset = build_dataset(dict(type='CustomNuScenesDataset', ann_file=str(tmp_path / 'nuscenes_infos_train.pkl')))
    index = [info['token'] for info in dataset.data_infos].index(token)
    info, annotations = dataset.data_infos[index], dataset.get_ann_info(index)
    assert {key: info[key].shape for key in info if key.startswith(('gt_', 'num_', 'valid'))} == dict(
        gt_boxes=(0, 7), gt_names=(0, ), gt_velocity=(0, 2), num_lidar_pts=(0, ), num_radar_pts=(0, ), valid_flag=(0, ))
    assert info['gt_names'].dtype.kind == 'U' and annotations['gt_bboxes_3d'].tensor.shape == (0, 9)


def test_the_test_version_has_one_file_without_boxes(copied, nusc, tmp_path):
    names = dict(zip((scene['name'] for scene in nusc.scene), splits.test))
    root = copied('v1.0-test', scene=lambda rows: [dict(row, name=names[row['name']]) for row in rows],
                  sample_annotation=lambda rows: [], instance=lambda rows: [])
    files = create_nuscenes_infos(root, 'v1.0-test', tmp_path / 'out')
    assert files == dict(test=tmp_path / 'out/nuscenes_infos_test.pkl') and len(os.listdir(tmp_path / 'out')) == 1
    content = mmcv.load(str(files['test']))
    assert content['metadata'] == dict(version='v1.0-test') and len(content['infos']) == 20
    assert not any(key.startswith(('gt_', 'num_', 'valid')) for info in content['infos'] for key in info)


def test_paths_start_with_the_root_as_given(synthetic_nuscenes, tmp_path, monkeypatch):
    monkeypatch.chdir(synthetic_nuscenes.parent)
    files = create_nuscenes_infos(synthetic_nuscenes.name, 'v1.0-mini', tmp_path)
    info = max(mmcv.load(str(files['val']))['infos'], key=lambda info: len(info['sweeps']))
    for path in (info['lidar_path'], info['sweeps'][0]['data_path'], info['cams']['CAM_BACK']['data_path']):
        assert path.startswith(f'{synthetic_nuscenes.name}/') and Path(path).is_file()


def test_an_interruption_leaves_the_previous_files(synthetic_nuscenes, tmp_path, monkeypatch):
    before = {split: path.read_bytes() for split, path in create_nuscenes_infos(
        synthetic_nuscenes, 'v1.0-mini', tmp_path).items()}
    calls = []

    def dump_once(content, path):
        if calls:
            raise KeyboardInterrupt
        calls.append(path)
        Path(path).write_bytes(pickle.dumps(content))

    monkeypatch.setattr(nuscenes_infos.mmcv, 'dump', dump_once)
    with pytest.raises(KeyboardInterrupt):
        create_nuscenes_infos(synthetic_nuscenes, 'v1.0-mini', tmp_path, max_sweeps=1)
    assert {split: (tmp_path / f'nuscenes_infos_{split}.pkl').read_bytes() for split in before} == before
    assert len(os.listdir(tmp_path)) == 2


def test_bad_input_is_named(synthetic_nuscenes, copied, tmp_path):
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match=r"version must be one of \['v1.0-mini', .*got 'v1.0'"):
        create_nuscenes_infos(synthetic_nuscenes, 'v1.0', out)
    with pytest.raises(ValueError, match='max_sweeps must be >= 0, got -1'):
        create_nuscenes_infos(synthetic_nuscenes, 'v1.0-mini', out, max_sweeps=-1)
    with pytest.raises(FileNotFoundError, match='synthetic_nuscenes.* has no folder v1.0-trainval'):
        create_nuscenes_infos(synthetic_nuscenes, 'v1.0-trainval', out)
    root = copied(scene=lambda rows: [dict(row, name=f'my-{i}') for i, row in enumerate(rows)])
    with pytest.raises(ValueError, match=r"scenes \['my-0', 'my-1', .* in no split of v1.0-mini \(\['train', 'val'\]"):
        create_nuscenes_infos(root, 'v1.0-mini', out)
    (root / 'v1.0-mini/ego_pose.json').unlink()
    with pytest.raises(FileNotFoundError, match='ego_pose.json'):
        create_nuscenes_infos(root, 'v1.0-mini', out)
    assert not out.exists()


def test_missing_sensor_files_are_named(copied, nusc, tmp_path):
    lost = nusc.sample_data[3]
    root = copied(sample_data=lambda rows: [
        dict(row, filename='samples/lost.bin') if row['token'] == lost['token'] else row for row in rows])
    with pytest.raises(FileNotFoundError, match=r'1 of the \d+ files .*samples/lost.bin'):
        create_nuscenes_infos(root, 'v1.0-mini', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_five_cameras(copied, nusc, tmp_path):
    gone = {row['token'] for row in nusc.sample_data if row['channel'] == 'CAM_BACK'}
    root = copied(sample_data=lambda rows: [row for row in rows if row['token'] not in gone])
    paths = create_nuscenes_infos(root, 'v1.0-mini', tmp_path / 'out')
    info = mmcv.load(str(paths['val']))['infos'][0]
    assert list(info['cams']) == [name for name in CAMERAS if name != 'CAM_BACK']


def test_samples_and_sweeps_with_missing_files_are_left_out_on_request(copied, nusc, tmp_path, capsys):
    keyframe = next(row for row in nusc.sample_data if row['channel'] == 'CAM_FRONT')
    sweep = next(row for row in nusc.sample_data if not row['is_key_frame'] and row['next']
                 and row['sample_token'] != keyframe['sample_token'])
    lost = {keyframe['token'], sweep['token']}
    root = copied(sample_data=lambda rows: [
        dict(row, filename='samples/lost') if row['token'] in lost else row for row in rows])
    with pytest.raises(FileNotFoundError, match='samples/lost .*--skip-missing'):
        create_nuscenes_infos(root, 'v1.0-mini', tmp_path / 'out')
    paths = create_nuscenes_infos(root, 'v1.0-mini', tmp_path / 'out', skip_missing=True)
    infos = [info for path in paths.values() for info in mmcv.load(str(path))['infos']]
    assert len(infos) == len(nusc.sample) - 1 and keyframe['sample_token'] not in {info['token'] for info in infos}
    text = capsys.readouterr().out
    assert 'left out for missing files: 1 samples, and ' in text and 'and 0 sweeps' not in text


def test_own_splits(copied, tmp_path, capsys):
    root = copied(scene=lambda rows: [dict(row, name=f'my-{i}') for i, row in enumerate(rows)])
    splits = tmp_path / 'splits.json'
    splits.write_text(json.dumps(dict(train=['my-0', 'my-2'], val=['my-1'])))
    paths = create_nuscenes_infos(root, 'v1.0-mini', tmp_path / 'out', splits_file=splits)
    assert {split: len(mmcv.load(str(path))['infos']) for split, path in paths.items()} == dict(train=4, val=2)
    assert '7 of 10 scenes are in no split of the file and are left out' in capsys.readouterr().out
    for content, message in ((dict(train=['my-77']), r"names scenes that .* lacks: \['my-77'\]"),
                             (['my-0'], 'must hold'), (dict(a=['my-0'], b=['my-0']), 'more than once'),
                             ({'../x': ['my-0']}, 'become file names')):
        splits.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            create_nuscenes_infos(root, 'v1.0-mini', tmp_path / 'out', splits_file=splits)
    splits.write_text('{')
    with pytest.raises(ValueError, match='splits.json is no JSON'):
        create_nuscenes_infos(root, 'v1.0-mini', tmp_path / 'out', splits_file=splits)
