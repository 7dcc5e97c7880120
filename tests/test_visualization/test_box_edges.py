import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.core.bbox import LiDARInstance3DBoxes

from projects.mmdet3d_plugin.visualization.box_edges import BOTTOM, EDGES, project_edges

NEAR = 0.1
# LiDAR x right, y forward, z up; the camera at the origin looks forward: u right, v down.
LIDAR2IMG = np.array([[500., 400., 0, 0], [0, 300., -500., 0], [0, 1., 0, 0], [0, 0, 0, 1]])


def project_edges_oracle(corners, lidar2img, near):
    """Walk along every edge in small steps and project what lies before the near plane, point by point."""
    lines = []
    for box in corners:
        for a, b in EDGES:
            pixels = []
            for t in np.linspace(0, 1, 101):
                u, v, depth, _ = lidar2img @ np.append((1 - t) * box[a] + t * box[b], 1)
                if depth > near:
                    pixels.append((u / depth, v / depth))
            if pixels:
                lines.append(np.array(pixels))
    return lines


def corners_of(*boxes):
    return LiDARInstance3DBoxes(torch.tensor(boxes), box_dim=7).corners.numpy()


@given(st.lists(st.tuples(*[st.floats(-8, 8)] * 3, *[st.floats(0.5, 6)] * 3, st.floats(-3, 3)), min_size=1, max_size=3))
def test_segments_contain_all_of_an_edge_before_the_camera_and_nothing_else(boxes):
    corners = corners_of(*boxes).astype(np.float64)
    segments = project_edges(corners, LIDAR2IMG, NEAR)
    assert np.isfinite(segments).all()
    expected = project_edges_oracle(corners, LIDAR2IMG, NEAR)
    lines = iter(segments)
    for pixels in expected:
        # An edge shorter before the camera than the oracle's step may be missing there, never the other way round.
        for start, end in lines:
            direction, length = end - start, np.linalg.norm(end - start)
            along = (pixels - start) @ direction / max(length, 1e-9)**2
            across = np.abs(np.cross(pixels - start, direction)) / max(length, 1e-9)
            tolerance = 1e-6 * (1 + np.abs(segments).max())
            if (across < tolerance).all() and (along > -1e-6).all() and (along < 1 + 1e-6).all():
                break
        else:
            raise AssertionError('no segment contains this edge')


def test_number_of_segments_of_boxes_before_behind_and_astride_the_camera():
    before, behind, astride = [0., 10, 0, 4, 2, 2, 0.3], [0., -10, 0, 4, 2, 2, 0.3], [0., 0, 0, 2, 8, 2, 0.]
    assert project_edges(corners_of(before), LIDAR2IMG).shape == (12, 2, 2)
    assert project_edges(corners_of(behind), LIDAR2IMG).shape == (0, 2, 2)
    # Its four edges at the far end are whole, its four edges along the view are cut, its near end is hidden.
    assert project_edges(corners_of(astride), LIDAR2IMG).shape == (8, 2, 2)
    assert project_edges(corners_of(before, behind, astride), LIDAR2IMG).shape == (20, 2, 2)


def test_an_edge_is_cut_at_the_near_plane():
    segments = project_edges(corners_of([0., 0, -1, 2, 8, 2, 0.]), np.diag([1., 1, 1, 1])[[0, 2, 1, 3]], near=0.5)
    # This camera's pixels are (x / depth, z / depth): corners at +-1 appear at +-2 on the near plane.
    assert np.isclose(np.abs(segments).max(), 2)


def test_no_boxes():
    assert project_edges(np.zeros((0, 8, 3)), LIDAR2IMG).shape == (0, 2, 2)


def test_edges_and_bottom_follow_the_corner_order_of_mmdet3d():
    corners, = corners_of([1., 2, 3, 4, 2, 1, 0])
    assert all(np.count_nonzero(corners[a] != corners[b]) == 1 for a, b in EDGES)
    assert len({tuple(edge) for edge in EDGES.tolist()}) == 12
    assert (corners[BOTTOM, 2] == corners[:, 2].min()).all()
    assert (corners[BOTTOM[2:], 0] == corners[:, 0].max()).all()  # the front, toward +x at yaw 0
