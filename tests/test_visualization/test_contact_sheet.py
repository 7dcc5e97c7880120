import cv2
import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.core.points import LiDARPoints

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.visualization.contact_sheet import (
    SheetRow,
    chosen_view,
    describe_failure,
    draw_contact_sheets,
    shot_of,
)

NAMES = ['CAM_LEFT', 'CAM_FRONT', 'CAM_RIGHT']


def record(**fields):
    return FailureRecord('case', **fields)


def lost(*views):
    return np.isin(NAMES, views)


@pytest.mark.parametrize('failure, camera, expected', [
    (record(views_lost=lost('CAM_RIGHT')), None, 2), (record(views_lost=lost('CAM_RIGHT')), 'CAM_LEFT', 0),
    (record(views_lost=lost()), None, 1), (record(views_lost=lost(*NAMES)), None, 1), (record(), None, 1)])
def test_the_view_that_is_shown(failure, camera, expected):
    assert chosen_view(failure, NAMES, camera) == expected
    assert chosen_view(record(), ['a', 'b']) == 0


def test_a_camera_that_is_not_there():
    with pytest.raises(ValueError, match=r"no camera 'CAM_ROOF': allowed are \['CAM_LEFT', 'CAM_FRONT', 'CAM_RIGHT'\]"):
        chosen_view(record(), NAMES, 'CAM_ROOF')


@pytest.mark.parametrize('failure, expected', [
    (record(), 'nothing lost'),
    (record(views_lost=lost('CAM_LEFT', 'CAM_RIGHT'), is_graded=True), 'lost: CAM_LEFT, CAM_RIGHT\ngraded'),
    (record(views_lost=lost(*NAMES), lidar_everywhere=True), 'LiDAR lost everywhere\nlost: all views'),
    (record(field_of_view=60.0, lost_boxes=np.ones((3, 7))), 'LiDAR lost beyond 60°\nLiDAR lost in 3 boxes'),
    (record(is_graded=True, details=dict(points_before=9, points_after=4, fog=dict(fallback=True), other=dict())),
     'graded\n9 → 4 points\nwith a replacement: fog'),
    (record(details=dict(points_before=9, points_after=9), spared=('fog', 'jitter')),
     'nothing lost\nas it was: fog, jitter')])
def test_what_the_record_says(failure, expected):
    assert describe_failure(failure, NAMES) == expected


def sample(color):
    """A sample whose camera sees one color, given as BGR."""
    points = LiDARPoints(torch.rand(30, 5) * 20, points_dim=5)
    return dict(points=points, img=[np.full((20, 40, 3), 7, np.uint8), np.full((20, 40, 3), color, np.float32)],
                lidar2img=[np.eye(4)] * 2)


def test_pages(tmp_path):
    """The colors of the images, clean ones left of corrupted ones, in the order of the cases."""
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]
    clean = shot_of(sample((90, 90, 90)), 1)
    assert clean.image.dtype == np.uint8 and clean.points.shape == (30, 5)
    rows = [SheetRow(f'case {number}', clean, shot_of(sample(color), 1), 'CAM_FRONT', 'nothing lost')
            for number, color in enumerate(colors)]
    pages = list(draw_contact_sheets(tmp_path / 'sheet', rows, 'title', limit=20))
    assert pages == [str(tmp_path / f'sheet_page_{number}.png') for number in (1, 2)]
    places = []
    for page, own in zip(pages, (colors[:5], colors[5:])):
        image = cv2.imread(page)
        gray_column = np.flatnonzero((image == 90).all(axis=2).sum(axis=0) > 100)
        for color in own:
            y, x = np.nonzero((image == color).all(axis=2))
            assert len(y) > 1000 and x.min() > gray_column.max()
            places.append(y.mean())
    assert places[:5] == sorted(places[:5])


def test_sensors_that_are_not_there(tmp_path):
    rows = []
    for names in (('points', ), ('img', 'lidar2img')):
        part = {name: value for name, value in sample((1, 2, 3)).items() if name in names}
        rows.append(SheetRow('case', shot_of(part, 0), shot_of(part, 0), '', 'nothing lost'))
    page, = draw_contact_sheets(tmp_path / 'sheet', rows, 'title')
    assert cv2.imread(page) is not None


def test_boxes_that_a_failure_made_or_emptied(tmp_path):
    """They are drawn on the corrupted side, and nothing is drawn where there are none."""
    shot = shot_of({'points': LiDARPoints(torch.zeros(1, 5), points_dim=5)}, 0)
    lost = LiDARInstance3DBoxes(torch.tensor([[5.0, 5.0, 0.0, 8.0, 4.0, 2.0, 0.0]]))
    pages = [next(draw_contact_sheets(tmp_path / name, [SheetRow('case', shot, shot, '', 'lost', boxes)], '', 20))
             for name, boxes in (('with', lost), ('without', None))]
    with_boxes, without = (cv2.imread(page).astype(int) for page in pages)
    drawn = np.abs(with_boxes - (167, 121, 204)).sum(axis=2) < 60  # its color as BGR
    height, width = drawn.shape
    corrupted = drawn[:int(0.8 * height), width // 5:2 * width // 5]  # the second of four columns, without the legend
    assert corrupted.sum() > 50 and drawn[:int(0.8 * height)].sum() == corrupted.sum()
    assert not (np.abs(without - (167, 121, 204)).sum(axis=2) < 60).any()
