import mmcv

from projects.mmdet3d_plugin.visualization import draw_growth


def test_one_panel_per_quantity(tmp_path):
    points = [(300, {'plain': 0.1, 'global': 0.11}), (900, {'plain': 0.3, 'global': 0.33})]
    draw_growth(tmp_path / 'one.png', dict(queries=points))
    draw_growth(tmp_path / 'two.png', dict(queries=points, batch=points))
    one, two = (mmcv.imread(str(tmp_path / f'{name}.png')) for name in ('one', 'two'))
    assert one.shape[0] == two.shape[0] and two.shape[1] == 2 * one.shape[1]
    assert (one != 255).any(axis=2).mean() > 0.01
    assert sorted(file.name for file in tmp_path.iterdir()) == ['one.png', 'two.png']
