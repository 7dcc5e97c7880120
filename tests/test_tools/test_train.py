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
    (['--cfg-options', 'data.val.classes=[other]'], "data.train has ['thing'], data.val has ['other']"),
    (['--launcher', 'pytorch'], "launcher 'pytorch' needs the environment variables"),
])
def test_mistakes_leave_nothing_behind(run_tool, tmp_path, arguments, message):
    write_config(tmp_path)
    assert message in run_tool('train.py', 'tiny.py', *arguments, cwd=tmp_path, code=None)
    assert os.listdir(tmp_path) == ['tiny.py']


@pytest.mark.parametrize('changes, message', [
    ("optimizer = dict(type='Adamm')", 'Adamm is not in the optimizer registry'),
    ('optimizer = dict(weight_decay=-1)', 'Invalid weight_decay value: -1'),
    ('optimizer = dict(weight_decai=0.1)', "unexpected keyword argument 'weight_decai'"),
    ("lr_config = dict(policy='foo')", 'FooLrUpdaterHook is not in the hook registry'),
    ('lr_config = dict(step_ratio_up=2)', '"step_ratio_up" must be in range [0,1)'),
    ('lr_config = dict(cyclic_times=0)', 'lr_config.cyclic_times must be an integer >= 1, got 0'),
    ('momentum_config = dict(cyclic_times=0)', 'momentum_config.cyclic_times must be an integer >= 1, got 0'),
    ("checkpoint_config = dict(type='Foo')", 'Foo is not in the hook registry'),
    ('checkpoint_config = dict(interval=0, save_last=False)', 'would leave no checkpoint'),
    ("checkpoint_config = dict(interval='x')", "checkpoint_config.interval must be an integer >= 1, or 0 or -1"),
    ('checkpoint_config = dict(max_keep_ckpts=0.5)', 'checkpoint_config.max_keep_ckpts must be an integer >= 1, or -1'),
    ("log_config = dict(hooks=[dict(type='FooLoggerHook')])", 'FooLoggerHook is not in the hook registry'),
    ("log_config = dict(interval='x')", "log_config.interval must be an integer >= 1, got 'x'"),
    ("log_level = 'FOO'", "Unknown level: 'FOO'"),
    ("custom_hooks = [dict(type='FooHook')]", 'FooHook is not in the hook registry'),
    ("custom_hooks = [dict(type='NonFiniteLossHook', foo=1)]", "unexpected keyword argument 'foo'"),
    ("workflow = [('foo', 1)]", "workflow must be [('train', epochs)] or [('train', epochs), ('val', epochs)]"),
    ("workflow = [('train', 0)]", "with epochs >= 1, got [('train', 0)]"),
    ("workflow = [('val', 1)]", "with epochs >= 1, got [('val', 1)]"),
    ("workflow = ['train']", "with epochs >= 1, got ['train']"),
    ('data = dict(samples_per_gpu=0)', 'data.samples_per_gpu must be an integer >= 1, got 0'),
    ('data = dict(samples_per_gpu=-1)', 'data.samples_per_gpu must be an integer >= 1, got -1'),
    ('data = dict(workers_per_gpu=0.5)', 'data.workers_per_gpu must be an integer >= 0, got 0.5'),
    ('data = dict(train_dataloader=dict(foo=1))', "unexpected keyword argument 'foo'"),
    ('data = dict(train=dict(num_samples=0))', 'data.train: there is no sample to train on'),
    ("fp16 = dict(loss_scale='x')", 'loss_scale must be of type float, dict, or "dynamic", got x'),
    ("fp16 = dict(loss_scale=512.)\noptimizer_config = dict(type='OptimizerHook')", 'exclude each other'),
    ('optimizer_config = dict(foo=1)', "unexpected keyword argument 'foo'"),
    ("optimizer_config = dict(grad_clip=dict(norm_type='x'))", 'grad_clip.norm_type must be a number > 0'),
    ('auto_scale_lr = dict(enable=True, base_batch_size=0)', 'auto_scale_lr.base_batch_size must be an integer >= 1'),
    ('runner = dict(foo=1)', "unexpected keyword argument 'foo'"),
])
def test_bad_settings_leave_nothing_behind(run_tool, tmp_path, changes, message):
    """Whatever is wrong is found before the work directory, a log or a lock is there."""
    write_config(tmp_path)
    (tmp_path / 'bad.py').write_text(f"_base_ = './tiny.py'\n{changes}\n")
    assert message in run_tool('train.py', 'bad.py', cwd=tmp_path, code=None)
    assert sorted(os.listdir(tmp_path)) == ['bad.py', 'tiny.py']


def test_a_missing_backbone_leaves_nothing_behind(run_tool, repo_root, synthetic_nuscenes, tmp_path):
    options = [f'data.{split}.{key}' for split, name in (('train', 'train'), ('val', 'val'))
               for key in (f'data_root={synthetic_nuscenes}/',
                           f'ann_file={synthetic_nuscenes / f"nuscenes_infos_{name}.pkl"}')]
    output = run_tool('train.py', repo_root / 'configs/cmt_synthetic.py', '--cfg-options', *options,
                      'model.img_backbone.init_cfg.type=Pretrained',
                      'model.img_backbone.init_cfg.checkpoint=ckpts/no.pth', cwd=tmp_path, code=None)
    assert 'ckpts/no.pth can not be found' in output and not os.listdir(tmp_path)


@pytest.mark.parametrize('options, message', [
    (['--resume-from', '{}', '--cfg-options', 'model.width=4'], 'size mismatch for encoder.0.weight'),
    (['--resume-from', '{}', '--cfg-options', 'model.router=True'], 'Missing key(s) in state_dict: "pts_bbox_head.aqr'),
    (['--resume-from', '{}', '--cfg-options', 'data.train.classes=[other]'], "data.train has ['other']"),
    (['--resume-from', '{}', '--cfg-options', 'optimizer.type=SGD', 'optimizer.momentum=0.9'],
     'cannot be resumed from with SGD'),
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


@pytest.mark.parametrize('epochs', [2, 1])
def test_a_finished_training_says_that_nothing_was_left(run_tool, trained, tmp_path, epochs):
    write_config(tmp_path)
    checkpoint = trained / 'work_dirs/tiny/epoch_2.pth'
    for arguments, name in ((['--resume-from', checkpoint], checkpoint),
                            (['--auto-resume', '--work-dir', trained / 'work_dirs/tiny'], 'latest.pth')):
        before = sorted(os.listdir(trained / 'work_dirs/tiny'))
        output = run_tool('train.py', 'tiny.py', *arguments, '--cfg-options', f'runner.max_epochs={epochs}',
                          cwd=tmp_path)
        line = output.splitlines()[-1]
        assert 'nothing was left to train: ' in line and f'{name} has 2 of {epochs} epochs' in line
        assert os.listdir(tmp_path) == ['tiny.py'] and sorted(os.listdir(trained / 'work_dirs/tiny')) == before


def test_no_interval_leaves_the_checkpoint_of_the_end(run_tool, tmp_path):
    """As mmcv has it; a run that is killed loses everything, which must be said."""
    write_config(tmp_path)
    output = run_tool('train.py', 'tiny.py', '--cfg-options', 'checkpoint_config.interval=0', cwd=tmp_path)
    assert 'a checkpoint will be written at the end only; a run that is killed leaves none' in output
    assert sorted(path.name for path in (tmp_path / 'work_dirs/tiny').glob('*.pth')) == ['epoch_2.pth', 'latest.pth']


@pytest.mark.parametrize('tool, arguments, part', [
    ('train.py', [], 'train.dataset'), ('test.py', ['tiny.py', '--eval', 'bbox'], 'test'),
    ('evaluate.py', ['tiny.py'], 'test'), ('browse_failures.py', [], 'test')])
def test_a_frame_is_asked_for(run_tool, repo_root, tmp_path, tool, arguments, part):
    """The config names no folder: a clone has none."""
    write_config(tmp_path)
    config = repo_root / 'configs/cmt_aqr_real_frame.py'
    output = run_tool(tool, config, *arguments, cwd=tmp_path, code=2)
    assert 'Traceback' not in output and f'or set data.{part}.data_root' in output
    assert 'names none: give it as --frame DIR' in output and 'open-mmlab/mmdetection3d' in output
    output = run_tool(tool, 'tiny.py', *arguments, '--frame', tmp_path, cwd=tmp_path, code=2)
    assert f'--frame is for configs whose data sets are FrameFolderDataset; data.{part.split(".")[0]}' in output
    assert os.listdir(tmp_path) == ['tiny.py']


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
