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
