"""Pictures of what one query looks at: its bias, and its attention without and with it, on the BEV map and in the images."""
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm

from .frame_axes import POINT_COLOR, camera_grid
from .frame_pictures import new_figure, save_figure
from .preference_colors import PREFERENCE_MAP, signed_norm

_ATTENTION_MAP = colormaps['cividis']
_DECADES = 3  # attention below 10 ** -3 of the largest one is shown alike


def draw_query(path, snapshot, query, title=None):
    """Draw a query's bias and its attention in three columns, each a BEV map above the images.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        snapshot (RoutingSnapshot): of a sample and case.
        query (int): which one.
        title (str): text above the picture.
    """
    save_figure(query_figure(snapshot, query, title), path)


def query_figure(snapshot, query, title=None):
    """The figure of `draw_query`."""
    bias, (biased, unbiased) = snapshot.bias_of([query])[0], [part[0] for part in snapshot.attention([query])]
    order, rows, columns = camera_grid(snapshot.camera_names)
    height, width = snapshot.images[0].shape[:2]
    tile = 6 / columns * height / width + 0.25
    figure = new_figure((19, 6.4 + rows * tile + 1.8))
    largest = max(biased.max(), unbiased.max())
    attention_norm = LogNorm(largest * 10**-_DECADES, largest)
    bias_norm = signed_norm(np.abs(snapshot.peak_bias()).max())
    shares = [f'{name}: LiDAR {share:.1%}, cameras {1 - share:.1%}' for name, share in (
        (f'attention without the bias, layer {snapshot.layer}', unbiased[:snapshot.layout.num_bev].sum()),
        (f'attention with the bias, layer {snapshot.layer}', biased[:snapshot.layout.num_bev].sum()))]
    peak = snapshot.peak_bias()[query]
    columns_shown = (
        (f'bias on the scores: LiDAR {_signed(peak[0])}, cameras {_signed(peak[1])}', bias, PREFERENCE_MAP, bias_norm,
         'bias: below 0 kept from, above 0 drawn to a token'),
        (shares[0], unbiased, _ATTENTION_MAP, attention_norm, 'share of the attention (mean over heads)'),
        (shares[1], biased, _ATTENTION_MAP, attention_norm, 'share of the attention (mean over heads)'))
    for part, (name, tokens, cmap, norm, label) in zip(figure.subfigures(1, 3), columns_shown):
        grid = part.add_gridspec(rows + 1, columns, height_ratios=[6, *[tile] * rows])
        bev, views = snapshot.on_maps(tokens)
        axes = [part.add_subplot(grid[0, :])]
        draw_token_bev(axes[0], snapshot, query, bev, cmap, norm)
        for position, view in enumerate(order):
            axes.append(part.add_subplot(grid[1 + position // columns, position % columns]))
            draw_token_view(axes[-1], snapshot, query, view, views[view], cmap, norm)
        extend = 'min' if cmap is _ATTENTION_MAP else 'neither'
        part.colorbar(ScalarMappable(norm, cmap), ax=axes, location='bottom', label=label, extend=extend, shrink=0.8,
                      aspect=40)
        part.suptitle(name, fontsize=11)
    figure.suptitle(title)
    return figure


def draw_token_bev(axes, snapshot, query, values, cmap, norm):
    """Draw values (H, W) of BEV cells with points and the query.

    Args:
        axes (matplotlib.axes.Axes): to draw into.
        snapshot (RoutingSnapshot): of a sample and case.
        query (int): marked by a star; beside it, the centre that it detects.
        values (np.ndarray): (H, W), rows along y.
        cmap, norm: colours of the values.
    """
    limit = np.abs(np.take(snapshot.pc_range, [0, 1, 3, 4])).max()
    axes.imshow(np.clip(values, norm.vmin, norm.vmax), extent=snapshot.bev_extent, origin='lower', cmap=cmap, norm=norm,
                interpolation='nearest')
    axes.scatter(*snapshot.points[:, :2].T, s=0.5, c=POINT_COLOR, linewidths=0, rasterized=True, alpha=0.6)
    axes.plot(*snapshot.centers[query, :2], marker='s', markersize=11, markerfacecolor='none', markeredgecolor='white',
              markeredgewidth=2.6, linestyle='none')
    axes.plot(*snapshot.centers[query, :2], marker='s', markersize=11, markerfacecolor='none', markeredgecolor='#D55E00',
              markeredgewidth=1.4, linestyle='none', label='centre detected')
    _star(axes, snapshot.positions[query, :2])
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect='equal')
    axes.set(xlabel='x, to the right (m)', ylabel='y, forward (m)')
    axes.legend(loc='upper right', fontsize=8, framealpha=0.9)


def draw_token_view(axes, snapshot, query, view, values, cmap, norm):
    """Draw values (h, w) of the cells of one view over its image; see `draw_token_bev`.

    Cells are the clearer the farther their value is from the end of the scale that means nothing: no bias, no attention.
    """
    image = snapshot.images[view]
    height, width = image.shape[:2]
    axes.imshow(image.mean(axis=-1), cmap='gray', vmin=0, vmax=255)
    values = np.clip(values, norm.vmin, norm.vmax)
    opacity = 0.65 * (values != 0) if norm.vmin < 0 else 0.8 * norm(values).filled(0)
    axes.imshow(values, extent=(0, width, height, 0), cmap=cmap, norm=norm, alpha=opacity, interpolation='nearest')
    if snapshot.seen[query, view]:
        _star(axes, snapshot.pixels[query, view])
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    name = snapshot.camera_names[view]
    axes.set_title(f'{name}{" (lost)" * (name in snapshot.lost_cameras)}', fontsize=8)


def _star(axes, place):
    axes.plot(*place, marker='*', markersize=13, color='#D55E00', markeredgecolor='white', markeredgewidth=0.9,
              linestyle='none', label='query')


def _signed(value):
    return f'{value:+.2f}'.replace('-', '−')
