import json
import os

import pytest
import torch
from mmcv import Config

from tests.tiny_detector import write_config


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
    (['--cfg-options', 'optimiser.lr=1'], "the config has no 'optimiser'; did you mean optimizer"),
    (['--cfg-options', 'total_epochs=7'], 'by both alike; got total_epochs=7 and runner.max_epochs=2'),
    (['--resume-from', 'no.pth'], 'argument --resume-from: no such file: no.pth'),
    (['--resume-from', 'tiny.py', '--auto-resume'],
     'argument --auto-resume: not allowed with argument --resume-from'),
    (['--cfg-options', 'evaluation.intervall=3'],
     "TinyDataset.evaluate does not take {'logger': None, 'intervall': 3}"),
    (['--launcher', 'pytorch'], "launcher 'pytorch' needs the environment variables"),
])
def test_mistakes_leave_nothing_behind(run_tool, tmp_path, arguments, message):
    write_config(tmp_path)
    assert message in run_tool('train.py', 'tiny.py', *arguments, cwd=tmp_path, code=None)
    assert os.listdir(tmp_path) == ['tiny.py']


@pytest.mark.parametrize('options, message', [
    (['--resume-from', '{}', '--cfg-options', 'model.width=4'], 'size mismatch for encoder.0.weight'),
    (['--resume-from', '{}', '--cfg-options', 'model.router=True'], 'Missing key(s) in state_dict: "pts_bbox_head.aqr'),
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
    assert output.count('the router stays as initialised') == 1 and warning not in output
