import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.datasets import build_dataset
from mmdet3d.datasets.dataset_wrappers import CBGSDataset
from pyquaternion import Quaternion

from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset

CAMERA = dict(use_camera=True, use_lidar=True, use_radar=False, use_map=False, use_external=False)
CLASSES = ['car', 'truck', 'trailer', 'bus', 'construction_vehicle', 'bicycle', 'motorcycle', 'pedestrian',
           'traffic_cone', 'barrier']
PIPELINE = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='ObjectNameFilter', classes=CLASSES),
    dict(type='DefaultFormatBundle3D', class_names=CLASSES),
    dict(type='Collect3D', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]


def frozen(infos):
    """Text that changes if anything in the records does."""
    with np.printoptions(threshold=np.inf):
        return repr(infos)


@pytest.fixture
def dataset(write_nuscenes_infos):
    return CustomNuScenesDataset(ann_file=write_nuscenes_infos(), modality=CAMERA, classes=CLASSES, pipeline=PIPELINE)


def test_data_info_has_the_calibration_of_every_camera(dataset, frame_dataset):
    data_info, truth = dataset.get_data_info(0), frame_dataset.get_data_info(0)
    assert set(data_info) == set(truth)
    for key in ('img_filename', 'pts_filename'):
        assert data_info[key] == truth[key]
    for key in ('lidar2img', 'lidar2cam', 'cam_intrinsic'):
        assert len(data_info[key]) == 6 and {m.dtype for m in data_info[key]} == {np.dtype(np.float64)}
        np.testing.assert_allclose(data_info[key], truth[key], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(data_info['img_timestamp'], truth['img_timestamp'], atol=1e-5)
    assert data_info['timestamp'] == pytest.approx(truth['timestamp'])
    assert len(data_info['sweeps']) == 1 and data_info['img_sweeps'] is None and data_info['radar_info'] is None


def test_calibration_against_the_parents_and_by_hand(dataset):
    """``lidar2img`` is what mmdet3d computes; ``lidar2cam`` undoes the info file's sensor2lidar."""
    parents = super(CustomNuScenesDataset, dataset).get_data_info(0)['lidar2img']
    data_info = dataset.get_data_info(0)
    np.testing.assert_allclose(data_info['lidar2img'], parents, rtol=1e-9, atol=1e-7)
    point = np.array([1., 2., 3.])
    for camera, lidar2cam in zip(dataset.data_infos[0]['cams'].values(), data_info['lidar2cam']):
        in_lidar = camera['sensor2lidar_rotation'] @ point + camera['sensor2lidar_translation']
        np.testing.assert_allclose(lidar2cam @ [*in_lidar, 1], [*point, 1], atol=1e-9)


def test_optional_parts(write_nuscenes_infos, nuscenes_infos):
    nuscenes_infos[0].update(img_sweeps=['a'], radars=['b'])
    path = write_nuscenes_infos()
    data_info = CustomNuScenesDataset(ann_file=path, test_mode=True, return_gt_info=True).get_data_info(0)
    assert 'lidar2img' not in data_info and 'ann_info' not in data_info  # LiDAR only, test mode
    assert data_info['img_sweeps'] == ['a'] and data_info['radar_info'] == ['b']
    assert data_info['info']['token'] == nuscenes_infos[0]['token']
    dataset = CustomNuScenesDataset(ann_file=path, return_gt_info=True, modality=CAMERA)
    dataset.get_data_info(0)['info']['cams'].clear()
    assert len(dataset.data_infos[0]['cams']) == 6


def test_annotations(dataset, nuscenes_infos):
    info, annotations = nuscenes_infos[0], dataset.get_data_info(0)['ann_info']
    kept = info['num_lidar_pts'] > 0
    assert 0 < kept.sum() < len(kept)
    boxes = annotations['gt_bboxes_3d']
    np.testing.assert_allclose(boxes.gravity_center.numpy(), info['gt_boxes'][kept, :3], atol=1e-5)
    np.testing.assert_allclose(boxes.tensor[:, 7:].numpy(), np.nan_to_num(info['gt_velocity'][kept]))
    assert [CLASSES[label] for label in annotations['gt_labels_3d']] == info['gt_names'][kept].tolist()


@pytest.mark.parametrize('use_valid_flag', [False, True])
def test_a_sample_without_boxes(write_nuscenes_infos, nuscenes_infos, use_valid_flag):
    for key in ('gt_boxes', 'gt_names', 'gt_velocity', 'num_lidar_pts', 'valid_flag'):
        nuscenes_infos[0][key] = nuscenes_infos[0][key][:0]
    arguments = dict(ann_file=write_nuscenes_infos(), modality=CAMERA, classes=CLASSES, pipeline=PIPELINE,
                     use_valid_flag=use_valid_flag)
    sample = CustomNuScenesDataset(filter_empty_gt=False, **arguments)[0]
    assert sample['gt_bboxes_3d'].data.tensor.shape == (0, 9)
    assert sample['gt_labels_3d'].data.shape == (0, ) and sample['gt_labels_3d'].data.dtype == torch.int64
    assert len(CustomNuScenesDataset(**arguments)[0]['gt_labels_3d'].data) > 0  # another sample in its place


def test_reading_samples_leaves_the_infos_alone(dataset):
    before = frozen(dataset.data_infos)
    for _ in range(2):
        data_info = dataset.get_data_info(0)
        for key in ('lidar2img', 'lidar2cam', 'cam_intrinsic'):
            for matrix in data_info[key]:
                matrix[:] = 0
        data_info['ann_info']['gt_bboxes_3d'].tensor.zero_()
        dataset[1]
    assert frozen(dataset.data_infos) == before


def test_class_balanced_sampling(write_nuscenes_infos, nuscenes_infos):
    """CBGS over three frames, only the first of which has a bus: it is drawn most often."""
    names = ['car', 'bus', 'pedestrian']
    for info in nuscenes_infos[1:]:
        info['gt_names'] = np.where(info['gt_names'] == 'bus', 'car', info['gt_names'])
    np.random.seed(0)
    dataset = build_dataset(dict(type='CBGSDataset', dataset=dict(
        type='CustomNuScenesDataset', ann_file=write_nuscenes_infos(), modality=CAMERA, classes=names,
        pipeline=copy.deepcopy(PIPELINE))))
    assert isinstance(dataset, CBGSDataset) and isinstance(dataset.dataset, CustomNuScenesDataset)
    assert len(dataset) == 6 == len(dataset.flag)
    counts = np.bincount(dataset.sample_indices, minlength=3)
    assert counts[0] >= 2
    assert set(dataset[0]) == {'points', 'gt_bboxes_3d', 'gt_labels_3d', 'img_metas'}


def detections(dataset, index, scores=1.):
    """The ground truth as what a detector would return."""
    truth = dataset.get_ann_info(index)
    labels = torch.as_tensor(truth['gt_labels_3d'])
    known = labels >= 0
    return dict(pts_bbox=dict(boxes_3d=truth['gt_bboxes_3d'][known], labels_3d=labels[known],
                              scores_3d=torch.full((int(known.sum()), ), scores)))


def write_nuscenes_tables(root, infos, scenes):
    """Write the annotations of info records in nuScenes' own format: one scene and one sample per record."""
    tables = {name: [] for name in ('category', 'attribute', 'visibility', 'instance', 'sensor', 'calibrated_sensor',
                                    'ego_pose', 'log', 'scene', 'sample', 'sample_data', 'sample_annotation', 'map')}
    full_names = {short: full for full, short in CustomNuScenesDataset.NameMapping.items()}
    tables['category'] = [dict(token=full, name=full, description='') for full in full_names.values()]
    tables['attribute'] = [dict(token=name, name=name, description='') for name in CustomNuScenesDataset.AttrMapping]
    tables['sensor'] = [dict(token='lidar', channel='LIDAR_TOP', modality='lidar')]
    tables['map'] = [dict(token='map', category='semantic_prior', filename='maps/map.png', log_tokens=['log'])]
    tables['log'] = [dict(token='log', logfile='', vehicle='', date_captured='', location='singapore-onenorth')]
    for info, scene in zip(infos, scenes):
        token = info['token']
        ego2global, lidar2ego = (Quaternion(info[key]) for key in ('ego2global_rotation', 'lidar2ego_rotation'))
        tables['calibrated_sensor'].append(dict(
            token=token, sensor_token='lidar', translation=list(info['lidar2ego_translation']),
            rotation=list(lidar2ego.elements), camera_intrinsic=[]))
        tables['ego_pose'].append(dict(
            token=token, translation=list(info['ego2global_translation']), rotation=list(ego2global.elements),
            timestamp=0))
        tables['scene'].append(dict(token=token, log_token='log', nbr_samples=1, first_sample_token=token,
                                    last_sample_token=token, name=scene, description=''))
        tables['sample'].append(dict(token=token, timestamp=0, prev='', next='', scene_token=token))
        tables['sample_data'].append(dict(
            token=token, sample_token=token, ego_pose_token=token, calibrated_sensor_token=token, timestamp=0,
            fileformat='bin', is_key_frame=True, height=0, width=0, filename='', prev='', next=''))
        for i, (box, name) in enumerate(zip(info['gt_boxes'].tolist(), info['gt_names'])):
            center = ego2global.rotate(lidar2ego.rotate(box[:3]) + info['lidar2ego_translation'])
            center += info['ego2global_translation']
            attribute = CustomNuScenesDataset.DefaultAttribute[name]
            tables['instance'].append(dict(token=f'{token}-{i}', category_token=full_names[name], nbr_annotations=1,
                                           first_annotation_token='', last_annotation_token=''))
            tables['sample_annotation'].append(dict(
                token=f'{token}-{i}', sample_token=token, instance_token=f'{token}-{i}', visibility_token='',
                attribute_tokens=[attribute] if attribute else [], translation=list(center), prev='', next='',
                size=[box[4], box[3], box[5]], num_lidar_pts=int(info['num_lidar_pts'][i]), num_radar_pts=0,
                rotation=list((ego2global * lidar2ego * Quaternion(axis=[0, 0, 1], radians=box[6])).elements)))
    (root / 'v1.0-mini').mkdir()
    (root / 'maps').mkdir()
    cv2.imwrite(str(root / 'maps/map.png'), np.zeros((4, 4), np.uint8))
    for name, rows in tables.items():
        (root / 'v1.0-mini' / f'{name}.json').write_text(json.dumps(rows))


@pytest.fixture
def evaluable(tmp_path, write_nuscenes_infos, nuscenes_infos):
    """The dataset with the tables that the nuScenes devkit evaluates against."""
    infos = nuscenes_infos[:2]
    write_nuscenes_tables(tmp_path, infos, ['scene-0103', 'scene-0916'])  # the devkit's mini_val
    return CustomNuScenesDataset(ann_file=write_nuscenes_infos(infos), data_root=str(tmp_path), modality=CAMERA,
                                 classes=CLASSES, test_mode=True)


def test_nuscenes_devkit_evaluates_perfect_detections(evaluable):
    metrics = evaluable.evaluate([detections(evaluable, i) for i in range(2)])
    for name in ('car', 'pedestrian', 'barrier', 'truck'):
        assert metrics[f'pts_bbox_NuScenes/{name}_AP_dist_0.5'] == pytest.approx(1., abs=1e-3)
        assert metrics[f'pts_bbox_NuScenes/{name}_trans_err'] < 1e-3
        assert metrics[f'pts_bbox_NuScenes/{name}_scale_err'] < 1e-3
        assert metrics[f'pts_bbox_NuScenes/{name}_orient_err'] < 1e-2
    assert metrics['pts_bbox_NuScenes/motorcycle_AP_dist_4.0'] == 0  # the frame has none


def test_nuscenes_devkit_notices_wrong_and_missing_detections(evaluable):
    results = [detections(evaluable, i) for i in range(2)]
    for result in results:
        result['pts_bbox']['boxes_3d'].translate([0.7, 0., 0.])
    metrics = evaluable.evaluate(results)
    assert metrics['pts_bbox_NuScenes/car_AP_dist_0.5'] < 0.1
    assert metrics['pts_bbox_NuScenes/car_AP_dist_1.0'] == pytest.approx(1., abs=1e-3)
    assert metrics['pts_bbox_NuScenes/car_trans_err'] == pytest.approx(0.7, abs=1e-3)
    for result in results:
        result['pts_bbox'] = dict(boxes_3d=LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9),
                                  labels_3d=torch.zeros(0, dtype=torch.long), scores_3d=torch.zeros(0))
    metrics = evaluable.evaluate(results)
    assert metrics == {'pts_bbox_NuScenes/NDS': 0, 'pts_bbox_NuScenes/mAP': 0}


def test_missing_info_file_is_named():
    with pytest.raises(FileNotFoundError, match='no_such_infos.pkl is not there in the working .*create_data.py'):
        CustomNuScenesDataset(ann_file='no_such_infos.pkl')
