"""The transform: shares of the cases, what draws depend on, its place in pipelines, and what reaches the model."""
import copy
import json
import math
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.parallel import collate, scatter
from mmcv.runner import build_optimizer
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.core.points import LiDARPoints
from mmdet3d.datasets import build_dataset
from mmdet3d.datasets.builder import OBJECTSAMPLERS
from mmdet3d.datasets.pipelines import Compose
from mmdet3d.models import build_model
from torch.utils.data import DataLoader

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset
from projects.mmdet3d_plugin.datasets.camera_geometry import project
from projects.mmdet3d_plugin.datasets.pipelines import ResizeCropFlipImage, SimulateFailure, UnifiedObjectSample

MIXTURE = {'clean': 0.2, 'view_drop:3': 0.3, 'lidar_drop': 0.0, 'object_failure:0.5': 0.3, 'fov:60+view_drop:1': 0.2}
SENSORS = dict(use_lidar=True, use_camera=True)


def few_points(token, num_points=3):
    return dict(sample_idx=token, img=[np.ones((2, 2, 3), np.uint8)] * 6,
                points=LiDARPoints(torch.ones(num_points, 5), points_dim=5), rings=np.zeros(num_points, np.int64),
                gt_bboxes_3d=LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9))


def drawn_cases(transform, tokens):
    return [transform(few_points(f'token{token}'))['failure'].case for token in tokens]


# The mixture

@pytest.mark.parametrize('shares', [MIXTURE, {'clean': 0.5, 'camera_drop': 0.25, 'lidar_drop': 0.25}])
def test_frequencies(shares):
    counts = Counter(drawn_cases(SimulateFailure(shares), range(2000)))
    assert set(counts) == {case for case, share in shares.items() if share}
    for case, share in shares.items():
        assert abs(counts[case] / 2000 - share) <= 4 * math.sqrt(share * (1 - share) / 2000)


@pytest.mark.parametrize('shares', [
    {'lidar_drop': 0.0, 'clean': 1.0}, {'clean': 1.0, 'lidar_drop': 0.0},
    {'clean': 0.25, 'lidar_drop': 0.0, 'camera_drop': 0.75}, {'lidar_drop': 0.0, 'clean': 0.25, 'camera_drop': 0.75},
    {'clean': 0.25, 'camera_drop': 0.75, 'lidar_drop': 0.0, 'fov:60': 0},
    {'clean': 0.1, 'camera_drop': 0.7, 'fov:60': 0.2 - 1e-7, 'lidar_drop': 0.0},
    {**{f'fov:{degrees}': 0.1 for degrees in range(10, 110, 10)}, 'lidar_drop': 0.0},  # ten tenths are not quite one
])
@pytest.mark.parametrize('draw', [0.0, 0.1, 0.25, 0.5, 0.8, 1 - 2**-53])
def test_impossible_cases_are_never_drawn(monkeypatch, shares, draw):
    """At the limits between cases and at both ends of what a generator can give."""
    monkeypatch.setattr('projects.mmdet3d_plugin.datasets.pipelines.simulate_failure.failure_rng',
                        lambda *args: type('Draw', (), dict(random=lambda self: draw))())
    case = SimulateFailure(shares)(few_points('token'))['failure'].case
    limits = np.cumsum(list(shares.values()))
    possible = [name for name, limit in zip(shares, limits) if shares[name] and draw < limit]
    assert case == (possible[0] if possible else [name for name in shares if shares[name]][-1])


def test_one_case_for_all():
    assert set(drawn_cases(SimulateFailure('view_drop:2'), range(20))) == {'view_drop:2'}
    assert set(drawn_cases(SimulateFailure(), range(20))) == {'clean'}


@pytest.mark.parametrize('cases, message', [
    ('fog', "'fog' is no failure .*; allowed: clean"), ({'clean': 0.5, 'fog': 0.5}, "'fog' is no failure"),
    ({'clean': 0.5, 'fog': 0.5, 'lidar_drop': 0.0}, "'fog' is no failure"),
    ({'clean': 0.5}, 'sum of 1, got the sum 0.5 of {'), ({'clean': 0.7, 'lidar_drop': 0.7}, 'got the sum 1.4 of {'),
    ({}, 'sum of 1'),
    ({'clean': 1.5, 'lidar_drop': -0.5}, '>= 0 with a sum'), ({'clean': math.nan}, '>= 0'),
    ({'clean': math.inf, 'lidar_drop': 0.0}, 'sum of 1'),
])
def test_bad_configuration(cases, message):
    with pytest.raises(ValueError, match=message):
        SimulateFailure(cases)


def test_rings_end_here_and_the_record_begins():
    for case in ('clean', 'lidar_drop', 'beams:8'):
        results = SimulateFailure(case)(few_points('token'))
        assert 'rings' not in results and isinstance(results['failure'], FailureRecord)
        assert results['failure'].seed == (0, 0)
    assert repr(SimulateFailure('fov:60', seed=3)) == "SimulateFailure(cases={'fov:60': 1.0}, seed=3)"


# What draws depend on

def fingerprint(results):
    """All that a failure may change, as text."""
    record = results['failure']
    points = results['points'].tensor
    return json.dumps([record.case, record.seed, None if record.views_lost is None else record.views_lost.tolist(),
                       record.lost_boxes.round(4).tolist(), len(points), points.double().sum().item()])


def test_epochs_and_seeds_draw_anew_and_repeat():
    transform = SimulateFailure(MIXTURE)
    draws = {}
    for epoch in (0, 1, 2):
        transform.set_epoch(epoch)
        draws[epoch] = drawn_cases(transform, range(50))
        assert transform(few_points('token'))['failure'].seed == (0, epoch)
    transform.set_epoch(1)
    assert drawn_cases(transform, range(50)) == draws[1]
    draws['seed'] = drawn_cases(SimulateFailure(MIXTURE, seed=1), range(50))
    assert len({tuple(cases) for cases in draws.values()}) == 4
    views = set()
    for epoch in range(20):  # what a case does changes, too
        transform = SimulateFailure('view_drop:3')
        transform.set_epoch(epoch)
        views.add(tuple(transform(few_points('token'))['failure'].views_lost))
    assert len(views) > 5


def test_the_case_tells_nothing_of_what_it_does():
    """Two generators: with only one, the case drawn would determine which views are lost."""
    transform = SimulateFailure({'clean': 0.9, 'view_drop:1': 0.1})
    lost = [record.views_lost.argmax() for record in (transform(few_points(f'token{token}'))['failure']
                                                      for token in range(600)) if record.views_lost.any()]
    assert set(lost) == set(range(6))


def test_order_and_other_generators_play_no_part():
    transform = SimulateFailure(MIXTURE)
    expected = {token: fingerprint(transform(few_points(f'token{token}'))) for token in range(30)}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    for token in reversed(range(30)):
        assert fingerprint(transform(few_points(f'token{token}'))) == expected[token]
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])


def synthetic_dataset(root, cases, test_mode=False, seed=0):
    """The synthetic training samples as loaders and failure leave them."""
    loaders = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
               dict(type='LoadPointsFromMultiSweepsWithRings', sweeps_num=10, use_dim=[0, 1, 2, 3, 4]),
               dict(type='LoadMultiViewImageFromFiles')]
    if not test_mode:
        loaders.append(dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True))
    return CustomNuScenesDataset(
        f'{root}/nuscenes_infos_train.pkl', modality=SENSORS, test_mode=test_mode, load_failure_boxes=test_mode,
        filter_empty_gt=False, pipeline=[*loaders, dict(type='SimulateFailure', cases=cases, seed=seed)])


def fingerprints(root, test_mode):
    dataset = synthetic_dataset(root, MIXTURE, test_mode)
    return [fingerprint(dataset[index]) for index in range(len(dataset))]


def first_fingerprint(samples):
    return fingerprint(samples[0])


@pytest.fixture(scope='module')
def in_order(synthetic_nuscenes):
    """Fingerprints of all samples in training and in test mode, read one after the other in this process."""
    found = [fingerprints(synthetic_nuscenes, test_mode) for test_mode in (False, True)]
    for texts in found:
        assert {json.loads(text)[0] for text in texts} == {case for case, share in MIXTURE.items() if share}
    return found


@pytest.mark.parametrize('workers', [0, 1, 3])
@pytest.mark.parametrize('test_mode', [False, True], ids=['train', 'test'])
def test_workers_of_data_loaders(synthetic_nuscenes, in_order, test_mode, workers):
    dataset = synthetic_dataset(synthetic_nuscenes, MIXTURE, test_mode)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(workers)).tolist()
    loader = DataLoader(dataset, batch_size=1, sampler=order, num_workers=workers, collate_fn=first_fingerprint)
    assert list(loader) == [in_order[test_mode][index] for index in order]


def test_a_fresh_interpreter_draws_the_same(synthetic_nuscenes, in_order, repo_root):
    script = ('import json, sys; import projects.mmdet3d_plugin; import torch; torch.set_num_threads(1)\n'
              f'sys.path.insert(0, {os.path.dirname(__file__)!r})\n'
              'from test_simulate_failure import fingerprints\n'
              f'print(json.dumps([fingerprints({str(synthetic_nuscenes)!r}, mode) for mode in (False, True)]))')
    printed = subprocess.run([sys.executable, '-c', script], cwd=repo_root, check=True, capture_output=True, text=True,
                             env={**os.environ, 'PYTHONHASHSEED': '7'}).stdout
    assert json.loads(printed.splitlines()[-1]) == in_order


def test_persistent_workers_learn_of_the_epoch(synthetic_nuscenes):
    dataset = synthetic_dataset(synthetic_nuscenes, MIXTURE)
    simulate, = (step for step in dataset.pipeline.transforms if isinstance(step, SimulateFailure))
    loader = DataLoader(dataset, batch_size=1, num_workers=1, persistent_workers=True, collate_fn=first_fingerprint)
    epochs = []
    for epoch in (0, 1, 0):
        simulate.set_epoch(epoch)
        epochs.append(list(loader))
    assert epochs[0] == epochs[2] != epochs[1]
    assert {json.loads(text)[1][1] for text in epochs[1]} == {1}


def test_it_can_be_sent_to_a_process():
    transform = SimulateFailure(MIXTURE, seed=2)
    transform.set_epoch(3)
    other = pickle.loads(pickle.dumps(transform))
    assert drawn_cases(other, range(30)) == drawn_cases(transform, range(30))


# Its place in the pipeline

@pytest.mark.parametrize('degrees', [60, 90])
def test_fields_of_view_include_the_sweeps(synthetic_nuscenes, degrees):
    clean = synthetic_dataset(synthetic_nuscenes, 'clean')[1]['points'].tensor
    left = synthetic_dataset(synthetic_nuscenes, f'fov:{degrees}')[1]['points'].tensor

    def excess(points):  # of the cosine with +y; on the border, where beams of whole degrees lie, any will do
        return points[:, 1] / points[:, :2].norm(dim=1) - math.cos(math.radians(degrees))

    assert torch.equal(left[excess(left) > 1e-5], clean[excess(clean) > 1e-5]) and (excess(left) > -1e-5).all()
    assert left[:, 4].unique().numel() == 4  # of the keyframe and of three sweeps


@pytest.mark.parametrize('beams', [16, 8, 4])
def test_beams_include_the_sweeps(synthetic_nuscenes, beams):
    """Against files in which the other beams never were."""
    dataset = synthetic_dataset(synthetic_nuscenes, f'beams:{beams}')
    info = dataset.data_infos[1]
    left = dataset[1]['points'].tensor
    clouds = [np.fromfile(path, np.float32).reshape(-1, 5)
              for path in (info['lidar_path'], *(sweep['data_path'] for sweep in info['sweeps']))]
    counts = [np.isin(cloud[:, 4], range(1, 32, 32 // beams)).sum() for cloud in clouds]
    lags, found = left[:, 4].unique(return_counts=True)
    assert sorted(found.tolist()) == sorted(counts) and lags[0] == 0 and len(counts) == 4
    kept = clouds[0][np.isin(clouds[0][:, 4], range(1, 32, 32 // beams)), :4]
    np.testing.assert_array_equal(left[left[:, 4] == 0, :4], kept)


@OBJECTSAMPLERS.register_module()
class TallColumn:
    """Stands in for the database: one object of 1000 points, whose fifth value looks like a ring."""

    def sample_all(self, gt_bboxes, gt_labels, with_img=False):
        points = np.concatenate([np.random.default_rng(0).uniform(-1, 1, (1000, 3)), np.ones((1000, 2))], axis=1)
        return dict(gt_bboxes_3d=np.array([[0, 0, -1, 2, 2, 2, 0, 0, 0]], np.float32), gt_labels_3d=np.array([1]),
                    points=LiDARPoints(points.astype(np.float32), points_dim=5), points_idx=np.zeros(1000, int),
                    images=[])


@pytest.mark.parametrize('beams', [16, 8, 4])
def test_pasted_objects_are_thinned_and_can_fail(beams):
    results = few_points('token', 320)
    results['points'].tensor[:, 0] = 30
    results.update(rings=np.arange(320) % 32, gt_labels_3d=np.zeros(0, int))
    results = UnifiedObjectSample(dict(type='TallColumn'))(results)
    failed = SimulateFailure('object_failure:1')(copy.deepcopy(results))
    assert (failed['points'].coord[:, 0] == 30).all() and len(failed['failure'].lost_boxes) == 1
    places = SimulateFailure(f'beams:{beams}')(results)['points'].coord[:, 0]
    assert (places == 30).sum() == 10 * beams
    assert abs((places != 30).sum() - 1000 * beams / 32) < 4 * math.sqrt(1000 * beams / 32 * (1 - beams / 32))


def test_calibration_noise_survives_image_transforms(sample):
    """A marker painted where the true calibration sees it is not where the noisy one looks for it, by 2 degrees."""
    conf = dict(H=900, W=1600, final_dim=(320, 800), resize_lim=(0.5, 0.6), bot_pct_lim=(0., 0.1), rot_lim=(-5., 5.),
                rand_flip=True)
    true, noisy = (Compose([dict(type='LoadMultiViewImageFromFiles')])(copy.deepcopy(sample)) for _ in range(2))
    SimulateFailure('calibration:2')(noisy)
    for results in (true, noisy):
        np.random.seed(4)
        ResizeCropFlipImage(conf, training=True)(results)
    for view in range(6):
        np.testing.assert_array_equal(true['img'][view], noisy['img'][view])
        np.testing.assert_allclose(true['cam_intrinsic'][view], noisy['cam_intrinsic'][view])
        np.testing.assert_allclose(noisy['lidar2img'][view], noisy['cam_intrinsic'][view] @ noisy['lidar2cam'][view])
        rays = [np.linalg.solve(results['lidar2img'][view][:3, :3], [400., 160, 1]) for results in (true, noisy)]
        cosine = rays[0] @ rays[1] / np.linalg.norm(rays[0]) / np.linalg.norm(rays[1])
        assert 0 < math.degrees(math.acos(min(1, cosine))) <= 2 + 1e-6  # less where the ray lies close to the axis
        np.testing.assert_allclose(*(np.linalg.solve(results['lidar2cam'][view], [0, 0, 0, 1])
                                     for results in (true, noisy)), atol=1e-9)
    shifts = [np.linalg.norm(project(boxes := sample['ann_info']['gt_bboxes_3d'].gravity_center.numpy(),
                                     true['lidar2img'][view])[0] - project(boxes, noisy['lidar2img'][view])[0], axis=1)
              for view in range(6)]
    assert np.nanmedian(np.concatenate(shifts)) > 5  # pixels: 2 degrees are about 22 across the axis


# Through the whole training pipeline and the model

CONFIG = Path(__file__).resolve().parents[3] / 'configs/cmt_aqr_synthetic_failures.py'


def failures_config(root):
    cfg = load_config(CONFIG)
    cfg.merge_from_dict({'data.train.data_root': f'{root}/', 'data.train.ann_file': f'{root}/nuscenes_infos_train.pkl'})
    return cfg


def training_set(root, cases):
    cfg = failures_config(root).data.train
    for transform in cfg.pipeline:
        if transform.type == 'SimulateFailure':
            transform.cases = cases
        if transform.type == 'LoadPointsFromMultiSweeps':
            transform.type += 'WithRings'
    return build_dataset(cfg)


def test_the_record_knows_how_the_scene_moved(synthetic_nuscenes):
    """Boxes of the info file, moved as the record says, are the boxes that the model gets."""
    dataset = training_set(synthetic_nuscenes, 'object_failure:1')
    for seed in range(4):
        np.random.seed(seed)
        meta = dataset[1]['img_metas'].data
        record, boxes = meta['failure'], meta['gt_bboxes_3d'].data.gravity_center.numpy()
        start = dataset.get_ann_info(1)['gt_bboxes_3d'].gravity_center.numpy()
        np.testing.assert_allclose(record.lost_boxes[:, :3], start, atol=1e-5)  # kept where they failed
        moved = start @ record.motion[:3, :3].T + record.motion[:3, 3]
        distance = np.linalg.norm(boxes[:, None] - moved[None], axis=-1).min(axis=1)
        assert np.abs(moved - start).max() > 1 and len(boxes) > 20 and distance.max() < 1e-3
        assert record.lidar_lost(torch.as_tensor(boxes)).all()


@pytest.fixture(scope='module')
def detector(synthetic_nuscenes):
    """The config's detector, smaller; its fresh router gives both sensors weight 0.5."""
    cfg = failures_config(synthetic_nuscenes)
    cfg.merge_from_dict({'model.pts_bbox_head.num_query': 30, 'model.pts_bbox_head.transformer.decoder.num_layers': 1,
                         'model.img_backbone.base_channels': 8, 'model.img_neck.in_channels': [16, 32]})
    torch.manual_seed(0)
    model = build_model(cfg.model)
    model.init_weights()
    return model


def batch_of(dataset, *indices):
    np.random.seed(0)
    return scatter(collate([dataset[index] for index in indices], samples_per_gpu=len(indices)), [-1])[0]


def train_step(detector, data):
    detector = copy.deepcopy(detector).train()
    out = detector.train_step(data, None)
    out['loss'].backward()
    assert all(math.isfinite(value) for value in out['log_vars'].values())
    gradients = {name: parameter.grad for name, parameter in detector.named_parameters()}
    assert not [name for name, grad in gradients.items() if grad is None or not torch.isfinite(grad).all()]
    for name, buffer in detector.named_buffers():
        assert torch.isfinite(buffer).all(), name
    return out, gradients


@pytest.mark.parametrize('case', ['lidar_drop', 'camera_drop', 'lidar_drop+camera_drop'])
@pytest.mark.parametrize('batch', [(1, ), (1, 2)], ids=len)
def test_training_on_batches_that_lost_a_sensor(synthetic_nuscenes, detector, case, batch):
    """Batch normalization over no voxel at all; every parameter still takes part, as distributed training wants it."""
    data = batch_of(training_set(synthetic_nuscenes, case), *batch)
    assert [len(cloud) for cloud in data['points']] == [0] * len(batch) or 'lidar' not in case
    leaning = copy.deepcopy(detector)
    leaning.pts_bbox_head.aqr_router.mlp[-1].bias.data = torch.tensor([1.0, -1.0])  # toward LiDAR, everywhere
    likes, dislikes = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))  # of a target of 1 or 0, and of 0 or 1
    nearest, farthest, unsure = likes, dislikes, (likes + dislikes) / 2
    out, gradients = train_step(leaning, data)
    loss = out['log_vars']['loss_aqr']
    if case == 'lidar_drop':
        assert loss == pytest.approx(farthest, abs=1e-5)
    elif case == 'camera_drop':  # where a camera sees the query
        assert nearest < loss < unsure and loss < (nearest + unsure) / 2
    else:  # nothing to prefer, where a camera sees the query
        assert loss == pytest.approx(unsure, abs=0.1) and loss >= unsure
    assert gradients['pts_voxel_encoder.pfn_layers.0.linear.weight'].abs().max() == 0 or 'lidar' not in case


@pytest.mark.parametrize('case', ['view_drop:3', 'fov:60', 'fov:90', 'object_failure:0.5', 'frame_object_failure:1',
                                  'beams:4', 'calibration:2', 'fov:60+view_drop:CAM_FRONT+object_failure:0.5'])
def test_training_under_every_failure(synthetic_nuscenes, detector, case):
    data = batch_of(training_set(synthetic_nuscenes, case), 1, 3)
    assert [meta['failure'].case for meta in data['img_metas']] == [case] * 2
    out, _ = train_step(detector, data)
    graded = case.startswith(('beams', 'calibration'))
    assert (out['log_vars']['loss_aqr'] == 0) == graded


def test_an_empty_cloud_beside_a_full_one(synthetic_nuscenes, detector):
    full = training_set(synthetic_nuscenes, 'clean')
    empty = training_set(synthetic_nuscenes, 'lidar_drop')
    np.random.seed(0)
    data = scatter(collate([full[1], empty[2]], samples_per_gpu=2), [-1])[0]
    assert len(data['points'][0]) > 10000 and len(data['points'][1]) == 0
    train_step(detector, data)


def test_blank_images_are_blank_before_normalization(synthetic_nuscenes):
    """Black, as a broken camera is: all pixels of a lost view have one color, which is not the mean."""
    data = batch_of(training_set(synthetic_nuscenes, 'view_drop:CAM_FRONT'), 1)
    spread = data['img'][0].flatten(2).std(dim=-1).amax(dim=1)  # (V,)
    assert (spread > 0).tolist() == [not lost for lost in data['img_metas'][0]['failure'].views_lost]
    lost = data['img'][0][int(spread.argmin())]
    mean, std = torch.tensor([103.53, 116.28, 123.675]), torch.tensor([57.375, 57.12, 58.395])
    torch.testing.assert_close(lost[:, 0, 0], -mean / std)


def test_the_config_trains_a_step(synthetic_nuscenes):
    """As configured: mixture, model, optimizer with a learning rate of its own for the router."""
    cfg = failures_config(synthetic_nuscenes)
    torch.manual_seed(0)
    model = build_model(cfg.model)
    model.init_weights()
    optimizer = build_optimizer(model, cfg.optimizer)
    rates = {group['lr'] for group in optimizer.param_groups}
    assert len(rates) == 2 and max(rates) == pytest.approx(5 * min(rates))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.train()
    out = model.train_step(batch_of(build_dataset(cfg.data.train), 1, 3), optimizer)
    assert {'loss_cls', 'loss_bbox', 'loss_aqr'} <= set(out['log_vars'])
    out['loss'].backward()
    optimizer.step()
    assert (model.pts_bbox_head.aqr_router.mlp[-1].weight != 0).any()
    assert sum(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()) < len(before) / 4
