import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from projects.mmdet3d_plugin.visualization.figure_legend import add_legend


@pytest.mark.parametrize('width', [3, 6, 20])
@pytest.mark.parametrize('labels', [['a'], ['CMT + failure training', '+ AQR, global', 'x' * 25, '+ AQR, local', 'y']])
def test_the_legend_lies_within_the_figure(width, labels):
    figure = Figure(figsize=(width, 4), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    handles = [axes.plot([0, 1])[0] for _ in labels]
    legend = add_legend(figure, handles, labels, title='title')
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
    assert box.y0 >= axes.get_window_extent().y1 and figure.legends == [legend]
    rows = {round(text.get_window_extent().y0) for text in legend.get_texts()}
    assert (len(rows) == 1) == (width == 20 or len(labels) == 1)


def test_a_label_wider_than_the_figure_is_shown_nevertheless():
    figure = Figure(figsize=(1, 2), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels = ['x' * 60, 'y' * 60]
    legend = add_legend(figure, [axes.plot([0, 1])[0] for _ in labels], labels)
    assert figure.legends == [legend] and len({round(text.get_window_extent().y0) for text in legend.get_texts()}) == 2
