import numpy as np
import pytest
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.data_classes import DetectionBox

from projects.mmdet3d_plugin.evaluation.detection_matches import match_detections
from projects.mmdet3d_plugin.evaluation.precision_tables import precision_recall, precision_table


def boxes(*rows):
    """EvalBoxes of one sample from (class, distance ahead in m, score); the vehicle stands at x = 100 m."""
    kept = EvalBoxes()
    kept.add_boxes('sample', [
        DetectionBox(sample_token='sample', translation=(100.0 + ahead, 0.0, 1.0), ego_translation=(ahead, 0.0, 1.0),
                     size=(1.0, 1.0, 1.0), rotation=(1.0, 0.0, 0.0, 0.0), velocity=(0.0, 0.0), detection_name=name,
                     detection_score=score) for name, ahead, score in rows])
    return kept


TRUTH = boxes(('car', 10.0, -1.0), ('car', 25.0, -1.0), ('bus', 25.0, -1.0), ('car', 19.0, -1.0))
FOUND = boxes(('car', 10.0, 0.9), ('car', 40.0, 0.8), ('car', 25.7, 0.7), ('car', 20.5, 0.6))


def test_precision_after_each_detection():
    """A hit, a miss, two hits of three cars; the bus is not found, and there is no bicycle."""
    curves = precision_recall(match_detections(TRUTH, FOUND, ['car', 'bus', 'bicycle']))
    recall, precision = curves['car']
    np.testing.assert_allclose(recall, [1 / 3, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 3 / 4])
    assert len(curves['bus'][0]) == 0 and 'bicycle' not in curves


def test_another_threshold():
    matches = match_detections(TRUTH, FOUND, ['car'])
    np.testing.assert_allclose(precision_recall(matches, 0.5)['car'][1], [1, 1 / 2, 1 / 3, 1 / 4])
    with pytest.raises(ValueError, match='distance must be one of .0.5, 1.0, 2.0, 4.0. m, got 3'):
        precision_recall(matches, 3)


def test_ranges_are_matched_by_themselves():
    car, bus, mean = precision_table(TRUTH, FOUND, ['car', 'bus'])
    assert (car['boxes'], bus['boxes'], mean['boxes']) == (3, 1, 4)
    # Near: of the cars at 10 and 19 m the first is found. Then: the one at 25 m, ahead of the false one at 20.5 m, from
    # 1 m on. Far there is a detection, but no car.
    assert 0 < car['AP 0-20 m'] < 0.6 and car['AP 20-30 m'] == pytest.approx(3 / 4, abs=0.01)
    assert np.isnan(car['AP 30-50 m']) and np.isnan(mean['AP 30-50 m'])
    assert bus['AP'] == bus['AP 20-30 m'] == 0 and np.isnan(bus['AP 0-20 m'])
    assert mean['AP 0-20 m'] == car['AP 0-20 m'] and mean['AP'] == pytest.approx(car['AP'] / 2)
    assert car['AP@0.5 m'] < car['AP@1 m'] < car['AP@2 m'] == car['AP@4 m']
    assert car['AP'] == pytest.approx(np.mean([car[f'AP@{distance} m'] for distance in ('0.5', '1', '2', '4')]))
