"""Pictures of one frame: bird's-eye view and camera images with ground truth and detections."""
from .figures import legend_below, new_figure, save_figure
from .frame_axes import box_handles, camera_grid, draw_frame_bev, draw_frame_view


def draw_bev(path, points, ground_truth=None, detections=None, limit=54.0, title=None, labels=()):
    """Draw a frame from above: LiDAR points, boxes with a line to their front, the ego vehicle at the origin.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        points, ground_truth, detections, limit, labels: see `draw_frame_bev`.
        title (str): text above the picture.
    """
    figure = new_figure((9, 9.6))
    axes = figure.add_subplot()
    handles = draw_frame_bev(axes, points, ground_truth, detections, limit, labels=labels)
    axes.set_title(title)
    legend_below(figure, handles)
    save_figure(figure, path)


def draw_cameras(path, images, lidar2img, names, ground_truth=None, detections=None, title=None,
                 labels=()):
    """Draw the images of a frame with projected boxes, three in a row.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        images (list[np.ndarray]): V images (H, W, 3), RGB, uint8.
        lidar2img (list[np.ndarray]): V matrices (4, 4) from LiDAR to the pixels of these images.
        names (list[str]): V names; the six nuScenes cameras stand as they look out of the car, others as given.
        ground_truth, detections, title, labels: see `draw_bev`.

    Raises:
        ValueError: the three lists differ in length or are empty.
    """
    if not len(images) == len(lidar2img) == len(names) > 0:
        raise ValueError(f'images, lidar2img and names must be lists of one length > 0, got {len(images)}, '
                         f'{len(lidar2img)} and {len(names)}')
    order, rows, columns = camera_grid(names)
    height, width = images[0].shape[:2]
    figure = new_figure((6 * columns, 6 * rows * height / width + 0.35 * rows + 0.7))
    for position, view in enumerate(order):
        axes = figure.add_subplot(rows, columns, position + 1)
        draw_frame_view(axes, images[view], lidar2img[view], ground_truth, detections, labels)
        axes.set_title(names[view])
    figure.suptitle(title)
    legend_below(figure, box_handles(ground_truth, detections))
    save_figure(figure, path)
