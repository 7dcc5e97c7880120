import json
import os
import shutil

import mmcv
import pytest


@pytest.fixture
def root(synthetic_nuscenes, tmp_path):
    """A set without info files in data/set of the working folder."""
    shutil.copytree(synthetic_nuscenes / 'v1.0-mini', tmp_path / 'data/set/v1.0-mini')
    for name in ('samples', 'sweeps', 'maps'):
        os.symlink(synthetic_nuscenes / name, tmp_path / 'data/set' / name)
    return tmp_path / 'data/set'


def test_info_files_and_database_with_paths_from_the_working_folder(run_tool, root, tmp_path):
    text = run_tool('create_data.py', 'nuscenes', '--root-path', 'data/set', '--version', 'v1.0-mini', '--out-dir',
                    'data/out', '--extra-tag', 'some', '--workers', 0, cwd=tmp_path, fresh=True)
    assert 'data/out/some_infos_train.pkl: 16 samples' in text and 'data/out/some_infos_val.pkl: 4 samples' in text
    assert 'data/out/some_dbinfos_train.pkl: ' in text and '20/20' in text and '16/16' in text
    assert sorted(os.listdir(tmp_path / 'data/out')) == ['some_dbinfos_train.pkl', 'some_gt_database',
                                                         'some_infos_train.pkl', 'some_infos_val.pkl']
    info = mmcv.load(str(tmp_path / 'data/out/some_infos_val.pkl'))['infos'][-1]
    car = mmcv.load(str(tmp_path / 'data/out/some_dbinfos_train.pkl'))['car'][0]
    for path in (info['lidar_path'], info['cams']['CAM_FRONT']['data_path'], car['path']):
        assert not os.path.isabs(path) and (tmp_path / path).is_file()

    again = run_tool('create_data.py', 'nuscenes', '--root-path', 'data/set', '--version', 'v1.0-mini', '--out-dir',
                     'data/out', '--extra-tag', 'some', cwd=tmp_path)
    assert 'data/out/some_dbinfos_train.pkl: complete, kept' in again


def test_info_files_only(run_tool, root, tmp_path):
    before = set(os.listdir(root))
    run_tool('create_data.py', 'nuscenes', '--root-path', root, '--version', 'v1.0-mini', '--no-gt-database',
             '--max-sweeps', 1, cwd=tmp_path)
    assert set(os.listdir(root)) - before == {'nuscenes_infos_train.pkl', 'nuscenes_infos_val.pkl'}
    infos = mmcv.load(str(root / 'nuscenes_infos_train.pkl'))['infos']
    assert {len(info['sweeps']) for info in infos} == {0, 1}


def test_bad_arguments_are_refused(run_tool, root, tmp_path):
    assert "invalid choice: 'v1.0'" in run_tool('create_data.py', 'nuscenes', '--version', 'v1.0', cwd=tmp_path, code=2)
    assert "invalid choice: 'kitti'" in run_tool('create_data.py', 'kitti', cwd=tmp_path, code=2)
    text = run_tool('create_data.py', 'nuscenes', '--root-path', root, '--version', 'v1.0-test', cwd=tmp_path, code=1)
    assert f"FileNotFoundError: root_path '{root}' has no folder v1.0-test" in text


def test_own_splits_and_missing_files(run_tool, root, tmp_path):
    scenes = [scene['name'] for scene in json.loads((root / 'v1.0-mini/scene.json').read_text())]
    (tmp_path / 'splits.json').write_text(json.dumps(dict(train=scenes[:1], val=scenes[1:3])))
    text = run_tool('create_data.py', 'nuscenes', '--root-path', root, '--version', 'v1.0-mini', '--no-gt-database',
                    '--splits', tmp_path / 'splits.json', '--skip-missing', cwd=tmp_path)
    assert 'left out for missing files: 0 samples, and 0 sweeps' in text and 'val.pkl: 4 samples' in text
