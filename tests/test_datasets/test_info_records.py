"""What users' info files may hold: other formats, damage, code, strange numbers, other folders."""
import copy
import os
import pickle
import shutil

import mmcv
import numpy as np
import pytest
from mmdet3d.datasets import build_dataset
from mmdet3d.utils import get_root_logger

from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset, FrameFolderDataset, UnifiedDataBaseSampler

CAMERA = dict(use_camera=True, use_lidar=True, use_radar=False, use_map=False, use_external=False)


@pytest.fixture
def log(caplog, monkeypatch):
    logger = get_root_logger()
    monkeypatch.setattr(logger, 'propagate', True)
    caplog.set_level('INFO', logger.name)
    return caplog


@pytest.fixture
def build(write_nuscenes_infos):
    """Function that writes records as an info file and builds the dataset."""
    return lambda infos=None, **kwargs: CustomNuScenesDataset(
        write_nuscenes_infos(infos), **{**dict(modality=CAMERA), **kwargs})


# ---- row 1: tests do not draw
@pytest.mark.parametrize('loader', ['LoadPointsFromMultiSweeps', 'LoadPointsFromMultiSweepsWithRings'])
def test_tests_take_the_newest_sweeps_and_training_draws(build, nuscenes_infos, loader):
    info = nuscenes_infos[0]
    info['sweeps'] = [dict(info['sweeps'][0], timestamp=info['timestamp'] - 5e4 * (k + 1)) for k in range(6)]
    pipeline = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
                dict(type=loader, sweeps_num=2, use_dim=[0, 1, 2, 3, 4])]
    given = copy.deepcopy(pipeline)

    def lags(test_mode):
        dataset = build(nuscenes_infos, pipeline=pipeline, test_mode=test_mode)
        return [tuple(np.unique(dataset.prepare_test_data(0)['points'].tensor[:, 4].numpy()).round(2))
                for seed in range(8) if np.random.seed(seed) is None]

    assert set(lags(test_mode=True)) == {tuple(np.float32([0, 0.05, 0.1]))}
    assert len(set(lags(test_mode=False))) > 1
    assert pipeline == given


# ---- row 3: calibration
@pytest.mark.parametrize('key', ['cam_intrinsic', 'sensor2lidar_rotation', 'sensor2lidar_translation'])
def test_a_calibration_that_is_not_finite_is_refused(build, nuscenes_infos, key):
    cameras = nuscenes_infos[1]['cams'] = copy.deepcopy(nuscenes_infos[1]['cams'])
    cameras['CAM_BACK'][key].flat[0] = np.nan
    with pytest.raises(ValueError, match=f"{key} of CAM_BACK of sample '{nuscenes_infos[1]['token']}' is not finite"):
        build(nuscenes_infos, test_mode=True)


def test_a_sweep_with_a_calibration_that_is_not_finite_is_refused(build, nuscenes_infos):
    nuscenes_infos[2]['sweeps'][0]['sensor2lidar_translation'] = np.array([0, np.inf, 0])
    with pytest.raises(ValueError, match='sensor2lidar_translation of sweep 0 of sample .* is not finite'):
        build(nuscenes_infos)


@pytest.mark.parametrize('key, value, message', [
    ('sensor2lidar_rotation', 2 * np.eye(3), 'is no rotation'), ('sensor2lidar_rotation', np.zeros((3, 3)), 'is no r'),
    ('sensor2lidar_rotation', np.diag([1., 1, -1]), 'is no rotation'),
    ('sensor2lidar_rotation', np.eye(4), r'must have shape \(3, 3\), has \(4, 4\)'),
    ('sensor2lidar_translation', np.zeros(4), r'must have shape \(3,\)'),
    ('cam_intrinsic', np.zeros((3, 3)), 'must have focal lengths above 0'),
    ('cam_intrinsic', [['a'] * 3] * 3, 'must be numbers')])
def test_matrices_that_are_no_calibration_are_refused(build, nuscenes_infos, key, value, message):
    cameras = nuscenes_infos[1]['cams'] = copy.deepcopy(nuscenes_infos[1]['cams'])
    cameras['CAM_BACK'][key] = value
    with pytest.raises(ValueError, match=f"{key} of CAM_BACK of sample '{nuscenes_infos[1]['token']}' {message}"):
        build(nuscenes_infos, test_mode=True)


def test_intrinsics_of_different_shapes_are_welcome(build, nuscenes_infos):
    cameras = nuscenes_infos[1]['cams'] = copy.deepcopy(nuscenes_infos[1]['cams'])
    cameras['CAM_BACK']['cam_intrinsic'] = np.pad(cameras['CAM_BACK']['cam_intrinsic'], ((0, 0), (0, 1)))
    assert len(build(nuscenes_infos, test_mode=True)) == 3


@pytest.mark.parametrize('changes, message', [
    (dict(lidar2ego_rotation=[0., 0, 0, 0]), 'lidar2ego_rotation must be a unit quaternion w, x, y, z, got'),
    (dict(ego2global_rotation=np.eye(3)), 'ego2global_rotation must be a unit quaternion'),
    (dict(ego2global_translation=[np.nan] * 3), 'ego2global_translation must be x, y, z, got'),
    (dict(timestamp=np.nan), 'timestamp nan and'), (dict(timestamp=1.5e9), 'of sweep 0 must be numbers, in microsec')])
def test_poses_and_times_that_cannot_be_are_refused(build, nuscenes_infos, changes, message):
    nuscenes_infos[1] = {**nuscenes_infos[1], **changes}
    with pytest.raises(ValueError, match=f"sample '{nuscenes_infos[1]['token']}': .*{message}"):
        build(nuscenes_infos, test_mode=True)


@pytest.mark.parametrize('key', ['gt_names', 'num_lidar_pts', 'gt_velocity'])
def test_annotations_of_different_numbers_are_refused(build, nuscenes_infos, key):
    nuscenes_infos[1] = {**nuscenes_infos[1], key: nuscenes_infos[1][key][:-1]}
    token = nuscenes_infos[1]['token']
    with pytest.raises(ValueError, match=f"'{token}' has annotations of different numbers: .*{key}"):
        build(nuscenes_infos)


# ---- row 4: boxes of mmdetection3d < 1.0 and of other conventions
@pytest.mark.parametrize('change, message', [
    (lambda boxes: boxes - np.pad(boxes[:, 5:6] / 2, ((0, 0), (2, 4))), 'taken for boxes with z of the bottom'),
    (lambda boxes: np.c_[boxes[:, :6], np.rad2deg(boxes[:, 6])], 'taken for boxes with yaw in degrees'),
    (lambda boxes: boxes[:, [1, 0, 2, 3, 4, 5, 6]], 'taken for boxes with x and y the other way round'),
    (lambda boxes: boxes + np.float32([600, 900, 0, 0, 0, 0, 0]), 'boxes hold none. They must be in the LiDAR frame')])
def test_boxes_of_other_conventions_are_refused_in_training(synthetic_nuscenes, tmp_path, change, message):
    content = mmcv.load(str(synthetic_nuscenes / 'nuscenes_infos_train.pkl'))
    for info in content['infos']:
        info['gt_boxes'] = change(info['gt_boxes'])
    mmcv.dump(content, str(tmp_path / 'other.pkl'))
    with pytest.raises(ValueError, match=message):
        CustomNuScenesDataset(str(tmp_path / 'other.pkl'))


@pytest.mark.parametrize('turned', [True, False])
def test_boxes_of_older_versions_are_refused_in_training(synthetic_nuscenes, tmp_path, turned):
    content = mmcv.load(str(synthetic_nuscenes / 'nuscenes_infos_train.pkl'))
    assert len(CustomNuScenesDataset(str(synthetic_nuscenes / 'nuscenes_infos_train.pkl'))) == len(content['infos'])
    for info in content['infos']:
        info['gt_boxes'] = info['gt_boxes'][:, [0, 1, 2, 4, 3, 5, 6]]
        if turned:  # as mmdetection3d < 1.0 wrote them
            info['gt_boxes'][:, 6] = -info['gt_boxes'][:, 6] - np.pi / 2
    path = str(tmp_path / 'old.pkl')
    mmcv.dump(content, path)
    with pytest.raises(ValueError, match='should hold .* < 1.0 .*again with tools/create_data.py'):
        CustomNuScenesDataset(path)
    assert len(CustomNuScenesDataset(path, test_mode=True)) == len(content['infos'])  # tests do not read boxes


def test_boxes_of_the_real_frame_are_accepted_and_older_ones_are_not(build, nuscenes_infos):
    assert len(build(nuscenes_infos)) == 3
    for info in nuscenes_infos:
        info['gt_boxes'] = info['gt_boxes'][:, [0, 1, 2, 4, 3, 5, 6]].copy()
        info['gt_boxes'][:, 6] = -info['gt_boxes'][:, 6] - np.pi / 2
    with pytest.raises(ValueError, match='should hold .* < 1.0'):
        build(nuscenes_infos)


# ---- row 5: code
class Bomb:

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder), )


@pytest.mark.parametrize('kind', ['nuscenes', 'frames', 'database'])
def test_code_in_a_file_is_not_run_unless_trusted(tmp_path, kind, nuscenes_infos, sampler_cfg):
    path, made = str(tmp_path / 'bomb.pkl'), tmp_path / 'made'
    content = dict(infos=nuscenes_infos, metadata=dict(version='v1.0-mini', bomb=Bomb(made)))
    if kind == 'frames':
        content = dict(data_list=[Bomb(made)])
    elif kind == 'database':
        content = dict(car=[Bomb(made)])
    mmcv.dump(content, path)

    def load(**kwargs):
        if kind == 'database':
            cfg = {key: value for key, value in sampler_cfg.items() if key != 'type'}
            return UnifiedDataBaseSampler(**{**cfg, **kwargs, 'info_path': path})
        if kind == 'frames':
            return FrameFolderDataset(str(tmp_path), ann_file=path, **kwargs)
        return CustomNuScenesDataset(path, **kwargs)

    with pytest.raises(ValueError, match='bomb.pkl asks for posix.mkdir.*trust_data=True'):
        load()
    assert not made.exists()
    try:
        load(trust_data=True)
    except ValueError as error:  # what is left where the bomb was is no record
        assert 'asks for' not in str(error)
    assert made.exists()


# ---- row 6: formats
def test_other_formats_and_damage_are_named(tmp_path, build, nuscenes_infos, sampler_cfg):
    def written(content, name='x.pkl'):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        return str(path)

    nuscenes = pickle.dumps(dict(infos=nuscenes_infos, metadata=dict(version='v1.0-mini')))
    for content, message in (
            (dict(data_list=[], metainfo={}), 'x.pkl is in the format of mmdetection3d 1.1'),
            ([], r'x.pkl is not in the format of mmdetection3d 1.0.*found list'),
            (dict(infos=[]), 'x.pkl is not in the format of mmdetection3d 1.0.*metadata.version'),
            (nuscenes[:len(nuscenes) // 2], 'x.pkl is no whole pickle')):
        with pytest.raises(ValueError, match=message):
            CustomNuScenesDataset(written(content))
    del nuscenes_infos[1]['num_lidar_pts']
    with pytest.raises(ValueError, match=r"record 1 lacks \['num_lidar_pts'\]"):
        build(nuscenes_infos)
    with pytest.raises(ValueError, match='x.pkl is in mmdet3d 1.0 info format'):
        FrameFolderDataset(str(tmp_path), ann_file=written(nuscenes))
    with pytest.raises(ValueError, match='x.pkl is no whole pickle'):
        FrameFolderDataset(str(tmp_path), ann_file=written(nuscenes[:-9]))


@pytest.mark.parametrize('key', ['image_path', 'difficulty', 'box3d_lidar'])
def test_databases_of_another_form_are_named(sampler_cfg, key):
    cfg = {name: value for name, value in sampler_cfg.items() if name != 'type'}
    records = mmcv.load(cfg['info_path'])
    for record in records['car']:
        del record[key]
    mmcv.dump(records, cfg['info_path'])
    with pytest.raises(ValueError, match=rf"dbinfos.pkl: record 0 of car lacks \['{key}'\]"):
        UnifiedDataBaseSampler(**cfg)
    mmcv.dump(dict(infos=dict()), cfg['info_path'])
    with pytest.raises(ValueError, match='dbinfos.pkl must be a dict of lists of records by class'):
        UnifiedDataBaseSampler(**cfg)
    with open(cfg['info_path'], 'wb') as file:
        file.write(pickle.dumps(records)[:-50])
    with pytest.raises(ValueError, match='object database .*dbinfos.pkl is no whole pickle'):
        UnifiedDataBaseSampler(**cfg)


# ---- row 7: numbers of cameras
def test_training_wants_equal_numbers_of_cameras(build, nuscenes_infos):
    nuscenes_infos[2]['cams'] = dict(list(nuscenes_infos[2]['cams'].items())[:5])
    first, third = nuscenes_infos[0]['token'], nuscenes_infos[2]['token']
    with pytest.raises(ValueError, match=f"'{first}' has 6, '{third}' has 5"):
        build(nuscenes_infos)
    assert len(build(nuscenes_infos, test_mode=True)) == 3


# ---- row 8: other folders, classes that never occur
def test_files_are_found_below_data_root(build, nuscenes_infos, tmp_path, log):
    def at(path, folder):
        return f'{folder}/{os.path.basename(path)}'

    here = tmp_path / 'set'
    for info in nuscenes_infos:
        for folder, files in (('samples/LIDAR_TOP', [info['lidar_path']]),
                              ('samples/CAM', [camera['data_path'] for camera in info['cams'].values()])):
            (here / folder).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, here / folder)
        info['lidar_path'] = at(info['lidar_path'], 'data/nuscenes/samples/LIDAR_TOP')
        info['sweeps'] = [dict(info['sweeps'][0], data_path='data/nuscenes/sweeps/LIDAR_TOP/a.bin')]
        info['cams'] = {name: dict(camera, data_path=at(camera['data_path'], 'data/nuscenes/samples/CAM'))
                        for name, camera in info['cams'].items()}
    sample = build(nuscenes_infos, data_root=str(here)).get_data_info(0)
    assert os.path.isfile(sample['pts_filename']) and all(map(os.path.isfile, sample['img_filename']))
    assert sample['sweeps'][0]['data_path'] == str(here / 'sweeps/LIDAR_TOP/a.bin')
    assert f'files of the info file are taken from {here}' in log.text
    elsewhere = build(nuscenes_infos, data_root=str(tmp_path), test_mode=True).get_data_info(0)
    assert elsewhere['pts_filename'] == nuscenes_infos[0]['lidar_path']


@pytest.mark.parametrize('corrupted', ['lidar', 'cameras', 'cameras alone'])
def test_two_copies_of_a_set_are_not_confused(build, nuscenes_infos, tmp_path, corrupted):
    """The info file names the files of one, data_root is the other, which holds corrupted files and links."""
    original, other = tmp_path / 'original', tmp_path / 'other'
    for folder in (original, other):
        (folder / 'samples').mkdir(parents=True)
    info = copy.deepcopy(nuscenes_infos[0])
    cameras = list(info['cams'].values())
    for owner, key in [(info, 'lidar_path'), *((camera, 'data_path') for camera in cameras)]:
        name = f'samples/{os.path.basename(owner[key])}'
        owner[key] = str(shutil.copy(owner[key], original / name))
        if (owner is info) == (corrupted == 'lidar'):
            (other / name).write_bytes(b'corrupted')
        elif corrupted != 'cameras alone':
            (other / name).symlink_to(original / name)
    own = info['lidar_path'] if corrupted == 'lidar' else cameras[0]['data_path']
    with pytest.raises(ValueError, match='info file .*pkl names') as error:
        build([info], data_root=str(other))
    assert (f"pkl names {own}, but data_root='{other}' has another such file, {other}/samples/{os.path.basename(own)}: "
            'give the data_root that belongs to the info file') in str(error.value)
    (tmp_path / 'link').symlink_to(original)
    for same in (f'{original}/', str(tmp_path / 'link'), str(tmp_path / 'nowhere'), None):
        assert build([info], data_root=same).get_data_info(0)['pts_filename'] == info['lidar_path']


def test_a_moved_database_is_found_beside_its_index(sampler_cfg, tmp_path):
    cfg = {name: value for name, value in sampler_cfg.items() if name != 'type'}
    moved = tmp_path / 'moved'
    moved.mkdir()
    shutil.move(tmp_path / 'database', moved / 'database')
    shutil.move(cfg['info_path'], moved / 'dbinfos.pkl')
    sampler = UnifiedDataBaseSampler(**dict(cfg, info_path=str(moved / 'dbinfos.pkl')))
    assert len(sampler.sample_all(np.zeros((0, 9), np.float32), np.zeros(0, int), with_img=True)['points'])


def test_class_balanced_sampling_with_a_class_that_never_occurs(write_nuscenes_infos, nuscenes_infos, log):
    for info in nuscenes_infos:
        info['gt_names'] = np.where(info['gt_names'] == 'car', 'truck', info['gt_names'])
    inner = dict(type='CustomNuScenesDataset', ann_file=write_nuscenes_infos(nuscenes_infos), modality=CAMERA)
    dataset = build_dataset(dict(type='CBGSDataset', dataset=inner))
    assert len(dataset) > 0 and "has no object of [" in log.text and "'car'" in log.text
    assert len(dataset.CLASSES) == 10 and len(dataset.flag) == len(dataset)
    with pytest.raises(ValueError, match=r"no sample has an object of \['car'\]"):
        build_dataset(dict(type='CBGSDataset', dataset=dict(inner, classes=['car'])))


# ---- row 9: boxes
def test_bad_boxes_are_left_out_with_one_warning(build, nuscenes_infos, log):
    before = len(nuscenes_infos[1]['gt_names'])
    boxes = nuscenes_infos[1]['gt_boxes'] = nuscenes_infos[1]['gt_boxes'].copy()
    boxes[0, 0], boxes[1, 4], boxes[2, 6], boxes[3, 5] = np.nan, 0, np.inf, -1
    dataset = build(nuscenes_infos, use_valid_flag=True)
    info = dataset.data_infos[1]
    assert all(len(info[key]) == before - 4 for key in ('gt_boxes', 'gt_names', 'gt_velocity', 'num_lidar_pts',
                                                        'valid_flag'))
    assert np.isfinite(dataset.get_ann_info(1)['gt_bboxes_3d'].tensor).all()
    warnings = [record.message for record in log.records if record.levelname == 'WARNING']
    assert len(warnings) == 1 and '4 boxes' in warnings[0] and nuscenes_infos[1]['token'] in warnings[0]


def test_a_velocity_with_one_unknown_part_is_unknown(build, nuscenes_infos):
    velocity = nuscenes_infos[0]['gt_velocity'] = nuscenes_infos[0]['gt_velocity'].copy()
    velocity[:, 0], velocity[:, 1] = 1., np.nan
    assert (build(nuscenes_infos).get_ann_info(0)['gt_bboxes_3d'].tensor[:, 7:] == 0).all()
