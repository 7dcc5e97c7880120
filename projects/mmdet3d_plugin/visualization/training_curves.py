"""Numbers of several training runs against iterations, from `tools/plot_training.py`."""
import math

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..utils.atomic_file import atomic_path
from .figure_legend import add_legend
from .line_styles import LINE_STYLES

_COLUMNS = 3
_MARKERS = 15  # of a line


def draw_training_curves(path, panels):
    """Draw one panel per number, a line per run.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        panels (dict[str, dict[str, list]]): axis label -> {run: list of ``(iteration, value)``}, at most as many runs
            as there are ``LINE_STYLES``; a run without points is left out of a panel.
    """
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows + 0.4), layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels):]:
        axes.remove()
    runs = list(dict.fromkeys(run for lines in panels.values() for run in lines))
    styles = dict(zip(runs, LINE_STYLES))
    handles = {}
    for axes, (label, lines) in zip(grid.flat, panels.items()):
        for run, points in lines.items():
            if points:
                color, marker = styles[run]
                handles[run], = axes.plot(*zip(*points), color=color, marker=marker, markersize=4, linewidth=1.2,
                                           markevery=max(1, len(points) // _MARKERS))
        axes.set(xlabel='iteration', ylabel=label)
        axes.grid(alpha=0.3)
    add_legend(figure, list(handles.values()), handles)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
