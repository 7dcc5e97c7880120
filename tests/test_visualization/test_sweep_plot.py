import mmcv

from projects.mmdet3d_plugin.visualization import draw_sweep


def test_one_panel_per_score(tmp_path):
    lines = {'global': [(3.0, 0.2), (7.0, 0.1)], 'local': [(5.0, 0.3)]}
    draw_sweep(tmp_path / 'one.png', dict(mAP=lines))
    draw_sweep(tmp_path / 'two.png', dict(mAP=lines, NDS=lines))
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
    black, blue = ((abs(column - color) < 40).all(axis=1).nonzero()[0] for color in ((0, 0, 0), (0x56, 0xB4, 0xE9)))
    assert blue.max() - black[black < blue.min()].max() > len(column) / 4
