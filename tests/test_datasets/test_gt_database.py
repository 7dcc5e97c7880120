"""The object database of a generated set: against slow loops, read by sampler and pipeline, interrupted anywhere."""
import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path

import mmcv
import numpy as np
import pytest
from mmdet3d.core.bbox import LiDARInstance3DBoxes, box_np_ops
from mmdet3d.datasets import NuScenesDataset, build_dataset
from mmdet3d.datasets.builder import OBJECTSAMPLERS

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset, gt_database
from projects.mmdet3d_plugin.datasets.camera_geometry import project
from projects.mmdet3d_plugin.datasets.gt_database import best_crops, create_gt_database

KEYS = {'name', 'path', 'image_path', 'image_crop_key', 'image_crop_depth', 'image_idx', 'gt_idx', 'box3d_lidar',
        'num_points_in_gt', 'difficulty', 'group_id'}  # those of CMT's databases


@pytest.fixture(scope='module')
def database(synthetic_nuscenes):
    """Records by class."""
    return mmcv.load(str(synthetic_nuscenes / 'nuscenes_dbinfos_train.pkl'))


@pytest.fixture(scope='module')
def frames(synthetic_nuscenes):
    """The training set with cameras, without a pipeline."""
    return CustomNuScenesDataset(str(synthetic_nuscenes / 'nuscenes_infos_train.pkl'),
                                 modality=dict(use_lidar=True, use_camera=True))


@pytest.fixture
def few_infos(synthetic_nuscenes, tmp_path):
    """An info file with the last four samples of the training set."""
    content = mmcv.load(str(synthetic_nuscenes / 'nuscenes_infos_train.pkl'))
    path = tmp_path / 'few.pkl'
    path.write_bytes(pickle.dumps(dict(content, infos=content['infos'][-4:])))
    return path


def files_of(folder):
    """Contents by path, of everything that a run wrote into a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def comparable(folder):
    """Contents by path, without what names the folder itself."""
    files = files_of(folder)
    del files['nuscenes_gt_database/source.json'], files['nuscenes_dbinfos_train.pkl']
    index = mmcv.load(str(folder / 'nuscenes_dbinfos_train.pkl'))
    return files, repr(index).replace(str(folder), '')


def merged_points(info):
    """(P, 5) of keyframe and sweeps in float64, one row after the other."""
    clouds = [np.fromfile(info['lidar_path'], np.float32).reshape(-1, 5).astype(float)]
    clouds[0][:, 4] = 0
    for sweep in info['sweeps']:
        cloud = np.fromfile(sweep['data_path'], np.float32).reshape(-1, 5).astype(float)
        cloud[:, :3] = [sweep['sensor2lidar_rotation'] @ p + sweep['sensor2lidar_translation'] for p in cloud[:, :3]]
        cloud[:, 4] = (info['timestamp'] - sweep['timestamp']) / 1e6
        clouds.append(cloud)
    return np.concatenate(clouds)


def test_every_object_has_its_points(frames, database):
    index = next(i for i, info in enumerate(frames.data_infos) if len(info['sweeps']) == 3)
    info, boxes = frames.data_infos[index], frames.data_infos[index]['gt_boxes']
    records = [record for objects in database.values() for record in objects if record['image_idx'] == info['token']]
    valid = np.flatnonzero(info['valid_flag'])
    assert sorted(record['gt_idx'] for record in records) == list(range(len(valid))) and len(valid) > 5
    points = merged_points(info)
    for record in records:
        assert set(record) == KEYS
        own = valid[record['gt_idx']]
        (x, y, z, length, width, height, yaw), name = boxes[own], info['gt_names'][own]
        np.testing.assert_allclose(record['box3d_lidar'], [x, y, z - height / 2, length, width, height, yaw,
                                                           *info['gt_velocity'][own]], atol=1e-4)
        assert record['name'] == name and record in database[name] and record['difficulty'] == 0
        offset = points[:, :3] - [x, y, z]
        along = offset[:, 0] * np.cos(yaw) + offset[:, 1] * np.sin(yaw)
        across = offset[:, 1] * np.cos(yaw) - offset[:, 0] * np.sin(yaw)
        margin = np.max([abs(along) - length / 2, abs(across) - width / 2, abs(offset[:, 2]) - height / 2], axis=0)
        stored = np.fromfile(record['path'], np.float32).reshape(-1, 5)
        assert record['num_points_in_gt'] == len(stored)
        assert (margin < -1e-3).sum() <= len(stored) <= (margin < 1e-3).sum()
        expected = points[margin < 1e-3]
        for point in stored + [x, y, z - height / 2, 0, 0]:
            assert np.abs(expected - point).max(axis=1).min() < 1e-3
    assert max(len(np.unique(np.fromfile(r['path'], np.float32).reshape(-1, 5)[:, 4])) for r in records) == 4  # lags


def test_every_object_has_the_crop_of_its_best_camera(frames, database):
    images_of = {}
    for record in [record for objects in database.values() for record in objects[:8]]:
        index = [info['token'] for info in frames.data_infos].index(record['image_idx'])
        data_info, names = frames.get_data_info(index), list(frames.data_infos[index]['cams'])
        box = LiDARInstance3DBoxes(record['box3d_lidar'][None], box_dim=9).corners[0].numpy()
        best = slow_best_crop(box, data_info['lidar2img'], [(400, 225)] * 6)
        if best is None:
            assert record['image_path'] == record['image_crop_key'] == '' and record['image_crop_depth'] == 0
            continue
        camera, (left, top, right, bottom), depth = best
        assert record['image_crop_key'] == names[camera]
        assert record['image_crop_depth'] == pytest.approx(depth, abs=1e-4)
        path = data_info['img_filename'][camera]
        img = images_of.setdefault(path, mmcv.imread(path))
        np.testing.assert_array_equal(mmcv.imread(record['image_path']), img[top:bottom, left:right])


def slow_best_crop(corners, lidar2img, sizes):
    """One box, camera after camera: (camera, rectangle, mean depth), None where no camera will do."""
    best, best_score = None, None
    for camera, (matrix, (width, height)) in enumerate(zip(lidar2img, sizes)):
        pixels, depth = project(corners, matrix)
        if (depth <= 0).any():
            continue
        (left, top), (right, bottom) = np.floor(pixels.min(axis=0)), np.floor(pixels.max(axis=0))
        inside = [max(left, 0), max(top, 0), min(right, width), min(bottom, height)]
        shown = inside[2] - inside[0], inside[3] - inside[1]
        if min(shown) <= width / 160:
            continue
        score = shown[0] * shown[1] / ((right - left) * (bottom - top)), shown[0] * shown[1]
        if best is None or score > best_score:
            best, best_score = (camera, [int(value) for value in inside], depth.mean()), score
    return best


@pytest.mark.parametrize('seed', range(3))
def test_best_crops_is_the_loop_over_boxes_and_cameras(frames, seed):
    rng = np.random.default_rng(seed)
    matrices, sizes = frames.get_data_info(0)['lidar2img'], [(400, 225)] * 5 + [(300, 200)]
    low, high = [-25, -25, -2, 1, 0.5, 1, -3], [25, 25, 2, 8, 3, 3, 3]
    corners = LiDARInstance3DBoxes(rng.uniform(low, high, (200, 7))).corners.numpy()
    cameras, rectangles, depths = best_crops(corners, matrices, sizes)
    chosen = set()
    for box, camera, rectangle, depth in zip(corners, cameras, rectangles, depths):
        expected = slow_best_crop(box, matrices, sizes)
        if expected is None:
            assert camera == -1 and depth == 0
        else:
            assert camera == expected[0] and rectangle.tolist() == expected[1]
            assert depth == pytest.approx(expected[2])
        chosen.add(camera)
    assert chosen == {-1, 0, 1, 2, 3, 4, 5}


def test_a_whole_view_is_preferred_to_a_larger_part():
    """Camera 0 shows the box wholly, 1 twice as large but cut at the border, 2 wholly and a little larger."""
    corners = LiDARInstance3DBoxes(np.array([[10., 0, -1, 2, 2, 2, 0]])).corners.numpy()

    def camera(focal, column):
        return np.array([[column, -focal, 0, 0], [100., 0, -focal, 0], [1, 0, 0, 0], [0, 0, 0, 1]])

    views, sizes = [camera(100., 100.), camera(200., 195.), camera(110., 100.)], [(200, 200)] * 3
    assert best_crops(corners, views[:2], sizes[:2])[0] == 0
    assert best_crops(corners, views, sizes)[0] == 2
    assert best_crops(corners, views[1:2], sizes[1:2])[1].tolist() == [[172, 77, 200, 122]]
    assert best_crops(corners[:0], views, sizes)[1].shape == (0, 4)


def test_the_sampler_draws_from_it(synthetic_nuscenes, database):
    classes = NuScenesDataset.CLASSES
    np.random.seed(0)
    sampler = OBJECTSAMPLERS.build(dict(
        type='UnifiedDataBaseSampler', data_root=None, info_path=str(synthetic_nuscenes / 'nuscenes_dbinfos_train.pkl'),
        rate=1.0, prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict.fromkeys(classes, 1)),
        sample_groups=dict.fromkeys(classes, 3), classes=classes,
        points_loader=dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)))
    labels = set()
    for _ in range(10):  # in a single draw, all objects of a class may collide with others
        drawn = sampler.sample_all(np.zeros((0, 9), np.float32), np.zeros(0, int), with_img=True)
        labels.update(drawn['gt_labels_3d'].tolist())
        assert np.isfinite(drawn['gt_bboxes_3d']).all() and len(drawn['images']) == len(drawn['gt_labels_3d'])
        boxes = drawn['gt_bboxes_3d'] + np.array([0, 0, -0.01, 0.02, 0.02, 0.02, 0, 0, 0])  # rounding at the faces
        inside = box_np_ops.points_in_rbbox(drawn['points'].coord.numpy(), boxes)
        assert inside[np.arange(len(inside)), drawn['points_idx']].all()
    assert labels == set(range(10))
    groups = [record['group_id'] for objects in database.values() for record in objects]
    assert sorted(groups) == list(range(len(groups)))


def test_the_published_pipeline_pastes_from_it(synthetic_nuscenes, repo_root):
    """The 800x320 training pipeline with nothing changed but the folder."""
    cfg = load_config(str(repo_root / 'configs/cmt_voxel0100_r50_800x320_cbgs.py')).data.train.dataset
    cfg.ann_file = str(synthetic_nuscenes / 'nuscenes_infos_train.pkl')
    paste = next(transform for transform in cfg.pipeline if transform.type == 'UnifiedObjectSample')
    assert paste.db_sampler.data_root is None
    paste.db_sampler.info_path = str(synthetic_nuscenes / 'nuscenes_dbinfos_train.pkl')
    np.random.seed(0)
    dataset = build_dataset(cfg)
    sample = dataset[3]
    assert sample['img'].data.shape == (6, 3, 320, 800) and len(sample['points'].data) > 1000
    present = dataset.get_ann_info(3)['gt_labels_3d']
    paste.db_sampler.rate = 0
    without = build_dataset(cfg)[3]
    assert len(sample['gt_labels_3d'].data) > len(present) >= len(without['gt_labels_3d'].data)
    assert not np.allclose(sample['img'].data, without['img'].data)


@pytest.mark.parametrize('workers', [0, 2])
def test_it_goes_on_after_sigkill(few_infos, tmp_path, workers):
    """Killed in the third sample: no index. The next run writes what is missing; the result is that of a single run."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    create_gt_database(few_infos, whole)

    process = multiprocessing.get_context('fork').Process(target=_die_in_third_sample, args=(few_infos, killed))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert os.listdir(killed) == ['.nuscenes_gt_database.part']
    records = killed / '.nuscenes_gt_database.part/records'
    finished = sorted(records.glob('[!.]*.pkl'))
    assert len(finished) == 2
    done = {path.stem: path.stat().st_mtime_ns for path in finished}
    points = [path for path in (killed / '.nuscenes_gt_database.part/pts_dir').iterdir()
              if path.name.split('_')[0] in done]
    stamps = {path.name: path.stat().st_mtime_ns for path in points}

    create_gt_database(few_infos, killed, workers=workers)
    assert sorted(os.listdir(killed)) == ['nuscenes_dbinfos_train.pkl', 'nuscenes_gt_database']
    assert sorted(os.listdir(killed / 'nuscenes_gt_database')) == ['img_dir', 'pts_dir', 'source.json']
    assert comparable(killed) == comparable(whole)
    assert {name: (killed / 'nuscenes_gt_database/pts_dir' / name).stat().st_mtime_ns for name in stamps} == stamps


def _die_in_third_sample(info_file, folder):
    def imwrite(*args):
        if len(list((folder / '.nuscenes_gt_database.part/records').iterdir())) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*args)

    write, gt_database.mmcv.imwrite = mmcv.imwrite, imwrite
    create_gt_database(info_file, folder)


def test_a_complete_database_is_kept_and_another_info_file_replaces_it(few_infos, tmp_path):
    index = create_gt_database(few_infos, tmp_path / 'out')
    stamp = index.stat().st_mtime_ns
    create_gt_database(few_infos, tmp_path / 'out')
    assert index.stat().st_mtime_ns == stamp

    (tmp_path / 'out/nuscenes_gt_database/pts_dir/from_before.bin').touch()
    content = pickle.loads(few_infos.read_bytes())
    few_infos.write_bytes(pickle.dumps(dict(content, infos=content['infos'][:1])))
    create_gt_database(few_infos, tmp_path / 'out')
    records = [record for objects in mmcv.load(str(index)).values() for record in objects]
    assert {record['image_idx'] for record in records} == {content['infos'][0]['token']}
    assert {str(path) for path in (tmp_path / 'out/nuscenes_gt_database/pts_dir').iterdir()} == {
        record['path'] for record in records}


def test_remains_of_another_info_file_are_not_used(few_infos, tmp_path, monkeypatch):
    out, content = tmp_path / 'out', pickle.loads(few_infos.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'rename', _interrupt)  # of the finished folder
        with pytest.raises(KeyboardInterrupt):
            create_gt_database(few_infos, out)
    moved = [dict(info, gt_boxes=info['gt_boxes'] + [0.1, 0, 0, 0, 0, 0, 0]) for info in content['infos']]
    few_infos.write_bytes(pickle.dumps(dict(content, infos=moved)))
    create_gt_database(few_infos, out)
    create_gt_database(few_infos, tmp_path / 'new')
    assert comparable(out) == comparable(tmp_path / 'new')


def _interrupt(*args):
    raise KeyboardInterrupt


def test_no_index_stands_beside_a_database_that_is_being_replaced(few_infos, tmp_path, monkeypatch):
    index = create_gt_database(few_infos, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'rename', _interrupt)
        with pytest.raises(KeyboardInterrupt):
            create_gt_database(few_infos, tmp_path, sweeps_num=1)
    assert not index.exists()
    create_gt_database(few_infos, tmp_path, sweeps_num=1)
    counts = [record['num_points_in_gt'] for objects in mmcv.load(str(index)).values() for record in objects]
    shutil.rmtree(tmp_path / 'nuscenes_gt_database')
    create_gt_database(few_infos, tmp_path)
    more = [record['num_points_in_gt'] for objects in mmcv.load(str(index)).values() for record in objects]
    assert sum(more) > sum(counts) > 0


def test_samples_without_objects_and_objects_of_no_class(few_infos, tmp_path):
    content = pickle.loads(few_infos.read_bytes())
    for info in content['infos'][:2]:
        info.update({key: value[:0] for key, value in info.items() if key.startswith(('gt_', 'num_', 'valid'))})
    content['infos'][2]['gt_names'] = content['infos'][2]['gt_names'].astype('U40')
    content['infos'][2]['gt_names'][0] = 'movable_object.debris'
    content['infos'][2]['num_lidar_pts'][0] = 0  # the radar saw it: valid
    few_infos.write_bytes(pickle.dumps(content))
    records = mmcv.load(str(create_gt_database(few_infos, tmp_path)))
    assert len(records['movable_object.debris']) == 1
    assert sum(map(len, records.values())) == sum(info['valid_flag'].sum() for info in content['infos'][2:])
    few_infos.write_bytes(pickle.dumps(dict(content, infos=[])))
    assert mmcv.load(str(create_gt_database(few_infos, tmp_path))) == {}


@pytest.mark.parametrize('change', [
    lambda info: info.update(token='../../escaped'), lambda info: info.update(token='x' * 300),
    lambda info: info.update(gt_names=np.array(['../car'] * len(info['gt_names'])))])
def test_names_that_would_leave_the_folder_are_refused(few_infos, tmp_path, change):
    content = mmcv.load(str(few_infos))
    change(content['infos'][1])
    few_infos.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match='become file names: .* must have 1 to 100 characters, no slash'):
        create_gt_database(few_infos, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_damaged_image_is_named(few_infos, tmp_path):
    content = mmcv.load(str(few_infos))
    cut = tmp_path / 'cut.jpg'
    path = content['infos'][0]['cams']['CAM_FRONT']['data_path']
    cut.write_bytes(open(path, 'rb').read()[:3000])
    content['infos'][0]['cams']['CAM_FRONT']['data_path'] = str(cut)
    few_infos.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match='cut.jpg .* was cut short'):
        create_gt_database(few_infos, tmp_path / 'out')
