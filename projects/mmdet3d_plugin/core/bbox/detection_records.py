"""Detections as plain values for JSON."""
import math


def detection_records(detections, classes):
    """Detections as plain values for JSON; the frame is LiDAR's: x to the right, y forward, z up.

    Args:
        detections (dict): `boxes_3d` (D boxes of 7 or 9 numbers), `scores_3d` (D,) and `labels_3d` (D,).
        classes (Sequence[str]): names of the labels.

    Returns:
        list[dict]: D records, in the order given.
    """
    boxes = detections['boxes_3d']
    return [
        dict(
            label=classes[label],
            score=score,
            center=center,  # gravity center, m
            size=size,  # length, width, height, m
            yaw=yaw,  # rad, from +x toward +y
            velocity=[value if math.isfinite(value) else None for value in velocity] or None)  # m/s; unknown: null
        for label, score, center, size, yaw, velocity in zip(
            detections['labels_3d'].tolist(), detections['scores_3d'].tolist(), boxes.gravity_center.tolist(),
            boxes.dims.tolist(), boxes.yaw.tolist(), boxes.tensor[:, 7:9].tolist())
    ]
