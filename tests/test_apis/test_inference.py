import json
import math

import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes

from projects.mmdet3d_plugin.apis.inference import above_threshold, detect, write_detections
from tests.tiny_detector import TinyDataset, TinyDetector


def detections(box_dim=9):
    boxes = torch.tensor([[1., 2, 3, 4, 2, 1.5, 0.5, 6, 7], [10, 20, 0, 1, 1, 2, -0.5, math.nan, 0]])[:, :box_dim]
    return dict(boxes_3d=LiDARInstance3DBoxes(boxes, box_dim=box_dim), scores_3d=torch.tensor([0.25, 0.5]),
                labels_3d=torch.tensor([1, 0]), attrs_3d=torch.zeros(2))


def test_above_threshold_includes_it_and_sorts():
    best = above_threshold(detections(), 0.25)
    assert best['scores_3d'].tolist() == [0.5, 0.25] and best['labels_3d'].tolist() == [0, 1]
    assert best['boxes_3d'].tensor[:, 0].tolist() == [10, 1]
    assert above_threshold(detections(), 0.3)['labels_3d'].tolist() == [0]
    assert len(above_threshold(detections(), 0.6)['boxes_3d']) == 0


@pytest.mark.parametrize('box_dim', [7, 9])
def test_written_detections(tmp_path, box_dim):
    write_detections(tmp_path / 'found.json', detections(box_dim), ['car', 'bus'], score_thr=0.1)
    content = json.loads((tmp_path / 'found.json').read_text())
    first, second = content['detections']
    assert content['score_thr'] == 0.1
    assert first == dict(label='bus', score=0.25, center=[1, 2, 3.75], size=[4, 2, 1.5], yaw=0.5,
                         velocity=[6, 7] if box_dim == 9 else None)
    assert second['label'] == 'car' and second['velocity'] == ([None, 0] if box_dim == 9 else None)


def test_detect_goes_over_all_samples_in_order():
    model, dataset = TinyDetector().eval(), TinyDataset(3, test_mode=True)
    for index, (sample, found, seconds) in enumerate(detect(model, dataset)):
        assert sample['img_metas'][0].data['index'] == index
        points = dataset[index]['points'][0].data
        assert found['scores_3d'] == pytest.approx(model.extract_feat([points]).sigmoid().item()) and seconds > 0
    assert index == 2
