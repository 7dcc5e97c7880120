"""The command: a picture of several runs, and messages for what cannot be drawn."""
import json
import subprocess
import sys

import mmcv
import pytest


@pytest.fixture
def plot(repo_root, tmp_path):
    for name, loss in (('one', 5.0), ('two', 4.0)):
        lines = [dict(mode='train', epoch=1, iter=10 * i, loss=loss / i, grad_norm=1.0) for i in range(1, 6)]
        (tmp_path / f'{name}.log.json').write_text(''.join(f'{json.dumps(entry)}\n' for entry in lines))

    def run(*arguments):
        return subprocess.run([sys.executable, str(repo_root / 'tools/plot_training.py'), *map(str, arguments)],
                              cwd=tmp_path, capture_output=True, text=True)

    return run


def test_picture(plot, tmp_path):
    done = plot('first=one.log.json', 'second=two.log.json', '--keys', 'loss', 'grad_norm', '--out', 'curves.png')
    assert done.returncode == 0, done.stderr
    image = mmcv.imread(str(tmp_path / 'curves.png'), channel_order='rgb').astype(int)
    for panel in (image[:, :image.shape[1] // 2], image[:, image.shape[1] // 2:]):
        assert (abs(panel - (0x56, 0xB4, 0xE9)) < 40).all(axis=2).sum() > 50  # the second run's color
    assert not list(tmp_path.glob('*.tmp*'))


def test_what_no_run_logged_has_no_panel_unless_asked_for(plot, tmp_path):
    """Runs without a router have no weights."""
    for keys in ([], ['--keys', 'detection_loss', 'grad_norm']):
        done = plot('first=one.log.json', *keys, '--out', f'curves{len(keys)}.png')
        assert done.returncode == 0, done.stderr
    assert (tmp_path / 'curves0.png').read_bytes() == (tmp_path / 'curves3.png').read_bytes()
    done = plot('first=one.log.json', '--keys', 'loss', 'aqr/lidar_weight_mean', '--out', 'x.png')
    assert done.returncode == 2 and "no run logged ['aqr/lidar_weight_mean']" in done.stderr


def test_mistakes(plot):
    for arguments, message in (
            (['one.log.json', '--out', 'x.png'], 'expected NAME=WORK_DIR'),
            (['a=none.json', '--out', 'x.png'], 'no such file or directory: none.json'),
            (['a=one.log.json', 'a=two.log.json', '--out', 'x.png'], 'runs of different names'),
            (['a=one.log.json', '--keys', 'los', '--out', 'x.png'],
             "no run logged ['los']; logged: ['detection_loss', ")):
        done = plot(*arguments)
        assert done.returncode == 2 and message in done.stderr, done.stderr
