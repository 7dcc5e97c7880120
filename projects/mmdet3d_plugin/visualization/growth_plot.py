"""How the cost of attention grows with queries, tokens and batch, from `tools/benchmark.py growth`."""
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..utils.atomic_file import atomic_path
from .line_styles import LINE_STYLES


def draw_growth(path, growth):
    """Draw one panel per quantity: seconds of forward + backward against its values, a line per candidate.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        growth (dict): quantity -> list of ``(value, {candidate: seconds})``.
    """
    figure = Figure(figsize=(4.2 * len(growth), 3.6), layout='constrained')
    FigureCanvasAgg(figure)
    for axes, (quantity, points) in zip(figure.subplots(1, len(growth), squeeze=False)[0], growth.items()):
        values = [value for value, _ in points]
        for name, (color, marker) in zip(points[0][1], LINE_STYLES):
            axes.plot(values, [seconds[name] for _, seconds in points], color=color, marker=marker, label=name)
        axes.set(xlabel=quantity, ylabel='forward + backward (s)', xticks=values, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
