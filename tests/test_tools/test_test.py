import json
import os
import pickle

import mmcv
import pytest
import torch

from tests.tiny_detector import write_config
from tests.tiny_nuscenes import write_tiny_nuscenes


def scores(path):
    return {result['index']: result['pts_bbox']['scores_3d'].item() for result in mmcv.load(str(path))}


def test_evaluation_and_results_of_a_checkpoint(run_tool, trained):
    output = run_tool('test.py', 'tiny.py', 'work_dirs/tiny/latest.pth', '--out', 'new/results.pkl', '--eval', 'bbox',
                      '--eval-options', 'scale=0.0', cwd=trained)
    assert 'mean_score: 0.0' in output and 'wrote 5 results to new/results.pkl' in output
    assert list(scores(trained / 'new' / 'results.pkl')) == list(range(5))


def test_several_processes_train_and_test_as_one_would(run_tool, tmp_path):
    """dist_train writes one set of files; dist_test on its checkpoint equals test, for an odd number of samples."""
    write_config(tmp_path)
    output = run_tool('dist_train.sh', 'tiny.py', 2, '--work-dir', 'work', cwd=tmp_path)
    assert 'Processes: 2' in output and output.count('Saving checkpoint at 2 epochs') == 1
    assert output.count('Epoch(val) [2]') == 1 and len(list((tmp_path / 'work').glob('*.log'))) == 1
    assert len(torch.load(tmp_path / 'work' / 'latest.pth', weights_only=True)['meta']['rng_states']) == 2

    arguments = ['tiny.py', 'work/latest.pth']
    output = run_tool('dist_test.sh', *arguments, 2, '--out', 'two.pkl', '--eval', 'bbox', cwd=tmp_path)
    assert output.count('mean_score') == 1
    run_tool('test.py', *arguments, '--out', 'one.pkl', cwd=tmp_path)
    one, two = scores(tmp_path / 'one.pkl'), scores(tmp_path / 'two.pkl')
    assert list(one) == list(two) == list(range(5)) and one == pytest.approx(two, rel=1e-6)
    assert sorted(os.listdir(tmp_path)) == ['one.pkl', 'tiny.py', 'two.pkl', 'work']


def test_format_only(run_tool, trained, tmp_path):
    run_tool('test.py', 'tiny.py', 'work_dirs/tiny/latest.pth', '--format-only', '--fuse-conv-bn', '--eval-options',
             f'jsonfile_prefix={tmp_path}/formatted', cwd=trained)
    assert json.loads((tmp_path / 'formatted.json').read_text()) == list(range(5))


def test_format_only_writes_to_the_work_directory(run_tool, trained, tmp_path):
    checkpoint = trained / 'work_dirs/tiny/latest.pth'
    write_config(tmp_path)
    for options, folder in (([], 'work_dirs/tiny'), (['--cfg-options', 'work_dir=other'], 'other')):
        output = run_tool('test.py', 'tiny.py', checkpoint, '--format-only', *options, cwd=tmp_path)
        assert 'wrote the files of a submission, 5 samples: ' in output and f'{folder}/results' in output
        assert json.loads((tmp_path / folder / 'results.json').read_text()) == list(range(5))


def test_a_submission_of_a_set_without_annotations(run_tool, tmp_path):
    write_tiny_nuscenes(tmp_path)
    path = tmp_path / 'data/nuscenes_infos_val.pkl'
    content = pickle.loads(path.read_bytes())
    for info in content['infos']:
        for key in ('gt_boxes', 'gt_names', 'gt_velocity', 'num_lidar_pts', 'valid_flag'):
            del info[key]
    content['metadata']['version'] = 'v1.0-test'
    path.with_name('nuscenes_infos_test.pkl').write_bytes(pickle.dumps(content))
    arguments = ['tiny_nuscenes.py', 'baseline.pth', '--cfg-options',
                 'data.test.ann_file=data/nuscenes_infos_test.pkl']
    run_tool('test.py', *arguments, '--format-only', cwd=tmp_path)
    submission = json.loads((tmp_path / 'work_dirs/tiny_nuscenes/results/pts_bbox/results_nusc.json').read_text())
    assert [len(boxes) for boxes in submission['results'].values()] == [10, 10] and submission['meta']['use_camera']
    output = run_tool('test.py', *arguments, '--eval', 'bbox', cwd=tmp_path, code=None)
    assert 'is of v1.0-test, which has no annotations to evaluate with' in output and '2/2' not in output


@pytest.mark.parametrize('arguments, message', [
    (['no.pth', '--eval', 'bbox'], 'argument checkpoint: no such file: no.pth'),
    (['work_dirs/tiny/latest.pth'], 'give --out, --eval or --format-only'),
    (['work_dirs/tiny/latest.pth', '--eval', 'bbox', '--format-only'], '--eval and --format-only exclude each other'),
    (['work_dirs/tiny/latest.pth', '--out', 'results.json'], "--out must end with .pkl or .pickle, got 'results.json'"),
    (['work_dirs/tiny/latest.pth', '--out', 'a.pkl', '--cfg-options', 'model.width=4'],
     'size mismatch for encoder.0.weight'),
    (['work_dirs/tiny/latest.pth', '--out', 'a.pkl', '--eval', 'bbox', '--eval-options', 'scales=1'],
     "TinyDataset.evaluate does not take {'scales': 1, 'metric': ['bbox']}"),
    (['work_dirs/tiny/latest.pth', '--out', 'a.pkl', '--format-only', '--eval-options', 'prefix=a'],
     "TinyDataset.format_results does not take {'jsonfile_prefix': './work_dirs/tiny/results', 'prefix': 'a'}"),
    (['work_dirs/tiny/latest.pth', '--out', 'a.pkl', '--cfg-options', 'data.test.classes=[other]'],
     "work_dirs/tiny/latest.pth and data.test name other classes"),
])
def test_mistakes(run_tool, trained, arguments, message):
    before = sorted(os.listdir(trained))
    output = run_tool('test.py', 'tiny.py', *arguments, cwd=trained, code=None)
    assert message in output and '5/5' not in output
    assert sorted(os.listdir(trained)) == before


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
@pytest.mark.parametrize('arguments', [[], ['tiny.py', 'latest.pth', 'two'], ['tiny.py', '0', '0']])
def test_usage_of_the_shell_scripts(run_tool, tmp_path, script, arguments):
    output = run_tool(script, *arguments, cwd=tmp_path, code=2)
    assert f'usage: {script} CONFIG' in output
