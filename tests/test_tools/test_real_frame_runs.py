"""The tools on the real frame with a tiny AQR model: resume, distributed test, demo."""
import os
import pickle
import subprocess
import sys

import mmcv
import pytest
import torch

CONFIG = 'configs/cmt_aqr_real_frame.py'
TINY = [
    'model.img_backbone.base_channels=8', 'model.img_neck.in_channels=[32,64]', 'model.pts_bbox_head.num_query=30',
    'model.pts_bbox_head.transformer.decoder.num_layers=1', 'data.workers_per_gpu=1', 'data.train.times=3',
    'log_config.interval=1', 'checkpoint_config.interval=1', 'evaluation.interval=1', 'total_epochs=2',
]


@pytest.fixture(scope='module')
def frames(real_frame, tmp_path_factory):
    """Three frames: the real one, and twice the same with fewer boxes."""
    folder = tmp_path_factory.mktemp('frames')
    for file in real_frame.iterdir():
        if file.suffix in ('.jpg', '.bin'):
            (folder / file.name).symlink_to(file)
    info = mmcv.load(next(real_frame.glob('*.pkl')))
    frame, = info['data_list']
    info['data_list'] = [{**frame, 'token': f'{frame.get("token", "frame")}-{count}',
                          'instances': frame['instances'][:count]} for count in (69, 40, 20)]
    (folder / 'frames.pkl').write_bytes(pickle.dumps(info))
    return folder


@pytest.fixture(scope='module')
def run(repo_root, frames):
    def call(*command, options=(), expect=0):
        command = [*map(str, command), '--frame', frames, '--cfg-options', *TINY, *options]
        environment = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1')
        result = subprocess.run(command, cwd=repo_root, env=environment, capture_output=True, text=True)
        assert result.returncode == expect, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    return call


@pytest.fixture(scope='module')
def trained(run, tmp_path_factory):
    """Work directory of an uninterrupted run of two epochs."""
    folder = tmp_path_factory.mktemp('uninterrupted')
    run(sys.executable, 'tools/train.py', CONFIG, '--work-dir', folder, '--seed', 3)
    return folder


def flat(value, prefix=''):
    """Nested containers -> {path: leaf}."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {path: leaf for key, child in items for path, leaf in flat(child, f'{prefix}/{key}').items()}


def test_resumed_run_equals_the_uninterrupted_one(run, trained, repo_root, tmp_path):
    killed = tmp_path / 'killed.py'
    killed.write_text(f"_base_ = '{repo_root / CONFIG}'\n"
                      "custom_imports = dict(imports=['tests.tiny_detector'], allow_failed_imports=False)\n"
                      "custom_hooks = [dict(type='KillHook', epoch=1)]\n")
    run(sys.executable, 'tools/train.py', killed, '--work-dir', tmp_path, '--seed', 3, expect=-9)
    assert (tmp_path / 'epoch_1.pth').is_file() and not (tmp_path / 'epoch_2.pth').exists()
    run(sys.executable, 'tools/train.py', CONFIG, '--work-dir', tmp_path, '--seed', 4, '--resume-from',
        tmp_path / 'epoch_1.pth')
    expected, found = (torch.load(folder / 'epoch_2.pth', weights_only=True) for folder in (trained, tmp_path))
    for part in ('state_dict', 'optimizer'):
        expected_leaves, found_leaves = flat(expected[part]), flat(found[part])
        assert expected_leaves.keys() == found_leaves.keys()
        for name, value in expected_leaves.items():
            same = (torch.equal(value, found_leaves[name]) if isinstance(value, torch.Tensor)
                    else value == found_leaves[name])
            assert same, f'{part}{name} differs'
    first = torch.load(trained / 'epoch_1.pth', weights_only=True)['state_dict']
    assert any(not torch.equal(value, first[name]) for name, value in expected['state_dict'].items())


def test_distributed_test_equals_test(run, trained, tmp_path):
    checkpoint = trained / 'epoch_2.pth'
    run(sys.executable, 'tools/test.py', CONFIG, checkpoint, '--out', tmp_path / 'one.pkl')
    run('bash', 'tools/dist_test.sh', CONFIG, checkpoint, 2, '--out', tmp_path / 'two.pkl')
    one, two = mmcv.load(tmp_path / 'one.pkl'), mmcv.load(tmp_path / 'two.pkl')
    assert len(one) == len(two) == 3
    for expected, found in zip(one, two):
        expected, found = expected['pts_bbox'], found['pts_bbox']
        assert torch.equal(expected['boxes_3d'].tensor, found['boxes_3d'].tensor)
        assert (torch.equal(expected['scores_3d'], found['scores_3d'])
                and torch.equal(expected['labels_3d'], found['labels_3d']))
        assert len(expected['scores_3d']) > 0


def test_two_processes_train(run, tmp_path):
    run('bash', 'tools/dist_train.sh', CONFIG, 2, '--work-dir', tmp_path, options=['total_epochs=1'])
    assert (tmp_path / 'epoch_1.pth').is_file()
