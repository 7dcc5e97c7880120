"""Differences between arms of an ablation with their intervals, from `tools/ablation.py`."""
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..utils.atomic_file import atomic_path
from .figure_legend import add_legend
from .line_styles import LINE_STYLES


def draw_ablation(path, differences, seen):
    """Draw each arm's difference in mAP to the fair baseline, case by case.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        differences (dict[str, dict[str, dict]]): arm -> case -> ``mean``, ``low`` and ``high``.
        seen (set[str]): cases that training drew; the others are marked as zero-shot.
    """
    cases = list(next(iter(differences.values())))
    figure = Figure(figsize=(1.3 * len(cases) + 1.5, 4.8), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    spread = np.linspace(-0.27, 0.27, len(differences)) if len(differences) > 1 else [0.0]
    for (arm, intervals), (color, marker), shift in zip(differences.items(), LINE_STYLES, spread):
        mean, low, high = (np.array([intervals[case][name] for case in cases]) for name in ('mean', 'low', 'high'))
        axes.errorbar(np.arange(len(cases)) + shift, mean, yerr=[mean - low, high - mean], fmt=marker, color=color,
                      capsize=3, label=arm)
    axes.axhline(0, color='0.4', linewidth=1)
    axes.set(ylabel='difference in mAP to\nCMT + failure training', xticks=np.arange(len(cases)),
             xticklabels=[case.replace(':', '\n', 1) + ('' if case in seen else '\n(zero-shot)') for case in cases])
    axes.grid(axis='y', alpha=0.3)
    add_legend(figure, *axes.get_legend_handles_labels(), title='95 % intervals, paired bootstrap over scenes')
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
