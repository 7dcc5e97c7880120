import importlib.util
import json
import linecache
import math

import numpy as np
import pytest
import torch
from mmcv.utils import ConfigDict
from nuscenes import NuScenes

from projects.mmdet3d_plugin.apis import load_config, run_test
from projects.mmdet3d_plugin.apis.test import build_trained_model
from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.datasets.sensor_failures import FAILURES, FailureCase
from projects.mmdet3d_plugin.evaluation.detection_matches import DetectionMatches, mean_ap
from projects.mmdet3d_plugin.experiments import robustness_report
from projects.mmdet3d_plugin.experiments.headroom import measure_headroom
from projects.mmdet3d_plugin.experiments.robustness import RobustnessTest, relative_accuracy, routing_auroc
from projects.mmdet3d_plugin.experiments.robustness_report import measure_robustness
from projects.mmdet3d_plugin.experiments.router_controls import ALONE, CONTROLS, Control, ControlledRouter
from projects.mmdet3d_plugin.experiments.routing_gain import measure_gain


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(robustness_report, 'ROUNDS', 100)


@pytest.fixture(scope='module')
def make_config(repo_root, synthetic_nuscenes):
    """Function that loads a config with the generated set as its test data."""

    def make(name='cmt_aqr_synthetic_failures.py', **options):
        return load_config(repo_root / 'configs' / name, {
            'data.test.pipeline.1.test_mode': True,  # the newest sweeps, not some at random
            'data.test.data_root': f'{synthetic_nuscenes}/',
            'data.test.ann_file': str(synthetic_nuscenes / 'nuscenes_infos_val.pkl'), **options})

    return make


@pytest.fixture(scope='module')
def checkpoints(repo_root, make_config, tmp_path_factory):
    """The published baseline, and the same with a router of random weights."""
    baseline = repo_root / 'checkpoints/cmt_synthetic.pth'
    model = build_trained_model(make_config(), str(baseline))
    torch.manual_seed(0)
    last = model.pts_bbox_head.aqr_router.mlp[-1]
    torch.nn.init.normal_(last.weight, std=0.3)
    routed = tmp_path_factory.mktemp('checkpoints') / 'routed.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(CLASSES=model.CLASSES)), routed)
    return dict(baseline=baseline, routed=routed)


@pytest.fixture(scope='module')
def clean(make_config, checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp('clean')
    return folder, RobustnessTest(make_config(), checkpoints['routed'], folder, CONTROLS).run('clean')


def test_clean_scores_are_those_of_test_py(make_config, checkpoints, clean):
    metrics = run_test(make_config(), str(checkpoints['routed']), metrics=['bbox'], seed=0)
    _, records = clean
    for score in ('mAP', 'NDS', 'mATE'):
        assert records['learned']['scores'][score] == pytest.approx(metrics[f'pts_bbox_NuScenes/{score}'], abs=1e-4)
    matches = DetectionMatches.load(records['learned']['matches'])
    assert mean_ap(matches) == pytest.approx(records['learned']['scores']['mAP'], abs=1e-9)
    assert records['learned']['scores']['mAP'] > 0.3


def test_without_bias_it_is_the_baseline(make_config, checkpoints, clean, tmp_path):
    """Also the oracle: nothing has failed."""
    baseline = RobustnessTest(make_config('cmt_synthetic_failures.py'), checkpoints['baseline'], tmp_path).run('clean')
    _, records = clean
    for control in ('off', 'oracle'):
        assert records[control]['scores'] == pytest.approx(baseline['learned']['scores'], abs=2e-3, nan_ok=True)
    assert records['learned']['scores']['mAP'] != pytest.approx(records['off']['scores']['mAP'], abs=1e-4)
    assert baseline['learned']['weights'] == {} and baseline['learned']['queries'] is None


def test_results_are_kept(make_config, checkpoints, clean, monkeypatch):
    folder, records = clean
    test = RobustnessTest(make_config(), checkpoints['routed'], folder, CONTROLS)
    monkeypatch.setattr(test, '_test', None)
    assert test.run('clean') == records
    with pytest.raises(TypeError):
        test.run('lidar_drop')
    with pytest.raises(TypeError):
        RobustnessTest.run(_changed(test, make_config(**{'model.pts_bbox_head.aqr_bias_strength': 3.0})), 'clean')


def _changed(test, cfg):
    test.cfg = cfg
    return test


def test_regions_boxes_and_weights(make_config, checkpoints, clean, synthetic_nuscenes, tmp_path):
    """Field of view: queries and boxes beyond 60 degrees, by the angle of the devkit's own boxes in the LiDAR frame."""
    record = RobustnessTest(make_config(), checkpoints['routed'], tmp_path).run('fov:60')['learned']
    matches = DetectionMatches.load(record['matches'])
    nusc = NuScenes('v1.0-mini', str(synthetic_nuscenes), verbose=False)
    inside = 0
    for token in matches.sample_tokens:
        _, boxes, _ = nusc.get_sample_data(nusc.get('sample', str(token))['data']['LIDAR_TOP'])
        centers = {tuple(np.round(nusc.get_box(box.token).center, 4)): box.center for box in boxes}
        own = matches.gt_center[matches.sample_tokens[matches.gt_sample] == token]
        local = np.array([centers[tuple(np.round(center, 4))] for center in own]).reshape(-1, 3)
        inside += (np.abs(np.degrees(np.arctan2(local[:, 0], local[:, 1]))) > 60).sum()
    assert 0 < inside == record['recall']['boxes_inside']
    assert record['recall']['boxes_outside'] == len(matches.gt_sample) - inside

    queries = dict(np.load(record['queries']))
    lost = queries['lidar_lost']
    assert 0.5 < lost.mean() < 0.8 and not queries['cameras_lost'].any()
    weights = record['weights']
    assert weights['LiDAR lost']['queries'] == lost.sum() and math.isnan(weights['both lost']['lidar'])
    assert weights['LiDAR lost']['lidar'] == pytest.approx(queries['lidar_weights'][lost].mean(), abs=1e-6)
    assert weights['nothing lost']['camera'] == pytest.approx(queries['camera_weights'][~lost].mean(), abs=1e-6)

    found = routing_auroc(record, clean[1]['learned'])
    reference = dict(np.load(clean[1]['learned']['queries']))
    score = queries['camera_weights'] - queries['lidar_weights']
    negatives = np.concatenate([score[~lost], reference['camera_weights'] - reference['lidar_weights']])
    wins = (score[lost][:, None] > negatives) + 0.5 * (score[lost][:, None] == negatives)
    assert found['lidar'] == pytest.approx(wins.mean(), abs=1e-9) and math.isnan(found['camera'])


def test_controls_change_the_weights_as_they_say(make_config, checkpoints):
    cfg = make_config()
    model = build_trained_model(cfg, str(checkpoints['routed']))
    head = model.pts_bbox_head
    router = ControlledRouter(head)
    torch.manual_seed(1)
    failure = FailureRecord('view_drop:3', views_lost=np.array([True] * 3 + [False] * 3), field_of_view=60.0)
    metas = [dict(lidar2img=[np.eye(4)] * 6, pad_shape=[(96, 224, 3)] * 6, failure=failure)]
    x, x_img = torch.randn(1, 96, 32, 32), torch.randn(6, 96, 6, 14)
    reference = torch.rand(1, 50, 3)
    out = {}
    for control in CONTROLS:
        router.select(control)
        with torch.no_grad():
            _, _, bias, record = head._apply_aqr_modulation(x, x_img, reference, metas)
        out[control] = record.lidar_weights, record.camera_weights
    lidar, camera = out['learned']
    assert lidar.std() > 0.01
    assert all((w == 0.5).all() for w in out['off'])
    for learned, averaged, shuffled in zip(out['learned'], out['averaged'], out['shuffled']):
        assert torch.allclose(averaged, learned.mean().expand_as(averaged))
        assert torch.equal(shuffled.sort()[0], learned.sort()[0]) and not torch.equal(shuffled, learned)
    pairs = set(zip(out['oracle'][0].flatten().tolist(), out['oracle'][1].flatten().tolist()))
    assert pairs <= {(0.5, 0.5), (0.0, 1.0), (1.0, 0.0)} and (0.0, 1.0) in pairs

    def bias(control):
        router.select(control)
        with torch.no_grad():
            return head._apply_aqr_modulation(x, x_img, reference, metas)[2].values

    own = cfg.model.pts_bbox_head.get('aqr_bias_strength', 5.0)
    assert torch.allclose(bias('oracle:2') * own, bias('oracle') * 2) and bias('oracle:2').abs().max() == 2
    assert torch.equal(bias('learned:0.5') * own / 0.5, bias('learned'))  # and the own strength is back
    assert not any(bias(name).any() for name in ALONE)
    router.select('shuffled')

    def shuffle():
        with torch.no_grad():
            return head._apply_aqr_modulation(x, x_img, reference, metas)[3].lidar_weights

    router.restart()
    first, second = shuffle(), shuffle()
    router.restart()
    assert torch.equal(shuffle(), first) and not torch.equal(first, second)
    with pytest.raises(ValueError, match="control must be one of .*got 'best'"):
        router.select('best')
    with pytest.raises(ValueError, match='enable_aqr=True'):
        ControlledRouter(ConfigDict(enable_aqr=False))


def test_names_of_controls():
    for text in (*CONTROLS, *ALONE, 'oracle:5', 'learned:0.25'):
        assert str(Control.parse(text)) == text
    assert Control.parse('oracle:5.0') == Control('oracle', 5.0) and Control('oracle', 5.0).file_name == 'oracle_5'
    assert [Control.parse(text).modality for text in ('lidar_alone', 'camera_alone', 'off')] == [
        'lidar', 'camera', 'both']
    for text, message in (('best', "one of learned, .*; got 'best'"), ('off:1', "got 'off:1'"), ('', "got ''"),
                          ('lidar_alone:2', "got 'lidar_alone:2'"), ('oracle:', "control 'oracle:': could not"),
                          ('oracle:nan', "control 'oracle:nan': strength of oracle must be")):
        with pytest.raises(ValueError, match=message):
            Control.parse(text)


def test_headroom(make_config, checkpoints, tmp_path):
    """A neutral router's baseline: what it does is what the plain model does, alone and with both sensors."""
    cfg = make_config()
    text = measure_headroom(cfg, [checkpoints['baseline']], ['camera_drop'], tmp_path)
    clean, dropped = json.loads((tmp_path / 'headroom.json').read_text())['cases']
    plain = RobustnessTest(make_config('cmt_synthetic_failures.py'), checkpoints['baseline'], tmp_path / 'plain',
                           ('learned', 'lidar_alone')).run('camera_drop')
    for control, name in (('learned', 'off'), ('lidar_alone', 'lidar_alone')):
        assert dropped[f'{name} mAP'] == pytest.approx(plain[control]['scores']['mAP'], abs=2e-3)
    # Images are black already: alone is what it was. The oracle of clean data is neutral.
    assert dropped['lidar_alone - off mAP'] == dropped['lidar_alone - off mAP high'] == 0
    assert clean['oracle:5 - off mAP'] == 0 and clean['lidar_alone - off mAP'] < 0
    assert dropped['oracle:5 mAP'] != dropped['oracle:1 mAP']
    assert '| case ' in text and 'oracle, strength 5' in text and 'LiDAR alone' in text
    assert len(list((tmp_path / 'results').glob('*.json'))) == 10 and (tmp_path / 'headroom.png').is_file()


def test_what_a_router_wins_of_the_headroom(make_config, checkpoints, tmp_path):
    cfg = make_config()
    text = measure_headroom(cfg, [checkpoints['routed']], ['camera_drop'], tmp_path)
    dropped = json.loads((tmp_path / 'headroom.json').read_text())['cases'][1]
    controls = ('learned', 'off', 'oracle')
    alone = RobustnessTest(cfg, checkpoints['routed'], tmp_path / 'alone', controls).run('camera_drop')
    for control in ('learned', 'oracle'):
        gain = alone[control]['scores']['mAP'] - alone['off']['scores']['mAP']
        assert dropped[f'{control} - off mAP'] == pytest.approx(gain, abs=1e-6)
    assert dropped['oracle mAP'] == pytest.approx(dropped['oracle:5 mAP'])  # the config's own strength
    assert dropped['learned - off mAP'] != 0 and ' router |' in text and 'share' in text
    share = dropped['share']
    possible = dropped['oracle - off mAP']
    assert share is None if possible < 0.005 else share == pytest.approx(dropped['learned - off mAP'] / possible)
    with pytest.raises(ValueError, match='all checkpoints must have a router, or none'):
        measure_headroom(cfg, list(checkpoints.values()), ['camera_drop'], tmp_path)


def test_results_are_made_anew_when_the_code_of_a_failure_changes(make_config, checkpoints, tmp_path):
    """Also that of a module which a config imports; its comments do not count."""
    def code(text):
        (tmp_path / 'mydust.py').write_text(
            'from projects.mmdet3d_plugin.datasets.sensor_failures.images import register_corruption\n'
            "@register_corruption('mydust', {1: 0.9})\n"
            f'def dust(image, level, rng):\n    return {text}\n')
        FAILURES.pop('mydust', None)
        linecache.clearcache()
        spec = importlib.util.spec_from_file_location('mydust', tmp_path / 'mydust.py')
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        return RobustnessTest(make_config(), checkpoints['baseline'], tmp_path).origin['failures_sha256']

    without = RobustnessTest(make_config(), checkpoints['baseline'], tmp_path).origin['failures_sha256']
    try:
        first, same, other = code('image * level'), code('image * level  # dust'), code('image * level + 1')
    finally:
        FAILURES.pop('mydust', None)
    assert first == same and len({without, first, other}) == 3


def test_gain(make_config, checkpoints, tmp_path):
    """The differences that the headroom has, too, and a checkpoint without a router is refused."""
    cfg = make_config()
    text = measure_gain(cfg, [checkpoints['routed']], ['camera_drop'], tmp_path)
    record = json.loads((tmp_path / 'gain.json').read_text())
    alone = RobustnessTest(cfg, checkpoints['routed'], tmp_path / 'alone', ('learned', 'off')).run('camera_drop')
    dropped = record['cases'][1]
    for score in ('mAP', 'NDS'):
        gain = alone['learned']['scores'][score] - alone['off']['scores'][score]
        assert dropped[f'{score} gain'] == pytest.approx(gain, abs=1e-6) and gain != 0
        assert dropped[f'{score} gain low'] <= dropped[f'{score} gain high']
    assert '| camera_drop ' in text and (tmp_path / 'gain.md').read_text() == f'{text}\n'
    assert (tmp_path / 'gain.csv').read_text().count('\n') == 3
    with pytest.raises(ValueError, match='must have routers'):
        measure_gain(cfg, list(checkpoints.values()), ['camera_drop'], tmp_path)
    text = measure_gain(cfg, [checkpoints['routed']], ['clean'], tmp_path)  # no failure, so no table of kinds
    assert '| clean ' in text and '| failures ' not in text


def by_case(values):
    return {FailureCase.parse(case): value for case, value in values.items()}


def test_relative_accuracy():
    ra, mean = relative_accuracy(by_case({'clean': 0.8, 'beams:4': 0.4, 'beams:8': 0.6, 'lidar_drop': 0.2}))
    assert ra == by_case({'clean': 1.0, 'beams:4': 0.5, 'beams:8': pytest.approx(0.75), 'lidar_drop': 0.25})
    assert mean == pytest.approx((0.625 + 0.25) / 2)
    assert math.isnan(relative_accuracy(by_case({'clean': 0.8}))[1])
    orders = [relative_accuracy(by_case({'clean': 1.0, 'fov:60': 0.9, joined: 0.1, 'camera_drop': 0.8}))[1]
              for joined in ('fov:60+lidar_drop', 'lidar_drop+fov:60')]
    assert orders == pytest.approx([0.6, 0.6])  # a kind of its own


def test_tables(make_config, checkpoints, tmp_path):
    table = measure_robustness(make_config(), str(checkpoints['routed']), ['object_failure:0.5'], tmp_path)
    rows = json.loads((tmp_path / 'robustness.json').read_text())['cases']
    assert [row['case'] for row in rows] == ['clean', 'object_failure:0.5'] and rows[0]['RA'] == 1
    assert '| object_failure:0.5 | ' in table and '| AUROC LiDAR | ' in table
    assert f'mRA (learned): {rows[1]["RA"]:.3f} [{rows[1]["RA low"]:.3f}, {rows[1]["RA high"]:.3f}]' in table
    assert (tmp_path / 'robustness.md').read_text() == f'{table}\n'
    assert (tmp_path / 'robustness.csv').read_text().count('\n') == 3


def test_mistakes(make_config, checkpoints, tmp_path):
    with pytest.raises(ValueError, match='is no failure .*; allowed'):
        measure_robustness(make_config(), str(checkpoints['routed']), ['fog'], tmp_path)
    with pytest.raises(ValueError, match='model without router'):
        RobustnessTest(make_config('cmt_synthetic_failures.py'), checkpoints['baseline'], tmp_path, CONTROLS)
    assert not list(tmp_path.iterdir())
