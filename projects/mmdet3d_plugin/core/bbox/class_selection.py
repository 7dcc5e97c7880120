"""Detections of some of the classes that a detector knows."""


def select_classes(boxes, scores, labels, own, kept):
    """Leave out detections of other classes, and count labels among those that are kept.

    Args:
        boxes (BaseInstance3DBoxes | torch.Tensor): N boxes.
        scores, labels (torch.Tensor): (N,) each; labels are positions in `own`.
        own (Sequence[str]): classes of the detector.
        kept (Sequence[str]): classes that remain, the new labels are positions among them.

    Returns:
        tuple: boxes, scores and labels of M <= N detections, in the order given.
    """
    places = {name: place for place, name in enumerate(kept)}
    labels = labels.new_tensor([places.get(name, -1) for name in own])[labels]
    remains = labels >= 0
    return boxes[remains], scores[remains], labels[remains]
