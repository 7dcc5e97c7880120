"""Parts of pictures of a frame: points and boxes from above and in camera images, drawn into given axes."""
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from .box_edges import BOTTOM, project_edges
from .box_labels import add_box_label

# Okabe and Ito's palette, told apart with all common forms of color blindness; in gray the line styles differ.
BOX_STYLES = {'ground truth': dict(colors='#56B4E9', linestyles='solid'),
              'detections': dict(colors='#D55E00', linestyles=(0, (4, 1.5))),
              'LiDAR gone or false': dict(colors='#CC79A7', linestyles=(0, (1, 1)))}
POINT_COLOR = '#8C8C8C'
_CAMERA_GRID = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT')


def draw_frame_bev(axes, points, ground_truth=None, detections=None, limit=54.0, counts=True, labels=(),
                   lost=None):
    """Draw LiDAR points, boxes with a line to their front and the ego vehicle from above; set range, labels and grid.

    Args:
        axes (matplotlib.axes.Axes): to draw into.
        points (np.ndarray): (N, >= 2) LiDAR points, x to the right and y forward in meters.
        ground_truth (LiDARInstance3DBoxes): None leaves it out of picture and legend.
        detections (LiDARInstance3DBoxes): likewise.
        limit (float): half the side of the square that is shown, in meters; boxes beyond it make it larger.
        counts (bool): say in the legend how many boxes there are.
        labels (Sequence[str]): written beside the detections, one each, see `detection_labels`; none without.
        lost (LiDARInstance3DBoxes): those in which a failure lost the LiDAR; None leaves them out.

    Returns:
        list: handles for a legend.
    """
    axes.scatter(points[:, 0], points[:, 1], s=0.8, c=POINT_COLOR, linewidths=0, rasterized=True)
    axes.plot(0, 0, marker='^', markersize=9, color='black', linestyle='none')
    handles = [
        Line2D([], [], marker='.', color=POINT_COLOR, linestyle='none', label='LiDAR points'),
        Line2D([], [], marker='^', color='black', linestyle='none', label='ego vehicle, facing +y')
    ]
    for name, boxes, style in _layers(ground_truth, detections, lost):
        corners = boxes.corners.cpu().numpy()[:, BOTTOM, :2]  # (N, 4, 2)
        limit = max(limit, np.abs(corners).max(initial=0) + 1)
        front = corners[:, 2:].mean(axis=1)  # (N, 2)
        center = corners.mean(axis=1)  # (N, 2)
        closed = np.concatenate([corners, corners[:, :1]], axis=1)  # (N, 5, 2)
        axes.add_collection(LineCollection([*closed, *np.stack([center, front], axis=1)], linewidths=1.4, **style))
        handles.append(_legend_entry(name, boxes, style, counts))
        for label, own in zip(labels if name == 'detections' else (), corners):
            add_box_label(axes, label, own[own[:, 1].argmax()])
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect='equal')
    axes.set(xlabel='x, to the right (m)', ylabel='y, forward (m)')
    axes.grid(linewidth=0.3)
    return handles


def draw_frame_view(axes, image, lidar2img, ground_truth=None, detections=None, labels=(), lost=None):
    """Draw one camera image with projected boxes.

    Args:
        axes (matplotlib.axes.Axes): to draw into.
        image (np.ndarray): (H, W, 3) RGB or (H, W) gray, uint8.
        lidar2img (np.ndarray): (4, 4) matrix from LiDAR to the pixels of this image.
        ground_truth, detections, labels, lost: see `draw_frame_bev`.
    """
    axes.imshow(image, cmap='gray', vmin=0, vmax=255)
    height, width = image.shape[:2]
    for name, boxes, style in _layers(ground_truth, detections, lost):
        segments = project_edges(boxes.corners.cpu().numpy(), lidar2img)
        outline = withStroke(linewidth=2.0, foreground='black', alpha=0.5)  # for pale surfaces
        axes.add_collection(LineCollection(segments, linewidths=1.1, path_effects=[outline], **style))
        for label, box in zip(labels if name == 'detections' else (), boxes.corners.cpu().numpy()):
            edges = project_edges(box[None], lidar2img)
            (left, top), (right, bottom) = (getattr(edges, end)((0, 1)) if len(edges) else (-1, -1) for end in
                                            ('min', 'max'))
            if right > 0 and bottom > 0 and left < width and top < height:
                add_box_label(axes, label, (max(left, 0), max(top, 0.06 * height)))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()


def detection_labels(detections, class_names):
    """Class and score of every detection, for `draw_frame_bev` and `draw_frame_view`.

    Args:
        detections (dict): with `labels_3d` and `scores_3d`, (n,) each.
        class_names (Sequence[str]): of the labels.

    Returns:
        list[str]: such as 'car 0.83'.
    """
    return [f'{class_names[label]} {score:.2f}' for label, score in
            zip(detections['labels_3d'].tolist(), detections['scores_3d'].tolist())]


def box_handles(ground_truth=None, detections=None):
    """Handles of the boxes for a legend."""
    return [_legend_entry(*layer) for layer in _layers(ground_truth, detections)]


def camera_grid(names):
    """How cameras are laid out, three in a row.

    Args:
        names (Sequence[str]): V names; the six of nuScenes stand as they look out of the car, others as given.

    Returns:
        tuple[list[int], int, int]: the view at each place, row by row; rows; columns.
    """
    order = list(range(len(names)))
    if set(names) == set(_CAMERA_GRID):
        order = [list(names).index(name) for name in _CAMERA_GRID]
    columns = min(3, len(names))
    return order, -(-len(names) // columns), columns


def _layers(ground_truth, detections, lost=None):
    layers = zip(BOX_STYLES, (ground_truth, detections, lost), BOX_STYLES.values())
    return [layer for layer in layers if layer[1] is not None]


def _legend_entry(name, boxes, style, counts=True):
    label = f'{name} ({len(boxes)})' if counts else name
    return Line2D([], [], color=style['colors'], linestyle=style['linestyles'], label=label)
