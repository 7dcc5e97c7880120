"""Curves from logs as mmcv writes them: several epochs, resumed runs, half a line, wildcards."""
import json

import pytest

from projects.mmdet3d_plugin.experiments.training_log import curve, read_training_log


def write(path, *lines):
    path.write_text(''.join(f'{json.dumps(line)}\n' for line in [dict(env_info='machine', seed=0), *lines]))
    return path


def line(epoch, iteration, mode='train', **numbers):
    return dict(mode=mode, epoch=epoch, iter=iteration, lr=0.1, **numbers)


def test_iterations_count_over_epochs(tmp_path):
    path = write(tmp_path / 'a.log.json', line(1, 20, loss=4.0), line(1, 50, loss=3.0),
                 line(1, 9, mode='val', loss=99.0), line(2, 20, loss=2.0))
    log = read_training_log(path)
    assert curve(log, 'loss') == [(20, 4.0), (50, 3.0), (70, 2.0)]
    assert log[20] == dict(lr=0.1, loss=4.0, detection_loss=4.0)


def test_logs_of_a_resumed_run(tmp_path):
    """The first one broke off within a line; the second one repeats an epoch."""
    first = write(tmp_path / '20260101.log.json', line(1, 10, loss=5.0), line(2, 10, loss=4.0))
    with open(first, 'a') as file:
        file.write('{"mode": "tr')
    write(tmp_path / '20260102.log.json', line(2, 10, loss=3.5), line(3, 10, loss=3.0))
    (tmp_path / 'other.json').write_text('{}')
    assert curve(read_training_log(tmp_path), 'loss') == [(10, 5.0), (20, 3.5), (30, 3.0)]


def test_numbers_that_not_every_line_has(tmp_path):
    log = read_training_log(write(tmp_path / 'a.log.json', line(1, 1, loss=None), line(
        1, 2, **{'loss': 1.0, 'attention/entropy_0': 2.0, 'attention/entropy_1': 4.0, 'attention/lidar_0': 9.0})))
    assert curve(log, 'loss') == [(2, 1.0)]  # NaN stands as null
    assert curve(log, 'attention/entropy_*') == [(2, 3.0)]
    assert curve(log, 'absent') == []


def test_the_loss_of_detection(tmp_path):
    log = read_training_log(write(tmp_path / 'a.log.json', line(1, 1, loss=4.0, loss_aqr=0.5), line(1, 2, loss=3.0),
                                  line(1, 3, grad_norm=1.0)))
    assert curve(log, 'detection_loss') == [(1, 3.5), (2, 3.0)]


def test_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match='no .log.json: .*absent'):
        read_training_log(tmp_path / 'absent')
    with pytest.raises(FileNotFoundError, match='no .log.json'):
        read_training_log(tmp_path)
    with pytest.raises(ValueError, match='no lines of training in .*a.log.json'):
        read_training_log(write(tmp_path / 'a.log.json', line(1, 1, mode='val')))
    (tmp_path / 'a.log.json').write_text('{"mode\n{"mode": "train", "epoch": 1, "iter": 1}\n')
    with pytest.raises(ValueError, match='a.log.json, line 1: not JSON'):
        read_training_log(tmp_path / 'a.log.json')
