"""Scores against the bias strength, from `tools/sweep.py`."""
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..apis.atomic_file import atomic_path
from .line_styles import LINE_STYLES


def draw_sweep(path, scores):
    """Draw one panel per score: its value against the bias strength, a line per mode.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        scores (dict): score -> {mode: list of ``(strength, value)``}, values in [0, 1].
    """
    figure = Figure(figsize=(3.4 * len(scores), 3.6), layout='constrained')
    FigureCanvasAgg(figure)
    for axes, (score, lines) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items()):
        for (mode, points), (color, marker) in zip(lines.items(), LINE_STYLES):
            axes.plot(*zip(*sorted(points)), color=color, marker=marker, label=mode)
        strengths = sorted({strength for points in lines.values() for strength, _ in points})
        axes.set(xlabel='bias strength', ylabel=score, xticks=strengths, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(title='mode')
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
