"""Data with fewer classes than the checkpoint, or with others: the published baseline in every tool that takes both."""
import json

import mmcv
import numpy as np
import pytest
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model

from projects.mmdet3d_plugin.apis import load_config, run_test, train_detector
from projects.mmdet3d_plugin.apis.class_names import head_classes

FEWER = ['truck', 'pedestrian']
NAMES = ['car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian',
         'traffic_cone']
OTHERS = dict(swapped=['truck', 'car', *NAMES[2:]], turned=FEWER[::-1], unknown=['truck', 'tram'])


@pytest.fixture(scope='module')
def tested(run_tool, repo_root, synthetic_nuscenes, tmp_path_factory):
    """Run a tool with the baseline on the generated set, in a folder of its own; `tested.folder` is that folder."""
    folder = tmp_path_factory.mktemp('classes')

    def run(tool, *arguments, classes=None, config='cmt_synthetic.py', checkpoint='cmt_synthetic.pth', code=0):
        data = [f'data.test.data_root={synthetic_nuscenes}/',
                f'data.test.ann_file={synthetic_nuscenes / "nuscenes_infos_val.pkl"}']
        data += [f'data.test.classes=[{",".join(classes)}]'] if classes else []
        model = repo_root / 'checkpoints' / checkpoint if checkpoint.endswith('.pth') else checkpoint
        return run_tool(tool, repo_root / 'configs' / config, model, *arguments, '--cfg-options', *data, cwd=folder,
                        code=code)

    run.folder = folder
    return run


def metrics(output):
    lines = [line.split(': ') for line in output.splitlines() if line.startswith('pts_bbox_NuScenes/')]
    return {name.removeprefix('pts_bbox_NuScenes/'): float(value) for name, value in lines}


@pytest.fixture(scope='module')
def scores(tested):
    """Metrics of `test.py` and `evaluate.py` with all ten classes and with two; files `ten.pkl` and `two.pkl`."""
    ten = tested('test.py', '--eval', 'bbox', '--out', 'ten.pkl')
    two = tested('test.py', '--eval', 'bbox', '--out', 'two.pkl', classes=FEWER)
    return ten, two


def check_two(output, ten):
    """Two classes have the scores that they have among ten, and the means go over them."""
    found, expected = metrics(output), metrics(ten)
    aps = [expected[f'{name}_AP_dist_{distance}'] for name in FEWER for distance in (0.5, 1.0, 2.0, 4.0)]
    assert min(aps[:4]) != pytest.approx(min(aps[4:]), abs=1e-3) and max(aps) > 0.3
    assert [found[f'{name}_AP_dist_{distance}'] for name in FEWER for distance in (0.5, 1.0, 2.0, 4.0)] == aps
    assert found['mAP'] == pytest.approx(np.mean(aps), abs=1e-4) and 'car_AP_dist_0.5' not in found
    assert f'evaluated on 2 of 10 classes, over which the means go: {FEWER}' in output


def test_fewer_classes_give_the_mean_over_those(tested, scores):
    ten, two = scores
    check_two(two, ten)
    assert two.count('data.test has 2 of the 10 classes of the model: detections of') == 1
    labels = [result['pts_bbox']['labels_3d'] for result in mmcv.load(str(tested.folder / 'two.pkl'))]
    assert {int(label) for part in labels for label in part} == {0, 1}


def test_results_are_evaluated_with_the_classes_that_they_were_made_with(tested, scores):
    """Results of two classes have labels 0 and 1, which would be car and truck among ten."""
    ten, two = scores
    assert metrics(tested('evaluate.py', checkpoint='two.pkl', classes=FEWER)) == metrics(two)
    check_two(tested('evaluate.py', checkpoint='ten.pkl', classes=FEWER), ten)
    output = tested('evaluate.py', checkpoint='two.pkl', code=None)
    assert f"two.pkl has {FEWER}" in output and f'data.test has {NAMES}' in output


def test_a_submission_of_fewer_classes_has_their_names(tested):
    tested('test.py', '--format-only', '--eval-options', f'jsonfile_prefix={tested.folder}/formatted', classes=FEWER)
    boxes = json.loads((tested.folder / 'formatted/pts_bbox/results_nusc.json').read_text())['results'].values()
    assert {box['detection_name'] for sample in boxes for box in sample} == set(FEWER)


def test_robustness_with_fewer_classes(tested, scores):
    output = tested('test_robustness.py', '--cases', 'clean', '--out', 'robustness', classes=FEWER)
    row, = json.loads((tested.folder / 'robustness/robustness.json').read_text())['cases']
    assert row['mAP'] == pytest.approx(metrics(scores[1])['mAP'], abs=1e-4)
    assert output.count('evaluated on 2 of 10 classes') == 1


def test_the_demo_names_fewer_classes_right(tested):
    written = {}
    for classes in (None, FEWER):
        tested('demo.py', '--sample', '0', '--out', 'demo', '--score-thr', '0', classes=classes)
        written[bool(classes)] = json.loads((tested.folder / 'demo/frame_000_detections.json').read_text())
    expected = [box for box in written[False]['detections'] if box['label'] in FEWER]
    assert written[True]['detections'] == expected and len({box['label'] for box in expected}) == 2


def test_a_report_with_fewer_classes(tested):
    output = tested('visualize_bias.py', '--sample', '0', '--out', 'report', classes=FEWER,
                    config='cmt_aqr_synthetic.py')
    assert 'data.test has 2 of the 10 classes of the model' in output


@pytest.mark.parametrize('tool, arguments', [
    ('test.py', ['--eval', 'bbox', '--out', 'refused.pkl']),
    ('test_robustness.py', ['--cases', 'clean', '--out', 'refused']),
    ('demo.py', ['--sample', '0', '--out', 'refused']), ('visualize_bias.py', ['--sample', '0', '--out', 'refused'])])
@pytest.mark.parametrize('classes', OTHERS.values(), ids=OTHERS)
def test_other_classes_are_refused_by_every_tool(tested, tool, arguments, classes):
    config = 'cmt_aqr_synthetic.py' if tool == 'visualize_bias.py' else 'cmt_synthetic.py'
    output = tested(tool, *arguments, classes=classes, config=config, code=None)
    unknown_to_nuscenes = tool == 'test.py' and 'tram' in classes
    assert ("nuScenes has no annotations of the classes ['tram']" if unknown_to_nuscenes else
            f"data.test has {classes}") in output
    assert unknown_to_nuscenes or f'has {NAMES}' in output
    assert not list(tested.folder.glob('refused*'))


def test_an_untrained_demo_compares_its_classes_too(run_tool, repo_root, synthetic_nuscenes, tmp_path):
    output = run_tool('demo.py', repo_root / 'configs/cmt_synthetic.py', '--sample', '0', '--out', 'out',
                      '--cfg-options', f'data.test.data_root={synthetic_nuscenes}/',
                      f'data.test.ann_file={synthetic_nuscenes / "nuscenes_infos_val.pkl"}',
                      'data.test.classes=[truck,car]', cwd=tmp_path, code=None)
    assert "data.test has ['truck', 'car']" in output and not (tmp_path / 'out').exists()


@pytest.fixture
def training(repo_root, synthetic_nuscenes, tmp_path):
    """Config of an epoch of two samples that moves no weight of the baseline, and its evaluation."""
    options = {f'data.{split}.{key}': value for split, name in (('train', 'train'), ('val', 'val'), ('test', 'val'))
               for key, value in dict(data_root=f'{synthetic_nuscenes}/',
                                      ann_file=str(synthetic_nuscenes / f'nuscenes_infos_{name}.pkl')).items()}
    return load_config(repo_root / 'configs/cmt_synthetic.py', {
        **options, 'total_epochs': 1, 'evaluation.interval': 1, 'optimizer.lr': 1e-9, 'data.train.load_interval': 8,
        'data.workers_per_gpu': 0, 'load_from': str(repo_root / 'checkpoints/cmt_synthetic.pth'),
        'work_dir': str(tmp_path / 'work')})


def test_training_evaluates_fewer_classes(training, tmp_path, capsys):
    training.data.val.classes = FEWER
    train_detector(training, 'tiny.py', seed=0)
    log, = (tmp_path / 'work').glob('*.log.json')
    found = json.loads(log.read_text().splitlines()[-1])
    training.data.test.classes = FEWER
    expected = run_test(training, str(tmp_path / 'work/latest.pth'), metrics=['bbox'], seed=0)
    assert found['mode'] == 'val' and found['pts_bbox_NuScenes/mAP'] == pytest.approx(
        expected['pts_bbox_NuScenes/mAP'], abs=1e-3)
    assert 'evaluations will be on 2 of 10 classes' in next((tmp_path / 'work').glob('*.log')).read_text()
    assert f'evaluated on 2 of 10 classes, over which the means go: {FEWER}' in capsys.readouterr().out


@pytest.mark.parametrize('split, workflow, message', [
    ('train', 1, f"model.pts_bbox_head has {NAMES}, data.train has {FEWER}"),
    ('val', 2, f'data.val has {FEWER}, data.train has {NAMES}')])
def test_training_on_fewer_classes_than_the_head_has_is_refused(training, tmp_path, split, workflow, message):
    """Labels of the ground truth are positions among the classes of their data; losses on data.val need them, too."""
    training.data[split].classes = FEWER
    training.workflow = [('train', 1), ('val', 1)][:workflow]
    with pytest.raises(ValueError) as error:
        train_detector(training, 'tiny.py', seed=0)
    assert message in str(error.value)
    assert not (tmp_path / 'work').exists()


def test_the_names_here_are_those_of_the_head(training):
    assert head_classes(build_model(training.model)) == NAMES
    assert list(build_dataset(training.data.val).CLASSES) == NAMES
