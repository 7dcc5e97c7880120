"""Plots of numbers: differences of an ablation, headroom of routing, cost of attention, sweeps, training runs."""
import math

import numpy as np

from .figures import LINE_STYLES, legend_above, new_figure, save_figure

_LEAST_SPAN = 0.02  # of scores on an axis: less is noise
_COLUMNS = 3  # panels of training curves beside each other
_MARKERS = 15  # on a training curve
_OUTLIER = 20  # times the median: beside such a value all others look like zero


def draw_ablation(path, differences, seen, fair):
    """Draw each arm's difference in mAP to the arm that it is compared with, a line per case (`tools/ablation.py`).

    Args:
        path (str | Path): picture to write; its suffix is the format.
        differences (dict[str, dict[str, dict]]): arm -> label of a case -> ``mean``, ``low`` and ``high``.
        seen (set[str]): labels of cases that training drew; the others are marked with a star.
        fair (str): what the arms are compared with.
    """
    cases = next(iter(differences.values()))
    _draw_differences(path, {case if case in seen else f'{case} *': {
        arm: intervals[case] for arm, intervals in differences.items()} for case in cases},
        f'difference in mAP to {fair}\n(right is better →; * never in training)')


def draw_growth(path, growth, title='forward + backward'):
    """Draw how a cost grows with queries, tokens and batch (`benchmarks/run.py growth`, `head-growth`).

    One panel per quantity: seconds against its values, a line per candidate.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        growth (dict): quantity -> list of ``(value, {candidate: seconds})``.
        title (str): of the pass that was timed.
    """
    figure = new_figure((4.2 * len(growth), 3.6))
    for axes, (quantity, points) in zip(figure.subplots(1, len(growth), squeeze=False)[0], growth.items()):
        values = [value for value, _ in points]
        for name, style in _styles(points[0][1]).items():
            axes.plot(values, [seconds[name] for _, seconds in points], label=name, **style)
        axes.set(xlabel=quantity, ylabel=f'{title} (s)', xticks=values, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


def draw_headroom(path, gains):
    """Draw what else a detector could have done against what it did, with intervals, a line per case.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        gains (dict[str, dict[str, dict]]): case -> way -> ``mean``, ``low`` and ``high`` of its difference in mAP.
    """
    _draw_differences(path, gains, 'difference in mAP to the same detector without routing (right is better →)')


def draw_precision_recall(path, curves):
    """Draw precision against recall, a panel per class (`tools/evaluate.py --curves`).

    nuScenes' AP is the area above a precision of 0.1, right of a recall of 0.1, as a share of what there can be: both
    limits are dotted.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        curves (dict[str, tuple[ndarray, ndarray]]): class -> recall and precision, (d,) each in [0, 1].
    """
    columns = min(5, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = new_figure((2.6 * columns, 2.5 * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(curves):]:
        axes.remove()
    for axes, (name, (recall, precision)) in zip(grid.flat, curves.items()):
        axes.plot(recall, precision, color=LINE_STYLES[0][0], linewidth=1.4)
        for draw in (axes.axhline, axes.axvline):
            draw(0.1, color='0.5', linewidth=0.8, linestyle='dotted')
        axes.set(title=f'{name} (recall {recall.max(initial=0):.2f})', xlim=(0, 1), ylim=(0, 1.02))
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    figure.supxlabel('recall', fontsize=10)
    figure.supylabel('precision', fontsize=10)
    figure.suptitle('Detections matched within 2 m', fontsize=11)
    save_figure(figure, path)


def draw_sweep(path, scores):
    """Draw one panel per score: its value against the bias strength, a line per mode (`tools/sweep.py`).

    Args:
        path (str | Path): picture to write; its suffix is the format.
        scores (dict): score -> {mode: list of ``(strength, value)``}, values in [0, 1].
    """
    figure = new_figure((3.4 * len(scores), 4.0))
    for axes, (score, lines) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items()):
        for mode, style in _styles(lines).items():
            axes.plot(*zip(*sorted(lines[mode])), label=mode, **style)
        strengths = sorted({strength for points in lines.values() for strength, _ in points})
        axes.margins(0.1)
        low, high = axes.get_ylim()
        spare = max(0, _LEAST_SPAN - (high - low)) / 2
        axes.set(xlabel='bias strength', ylabel=score, xticks=strengths, ylim=(low - spare, high + spare))
        axes.grid(alpha=0.3)
    legend_above(figure, *axes.get_legend_handles_labels(), title='mode')
    save_figure(figure, path)


def draw_training_curves(path, panels):
    """Draw one panel per number: its value against the iteration, a line per run (`tools/plot_training.py`).

    Axes of numbers that are never negative begin at 0; they are logarithmic where a value dwarfs all others.

    Args:
        path (str | Path): picture to write; its suffix is the format.
        panels (dict[str, dict[str, list]]): axis label -> {run: list of ``(iteration, value)``}, at most twice
            as many runs as there are ``LINE_STYLES``; a run without points is left out of a panel.
    """
    rows = math.ceil(len(panels) / _COLUMNS)
    columns = math.ceil(len(panels) / rows)
    figure = new_figure((4.2 * columns, 2.9 * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels):]:
        axes.remove()
    runs = list(dict.fromkeys(run for lines in panels.values() for run in lines))
    styles = _styles(runs)
    handles = {}
    for axes, (label, lines) in zip(grid.flat, panels.items()):
        for run, points in lines.items():
            if points:
                handles[run], = axes.plot(*zip(*points), markersize=4, linewidth=1.2, **styles[run],
                                           markevery=max(1, len(points) // _MARKERS))
        axes.set(xlabel='iteration', ylabel=label)
        values = [value for points in lines.values() for _, value in points]
        if values and min(values) > 0 and max(values) > _OUTLIER * np.median(values):
            axes.set_yscale('log')
        elif all(value >= 0 for value in values):
            axes.set_ylim(bottom=0)  # a difference looks as large as it is
        axes.grid(alpha=0.3)
    legend_above(figure, list(handles.values()), handles)
    save_figure(figure, path)


def _styles(names):
    """Name -> its color and marker, hollow from the eighth on, for `Axes.plot`; raises ValueError for too many names.
    """
    styles = [dict(color=color, marker=marker, fillstyle=fill) for fill in ('full', 'none')
              for color, marker in LINE_STYLES]
    if len(names) > len(styles):
        raise ValueError(f'at most {len(styles)} lines are told apart in one plot, got {len(names)}: {list(names)}')
    return dict(zip(names, styles))


def _draw_differences(path, gains, xlabel):
    """Points with intervals: a line per case, a colour per way; ``gains`` as in :func:`draw_headroom`."""
    ways = list(next(iter(gains.values())))
    figure = new_figure((7.5, max(0.42, 0.12 * len(ways)) * len(gains) + 1.6))
    axes = figure.subplots()
    spread = np.linspace(-0.27, 0.27, len(ways)) if len(ways) > 1 else [0.0]
    for (way, style), shift in zip(_styles(ways).items(), spread):
        mean, low, high = ([case[way][name] for case in gains.values()] for name in ('mean', 'low', 'high'))
        place = np.arange(len(gains)) + shift
        axes.hlines(place, low, high, color=style['color'], linewidth=1.2)
        axes.plot(mean, place, markersize=4, linestyle='none', label=way, **style)
    axes.axvline(0, color='0.4', linewidth=1)
    axes.set(xlabel=xlabel, yticks=np.arange(len(gains)), yticklabels=list(gains), ylim=(len(gains) - 0.4, -0.6))
    axes.grid(axis='x', alpha=0.3)
    legend_above(figure, *axes.get_legend_handles_labels(), title='95 % intervals, paired bootstrap over scenes')
    save_figure(figure, path)
