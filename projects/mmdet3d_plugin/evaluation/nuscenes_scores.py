"""nuScenes metrics as one row of numbers per test, and several such rows as a table."""
import math

SIZE_GROUPS = dict(
    small=('pedestrian', 'traffic_cone', 'bicycle', 'motorcycle', 'barrier'),
    medium=('car', ),
    large=('truck', 'bus', 'trailer', 'construction_vehicle'))
CLASSES = tuple(name for group in SIZE_GROUPS.values() for name in group)
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # m between centers, the thresholds of nuScenes' AP
ERRORS = dict(mATE='m', mASE='1 - IoU', mAOE='rad', mAVE='m/s', mAAE='1 - acc')
CAPTION = ('AP by class, by center distance and by size are means over the other two; '
           + '; '.join(f'{size}: {", ".join(names)}' for size, names in SIZE_GROUPS.items()) + '.')
_PREFIX = 'pts_bbox_NuScenes/'


def nuscenes_scores(metrics):
    """The numbers that comparisons print.

    Args:
        metrics (dict): from `CustomNuScenesDataset.evaluate`. With NDS and mAP alone (no sample has any detection) all
            AP are 0 and all errors 1, as the devkit defines them for a class without detections. Classes that were not
            evaluated have NaN and count in no mean.

    Returns:
        dict[str, float]: mAP, NDS, the five mean errors, AP per class, per distance (mean over classes) and per size
        (mean over the classes of `SIZE_GROUPS`).

    Raises:
        ValueError: these are not metrics of nuScenes' classes.
    """
    if not {f'{_PREFIX}NDS', f'{_PREFIX}mAP'} <= set(metrics):
        raise ValueError(f'not the metrics of a nuScenes dataset: {sorted(metrics)[:5]}')
    found = len(metrics) > 2
    keys = {(name, distance): f'{_PREFIX}{name}_AP_dist_{distance}' for name in CLASSES for distance in DISTANCES}
    evaluated = {name for (name, _), key in keys.items() if key in metrics}
    missing = [key for (name, _), key in keys.items() if name in evaluated and key not in metrics]
    if found and (missing or not evaluated):
        raise ValueError(f'the metrics lack {missing or "AP of all classes"}')
    ap = {pair: metrics.get(key, math.nan) if found else 0.0 for pair, key in keys.items()}
    try:
        errors = {name: metrics[_PREFIX + name] if found else 1.0 for name in ERRORS}
    except KeyError as error:
        raise ValueError(f'the metrics lack {error}') from error
    return {
        'mAP': metrics[f'{_PREFIX}mAP'],
        'NDS': metrics[f'{_PREFIX}NDS'],
        **errors,
        **{f'AP {name}': _mean(ap[name, d] for d in DISTANCES) for name in CLASSES},
        **{f'AP at {d:g} m': _mean(ap[name, d] for name in CLASSES) for d in DISTANCES},
        **{f'AP {size}': _mean(ap[name, d] for name in names for d in DISTANCES)
           for size, names in SIZE_GROUPS.items()},
    }


def _mean(values):
    """Mean of the values that are not NaN, NaN where none is left."""
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan
