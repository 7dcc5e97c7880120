import json
import logging
import multiprocessing
import os

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmcv.fileio.file_client import HardDiskBackend
from mmcv.parallel import MMDataParallel
from mmcv.runner import OptimizerHook

from projects.mmdet3d_plugin.apis.checkpoint import read_checkpoint
from projects.mmdet3d_plugin.apis.runner import CheckpointSafeRunner
from tests.tiny_detector import TinyDetector, write_half_and_kill


def build(work_dir, width=8, **kwargs):
    model = MMDataParallel(TinyDetector(width))
    return CheckpointSafeRunner(
        model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2), work_dir=str(work_dir),
        logger=logging.getLogger(), max_epochs=5, **kwargs)


def at_epoch(runner, epoch):
    """Put the runner into the middle of training, with an optimizer that has state."""
    sum(parameter.sum() for parameter in runner.model.parameters()).backward()
    runner.optimizer.step()
    runner._epoch, runner._iter = epoch, 10 * (epoch + 1)
    return runner


def save_and_die_half_way(runner):
    """What a kill leaves: half of the bytes, and no clean-up of any kind."""
    HardDiskBackend.put = write_half_and_kill
    runner.save_checkpoint(runner.work_dir)


@pytest.mark.parametrize('epoch', [1, 2])
def test_a_kill_while_writing_leaves_the_old_checkpoints_whole(tmp_path, epoch):
    """Epoch index 1 writes over epoch_2.pth, index 2 would be a new epoch_3.pth."""
    runner = at_epoch(build(tmp_path), 1)
    runner.save_checkpoint(str(tmp_path))
    before = (tmp_path / 'epoch_2.pth').read_bytes()

    at_epoch(runner, epoch)
    process = multiprocessing.get_context('fork').Process(target=save_and_die_half_way, args=(runner, ))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert len([name for name in os.listdir(tmp_path) if name.startswith('.')]) == 1  # it did die while writing
    assert sorted(path.name for path in tmp_path.glob('*.pth') if path.name[0] != '.') == ['epoch_2.pth', 'latest.pth']
    assert os.readlink(tmp_path / 'latest.pth') == 'epoch_2.pth' and (tmp_path / 'epoch_2.pth').read_bytes() == before

    at_epoch(runner, epoch).save_checkpoint(str(tmp_path))  # the next attempt clears up
    assert os.readlink(tmp_path / 'latest.pth') == f'epoch_{epoch + 1}.pth'
    assert not [name for name in os.listdir(tmp_path) if name.startswith('.')]
    build(tmp_path).resume(str(tmp_path / 'latest.pth'))


def test_the_latest_checkpoint_is_found_beside_a_leftover(tmp_path):
    from mmdet.utils import find_latest_checkpoint
    at_epoch(build(tmp_path), 1).save_checkpoint(str(tmp_path), create_symlink=False)
    (tmp_path / '.epoch_3.part.pth').write_bytes(b'half')
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')


def test_resume_restores_weights_optimizer_counters_and_messages_but_keeps_own_meta(tmp_path):
    meta = dict(config='new', hook_msgs=dict(best_score=0.5), fp16=dict(loss_scaler=dict(scale=2.0)))
    first = at_epoch(build(tmp_path, meta={**meta, 'config': 'import os; os.mkdir("trace")'}), 1)
    first.save_checkpoint(str(tmp_path))
    resumed = build(tmp_path, meta=dict(config='new'))
    resumed.resume(str(tmp_path / 'latest.pth'))

    assert (resumed.epoch, resumed.iter) == (2, 20)
    weights, expected = resumed.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    moments, expected = resumed.optimizer.state_dict()['state'], first.optimizer.state_dict()['state']
    assert moments and all(torch.equal(moments[i]['exp_avg'], expected[i]['exp_avg']) for i in expected)
    assert {key: resumed.meta[key] for key in meta} == meta
    assert not os.path.exists('trace')


def test_numpy_values_and_config_sections_in_meta_are_written_as_plain_ones(tmp_path):
    runner = build(tmp_path, meta=dict(hook_msgs=dict(best_score=np.float64(0.5))))
    at_epoch(runner, 0).save_checkpoint(str(tmp_path), meta=dict(section=ConfigDict(a=[np.arange(2), ('b', )])))
    meta = read_checkpoint(tmp_path / 'epoch_1.pth')['meta']
    assert meta['hook_msgs'] == dict(best_score=0.5) and meta['section'] == dict(a=[[0, 1], ('b', )])
    build(tmp_path).resume(str(tmp_path / 'epoch_1.pth'))


def test_resume_refuses_other_architectures(tmp_path):
    at_epoch(build(tmp_path, width=4), 0).save_checkpoint(str(tmp_path))
    with pytest.raises(ValueError, match='(?s)epoch_1.pth does not fit the model.*size mismatch for encoder.0.weight'):
        build(tmp_path).resume(str(tmp_path / 'epoch_1.pth'))


def test_resume_refuses_files_that_training_did_not_write(tmp_path):
    runner = build(tmp_path)
    runner.save_checkpoint(str(tmp_path), save_optimizer=False)
    with pytest.raises(ValueError, match='no optimizer state.*load_from'):
        runner.resume(str(tmp_path / 'epoch_1.pth'))
    runner.resume(str(tmp_path / 'epoch_1.pth'), resume_optimizer=False)
    torch.save(runner.model.module.state_dict(), tmp_path / 'bare.pth')
    with pytest.raises(ValueError, match=r"bare.pth .*\['epoch', 'iter'\]"):
        runner.resume(str(tmp_path / 'bare.pth'))


def test_resume_refuses_other_optimizers(tmp_path):
    at_epoch(build(tmp_path), 0).save_checkpoint(str(tmp_path))
    other = build(tmp_path)
    other.optimizer = torch.optim.SGD(other.model.parameters(), lr=1e-2, momentum=0.9)
    with pytest.raises(ValueError, match=r"epoch_1.pth cannot be resumed from with SGD.*'momentum'.*load_from"):
        other.resume(str(tmp_path / 'epoch_1.pth'))
    other.optimizer = torch.optim.AdamW([dict(params=[parameter]) for parameter in other.model.parameters()], lr=1e-2)
    with pytest.raises(ValueError, match='epoch_1.pth cannot be resumed from .*other groups of parameters'):
        other.resume(str(tmp_path / 'epoch_1.pth'))


def test_resume_with_another_number_of_processes_counts_their_iterations(tmp_path):
    runner = at_epoch(build(tmp_path), 1)
    runner.meta['world_size'] = 4
    runner.save_checkpoint(str(tmp_path))
    resumed = build(tmp_path)
    resumed.resume(str(tmp_path / 'epoch_2.pth'))
    assert (resumed.epoch, resumed.iter, resumed.meta['world_size']) == (2, 80, 1)


def test_load_checkpoint_starts_from_weights_only(tmp_path):
    first = at_epoch(build(tmp_path), 1)
    first.save_checkpoint(str(tmp_path))
    runner = build(tmp_path)
    runner.load_checkpoint(str(tmp_path / 'epoch_2.pth'))
    assert (runner.epoch, runner.iter) == (0, 0) and not runner.optimizer.state_dict()['state']
    assert torch.equal(runner.model.module.encoder[0].weight, first.model.module.encoder[0].weight)


def test_the_json_log_is_valid_where_numbers_are_not(tmp_path):
    """The error of objects that nothing found is NaN; nuScenes has such numbers at all times."""
    runner = build(tmp_path)
    log_config = dict(interval=1, hooks=[dict(type='TextLoggerHook')])
    runner.register_logger_hooks(log_config)
    assert log_config['hooks'] == [dict(type='TextLoggerHook')]
    runner.timestamp = 'now'
    runner.call_hook('before_run')
    runner.mode = 'val'
    runner.log_buffer.output.update(eval_iter_num=1, error=float('nan'), recall=0.5, worst=[float('inf'), 1.0])
    runner.log_buffer.ready = True
    runner.call_hook('after_train_epoch')

    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    *_, line = (tmp_path / 'now.log.json').read_text().splitlines()
    record = json.loads(line, parse_constant=refuse)
    assert record['error'] is None and record['recall'] == 0.5 and record['worst'] == [None, 1.0]


def test_names_with_a_slash_lie_in_a_folder(tmp_path):
    """`evaluation.save_best=pts_bbox_NuScenes/NDS` makes such names, and users do."""
    runner = at_epoch(build(tmp_path), 1)
    runner.save_checkpoint(str(tmp_path), 'best_pts_bbox_NuScenes/NDS_epoch_2.pth', create_symlink=False)
    runner.save_checkpoint(str(tmp_path), 'kept/epoch_{}.pth')
    assert os.listdir(tmp_path / 'best_pts_bbox_NuScenes') == ['NDS_epoch_2.pth']
    assert os.listdir(tmp_path / 'kept') == ['epoch_2.pth']
    assert os.readlink(tmp_path / 'latest.pth') == 'kept/epoch_2.pth'
    build(tmp_path).resume(str(tmp_path / 'latest.pth'))


def test_resume_refuses_other_classes_and_load_warns_of_them(tmp_path, caplog):
    first = at_epoch(build(tmp_path), 1)
    first.model.module.CLASSES = ('car', 'bus')
    first.save_checkpoint(str(tmp_path))
    for classes in (('bus', 'car'), ('car', 'van')):
        runner = build(tmp_path)
        runner.model.module.CLASSES = classes
        with pytest.raises(ValueError, match=r"\['car', 'bus'\]"):
            runner.resume(str(tmp_path / 'latest.pth'))
        caplog.clear()
        runner.load_checkpoint(str(tmp_path / 'latest.pth'))
        assert f"has {list(classes)}" in caplog.text and "has ['car', 'bus']" in caplog.text
    first.resume(str(tmp_path / 'latest.pth'))


def ema_runner(work_dir, hook, epochs):
    runner = build(work_dir)
    runner._max_epochs = epochs
    runner.register_hook(OptimizerHook())
    runner.register_hook_from_cfg({**hook, 'priority': 'ABOVE_NORMAL'})
    runner.register_hook_from_cfg(dict(type='CheckpointHook', interval=1))
    return runner


@pytest.mark.parametrize('hook', [dict(type='EMAHook', momentum=0.3, warm_up=1),
                                  dict(type='ExpMomentumEMAHook', momentum=0.3, total_iter=5)])
@pytest.mark.filterwarnings('ignore:This overload of add_')
def test_a_resumed_run_with_an_ema_hook_equals_an_uninterrupted_one(tmp_path, monkeypatch, hook):
    monkeypatch.setattr('mmcv.runner.epoch_based_runner.time.sleep', lambda seconds: None)
    torch.manual_seed(0)
    start = TinyDetector().state_dict()
    batch = dict(points=[torch.randn(6, 4), torch.randn(5, 4)], img_metas=[{}, {}], target=torch.zeros(2, 1))

    def run(folder, epochs, resume=None):
        runner = ema_runner(tmp_path / folder, hook, epochs)
        runner.model.module.load_state_dict(start)
        runner.model.module.encoder[3].p = 0.0  # nothing random
        if resume:
            runner.resume(str(resume))
        runner.run([[batch] * 3], [('train', 1)])

    run('whole', 3)
    run('parts', 1)
    run('parts', 3, resume=tmp_path / 'parts/epoch_1.pth')
    whole, parts = (torch.load(tmp_path / folder / 'epoch_3.pth', weights_only=True)['state_dict']
                    for folder in ('whole', 'parts'))
    assert any(key.startswith('ema_') for key in whole) and whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert not torch.equal(whole['encoder.0.weight'], whole['ema_encoder_0_weight'])

    without = build(tmp_path / 'without')
    without.resume(str(tmp_path / 'whole/epoch_3.pth'))
    assert torch.equal(without.model.module.encoder[0].weight, whole['encoder.0.weight'])


def test_a_training_without_one_step_fails_at_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr('mmcv.runner.epoch_based_runner.time.sleep', lambda seconds: None)
    batch = dict(points=[torch.full((5, 4), float('nan'))], img_metas=[{}], target=torch.zeros(1, 1))
    runner = build(tmp_path)
    runner._max_epochs = 1
    runner.register_hook(OptimizerHook())
    monkeypatch.setattr(type(runner.model.module), 'forward_train',
                        lambda self, **kwargs: dict(loss=sum(p.sum() for p in self.parameters()) * float('nan')))
    runner.register_hook_from_cfg(dict(type='NonFiniteLossHook', action='skip'))
    with pytest.raises(RuntimeError, match='the optimizer made no step in 2 iterations'):
        runner.run([[batch] * 2], [('train', 1)])
