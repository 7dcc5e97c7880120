import cv2
import numpy as np
import pytest

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.apis.failing_sensors import every_case
from projects.mmdet3d_plugin.datasets.sensor_failures import FAILURES, FailureCase
from projects.mmdet3d_plugin.datasets.sensor_failures.presets import PRESETS
from projects.mmdet3d_plugin.visualization.contact_sheet import sheet_rows

CASES = ('view_drop:CAM_BACK', 'lidar_drop', 'lidar_shift:2', 'brightness@3', 'miscalibration@3', 'points_reduced@1')


@pytest.fixture(scope='module')
def browse(run_tool, repo_root, synthetic_nuscenes):
    """Run the tool on the generated set; returns what it printed."""

    def run(*arguments, code=0):
        data = [f'data.test.data_root={synthetic_nuscenes}/',
                f'data.test.ann_file={synthetic_nuscenes / "nuscenes_infos_val.pkl"}']
        return run_tool('browse_failures.py', repo_root / 'configs/cmt_synthetic.py', *arguments, '--cfg-options',
                        *data, cwd=repo_root, code=code)

    return run


def test_pages(browse, tmp_path):
    text = browse('--cases', *CASES, '--sample', 1, '--out', tmp_path)
    pages = sorted(path.name for path in tmp_path.iterdir())
    assert pages == ['sample_1_page_1.png', 'sample_1_page_2.png']
    assert all(f'wrote {tmp_path / page}' in text for page in pages)
    for path in tmp_path.iterdir():
        image = cv2.imread(str(path))
        assert image.shape[1] == 1500 and (image != 255).any(axis=2).mean() > 0.1


def test_mistakes(browse, tmp_path):
    text = browse('--cases', 'lidar_drop', '--view', 'CAM_ROOF', '--out', tmp_path, code=None)
    assert "no camera 'CAM_ROOF': allowed are ['CAM_FRONT'" in text
    assert 'no sample \'1000\' in the test data' in browse('--sample', 1000, '--out', tmp_path, code=None)
    assert 'is no failure' in browse('--preset', 'rain', '--out', tmp_path, code=2)
    assert not list(tmp_path.iterdir())


def test_the_real_frame(run_tool, repo_root, real_frame, tmp_path):
    """Fog hides what the same page shows clean: the right half has less contrast."""
    run_tool('browse_failures.py', repo_root / 'configs/cmt_aqr_real_frame.py', '--cases', 'camera_fog@3+lidar_fog@3',
             '--view', 'CAM_BACK', '--out', tmp_path, '--frame', real_frame, cwd=repo_root)
    page = cv2.imread(str(tmp_path / 'sample_0_page_1.png'))[100:250]
    clean, foggy = page[:, 650:1000], page[:, 1100:1450]
    assert foggy.std() < 0.8 * clean.std()


def test_what_the_rows_show(repo_root, synthetic_nuscenes):
    """Which of points, image and calibration each case changes."""
    cfg = load_config(repo_root / 'configs/cmt_synthetic.py', {
        'data.test.data_root': f'{synthetic_nuscenes}/',
        'data.test.ann_file': str(synthetic_nuscenes / 'nuscenes_infos_val.pkl')})
    rows = list(sheet_rows(cfg, CASES, 1))
    assert [row.case for row in rows] == list(CASES) and rows[0].camera == 'CAM_BACK'
    changed = [[not np.array_equal(old, new) for old, new in zip(row.clean, row.struck)] for row in rows]
    points, image, calibration = [True, False, False], [False, True, False], [False, False, True]
    assert changed == [image, points, points, image, calibration, points]
    assert [len(row.struck.points) / len(row.clean.points) for row in rows] == pytest.approx(
        [1, 0, 1, 1, 1, 0.3], abs=0.01)
    assert all(row.camera == 'CAM_FRONT_LEFT' for row in sheet_rows(cfg, CASES[:2], 1, 'CAM_FRONT_LEFT'))


def test_every_case_has_its_row():
    """All presets, all failures, each severity."""
    cases = every_case()
    assert len(set(cases)) == len(cases)
    assert {case for preset in PRESETS.values() for case in preset} <= set(cases)
    assert {kind for case in cases for kind in FailureCase.parse(case).kinds} == set(FAILURES)
    for name, failure in FAILURES.items():
        if failure.severities:
            assert all(any(part.split('+')[0] == f'{name}@{level}' for part in cases) for level in failure.severities)
