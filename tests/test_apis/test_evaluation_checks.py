import json
from types import SimpleNamespace

import pytest
from mmdet3d.datasets import NuScenesDataset
from nuscenes.eval.detection.config import config_factory

from projects.mmdet3d_plugin.apis.evaluation_checks import check_best_metric, check_box_limit, check_evaluation
from projects.mmdet3d_plugin.apis.test import most_boxes
from projects.mmdet3d_plugin.datasets import CustomNuScenesDataset, FrameFolderDataset
from tests.tiny_nuscenes import CLASSES, SCENES


@pytest.fixture
def build(tmp_path):
    """Make a dataset that has what the checks read of it, and tables with two samples in mini_val and one beside."""
    scenes = [dict(token=name, name=name) for name in (*SCENES, 'scene-0061')]
    samples = [dict(token=f'sample {scene["name"]}', scene_token=scene['token']) for scene in scenes]
    (tmp_path / 'v1.0-mini').mkdir()
    for name, rows in (('scene', scenes), ('sample', samples)):
        (tmp_path / 'v1.0-mini' / f'{name}.json').write_text(json.dumps(rows))

    def build(cls=CustomNuScenesDataset, scenes=SCENES, classes=CLASSES, version='v1.0-mini'):
        dataset = cls.__new__(cls)
        dataset.__dict__.update(
            data_root=str(tmp_path), ann_file='infos.pkl', version=version, CLASSES=classes,
            data_infos=[dict(token=f'sample {scene}') for scene in scenes],
            eval_detection_configs=config_factory('detection_cvpr_2019'))
        return dataset

    return build


def test_what_is_left_out_is_said(build):
    assert check_evaluation(build()) == check_evaluation(build(NuScenesDataset)) == check_evaluation(object()) == ''
    assert check_evaluation(build(scenes=SCENES[:1])) == '1 samples, not the 2 of mini_val'
    assert check_evaluation(build(classes=('car', 'bus'))) == '2 of 10 classes'


@pytest.mark.parametrize('changes, message', [
    (dict(version='v1.0-test'), 'infos.pkl is of v1.0-test, which has no annotations'),
    (dict(version='v1.0-custom'), r"info file infos.pkl is of v1.0-custom, a metadata.version that the "
     r"evaluation does not know; allowed: \['v1.0-mini', 'v1.0-trainval'\]. If its .*create_data.py --version"),
    (dict(version='v1.0'), 'infos.pkl is of v1.0, a metadata.version that the evaluation does not know'),
    (dict(classes=('car', 'tram')), r"nuScenes has no annotations of the classes \['tram'\]; allowed: \['car'"),
    (dict(scenes=[*SCENES, 'elsewhere']), '1 of 3 samples in infos.pkl are not in the tables of v1.0-mini'),
    (dict(cls=NuScenesDataset, scenes=SCENES[:1]), 'NuScenesDataset evaluates whole splits with all classes'),
])
def test_what_cannot_be_evaluated(build, changes, message):
    with pytest.raises(ValueError, match=message):
        check_evaluation(build(**changes))


def test_tables_that_are_not_there(build):
    with pytest.raises(FileNotFoundError, match='v1.0-trainval lacks scene.json, sample.json'):
        check_evaluation(build(version='v1.0-trainval'))


def test_more_boxes_than_nuscenes_accepts(build):
    model = SimpleNamespace(pts_bbox_head=SimpleNamespace(bbox_coder=SimpleNamespace(max_num=501)))
    with pytest.raises(ValueError, match='bbox_coder.max_num is 501, but nuScenes accepts at most 500'):
        check_box_limit(build(), *most_boxes(model))
    model.pts_bbox_head.bbox_coder.max_num = 500
    check_box_limit(build(), *most_boxes(model))
    check_box_limit(build(), *most_boxes(SimpleNamespace()))
    check_box_limit(object(), 501, '')


@pytest.mark.parametrize('metric', ['mAP', 'auto', 'pts_bbox_NuScenes/car_AP_dist_0.5'])
def test_a_best_metric_that_no_evaluation_gives(build, metric):
    with pytest.raises(ValueError, match=f"save_best='{metric}': allowed .*'pts_bbox_NuScenes/NDS'"):
        check_best_metric(build(), metric)
    with pytest.raises(ValueError, match=f"save_best='{metric}': allowed .*'recall'"):
        check_best_metric(FrameFolderDataset.__new__(FrameFolderDataset), metric)
    check_best_metric(object(), metric)


def test_best_metrics(build):
    for metric in (None, 'pts_bbox_NuScenes/NDS', 'pts_bbox_NuScenes/mAP'):
        check_best_metric(build(), metric)
