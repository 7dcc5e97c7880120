import cv2
import numpy as np
import pytest
import torch

from projects.mmdet3d_plugin.apis import inference, load_config
from projects.mmdet3d_plugin.apis.routing_snapshot import (
    build_case_dataset,
    check_queries,
    check_routes,
    choose_queries,
    find_sample,
    sample_tokens,
    take_snapshot,
)
from projects.mmdet3d_plugin.apis.test import build_trained_model
from projects.mmdet3d_plugin.models.utils.transformer.attention_recorder import AttentionRecorder
from tests.tiny_snapshot import make_snapshot

CASE = 'view_drop:CAM_FRONT,CAM_BACK+fov:60'
SIZE, CROP = (400, 225), (96, 224)  # of the files; height and width of the network input


def load(repo_root, synthetic_nuscenes, name='cmt_aqr_local_synthetic.py', **options):
    return load_config(repo_root / 'configs' / name, {
        'data.test.data_root': f'{synthetic_nuscenes}/',
        'data.test.ann_file': str(synthetic_nuscenes / 'nuscenes_infos_val.pkl'), **options})


@pytest.fixture(scope='module')
def cfg(repo_root, synthetic_nuscenes):
    return load(repo_root, synthetic_nuscenes)


@pytest.fixture(scope='module')
def model(repo_root, cfg):
    """The published baseline with a router of random weights, biasing windows."""
    model = build_trained_model(cfg, str(repo_root / 'checkpoints/cmt_synthetic.pth'))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.pts_bbox_head.aqr_router.mlp[-1].weight, std=0.3)
    return model


@pytest.fixture(scope='module')
def datasets(cfg):
    return {case: build_case_dataset(cfg, case) for case in ('clean', CASE)}


@pytest.fixture(scope='module')
def snapshots(model, datasets):
    return {case: take_snapshot(model, dataset, 1) for case, dataset in datasets.items()}


@pytest.mark.parametrize('case', ['clean', CASE])
def test_it_shows_what_the_detector_does(model, datasets, snapshots, case):
    snapshot, routed = snapshots[case], []
    hook = model.pts_bbox_head.aqr_router.register_forward_hook(lambda module, args, output: routed.append(output))
    np.random.seed(0)  # the loader draws sweeps
    with AttentionRecorder(model.pts_bbox_head) as recorder:
        (sample, detections, _), = inference.detect(model, torch.utils.data.Subset(datasets[case], [1]))
    hook.remove()
    (lidar, camera, _), = routed
    assert lidar.std() > 0.05
    np.testing.assert_array_equal(snapshot.lidar_weights, lidar[0].numpy())
    np.testing.assert_array_equal(snapshot.camera_weights, camera[0].numpy())
    np.testing.assert_allclose(snapshot.preference, (lidar - camera)[0].numpy())
    kept = inference.above_threshold(detections, 0.3)
    torch.testing.assert_close(snapshot.detections['boxes_3d'].tensor, kept['boxes_3d'].tensor)
    assert len(kept['scores_3d']) > 3 and str(snapshot.case) == case == snapshot.failure.case

    # The best detection is that of the query with the highest score.
    best = snapshot.scores.argmax()
    assert snapshot.scores[best] == pytest.approx(kept['scores_3d'][0].item(), abs=1e-6)
    assert snapshot.labels[best] == kept['labels_3d'][0]
    assert snapshot.class_names == list(datasets[case].CLASSES)
    np.testing.assert_allclose(snapshot.centers[best], kept['boxes_3d'].gravity_center[0], atol=1e-4)

    assert snapshot.layer == 2
    queries = list(range(0, 200, 7))
    biased, unbiased = snapshot.attention(queries)
    statistics = recorder.statistics[2]
    for maps, mass in ((biased, statistics.mass), (unbiased, statistics.mass_unbiased)):
        np.testing.assert_allclose(maps.sum(axis=1), 1, atol=1e-5)
        bev, views = snapshot.on_maps(maps)
        np.testing.assert_allclose(bev.sum(axis=(1, 2)), mass[0, queries, 0], atol=1e-5)
        np.testing.assert_allclose(views.sum(axis=(1, 2, 3)), mass[0, queries, 1], atol=1e-5)
    assert np.abs(biased - unbiased).max() > 0.01


def test_cases_differ_in_nothing_but_their_failure(datasets, model):
    """Sweeps are drawn at random, from numbers that go on as if nothing had been drawn."""
    np.random.seed(5)
    first = take_snapshot(model, datasets['clean'], 0)
    after = np.random.random()
    np.random.seed(6)
    second = take_snapshot(model, datasets['clean'], 0)
    np.testing.assert_array_equal(first.points, second.points)
    np.testing.assert_array_equal(first.preference, second.preference)
    np.random.seed(5)
    assert np.random.random() == after


def test_places_of_queries(model, snapshots):
    snapshot = snapshots['clean']
    fractions = model.pts_bbox_head.reference_points.weight.detach().numpy()
    low, high = np.array([-28.8, -28.8, -3.0]), np.array([28.8, 28.8, 3.0])
    positions = low + fractions * (high - low)
    np.testing.assert_allclose(snapshot.positions, positions, atol=1e-4)
    assert snapshot.bev_extent == pytest.approx((-28.8, 28.8, -28.8, 28.8))
    checked = 0
    for query, position in enumerate(positions):
        for view, matrix in enumerate(snapshot.lidar2img):
            u, v, depth, _ = matrix @ np.append(position, 1)
            seen = depth > 0 and 0 <= u / depth < CROP[1] and 0 <= v / depth < CROP[0]
            assert seen == snapshot.seen[query, view]
            if seen:
                np.testing.assert_allclose(snapshot.pixels[query, view], (u / depth, v / depth), atol=0.01)
                checked += 1
    assert checked > 100


def test_images_are_those_that_the_network_gets(datasets, snapshots):
    info = datasets['clean'].get_data_info(1)
    for case, snapshot in snapshots.items():
        assert snapshot.camera_names == list(datasets[case].data_infos[1]['cams'])
        for name, image, file in zip(snapshot.camera_names, snapshot.images, info['img_filename']):
            lost = case == CASE and name in ('CAM_FRONT', 'CAM_BACK')
            assert lost == (name in snapshot.lost_cameras)
            if lost:
                assert not image.any()
                continue
            original = cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB)
            assert original.shape[:2] == SIZE[::-1]
            resized = cv2.resize(original, (224, 126))  # to the width of the input; the top is cut off
            assert np.abs(image.astype(int) - resized[-96:]).mean() < 3


def test_what_is_lost_where(datasets, snapshots):
    clean, failed = snapshots['clean'], snapshots[CASE]
    assert not clean.lidar_lost.any() and not clean.cameras_lost.any() and clean.regions()['nothing lost'].all()
    angle = np.abs(np.degrees(np.arctan2(*failed.positions[:, :2].T)))
    distance = np.hypot(*failed.positions[:, :2].T)
    far = (distance > 5) & (np.abs(angle - 60) > 1)
    np.testing.assert_array_equal(failed.lidar_lost[far], angle[far] > 60)
    works = ~np.isin(failed.camera_names, ['CAM_FRONT', 'CAM_BACK'])
    np.testing.assert_array_equal(failed.cameras_lost, failed.seen.any(axis=1) & ~failed.seen[:, works].any(axis=1))
    regions = failed.regions()
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in regions.values()), 1)
    assert all(mask.any() for mask in regions.values())
    np.testing.assert_array_equal(regions['both lost'], failed.lidar_lost & failed.cameras_lost)
    points = failed.points
    assert 0 < len(points) < len(clean.points)
    assert np.abs(np.degrees(np.arctan2(points[:, 0], points[:, 1]))).max() <= 60.01
    assert clean.ground_truth.tensor.shape == failed.ground_truth.tensor.shape


def test_bias_of_some_queries(snapshots):
    snapshot = snapshots[CASE]
    dense = snapshot.bias.dense()[0].numpy()
    np.testing.assert_array_equal(snapshot.bias_of([5, 190, 17]), dense[[5, 190, 17]])
    bev = snapshot.layout.num_bev
    peaks = [part[np.arange(200), np.abs(part).argmax(axis=1)] for part in (dense[:, :bev], dense[:, bev:])]
    np.testing.assert_allclose(snapshot.peak_bias(), np.stack(peaks, axis=1), atol=1e-6)


@pytest.mark.parametrize('local', [False, True])
def test_peak_bias(local):
    snapshot = make_snapshot(local=local)
    dense = snapshot.bias.dense()[0].numpy()
    peaks = [part[np.arange(40), np.abs(part).argmax(axis=1)] for part in (dense[:, :42], dense[:, 42:])]
    np.testing.assert_allclose(snapshot.peak_bias(), np.stack(peaks, axis=1))
    unseen = ~snapshot.seen.any(axis=1)
    assert unseen.any() and (snapshot.peak_bias()[unseen, 1] == 0).all() == local


def test_the_queries_shown_are_detections_with_strong_preferences():
    snapshots = [make_snapshot(seed=seed, queries=100) for seed in (0, 1)]
    scores = np.maximum(snapshots[0].scores, snapshots[1].scores)
    strength = np.maximum(np.abs(snapshots[0].preference), np.abs(snapshots[1].preference))
    chosen = choose_queries(snapshots, 4)
    best = sorted(range(100), key=lambda query: -scores[query])[:20]
    assert chosen == sorted(best, key=lambda query: -strength[query])[:4]
    assert chosen != sorted(range(100), key=lambda query: -strength[query])[:4]
    neutral = make_snapshot(queries=30, neutral=True)
    assert choose_queries([neutral]) == sorted(range(30), key=lambda query: -neutral.scores[query])[:3]
    assert len(choose_queries([make_snapshot(queries=2)])) == 2


def test_samples_by_token_and_index(datasets):
    tokens = sample_tokens(datasets['clean'])
    assert tokens == [info['token'] for info in datasets['clean'].data_infos]
    assert find_sample(tokens, tokens[2]) == 2 and find_sample(tokens, '3') == 3
    assert find_sample(['7', '0'], '0') == 1  # a token that looks like an index
    for unknown in ('4', '-1', 'nothing', ''):
        with pytest.raises(ValueError, match='indices 0 to 3 and tokens'):
            find_sample(tokens, unknown)


def test_object_failures_strike_the_boxes_of_a_frame(repo_root, real_frame):
    cfg = load_config(repo_root / 'configs/cmt_aqr_real_frame.py')
    clean, failed = (build_case_dataset(cfg, case, str(real_frame))[0] for case in ('clean', 'object_failure:0.5'))
    points = [sample['points'][0].data.shape[0] for sample in (clean, failed)]
    record = failed['img_metas'][0].data['failure']
    assert 0 < len(record.lost_boxes) < 68 and points[1] < points[0]
    tokens = sample_tokens(build_case_dataset(cfg, 'clean', str(real_frame)))
    assert tokens == [failed['img_metas'][0].data['sample_idx']]


def test_mistakes(repo_root, synthetic_nuscenes, model, datasets):
    with pytest.raises(ValueError, match='enable_aqr is False. Take a config with AQR'):
        check_routes(load(repo_root, synthetic_nuscenes, 'cmt_synthetic.py'))
    for layer in (3, -4):
        with pytest.raises(ValueError, match=rf'layer must lie in \[-3, 2\], got {layer}'):
            take_snapshot(model, datasets['clean'], 0, layer)
    for queries in ([0, 200], [-1], [1, 1]):
        with pytest.raises(ValueError, match='queries must be different numbers from 0 to 199'):
            check_queries(queries, 200)
    check_queries([0, 199], 200)
    cfg = load(repo_root, synthetic_nuscenes)
    cfg.data.test.pipeline[-1].transforms[-1]['keys'] = ['points']
    with pytest.raises(ValueError, match='need points and images'):
        take_snapshot(model, build_case_dataset(cfg, 'clean'), 0)


def test_what_each_sensor_alone_shows(repo_root, synthetic_nuscenes):
    cfg = load(repo_root, synthetic_nuscenes, 'cmt_aqr_plug_in_synthetic.py')
    model = build_trained_model(cfg, str(repo_root / 'checkpoints/cmt_synthetic.pth'))
    given = []
    hook = model.pts_bbox_head.aqr_router.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs['looks']), with_kwargs=True)
    snapshot = take_snapshot(model, build_case_dataset(cfg, 'stale_lidar@3'), 1)
    hook.remove()
    (looks, ) = given
    for sensor, logits in (('lidar', looks.lidar_logits), ('camera', looks.camera_logits)):
        scores, labels = snapshot.looks[sensor]
        shown = 1 / (1 + np.exp(-logits[0].numpy()))  # (Q, K)
        np.testing.assert_allclose(scores, shown.max(axis=1), atol=1e-6)
        np.testing.assert_array_equal(labels, shown.argmax(axis=1))
    assert (snapshot.looks['lidar'][0] != snapshot.looks['camera'][0]).any()


def test_routers_that_do_not_look(snapshots):
    assert snapshots['clean'].looks is None
