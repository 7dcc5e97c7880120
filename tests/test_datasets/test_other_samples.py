"""Stuck sensors show what other keyframes say: which ones, on a small set whose samples carry their names."""
import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmcv import Config
from mmdet.datasets import RepeatDataset
from mmdet3d.core.points import LiDARPoints
from mmdet3d.datasets import build_dataset
from mmdet3d.datasets.builder import OBJECTSAMPLERS
from mmdet3d.datasets.dataset_wrappers import CBGSDataset
from mmdet3d.datasets.pipelines import Compose
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from projects.mmdet3d_plugin.apis.failing_sensors import with_failure
from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset, FrameFolderDataset, other_samples
from projects.mmdet3d_plugin.datasets.other_samples import scene_numbers
from projects.mmdet3d_plugin.datasets.pipelines import SimulateFailure
from projects.mmdet3d_plugin.datasets.sensor_failures import (
    FAILURES,
    PRESETS,
    FailureCase,
    expand_cases,
    failure_rng,
)

VIEWS = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT')
# name: log, seconds. Scenes A and B follow each other in one log, B after a pause; C is a keyframe alone.
KEYFRAMES = {**{f'A{i}': ('day', 100 + i / 2) for i in range(6)}, **{f'B{i}': ('day', 110 + i / 2) for i in range(3)},
             'C0': ('night', 110)}
NUMBER = {name: number for number, name in enumerate(KEYFRAMES)}
NAME = {number: name for name, number in NUMBER.items()}
LOAD = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='LoadPointsFromMultiSweepsWithRings', sweeps_num=2, use_dim=[0, 1, 2, 3, 4]),
        dict(type='LoadMultiViewImageFromFiles')]
LABELS = dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)
SENSORS = dict(use_lidar=True, use_camera=True)


def image_size(name):
    """(height, width): scene C has another camera."""
    return (8, 12) if name == 'C0' else (4, 6)


def write_keyframes(folder, names=tuple(KEYFRAMES)):
    """A set in nuScenes' layout. Points and pixels tell their sample; y is the number of the sweep; rings differ."""
    infos = []
    for name in names:
        log, seconds = KEYFRAMES[name]
        folder.mkdir(exist_ok=True)
        paths = [str(folder / f'{log}__LIDAR_TOP__{name}_{sweep}.bin') for sweep in range(5)]
        for sweep, path in enumerate(paths):
            points = np.full((16, 5), [NUMBER[name] + 1, sweep + 1, 0, 0, 0], np.float32)
            points[:, 4] = (np.arange(16) + NUMBER[name]) % 32
            points.tofile(path)
        cameras = {}
        for number, view in enumerate(VIEWS):
            path = str(folder / f'{name}_{view}.png')
            cv2.imwrite(path, np.full((*image_size(name), 3), 10 * NUMBER[name] + number, np.uint8))
            cameras[view] = dict(data_path=path, timestamp=seconds * 1e6, cam_intrinsic=np.eye(3),
                                 sensor2lidar_rotation=np.eye(3), sensor2lidar_translation=np.zeros(3))
        sweeps = [dict(data_path=path, timestamp=(seconds - 0.05 * number) * 1e6, sensor2lidar_rotation=np.eye(3),
                       sensor2lidar_translation=np.zeros(3)) for number, path in enumerate(paths) if number]
        infos.append(dict(
            token=name, lidar_path=paths[0], sweeps=sweeps, timestamp=int(seconds * 1e6), cams=cameras,
            gt_boxes=np.array([[NUMBER[name] + 1, 2, 0, 4, 4, 4, 0]]), gt_names=np.array(['car']),
            gt_velocity=np.zeros((1, 2)), num_lidar_pts=np.array([80]), valid_flag=np.array([True])))
    return infos


def info_file(folder, infos):
    path = folder / 'infos.pkl'
    path.write_bytes(pickle.dumps(dict(infos=infos, metadata=dict(version='v1.0-mini'))))
    return str(path)


def nuscenes(path, cases, train=False, **kwargs):
    labels = [LABELS] if train else []
    return CustomNuScenesDataset(
        path, classes=('car', ), modality=SENSORS, test_mode=not train, filter_empty_gt=False,
        load_failure_boxes=not train, pipeline=[*LOAD, *labels, dict(type='SimulateFailure', cases=cases)], **kwargs)


@pytest.fixture(scope='module')
def keyframes(tmp_path_factory):
    """Path of the info file of all keyframes, in no order."""
    folder = tmp_path_factory.mktemp('keyframes')
    infos = write_keyframes(folder)
    return info_file(folder, [infos[i] for i in (7, 2, 9, 0, 5, 3, 8, 1, 6, 4)])


def by_name(dataset):
    """Samples of a data set by their names."""
    return {info['token']: dataset[index] for index, info in enumerate(dataset.data_infos)}


def shown_cloud(sample):
    """Which keyframe's points a sample has, if they are of one."""
    number, = set(sample['points'].tensor[:, 0].tolist())
    return NAME[number - 1]


def shown_views(sample):
    """Which keyframe each view shows; each from the camera of that place."""
    values = [np.unique(image).tolist() for image in sample['img']]
    assert [value % 10 for value, in values] == list(range(6))
    return [NAME[value // 10] for value, in values]


# Which keyframe

@pytest.mark.parametrize('level, expected', [
    # keyframe -> what it shows, how many seconds that is older; a star: in place of what there is not
    (1, dict(A0='A1 -0.5 *', A1='A0 0.5', A2='A1 0.5', A3='A2 0.5', A5='A4 0.5', B0='B1 -0.5 *', B1='B0 0.5',
             B2='B1 0.5')),
    (2, dict(A0='A4 -2 *', A1='A5 -2 *', A2='A5 -1.5 *', A3='A0 1.5 *', A4='A0 2', A5='A1 2', B0='B2 -1 *',
             B1='B0 0.5 *', B2='B0 1 *'))])
@pytest.mark.parametrize('train', [False, True], ids=['test', 'train'])
@pytest.mark.parametrize('sensor', ['lidar', 'views'])
def test_earlier_keyframes_of_the_scene(keyframes, sensor, level, expected, train):
    samples = by_name(nuscenes(keyframes, f'stale_{sensor}@{level}', train))
    for name, text in expected.items():
        other, seconds, *star = text.split()
        record, is_lidar = samples[name]['failure'], sensor == 'lidar'
        found = dict(sample=other, seconds=pytest.approx(float(seconds)), fallback=bool(star))
        assert record.details[f'stale_{sensor}'] == found
        assert record.lidar_everywhere == is_lidar and record.views_lost.tolist() == [not is_lidar] * 6
        assert shown_cloud(samples[name]) == (other if is_lidar else name), name
        assert shown_views(samples[name]) == [name if is_lidar else other] * 6, name


@pytest.mark.parametrize('case', ['stale_lidar@1', 'stale_lidar@2', 'stale_lidar@3'])
def test_a_keyframe_alone_shows_another_scene(keyframes, case):
    sample = by_name(nuscenes(keyframes, case))['C0']
    details = sample['failure'].details['stale_lidar']
    assert shown_cloud(sample)[0] in 'AB' and details['seconds'] is None
    assert details['fallback'] == (not case.endswith('3'))


def test_other_scenes_are_drawn_from_all(keyframes):
    """Every sample by itself, from all keyframes outside its scene, of the same log, too."""
    dataset = nuscenes(keyframes, 'stale_lidar@3')
    shown = {name: set() for name in ('A2', 'B1', 'C0')}
    for index, info in enumerate(dataset.data_infos):
        if info['token'] in shown:
            others = dataset.get_data_info(index)['other_samples']
            for draw in range(60):
                sample, seconds = others.of_another_scene(np.random.default_rng(draw))
                shown[info['token']].add(sample['sample_idx'])
                assert seconds is None
    assert shown == {name: {other for other in KEYFRAMES if other[0] != name[0]} for name in shown}


@pytest.mark.parametrize('named', [True, False])
def test_scene_tokens_count_where_there_are_any(tmp_path, named):
    """Scenes that follow each other without a pause; a scene with one."""
    infos = write_keyframes(tmp_path, ('A0', 'A1', 'A2', 'A3', 'B0'))
    if named:
        for info, scene in zip(infos, ('one', 'one', 'two', 'two', 'two')):
            info['scene_token'] = scene
    samples = by_name(nuscenes(info_file(tmp_path, infos), 'stale_lidar@1'))
    assert shown_cloud(samples['A2']) == ('A3' if named else 'A1')
    assert samples['A2']['failure'].details['stale_lidar']['fallback'] == named
    assert samples['B0']['failure'].details['stale_lidar']['seconds'] == (pytest.approx(8.5) if named else None)


def test_scenes_of_sets_that_repeat_and_join(keyframes):
    dataset = nuscenes(keyframes, 'clean')
    own = scene_numbers(dataset)
    names = [info['token'][0] for info in dataset.data_infos]
    assert len(set(zip(own, names))) == len(set(own)) == len(set(names)) == 3
    np.testing.assert_array_equal(scene_numbers(RepeatDataset(dataset, 2)), np.tile(own, 2))
    joined = scene_numbers(ConcatDataset([dataset, dataset]))
    assert len(set(joined)) == 6 and len(set(zip(joined, 2 * names))) == 6
    balanced = CBGSDataset(dataset)
    np.testing.assert_array_equal(scene_numbers(balanced), own[balanced.sample_indices])


@pytest.mark.parametrize('case', ['stale_lidar@1', 'stale_views:2@2', 'stale_lidar@3', 'temporal_misalignment@3'])
def test_a_part_of_the_set_fails_as_the_whole(keyframes, case):
    """Keyframes that load_interval leaves out are there to be shown, and hold scenes together."""
    whole, part = nuscenes(keyframes, case), nuscenes(keyframes, case, load_interval=3)
    samples, some = by_name(whole), by_name(part)
    assert len(some) == 4
    for name in some:
        assert digest_of_one([some[name]]) == digest_of_one([samples[name]])
    numbers = dict(zip(samples, scene_numbers(whole)))
    assert scene_numbers(part).tolist() == [numbers[name] for name in some]
    shown = {sample['failure'].details[case.split('@')[0].split(':')[0]].get('sample') for sample in some.values()}
    assert shown - {None, *some}  # some of what is shown is left out


@pytest.mark.parametrize('load_interval', [1, 3])
def test_scenes_are_told_apart_once(keyframes, monkeypatch, load_interval):
    """Not again for each sample, which would take a sixth of a second with all of nuScenes."""
    calls, tell_apart = [], other_samples._scenes
    monkeypatch.setattr(other_samples, '_scenes', lambda *args: calls.append(1) or tell_apart(*args))
    dataset = nuscenes(keyframes, 'stale_lidar@1+stale_views:2@3', load_interval=load_interval)
    for index in range(len(dataset)):
        dataset[index]
    assert len(calls) == 1


@pytest.mark.parametrize('load_interval', [0, -2, 1.5, 'all'])
def test_intervals_that_leave_nothing(keyframes, load_interval):
    with pytest.raises(ValueError, match=f'load_interval must be an integer >= 1, got {load_interval!r}'):
        nuscenes(keyframes, 'clean', load_interval=load_interval)


def test_samples_that_were_exchanged_are_the_set(keyframes):
    dataset = nuscenes(keyframes, 'stale_lidar@1', load_interval=3)
    dataset.data_infos = copy.deepcopy(dataset.all_infos[:2])
    assert [info['token'] for info in dataset.data_infos] == ['A0', 'A1'] and scene_numbers(dataset).tolist() == [0, 0]
    assert shown_cloud(dataset[0]) == 'A1' and shown_cloud(dataset[1]) == 'A0'


def test_a_single_scene_shows_its_most_distant_keyframe(tmp_path):
    samples = by_name(nuscenes(info_file(tmp_path, write_keyframes(tmp_path, ('A0', 'A1', 'A2', 'A5'))), 'clean'))
    assert shown_cloud(samples['A1']) == 'A1'
    for infos, expected in ((('A0', 'A1', 'A2', 'A3'), 'A3'), (('A0', 'A1'), 'A1')):
        sample = by_name(nuscenes(info_file(tmp_path, write_keyframes(tmp_path, infos)), 'stale_lidar@3'))['A0']
        assert shown_cloud(sample) == expected and sample['failure'].details['stale_lidar']['fallback']


@pytest.mark.parametrize('level', [1, 2, 3])
def test_a_single_frame_looks_backward(tmp_path, level):
    """Listed twice it is a single one still."""
    info, = write_keyframes(tmp_path, ('A3', ))
    dataset = nuscenes(info_file(tmp_path, [info, dict(info)]), f'stale_lidar@{level}+stale_views@{level}')
    sample, record = dataset[0], dataset[0]['failure']
    points = sample['points'].tensor
    assert (points[:, 0] == -NUMBER['A3'] - 1).all() and (points[:, 1] < 0).all() and len(points) == 48
    assert [image[0, 0, 0] % 10 for image in sample['img']] == [3, 4, 5, 0, 1, 2]  # views that look the other way
    assert record.lidar_everywhere and record.views_lost.all()
    for name in ('stale_lidar', 'stale_views'):
        assert record.details[name] == dict(sample='A3', seconds=None, fallback=True)


def test_a_single_view_is_mirrored(tmp_path):
    info, = write_keyframes(tmp_path, ('A3', ))
    info['cams'] = {'CAM_FRONT': info['cams']['CAM_FRONT']}
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    cv2.imwrite(info['cams']['CAM_FRONT']['data_path'], image)
    np.testing.assert_array_equal(nuscenes(info_file(tmp_path, [info]), 'stale_views@1')[0]['img'], [image[:, ::-1]])


# What is shown

@pytest.mark.parametrize('choice, stuck', [
    ('stale_views', [True] * 6), ('stale_views:all', [True] * 6),
    ('stale_views:CAM_BACK,CAM_FRONT', [view in ('CAM_BACK', 'CAM_FRONT') for view in VIEWS]), ('stale_views:2', None)])
def test_views(keyframes, choice, stuck):
    samples = by_name(nuscenes(keyframes, f'{choice}@1'))
    seen = set()
    for name in ('A1', 'A2', 'A3', 'A4', 'A5', 'B1', 'B2'):
        lost = samples[name]['failure'].views_lost
        assert lost.tolist() == stuck if stuck else lost.sum() == 2
        previous = f'{name[0]}{int(name[1]) - 1}'
        assert shown_views(samples[name]) == [previous if is_lost else name for is_lost in lost]
        assert shown_cloud(samples[name]) == name and not samples[name]['failure'].lidar_everywhere
        seen.add(tuple(lost))
    assert len(seen) == 1 if stuck else len(seen) > 2


def test_images_of_another_size_are_resized_and_calibration_stays(keyframes):
    own, stale = (by_name(nuscenes(keyframes, case)) for case in ('clean', 'stale_views@3'))
    for name in KEYFRAMES:
        for image in stale[name]['img']:
            assert image.shape == (*image_size(name), 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        np.testing.assert_array_equal(stale[name]['lidar2img'], own[name]['lidar2img'])
        assert stale[name]['img_shape'] == own[name]['img_shape']
    assert 'C0' in {shown_views(stale[name])[0] for name in stale} and shown_views(stale['C0'])[0] != 'C0'


def test_other_numbers_of_views_are_an_error(tmp_path):
    infos = write_keyframes(tmp_path, ('A0', 'A1'))
    del infos[0]['cams']['CAM_BACK']
    with pytest.raises(ValueError, match="case 'stale_views:2@1', sample 'A0': A1 has the views .*'CAM_BACK'.*, the s"):
        by_name(nuscenes(info_file(tmp_path, infos), 'stale_views:2@1'))


def test_cameras_in_another_order_show_themselves(keyframes, tmp_path):
    """The names of cameras say which view is which, not their places."""
    infos = write_keyframes(tmp_path, ('A0', 'A1'))
    infos[0]['cams'] = dict(reversed(infos[0]['cams'].items()))
    for number, camera in enumerate(infos[0]['cams'].values()):
        camera['data_path'] = str(tmp_path / f'{number}.png')
        cv2.imwrite(camera['data_path'], np.full((8, 12, 3), 100 + number, np.uint8))
    sample = by_name(nuscenes(info_file(tmp_path, infos), 'stale_views@1'))['A1']
    assert [image.max() for image in sample['img']] == [105, 104, 103, 102, 101, 100]


@pytest.mark.parametrize('train', [False, True], ids=['test', 'train'])
def test_rings_and_newest_sweeps_come_along(keyframes, train):
    """Also where training draws sweeps: neither the draw nor the generator may matter, or be touched."""
    dataset = nuscenes(keyframes, 'stale_lidar@1', train)
    own, = (step for step in dataset.pipeline.transforms if 'MultiSweeps' in type(step).__name__)
    index = next(i for i, info in enumerate(dataset.data_infos) if info['token'] == 'A2')
    others = dataset.get_data_info(index)['other_samples']
    for seed in range(3):
        np.random.seed(seed)
        state = np.random.get_state()[1].copy()
        sample, seconds = others.earlier(1)
        np.testing.assert_array_equal(np.random.get_state()[1], state)
        assert seconds == 0.5 and sample['points'].tensor[:, 1].tolist() == [1] * 16 + [2] * 16 + [3] * 16
        assert sample['rings'].tolist() == [(ring + NUMBER['A1']) % 32 for ring in range(16)] * 3
    assert own.test_mode != train and copy.deepcopy(others) is others
    if train:
        drawn = {tuple(dataset[index]['points'].tensor[:, 1].tolist()) for _ in range(10)}
        assert drawn == {tuple([1.] * 16 + [2.] * 16 + [3.] * 16)}
    results = dict(others.earlier(0)[0], other_samples=others)  # the sample itself, after its loaders
    assert results['rings'][0] == NUMBER['A2']
    FailureCase.parse('stale_lidar@1').strike(results, 0)
    np.testing.assert_array_equal(results['rings'], sample['rings'])
    np.testing.assert_array_equal(results['points'].tensor, sample['points'].tensor)


@OBJECTSAMPLERS.register_module()
class OneObject:
    """Stands in for the object database."""

    def sample_all(self, gt_bboxes, gt_labels, with_img=False):
        points = LiDARPoints(np.full((5, 5), 50, np.float32), points_dim=5)
        return dict(gt_bboxes_3d=np.array([[50, 50, 49, 2, 2, 2, 0, 0, 0]], np.float32), gt_labels_3d=np.array([0]),
                    points=points, points_idx=np.zeros(5, int), images=[])


def test_pasted_objects_are_not_seen_by_a_stuck_sensor(keyframes):
    """Training pipelines paste objects before sensors fail; the other sample is as it was recorded."""
    counts = {}
    for case in ('clean', 'stale_lidar@1', 'phantoms:1'):
        pipeline = [*LOAD, LABELS, dict(type='UnifiedObjectSample', db_sampler=dict(type='OneObject')),
                    dict(type='SimulateFailure', cases=case)]
        dataset = CustomNuScenesDataset(keyframes, pipeline, classes=('car', ), modality=SENSORS, filter_empty_gt=False)
        sample = by_name(dataset)['A1']
        assert len(sample['gt_bboxes_3d']) == 2 and 'other_samples' not in sample
        counts[case] = [int((sample['points'].tensor[:, 0] == place).sum()) for place in (1, 2, 50)]
    assert counts == {'clean': [0, 48, 5], 'stale_lidar@1': [48, 0, 0], 'phantoms:1': [0, 48, 5]}


# Temporal misalignment

@pytest.mark.parametrize('level, share', [(1, 0.2), (2, 0.4), (3, 0.6)])
def test_temporal_misalignment(keyframes, level, share):
    """LiDAR and every view by itself show the previous keyframe, as often as MultiCorrupt says."""
    case = FailureCase.parse(f'temporal_misalignment@{level}')
    dataset = nuscenes(keyframes, str(case))
    index = next(i for i, info in enumerate(dataset.data_infos) if info['token'] == 'A3')
    loaded = dataset.pipeline.transforms[:-1]
    results = dataset.get_data_info(index)
    dataset.pre_pipeline(results)
    for transform in loaded:
        results = transform(results)
    stuck, clean = [], 0
    for number in range(150):
        sample = dict(results, sample_idx=f'token{number}')
        record = case.strike(sample, 0)
        lost = [record.lidar_everywhere, *record.views_lost]
        assert shown_cloud(sample) == ('A2' if lost[0] else 'A3')
        assert shown_views(sample) == ['A2' if is_lost else 'A3' for is_lost in lost[1:]]
        said = record.details['temporal_misalignment']
        assert said['stuck'] == ['lidar'] * lost[0] + [view for view in range(6) if lost[1 + view]]
        assert said.get('sample') == ('A2' if any(lost) else None) and not record.is_graded
        stuck.append(lost)
        clean += not any(lost)
    assert np.abs(np.mean(stuck, axis=0) - share).max() < 4 * np.sqrt(share * (1 - share) / 150)
    assert abs(clean / 150 - (1 - share) ** 7) < 4 * np.sqrt((1 - share) ** 7 / 150)


def test_what_is_not_needed_is_not_loaded(keyframes):
    """A sample without a stuck sensor costs nothing, and cases without this need get no other samples."""
    class Nobody:
        def __getattr__(self, name):
            raise AssertionError(f'{name} was asked for')

    results = by_name(nuscenes(keyframes, 'clean'))['A3']
    case = FailureCase.parse('temporal_misalignment@1')
    token = next(number for number in range(100) if (failure_rng(number, case).random(7) >= 0.2).all())
    record = case.strike(dict(results, sample_idx=token, other_samples=Nobody()))
    assert record.details['temporal_misalignment'] == dict(stuck=[]) and not record.views_lost.any()
    case = FailureCase.parse('stale_views:0.2@1')
    token = next(number for number in range(100) if (failure_rng(number, case).random(6) >= 0.2).all())
    record = case.strike(dict(results, sample_idx=token, other_samples=Nobody()))
    assert record.spared == ('stale_views', ) and not record.views_lost.any()
    assert 'other_samples' not in nuscenes(keyframes, 'lidar_fog@1').get_data_info(0)
    with pytest.raises(ValueError, match="needs.*'other_samples'"):
        FailureCase.parse('stale_lidar@1').strike(dict(results), 0)


# Determinism

# Of the presets all, of other failures one.
EVERY_CASE = expand_cases([*PRESETS, *(f'{name}@2' for name, known in FAILURES.items() if known.severities and not any(
    name in FailureCase.parse(case).kinds for cases in PRESETS.values() for case in cases)), 'calibration:2'])


def digest_of_one(samples):
    """Of all that a failure may change, exactly."""
    sample, = samples
    record = sample['failure']
    said = (record.case, record.seed, record.views_lost.tolist(), record.lost_boxes.tolist(), record.details)
    return hashlib.sha256(b''.join([sample['points'].tensor.numpy().tobytes(), *(
        array.tobytes() for key in ('img', 'lidar2img') for array in sample[key]), repr(said).encode()])).hexdigest()


class EveryCase(Dataset):
    """A sample for every case, struck by it in one of three epochs."""

    def __init__(self, root, train):
        self.samples = CustomNuScenesDataset(
            f'{root}/nuscenes_infos_train.pkl', modality=SENSORS, test_mode=not train, load_failure_boxes=not train,
            filter_empty_gt=False, pipeline=[*LOAD[:1], dict(LOAD[1], sweeps_num=10), LOAD[2], *[LABELS] * train])

    def __len__(self):
        return len(EVERY_CASE)

    def __getitem__(self, index):
        simulate = SimulateFailure(EVERY_CASE[index], seed=5)
        simulate.set_epoch(index % 3)
        samples = copy.copy(self.samples)
        samples.pipeline = Compose([*self.samples.pipeline.transforms, simulate])
        return samples[index % len(samples)]


def digests(root, train, workers=0):
    return list(DataLoader(EveryCase(root, train), batch_size=1, num_workers=workers, collate_fn=digest_of_one,
                           worker_init_fn=lambda _: cv2.setNumThreads(0)))


def test_workers_and_processes_draw_the_same_bytes(synthetic_nuscenes, repo_root):
    """In tests and in training; global generators play no part, nor do Python's hashes, other ones in each process."""
    expected = [digests(synthetic_nuscenes, train) for train in (False, True)]
    assert all(len(set(found)) == len(found) > 50 for found in expected)
    np.random.seed(3)
    torch.manual_seed(3)
    assert [digests(synthetic_nuscenes, train, workers=2) for train in (False, True)] == expected
    script = ('import json, sys; import projects.mmdet3d_plugin; import torch; torch.set_num_threads(1)\n'
              f'sys.path.insert(0, {os.path.dirname(__file__)!r})\n'
              'from test_other_samples import digests\n'
              f'print(json.dumps(digests({str(synthetic_nuscenes)!r}, True)))')
    printed = subprocess.run([sys.executable, '-c', script], cwd=repo_root, check=True, capture_output=True, text=True,
                             env={**os.environ, 'PYTHONHASHSEED': '11'}).stdout
    assert json.loads(printed.splitlines()[-1]) == expected[1]


@pytest.mark.parametrize('case', ['stale_lidar@1', 'stale_views@1'])
def test_previous_keyframes_of_the_synthetic_set(synthetic_nuscenes, case):
    """Two keyframes a scene: the second shows the first, the first the second."""
    dataset = CustomNuScenesDataset(
        f'{synthetic_nuscenes}/nuscenes_infos_train.pkl', modality=SENSORS, test_mode=True,
        pipeline=[*LOAD, dict(type='SimulateFailure', cases=case)])
    clean = CustomNuScenesDataset(
        f'{synthetic_nuscenes}/nuscenes_infos_train.pkl', modality=SENSORS, test_mode=True, pipeline=LOAD)
    for index in range(4):
        sample = dataset[index]
        details = sample['failure'].details[case.split('@')[0]]
        other = clean[index + 1 if details['fallback'] else index - 1]
        assert details['sample'] == other['sample_idx'] and details['fallback'] == (index % 2 == 0)
        assert details['seconds'] == pytest.approx(-0.5 if details['fallback'] else 0.5)
        if case.startswith('stale_lidar'):
            np.testing.assert_array_equal(sample['points'].tensor, other['points'].tensor)
        else:
            np.testing.assert_array_equal(sample['img'], other['img'])


@pytest.mark.parametrize('case', ['stale_lidar@1', 'stale_views:3@2', 'temporal_misalignment@3', 'phantoms:2',
                                  'misalignment@3'])
def test_tools_put_the_cases_in(synthetic_nuscenes, repo_root, case):
    """As test_robustness does: the record reaches the metas of the model."""
    cfg = Config.fromfile(repo_root / 'configs/cmt_aqr_synthetic_failures.py')
    cfg = with_failure(cfg, case)
    cfg.data.test.update(data_root=f'{synthetic_nuscenes}/', ann_file=f'{synthetic_nuscenes}/nuscenes_infos_val.pkl')
    meta, = build_dataset(cfg.data.test)[0]['img_metas']
    assert meta.data['failure'].case == case and 'other_samples' not in meta.data
    assert set(meta.data['failure'].details) > {'points_before', 'points_after'}


# Frames from files

def frame_folder(root, cases, **kwargs):
    return FrameFolderDataset(str(root), pipeline=[
        LOAD[0], dict(LOAD[1], pad_empty_sweeps=True), LOAD[2], dict(type='SimulateFailure', cases=cases)],
        test_mode='repeat' not in kwargs, **kwargs)


def write_frames(folder, seconds, name=lambda number: f'{number:06d}.bin'):
    """Frames in format 1.1, with time stamps or (None) without; points and images tell their number."""
    frames = []
    for number, second in enumerate(seconds):
        np.full((4, 5), [number + 1, 1, 0, 0, 3], np.float32).tofile(folder / name(number))
        cv2.imwrite(str(folder / f'{number}.png'), np.full((4, 6, 3), 10 * number, np.uint8))
        frames.append(dict(lidar_points=dict(lidar_path=name(number)), instances=[], **(
            {} if second is None else dict(timestamp=second)), images=dict(CAM_FRONT=dict(
                img_path=f'{number}.png', cam2img=np.eye(3).tolist(), lidar2cam=np.eye(4).tolist()))))
    (folder / 'infos.pkl').write_bytes(pickle.dumps(dict(data_list=frames, metainfo=dict(categories=dict(car=0)))))


@pytest.mark.parametrize('seconds, case, expected', [
    ([10.0, 10.5, 11.0], 'stale_lidar@1', [(2, True), (1, False), (2, False)]),
    ([10.0, 10.5, 20.0], 'stale_lidar@3', [(3, False), (3, False), (None, False)]),
    ([None, None], 'stale_lidar@1', [(2, True), (1, True)]),  # other scenes, for all that is known
    ([None, None], 'stale_lidar@3', [(2, False), (1, False)]),
    ([5.0, 5.0], 'stale_lidar@1', [(-1, True), (-2, True)]),  # one moment: nothing is older
])
def test_frame_folders(tmp_path, seconds, case, expected):
    write_frames(tmp_path, seconds)
    dataset = frame_folder(tmp_path, case)
    for index, (shown, fallback) in enumerate(expected):
        sample = dataset[index]
        numbers = set(sample['points'].tensor[:, 0].tolist())
        assert numbers == {shown} if shown else numbers in ({1}, {2})
        assert sample['failure'].details['stale_lidar']['fallback'] == fallback
        assert len(sample['points']) == 12 and sample['failure'].lidar_everywhere


def test_repeated_frames_are_no_other_frames(tmp_path):
    write_frames(tmp_path, [None, None])
    dataset = frame_folder(tmp_path, 'stale_lidar@3', repeat=3)
    assert len(dataset) == 6
    for index in range(6):
        assert set(dataset[index]['points'].tensor[:, 0].tolist()) == {2 - index % 2}
    write_frames(tmp_path, [None])
    assert set(frame_folder(tmp_path, 'stale_lidar@3', repeat=3)[1]['points'].tensor[:, 0].tolist()) == {-1}


@pytest.mark.parametrize('case', ['stale_lidar@1', 'stale_lidar@3', 'stale_views:CAM_FRONT,CAM_BACK@2',
                                  'temporal_misalignment@3'])
def test_the_real_frame_is_never_silently_clean(real_frame, case):
    clean, stale = (frame_folder(real_frame, name)[0] for name in ('clean', case))
    record = stale['failure']
    details = record.details[case.partition('@')[0].partition(':')[0]]
    assert details['fallback'] and details['sample'] == stale['sample_idx']
    moved = not np.array_equal(clean['points'].tensor, stale['points'].tensor)
    assert moved == record.lidar_everywhere and len(stale['points']) == len(clean['points'])
    changed = [not np.array_equal(*images) for images in zip(clean['img'], stale['img'])]
    assert changed == record.views_lost.tolist() and any([moved, *changed])
    if 'CAM_FRONT' in case:
        names = stale['camera_names']
        front, back = names.index('CAM_FRONT'), names.index('CAM_BACK')
        np.testing.assert_array_equal(stale['img'][front], clean['img'][back])
        np.testing.assert_array_equal(stale['img'][back], clean['img'][front])

