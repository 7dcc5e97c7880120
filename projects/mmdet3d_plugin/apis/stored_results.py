"""Detections of a whole data set in a file, and whether such a file is of a data set and as it was written."""
import mmcv
import torch
from mmdet3d.core.bbox import BaseInstance3DBoxes

from ..core.bbox.class_selection import select_classes
from ..utils.atomic_file import atomic_path
from ..utils.restricted_pickle import load_pickle
from .class_names import check_same_classes, has_fewer_classes
from .evaluation_checks import check_box_limit

_KEYS = 'boxes_3d', 'scores_3d', 'labels_3d'


def write_results(dataset, detections, path):
    """Write detections with the names of their classes and samples.

    Args:
        dataset (Dataset): what was tested.
        detections (list[dict]): one entry a sample; gets `class_names` and `sample` beside its boxes.
        path (str): pickle file.
    """
    names, tokens = list(dataset.CLASSES), _tokens(dataset)
    for index, entry in enumerate(detections):
        for part in _parts(entry):
            if 'boxes_3d' in part:
                part.update(class_names=names, **(dict(sample=tokens[index]) if tokens else {}))
    with atomic_path(path) as temporary:
        mmcv.dump(detections, str(temporary))


def load_results(dataset, path, trust_data=False):
    """Read what `write_results` wrote; labels become positions among the classes of the dataset.

    Args:
        dataset (Dataset): what will evaluate; it may have fewer classes than the detections.
        path (str): pickle file.
        trust_data (bool): read a file that holds more than boxes, tensors and plain values, which runs any code in it.

    Returns:
        list[dict]: one entry a sample.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read or may run code, has not one entry for each sample in their order, more boxes,
            labels or other classes than the dataset knows, or numbers that no detection has.
    """
    detections = load_pickle(path, 'file of detections', trust_data, with_boxes=True, permission='--trust-data')
    if not isinstance(detections, list) or len(detections) != len(dataset):
        number = len(detections) if isinstance(detections, list) else f'a {type(detections).__name__} and not a list'
        raise ValueError(f'{path} must have one entry for each of the {len(dataset)} samples of data.test, has '
                         f'{number}')
    tokens = _tokens(dataset)
    for index, entry in enumerate(detections):
        entry = entry if isinstance(entry, dict) else {}
        parts = _parts(entry)
        if not parts or not all(set(_KEYS) <= set(part) for part in parts):
            raise ValueError(f'{path}: entry {index} has no boxes_3d, scores_3d and labels_3d, it has {list(entry)}')
        for part in parts:
            _check_entry(dataset, part, f'{path}: entry {index}', tokens[index] if tokens else None)
    _fit_classes(dataset, detections, path)
    return detections


def _tokens(dataset):
    """Names of the samples of a dataset in its order, None of one that has none."""
    infos = getattr(dataset, 'data_infos', None) or []
    tokens = [info.get('token', info.get('sample_idx')) for info in infos if isinstance(info, dict)]
    return tokens if len(tokens) == len(dataset) and None not in tokens else None


def _parts(entry):
    """What has boxes in the detections of one sample: the dict itself or dicts in it."""
    if not isinstance(entry, dict):
        return []
    return [entry] if 'boxes_3d' in entry else [part for part in entry.values() if isinstance(part, dict)]


def _check_entry(dataset, part, where, token):
    """Raise ValueError where the boxes of one sample are not such as a test writes."""
    if token is not None and part.get('sample', token) != token:
        raise ValueError(f'{where} is of sample {part["sample"]!r}, data.test has {token!r} there: give the config and '
                         'the options that it was tested with')
    boxes, scores, labels = (part[key] for key in _KEYS)
    if not isinstance(boxes, BaseInstance3DBoxes) or not all(isinstance(one, torch.Tensor) for one in (scores, labels)):
        raise ValueError(f'{where} must have boxes of mmdetection3d and tensors, has '
                         f'{[type(one).__name__ for one in (boxes, scores, labels)]}')
    if not len(boxes) == len(scores) == len(labels):
        raise ValueError(f'{where} has {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels')
    check_box_limit(dataset, len(boxes), f'{where.replace(": entry", ": the number of boxes in entry")}')
    source = 'its class_names are' if 'class_names' in part else 'data.test has'
    names = list(part.get('class_names', dataset.CLASSES))
    if len(labels) and not 0 <= int(min(labels)) <= int(max(labels)) < len(names):
        raise ValueError(f'{where} has labels from {int(min(labels))} to {int(max(labels))}, {source} the {len(names)} '
                         f'classes {names}')
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ValueError(f'{where} has scores that are not in [0, 1]')
    if not bool(torch.isfinite(boxes.tensor).all()) or not bool((boxes.tensor[:, 3:6] > 0).all()):
        raise ValueError(f'{where} has boxes with numbers that are not finite or sizes that are not above 0')


def _fit_classes(dataset, detections, origin):
    """Make labels positions among the classes of a dataset, which may have fewer; raises for other classes."""
    for part in (part for entry in detections for part in _parts(entry) if 'class_names' in part):
        own = list(part['class_names'])
        if not has_fewer_classes(dataset.CLASSES, own):
            check_same_classes({origin: own, 'data.test': dataset.CLASSES})
            continue
        part.update(zip(_KEYS, select_classes(*(part[key] for key in _KEYS), own, dataset.CLASSES)),
                    class_names=dataset.CLASSES)
