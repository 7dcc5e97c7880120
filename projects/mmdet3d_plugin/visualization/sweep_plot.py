"""Scores against the bias strength, from `tools/sweep.py`."""
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..utils.atomic_file import atomic_path
from .figure_legend import add_legend
from .line_styles import LINE_STYLES

_LEAST_SPAN = 0.02  # of scores on an axis: less is noise


def draw_sweep(path, scores):
    """Draw one panel per score: its value against the bias strength, a line per mode.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        scores (dict): score -> {mode: list of ``(strength, value)``}, values in [0, 1].
    """
    figure = Figure(figsize=(3.4 * len(scores), 4.0), layout='constrained')
    FigureCanvasAgg(figure)
    for axes, (score, lines) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items()):
        for (mode, points), (color, marker) in zip(lines.items(), LINE_STYLES):
            axes.plot(*zip(*sorted(points)), color=color, marker=marker, label=mode)
        strengths = sorted({strength for points in lines.values() for strength, _ in points})
        axes.margins(0.1)
        low, high = axes.get_ylim()
        spare = max(0, _LEAST_SPAN - (high - low)) / 2
        axes.set(xlabel='bias strength', ylabel=score, xticks=strengths, ylim=(low - spare, high + spare))
        axes.grid(alpha=0.3)
    add_legend(figure, *axes.get_legend_handles_labels(), title='mode')
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
