import csv
import os

import cv2
import mmcv
import pytest

from tests.tiny_nuscenes import write_tiny_nuscenes


@pytest.fixture(scope='module')
def tested(run_tool, tmp_path_factory):
    """Folder with the tiny nuScenes set and `results.pkl` of its perfect detector."""
    folder = tmp_path_factory.mktemp('tested')
    write_tiny_nuscenes(folder)
    run_tool('test.py', 'tiny_nuscenes.py', 'baseline.pth', '--out', 'results.pkl', cwd=folder)
    return folder


def scores(output):
    return sorted(line for line in output.splitlines() if line.startswith('pts_bbox_NuScenes/'))


def test_results_of_an_earlier_test_get_its_scores(run_tool, tested):
    expected = run_tool('test.py', 'tiny_nuscenes.py', 'baseline.pth', '--eval', 'bbox', cwd=tested)
    output = run_tool('evaluate.py', 'tiny_nuscenes.py', 'results.pkl', '--eval-options', 'jsonfile_prefix=kept',
                      cwd=tested, fresh=True)
    assert scores(output) == scores(expected) and 'pts_bbox_NuScenes/mAP: 1.0' in output
    assert (tested / 'kept/pts_bbox/results_nusc.json').is_file()


def test_table_and_curves(run_tool, tested):
    """A perfect detector: everything is found, all of it at 20 m from the car."""
    output = run_tool('evaluate.py', 'tiny_nuscenes.py', 'results.pkl', '--table', 'table.csv', '--curves',
                      'curves.png', cwd=tested)
    rows = list(csv.DictReader(open(tested / 'table.csv')))
    assert [row['class'] for row in rows][-1] == 'mean' and len(rows) == 11
    assert [float(row[key]) for row in rows for key in ('AP', 'AP@0.5 m', 'AP@4 m')] == pytest.approx([1] * 33)
    assert {int(row['boxes']) for row in rows[:-1]} == {2} and int(rows[-1]['boxes']) == 20
    assert sum(row['AP 30-50 m'] == 'nan' for row in rows) == 11 and '| traffic_cone ' in output
    picture = cv2.imread(str(tested / 'curves.png'))
    assert picture.shape[1] > 1000 and (picture != 255).any(axis=2).mean() > 0.02


def test_every_second_sample_is_evaluated_by_itself(run_tool, tested):
    option = ['--cfg-options', 'data.test.load_interval=2']
    output = run_tool('test.py', 'tiny_nuscenes.py', 'baseline.pth', '--eval', 'bbox', *option, cwd=tested)
    assert 'the evaluation will be on 1 samples, not the 2 of mini_val' in output
    assert 'pts_bbox_NuScenes/mAP: 1.0' in output


def change_boxes(results):
    found = results[1]['pts_bbox']
    found['boxes_3d'].tensor = found['boxes_3d'].tensor.repeat(51, 1)
    found.update(scores_3d=found['scores_3d'].repeat(51), labels_3d=found['labels_3d'].repeat(51))


def change_labels(results):
    results[1]['pts_bbox']['labels_3d'][0] = 10


@pytest.mark.parametrize('change, message', [
    (lambda results: results.pop(), 'must have one entry for each of the 2 samples of data.test, has 1'),
    (change_boxes, 'the number of boxes in entry 1 is 510, but nuScenes accepts at most 500 boxes a sample'),
    (change_labels, 'entry 1 has labels from 1 to 10, its class_names are the 10 classes'),
    (lambda results: results[1]['pts_bbox'].pop('class_names') and change_labels(results),
     'entry 1 has labels from 1 to 10, data.test has the 10 classes'),
    (lambda results: results[1]['pts_bbox'].update(class_names=['tram'] * 10), "changed.pkl has ['tram', 'tram', "),
    (lambda results: results.reverse(), 'entry 0 is of sample '),
    (lambda results: results[1]['pts_bbox']['scores_3d'].fill_(float('inf')), 'entry 1 has scores that are not in [0'),
    (lambda results: results[1]['pts_bbox']['scores_3d'].fill_(float('nan')), 'entry 1 has scores that are not in [0'),
    (lambda results: results[1]['pts_bbox']['boxes_3d'].tensor[:, 7].fill_(float('inf')), 'numbers that are not fini'),
    (lambda results: results[1]['pts_bbox']['boxes_3d'].tensor[:, 3].fill_(-1), 'or sizes that are not above 0'),
    (lambda results: results[1]['pts_bbox'].update(scores_3d=results[1]['pts_bbox']['scores_3d'][:9]),
     'entry 1 has 10 boxes, 9 scores and 10 labels'),
    (lambda results: results[1]['pts_bbox'].update(scores_3d=[0.5] * 10), "tensors, has ['LiDARInstance3DBoxes', 'lis"),
    (lambda results: results[0].clear(), 'entry 0 has no boxes_3d, scores_3d and labels_3d'),
])
def test_results_that_do_not_suit_the_data(run_tool, tested, tmp_path, change, message):
    results = mmcv.load(str(tested / 'results.pkl'))
    change(results)
    mmcv.dump(results, str(tmp_path / 'changed.pkl'))
    assert message in run_tool('evaluate.py', 'tiny_nuscenes.py', tmp_path / 'changed.pkl', cwd=tested, code=None)


def test_files_that_are_no_results(run_tool, tested):
    assert 'no such file: no.pkl' in run_tool('evaluate.py', 'tiny_nuscenes.py', 'no.pkl', cwd=tested, code=2)
    output = run_tool('evaluate.py', 'tiny_nuscenes.py', 'tiny_nuscenes.py', cwd=tested, code=None)
    assert 'file of detections tiny_nuscenes.py is no whole pickle' in output


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder, )


def test_code_in_results_is_not_run_unless_trusted(run_tool, tested, tmp_path):
    results = mmcv.load(str(tested / 'results.pkl'))
    results[0]['pts_bbox']['note'] = Bomb(tmp_path / 'made')
    mmcv.dump(results, str(tmp_path / 'bomb.pkl'))
    output = run_tool('evaluate.py', 'tiny_nuscenes.py', tmp_path / 'bomb.pkl', cwd=tested, code=None)
    assert 'bomb.pkl asks for posix.mkdir' in output and '--trust-data' in output
    assert not (tmp_path / 'made').exists()
    output = run_tool('evaluate.py', 'tiny_nuscenes.py', tmp_path / 'bomb.pkl', '--trust-data', cwd=tested)
    assert 'pts_bbox_NuScenes/mAP: 1.0' in output and (tmp_path / 'made').is_dir()


@pytest.mark.parametrize('arguments', [
    ['--out', '/proc/results.pkl'], ['--out', 'folder.pkl'],
    ['--format-only', '--eval-options', 'jsonfile_prefix=/proc/a']])
def test_places_that_cannot_be_written_are_found_before_the_test(run_tool, tested, arguments):
    (tested / 'folder.pkl').mkdir(exist_ok=True)
    output = run_tool('test.py', 'tiny_nuscenes.py', 'baseline.pth', *arguments, cwd=tested, code=None)
    assert 'cannot be written' in output and 'task/s' not in output
