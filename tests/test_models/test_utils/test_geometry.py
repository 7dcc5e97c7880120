import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from projects.mmdet3d_plugin.models.utils import geometry
from projects.mmdet3d_plugin.models.utils.aqr.query_projection import project_queries
from projects.mmdet3d_plugin.models.utils.token_layout import TokenLayout
from tests.fuzz.oracles import naive_view_cell

RANGE_01 = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]  # the 0.1 m config: 1024 cells of 0.1 m declared over 108 m
CELL_01 = (0.8, 0.8)


@pytest.mark.parametrize('xy, expected', [
    ((48.0, 0.0), (67, 127)),       # (48 + 54) / 0.8 = 127.5: the last column; range-normalized it would be 120
    ((48.39, 48.39), (127, 127)),
    ((48.41, 0.0), None),           # the map ends at +48.4 m
    ((54.0, 0.0), None),            # must not become x = -54 m
    ((-54.0, -54.0), (0, 0)),
    ((-54.01, 0.0), None),
    ((0.0, 48.5), None),
    ((-54.0, 0.79 - 54.0), (0, 0)),
    ((-53.2 + 1e-3, -54.0), (0, 1)),
])
def test_bev_cells_are_metric(xy, expected):
    points = torch.tensor([[[*xy, 0.0]]])
    index = geometry.bev_cells(points, RANGE_01, CELL_01, (128, 128)).item()
    assert index == (-1 if expected is None else expected[0] * 128 + expected[1])


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.1, 2), st.floats(0.1, 2), st.integers(0, 2**31))
def test_bev_cells_equal_a_search_over_cells(height, width, size_x, size_y, seed):
    points = (torch.rand(1, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.2) * 12
    found = geometry.bev_cells(points, [0, 0], (size_x, size_y), (height, width))[0]
    for (x, y, _), index in zip(points[0].tolist(), found.tolist()):
        holds = [row * width + col for row in range(height) for col in range(width)
                 if col * size_x <= x < (col + 1) * size_x and row * size_y <= y < (row + 1) * size_y]
        assert index == (holds[0] if holds else -1)


@pytest.fixture
def two_calibrations(make_batch):
    return make_batch((1, 1))[2]


def test_projection_equals_naive_loop_with_different_calibrations(two_calibrations):
    reference = torch.rand(2, 200, 3, generator=torch.Generator().manual_seed(0))
    layout = TokenLayout((16, 16), (6, 4, 10))
    found = project_queries(reference, two_calibrations, RANGE_01, (6.75, 6.75), layout)
    points = geometry.from_unit_range(reference, RANGE_01).double().numpy()
    seen_by = []
    for b in range(2):
        for q in range(200):
            cells = [naive_view_cell(points[b, q], m, (64, 160), (4, 10)) for m in two_calibrations[b]['lidar2img']]
            seen_by.append(sum(cell is not None for cell in cells))
            for view, cell in enumerate(cells):
                assert bool(found.pts_pers_valid[b, q, view]) == (cell is not None)
                assert tuple(found.pts_pers_idx[b, q, view].tolist()) == (cell or (-1, -1))
    assert {0, 1, 2} <= set(seen_by), 'the test needs unseen queries and queries in an overlap'
    same = (found.pts_pers_idx[0] == project_queries(reference[:1], two_calibrations[1:], RANGE_01, (6.75, 6.75),
                                                     layout).pts_pers_idx[0]).all()
    assert not same, 'the two calibrations must differ'


def test_point_behind_a_camera_is_unseen():
    matrix = torch.tensor([[80.0, 0, 80, 0], [0, 80.0, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).view(1, 1, 4, 4)
    points = torch.tensor([[[0.0, 0.0, 5.0], [0.0, 0.0, -5.0], [0.0, 0.0, 0.0]]])
    pixels, depth = geometry.project_to_views(points, matrix)
    _, seen = geometry.view_cells(pixels, depth, (64, 160), (4, 10))
    assert seen[0, :, 0].tolist() == [True, False, False]
    assert torch.isfinite(pixels).all()


def test_geometry_stays_exact_under_autocast(two_calibrations):
    reference = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(1))
    layout = TokenLayout((16, 16), (6, 4, 10))
    plain = project_queries(reference, two_calibrations, RANGE_01, (6.75, 6.75), layout)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        cast = project_queries(reference, two_calibrations, RANGE_01, (6.75, 6.75), layout)
    assert torch.equal(plain.pts_pers_idx, cast.pts_pers_idx) and torch.equal(plain.pts_idx, cast.pts_idx)


def test_bad_metas(two_calibrations):
    with pytest.raises(ValueError, match='lidar2img'):
        geometry.lidar_to_image_matrices([{}], torch.zeros(1))
    uneven = [two_calibrations[0], dict(two_calibrations[1], lidar2img=two_calibrations[1]['lidar2img'][:5])]
    with pytest.raises(ValueError, match='number of views'):
        geometry.lidar_to_image_matrices(uneven, torch.zeros(1))
    with pytest.raises(ValueError, match='pad_shape'):
        geometry.padded_image_size([dict(pad_shape=[(64, 160, 3), (32, 160, 3)])])
    with pytest.raises(ValueError, match='views'):
        project_queries(torch.rand(2, 1, 3), two_calibrations, RANGE_01, (1, 1), TokenLayout((4, 4), (5, 4, 10)))
