"""The check for GPU machines: its dry run on CPU where torch is alone, and that it fails where it should."""
import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import gpu_check
from projects.mmdet3d_plugin.models.utils.attention import backends

# Runs a script as on a bare machine: torch, but not what this package needs beside it.
BARE = """
import runpy, sys
class Bare:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *args):
        missing = name.split('.')[0] in ('mmcv', 'mmdet', 'mmdet3d', 'mmseg', 'spconv', 'nuscenes', 'numpy')
        return None if missing else self.finder.find_spec(name, *args)
sys.meta_path[:] = map(Bare, sys.meta_path)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
BACK_ENDS = {'global': {'CPU tiles', 'channels'}, 'global per head': {'CPU tiles', 'channels'},
             'stand-ins': {'CPU tiles', 'channels'}, 'local': {'CPU tiles', 'flex'},
             'local per head': {'CPU tiles', 'flex'}}


def test_the_dry_run_needs_torch_alone(repo_root, tmp_path):
    script, path = repo_root / 'benchmarks/gpu_check.py', tmp_path / 'new/figures.json'
    assert os.access(script, os.X_OK) and script.read_text().startswith('#!/usr/bin/env python\n')
    done = subprocess.run([sys.executable, '-c', BARE, script, '--device', 'cpu', '--tokens', 'small', '--rounds', '2',
                           '--train', '--json', path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(path.read_text())
    assert report['passed'] and report['device'] == 'cpu' and report['torch'] == torch.__version__
    checked = {(row['kind'], row['dtype'], row['back_end']) for row in report['checks']}
    assert checked == {(kind, dtype, name) for kind, names in BACK_ENDS.items() for name in names
                       for dtype in ('float32', 'float16', 'bfloat16')}
    assert all(row['passed'] and 0 <= row['error'] <= row['tolerance'] for row in report['checks'])
    assert list(report['times']) == ['small']
    assert list(report['times']['small']) == ['forward', 'forward + backward']
    for rows in report['times']['small'].values():
        assert set(rows) == {'plain', 'global', 'global, bias at hand', 'local', 'local, bias at hand',
                             'local as a dense mask', 'stand-ins', 'stand-ins, bias at hand'}
        assert rows['plain']['ratio'] == 1 and all(row['median_s'] > 0 for row in rows.values())
    assert 'mmcv, mmdet, mmdet3d not installed' in report['training']['skipped']
    assert 'training: ' in done.stdout and '30 of 30 checks passed' in done.stdout


def test_help_does_without_torch(repo_root, tmp_path):
    done = subprocess.run([sys.executable, '-X', 'importtime', repo_root / 'benchmarks/gpu_check.py', '--help'],
                          cwd=tmp_path, capture_output=True, text=True, check=True)
    assert '--device' in done.stdout and ' torch\n' not in done.stderr


@pytest.mark.parametrize('arguments, message', [
    ([], 'no CUDA device found'), (['--device', 'cuda:1'], 'cuda:1 is not there, torch finds 0 CUDA devices'),
    (['--device', 'meta'], 'must be cuda, cuda:N or cpu, got meta'), (['--device', 'gpu'], 'argument --device: '),
    (['--device', 'cpu', '--rounds', '1'], 'argument --rounds: must be >= 2, got 1')])
def test_mistakes(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.fixture
def quick(monkeypatch):
    """Fewer checks, and factory: name, its new function -> exchange that back end."""
    monkeypatch.setattr(gpu_check, 'KINDS', ('global', 'local'))
    monkeypatch.setattr(gpu_check, 'TOLERANCES', dict(float32=gpu_check.TOLERANCES['float32']))
    monkeypatch.setattr(gpu_check, 'TIMED_KINDS', ())

    def exchange(name, change):
        monkeypatch.setattr(backends, 'BACKENDS', tuple(
            backend._replace(run=change(backend.run)) if backend.name == name else backend
            for backend in backends.BACKENDS))

    return exchange


def without_gradient_of_bias(run):
    return lambda query, key, value, bias: run(query, key, value, bias) - 1e-3 * bias.values.sum()


def slightly_off(run):
    return lambda query, key, value, bias: run(query, key * 1.001, value, bias)


def not_finite(run):
    return lambda *inputs: run(*inputs) * float('nan')


def no_kernel(run):
    def attend(*inputs):
        raise RuntimeError('no kernel image is available')

    return attend


@pytest.mark.parametrize('name, kind', [('channels', 'global'), ('flex', 'local')])
@pytest.mark.parametrize('change', [without_gradient_of_bias, slightly_off, not_finite, no_kernel])
def test_a_wrong_back_end_fails_and_the_others_are_checked(quick, tmp_path, capsys, name, kind, change):
    quick(name, change)
    assert gpu_check.main(['--device', 'cpu', '--rounds', '2', '--json', str(tmp_path / 'out.json')]) == 1
    report = json.loads((tmp_path / 'out.json').read_text())
    assert not report['passed'] and len(report['checks']) == 4
    failed, = (row for row in report['checks'] if not row['passed'])
    assert (failed['back_end'], failed['kind']) == (name, kind)
    assert failed.get('message') == ('RuntimeError: no kernel image is available' if change is no_kernel else None)
    assert f'FAILED  {name}' in capsys.readouterr().out


def test_an_attention_that_cannot_be_timed_fails(quick, monkeypatch, capsys):
    quick('CPU tiles', no_kernel)
    monkeypatch.setattr(gpu_check, 'TIMED_KINDS', ('global', ))
    times = gpu_check.measure(gpu_check.SIZES['small'], torch.float32, torch.device('cpu'), 2)
    gpu_check.show_measured('small', 'float32', times)
    for rows in times.values():
        assert rows['global']['message'] == 'RuntimeError: no kernel image is available'
        assert rows['plain']['ratio'] == 1
    assert 'no kernel image is available' in capsys.readouterr().out
    monkeypatch.setattr(gpu_check, 'check', lambda *args: [])
    assert gpu_check.main(['--device', 'cpu', '--rounds', '2']) == 1


def test_what_is_compared_is_the_definition():
    """A tensor that is wrong counts by its own size, unless it is next to nothing."""
    expected = dict(output=torch.tensor([100.0, -1.0]), dq=torch.tensor([10.0]), dk=torch.tensor([1e-9]))
    assert gpu_check.largest_error(expected, expected) == 0
    assert gpu_check.largest_error(dict(expected, dq=torch.tensor([11.0])), expected) == pytest.approx(0.1)
    assert gpu_check.largest_error(dict(expected, dk=torch.tensor([0.01])), expected) == pytest.approx(0.01)
    assert gpu_check.largest_error(dict(expected, dk=torch.tensor([float('nan')])), expected) == float('inf')


def test_figures():
    found = gpu_check.figures([2, 6, 4], [1, 2, 4])
    assert found == dict(median_s=4, quartiles_s=[3, 5], ratio=2, ratio_quartiles=[1.5, 2.5])


TRAIN = """
import sys
print(sys.argv)
sys.exit({code})
"""


def test_training_is_skipped_without_data(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, 'ROOT', tmp_path)
    assert 'nuscenes_infos_train.pkl is missing (tools/quickstart.sh makes it)' in gpu_check.train()['skipped']


@pytest.mark.parametrize('code', [0, 3])
def test_training_counts(quick, tmp_path, monkeypatch, capfd, code):
    monkeypatch.setattr(gpu_check, 'ROOT', tmp_path)
    for name, text in {'data/nuscenes_synthetic/nuscenes_infos_train.pkl': '', 'tools/train.py': TRAIN.format(
            code=code)}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert gpu_check.main(['--device', 'cpu', '--rounds', '2', '--train']) == bool(code)
    printed = capfd.readouterr().out
    for config in gpu_check.TRAINED:
        assert f"['tools/train.py', '{config}', '--no-validate'" in printed
