"""The configs of one sensor alone: one iteration of training from the fusion baseline, and a test, by the tools."""
import json
import pickle

import pytest
import torch

CONFIGS = {'lidar': 'cmt_lidar_synthetic.py', 'camera': 'cmt_camera_synthetic.py'}
OTHER_SENSOR = dict(lidar=('img_backbone.', 'img_neck.'), camera=('pts_backbone.', 'pts_neck.', 'pts_voxel_encoder.'))


@pytest.fixture(params=CONFIGS)
def sensor(request):
    return request.param


@pytest.fixture
def options(repo_root, synthetic_nuscenes, tmp_path):
    """Two training samples, four to test; paths that hold in every folder."""
    infos = pickle.loads((synthetic_nuscenes / 'nuscenes_infos_train.pkl').read_bytes())
    infos['infos'] = infos['infos'][:2]
    (tmp_path / 'two.pkl').write_bytes(pickle.dumps(infos))
    changed = {'load_from': repo_root / 'checkpoints/cmt_synthetic.pth', 'data.samples_per_gpu': 2,
               'data.workers_per_gpu': 0, 'log_config.interval': 1}
    for split, ann_file in (('train', tmp_path / 'two.pkl'), ('val', synthetic_nuscenes / 'nuscenes_infos_val.pkl'),
                            ('test', synthetic_nuscenes / 'nuscenes_infos_val.pkl')):
        changed[f'data.{split}.data_root'], changed[f'data.{split}.ann_file'] = f'{synthetic_nuscenes}/', ann_file
    return ['--cfg-options', *(f'{key}={value}' for key, value in changed.items())]


def test_one_iteration_and_a_test(run_tool, repo_root, tmp_path, sensor, options):
    config = repo_root / 'configs' / CONFIGS[sensor]
    run_tool('train.py', config, '--work-dir', 'run', '--no-validate', *options, cwd=tmp_path)
    log, = (tmp_path / 'run').glob('*.log.json')
    steps = [record for record in map(json.loads, log.read_text().splitlines()) if record.get('mode') == 'train']
    assert len(steps) == 1 and 0 < steps[0]['loss'] < 100
    checkpoint = torch.load(tmp_path / 'run/latest.pth', weights_only=False)
    learned, given = checkpoint['state_dict'], torch.load(repo_root / 'checkpoints/cmt_synthetic.pth',
                                                          weights_only=True)['state_dict']
    assert checkpoint['meta']['iter'] == 1 and not any(key.startswith(OTHER_SENSOR[sensor]) for key in learned)
    # It began from the baseline and moved a little.
    moved = {key: (value - given[key].float()).abs().max().item() for key, value in learned.items()
             if key in given and value.is_floating_point() and 'running' not in key}
    assert len(moved) > 100 and 0 < max(moved.values()) < 0.01
    text = run_tool('test.py', config, 'run/latest.pth', '--eval', 'bbox', *options, cwd=tmp_path)
    assert 0.05 < float(text.split('mAP: ')[1].split()[0]) < 1


def test_there_is_nothing_to_weigh(run_tool, repo_root, tmp_path, sensor, options):
    text = run_tool('train.py', repo_root / 'configs' / CONFIGS[sensor], *options,
                    'model.pts_bbox_head.enable_aqr=True', cwd=tmp_path, code=1)
    missing = dict(lidar='img_backbone', camera='pts_backbone')[sensor]
    assert f'enable_aqr=True weighs LiDAR against cameras, but the model has no {missing}' in text
    assert not (tmp_path / 'work_dirs').exists()
