import csv
import json
import os

import pytest

from tests.tiny_nuscenes import CLASSES, write_tiny_nuscenes

BASELINE, AQR = 'baseline=tiny_nuscenes.py:baseline.pth', 'aqr=tiny_nuscenes_aqr.py:baseline.pth'


@pytest.fixture
def folder(tmp_path):
    write_tiny_nuscenes(tmp_path)
    return tmp_path


def printed_table(text):
    """{row name: [cells]}, header under 'metric'."""
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line[:2] == '| ']
    return {name: cells for name, *cells in rows}


def test_two_models_in_three_modalities(run_tool, folder):
    """Boxes are off by 0 m, without images 1.5 m, without points 0.75 m; the strength adds 0.2 m each."""
    text = run_tool('compare.py', BASELINE, AQR, '--out', 'out', '--cfg-options',
                    'model.pts_bbox_head.aqr_bias_strength=3.0', cwd=folder)
    table = printed_table(text)
    assert table['metric'] == [f'{model}, {modality}' for model in ('baseline', 'aqr')
                               for modality in ('both', 'lidar', 'camera')]
    assert table['AP at 0.5 m'] == ['1.000', '0.000', '0.000', '0.000', '0.000', '0.000']
    assert table['AP at 1 m'] == ['1.000', '0.000', '1.000', '1.000', '0.000', '0.000']
    assert table['AP at 2 m'] == ['1.000', '1.000', '1.000', '1.000', '0.000', '1.000']
    assert table['AP at 4 m'] == ['1.000'] * 6
    for name in ('mAP', 'AP small', 'AP medium', 'AP large', *(f'AP {name}' for name in CLASSES)):
        assert table[name] == ['1.000', '0.500', '0.750', '0.750', '0.250', '0.500'], name
    assert table['mATE'][:3] == ['0.000', '1.500', '0.750'] and set(table) >= {'NDS', 'mASE', 'mAOE', 'mAVE', 'mAAE'}
    assert 'small: pedestrian, traffic_cone, bicycle, motorcycle, barrier; medium: car; large: truck, bus' in text

    assert sorted(os.listdir(folder / 'out')) == ['comparison.csv', 'comparison.md', 'results']
    assert printed_table((folder / 'out/comparison.md').read_text()) == table
    rows = list(csv.DictReader((folder / 'out/comparison.csv').open()))
    assert [(row['model'], row['modality']) for row in rows][4] == ('aqr', 'lidar')
    assert float(rows[4]['mAP']) == pytest.approx(0.25, abs=1e-3) and list(rows[0])[2:] == list(table)[1:]


def test_a_killed_comparison_keeps_what_it_finished_and_goes_on(run_tool, folder):
    whole = printed_table(run_tool('compare.py', BASELINE, '--out', 'whole', cwd=folder))
    (folder / 'kill').write_text('4')  # the second of two samples of the second of three tests
    run_tool('compare.py', BASELINE, '--out', 'out', cwd=folder, code=-9)
    assert os.listdir(folder / 'out') == ['results']
    finished, = (folder / 'out/results').iterdir()
    assert finished.name.startswith('both_') and json.loads(finished.read_text())['metrics']
    text = run_tool('compare.py', BASELINE, '--out', 'out', cwd=folder)
    assert printed_table(text) == whole and text.count('kept from an earlier run') == 1
    assert sorted(os.listdir(folder / 'out/results')) == sorted(os.listdir(folder / 'whole/results'))


def test_results_are_reused_while_their_contents_are_the_same(run_tool, folder):
    def compare(model, *options):
        text = run_tool('compare.py', model, '--modalities', 'both', '--out', 'out', '--cfg-options',
                        'optimizer.lr=0.0', *options, cwd=folder)
        return text.count('kept from an earlier run'), text.count('tested: ')

    assert compare(BASELINE) == (0, 1)
    assert compare(BASELINE) == (1, 0)
    os.rename(folder / 'baseline.pth', folder / 'renamed.pth')
    assert compare('other=tiny_nuscenes.py:renamed.pth', 'optimizer.lr=1.0') == (1, 0)  # settings of training
    assert compare('other=tiny_nuscenes.py:renamed.pth', 'model.pts_bbox_head.aqr_bias_strength=1.0') == (0, 1)
    infos = folder / 'data/nuscenes_infos_val.pkl'
    infos.write_bytes(infos.read_bytes() + b'\0')
    assert compare('other=tiny_nuscenes.py:renamed.pth') == (0, 1)
    checkpoint = folder / 'renamed.pth'
    checkpoint.write_bytes(checkpoint.read_bytes() + b'\0')
    assert compare('other=tiny_nuscenes.py:renamed.pth') == (0, 1)


def test_another_data_set(run_tool, repo_root, folder):
    config = repo_root / 'configs/cmt_aqr_real_frame.py'
    text = run_tool('compare.py', f'a={config}:baseline.pth', '--out', 'out', cwd=folder, code=1)
    assert 'data.test must be a nuScenes dataset, which has an ann_file; got FrameFolderDataset' in text


@pytest.mark.parametrize('arguments, message', [
    (['tiny_nuscenes.py:baseline.pth'], 'expected NAME=CONFIG:CHECKPOINT'),
    (['a=tiny_nuscenes.py'], 'expected NAME=CONFIG:CHECKPOINT'),
    (['a=no.py:baseline.pth'], 'no such file: no.py'),
    (['a=tiny_nuscenes.py:no.pth'], 'no such file: no.pth'),
    ([BASELINE, BASELINE], 'argument models: must differ, got baseline, baseline'),
    ([BASELINE, '--modalities', 'both', 'both'], 'argument --modalities: must differ, got both, both'),
    ([BASELINE, '--modalities', 'radar'], "invalid choice: 'radar'"),
    ([BASELINE, '--cfg-options', 'data.test.ann_file=data/no.pkl'], "No such file or directory: 'data/no.pkl'"),
])
def test_mistakes(run_tool, folder, arguments, message):
    before = sorted(os.listdir(folder))
    assert message in run_tool('compare.py', *arguments, cwd=folder, code=None)
    assert sorted(os.listdir(folder)) == before
