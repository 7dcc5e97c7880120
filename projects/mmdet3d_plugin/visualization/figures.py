"""How figures are made, laid out and saved, their legends, and the styles of lines.

Figures of this package are drawn by matplotlib's Agg back end without touching its global state.
"""
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..utils.atomic_file import atomic_path
from .box_labels import spread_box_labels

# Color and marker of each line of a plot: Okabe and Ito's palette, told apart with all common forms of color blindness.
LINE_STYLES = (('#000000', 'o'), ('#56B4E9', 's'), ('#D55E00', '^'), ('#009E73', 'D'), ('#CC79A7', 'v'),
               ('#0072B2', 'P'), ('#E69F00', 'X'))


def new_figure(size, dpi=120):
    """An empty figure of a size in inches of `dpi` dots, laid out without overlaps."""
    figure = Figure(figsize=size, dpi=dpi, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, path):
    """Write a figure, labels of boxes spread out; the file appears whole or not at all.

    Args:
        figure (Figure): made by `new_figure`.
        path (str | Path): picture to write; its suffix is the format.
    """
    spread_box_labels(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def figure_pixels(figure):
    """What `save_figure` would write, as RGB (H, W, 3) uint8."""
    spread_box_labels(figure)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def legend_above(figure, handles, labels, title=None):
    """Put one legend for all panels above them, in one row if it is not wider than the figure, in more rows otherwise.

    Args:
        figure (Figure): made by `new_figure`.
        handles, labels (Sequence): see `Figure.legend`.
        title (str | None): of the legend.

    Returns:
        Legend
    """
    labels = list(labels)
    columns = len(labels)
    while True:
        legend = figure.legend(handles, labels, loc='outside upper center', ncols=columns, title=title)
        figure.draw_without_rendering()
        if columns <= 1 or legend.get_window_extent().width <= figure.bbox.width:
            return legend
        legend.remove()
        columns -= 1


def legend_below(figure, handles, columns=None):
    """Put one legend for all panels below them, without a frame.

    Args:
        figure (Figure): made by `new_figure`.
        handles (Sequence): with labels of their own; without any there is no legend.
        columns (int | None): entries in a row; default: all.
    """
    if handles:
        figure.legend(handles=handles, loc='outside lower center', ncols=columns or len(handles), frameon=False)


def legend_under(axes, handles, columns):
    """Put a legend right under axes, for those that a figure leaves more room than they fill.

    Args:
        axes (Axes): with a label of its x axis.
        handles (Sequence): with labels of their own.
        columns (int): entries in a row.
    """
    axes.legend(handles=handles, loc='upper center', bbox_to_anchor=(0.5, 0), ncols=columns, frameon=False,
                borderaxespad=3.6)  # of the font's size: below ticks and label, however large the axes are
