"""The command line, and every subject on a small model."""
import json
import os
import subprocess
import sys

import pytest

from benchmarks import run
from benchmarks.settings import SCALES
from benchmarks.subjects import scenes

QUICK = ['--queries', '10', '--rounds', '1', '--threads', '1']


def test_help_does_without_torch(repo_root, tmp_path):
    script = repo_root / 'benchmarks/run.py'
    assert os.access(script, os.X_OK) and script.read_text().startswith('#!/usr/bin/env python\n')
    done = subprocess.run([sys.executable, '-X', 'importtime', script, '--help'], cwd=tmp_path, capture_output=True,
                          text=True, check=True)
    imported = {line.split('|')[-1].strip().split('.')[0] for line in done.stderr.splitlines()}
    assert {'argparse', 'benchmarks'} <= imported
    assert not imported & {'torch', 'numpy', 'mmcv', 'mmdet', 'mmdet3d', 'projects'}
    assert all(f'\n  {name} ' in done.stdout for name in run.SUBJECTS)
    assert '--memory-of' not in done.stdout


def test_each_subject_is_a_file(repo_root):
    files = {path.stem for path in (repo_root / 'benchmarks/subjects').glob('*.py')} - {'__init__', 'scenes'}
    assert files == {name.replace('-', '_') for name in run.SUBJECTS}


@pytest.mark.parametrize('tokens', SCALES)
def test_scales_have_their_tokens(tokens):
    assert scenes.layout_of(SCALES[tokens]).num_tokens == tokens


@pytest.mark.parametrize('arguments, message', [
    (['backbone'], "invalid choice: 'backbone'"),
    (['attention', '--tokens', '100'], 'invalid choice: 100'),
    (['attention', '--rounds', '0'], 'argument --rounds: must be >= 1, got 0'),
    (['head', '--batch', '-1'], 'argument --batch: must be >= 1, got -1'),
    (['attention', '--clock', 'cpu', '--threads', '2'], '--clock cpu needs --threads 1'),
    (['attention', '--plot', 'out.png'], '--plot goes with growth and head-growth'),
    (['attention', *QUICK, '--only', 'plain', 'globl'], "argument --only: attention has no 'globl'; it has 'plain', "),
])
def test_mistakes(tiny_scale, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize('subject, titles, names', [
    ('attention', ['forward', 'forward + backward'],
     ['plain', 'global fused', 'per view fused', 'local fused', 'global channels', 'local dense',
      'half on stand-ins', 'sketch: dense per head']),
    ('head', ['forward', 'forward + backward'],
     ['no AQR', 'AQR global', 'AQR local', 'looks, none suspected', 'looks, half lean on stand-ins']),
    ('train-step', ['training step'], ['no AQR', 'AQR global', 'looks, none suspected',
                                       'looks, about half lean']),
    ('monitor', ['training step'], ['no hook', 'idle', 'looking']),
    ('router', ['forward'], ['one plain attention', 'router']),
])
def test_subjects_run(tiny_scale, tmp_path, capsys, subject, titles, names):
    run.main([subject, *QUICK, '--no-memory', '--batch', '2', '--json', str(tmp_path / 'out.json')])
    written = json.loads((tmp_path / 'out.json').read_text())
    assert written['arguments']['subject'] == subject and written['arguments']['queries'] == 10
    assert list(written['results']) == titles
    printed = capsys.readouterr().out
    for rows in written['results'].values():
        assert list(rows) == names
        assert rows[names[0]]['ratio'] == 1 and all(row['median_s'] > 0 for row in rows.values())
    assert all(printed.count(f'\n  {name:<26}') == len(titles) for name in names)


@pytest.mark.parametrize('subject, title, base, other', [
    ('growth', 'forward + backward', 'plain', 'local fused'),
    ('head-growth', 'forward', 'no AQR', 'looks, none suspected')])
def test_growth_runs(tiny_scale, tmp_path, capsys, subject, title, base, other):
    run.main([subject, *QUICK, '--only', other, '--json', str(tmp_path / 'out.json'), '--plot',
              str(tmp_path / 'out.png')])
    results = json.loads((tmp_path / 'out.json').read_text())['results']
    assert {quantity: [value for value, _ in points] for quantity, points in results.items()} == dict(
        queries=[300, 900, 1500], tokens=[22384, 56400], batch=[1, 2])
    assert all(list(seconds) == [base, other] for points in results.values() for _, seconds in points)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == f'{title} {base} {other}'.split()
    assert [line.split()[:3] for line in lines[2:]] == [
        [quantity, '=', str(value)] for quantity, points in results.items() for value, _ in points]
    assert all('(1.00x)' in line for line in lines[2:])
    assert (tmp_path / 'out.png').stat().st_size > 1000


def test_memory_is_measured_in_the_published_size(tmp_path, capsys):
    """By a process that the script starts as a user would."""
    run.main(['router', *QUICK, '--only', 'one plain attention', '--json', str(tmp_path / 'out.json')])
    (name, row), = json.loads((tmp_path / 'out.json').read_text())['results']['forward'].items()
    assert name == 'one plain attention' and 0 <= row['peak_mib'] < 1000
    assert capsys.readouterr().out.split()[-1] == f'{row["peak_mib"]:.0f}'
