"""Failures in test data: the changed config, what its dataset gives, and that true boxes stay outside."""
import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.parallel import DataContainer, collate, scatter
from mmdet3d.core.bbox import BaseInstance3DBoxes
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.apis.failing_sensors import case_datasets, check_cases, struck_sample, with_failure
from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.datasets.camera_geometry import project

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
SINGLE_SENSOR = {'cmt_lidar_synthetic.py', 'cmt_camera_synthetic.py'}
NAMES = sorted({path.name for path in CONFIGS.glob('*.py')} - SINGLE_SENSOR)
CASES = ['clean', 'lidar_drop', 'camera_drop', 'view_drop:3', 'view_drop:CAM_FRONT', 'fov:60', 'fov:90',
         'object_failure:0.5', 'frame_object_failure:0.5', 'beams:16', 'beams:8', 'beams:4', 'calibration:1',
         'object_failure:0.5+beams:8+view_drop:1']


# The config

@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('case', ['clean', 'fov:60', 'beams:4+object_failure:0.5'])
def test_every_config(name, case):
    cfg = load_config(CONFIGS / name)
    before = copy.deepcopy(cfg._cfg_dict)
    result = with_failure(cfg, case, seed=3)
    assert cfg._cfg_dict == before
    changed, pipeline = result.data.test.pipeline, before.data.test.pipeline
    loaders = [transform.type for transform in pipeline if transform.type.startswith('Load')]
    position = len(loaders)
    assert changed[position] == dict(type='SimulateFailure', cases=case, seed=3)
    rings = 'WithRings' if 'beams' in case else ''
    assert [transform.type for transform in changed[:position]] == [
        loader + rings if loader == 'LoadPointsFromMultiSweeps' else loader for loader in loaders]
    for old, new in zip(pipeline[:position], changed[:position]):
        assert {**old, 'type': new.type} == new
    collect = changed[-1].transforms[-1]
    assert collect.type == 'Collect3D' and collect['keys'] == ['points', 'img'] and 'failure' in collect.meta_keys
    assert {'lidar2img', 'pad_shape', 'box_type_3d', 'sample_idx'} < set(collect.meta_keys)  # still those of before
    assert result.data.test.get('load_failure_boxes', False) == ('object' in case)
    # nothing else
    del changed[position]
    for transform, old in zip(changed, pipeline):
        transform.type = old.type
    changed[-1].transforms[-1] = pipeline[-1].transforms[-1]
    result.data.test.pop('load_failure_boxes', None)
    assert result._cfg_dict == before


def test_meta_keys_of_the_config_are_kept():
    cfg = load_config(CONFIGS / 'cmt_synthetic.py')
    collect = cfg.data.test.pipeline[-1].transforms[-1]
    collect.meta_keys = ('lidar2img', 'pad_shape')
    result = with_failure(cfg, 'clean')
    assert tuple(result.data.test.pipeline[-1].transforms[-1].meta_keys) == ('lidar2img', 'pad_shape', 'failure')
    cfg.data.test.pipeline = [*cfg.data.test.pipeline[:3], collect]  # without a wrapper
    assert with_failure(cfg, 'clean').data.test.pipeline[-1].meta_keys[-1] == 'failure'


def test_mistakes():
    cfg = load_config(CONFIGS / 'cmt_synthetic.py')
    with pytest.raises(ValueError, match="'fog' is no failure .*; allowed: clean"):
        with_failure(cfg, 'fog')
    with pytest.raises(ValueError, match=r'already .* simulates a failure \(SimulateFailure\)'):
        with_failure(with_failure(cfg, 'fov:60'), 'fov:60')

    def pipeline_of(*steps):
        changed = copy.deepcopy(cfg)
        changed.data.test.pipeline = list(steps)
        return changed

    loaders, last = cfg.data.test.pipeline[:3], cfg.data.test.pipeline[-1]
    with pytest.raises(ValueError, match=r'already .* simulates a failure \(ModalMask3D\)'):
        with_failure(pipeline_of(*loaders, dict(type='ModalMask3D', mode='test', mask_modal='image'), last), 'clean')
    with pytest.raises(ValueError, match=r'must start with loaders \(Load...\), got'):
        with_failure(pipeline_of(last), 'clean')
    with pytest.raises(ValueError, match="'beams:8' needs rings, which come with LoadPointsFromMultiSweeps; data.test"):
        with_failure(pipeline_of(loaders[0], loaders[2], last), 'beams:8')
    with pytest.raises(ValueError, match='must end in Collect3D, got PadMultiViewImage'):
        with_failure(pipeline_of(*loaders, dict(type='PadMultiViewImage', size_divisor=32)), 'clean')
    with_rings = dict(loaders[1], type='LoadPointsFromMultiSweepsWithRings')
    result = with_failure(pipeline_of(loaders[0], with_rings, loaders[2], last), 'beams:8')
    assert result.data.test.pipeline[1]['type'] == 'LoadPointsFromMultiSweepsWithRings'


def test_digest_and_sensors_that_are_left():
    cfg = load_config(CONFIGS / 'cmt_synthetic.py')
    result = with_failure(cfg, 'beams:8', seed=2, modality='lidar', digest=True).data.test.pipeline
    assert [dict(step) for step in result[3:6]] == [
        dict(type='SimulateFailure', cases='beams:8', seed=2), dict(type='DigestInputs'),
        dict(type='ModalMask3D', mode='test', mask_modal='image')]
    assert result[6].type == 'MultiScaleFlipAug3D' and len(result) == 7
    assert result[-1].transforms[-1].meta_keys[-2:] == ('failure', 'input_digest')
    with pytest.raises(ValueError, match="modality must be one of .*got 'radar'"):
        with_failure(cfg, 'clean', modality='radar')


# The data

@pytest.fixture(scope='module')
def synthetic_config(synthetic_nuscenes):
    cfg = load_config(CONFIGS / 'cmt_aqr_synthetic_failures.py')
    cfg.merge_from_dict({'data.test.data_root': f'{synthetic_nuscenes}/',
                         'data.test.ann_file': f'{synthetic_nuscenes}/nuscenes_infos_train.pkl'})
    return cfg


def sample_of(cfg, case=None, index=1, seed=0):
    """(dataset, points, images, meta) of a test sample. The loader draws two of three sweeps: always the same here."""
    dataset = build_dataset(cfg.data.test if case is None else with_failure(cfg, case, seed).data.test)
    np.random.seed(0)
    sample = dataset[index]
    assert set(sample) == {'points', 'img', 'img_metas'}
    return dataset, sample['points'][0].data, sample['img'][0].data, sample['img_metas'][0].data


def contents(value):
    """Everything within nested containers."""
    yield value
    if isinstance(value, DataContainer):
        yield from contents(value.data)
    elif isinstance(value, (list, tuple, dict)):
        for item in (value.values() if isinstance(value, dict) else value):
            yield from contents(item)


def test_clean_changes_nothing_but_the_record(synthetic_config):
    dataset, points, images, meta = sample_of(synthetic_config)
    _, same_points, same_images, same_meta = sample_of(synthetic_config, 'clean')
    assert torch.equal(points, same_points) and torch.equal(images, same_images)
    np.testing.assert_array_equal(meta['lidar2img'], same_meta['lidar2img'])
    record = same_meta['failure']
    assert 'failure' not in meta and set(same_meta) == {*meta, 'failure'}
    assert isinstance(record, FailureRecord) and not record.has_lidar_region and not record.views_lost.any()
    np.testing.assert_array_equal(record.motion, np.eye(4))


@pytest.mark.parametrize('case', CASES)
def test_no_ground_truth_reaches_the_model(synthetic_config, case):
    cfg = with_failure(synthetic_config, case)
    sample = build_dataset(cfg.data.test)[1]
    meta = sample['img_metas'][0].data
    assert not any(isinstance(value, BaseInstance3DBoxes) for value in contents(sample))
    assert not [key for key in meta if 'gt_' in key or 'boxes' in key or 'ann' in key]


def test_points_that_are_left(synthetic_config):
    _, points, *_ = sample_of(synthetic_config)
    angle = torch.rad2deg(torch.atan2(points[:, 0].double(), points[:, 1].double())).abs()
    for degrees in (60, 90):
        _, left, *_ = sample_of(synthetic_config, f'fov:{degrees}')
        counts = [(angle <= degrees + shift).sum().item() for shift in (-1e-3, 1e-3)]
        assert counts[0] <= len(left) <= counts[1]
    assert len(sample_of(synthetic_config, 'lidar_drop')[1]) == 0
    counts = [len(sample_of(synthetic_config, f'beams:{beams}')[1]) for beams in (16, 8, 4)]
    np.testing.assert_allclose(np.array(counts) / len(points), [1 / 2, 1 / 4, 1 / 8], rtol=0.2)  # range filter


def in_box(points, center, length, width, height, yaw):
    x, y, z = (points[:, :3].double().numpy() - center).T
    return (np.abs(x * math.cos(yaw) + y * math.sin(yaw)) < length / 2) & (np.abs(z) < height / 2) & (
        np.abs(y * math.cos(yaw) - x * math.sin(yaw)) < width / 2)


@pytest.mark.parametrize('case', ['object_failure:0.5', 'frame_object_failure:1'])
def test_failed_objects_are_those_of_the_info_file(synthetic_config, case):
    dataset, points, *_ = sample_of(synthetic_config)
    _, left, _, meta = sample_of(synthetic_config, case)
    info = dataset.data_infos[1]
    truth = info['gt_boxes'][info['num_lidar_pts'] > 0]
    lost = meta['failure'].lost_boxes
    matches = [np.abs(truth[:, :3] - box[:3]).max(axis=1).argmin() for box in lost]
    np.testing.assert_allclose(lost, truth[matches], atol=1e-5)
    assert len(set(matches)) == len(lost) and (len(lost) == len(truth)) == case.startswith('frame')
    before, after = (np.array([in_box(cloud, box[:3], *box[3:7]).sum() for box in truth]) for cloud in (points, left))
    failed = np.isin(np.arange(len(truth)), matches)
    assert (after[failed] == 0).all() and (before[failed] > 0).sum() > 3 and (after[~failed] == before[~failed]).all()
    assert len(points) - len(left) == before[failed].sum()


def test_views_and_calibration(synthetic_config):
    dataset, _, images, meta = sample_of(synthetic_config)
    _, _, dark, dark_meta = sample_of(synthetic_config, 'view_drop:CAM_BACK')
    names = list(dataset.data_infos[1]['cams'])
    changed = [not torch.equal(old, new) for old, new in zip(images, dark)]
    assert changed == [name == 'CAM_BACK' for name in names] == dark_meta['failure'].views_lost.tolist()
    _, _, same, noisy_meta = sample_of(synthetic_config, 'calibration:2')
    assert torch.equal(images, same)
    place = np.random.default_rng(0).uniform(-20, 20, (500, 3))
    shifts = [np.linalg.norm(project(place, old)[0] - project(place, new)[0], axis=1)
              for old, new in zip(meta['lidar2img'], noisy_meta['lidar2img'])]
    assert all(np.nanmedian(shift) > 0.5 for shift in shifts)  # pixels, in images of 224 x 96


def test_seeds_and_samples_draw_anew(synthetic_config):
    draws = {}
    for index, seed in ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 0)):
        failure = sample_of(synthetic_config, 'view_drop:3', index, seed)[3]['failure']
        assert failure.seed == (seed, 0)
        draws.setdefault((index, seed), []).append(failure.views_lost.tolist())
    assert draws[0, 0][0] == draws[0, 0][1] and len({str(views[0]) for views in draws.values()}) > 3


@pytest.mark.parametrize('case', ['object_failure:1', 'beams:8', 'view_drop:CAM_FRONT', 'lidar_drop'])
def test_the_real_frame(real_frame, case):
    cfg = load_config(CONFIGS / 'cmt_aqr_real_frame.py')
    cfg.data.test.data_root = str(real_frame)
    dataset, points, images, meta = sample_of(cfg, case, index=0)
    failure = meta['failure']
    if 'object' in case:
        assert len(failure.lost_boxes) == 68 and not any(
            in_box(points, box[:3], *(0.99 * box[3:6]), box[6]).any() for box in failure.lost_boxes)
        assert 0 < len(points) < failure.details['points_before']
    elif 'beams' in case:
        before = failure.details['points_before']
        assert before % 34688 == 0 and failure.details['points_after'] == before // 4
    elif 'view' in case:
        assert failure.views_lost.sum() == 1
        index = int(failure.views_lost.argmax())
        axis = np.linalg.inv(meta['lidar2img'][index])[:3, :3] @ [images.shape[-1] / 2, images.shape[-2] / 2, 1]
        assert axis[1] > 5 * abs(axis[0])  # the view that looks along +y
    else:
        assert len(points) == 0


def test_a_blank_sensor_after_the_failure(synthetic_config):
    """LiDAR alone: its points as the failure left them, images black; the record and the digest are the failure's."""
    both = build_dataset(with_failure(synthetic_config, 'fov:60+view_drop:2', digest=True).data.test)[1]
    alone = build_dataset(with_failure(synthetic_config, 'fov:60+view_drop:2', 0, 'lidar', True).data.test)[1]
    metas = [sample['img_metas'][0].data for sample in (both, alone)]
    assert torch.equal(both['points'][0].data, alone['points'][0].data)
    black = alone['img'][0].data
    assert len(black.flatten(2).unique(dim=2).flatten()) <= 6 * 3 * 2  # black, and padding
    assert metas[0]['input_digest'] == metas[1]['input_digest']
    assert metas[0]['failure'].views_lost.tolist() == metas[1]['failure'].views_lost.tolist()


def test_what_a_failure_leaves(synthetic_config):
    """Before the network's transforms, the same as in the dataset's own samples; info files are read once."""
    found = dict(case_datasets(synthetic_config, ['clean', 'view_drop:1', 'object_failure:1', 'fov:90']))
    assert [str(case) for case in found] == ['clean', 'view_drop:1', 'object_failure:1', 'fov:90']
    assert len({id(dataset) for dataset in found.values()}) == 2  # a second one with boxes
    for case, dataset in case_datasets(synthetic_config, ['fov:60', 'object_failure:1']):
        sample = struck_sample(dataset, 1)
        _, points, _, meta = sample_of(synthetic_config, case)
        assert sample['failure'].details == meta['failure'].details and len(sample['img']) == 6
        assert len(sample['points']) == meta['failure'].details['points_after'] >= len(points)
    with pytest.raises(ValueError, match='the pipeline simulates no failure'):
        struck_sample(build_dataset(synthetic_config.data.test), 0)


def test_cases_are_tried_on_the_first_sample(synthetic_config):
    check_cases(synthetic_config, ['clean', 'stale_lidar@2', 'beams:4+object_failure:0.5', 'camera_fog@1'])
    for case, message in (('view_drop:9', "case 'view_drop:9', sample '.*': 9 views are to fail, but the sample has 6"),
                          ('view_drop:CAM_TOP', r"case 'view_drop:CAM_TOP', .* has no cameras \['CAM_TOP'\]")):
        with pytest.raises(ValueError, match=message):
            check_cases(synthetic_config, ['clean', case])
    lidar_alone = copy.deepcopy(synthetic_config)
    lidar_alone.data.test.pipeline = [step for step in lidar_alone.data.test.pipeline
                                      if step.type != 'LoadMultiViewImageFromFiles']
    with pytest.raises(ValueError, match=r"case 'glare@1' needs \['img'\], which the sample lacks"):
        check_cases(lidar_alone, ['clean', 'glare@1'])
    without_calibration = copy.deepcopy(lidar_alone)
    without_calibration.data.test.modality.use_camera = False
    with pytest.raises(ValueError, match=r"needs \['lidar2cam', 'cam_intrinsic'\], which the sample lacks"):
        check_cases(without_calibration, ['calibration:1'])


# The model

@pytest.fixture(scope='module')
def detector(synthetic_config):
    """The config's detector, smaller, its router not neutral."""
    cfg = copy.deepcopy(synthetic_config)
    cfg.merge_from_dict({'model.pts_bbox_head.num_query': 30, 'model.pts_bbox_head.transformer.decoder.num_layers': 1,
                         'model.img_backbone.base_channels': 8, 'model.img_neck.in_channels': [16, 32]})
    torch.manual_seed(0)
    model = build_model(cfg.model)
    model.init_weights()
    torch.nn.init.normal_(model.pts_bbox_head.aqr_router.mlp[-1].weight)
    return model.eval()


def detect(detector, *samples):
    data = scatter(collate(list(samples), samples_per_gpu=len(samples)), [-1])[0]
    with torch.no_grad():
        return [result['pts_bbox'] for result in detector(return_loss=False, rescale=True, **data)]


@pytest.mark.parametrize('case', CASES + ['lidar_drop+camera_drop'])
def test_the_model_detects_and_does_not_look_at_the_record(synthetic_config, detector, case):
    sample = build_dataset(with_failure(synthetic_config, case).data.test)[1]
    blind = copy.deepcopy(sample)
    del blind['img_metas'][0].data['failure']
    found, expected = detect(detector, sample)[0], detect(detector, blind)[0]
    for name in ('scores_3d', 'labels_3d'):
        assert torch.equal(found[name], expected[name])
    assert torch.equal(found['boxes_3d'].tensor, expected['boxes_3d'].tensor)
    assert torch.isfinite(found['boxes_3d'].tensor).all() and len(found['scores_3d']) > 0


def test_a_batch_with_an_empty_cloud(synthetic_config, detector):
    empty, full = (build_dataset(with_failure(synthetic_config, case).data.test)[1] for case in ('lidar_drop', 'clean'))
    together = detect(detector, empty, full)
    for found, sample in zip(together, (empty, full)):
        torch.testing.assert_close(found['scores_3d'], detect(detector, sample)[0]['scores_3d'])
