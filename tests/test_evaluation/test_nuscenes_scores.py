import pytest

from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset
from projects.mmdet3d_plugin.evaluation.nuscenes_scores import CLASSES, nuscenes_scores

PREFIX = 'pts_bbox_NuScenes/'


def metrics_of(ap):
    """Metrics as the dataset returns them, `ap(class name, distance)`."""
    metrics = {f'{PREFIX}{name}_AP_dist_{distance}': ap(name, distance)
               for name in CLASSES for distance in (0.5, 1.0, 2.0, 4.0)}
    errors = {PREFIX + name: 0.1 * i for i, name in enumerate(CustomNuScenesDataset.ErrNameMapping.values())}
    return {**metrics, **errors, f'{PREFIX}NDS': 0.7, f'{PREFIX}mAP': 0.6}


def test_means_over_classes_distances_and_sizes():
    scores = nuscenes_scores(metrics_of(lambda name, d: d / 4 if name in ('car', 'bus', 'bicycle') else 0.0))
    assert (scores['mAP'], scores['NDS'], scores['mATE'], scores['mAAE']) == (0.6, 0.7, 0.0, 0.4)
    assert scores['AP car'] == pytest.approx(7.5 / 16) and scores['AP truck'] == 0
    assert scores['AP at 0.5 m'] == pytest.approx(0.3 / 8) and scores['AP at 4 m'] == pytest.approx(0.3)
    assert scores['AP small'] == pytest.approx(7.5 / 16 / 5)
    assert scores['AP medium'] == pytest.approx(7.5 / 16)
    assert scores['AP large'] == pytest.approx(7.5 / 16 / 4)
    assert set(CLASSES) == set(CustomNuScenesDataset.CLASSES)


def test_no_detections_at_all():
    """As the devkit: a class without detections has AP 0 and errors 1."""
    scores = nuscenes_scores({f'{PREFIX}NDS': 0.0, f'{PREFIX}mAP': 0.0})
    assert {name for name, value in scores.items() if value} == {'mATE', 'mASE', 'mAOE', 'mAVE', 'mAAE'}
    assert set(scores) == set(nuscenes_scores(metrics_of(lambda name, d: 1.0)))


def test_metrics_of_something_else():
    with pytest.raises(ValueError, match="not the metrics of a nuScenes dataset: .'recall'"):
        nuscenes_scores(dict(recall=1.0))
    metrics = metrics_of(lambda name, d: 1.0)
    del metrics[f'{PREFIX}bus_AP_dist_2.0']
    with pytest.raises(ValueError, match='lack .*bus_AP_dist_2.0'):
        nuscenes_scores(metrics)
