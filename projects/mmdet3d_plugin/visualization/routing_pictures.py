"""Pictures of a router's decisions: queries on the BEV map and in the images, cases side by side, histograms."""
import textwrap

import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from ..models.utils.geometry import project_to_views, view_cells
from .figures import legend_below, new_figure, save_figure
from .frame_axes import box_handles, camera_grid, detection_labels, draw_frame_bev, draw_frame_view
from .preference_colors import CAMERA_COLOR, LIDAR_COLOR, PREFERENCE_MAP, preference_bar, signed_norm

_LOST = {'LiDAR lost': dict(hatch='//', edgecolor='#9A9A9A'), 'cameras lost': dict(hatch='..', edgecolor='#B8B8B8')}
_LOST_FACE = '#00000018'
_GRID = 601  # places along each side of the map, for each of which it is found out what is lost
_EDGE = '#404040'
_QUERY_LABEL = 'queries (color: preference)'


def draw_routing(path, snapshots, queries=(), title=None):
    """Draw the BEV maps of a sample under some cases side by side, each by `draw_routing_bev`.

    Above each map stand its case, the number of detections, the cameras that are lost, and the mean LiDAR and camera
    weight of the queries by what the *last* case loses at their place, so that the same queries are compared.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        snapshots (Sequence[RoutingSnapshot]): one sample, a case each; 'clean' comes first.
        queries (Sequence[int]): queries that are ringed and numbered.
        title (str): text above the picture.
    """
    save_figure(routing_figure(snapshots, queries, title), path)


def routing_figure(snapshots, queries=(), title=None):
    """The figure of `draw_routing`."""
    figure = new_figure((9.4 * len(snapshots) + 1.2, 10.3))
    axes = figure.subplots(1, len(snapshots), squeeze=False)[0]
    handles = {}
    for place, snapshot in zip(axes, snapshots):
        handles.update((handle.get_label(), handle) for handle in draw_routing_bev(place, snapshot, queries))
        case = '' if snapshot is snapshots[-1] else str(snapshots[-1].case)
        place.set_title(caption(snapshot, snapshots[-1].regions(), 112, case), fontsize=9.5, loc='left')
    preference_bar(figure, list(axes), location='right', shrink=0.7, aspect=35)
    figure.suptitle(title)
    legend_below(figure, list(handles.values()), columns=4 * len(snapshots))
    return figure


def draw_routing_bev(axes, snapshot, queries=()):
    """Draw points, boxes, the places where sensors are lost, and all queries in the colors of their preferences.

    Args:
        axes (matplotlib.axes.Axes): to draw into.
        snapshot (RoutingSnapshot): of a sample and case.
        queries (Sequence[int]): queries that are ringed and numbered.

    Returns:
        list: handles for a legend.
    """
    limit = np.abs(np.take(snapshot.pc_range, [0, 1, 3, 4])).max()
    handles = draw_frame_bev(axes, snapshot.points, snapshot.ground_truth, snapshot.detections['boxes_3d'], limit,
                             counts=False, labels=detection_labels(snapshot.detections, snapshot.detection_names))
    places = np.linspace(*axes.get_xlim(), _GRID)
    for name, lost in lost_places(snapshot, places).items():
        if lost.any():
            region = axes.contourf(places, places, lost.astype(float), levels=[0.5, 1.5], colors=[_LOST_FACE],
                                   hatches=[_LOST[name]['hatch']], zorder=0.5)
            region.set(edgecolor=_LOST[name]['edgecolor'], linewidth=0.8, label=name)
            where = ' (at LiDAR height)' if name == 'cameras lost' else ''
            handles.append(Patch(facecolor=_LOST_FACE, **_LOST[name], label=name + where))
    draw_queries(axes, snapshot.positions[:, :2], snapshot.preference, np.arange(len(snapshot.positions)), queries)
    return handles + query_handles(queries)


def draw_routing_cameras(path, snapshot, queries=(), title=None):
    """Draw the images that the detector was given with projected boxes and the queries that each view sees.

    Args:
        path, queries, title: see `draw_routing`.
        snapshot (RoutingSnapshot): of a sample and case.
    """
    save_figure(routing_cameras_figure(snapshot, queries, title), path)


def routing_cameras_figure(snapshot, queries=(), title=None):
    """The figure of `draw_routing_cameras`."""
    order, rows, columns = camera_grid(snapshot.camera_names)
    height, width = snapshot.images[0].shape[:2]
    figure = new_figure((6 * columns + 1.2, 6 * rows * height / width + 0.3 * rows + 0.8))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    truth, detections = snapshot.ground_truth, snapshot.detections['boxes_3d']
    for place, view in zip(axes, order):
        draw_routing_view(place, snapshot, view, queries)
    for place in axes[len(order):]:
        place.set_axis_off()
    preference_bar(figure, list(axes), location='right', shrink=0.9, aspect=30)
    figure.suptitle(' '.join(filter(None, [title, f'(images as the network got them, {width} × {height} px)'])))
    legend_below(figure, box_handles(truth, detections) + query_handles(queries))
    return figure


def draw_routing_view(axes, snapshot, view, queries=()):
    """Draw an image with projected boxes and the queries that it sees, colored by LiDAR's weight less that of the view.

    Args:
        axes (matplotlib.axes.Axes): to draw into.
        snapshot (RoutingSnapshot): of a sample and case.
        view (int): which image.
        queries (Sequence[int]): queries that are ringed and numbered.
    """
    draw_frame_view(axes, snapshot.images[view], snapshot.lidar2img[view], snapshot.ground_truth,
                    snapshot.detections['boxes_3d'], detection_labels(snapshot.detections, snapshot.detection_names))
    seen = np.flatnonzero(snapshot.seen[:, view])
    preference = snapshot.lidar_weights - snapshot.view_weights[:, view]
    draw_queries(axes, snapshot.pixels[seen, view], preference[seen], seen, queries)
    name = snapshot.camera_names[view]
    axes.set_title(f'{name}{": lost" * (name in snapshot.lost_cameras)}, {len(seen)} queries', fontsize=10)


def draw_histograms(path, snapshots, title=None):
    """Draw how the weights of the queries are distributed, a row per case; in local mode their bias, too. In global
    mode that is the same histogram on another scale.

    Args:
        path, title: see `draw_routing`.
        snapshots (Sequence[RoutingSnapshot]): one sample, a case each.
    """
    save_figure(histograms_figure(snapshots, title), path)


def histograms_figure(snapshots, title=None):
    """The figure of `draw_histograms`."""
    columns = 1 + any(snapshot.bias.is_local for snapshot in snapshots)
    figure = new_figure((5.5 * columns + 2 * (columns == 1), 2.6 * len(snapshots) + 1.0))
    panels = figure.subplots(len(snapshots), columns, squeeze=False)
    biases = [snapshot.peak_bias() for snapshot in snapshots]
    strongest = np.abs(biases).max() or 1
    for row, places, bias, snapshot in zip(range(len(snapshots)), panels, biases, snapshots):
        last = row == len(snapshots) - 1
        weights = np.stack([snapshot.lidar_weights, snapshot.camera_weights], axis=1)  # (Q, 2)
        for axes, (values, bins, neutral, name) in zip(places, (
                (weights, np.linspace(0, 1, 41), 0.5, 'weight, 0 to 1'),
                (bias, np.linspace(-strongest, strongest, 41), 0, 'bias on the scores where it is largest'))):
            for sensor, column, color, style in (
                    ('LiDAR', 0, LIDAR_COLOR, 'solid'), ('cameras', 1, CAMERA_COLOR, 'dashed')):
                axes.hist(values[:, column], bins, histtype='step', color=color, linestyle=style, linewidth=1.6,
                          label=sensor)
            axes.axvline(neutral, color='0.5', linewidth=0.8, linestyle='dotted', label='neutral')
            axes.set(xlim=(bins[0], bins[-1]), ylabel='queries')
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            if last:
                axes.set_xlabel(name)
        lines = textwrap.wrap(str(snapshot.case), 65 * columns, break_on_hyphens=False)
        places[0].set_title('\n'.join(lines), loc='left', fontsize=10)
    figure.suptitle(title)
    legend_below(figure, panels[0][0].get_legend_handles_labels()[0])
    return figure


def draw_queries(axes, places, preference, numbers, ringed=()):
    """Draw queries as dots in the colors of their preferences, the strongest ones on top.

    Args:
        axes (matplotlib.axes.Axes): to draw into.
        places (np.ndarray): (q, 2) in the units of the axes.
        preference (np.ndarray): (q,) in [-1, 1].
        numbers (np.ndarray): (q,) which queries these are.
        ringed (Sequence[int]): those of them that are ringed and numbered.
    """
    order = np.argsort(np.abs(preference), kind='stable')
    axes.scatter(*places[order].T, c=preference[order], cmap=PREFERENCE_MAP, norm=signed_norm(1), s=26, zorder=3,
                 edgecolors=_EDGE, linewidths=0.5, label=_QUERY_LABEL)
    ring = [place for place, number in zip(places, numbers) if number in ringed]
    if ring:
        # The white ring around the black one shows on dark and on lost images.
        axes.scatter(*np.transpose(ring), s=110, zorder=3.1, facecolors='none', edgecolors='white', linewidths=3.6)
        axes.scatter(*np.transpose(ring), s=110, zorder=3.1, facecolors='none', edgecolors='black', linewidths=1.6,
                     label='ringed queries')
    for place, number in zip(places, numbers):
        if number in ringed:
            label_query(axes, place, number)


def label_query(axes, place, number):
    """Write the number of a query beside its place, toward the middle of the axes so that it is not cut off."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    across, up = (place[0] - left) / (right - left), (place[1] - low) / (high - low)
    at_right, at_top = across > 0.9, up > 0.9
    axes.annotate(str(number), place, xytext=(-8 if at_right else 8, -8 if at_top else 8), textcoords='offset points',
                  ha='right' if at_right else 'left', va='top' if at_top else 'bottom', fontsize=10,
                  fontweight='bold', zorder=4, annotation_clip=True,
                  path_effects=[withStroke(linewidth=2.5, foreground='white')])


def query_handles(queries=()):
    """Handles of the queries for a legend."""
    dots = dict(marker='o', linestyle='none')
    handles = [Line2D([], [], markersize=6, markerfacecolor=PREFERENCE_MAP(0.5), markeredgecolor=_EDGE,
                      label=_QUERY_LABEL, **dots)]
    if len(queries):
        handles.append(Line2D([], [], markersize=10, markerfacecolor='none', markeredgecolor='black',
                              markeredgewidth=1.6, label='queries looked at closely', **dots))
    return handles


def lost_places(snapshot, places):
    """Where sensors are lost, on a grid at the height of the LiDAR.

    Args:
        snapshot (RoutingSnapshot): of a sample and case.
        places (np.ndarray): (n,) coordinates along x and y, m.

    Returns:
        dict[str, np.ndarray]: 'LiDAR lost' and 'cameras lost' (all views that see the place), (n, n) bool, rows along
        y.
    """
    x, y = torch.meshgrid(*[torch.as_tensor(places)] * 2, indexing='xy')
    points = torch.stack([x, y, torch.zeros_like(x)], dim=-1)  # (n, n, 3)
    size = snapshot.images[0].shape[:2]
    pixels, depth = project_to_views(points.view(1, -1, 3), torch.as_tensor(snapshot.lidar2img).unsqueeze(0))
    _, seen = view_cells(pixels, depth, size, size)  # (1, n * n, V)
    return {'LiDAR lost': snapshot.failure.lidar_lost(points).numpy(),
            'cameras lost': snapshot.failure.cameras_lost(seen[0]).view(x.shape).numpy()}


def mean_weights(snapshot, regions):
    """Mean weights of the queries by region.

    Args:
        snapshot (RoutingSnapshot): of a sample and case.
        regions (dict[str, np.ndarray]): (Q,) bool masks.

    Returns:
        dict[str, tuple[int, float, float]]: number of queries, mean LiDAR and mean camera weight; regions without any
        are left out.
    """
    weights = snapshot.lidar_weights, snapshot.camera_weights
    return {name: (int(mask.sum()), *(float(values[mask].mean()) for values in weights))
            for name, mask in regions.items() if mask.any()}


def caption(snapshot, regions, width, other_case=''):
    """Lines on a case: name, number of detections, lost cameras, mean weights by region; wrapped at `width` characters.
    `other_case` is the case whose regions these are, where it is another one.
    """
    weights = '; '.join(f'{name} {lidar:.2f}\u00a0/\u00a0{camera:.2f}\u00a0({count}\u00a0queries)'  # not torn apart
                        for name, (count, lidar, camera) in mean_weights(snapshot, regions).items())
    lines = [str(snapshot.case), f'{len(snapshot.detections["scores_3d"])} detections; cameras lost: '
             f'{", ".join(snapshot.lost_cameras) or "none"}',
             f'mean LiDAR / camera weight{f" by what {other_case} loses" * bool(other_case)}: {weights}']
    return '\n'.join('\n'.join(textwrap.wrap(line, width, break_on_hyphens=False)) for line in lines)
