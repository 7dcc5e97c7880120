"""Contact sheets: clean samples beside corrupted ones, from above and in one camera."""
from typing import NamedTuple, Optional

import numpy as np
from mmdet3d.core.bbox import LiDARInstance3DBoxes

from ..apis.failing_sensors import case_datasets, struck_sample
from ..apis.inference import camera_names
from .figures import legend_below, new_figure, save_figure
from .frame_axes import draw_frame_bev, draw_frame_view

_ROWS = 5  # of a page


class Shot(NamedTuple):
    """What the sensors say of one sample.

    Attributes:
        points: (N, >= 2) LiDAR points, m; None without LiDAR.
        image: (H, W, 3) of one camera, RGB, uint8; None without cameras.
        lidar2img: (4, 4) from LiDAR to the pixels of the image.
    """

    points: Optional[np.ndarray]
    image: Optional[np.ndarray]
    lidar2img: Optional[np.ndarray]


class SheetRow(NamedTuple):
    """A sample before and after a failure struck, the case, the camera's name, and what the failure's record says: in
    words, and the boxes in which LiDAR is gone or false, None without any.
    """

    case: str
    clean: Shot
    struck: Shot
    camera: str
    description: str
    lost: Optional[LiDARInstance3DBoxes] = None


def shot_of(sample, view):
    """The shot of a sample as `struck_sample` gives it, in one of its views.

    Args:
        sample (dict): with `points`, `img` or both.
        view (int): which camera.
    """
    image = sample['img'][view] if 'img' in sample else None
    return Shot(
        sample['points'].tensor.numpy() if 'points' in sample else None,
        None if image is None else np.rint(np.clip(image[..., ::-1], 0, 255)).astype(np.uint8),
        sample['lidar2img'][view] if 'lidar2img' in sample else None)


def chosen_view(failure, names, camera=None):
    """Index of the view to show: that of a camera, else the first that a failure struck wholly, else the front.

    Args:
        failure (FailureRecord): of the sample.
        names (Sequence[str]): V names of the cameras.
        camera (str | None): name of one.

    Raises:
        ValueError: no such camera.
    """
    if camera is not None:
        if camera not in names:
            raise ValueError(f'no camera {camera!r}: allowed are {list(names)}')
        return list(names).index(camera)
    if failure.views_lost is not None and failure.views_lost.any() and not failure.views_lost.all():
        return int(failure.views_lost.argmax())
    return list(names).index('CAM_FRONT') if 'CAM_FRONT' in names else 0


def describe_failure(failure, names):
    """What a FailureRecord says, in a few lines: places lost, graded or not, numbers of points, fallbacks, failures
    that changed nothing.

    Args:
        failure (FailureRecord): of the sample.
        names (Sequence[str]): V names of the cameras.
    """
    parts = []
    if failure.lidar_everywhere:
        parts.append('LiDAR lost everywhere')
    if failure.field_of_view is not None:
        parts.append(f'LiDAR lost beyond {failure.field_of_view:g}°')
    if len(failure.lost_boxes):
        parts.append(f'LiDAR lost in {len(failure.lost_boxes)} boxes')
    lost = failure.views_lost
    if lost is not None and lost.any():
        which = 'all views' if lost.all() else ', '.join(name for name, is_lost in zip(names, lost) if is_lost)
        parts.append(f'lost: {which}')
    if failure.is_graded:
        parts.append('graded')
    parts = parts or ['nothing lost']
    before, after = (failure.details.get(f'points_{when}') for when in ('before', 'after'))
    if before is not None and before != after:
        parts.append(f'{before} → {after} points')
    replaced = [name for name, found in failure.details.items() if isinstance(found, dict) and found.get('fallback')]
    if replaced:
        parts.append(f'with a replacement: {", ".join(replaced)}')
    if failure.spared:
        parts.append(f'as it was: {", ".join(failure.spared)}')
    return '\n'.join(parts)


def sheet_rows(cfg, cases, index, camera=None, seed=0):
    """What a contact sheet shows of one sample of a config's test data.

    Args:
        cfg, cases, seed: see `case_datasets`.
        index (int): of the sample.
        camera (str | None): see `chosen_view`.

    Yields:
        SheetRow: one for each case.

    Raises:
        ValueError: see `case_datasets`, `struck_sample` and `chosen_view`.
    """
    (_, dataset), = case_datasets(cfg, ['clean'])
    clean = struck_sample(dataset, index)
    names = camera_names(dataset, index) if 'img' in clean else ['']
    for case, dataset in case_datasets(cfg, cases, seed):
        sample = struck_sample(dataset, index)
        view = chosen_view(sample['failure'], names, camera)
        failure = sample['failure']
        lost = LiDARInstance3DBoxes(failure.lost_boxes, origin=(0.5, 0.5, 0.5)) if len(failure.lost_boxes) else None
        yield SheetRow(str(case), shot_of(clean, view), shot_of(sample, view), names[view],
                       describe_failure(failure, names), lost)


def draw_contact_sheets(prefix, rows, title, limit=54.0, boxes=None):
    """Draw rows on as many pages as they need: from above and in one camera, each clean and corrupted.

    Args:
        prefix (str | Path): pages are `{prefix}_page_1.png` and so on.
        rows (Iterable[SheetRow]): one for each case.
        title (str): of every page.
        limit (float): half the side of the square that is shown from above, m.
        boxes (LiDARInstance3DBoxes | None): ground truth, which no failure moves. Boxes in which a failure lost the
            LiDAR are drawn on the corrupted side alone.

    Yields:
        str: a page that was written.
    """
    page, number = [], 0
    for row in rows:
        page.append(row)
        if len(page) == _ROWS:
            number += 1
            yield _draw_page(f'{prefix}_page_{number}.png', page, title, limit, boxes)
            page = []
    if page:
        yield _draw_page(f'{prefix}_page_{number + 1}.png', page, title, limit, boxes)


def _draw_page(path, rows, title, limit, boxes):
    figure = new_figure((15, 3.3 * len(rows) + 0.8), dpi=100)
    figure.suptitle(title)
    grid = figure.subplots(len(rows), 4, squeeze=False, width_ratios=(1, 1, 1.5, 1.5))
    handles = {}
    for axes, row in zip(grid, rows):
        for place, shot, state, lost in ((0, row.clean, 'clean', None), (1, row.struck, row.case, row.lost)):
            bev, view = axes[place], axes[place + 2]
            if shot.points is None:
                bev.set_axis_off()
            else:
                drawn = draw_frame_bev(bev, shot.points, boxes, limit=limit, counts=False, lost=lost)
                handles.update((handle.get_label(), handle) for handle in drawn)
                bev.set(xlabel='', ylabel='', xlim=(-limit, limit), ylim=(-limit, limit))
                bev.tick_params(labelsize=6)
            if shot.image is None:
                view.set_axis_off()
            else:
                draw_frame_view(view, shot.image, shot.lidar2img, boxes, lost=lost)
                view.set_title(f'{row.camera}, {state}', fontsize=9)
            bev.set_title(state if not place else f'{state}\n{row.description}', fontsize=9)
    legend_below(figure, list(handles.values()))
    save_figure(figure, path)
    return path
