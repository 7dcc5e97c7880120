"""The tool on two samples and a detector that remembers boxes; tables are tested with what makes them."""
import json
import re

import pytest

from tests.tiny_nuscenes import write_tiny_nuscenes


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('set')
    write_tiny_nuscenes(folder)
    return folder


@pytest.fixture(scope='module')
def robustness(run_tool, folder):

    def run(*arguments, code=0, config='tiny_nuscenes.py'):
        return run_tool('test_robustness.py', config, 'baseline.pth', *arguments, cwd=folder, code=code)

    return run


def test_presets_and_cases_together(robustness, folder):
    text = robustness('--preset', 'drops', '--cases', 'calibration:2', 'lidar_drop', '--out', 'out', code=None)
    assert "case 'beams:4' needs rings" in text and not (folder / 'out').exists()  # this set loads no sweeps
    text = robustness('--cases', 'calibration:2', 'lidar_drop', '--controls', 'learned', 'lidar_alone',
                           '--out', 'out')
    rows = json.loads((folder / 'out/robustness.json').read_text())['cases']
    assert [(row['case'], row['control']) for row in rows] == [
        (case, control) for control in ('learned', 'lidar_alone') for case in ('clean', 'calibration:2', 'lidar_drop')]
    assert (folder / 'out/robustness.md').read_text() in text
    assert 'written to out/robustness.md, .csv and .json' in text


def test_headroom(robustness, folder):
    text = robustness('--headroom', '--cases', 'lidar_drop', '--out', 'headroom')
    assert 'written to headroom/headroom.md, .csv and .json and .png' in text
    assert (folder / 'headroom/headroom.md').read_text() in text


@pytest.mark.parametrize('arguments, message', [
    (['--preset', 'rain'], r"argument --preset: case 'rain': 'rain' is no failure \(did you mean camera_rain\?\); "
     'allowed: clean, .*; presets: multicorrupt, drops, lies'),
    (['--cases', 'glare@4'], "argument --cases: case 'glare@4': glare has the severities @1, @2, @3, got 'glare@4'"),
    (['--cases', 'fov:60', 'fov:60'], 'argument --cases: must differ, got fov:60, fov:60'),
    (['--controls', 'off:5'], "argument --controls: control must be one of learned, off, .*got 'off:5'"),
    (['--controls', 'oracle:-1'], "argument --controls: control 'oracle:-1': strength of oracle must be"),
    (['--headroom', '--controls', 'off'], 'argument --controls: --headroom has controls of its own'),
    (['--gain', '--controls', 'off'], 'argument --controls: --gain has controls of its own'),
    (['--gain', '--headroom'], 'argument --headroom: not allowed with argument --gain'),
    (['--workers', '0'], 'argument --workers: must be at least 1, got 0'),
    (['tiny_nuscenes.py'], 'argument checkpoint: 2 checkpoints need --headroom or --gain'),
])
def test_mistakes(robustness, arguments, message):
    text = robustness(*arguments, code=2)
    assert re.search(message, text), text
