"""Series of cases and their tables, on two nuScenes samples with a detector whose errors tell what it was given."""
import json
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.utils import ConfigDict
from mmdet3d.models import build_model

from projects.mmdet3d_plugin import datasets
from projects.mmdet3d_plugin.apis import load_config, run_test
from projects.mmdet3d_plugin.datasets.sensor_failures import FailureCase, failure_rng
from projects.mmdet3d_plugin.experiments import robustness_report
from projects.mmdet3d_plugin.experiments.case_series import run_cases, sample_notes
from projects.mmdet3d_plugin.experiments.headroom import measure_headroom
from projects.mmdet3d_plugin.experiments.robustness import RobustnessTest
from projects.mmdet3d_plugin.experiments.robustness_report import measure_robustness
from tests.tiny_nuscenes import SCENES, write_tiny_nuscenes

BLIND, WITHOUT_LIDAR = 1.5, 0.75  # m, errors of `BoxMemory` without images and without points


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(robustness_report, 'ROUNDS', 100)


def write_set(folder):
    """The tiny set, its second sample with points and an image of its own."""
    write_tiny_nuscenes(folder)
    data = folder / 'data'
    content = pickle.loads((data / 'nuscenes_infos_val.pkl').read_bytes())
    points = np.random.default_rng(1).uniform(-30, 30, (50, 5)).astype(np.float32)
    points[:, 4] = np.arange(50) % 32
    points.tofile(data / 'points_1.bin')
    cv2.imwrite(str(data / 'image_1.png'), np.full((16, 32, 3), 50, np.uint8))
    info = content['infos'][1]
    info['lidar_path'] = str(data / 'points_1.bin')
    info['cams'] = {name: {**camera, 'data_path': str(data / 'image_1.png')} for name, camera in info['cams'].items()}
    (data / 'nuscenes_infos_val.pkl').write_bytes(pickle.dumps(content))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('set')
    write_set(folder)
    return folder


@pytest.fixture
def uneven(tmp_path, monkeypatch):
    """Config of a set in whose second scene all points lie at the origin: there the detector is off by 0.75 m."""
    write_set(tmp_path)
    np.zeros((50, 5), np.float32).tofile(tmp_path / 'data/points_1.bin')
    monkeypatch.chdir(tmp_path)
    return load_config('tiny_nuscenes.py')


@pytest.fixture
def cfg(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return load_config('tiny_nuscenes.py')


def measure(cfg, out, cases, **options):
    text = measure_robustness(cfg, 'baseline.pth', cases, out, **options)
    return text, json.loads((out / 'robustness.json').read_text())


def test_any_detector_and_each_sensor_alone(cfg, tmp_path):
    """One without CMT's head; the scores are those of test.py, and the blank sensor is blank after the failure."""
    controls = ('learned', 'lidar_alone', 'camera_alone')
    text, record = measure(cfg, tmp_path, ['lidar_drop', 'view_drop:1'], controls=controls)
    errors = {(row['case'], row['control']): row['mATE'] for row in record['cases']}
    expected = {'clean': (0, BLIND, WITHOUT_LIDAR), 'lidar_drop': (WITHOUT_LIDAR, BLIND + WITHOUT_LIDAR, WITHOUT_LIDAR),
                'view_drop:1': (0, BLIND, WITHOUT_LIDAR)}
    for case, values in expected.items():
        found = [errors[case, control] for control in controls]
        assert found == pytest.approx([1.0 if value > 2 else value for value in values], abs=1e-3)  # none within 2 m
    metrics = run_test(cfg, 'baseline.pth', metrics=['bbox'], seed=0)
    for name in ('mAP', 'NDS'):
        assert record['cases'][0][name] == pytest.approx(metrics[f'pts_bbox_NuScenes/{name}'], abs=1e-9)
    assert 'weight' not in text and 'AUROC' not in text and 'attention |' not in text
    assert '| view_drop:1 | lidar_alone' in re.sub(' +', ' ', text)
    assert record['cases'][1]['RA'] == pytest.approx(record['cases'][1]['NDS'] / record['cases'][0]['NDS'])


def test_interrupted_and_repeated(cfg, tmp_path, monkeypatch):
    """A series that stopped goes on; finished cases are not tested again, also where others were made elsewhere."""
    run = RobustnessTest._test

    def stop(self, case, modality, controls):
        if str(case) == 'camera_drop':
            raise KeyboardInterrupt
        return run(self, case, modality, controls)

    cases = ['lidar_drop', 'camera_drop']
    monkeypatch.setattr(RobustnessTest, '_test', stop)
    with pytest.raises(KeyboardInterrupt):
        measure(cfg, tmp_path / 'a', cases)
    tested = []
    monkeypatch.setattr(RobustnessTest, '_test', lambda self, case, *args: tested.append(str(case)) or run(
        self, case, *args))
    first = measure(cfg, tmp_path / 'a', cases)
    assert tested == ['camera_drop']
    assert measure(cfg, tmp_path / 'a', cases) == first and tested == ['camera_drop']
    measure(cfg, tmp_path / 'b', cases)
    assert tested[1:] == ['clean', *cases]
    assert (tmp_path / 'a/robustness.csv').read_text() == (tmp_path / 'b/robustness.csv').read_text()


def test_processes_change_nothing(cfg, tmp_path, capfd):
    cases = ['lidar_drop', 'view_drop:2', 'points_reduced@2']
    measure(cfg, tmp_path / 'one', cases)
    text, record = measure(cfg, tmp_path / 'two', cases, workers=2)
    assert (tmp_path / 'one/robustness.csv').read_text() == (tmp_path / 'two/robustness.csv').read_text()
    assert {path.name for path in (tmp_path / 'one/results').iterdir()} == {
        path.name for path in (tmp_path / 'two/results').iterdir()}
    printed, progress = capfd.readouterr()
    assert '4/4, ' in progress
    assert re.search(r'\[4/4\] \S+: \d+ s, about 0 s left', printed) and (tmp_path / 'two/workers.log').is_file()
    assert record['time']['total_seconds'] == pytest.approx(sum(record['time']['seconds'].values()))
    assert f'Tests took {record["time"]["total_seconds"]:.0f} s' in text


def test_intervals(uneven, tmp_path):
    """AP at 0.5 m is lost in one scene of two, with the camera's failure in both."""
    text, record = measure(uneven, tmp_path / 'out', ['camera_drop'])
    clean, dropped = record['cases']
    # Either scene alone: all, or AP at 1, 2 and 4 m. Both: at 0.5 m one half is found, at equal scores in any order.
    assert clean['mAP low'] == pytest.approx(0.75) and clean['mAP high'] == pytest.approx(1)
    assert 0.75 < clean['mAP'] < 1 and clean['RA low'] == clean['RA high'] == 1
    assert dropped['mAP high'] == pytest.approx(0.5) and dropped['mAP low'] == pytest.approx(0.25)  # 1.5 and 2.25 m
    assert record['mRA']['learned']['mean'] == dropped['RA'] < 1
    assert record['mRA']['learned']['low'] == dropped['RA low'] < dropped['RA high']
    assert record['rounds'] == 100 and record['scenes'] == 2
    assert f'{clean["mAP"]:.3f} [0.750, 1.000]' in text


def test_digests(cfg, folder, tmp_path):
    """Equal for equal data, whatever the model; others for other seeds and data."""
    def digests(cfg, out, **options):
        _, record = measure(cfg, tmp_path / out, ['points_reduced@1', 'calibration:1'], **options)
        return [row['digest'] for row in record['cases']]

    first = digests(cfg, 'a')
    assert len(set(first)) == 3
    assert digests(load_config('tiny_nuscenes.py', {'model.pts_bbox_head.some': 1}), 'b') == first
    other = digests(cfg, 'c', seed=1)
    assert other[0] == first[0] and not set(other[1:]) & set(first)


def test_a_case_that_changes_nothing(cfg, tmp_path):
    with pytest.raises(ValueError, match="case 'fov:179.9' was not corrupted"):
        measure(cfg, tmp_path, ['fov:179.9'])


def test_fallbacks_are_counted_and_said(cfg, tmp_path):
    """Both samples are of one scene, as their times tell: a later keyframe stands in for an earlier one, and both
    stand in for another scene.
    """
    text, record = measure(cfg, tmp_path, ['stale_lidar@1', 'stale_lidar@3', 'lidar_drop'])
    assert {row['case']: row['fallbacks'] for row in record['cases']} == {
        'clean': 0, 'stale_lidar@1': 1, 'stale_lidar@3': 2, 'lidar_drop': 0}
    assert ('corruptions.md): stale_lidar@1: stale_lidar in 1 of 2 samples; '
            'stale_lidar@3: stale_lidar in 2 of 2 samples.') in text
    quiet = {FailureCase(): {'learned': dict(fallbacks={}, spared={}, samples=2)}}
    assert sample_notes(quiet) == []


def test_samples_that_are_spared_are_counted_and_said(cfg, tmp_path):
    """Those that draws leave out, and those that have nothing to fail; each failure of a joined case by itself."""
    cases = ['view_drop:0.2', 'misalignment@1', 'fov:60+phantoms:1', 'lidar_drop+crosstalk@1']
    seed = next(seed for seed in range(100) if {
        case: sum(failure_rng(f'sample {scene}', case, seed, 0).random(6 if 'view' in case else 1).min() >= 0.2
                  for scene in SCENES) for case in cases[:2]} == dict.fromkeys(cases[:2], 1))
    text, record = measure(cfg, tmp_path, cases, seed=seed)
    assert {row['case']: row['spared'] for row in record['cases']} == {
        'clean': 0, 'view_drop:0.2': 1, 'misalignment@1': 1, 'fov:60+phantoms:1': 2, 'lidar_drop+crosstalk@1': 2}
    assert ('docs/corruptions.md): view_drop:0.2: view_drop in 1 of 2 samples; misalignment@1: misalignment in 1 of 2 '
            'samples; fov:60+phantoms:1: phantoms in 2 of 2 samples; lidar_drop+crosstalk@1: crosstalk in 2 of 2 '
            'samples.') in text and 'replacement' not in text
    text = measure_headroom(cfg, ['baseline.pth'], cases[:1], tmp_path / 'headroom', seed=seed)
    assert 'left samples as they were' in text and 'view_drop in 1 of 2 samples.' in text


def test_other_code_of_the_failures_tests_again(cfg, tmp_path, monkeypatch):
    """All cases but the clean one; docstrings and presets change nothing in them."""
    shutil.copytree(Path(datasets.__file__).parent, tmp_path / 'code')
    code = tmp_path / 'code/sensor_failures'
    monkeypatch.setattr(datasets, '__file__', str(tmp_path / 'code/__init__.py'))

    def changed(file, old, new):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        measure(cfg, tmp_path / 'out', ['lidar_drop'])
        return len(list((tmp_path / 'out/results').glob('clean_*.json'))), len(list(
            (tmp_path / 'out/results').glob('lidar_drop_*.json')))

    assert changed(code / 'presets.py', 'glare@3', 'glare@2') == (1, 1)
    assert changed(code / 'lidar.py', 'All points are gone.', 'There are no points.') == (1, 1)
    assert changed(code / 'lidar.py', 'np.zeros(', 'np.ones(') == (1, 2)
    assert changed(tmp_path / 'code/other_samples.py', '_LARGEST_GAP = 1.0', '_LARGEST_GAP = 2.0') == (1, 3)


class TestMistakes:

    @pytest.mark.parametrize('cases, message', [
        (['view_drop:7'], "case 'view_drop:7', sample '.*': 7 views are to fail, but the sample has 6"),
        (['view_drop:CAM_ROOF'], r"case 'view_drop:CAM_ROOF', .*: the sample has no cameras \['CAM_ROOF'\]"),
        (['beams:8'], "case 'beams:8' needs rings"),
        (['points_reduced@4'], r"points_reduced has the severities @1, @2, @3, got 'points_reduced@4'"),
        (['multicorrupted'], "'multicorrupted' is no failure; .*presets: multicorrupt, drops, lies"),
    ])
    def test_before_the_first_case(self, cfg, tmp_path, cases, message):
        with pytest.raises(ValueError, match=message):
            measure(cfg, tmp_path, ['lidar_drop', *cases])
        assert not list(tmp_path.iterdir())

    def test_a_set_without_cameras(self, cfg, tmp_path):
        cfg.data.test.modality.use_camera = False
        cfg.data.test.pipeline = [cfg.data.test.pipeline[0], cfg.data.test.pipeline[2]]
        cfg.data.test.pipeline[1].transforms[-1]['keys'] = ['points']
        with pytest.raises(ValueError, match=r"case 'beams:16' needs rings"):
            measure(cfg, tmp_path, ['multicorrupt'])
        with pytest.raises(ValueError, match=r"case 'calibration:1' needs \['lidar2cam', 'cam_intrinsic'\], which"):
            measure(cfg, tmp_path, ['calibration:1'])

    def test_settings(self, cfg, tmp_path):
        with pytest.raises(ValueError, match='workers must be at least 1, got 0'):
            measure(cfg, tmp_path, ['lidar_drop'], workers=0)
        with pytest.raises(ValueError, match=r"model without router, got \['off', 'oracle:5'\]"):
            measure(cfg, tmp_path, ['lidar_drop'], controls=('off', 'lidar_alone', 'oracle:5'))
        with pytest.raises(ValueError, match='enable_aqr=True, but the head is not CMT'):
            measure(load_config('tiny_nuscenes_aqr.py'), tmp_path, ['lidar_drop'])
        with pytest.raises(ValueError, match='checkpoints must name at least one'):
            measure_headroom(cfg, [], ['lidar_drop'], tmp_path)

    def test_results_on_other_data(self, cfg, folder, tmp_path):
        """Images that changed behind the info file's back are seen by their digest."""
        case = FailureCase.parse('lidar_drop')
        arguments = cfg, 'baseline.pth', ('learned', ), 0, False
        run_cases([FailureCase(), case], tmp_path, 1, *arguments)
        results = sorted((tmp_path / 'results').glob('lidar_drop_learned_*.json'))
        record = json.loads(results[0].read_text())
        clean = json.loads(next((tmp_path / 'results').glob('clean_*.json')).read_text())
        results[0].write_text(json.dumps({**record, 'digest': clean['digest']}))
        with pytest.raises(ValueError, match="case 'lidar_drop' was not corrupted"):
            run_cases([FailureCase(), case], tmp_path, 1, *arguments)


class TestHeadroom:

    def test_without_a_router(self, cfg, folder, tmp_path):
        """Two detectors: one remembers its boxes, one is off by 0.6 m, so that AP at 0.5 m is lost."""
        state = torch.load(folder / 'baseline.pth', weights_only=False)
        state['state_dict']['boxes'][:, 1] += 0.6
        torch.save(state, tmp_path / 'off.pth')
        text = measure_headroom(cfg, ['baseline.pth', tmp_path / 'off.pth'], ['lidar_drop'], tmp_path / 'out')
        record = json.loads((tmp_path / 'out/headroom.json').read_text())
        clean, dropped = record['cases']
        assert clean['off mAP'] == pytest.approx((1 + 0.75) / 2)
        # 0.75 m off without points, with 0.6 m beside it 0.96 m; 1.5 m, then 1.62 m, without images.
        assert clean['camera_alone mAP'] == pytest.approx(0.75) and clean['lidar_alone mAP'] == pytest.approx(0.5)
        assert clean['camera_alone - off mAP, run 0'] == pytest.approx(-0.25)
        assert clean['camera_alone - off mAP, run 1'] == pytest.approx(0)
        assert clean['better - off mAP'] == clean['camera_alone - off mAP'] == pytest.approx(-0.125)
        assert clean['better sensor'] == 'cameras alone'
        assert dropped['camera_alone - off mAP'] == dropped['camera_alone - off mAP high'] == 0
        assert dropped['lidar_alone mAP'] == pytest.approx(0.25)  # 2.25 m
        assert 'Means over 2 checkpoints' in text and 'No oracle: the config has no router' in text
        assert (tmp_path / 'out/headroom.csv').read_text().count('\n') == 3
        assert cv2.imread(str(tmp_path / 'out/headroom.png')) is not None

    def test_differences_are_paired(self, uneven, tmp_path):
        """A model that is as bad with and without cameras: its scores vary over scenes, the difference does not."""
        measure_headroom(uneven, ['baseline.pth'], ['camera_drop'], tmp_path / 'out')
        row = json.loads((tmp_path / 'out/headroom.json').read_text())['cases'][1]
        assert row['off NDS low'] < row['off NDS'] < row['off NDS high']
        assert row['lidar_alone - off NDS low'] == row['lidar_alone - off NDS high'] == 0


def test_small_detector_of_mmdet3d(cfg, folder, tmp_path):
    """mmdet3d's MVX detector, a PointPillars that is handed images, too; it does not bear an empty cloud."""
    size, limits = 4.0, [-32, -32, -32, 32, 32, 32]
    cfg.model = ConfigDict(
        type='MVXFasterRCNN',
        pts_voxel_layer=dict(max_num_points=5, point_cloud_range=limits, voxel_size=[size, size, 64], max_voxels=400),
        pts_voxel_encoder=dict(type='HardVFE', in_channels=5, feat_channels=[8], voxel_size=[size, size, 64],
                               point_cloud_range=limits),
        pts_middle_encoder=dict(type='PointPillarsScatter', in_channels=8, output_shape=[16, 16]),
        pts_backbone=dict(type='SECOND', in_channels=8, layer_nums=[1], layer_strides=[1], out_channels=[8]),
        pts_bbox_head=dict(
            type='Anchor3DHead', num_classes=10, in_channels=8, feat_channels=8, use_direction_classifier=True,
            anchor_generator=dict(type='AlignedAnchor3DRangeGenerator', ranges=[limits], sizes=[[4, 2, 1.5]],
                                  custom_values=[0, 0], rotations=[0, 1.57], reshape_out=True),
            diff_rad_by_sin=True, dir_offset=0.78, bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder', code_size=9),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True), loss_bbox=dict(type='SmoothL1Loss'),
            loss_dir=dict(type='CrossEntropyLoss')))
    cfg.test_cfg = None
    cfg.model.test_cfg = ConfigDict(pts=dict(use_rotate_nms=True, nms_across_levels=False, nms_pre=20, nms_thr=0.2,
                                             score_thr=0.0, min_bbox_size=0, max_num=20))
    torch.manual_seed(0)
    model = build_model(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(CLASSES=tuple(cfg.class_names))), tmp_path / 'mvx.pth')
    text = measure_robustness(cfg, tmp_path / 'mvx.pth', ['points_reduced@1'], tmp_path / 'out',
                              ('learned', 'camera_alone'))
    record = json.loads((tmp_path / 'out/robustness.json').read_text())
    assert [row['case'] for row in record['cases']] == ['clean', 'points_reduced@1'] * 2
    assert '| points_reduced@1 | camera_alone' in re.sub(' +', ' ', text)
    with pytest.raises(RuntimeError, match=r"MVXFasterRCNN failed on samples \['sample .*'\] with \[0\] points"):
        measure_robustness(cfg, tmp_path / 'mvx.pth', ['lidar_drop'], tmp_path / 'out')
