import pytest

from projects.mmdet3d_plugin.visualization import LINE_STYLES
from projects.mmdet3d_plugin.visualization.figures import legend_above, legend_below, legend_under, new_figure


@pytest.mark.parametrize('width', [3, 6, 20])
@pytest.mark.parametrize('labels', [['a'], ['CMT + failure training', '+ AQR, global', 'x' * 25, '+ AQR, local', 'y']])
def test_the_legend_lies_within_the_figure(width, labels):
    figure = new_figure((width, 4))
    axes = figure.subplots()
    handles = [axes.plot([0, 1])[0] for _ in labels]
    legend = legend_above(figure, handles, labels, title='title')
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
    assert box.y0 >= axes.get_window_extent().y1 and figure.legends == [legend]
    rows = {round(text.get_window_extent().y0) for text in legend.get_texts()}
    assert (len(rows) == 1) == (width == 20 or len(labels) == 1)


def test_a_label_wider_than_the_figure_is_shown_nevertheless():
    figure = new_figure((1, 2))
    axes = figure.subplots()
    labels = ['x' * 60, 'y' * 60]
    legend = legend_above(figure, [axes.plot([0, 1])[0] for _ in labels], labels)
    assert figure.legends == [legend] and len({round(text.get_window_extent().y0) for text in legend.get_texts()}) == 2


@pytest.mark.parametrize('columns, rows', [(None, 1), (3, 1), (2, 2), (1, 3)])
def test_a_legend_below_the_panels(columns, rows):
    figure = new_figure((6, 4))
    axes = figure.subplots()
    legend_below(figure, [axes.plot([0, 1], label=label)[0] for label in 'abc'], columns)
    figure.draw_without_rendering()
    legend, = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['a', 'b', 'c']
    assert len({round(text.get_window_extent().y0) for text in legend.get_texts()}) == rows
    assert -1 <= legend.get_window_extent().y0 and legend.get_window_extent().y1 <= axes.get_window_extent().y0


def test_a_legend_right_under_axes_that_leave_room():
    figure = new_figure((4, 10))
    axes = figure.subplots()
    axes.set(aspect='equal', xlabel='x')
    legend_under(axes, [axes.plot([0, 1], label=label)[0] for label in 'abc'], 2)
    figure.draw_without_rendering()
    legend, label = axes.get_legend().get_window_extent(), axes.xaxis.label.get_window_extent()
    assert label.y0 - 30 < legend.y1 <= label.y0 + 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['a', 'b', 'c']


def test_no_legend_without_entries():
    figure = new_figure((6, 4))
    legend_below(figure, [])
    assert figure.legends == []


def test_styles_differ():
    assert len({color for color, _ in LINE_STYLES}) == len({marker for _, marker in LINE_STYLES}) == len(LINE_STYLES)
