import mmcv
import numpy as np
import pytest

from projects.mmdet3d_plugin.visualization import (
    LINE_STYLES,
    draw_ablation,
    draw_growth,
    draw_sweep,
    draw_training_curves,
)

GROWTH = [(300, {'plain': 0.1, 'global': 0.11}), (900, {'plain': 0.3, 'global': 0.33})]
SWEEP = {'global': [(3.0, 0.2), (7.0, 0.1)], 'local': [(5.0, 0.3)]}


def pixels_like(image, number, tolerance):
    """(H, W) bool mask of the pixels in the color of a line, by its number."""
    color = [int(LINE_STYLES[number][0][i:i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(image - color) < tolerance).all(axis=-1)


@pytest.mark.parametrize('draw, panel', [(draw_growth, GROWTH), (draw_sweep, SWEEP)], ids=['growth', 'sweep'])
def test_one_panel_per_quantity_or_score(tmp_path, draw, panel):
    draw(tmp_path / 'one.png', dict(first=panel))
    draw(tmp_path / 'two.png', dict(first=panel, second=panel))
    one, two = (mmcv.imread(str(tmp_path / f'{name}.png')) for name in ('one', 'two'))
    assert one.shape[0] == two.shape[0] and two.shape[1] == 2 * one.shape[1]
    assert (one != 255).any(axis=2).mean() > 0.01
    assert sorted(file.name for file in tmp_path.iterdir()) == ['one.png', 'two.png']


def test_close_scores_are_told_apart(tmp_path):
    """Lines 0.01 apart, far from zero: a quarter of the picture lies between them."""
    lines = {'global': [(3.0, 0.55), (7.0, 0.55)], 'local': [(3.0, 0.54), (7.0, 0.54)]}
    draw_sweep(tmp_path / 'scores.png', dict(mAP=lines))
    image = mmcv.imread(str(tmp_path / 'scores.png'), channel_order='rgb').astype(int)
    column = image[:, image.shape[1] * 3 // 4]  # (H, 3), through both lines, beside the legend
    black, blue = (pixels_like(column, number, 40).nonzero()[0] for number in (0, 1))
    assert blue.max() - black[black < blue.min()].max() > len(column) / 4


@pytest.mark.parametrize('panels, rows, columns', [(1, 1, 1), (3, 1, 3), (4, 2, 2), (5, 2, 3), (7, 3, 3)])
def test_panels_of_training_curves(tmp_path, panels, rows, columns):
    lines = {'a': [(1, 1.0), (2, 2.0)], 'b': []}
    draw_training_curves(tmp_path / 'one.png', dict(loss=lines))
    draw_training_curves(tmp_path / 'all.png', {f'number {index}': lines for index in range(panels)})
    one, all_ = (mmcv.imread(str(tmp_path / f'{name}.png')) for name in ('one', 'all'))
    assert all_.shape[1] == columns * one.shape[1]
    assert all_.shape[0] == pytest.approx(one.shape[0] + (rows - 1) * 2.9 * 120, abs=3)


def test_a_run_keeps_its_color(tmp_path):
    """Also where an earlier one has no points."""
    full, empty = [(0, 0.0), (10, 1.0)], []
    draw_training_curves(tmp_path / 'x.png', dict(loss=dict(a=full, b=full), weight=dict(a=empty, b=full)))
    image = mmcv.imread(str(tmp_path / 'x.png'), channel_order='rgb').astype(int)
    right = image[60:, image.shape[1] // 2:]
    assert pixels_like(right, 1, 30).sum() > 100


def test_one_huge_value_does_not_hide_the_others(tmp_path):
    """Lines at 100 and 10 behind a first value of 5000: a fifth of the picture lies between them."""
    lines = {run: [(0, 5000.0), *((step, value) for step in range(1, 30))] for run, value in dict(a=100, b=10).items()}
    draw_training_curves(tmp_path / 'norm.png', dict(norm=lines))
    image = mmcv.imread(str(tmp_path / 'norm.png'), channel_order='rgb').astype(int)
    column = image[60:, image.shape[1] * 3 // 4]  # (H, 3), through both lines, below the legend
    black, blue = (pixels_like(column, number, 40).nonzero()[0] for number in (0, 1))
    assert blue.min() - black.min() > len(column) / 5


def test_differences_lie_on_both_sides_of_zero_with_their_intervals(tmp_path):
    """The second arm is better in both cases, the third one worse."""
    intervals = {arm: {case: dict(mean=mean, low=mean - 0.01, high=mean + 0.01) for case in ('clean', 'fov:60')}
                 for arm, mean in dict(a=0.0, b=0.04, c=-0.04).items()}
    draw_ablation(tmp_path / 'ablation.png', intervals, {'clean'}, 'CMT')
    image = mmcv.imread(str(tmp_path / 'ablation.png'), channel_order='rgb').astype(int)
    panel = image[image.shape[0] // 4:]  # without the legend
    better, worse = (pixels_like(panel, number, 30).nonzero()[1] for number in (1, 2))  # columns
    assert 20 < better.max() - better.min() == pytest.approx(worse.max() - worse.min(), abs=3)
    zero = (np.abs(panel - 0.4 * 255) < 5).all(axis=-1).sum(axis=0).argmax()  # the longest gray column
    assert worse.max() < zero < better.min()
    assert [file.name for file in tmp_path.iterdir()] == ['ablation.png']


def intervals_of(number):
    """Differences of so many arms in one case, 0.04 apart."""
    return {f'arm {arm}': dict(clean=dict(mean=0.04 * arm, low=0.04 * arm, high=0.04 * arm)) for arm in range(number)}


def test_more_arms_than_colors_are_all_drawn(tmp_path):
    """The eighth has the first one's color at another place."""
    draw_ablation(tmp_path / 'ablation.png', intervals_of(8), {'clean'}, 'CMT')
    image = mmcv.imread(str(tmp_path / 'ablation.png'), channel_order='rgb').astype(int)
    height, width = image.shape[:2]
    panel = pixels_like(image, 0, 30)[height // 3:height * 3 // 4]  # without legend and labels
    assert panel[:, width // 8:width // 3].any() and panel[:, width * 3 // 4:width * 19 // 20].any()
    with pytest.raises(ValueError, match="at most 14 lines are told apart in one plot, got 15: .*'arm 14'"):
        draw_ablation(tmp_path / 'more.png', intervals_of(15), {'clean'}, 'CMT')
    assert [file.name for file in tmp_path.iterdir()] == ['ablation.png']
