"""What the devkit's AP of a whole set hides: per class at each threshold and range, and precision against recall."""
import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes

from .detection_matches import RECALL_DISTANCE, average_precisions, match_detections

RANGES = ((0, 20), (20, 30), (30, 50))  # m from the ego vehicle; nuScenes evaluates no class beyond 50 m


def precision_table(gt_boxes, pred_boxes, class_names, ranges=RANGES):
    """AP of every class at the devkit's four thresholds, and by distance to the ego vehicle.

    Args:
        gt_boxes, pred_boxes (EvalBoxes): see `match_detections`; with `ego_translation`, as `DatasetEvaluation` has
            them.
        class_names (Sequence[str]): classes to evaluate.
        ranges (Sequence[tuple[float, float]]): nearest and farthest distance, m. Truth and detections of a range are
            matched by themselves: a detection across its border counts as false.

    Returns:
        list[dict]: one row a class and one of their mean: `class`, `boxes` of the truth, `AP` (mean over thresholds),
        `AP@0.5 m` and so on, and `AP 0-20 m` and so on, NaN where a range has no truth. The mean over classes leaves
        NaN out.
    """
    matches = match_detections(gt_boxes, pred_boxes, class_names)
    by_threshold = average_precisions(matches)  # (C, T)
    columns = {f'AP@{distance:g} m': by_threshold[:, number] for number, distance in enumerate(matches.distances)}
    for low, high in ranges:
        near = match_detections(_within(gt_boxes, low, high), _within(pred_boxes, low, high), class_names)
        has_truth = near.num_gt.sum(axis=0) > 0
        columns[f'AP {low:g}-{high:g} m'] = np.where(has_truth, average_precisions(near).mean(axis=1), np.nan)
    columns = {'AP': by_threshold.mean(axis=1), **columns}
    count = matches.num_gt.sum(axis=0)
    rows = [dict({'class': name, 'boxes': int(count[label])}, **{key: float(values[label])
                                                                 for key, values in columns.items()})
            for label, name in enumerate(class_names)]
    means = {key: float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float('nan')
             for key, values in columns.items()}
    return [*rows, {'class': 'mean', 'boxes': int(count.sum()), **means}]


def precision_recall(matches, distance=RECALL_DISTANCE):
    """Precision against recall of every class, detection by detection.

    Args:
        matches (DetectionMatches): of C classes.
        distance (float): threshold of the center distance, m, one of theirs.

    Returns:
        dict[str, tuple[ndarray, ndarray]]: class -> recall and precision after each detection, (d,) each, by descending
        score; classes without truth are left out.

    Raises:
        ValueError: another distance.
    """
    if distance not in matches.distances:
        raise ValueError(f'distance must be one of {matches.distances.tolist()} m, got {distance}')
    is_tp = matches.is_tp[:, np.flatnonzero(matches.distances == distance)[0]]
    curves = {}
    for label, count in enumerate(matches.num_gt.sum(axis=0)):
        if count:
            hits = np.cumsum(is_tp[matches.label == label])
            curves[str(matches.class_names[label])] = hits / count, hits / np.arange(1, len(hits) + 1)
    return curves


def _within(boxes, low, high):
    """The boxes of all samples whose distance to the ego vehicle is in [low, high)."""
    kept = EvalBoxes()
    for token in boxes.sample_tokens:
        kept.add_boxes(token, [box for box in boxes[token] if low <= box.ego_dist < high])
    return kept
