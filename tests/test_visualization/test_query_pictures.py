import dataclasses

import numpy as np
import pytest

from projects.mmdet3d_plugin.visualization.query_pictures import draw_query, query_figure
from tests.tiny_snapshot import BEV, CAMERAS, CELL, HEIGHT, RANGE, VIEW, WIDTH, make_snapshot, project

ALPHA = 5.0
QUERY = 4
ORDER = ['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT']


def cone(shape, cell):
    """Factor of each cell around one, None for no cell; windows are 5 wide."""
    factors = np.zeros(shape)
    if cell is not None:
        for row in range(shape[0]):
            for column in range(shape[1]):
                factors[row, column] = max(0, 1 - np.hypot(row - cell[0], column - cell[1]) / 2.5)
    return factors


def expected_bias(snapshot, query, local):
    """The BEV map and the views by name, cell by cell from weights and geometry."""
    lidar, camera = ((weights[query] - 0.5) * 2 * ALPHA
                     for weights in (snapshot.lidar_weights, snapshot.camera_weights))
    if not local:
        return np.full(BEV, lidar), {name: np.full(VIEW[1:], camera) for name in CAMERAS}
    x, y, _ = position = snapshot.positions[query]
    cell = int((y - RANGE[1]) // CELL[1]), int((x - RANGE[0]) // CELL[0])
    bev = lidar * cone(BEV, cell if cell[0] < BEV[0] and cell[1] < BEV[1] else None)
    views = {}
    for name in CAMERAS:
        (u, v), seen = project(position, name)
        views[name] = camera * cone(VIEW[1:], (int(v * VIEW[1] / HEIGHT), int(u * VIEW[2] / WIDTH)) if seen else None)
    return bev, views


@pytest.mark.parametrize('local', [False, True])
def test_maps_of_bias_and_attention(local):
    snapshot = make_snapshot(local=local)
    figure = query_figure(snapshot, QUERY)
    bias_bev, bias_views = expected_bias(snapshot, QUERY, local)
    flat = np.concatenate([bias_bev.ravel(), *(bias_views[name].ravel() for name in CAMERAS)])
    # The raw scores, up to a constant: attention without the bias.
    _, unbiased = snapshot.attention([QUERY])
    biased = unbiased[0] * np.exp(flat)
    biased /= biased.sum()
    largest = max(biased.max(), unbiased.max())
    scale = (largest / 1000, largest)
    gained = biased - unbiased[0]
    limit = np.abs(gained).max()
    rows = [(unbiased[0], scale), (biased, scale), (gained, (-limit, limit))]
    if local:
        rows.insert(0, (flat, (-ALPHA, ALPHA)))
    assert len(figure.subfigs) == len(rows)
    for part, (tokens, (low, high)) in zip(figure.subfigs, rows):
        tokens = np.clip(tokens, low, high)
        bev, *views = part.axes[:7]
        np.testing.assert_allclose(bev.images[0].get_array(), tokens[:42].reshape(BEV), atol=1e-6)
        assert bev.images[0].get_extent() == [-28.8, -28.8 + 7 * 8.0, -28.8, -28.8 + 6 * 8.5]
        assert bev.images[0].origin == 'lower' and bev.get_xlabel() == 'x, to the right (m)'
        for axes, name in zip(views, ORDER):
            assert axes.get_title() == name
            start = 42 + 15 * CAMERAS.index(name)
            overlay = axes.images[1]
            np.testing.assert_allclose(overlay.get_array(), tokens[start:start + 15].reshape(VIEW[1:]), atol=1e-6)
            assert list(overlay.get_extent()) == [0, WIDTH, HEIGHT, 0]
            stars = [line for line in axes.lines if line.get_label() == 'query']
            pixel, seen = project(snapshot.positions[QUERY], name)
            assert len(stars) == seen
            for star in stars:
                np.testing.assert_allclose(np.ravel(star.get_data()), pixel, rtol=1e-5)
        star, = (line for line in bev.lines if line.get_label() == 'query')
        np.testing.assert_allclose(np.ravel(star.get_data()), snapshot.positions[QUERY, :2])


def test_titles_say_where_attention_goes():
    snapshot = make_snapshot(local=True)
    bias, without, with_bias, added = (part.get_suptitle() for part in query_figure(snapshot, QUERY).subfigs)
    biased, unbiased = (part[0, :42].sum() for part in snapshot.attention([QUERY]))
    assert without == f'attention without the bias, layer 2: LiDAR {unbiased:.1%}, cameras {1 - unbiased:.1%}'
    assert with_bias == f'attention with the bias, layer 2: LiDAR {biased:.1%}, cameras {1 - biased:.1%}'
    lidar, camera = ((weights[QUERY] - 0.5) * 2 * ALPHA
                     for weights in (snapshot.lidar_weights, snapshot.camera_weights))
    assert bias.replace('−', '-') == f'bias on the scores: LiDAR {lidar:+.2f}, cameras {camera:+.2f}'
    gain = biased - unbiased
    assert added.replace('−', '-') == (f'what the bias adds, percentage points: LiDAR {100 * gain:+.1f}, '
                                        f'cameras {-100 * gain:+.1f}')
    folded = query_figure(make_snapshot(), QUERY).subfigs[1].get_suptitle().replace('−', '-')
    assert folded.endswith(f'; bias on all scores: LiDAR {lidar:+.2f}, cameras {camera:+.2f}')


def test_titles_name_what_goes_to_stand_ins():
    snapshot = make_snapshot()
    biased, unbiased = snapshot.attention([QUERY])
    left = biased.copy()
    left[:, 42:] *= 0.25  # a query that distrusts the cameras
    snapshot = dataclasses.replace(snapshot, attention=lambda queries: (left, unbiased))
    title = query_figure(snapshot, QUERY).subfigs[1].get_suptitle()
    lidar, cameras = left[0, :42].sum(), left[0, 42:].sum()
    assert f': LiDAR {lidar:.1%}, cameras {cameras:.1%}, stand-ins {1 - lidar - cameras:.1%}; bias' in title
    added = query_figure(snapshot, QUERY).subfigs[2].get_suptitle().replace('−', '-')
    lidar, cameras = lidar - unbiased[0, :42].sum(), cameras - unbiased[0, 42:].sum()
    lidar, cameras = 100 * lidar, 100 * cameras
    assert added == (f'what the bias adds, percentage points: LiDAR {lidar:+.1f}, cameras {cameras:+.1f}, '
                     f'stand-ins {-lidar - cameras:+.1f}')


@pytest.mark.parametrize('local', [False, True])
def test_a_query_without_bias_has_its_attention_alone(local):
    snapshot = make_snapshot(neutral=True, local=local)
    part, = query_figure(snapshot, QUERY).subfigs
    attention = snapshot.attention([QUERY])[1][0]
    lidar = attention[:42].sum()
    assert part.get_suptitle() == f'attention, layer 2: LiDAR {lidar:.1%}, cameras {1 - lidar:.1%}; no bias'
    shown = np.clip(attention[:42].reshape(BEV), attention.max() / 1000, None)
    np.testing.assert_allclose(part.axes[0].images[0].get_array(), shown, atol=1e-6)


def test_a_neutral_query(tmp_path):
    draw_query(tmp_path / 'query.png', make_snapshot(neutral=True), QUERY, 'neutral')
    assert (tmp_path / 'query.png').stat().st_size > 10_000
