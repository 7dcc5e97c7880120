"""Evaluation of a part of the samples, of some classes, and of too many boxes, on the tiny nuScenes set."""
import math

import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes

from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset
from projects.mmdet3d_plugin.evaluation.detection_matches import weighted_scores
from projects.mmdet3d_plugin.evaluation.nuscenes_evaluator import NuScenesEvaluator
from projects.mmdet3d_plugin.evaluation.nuscenes_scores import ERRORS, nuscenes_scores
from tests.tiny_nuscenes import BOXES, CLASSES, write_tiny_nuscenes

PREFIX = 'pts_bbox_NuScenes'


@pytest.fixture
def build(tmp_path):
    write_tiny_nuscenes(tmp_path)
    infos = str(tmp_path / 'data/nuscenes_infos_val.pkl')
    return lambda **kwargs: CustomNuScenesDataset(
        infos, data_root=str(tmp_path / 'data'), test_mode=True, **{**dict(classes=CLASSES), **kwargs},
        modality=dict(use_camera=True, use_lidar=True, use_radar=False, use_map=False, use_external=False))


def perfect(dataset, copies=1):
    """Every box of every class of the dataset, as many times as asked."""
    names = [name for name in CLASSES if name in dataset.CLASSES]
    rows = torch.as_tensor(BOXES)[[CLASSES.index(name) for name in names]].repeat(copies, 1)
    labels = torch.as_tensor([dataset.CLASSES.index(name) for name in names]).repeat(copies)
    return [dict(pts_bbox=dict(
        boxes_3d=LiDARInstance3DBoxes(rows.clone(), box_dim=9, origin=(0.5, 0.5, 0.5)), labels_3d=labels,
        scores_3d=torch.ones(len(labels)))) for _ in range(len(dataset))]


def evaluations(dataset, results):
    """Both ways to evaluate: the dataset's, rounded, and the evaluator's."""
    return dataset.evaluate(results), NuScenesEvaluator(dataset).evaluate(results)[0]


def test_the_whole_set_is_nothing_to_say(build, capsys):
    for metrics in evaluations(build(), perfect(build())):
        assert metrics[f'{PREFIX}/mAP'] == pytest.approx(1)
    assert 'evaluated on' not in capsys.readouterr().out


def test_a_part_of_the_samples(build, capsys):
    dataset = build(load_interval=2)
    for metrics in evaluations(dataset, perfect(dataset)):
        assert metrics[f'{PREFIX}/mAP'] == pytest.approx(1)
    text = capsys.readouterr().out
    assert text.count('evaluated on 1 samples, not the 2 of mini_val; other results do not compare') == 2


def test_some_classes_in_another_order(build, capsys):
    dataset = build(classes=('bus', 'car', 'traffic_cone'))
    results = perfect(dataset)
    for result in results:  # no bus is found
        found = result['pts_bbox']
        kept = found['labels_3d'] != 0
        result['pts_bbox'] = {key: value[kept] for key, value in found.items()}
    for metrics in evaluations(dataset, results):
        assert metrics[f'{PREFIX}/mAP'] == pytest.approx(2 / 3)
        assert metrics[f'{PREFIX}/bus_AP_dist_2.0'] == 0 and metrics[f'{PREFIX}/car_AP_dist_2.0'] == pytest.approx(1)
        assert f'{PREFIX}/truck_AP_dist_2.0' not in metrics
        scores = nuscenes_scores(metrics)
        assert scores['AP car'] == pytest.approx(1) and scores['AP truck'] != scores['AP truck']
        assert scores['AP large'] == 0 and scores['AP small'] == pytest.approx(1)
    assert '3 of 10 classes, over which the means go' in capsys.readouterr().out


@pytest.mark.parametrize('classes, missing', [
    (['traffic_cone'], ['mAOE', 'mAVE', 'mAAE']), (['barrier', 'traffic_cone'], ['mAVE', 'mAAE'])])
def test_errors_that_no_class_has_count_as_one(build, classes, missing, capsys):
    """As in the devkit, whose max(0, 1 - NaN) is 0; perfect boxes do not reach NDS 1 then, which must be said."""
    dataset = build(classes=classes)
    found = perfect(dataset)
    for metrics in evaluations(dataset, found):
        assert metrics[f'{PREFIX}/mAP'] == pytest.approx(1)
        assert metrics[f'{PREFIX}/NDS'] == pytest.approx(1 - len(missing) / 10)
        assert [name for name in ERRORS if math.isnan(metrics[f'{PREFIX}/{name}'])] == missing
    matches = NuScenesEvaluator(dataset).evaluate(found)[1]
    assert weighted_scores(matches, np.ones((1, len(dataset)), dtype=int))['NDS'] == pytest.approx(
        1 - len(missing) / 10)
    assert capsys.readouterr().out.count(f'(none of them has {", ".join(missing)}: NDS counts them as 1)') == 3


def test_too_many_boxes_are_named(build):
    dataset = build()
    token = dataset.data_infos[0]['token']
    for evaluate in (dataset.evaluate, NuScenesEvaluator(dataset).evaluate):
        with pytest.raises(ValueError, match=f"allows 500 detections in a sample, sample '{token}' has 510.*max_num"):
            evaluate(perfect(dataset, copies=51))


@pytest.mark.parametrize('options', [{}, dict(load_interval=2)])
def test_no_detections_at_all(build, options):
    dataset = build(**options)
    results = [dict(pts_bbox={key: value[:0] for key, value in result['pts_bbox'].items()})
               for result in perfect(dataset)]
    for metrics in evaluations(dataset, results):
        assert metrics == {f'{PREFIX}/NDS': 0, f'{PREFIX}/mAP': 0}


def test_samples_that_the_tables_lack_are_named(build):
    dataset = build()
    dataset.data_infos[1]['token'] = 'unknown'
    with pytest.raises(ValueError, match="1 of 2 samples of .*nuscenes_infos_val.pkl are not in the tables.*'unknown'"):
        dataset.evaluate(perfect(dataset))


def test_samples_that_an_info_file_has_twice_count_once(build):
    dataset = build()
    dataset.data_infos = dataset.data_infos * 2
    for metrics in evaluations(dataset, perfect(dataset)):
        assert metrics[f'{PREFIX}/mAP'] == pytest.approx(1)


def test_an_own_version_is_named_with_the_known_ones(build, tmp_path):
    dataset = build()
    (tmp_path / 'data/v1.0-mini').rename(tmp_path / 'data/v1.0-custom')
    dataset.version = 'v1.0-custom'
    for evaluate in (lambda: NuScenesEvaluator(dataset), lambda: dataset.evaluate(perfect(dataset))):
        with pytest.raises(ValueError, match=r"is of v1.0-custom, a metadata.version that the evaluation does not "
                           r"know; allowed: \['v1.0-mini', 'v1.0-trainval'\]. If its .* correct metadata.version"):
            evaluate()
