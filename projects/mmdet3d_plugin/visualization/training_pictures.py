"""Pictures of training samples as the pipeline leaves them."""
from collections import Counter

import numpy as np

from ..apis.inference import input_images
from .figures import legend_under, new_figure, save_figure
from .frame_axes import camera_grid, draw_frame_bev, draw_frame_view


def draw_training_sample(path, sample, class_names, limit=54.0, title=None):
    """Draw a sample from above and in its images, with its boxes.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        sample (dict): from a dataset in training mode, with `gt_bboxes_3d`, `gt_labels_3d` and `points`, `img` or both
            in DataContainers; images need `lidar2img` and `img_norm_cfg` among the metas.
        class_names (Sequence[str]): of the labels.
        limit (float): half the side of the square that is shown from above, m.
        title (str | None): text above the picture; the simulated failure, if the metas have one, and the numbers of
            boxes by class follow it.

    Raises:
        ValueError: images whose metas do not say how they were normalized.
    """
    boxes, metas = sample['gt_bboxes_3d'].data, sample['img_metas'].data
    images = input_images(sample['img'].data, metas) if 'img' in sample else []
    order, rows, columns = camera_grid(list(range(len(images)))) if images else ([], 1, 0)
    ratio = images[0].shape[0] / images[0].shape[1] if images else 1
    tile = 4.2
    figure = new_figure((6 + tile * columns, max(6.4, rows * (tile * ratio + 0.2) + 0.9)), dpi=100)
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[6, *[tile] * columns])
    points = sample['points'].data.numpy() if 'points' in sample else np.zeros((0, 2))
    bev = figure.add_subplot(grid[:, 0])
    handles = draw_frame_bev(bev, points, boxes, limit=limit)
    for place, view in enumerate(order):
        axes = figure.add_subplot(grid[place // columns, 1 + place % columns])
        draw_frame_view(axes, images[view], metas['lidar2img'][view], boxes)
        axes.set_title(f'view {view}', fontsize=9)
    counts = Counter(class_names[label] for label in sample['gt_labels_3d'].data.tolist())
    words = ', '.join(f'{count} {name}' for name, count in counts.most_common()) or 'no boxes'
    failure = f'failure: {metas["failure"].case}' if 'failure' in metas else None
    figure.suptitle('\n'.join(filter(None, [title, failure, words])), fontsize=10)
    legend_under(bev, handles, columns=3)
    save_figure(figure, path)
