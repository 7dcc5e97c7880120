"""Class names of checkpoints, heads and data. A label is a position among them: all must name the same in one order.

Data to detect in may have fewer classes than the model: then its detections of the others are left out.
"""
from mmcv.runner import get_dist_info


def head_classes(model):
    """Class names of a detector's head through all of its tasks, None where it names none.

    Args:
        model (nn.Module): without wrapper.
    """
    names = getattr(getattr(model, 'pts_bbox_head', None), 'class_names', None)
    return None if names is None else [name for task in names for name in ([task] if isinstance(task, str) else task)]


def checkpoint_classes(checkpoint):
    """Class names that training wrote into a checkpoint, None where it has none.

    Args:
        checkpoint (dict): from `read_checkpoint`.
    """
    return (checkpoint.get('meta') or {}).get('CLASSES')


def check_same_classes(sources):
    """Raise ValueError where two sources name other classes, or the same in another order, and list both.

    Args:
        sources (dict[str, Sequence[str] | str | None]): class names by their origin; None names none.
    """
    named = {origin: [names] if isinstance(names, str) else list(names)
             for origin, names in sources.items() if names is not None}
    for origin, names in named.items():
        first, expected = next(iter(named.items()))
        if names != expected:
            relation = 'the same classes in another order' if sorted(names) == sorted(expected) else 'other classes'
            raise ValueError(f'{origin} and {first} name {relation}, but labels are positions among them: {origin} has '
                             f'{names}, {first} has {expected}')


def has_fewer_classes(data, own):
    """Whether data has some of the classes of a model, not all, in the model's order.

    Args:
        data, own (Sequence[str] | None): class names; None names none.
    """
    return bool(data) and own is not None and len(data) < len(own) and list(data) == [
        name for name in own if name in data]


def report_classes_of_data(model, data, names, trained):
    """Have a detector report the classes of the data that it will meet, where these are fewer; a line says so then.

    Args:
        model (nn.Module): without wrapper; a head without `report_classes`, as others than CMT's, takes no fewer.
        data (str): what names the classes, 'data.test'.
        names (Sequence[str] | str | None): the classes.
        trained (dict): what the model was trained for, its origin -> class names, None where unknown.

    Raises:
        ValueError: other classes than the model's, or in another order; lists both.
    """
    own = head_classes(model)
    if not (hasattr(getattr(model, 'pts_bbox_head', None), 'report_classes') and has_fewer_classes(names, own)):
        check_same_classes({data: names, **trained, 'model.pts_bbox_head': own})
        return
    model.pts_bbox_head.report_classes(names)
    if get_dist_info()[0] == 0:
        print(f'Note: {data} has {len(names)} of the {len(own)} classes of the model: detections of '
              f'{[name for name in own if name not in names]} are left out')
