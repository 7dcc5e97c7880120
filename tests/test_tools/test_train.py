import json
import os
import pickle

import numpy as np
import pytest
import torch
from mmcv import Config

from projects.mmdet3d_plugin.utils.run_lock import run_lock
from tests.tiny_detector import write_config
from tests.tiny_nuscenes import write_tiny_nuscenes


def weights(path):
    return torch.load(path, weights_only=True)['state_dict']


def test_the_work_directory_holds_what_mm_users_expect(trained):
    work_dir = trained / 'work_dirs' / 'tiny'
    files = sorted(os.listdir(work_dir))
    logs = [name for name in files if name.endswith('.log')]
    assert len(logs) == 1 and f'{logs[0]}.json' in files
    assert set(files) - {*logs, f'{logs[0]}.json'} == {'epoch_1.pth', 'epoch_2.pth', 'latest.pth', 'tf_logs', 'tiny.py'}
    assert os.readlink(work_dir / 'latest.pth') == 'epoch_2.pth' and os.listdir(work_dir / 'tf_logs')
    assert Config.fromfile(str(work_dir / 'tiny.py')).model.type == 'TinyDetector'

    text = (work_dir / logs[0]).read_text()
    assert 'seed: 0' in text and 'device: ' in text and 'Epoch [2][4/4]' in text
    first, *lines = [json.loads(line) for line in (work_dir / f'{logs[0]}.json').read_text().splitlines()]
    assert first['exp_name'] == 'tiny.py' and first['seed'] == 0
    assert [line['mode'] for line in lines] == (['train'] * 4 + ['val']) * 2 and 'mean_score' in lines[-1]

    meta = torch.load(work_dir / 'epoch_2.pth', weights_only=True)['meta']
    assert meta['CLASSES'] == ('thing', ) and 'TinyDetector' in meta['config'] and meta['mmdet3d_version']


KILL_OPTIONS = ['--deterministic', '--cfg-options', 'runner.max_epochs=3', 'data.workers_per_gpu=2',
                'evaluation.start=1']


@pytest.fixture(scope='module')
def uninterrupted(run_tool, tmp_path_factory):
    """Weights after a run without a kill."""
    folder = tmp_path_factory.mktemp('uninterrupted')
    write_config(folder)
    run_tool('train.py', 'tiny.py', '--work-dir', 'whole', *KILL_OPTIONS, cwd=folder)
    return weights(folder / 'whole' / 'epoch_3.pth')


@pytest.mark.parametrize('moment, newest', [('start', 1), ('iteration', 1), ('writing', 1), ('evaluation', 2)])
def test_a_killed_run_resumed_equals_an_uninterrupted_one(run_tool, uninterrupted, tmp_path, moment, newest):
    """Bit for bit, with worker processes, evaluations (one starts the resumed run), and schedules over all epochs."""
    write_config(tmp_path)
    (tmp_path / 'killed.py').write_text(
        f"_base_ = './tiny.py'\ncustom_hooks = [dict(type='KillHook', epoch=1, moment='{moment}')]\n")
    run_tool('train.py', 'killed.py', '--work-dir', 'parts', *KILL_OPTIONS, cwd=tmp_path, code=-9)
    assert os.readlink(tmp_path / 'parts' / 'latest.pth') == f'epoch_{newest}.pth'
    assert (tmp_path / 'parts' / 'epoch_2.pth').exists() == (newest == 2)
    leftovers = [name for name in os.listdir(tmp_path / 'parts') if name.startswith('.')]
    assert len(leftovers) == (moment == 'writing')
    # Another seed: all that is random must come from the checkpoint.
    run_tool('train.py', 'tiny.py', '--work-dir', 'parts', '--auto-resume', '--seed', 1, *KILL_OPTIONS, cwd=tmp_path)
    resumed = weights(tmp_path / 'parts' / 'epoch_3.pth')
    assert all(torch.equal(uninterrupted[key], resumed[key]) for key in uninterrupted | resumed)
    assert not [name for name in os.listdir(tmp_path / 'parts') if name.startswith('.')]


def test_augmentation_differs_from_epoch_to_epoch_and_from_process_to_process():
    """mmdet seeds its workers alike at each epoch."""
    import random
    from functools import partial

    import numpy as np

    from projects.mmdet3d_plugin.apis.train import seed_worker

    class Numbers(torch.utils.data.Dataset):

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return random.random(), np.random.rand(), torch.rand(1).item()

    def epochs(rank, seed=0):
        torch.manual_seed(seed)
        loader = torch.utils.data.DataLoader(Numbers(), num_workers=2, worker_init_fn=partial(seed_worker, rank=rank))
        return [float(number) for _ in range(2) for row in loader for number in row]

    first, again, other_rank = epochs(0), epochs(0), epochs(1)
    assert first == again
    assert len({*first, *other_rank}) == len(first) + len(other_rank) == 48


def test_start_from_weights(run_tool, trained, tmp_path):
    """A router is added to the model; what the checkpoint lacks is logged."""
    write_config(tmp_path)
    output = run_tool('train.py', 'tiny.py', '--no-validate', '--cfg-options', 'model.router=True',
                      'runner.max_epochs=1', f'load_from={trained}/work_dirs/tiny/latest.pth', cwd=tmp_path)
    assert 'missing keys in source state_dict: pts_bbox_head.aqr_router.weight, pts_bbox_head.aqr_router.bias' in output
    assert 'loaded 9 of 9 weights' in output and 'Epoch(val)' not in output


@pytest.mark.parametrize('arguments, message', [
    (['--cfg-options', 'load_from=ckpts/no.pth'], 'load_from: no such checkpoint: ckpts/no.pth'),
    (['--cfg-options', 'load_from=ckpts/no.pth'], 'CMT publishes its checkpoints'),
    (['--cfg-options', 'optimiser.lr=1'], "the config has no 'optimiser'; did you mean optimizer"),
    (['--cfg-options', 'total_epochs=7'], 'by both alike; got total_epochs=7 and runner.max_epochs=2'),
    (['--resume-from', 'no.pth'], 'argument --resume-from: no such file: no.pth'),
    (['--resume-from', 'tiny.py', '--auto-resume'],
     'argument --auto-resume: not allowed with argument --resume-from'),
    (['--cfg-options', 'evaluation.intervall=3'],
     "TinyDataset.evaluate does not take {'logger': None, 'intervall': 3}"),
    (['--cfg-options', 'runner.max_epochs=0'], 'total_epochs) must be an integer >= 1, got 0'),
    (['--cfg-options', 'optimizer_config.grad_clip.max_norm=0'], 'grad_clip.max_norm must be a finite number > 0'),
    (['--cfg-options', 'data.val.classes=[other]'], "data.val has ['other'], data.train has ['thing']"),
    (['--launcher', 'pytorch'], "launcher 'pytorch' needs the environment variables"),
])
def test_mistakes_leave_nothing_behind(run_tool, tmp_path, arguments, message):
    write_config(tmp_path)
    assert message in run_tool('train.py', 'tiny.py', *arguments, cwd=tmp_path, code=None)
    assert os.listdir(tmp_path) == ['tiny.py']


@pytest.mark.parametrize('options, message', [
    (['--resume-from', '{}', '--cfg-options', 'model.width=4'], 'size mismatch for encoder.0.weight'),
    (['--resume-from', '{}', '--cfg-options', 'model.router=True'], 'Missing key(s) in state_dict: "pts_bbox_head.aqr'),
    (['--resume-from', '{}', '--cfg-options', 'data.train.classes=[other]'], "data.train has ['other']"),
    (['--cfg-options', 'load_from={}', 'model.width=4', 'model.train_only=[pts_bbox_head.reg]'],
     'size mismatch for encoder.0.weight'),
    (['--cfg-options', 'load_from={}', 'model.router=True', 'model.train_only=[pts_bbox_head.reg]'],
     'Missing key(s) in state_dict: "pts_bbox_head.aqr_router.weight"'),
])
def test_checkpoints_that_do_not_fit_leave_nothing_behind(run_tool, trained, tmp_path, options, message):
    write_config(tmp_path)
    options = [option.format(trained / 'work_dirs/tiny/latest.pth') for option in options]
    output = run_tool('train.py', 'tiny.py', *options, cwd=tmp_path, code=None)
    assert message in output and '--drop-router' not in output
    assert os.listdir(tmp_path) == ['tiny.py']


def test_frozen_weights_come_from_the_checkpoint_or_are_warned_of(run_tool, trained, tmp_path):
    write_config(tmp_path)
    options = ['--no-validate', '--cfg-options', 'model.router=True', 'model.train_only=[pts_bbox_head.aqr_router]',
               'runner.max_epochs=1']
    warning = "model.train_only=['pts_bbox_head.aqr_router'] without load_from or resume_from"
    output = run_tool('train.py', 'tiny.py', *options, cwd=tmp_path)
    assert warning in output
    output = run_tool('train.py', 'tiny.py', *options, f'load_from={trained}/work_dirs/tiny/latest.pth', cwd=tmp_path)
    assert output.count('the router stays as initialized') == 1 and warning not in output


def test_two_runs_in_one_work_directory(run_tool, tmp_path):
    write_config(tmp_path)
    with run_lock(tmp_path / 'work'):
        output = run_tool('train.py', 'tiny.py', '--work-dir', 'work', cwd=tmp_path, code=None)
        assert f'work is in use by another run (process {os.getpid()} on ' in output
        assert os.listdir(tmp_path / 'work') == ['run.lock']


def test_auto_resume_looks_where_checkpoints_are_written(run_tool, tmp_path):
    write_config(tmp_path)
    options = ['--work-dir', 'work', '--auto-resume', '--no-validate', '--cfg-options',
               'checkpoint_config.out_dir=disk']
    output = run_tool('train.py', 'tiny.py', *options, 'runner.max_epochs=1', cwd=tmp_path)
    assert 'auto_resume: no checkpoint in disk/work, training starts anew' in output
    output = run_tool('train.py', 'tiny.py', *options, cwd=tmp_path)
    assert 'resumed from disk/work/latest.pth: epoch 1' in output and 'starts anew' not in output
    os.unlink(tmp_path / 'disk/work/epoch_2.pth')
    output = run_tool('train.py', 'tiny.py', *options, cwd=tmp_path, code=None)
    assert 'disk/work/epoch_2.pth, which is not there' in output


def test_the_best_checkpoint_of_nuscenes(run_tool, tmp_path):
    write_tiny_nuscenes(tmp_path)
    options = ['--cfg-options', 'load_from=baseline.pth', 'evaluation.interval=1']
    output = run_tool('train.py', 'tiny_nuscenes.py', *options, 'evaluation.save_best=mAP', cwd=tmp_path, code=None)
    assert "evaluation.save_best='mAP': allowed with TinyNuScenes: ['pts_bbox_NuScenes/NDS'" in output
    assert not (tmp_path / 'work_dirs').exists()
    run_tool('train.py', 'tiny_nuscenes.py', *options, 'evaluation.save_best=pts_bbox_NuScenes/NDS', cwd=tmp_path)
    assert os.listdir(tmp_path / 'work_dirs/tiny_nuscenes/best_pts_bbox_NuScenes') == ['NDS_epoch_1.pth']


def test_data_without_ground_truth_does_not_hang(run_tool, tmp_path):
    """mmdet draws another sample, for ever."""
    write_tiny_nuscenes(tmp_path)
    path = tmp_path / 'data/nuscenes_infos_val.pkl'
    content = pickle.loads(path.read_bytes())
    for info in content['infos']:
        info.update(num_lidar_pts=np.zeros(10, int), valid_flag=np.zeros(10, bool))
    path.with_name('empty.pkl').write_bytes(pickle.dumps(content))
    output = run_tool('train.py', 'tiny_nuscenes.py', '--cfg-options', 'data.train.ann_file=data/empty.pkl',
                      cwd=tmp_path, code=None)
    assert 'data.train' in output and 'none of the 2 samples of data/empty.pkl has a box with LiDAR points' in output
    assert not (tmp_path / 'work_dirs').exists()
