import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmcv import Config

from projects.mmdet3d_plugin.experiments.sweep import BiasSweep
from tests.test_tools.test_compare import printed_table
from tests.tiny_nuscenes import write_tiny_nuscenes

ONE_EPOCH = ['--cfg-options', 'runner.max_epochs=1', 'evaluation.interval=1']


@pytest.fixture
def folder(tmp_path):
    write_tiny_nuscenes(tmp_path)
    return tmp_path


def test_a_killed_run_leaves_the_others_alone_and_goes_on(run_tool, folder):
    """Boxes of the checkpoint are perfect; the bias moves them by 0.2 m times its strength, in local mode by half."""
    arguments = ['tiny_nuscenes_aqr.py', '--checkpoint', 'baseline.pth', '--out', 'out', *ONE_EPOCH]
    (folder / 'kill').write_text('4')  # samples: two of training, the second one of its evaluation
    text = run_tool('sweep.py', *arguments, '--bias-strength', 3, cwd=folder, code=1)
    assert '[1/2] global, bias strength 3' in text and 'FAILED with exit code -9' in text
    assert '1 of 2 runs failed: global, 3. Run again' in text
    assert printed_table(text)['mode'][:2] == ['bias strength', 'mAP'] and printed_table(text)['local'][1] == '1.000'
    killed, = (folder / 'out').glob('global_3_*')
    assert (killed / 'epoch_1.pth').is_file() and not (killed / 'result.json').exists()

    text = run_tool('sweep.py', *arguments, '--bias-strength', 3, cwd=folder)
    assert text.count('finished in an earlier run') == 1 and 'latest.pth: epoch 1, iteration 2' in text
    mode, = (folder / 'out').glob('global_3_*')  # the same folder
    table = printed_table(text)
    assert table['global'][:2] == ['3', '0.750'] and table['global'][-1] == 'True' and table['local'][-1] == 'False'

    assert {path.name for path in (folder / 'out').iterdir() if path.is_file()} == {'sweep.csv', 'sweep.md',
                                                                                   'sweep.png'}
    rows = list(csv.DictReader((folder / 'out/sweep.csv').open()))
    assert [float(row['AP at 0.5 m']) for row in rows] == pytest.approx([0, 1], abs=1e-3)
    head = Config.fromfile(str(mode / 'tiny_nuscenes_aqr.py')).model.pts_bbox_head
    assert head == dict(enable_aqr=True, aqr_bias_strength=3.0, aqr_use_local_bias=False)


def test_a_killed_sweep_takes_its_run_along(repo_root, folder):
    sweep = subprocess.Popen(
        [sys.executable, repo_root / 'tools/sweep.py', 'tiny_nuscenes_aqr.py', '--bias-strength', '3', '--out', 'out',
         '--mode', 'local', *ONE_EPOCH], cwd=folder, env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs = []
    while not runs:
        time.sleep(0.05)
        assert sweep.poll() is None
        runs = [pid for pid in Path(f'/proc/{sweep.pid}/task/{sweep.pid}/children').read_text().split()
                if b'spawn_main' in Path(f'/proc/{pid}/cmdline').read_bytes()]
    run, = runs
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    end = time.time() + 60
    while is_running(run):
        assert time.time() < end
        time.sleep(0.1)
    assert not list(folder.glob('out/*/result.json'))


def is_running(pid):
    status = Path(f'/proc/{pid}/stat')
    try:
        return status.read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_another_data_set(run_tool, repo_root, folder):
    config = repo_root / 'configs/cmt_aqr_real_frame.py'
    text = run_tool('sweep.py', config, '--out', 'out', cwd=folder, code=1)
    assert 'must be a nuScenes dataset, which has an ann_file; got FrameFolderDataset' in text


def test_runs_from_an_address_are_told_apart_by_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    first, second = (BiasSweep('tiny_nuscenes_aqr.py', dict(load_from=f'https://{name}/a.pth'), [3.0], ['local'], 'out')
                     for name in ('one', 'two'))
    assert len({sweep.runs['local', 3.0][1] for sweep in (first, second)}) == 2


@pytest.mark.parametrize('arguments, message', [
    (['tiny_nuscenes.py'], 'needs a config with model.pts_bbox_head.enable_aqr=True'),
    (['tiny_nuscenes_aqr.py', '--bias-strength', '-1'], 'bias_strength'),
    (['tiny_nuscenes_aqr.py', '--bias-strength', 'nan'], 'bias_strength'),
    (['tiny_nuscenes_aqr.py', '--bias-strength', '3', '3'], 'strengths must be given and differ, got [3.0, 3.0]'),
    (['tiny_nuscenes_aqr.py', '--mode', 'both'], "invalid choice: 'both'"),
    (['tiny_nuscenes_aqr.py', '--checkpoint', 'no.pth'], 'no such file: no.pth'),
    (['tiny_nuscenes_aqr.py', '--checkpoint', 'baseline.pth', '--cfg-options', 'load_from=other.pth'],
     'load_from=other.pth among the options contradicts checkpoint=baseline.pth'),
    (['tiny_nuscenes_aqr.py', '--cfg-options', 'model.pts_bbox_head.aqr_bias_strength=4.0', 'work_dir=here'],
     "['model.pts_bbox_head.aqr_bias_strength', 'work_dir'] are set by the sweep itself"),
    (['tiny_nuscenes_aqr.py', '--cfg-options', 'model.pts_bbox_head.aqr_local_window_size=4'], 'window'),
    (['tiny_nuscenes_aqr.py', '--cfg-options', 'model.pts_bbox_head.aqr_per_view=True'], 'per_view=True is for global'),
    (['tiny_nuscenes_aqr.py', '--cfg-options', 'data.test.ann_file=data/no.pkl'], 'No such file or directory'),
])
def test_mistakes_start_nothing(run_tool, folder, arguments, message):
    before = sorted(os.listdir(folder))
    text = run_tool('sweep.py', *arguments, '--out', 'out', cwd=folder, code=None)
    assert message in text and '[1/' not in text
    assert sorted(os.listdir(folder)) == before
