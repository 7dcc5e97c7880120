import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from mmcv.parallel import DataContainer
from mmdet3d.core.bbox import LiDARInstance3DBoxes, box_np_ops
from mmdet3d.datasets import build_dataloader, build_dataset

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.datasets import FrameFolderDataset
from projects.mmdet3d_plugin.datasets.camera_geometry import project
from projects.mmdet3d_plugin.datasets.frame_folder_dataset import center_errors
from projects.mmdet3d_plugin.datasets.pipelines.simulate_failure import SimulateFailure

PIPELINE = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
    dict(type='LoadPointsFromMultiSweeps', sweeps_num=2, use_dim=[0, 1, 2, 3, 4], pad_empty_sweeps=True),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='DefaultFormatBundle3D', class_names=['car']),
    dict(type='Collect3D', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]


@pytest.fixture
def copied_frame(real_frame, tmp_path):
    """A copy of the real frame's directory and a function that rewrites its info file."""
    root = tmp_path / 'frame'
    root.mkdir()
    for path in real_frame.iterdir():
        (root / path.name).symlink_to(path)
    info_file, = root.glob('*.pkl')
    content = pickle.loads(info_file.read_bytes())
    info_file.unlink()

    def rewrite(change=lambda content: None):
        changed = copy.deepcopy(content)
        change(changed)
        info_file.write_bytes(pickle.dumps(changed))
        return str(root)

    return rewrite


def points_of(data_info):
    return np.fromfile(data_info['pts_filename'], np.float32).reshape(-1, 5)


def test_box_convention_by_counting_points(frame_dataset):
    """Boxes hold as many points as the annotation says; with any misread box convention they would not."""
    data_info = frame_dataset.get_data_info(0)
    annotations, points = data_info['ann_info'], points_of(data_info)
    expected = annotations['num_lidar_pts']

    def share_of_exact_counts(boxes):
        return (box_np_ops.points_in_rbbox(points, boxes).sum(0) == expected).mean()

    boxes = annotations['gt_bboxes_3d'].tensor.numpy()
    assert boxes.shape == (68, 9)
    counts = box_np_ops.points_in_rbbox(points, boxes).sum(0)
    assert share_of_exact_counts(boxes) > 0.85
    np.testing.assert_allclose(counts, expected, rtol=0.1, atol=2)
    swapped, mirrored, bottom_for_center = boxes.copy(), boxes.copy(), boxes.copy()
    swapped[:, 3:5] = boxes[:, [4, 3]]
    mirrored[:, 6] *= -1
    bottom_for_center[:, 2] += boxes[:, 5] / 2
    assert share_of_exact_counts(swapped) < 0.6
    assert share_of_exact_counts(mirrored) < 0.82
    assert share_of_exact_counts(bottom_for_center) < 0.3


def test_points_project_into_the_images(frame_dataset, real_frame):
    """The frame's own camera boxes are found again: their centers are where lidar2img puts the LiDAR boxes' centers."""
    data_info = frame_dataset.get_data_info(0)
    centers = data_info['ann_info']['gt_bboxes_3d'].gravity_center.numpy()
    found = total = 0
    for name, matrix in zip(frame_dataset.data_infos[0]['images'], data_info['lidar2img']):
        pixels, depth = project(centers, matrix)
        for instance in frame_dataset.data_infos[0]['cam_instances'][name]:
            total += 1
            near = (np.linalg.norm(pixels - instance['center_2d'], axis=1) < 5) & (abs(depth - instance['depth']) < 0.5)
            found += near.any()
    assert total > 50 and found / total > 0.9
    points = points_of(data_info)[:, :3]
    views = np.zeros(len(points), dtype=int)
    for matrix in data_info['lidar2img']:
        pixels, _ = project(points, matrix)
        views += ((pixels >= 0) & (pixels < [1600, 900])).all(axis=1)
    assert views.max() == 2  # only neighboring views overlap
    assert 0.5 < (views > 0).mean() < 0.7


def test_same_keys_and_types_as_nuscenes(frame_dataset):
    data_info = frame_dataset.get_data_info(0)
    assert data_info['sweeps'] == []
    assert data_info['sample_idx'] == 'ca9a282c9e77460f8360f564131a8af5'
    for key in ('lidar2img', 'lidar2cam', 'cam_intrinsic'):
        assert [(m.shape, m.dtype) for m in data_info[key]] == [((4, 4), np.dtype(np.float64))] * 6
    frame = frame_dataset.data_infos[0]['images']['CAM_FRONT']
    np.testing.assert_array_equal(data_info['lidar2cam'][0], frame['lidar2cam'])
    np.testing.assert_array_equal(data_info['cam_intrinsic'][0][:3, :3], frame['cam2img'])
    np.testing.assert_allclose(data_info['lidar2img'][0], data_info['cam_intrinsic'][0] @ data_info['lidar2cam'][0])


def test_labels_follow_the_categories_of_the_file(frame_dataset, real_frame):
    info = frame_dataset.data_infos[0]
    names = list(FrameFolderDataset(str(real_frame)).CLASSES)
    assert names == ['car', 'truck', 'trailer', 'bus', 'construction_vehicle', 'bicycle', 'motorcycle', 'pedestrian',
                     'traffic_cone', 'barrier']
    expected = [names[i['bbox_label_3d']] for i in info['instances'] if i['bbox_label_3d'] != -1]
    for dataset in (frame_dataset, FrameFolderDataset(str(real_frame))):
        annotations = dataset.get_ann_info(0)
        assert annotations['gt_names'].tolist() == expected
        assert [dataset.CLASSES[label] for label in annotations['gt_labels_3d']] == expected
        assert dataset.get_cat_ids(0) == sorted(set(annotations['gt_labels_3d']))
    some = FrameFolderDataset(str(real_frame), classes=['pedestrian', 'car'])
    assert np.bincount(some.get_ann_info(0)['gt_labels_3d']).tolist() == [30, 8]


def test_unknown_velocity_is_zero_and_infos_stay(copied_frame):
    def no_velocity(content):
        content['data_list'][0]['instances'][0]['velocity'] = [float('nan'), float('nan')]
    dataset = FrameFolderDataset(copied_frame(no_velocity))
    tensor = dataset.get_ann_info(0)['gt_bboxes_3d'].tensor
    assert tensor[0, 7:].tolist() == [0, 0]
    np.testing.assert_allclose(tensor[1, 7:], dataset.data_infos[0]['instances'][1]['velocity'], rtol=1e-6)
    assert np.isnan(dataset.data_infos[0]['instances'][0]['velocity']).all()
    without = FrameFolderDataset(dataset.data_root, with_velocity=False)
    assert without.get_ann_info(0)['gt_bboxes_3d'].tensor.shape == (68, 7)


def test_min_lidar_points(frame_dataset, real_frame):
    counts = frame_dataset.get_ann_info(0)['num_lidar_pts']
    few = FrameFolderDataset(str(real_frame), min_lidar_points=5).get_ann_info(0)['num_lidar_pts']
    assert few.tolist() == counts[counts >= 5].tolist() and 0 < len(few) < len(counts)


def test_mmdet_wrappers_and_loader(real_frame):
    frame = dict(type='FrameFolderDataset', data_root=str(real_frame), pipeline=PIPELINE, min_lidar_points=5)
    dataset = build_dataset(dict(type='RepeatDataset', times=4, dataset=frame))
    assert len(dataset) == 4
    loader = build_dataloader(dataset, samples_per_gpu=2, workers_per_gpu=0, dist=False, shuffle=True)
    batch = next(iter(loader))
    assert isinstance(batch['points'], DataContainer)
    points = batch['points'].data[0]
    assert len(points) == 2 and points[0].shape == (3 * 34688, 5)  # the frame and two sweeps filled up with itself
    assert len(build_dataset(dict(type='ConcatDataset', datasets=[frame, frame]))) == 2
    assert len(build_dataset(dict(type='CBGSDataset', dataset=dict(frame, classes=['car', 'pedestrian'])))) > 0


@pytest.mark.parametrize('test_mode', [True, False])
def test_a_frame_without_boxes(copied_frame, test_mode):
    root = copied_frame(lambda content: content['data_list'][0]['instances'].clear())
    dataset = FrameFolderDataset(root, pipeline=PIPELINE, test_mode=test_mode)
    data_info = dataset.get_data_info(0)
    if test_mode:
        assert 'ann_info' not in data_info
    else:
        sample = dataset[0]
        assert sample['gt_bboxes_3d'].data.tensor.shape == (0, 9)
        assert sample['gt_labels_3d'].data.dtype == torch.int64
        with pytest.raises(ValueError, match='filter_empty_gt=True leaves no frame'):
            FrameFolderDataset(root, filter_empty_gt=True)


def test_lidar_only(copied_frame):
    root = copied_frame(lambda content: content['data_list'][0]['images']['CAM_BACK'].update(img_path='gone.jpg'))
    assert 'lidar2img' not in FrameFolderDataset(root, modality=dict(use_lidar=True, use_camera=False)).get_data_info(0)


def test_missing_files_are_named(copied_frame, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.*looked for a folder of frames.*--frame DIR.*demo/data'):
        FrameFolderDataset('nowhere')
    with pytest.raises(FileNotFoundError, match=r'no \*\.pkl in .*info file'):
        FrameFolderDataset(str(tmp_path / 'frame'))
    root = copied_frame(lambda content: content['data_list'][0]['images']['CAM_BACK'].update(img_path='gone.jpg'))
    with pytest.raises(FileNotFoundError, match='gone.jpg does not exist; looked for the CAM_BACK image'):
        FrameFolderDataset(root)
    root = copied_frame(lambda content: content['data_list'][0]['lidar_points'].update(lidar_path='gone.bin'))
    with pytest.raises(FileNotFoundError, match='gone.bin does not exist; looked for the LiDAR points'):
        FrameFolderDataset(root)
    root = copied_frame()
    with pytest.raises(FileNotFoundError, match=r'other.pkl does not exist; looked for the info file'):
        FrameFolderDataset(root, ann_file='other.pkl')
    path, = (tmp_path / 'frame').glob('*.pkl')
    shutil.copy(path, path.with_name('second.pkl'))
    with pytest.raises(ValueError, match='ann_file must be given'):
        FrameFolderDataset(root)
    assert len(FrameFolderDataset(root, ann_file=str(path))) == 1


def test_bad_input_is_refused(copied_frame, real_frame):
    with pytest.raises(ValueError, match="classes .'tram'. are unknown"):
        FrameFolderDataset(str(real_frame), classes=['car', 'tram'])
    with pytest.raises(ValueError, match='box_type_3d'):
        FrameFolderDataset(str(real_frame), box_type_3d='Camera')
    with pytest.raises(ValueError, match='min_lidar_points'):
        FrameFolderDataset(str(real_frame), min_lidar_points=-1)
    with pytest.raises(ValueError, match='1.1 info format'):
        FrameFolderDataset(copied_frame(lambda content: content.pop('data_list')))
    with pytest.raises(ValueError, match='data_list is empty'):
        FrameFolderDataset(copied_frame(lambda content: content['data_list'].clear()))


def bare(content):
    """Keep of an info file only what detection needs; no ground truth."""
    del content['metainfo']
    content['data_list'] = [
        dict(images={name: {key: camera[key] for key in ('img_path', 'cam2img', 'lidar2cam')}
                     for name, camera in frame['images'].items()},
             lidar_points=dict(lidar_path=frame['lidar_points']['lidar_path']))
        for frame in content['data_list'] * 2
    ]


def test_a_frame_without_annotations(copied_frame, frame_dataset):
    root = copied_frame(bare)
    dataset = FrameFolderDataset(root, pipeline=PIPELINE[:2], classes=['car', 'bus'], test_mode=True)
    assert dataset.CLASSES == ('car', 'bus') and not dataset.has_ground_truth(1)
    data_info, annotated = dataset.get_data_info(1), frame_dataset.get_data_info(0)
    assert data_info['sample_idx'] == '1' and data_info['timestamp'] == 0 and data_info['img_timestamp'] == [0] * 6
    np.testing.assert_array_equal(data_info['lidar2img'], annotated['lidar2img'])
    assert dataset[0]['points'].shape == (3 * 34688, 5)
    for question in (dataset.get_ann_info, dataset.get_cat_ids):
        with pytest.raises(ValueError, match=r'frame 1 of .*\.pkl has no ground truth: it lacks instances'):
            question(1)
    nothing = detections(torch.zeros(0, 9), torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match='frame 0 of .*lacks instances'):
        dataset.evaluate([nothing] * 2)
    with pytest.raises(ValueError, match=r'\.pkl: frame 0 lacks instances, the ground truth to train on'):
        FrameFolderDataset(root, classes=['car', 'bus'])
    with pytest.raises(ValueError, match=r'\.pkl lacks metainfo.categories, .* no classes are given'):
        FrameFolderDataset(root, test_mode=True)


@pytest.mark.parametrize('keys, expected', [
    ((), 'ca9a282c9e77460f8360f564131a8af5'), (('token', ), 0), (('token', 'sample_idx'), '0'),
    (('sample_idx', ), 'ca9a282c9e77460f8360f564131a8af5')])
def test_name_of_a_frame(copied_frame, keys, expected):
    root = copied_frame(lambda content: [content['data_list'][0].pop(key) for key in keys])
    assert FrameFolderDataset(root).get_data_info(0)['sample_idx'] == expected


def test_missing_velocity_is_unknown(copied_frame):
    dataset = FrameFolderDataset(copied_frame(lambda content: content['data_list'][0]['instances'][1].pop('velocity')))
    tensor = dataset.get_ann_info(0)['gt_bboxes_3d'].tensor
    assert tensor[1, 7:].tolist() == [0, 0] and tensor[:, 7:].abs().max() > 1


def test_missing_number_of_points(copied_frame, frame_dataset):
    root = copied_frame(lambda content: content['data_list'][0]['instances'][1].pop('num_lidar_pts'))
    dataset = FrameFolderDataset(root, classes=frame_dataset.CLASSES)
    truth, counts = dataset.get_ann_info(0), frame_dataset.get_ann_info(0)['num_lidar_pts'].copy()
    counts[1] = -1
    np.testing.assert_array_equal(truth['num_lidar_pts'], counts)
    found = [detections(truth['gt_bboxes_3d'].tensor, truth['gt_labels_3d'], torch.ones(68))]
    assert dataset.evaluate(found, min_lidar_points=0)['num_gt'] == 68
    with pytest.raises(ValueError, match=r'min_lidar_points=5.* needs num_lidar_pts .*, frame 0 of .*\.pkl lacks it'):
        dataset.evaluate(found)
    with pytest.raises(ValueError, match=r'\.pkl: frame 0 lacks instances\.1\.num_lidar_pts'):
        FrameFolderDataset(root, min_lidar_points=1)


@pytest.mark.parametrize('path', [
    'images', 'images.CAM_BACK.img_path', 'images.CAM_BACK.cam2img', 'images.CAM_FRONT.lidar2cam', 'lidar_points',
    'lidar_points.lidar_path', 'instances.2.bbox_3d', 'instances.2.bbox_label_3d'])
@pytest.mark.parametrize('test_mode', [True, False])
def test_a_missing_key_is_named_with_file_and_frame(copied_frame, path, test_mode):
    def remove(content):
        content['data_list'].append(copy.deepcopy(content['data_list'][0]))
        *parents, key = path.split('.')
        record = content['data_list'][1]
        for parent in parents:
            record = record[int(parent) if parent.isdigit() else parent]
        del record[key]
    with pytest.raises(ValueError, match=rf'\.pkl: frame 1 lacks .*{path}$'):
        FrameFolderDataset(copied_frame(remove), test_mode=test_mode)


def test_boxes_without_categories(copied_frame):
    def no_categories(content):
        content['data_list'].insert(0, {**content['data_list'][0], 'instances': []})
        del content['metainfo']['categories']
    with pytest.raises(ValueError, match=r'\.pkl lacks metainfo.categories, .* instances of frame 1'):
        FrameFolderDataset(copied_frame(no_categories), classes=['car'], test_mode=True)


def test_formatted_results(frame_dataset, tmp_path):
    truth = frame_dataset.get_ann_info(0)
    found = detections(truth['gt_bboxes_3d'].tensor[:2], truth['gt_labels_3d'][:2], torch.tensor([0.5, 0.25]))
    path = frame_dataset.format_results([found], jsonfile_prefix=f'{tmp_path}/new/found')
    assert path == f'{tmp_path}/new/found.json' and [file.name for file in tmp_path.glob('new/*')] == ['found.json']
    frame, = json.loads((tmp_path / 'new' / 'found.json').read_text())
    assert frame['sample'] == frame_dataset.get_data_info(0)['sample_idx']
    assert [(record['label'], record['score']) for record in frame['detections']] == list(
        zip(truth['gt_names'][:2], [0.5, 0.25]))
    np.testing.assert_allclose(frame['detections'][1]['center'], truth['gt_bboxes_3d'].gravity_center[1], rtol=1e-6)
    with pytest.raises(ValueError, match='one entry for each of the 1 frames, got 0'):
        frame_dataset.format_results([], jsonfile_prefix=f'{tmp_path}/none')


def detections(boxes, labels, scores):
    return dict(pts_bbox=dict(
        boxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), labels_3d=torch.as_tensor(labels), scores_3d=scores))


def test_evaluation(frame_dataset):
    truth = frame_dataset.get_ann_info(0)
    boxes, labels = truth['gt_bboxes_3d'].tensor, truth['gt_labels_3d']
    asked = truth['num_lidar_pts'] >= 5
    scores = torch.linspace(1, 0.1, len(boxes))

    metrics = frame_dataset.evaluate([detections(boxes, labels, scores)])
    assert metrics == dict(
        recall=1., mean_center_error=pytest.approx(0, abs=1e-6), num_gt=asked.sum(), num_detections=68)
    assert all(type(value) is float for value in metrics.values())
    # plain results, without pts_bbox; a metric as tools/test.py --eval gives it
    assert frame_dataset.evaluate([detections(boxes, labels, scores)['pts_bbox']], metric=['bbox']) == metrics

    shifted = boxes.clone()
    shifted[:, 1] += 0.25
    metrics = frame_dataset.evaluate([detections(shifted, labels, scores)])
    assert metrics['mean_center_error'] <= 0.2501 and metrics['recall'] > 0.95

    wrong = frame_dataset.evaluate([detections(boxes, (labels + 1) % 10, scores)])
    assert wrong['recall'] < 0.1

    limited = frame_dataset.evaluate([detections(boxes, labels, scores)], score_thr=0.7)
    high = (scores >= 0.7).numpy()
    assert limited['num_detections'] == high.sum() and limited['recall'] < 1
    best = frame_dataset.evaluate([detections(boxes, labels, scores)], max_detections=int(high.sum()))
    assert best == limited
    order = np.arange(len(boxes))[::-1].copy()
    reversed_ = detections(boxes[order], labels[order], scores[order])
    assert frame_dataset.evaluate([reversed_], max_detections=int(high.sum())) == limited

    nothing = frame_dataset.evaluate([detections(boxes[:0], labels[:0], scores[:0])])
    assert nothing['recall'] == 0 and np.isnan(nothing['mean_center_error'])
    assert np.isnan(frame_dataset.evaluate([detections(boxes, labels, scores)], min_lidar_points=10**6)['recall'])
    with pytest.raises(ValueError, match='one entry for each of the 1 frames, got 0'):
        frame_dataset.evaluate([])
    with pytest.raises(ValueError, match='metric'):
        frame_dataset.evaluate([detections(boxes, labels, scores)], metric='mAP')


@pytest.mark.parametrize('centers, labels, expected', [
    ([[1, 0]], [0], [1, np.nan]),
    ([[4.6, 0]], [0], [np.nan, 0.4]),
    ([[4.6, 0], [4.9, 0]], [0, 0], [np.nan, 0.4]),  # the second comes too late, and the other box is too far away
    ([[1, 0], [0, 0.5]], [0, 0], [1, np.nan]),
    ([[2, 0], [1.99, 0]], [0, 0], [1.99, np.nan]),  # 2 m is too far, as in nuScenes, 1.99 m is not
    ([[0, 0]], [1], [np.nan, np.nan]),  # another class
    ([[np.nan, np.nan]], [0], [np.nan, np.nan]),
    ([], [], [np.nan, np.nan]),
])
def test_claiming_order(centers, labels, expected):
    gt_centers, gt_labels = np.array([[0., 0, 7], [5., 0, 0]]), np.array([0, 0])  # distance in BEV: height is ignored
    errors = center_errors(np.array(centers, float).reshape(-1, 2), np.array(labels), gt_centers, gt_labels, 2.0)
    np.testing.assert_allclose(errors, expected)


def test_repetitions_meet_failures_of_their_own(repo_root, real_frame):
    """One epoch of the config on one frame has every case of its mixture, the same in any order of loading."""
    config = load_config(repo_root / 'configs/cmt_aqr_real_frame_failures.py',
                         {'data.train.data_root': str(real_frame)}).data.train
    dataset = build_dataset(config)
    assert len(dataset) == 100 and [dataset.get_data_info(i)['repetition'] for i in (0, 1, 99)] == [0, 1, 99]
    assert dataset.get_data_info(99)['sample_idx'] == dataset.get_data_info(0)['sample_idx']
    struck = next(step for step in dataset.pipeline.transforms if isinstance(step, SimulateFailure))
    dataset.pipeline.transforms = [step for step in dataset.pipeline.transforms if step is struck or 'Points' in
                                   type(step).__name__ or 'MultiView' in type(step).__name__][:4]

    def cases(epoch, indices):
        struck.set_epoch(epoch)
        return [dataset.pipeline(dataset.get_data_info(index))['failure'].case for index in indices]

    first = cases(0, range(40))
    assert set(first) == set(struck.shares)
    assert cases(0, reversed(range(40))) == first[::-1] and cases(1, range(40)) != first


@pytest.mark.parametrize('repeat, test_mode', [(0, False), (True, False), (2.0, False), (2, True)])
def test_bad_repetitions(real_frame, repeat, test_mode):
    with pytest.raises(ValueError, match='repeat must be an integer >= 1, and 1 with test_mode=True'):
        FrameFolderDataset(str(real_frame), pipeline=PIPELINE, repeat=repeat, test_mode=test_mode)


def test_points_of_another_number_of_values_than_declared_are_refused(copied_frame):
    def change(content):
        content['data_list'][0]['lidar_points']['num_pts_feats'] = 7

    with pytest.raises(ValueError, match=r'has \d+ bytes, no multiple of 28 for the declared 7 float32 values'):
        FrameFolderDataset(copied_frame(change))
    root = copied_frame(lambda content: content['data_list'][0]['lidar_points'].update(num_pts_feats=1))
    with pytest.raises(ValueError, match=r'frame 0 declares points of 1 values \(num_pts_feats\), .* reads 5'):
        FrameFolderDataset(root, pipeline=PIPELINE[:1])


@pytest.mark.parametrize('key', ['cam2img', 'lidar2cam'])
def test_a_calibration_that_is_not_finite_is_refused(copied_frame, key):
    def change(content):
        content['data_list'][0]['images']['CAM_BACK'][key][0][0] = float('nan')

    with pytest.raises(ValueError, match=f'images.CAM_BACK.{key} of frame 0 is not finite'):
        FrameFolderDataset(copied_frame(change), test_mode=True)


def test_bad_boxes_are_left_out_with_a_warning(copied_frame, caplog, monkeypatch):
    from mmdet3d.utils import get_root_logger
    monkeypatch.setattr(get_root_logger(), 'propagate', True)
    numbers = []

    def change(content):
        instances = content['data_list'][0]['instances']
        instances[0]['bbox_3d'] = [float('nan'), *instances[0]['bbox_3d'][1:]]
        instances[1]['bbox_3d'] = [*instances[1]['bbox_3d'][:3], 0, *instances[1]['bbox_3d'][4:]]
        numbers.append(len(instances))

    dataset = FrameFolderDataset(copied_frame(change))
    assert len(dataset.data_infos[0]['instances']) == numbers[0] - 2
    assert '2 boxes have numbers that are not finite or sizes that are not above 0' in caplog.text


def test_training_wants_equal_numbers_of_cameras(copied_frame):
    def change(content):
        frame = copy.deepcopy(content['data_list'][0])
        del frame['images']['CAM_BACK']
        content['data_list'].append(dict(frame, token='second'))

    root = copied_frame(change)
    with pytest.raises(ValueError, match="has 6, 'second' has 5"):
        FrameFolderDataset(root)
    assert [len(FrameFolderDataset(root, test_mode=True).get_data_info(i)['lidar2img']) for i in (0, 1)] == [6, 5]
