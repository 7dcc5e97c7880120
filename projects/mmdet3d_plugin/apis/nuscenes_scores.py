"""nuScenes metrics as one row of numbers per test, and several such rows as a table."""
import csv
import math

from .atomic_file import atomic_path

SIZE_GROUPS = dict(
    small=('pedestrian', 'traffic_cone', 'bicycle', 'motorcycle', 'barrier'),
    medium=('car', ),
    large=('truck', 'bus', 'trailer', 'construction_vehicle'))
CLASSES = tuple(name for group in SIZE_GROUPS.values() for name in group)
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # m between centres, the thresholds of nuScenes' AP
ERRORS = dict(mATE='m', mASE='1 - IoU', mAOE='rad', mAVE='m/s', mAAE='1 - acc')
CAPTION = ('AP by class, by centre distance and by size are means over the other two; '
           + '; '.join(f'{size}: {", ".join(names)}' for size, names in SIZE_GROUPS.items()) + '.')
_PREFIX = 'pts_bbox_NuScenes/'


def nuscenes_scores(metrics):
    """The numbers that comparisons print.

    Args:
        metrics (dict): from `CustomNuScenesDataset.evaluate`. With NDS and mAP alone (no sample has any detection) all
            AP are 0 and all errors 1, as the devkit defines them for a class without detections.

    Returns:
        dict[str, float]: mAP, NDS, the five mean errors, AP per class, per distance (mean over classes) and per size
        (mean over the classes of `SIZE_GROUPS`).

    Raises:
        ValueError: these are not the metrics of nuScenes' ten classes.
    """
    if not {f'{_PREFIX}NDS', f'{_PREFIX}mAP'} <= set(metrics):
        raise ValueError(f'not the metrics of a nuScenes dataset: {sorted(metrics)[:5]}')
    found = len(metrics) > 2
    try:
        ap = {(name, distance): metrics[f'{_PREFIX}{name}_AP_dist_{distance}'] if found else 0.0
              for name in CLASSES for distance in DISTANCES}
        errors = {name: metrics[_PREFIX + name] if found else 1.0 for name in ERRORS}
    except KeyError as error:
        raise ValueError(f'the metrics lack {error}: all ten classes of nuScenes must be evaluated') from error
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
    values = list(values)
    return sum(values) / len(values)


def markdown_table(rows):
    """Rows of equal keys as a markdown table that also reads well as plain text; floats get three decimals.

    Args:
        rows (list[dict]): at least one; None and NaN are shown as '-'.
    """
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ['| ' + ' | '.join(f'{cell:<{widths[i]}}' if i == 0 else f'{cell:>{widths[i]}}'
                               for i, cell in enumerate(line)) + ' |' for line in cells]
    rule = '|' + '|'.join('-' * (width + 1) + ('-' if i == 0 else ':') for i, width in enumerate(widths)) + '|'
    return '\n'.join([lines[0], rule, *lines[1:]])


def _cell(value):
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '-'
    return f'{value:.3f}' if isinstance(value, float) else str(value)


def write_csv(path, rows):
    """Write rows of equal keys; the file appears whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, 'w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
