"""Pictures of what one query looks at: bias, and attention without and with it, on the BEV map and in the images."""
import textwrap

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm

from .figures import new_figure, save_figure
from .frame_axes import POINT_COLOR, camera_grid
from .preference_colors import PREFERENCE_MAP, signed_norm

_ATTENTION_MAP, _GAIN_MAP = colormaps['inferno'], colormaps['RdBu_r']
_BEV_WIDTH, _CAMERAS_WIDTH = 4.6, 13.0  # inches
_LINE = 150  # letters of the title that fit beside each other
_DECADES = 3  # attention below 10 ** -3 of the largest one gets one color


def draw_query(path, snapshot, query, title=None):
    """Draw a query's attention without the bias, with it, and what the bias adds, each a BEV map beside the images.

    A query without bias has one row, its attention. In local mode a row of the bias comes first; in global mode it is
    the same on all tokens of a sensor, and the title of the second row says it.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        snapshot (RoutingSnapshot): of a sample and case.
        query (int): which one.
        title (str): text above the picture.
    """
    save_figure(query_figure(snapshot, query, title), path)


def query_figure(snapshot, query, title=None):
    """The figure of `draw_query`."""
    order, rows, columns = camera_grid(snapshot.camera_names)
    height, width = snapshot.images[0].shape[:2]
    tile = _CAMERAS_WIDTH / columns
    row_height = max(_BEV_WIDTH, rows * (tile * height / width + 0.3)) + 0.9
    shown = _rows(snapshot, query)
    title = textwrap.fill(title or '', _LINE, break_long_words=False)
    head = 0.4 + 0.25 * title.count('\n')  # inches
    figure = new_figure((_BEV_WIDTH + _CAMERAS_WIDTH + 2, len(shown) * row_height + head), dpi=90)
    for part, (name, tokens, cmap, norm, label) in zip(figure.subfigures(len(shown), 1, squeeze=False)[:, 0], shown):
        grid = part.add_gridspec(rows, columns + 1, width_ratios=[_BEV_WIDTH, *[tile] * columns])
        bev, views = snapshot.on_maps(tokens)
        axes = [part.add_subplot(grid[:, 0])]
        draw_token_bev(axes[0], snapshot, query, bev, cmap, norm)
        for position, view in enumerate(order):
            axes.append(part.add_subplot(grid[position // columns, 1 + position % columns]))
            draw_token_view(axes[-1], snapshot, query, view, views[view], cmap, norm)
        extend = 'min' if cmap is _ATTENTION_MAP else 'neither'
        part.colorbar(ScalarMappable(norm, cmap), ax=axes, location='right', label=label, extend=extend, aspect=25)
        part.suptitle(name, fontsize=12)
    figure.suptitle(title, fontsize=13)
    return figure


def _rows(snapshot, query):
    """What `draw_query` shows: name of a row, its values (F,), their colors, norm, and what the colors mean."""
    bias, (biased, unbiased) = snapshot.bias_of([query])[0], [part[0] for part in snapshot.attention([query])]
    num_bev, layer = snapshot.layout.num_bev, f'layer {snapshot.layer}'
    largest = max(biased.max(), unbiased.max())
    colors = _ATTENTION_MAP, LogNorm(largest * 10**-_DECADES, largest), 'share of the attention\n(mean over heads)'
    without, with_bias = (_shares(part, num_bev) for part in (unbiased, biased))
    if not bias.any():
        return [(f'attention, {layer}: {_in_words(without)}; no bias', unbiased, *colors)]
    peak = snapshot.peak_bias()
    bias_words = f'LiDAR {_signed(peak[query, 0])}, cameras {_signed(peak[query, 1])}'
    gained = biased - unbiased
    first = f'attention without the bias, {layer}: {_in_words(without)}', unbiased, *colors
    second = f'attention with the bias, {layer}: {_in_words(with_bias)}'
    points = _in_words(100 * (with_bias - without), '+.1f')
    third = (f'what the bias adds, percentage points: {points}', gained, _GAIN_MAP,
             signed_norm(np.abs(gained).max()), 'attention with − without the bias')
    if not snapshot.bias.is_local:
        return [first, (f'{second}; bias on all scores: {bias_words}', biased, *colors), third]
    return [(f'bias on the scores: {bias_words}', bias, PREFERENCE_MAP, signed_norm(np.abs(peak).max()),
             'bias\n(< 0 kept from a token, > 0 drawn to it)'), first, (second, biased, *colors), third]


def _shares(attention, num_bev):
    """(3,) how much of a query's attention (F,) goes to LiDAR, to cameras and to stand-ins, which have the rest."""
    lidar, cameras = attention[:num_bev].sum(), attention[num_bev:].sum()
    return np.array([lidar, cameras, 1 - lidar - cameras])


def _in_words(shares, form='.1%'):
    """Shares (3,), or differences of them, by name; stand-ins where they have any."""
    words = [f'{share:{form}}' for share in shares]
    names = ('LiDAR', 'cameras', 'stand-ins')[:3 if float(words[2].rstrip('%')) else 2]
    return ', '.join(map(' '.join, zip(names, words))).replace(' -', ' −')


def draw_token_bev(axes, snapshot, query, values, cmap, norm):
    """Draw values (H, W) of BEV cells with points and the query.

    Args:
        axes (matplotlib.axes.Axes): to draw into.
        snapshot (RoutingSnapshot): of a sample and case.
        query (int): marked by a star; beside it, the center that it detects.
        values (np.ndarray): (H, W), rows along y.
        cmap, norm: colors of the values.
    """
    limit = np.abs(np.take(snapshot.pc_range, [0, 1, 3, 4])).max()
    axes.imshow(np.clip(values, norm.vmin, norm.vmax), extent=snapshot.bev_extent, origin='lower', cmap=cmap, norm=norm,
                interpolation='nearest')
    axes.scatter(*snapshot.points[:, :2].T, s=0.5, c=POINT_COLOR, linewidths=0, rasterized=True, alpha=0.6)
    square = dict(marker='s', markersize=11, markerfacecolor='none', linestyle='none')
    axes.plot(*snapshot.centers[query, :2], markeredgecolor='white', markeredgewidth=2.6, **square)
    axes.plot(*snapshot.centers[query, :2], markeredgecolor='#D55E00', markeredgewidth=1.4, label='center detected',
              **square)
    _star(axes, snapshot.positions[query, :2])
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect='equal')
    axes.set(xlabel='x, to the right (m)', ylabel='y, forward (m)')
    axes.legend(loc='upper right', fontsize=8, framealpha=0.9)


def draw_token_view(axes, snapshot, query, view, values, cmap, norm):
    """Draw values (h, w) of the cells of one view over its image; see `draw_token_bev`.

    Cells without bias or attention are transparent.
    """
    image = snapshot.images[view]
    height, width = image.shape[:2]
    axes.imshow(image.mean(axis=-1), extent=(0, width, height, 0), cmap='gray', vmin=0, vmax=255)
    values = np.clip(values, norm.vmin, norm.vmax)
    strength = np.abs(values) / norm.vmax if norm.vmin < 0 else np.clip(norm(values), 0, 1)
    opacity = 0.9 * np.sqrt(strength)
    axes.imshow(values, extent=(0, width, height, 0), cmap=cmap, norm=norm, alpha=opacity, interpolation='nearest')
    if snapshot.seen[query, view]:
        _star(axes, snapshot.pixels[query, view])
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    name = snapshot.camera_names[view]
    axes.set_title(f'{name}{": lost" * (name in snapshot.lost_cameras)}', fontsize=9)


def _star(axes, place):
    axes.plot(*place, marker='*', markersize=13, color='#D55E00', markeredgecolor='white', markeredgewidth=0.9,
              linestyle='none', label='query')


def _signed(value):
    return f'{value:+.2f}'.replace('-', '−')
