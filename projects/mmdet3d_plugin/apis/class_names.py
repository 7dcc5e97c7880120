"""Class names of checkpoints, heads and data. A label is a position among them: all must name the same in one order."""


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
