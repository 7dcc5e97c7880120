"""Pictures of one frame: bird's-eye view and camera images with ground truth and detections.

Figures of this package are drawn by matplotlib's Agg back end without touching its global state.
"""
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from ..apis.atomic_file import atomic_path
from .box_edges import BOTTOM, project_edges

# Okabe and Ito's palette, told apart with all common forms of colour blindness; line styles tell them apart in grey.
_GROUND_TRUTH = dict(colors='#56B4E9', linestyles='solid')
_DETECTIONS = dict(colors='#D55E00', linestyles=(0, (4, 1.5)))
_POINT_COLOR = '#8C8C8C'
_CAMERA_GRID = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT')


def draw_bev(path, points, ground_truth=None, detections=None, limit=54.0, title=None):
    """Draw a frame from above: LiDAR points, boxes with a line to their front, the ego vehicle at the origin.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        points (np.ndarray): (N, >= 2) LiDAR points, x to the right and y forward in metres.
        ground_truth (LiDARInstance3DBoxes): None leaves it out of picture and legend.
        detections (LiDARInstance3DBoxes): likewise.
        limit (float): half the side of the square that is shown, in metres; boxes beyond it make it larger.
        title (str): text above the picture.
    """
    figure = _figure((9, 9.6))
    axes = figure.add_subplot()
    axes.scatter(points[:, 0], points[:, 1], s=0.8, c=_POINT_COLOR, linewidths=0, rasterized=True)
    axes.plot(0, 0, marker='^', markersize=9, color='black', linestyle='none')
    handles = [
        Line2D([], [], marker='.', color=_POINT_COLOR, linestyle='none', label='LiDAR points'),
        Line2D([], [], marker='^', color='black', linestyle='none', label='ego vehicle, facing +y')
    ]
    for name, boxes, style in _layers(ground_truth, detections):
        corners = boxes.corners.cpu().numpy()[:, BOTTOM, :2]  # (N, 4, 2)
        limit = max(limit, np.abs(corners).max(initial=0) + 1)
        front = corners[:, 2:].mean(axis=1)  # (N, 2)
        centre = corners.mean(axis=1)  # (N, 2)
        closed = np.concatenate([corners, corners[:, :1]], axis=1)  # (N, 5, 2)
        axes.add_collection(LineCollection([*closed, *np.stack([centre, front], axis=1)], linewidths=1.4, **style))
        handles.append(_legend_entry(name, boxes, style))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect='equal', title=title)
    axes.set(xlabel='x, to the right (m)', ylabel='y, forward (m)')
    axes.grid(linewidth=0.3)
    figure.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False)
    _save(figure, path)


def draw_cameras(path, images, lidar2img, names, ground_truth=None, detections=None, title=None):
    """Draw the images of a frame with projected boxes, three in a row.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        images (list[np.ndarray]): V images (H, W, 3), RGB, uint8.
        lidar2img (list[np.ndarray]): V matrices (4, 4) from LiDAR to the pixels of these images.
        names (list[str]): V names; the six nuScenes cameras stand as they look out of the car, others as given.
        ground_truth, detections, title: see `draw_bev`.

    Raises:
        ValueError: the three lists differ in length or are empty.
    """
    if not len(images) == len(lidar2img) == len(names) > 0:
        raise ValueError(f'images, lidar2img and names must be lists of one length > 0, got {len(images)}, '
                         f'{len(lidar2img)} and {len(names)}')
    order = range(len(names))
    if set(names) == set(_CAMERA_GRID):
        order = [list(names).index(name) for name in _CAMERA_GRID]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    height, width = images[0].shape[:2]
    figure = _figure((6 * columns, 6 * rows * height / width + 0.35 * rows + 0.7))
    layers = _layers(ground_truth, detections)
    for position, view in enumerate(order):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(images[view])
        for _, boxes, style in layers:
            segments = project_edges(boxes.corners.cpu().numpy(), lidar2img[view])
            outline = withStroke(linewidth=2.0, foreground='black', alpha=0.5)  # for pale surfaces
            axes.add_collection(LineCollection(segments, linewidths=1.1, path_effects=[outline], **style))
        height, width = images[view].shape[:2]
        axes.set(xlim=(0, width), ylim=(height, 0), title=names[view])
        axes.set_axis_off()
    figure.suptitle(title)
    if layers:
        handles = [_legend_entry(*layer) for layer in layers]
        figure.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False)
    _save(figure, path)


def _figure(size):
    figure = Figure(figsize=size, dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _layers(ground_truth, detections):
    layers = (('ground truth', ground_truth, _GROUND_TRUTH), ('detections', detections, _DETECTIONS))
    return [layer for layer in layers if layer[1] is not None]


def _legend_entry(name, boxes, style):
    return Line2D([], [], color=style['colors'], linestyle=style['linestyles'], label=f'{name} ({len(boxes)})')


def _save(figure, path):
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
