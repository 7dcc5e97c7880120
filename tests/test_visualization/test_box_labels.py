"""Labels of boxes: none hides another one or a query's number, and each stays near its box."""
import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from projects.mmdet3d_plugin.visualization.box_labels import add_box_label, spread_box_labels
from projects.mmdet3d_plugin.visualization.figures import figure_pixels, new_figure, save_figure


def extents(axes):
    axes.figure.draw_without_rendering()
    return [Text.get_window_extent(text) for text in axes.texts]


def collisions(axes):
    return sum(one.overlaps(other) for one, other in itertools.combinations(extents(axes), 2))


def labeled(places, name='construction vehicle', size=(6, 6)):
    axes = new_figure(size).add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    for number, place in enumerate(places):
        add_box_label(axes, f'{name} 0.{number:02d}', place)
    return axes


@pytest.mark.parametrize('places', [
    [(0.5, 0.5)] * 10, [(1.0, 0.5)] * 5, [(0.99, 0.99)] * 3, [(0.001, 0.001)] * 3,
    [(0.3 + 0.01 * step, 0.4 + 0.015 * step) for step in range(11)], np.random.default_rng(0).uniform(0, 1, (30, 2))],
    ids=['one place', 'right border', 'upper right corner', 'lower left corner', 'a row of barriers', 'anywhere'])
def test_labels_keep_off_each_other_within_the_axes(places):
    axes = labeled(places)
    before = extents(axes)
    assert collisions(axes) > 0
    spread_box_labels(axes.figure)
    after = extents(axes)
    assert collisions(axes) == 0
    for own, box in zip(before, after):
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
        assert abs(box.y0 - own.y0) <= 12 * own.height + 1 and abs(box.x0 - own.x0) <= own.width + 4  # two gaps


def test_a_label_with_room_stays_beside_its_place():
    axes = labeled([(0.2, 0.2), (0.2, 0.8)])
    spread_box_labels(axes.figure)
    assert [text.get_position() for text in axes.texts] == [(1, 1), (1, 1)]


def test_lines_of_labels_without_room_end_at_the_border():
    """Nothing of their color lies outside the axes, where there is room to all sides."""
    axes = labeled([(1.0, 0.5)] * 40, size=(4, 4))
    axes.figure.set_layout_engine('none')
    axes.set_position([0.3, 0.3, 0.4, 0.4])
    brownish = np.ptp(figure_pixels(axes.figure).astype(int), axis=-1) > 20
    assert brownish[:, :int(axes.bbox.x1)].any() and not brownish[:, int(axes.bbox.x1) + 2:].any()


def test_numbers_of_queries_are_not_hidden():
    axes = labeled([(0.5, 0.5)])
    number = axes.annotate('154', (0.5, 0.5), xytext=(2, 2), textcoords='offset points', fontsize=10)
    assert collisions(axes) == 1
    spread_box_labels(axes.figure)
    assert collisions(axes) == 0 and number.get_position() == (2, 2)


def test_figures_are_saved_without_collisions(tmp_path):
    axes = labeled([(0.5, 0.5)] * 3)
    save_figure(axes.figure, tmp_path / 'labels.png')
    assert collisions(axes) == 0 and (tmp_path / 'labels.png').is_file()


def test_labels_without_room_are_all_there():
    axes = labeled([(0.5, 0.5)] * 60, size=(2, 2))
    spread_box_labels(axes.figure)
    assert len(axes.texts) == 60 and all(text.get_visible() for text in axes.texts)
