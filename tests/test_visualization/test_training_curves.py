import mmcv
import numpy as np
import pytest

from projects.mmdet3d_plugin.visualization import LINE_STYLES, draw_training_curves


@pytest.mark.parametrize('panels, rows, columns', [(1, 1, 1), (3, 1, 3), (4, 2, 3), (6, 2, 3)])
def test_panels(tmp_path, panels, rows, columns):
    lines = {'a': [(1, 1.0), (2, 2.0)], 'b': []}
    draw_training_curves(tmp_path / 'one.png', dict(loss=lines))
    draw_training_curves(tmp_path / 'all.png', {f'number {index}': lines for index in range(panels)})
    one, all_ = (mmcv.imread(str(tmp_path / f'{name}.png')) for name in ('one', 'all'))
    assert all_.shape[1] == columns * one.shape[1]
    assert all_.shape[0] == pytest.approx(one.shape[0] + (rows - 1) * 2.9 * 120, abs=3)


def test_a_run_keeps_its_colour(tmp_path):
    """Also where an earlier one has no points."""
    full, empty = [(0, 0.0), (10, 1.0)], []
    draw_training_curves(tmp_path / 'x.png', dict(loss=dict(a=full, b=full), weight=dict(a=empty, b=full)))
    image = mmcv.imread(str(tmp_path / 'x.png'), channel_order='rgb').astype(int)
    right = image[60:, image.shape[1] // 2:]
    color = [int(LINE_STYLES[1][0][i:i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(right - color) < 30).all(axis=2).sum() > 100


def test_styles_differ():
    assert len({color for color, _ in LINE_STYLES}) == len({marker for _, marker in LINE_STYLES}) == len(LINE_STYLES)
