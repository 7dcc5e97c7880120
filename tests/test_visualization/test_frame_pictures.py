import numpy as np
import pytest
import torch
from mmcv import imread
from mmdet3d.core.bbox import LiDARInstance3DBoxes

from projects.mmdet3d_plugin.datasets import FrameFolderDataset
from projects.mmdet3d_plugin.visualization import draw_bev, draw_cameras

from .test_box_edges import LIDAR2IMG

BLUE, ORANGE = (0x56, 0xB4, 0xE9), (0xD5, 0x5E, 0x00)


def boxes(*rows):
    return LiDARInstance3DBoxes(torch.tensor(rows).reshape(-1, 7), box_dim=7)


def where(path, color):
    """Relative (x, y) positions in [0, 1] of the pixels of one color, (N, 2)."""
    image = imread(str(path), channel_order='rgb')
    rows, columns = np.nonzero((np.abs(image.astype(int) - color) < 12).all(axis=-1))
    return np.stack([columns / image.shape[1], rows / image.shape[0]], axis=1)


def test_bev_shows_both_kinds_of_boxes_where_they_are(tmp_path):
    path = tmp_path / 'new folder' / 'bev.png'
    points = np.random.default_rng(0).uniform(-50, 50, (100, 5))
    draw_bev(path, points, boxes([40., 40, 0, 8, 4, 2, 0]), boxes([-40., -40, 0, 8, 4, 2, 0]))
    truth, detections = where(path, BLUE), where(path, ORANGE)
    truth, detections = truth[truth[:, 1] < 0.9], detections[detections[:, 1] < 0.9]  # without the legend
    assert len(truth) > 20 and (truth[:, 0] > 0.75).all() and (truth[:, 1] < 0.25).all()
    assert len(detections) > 20 and (detections[:, 0] < 0.25).all() and (detections[:, 1] > 0.65).all()


def test_bev_grows_with_boxes_beyond_its_limit(tmp_path):
    draw_bev(tmp_path / 'bev.png', np.zeros((1, 3)), boxes([100., 0, 0, 8, 4, 2, 0]))
    box = where(tmp_path / 'bev.png', BLUE)
    box = box[box[:, 1] < 0.9]
    assert len(box) > 20 and (box[:, 0] > 0.9).all()


@pytest.mark.parametrize('empty', [None, boxes()])
def test_frames_without_boxes_or_points(tmp_path, empty):
    draw_bev(tmp_path / 'bev.png', np.zeros((0, 5)), empty, empty)
    draw_cameras(tmp_path / 'cameras.png', [np.zeros((90, 160, 3), np.uint8)], [LIDAR2IMG], ['front'], empty, empty)
    assert {file.name for file in tmp_path.iterdir()} == {'bev.png', 'cameras.png'}


def test_boxes_of_the_real_frame_appear_in_the_camera_that_sees_them(tmp_path, real_frame):
    """One car far ahead: only the picture in the middle of the upper row shows it."""
    dataset = FrameFolderDataset(str(real_frame))
    info = dataset.get_data_info(0)
    black = [np.zeros((900, 1600, 3), np.uint8)] * 6
    draw_cameras(tmp_path / 'cameras.png', black, info['lidar2img'], list(dataset.data_infos[0]['images']),
                 boxes([0., 15, -1, 4, 2, 2, 0]))
    pixels = where(tmp_path / 'cameras.png', BLUE)
    pixels = pixels[pixels[:, 1] < 0.93]  # without the legend
    assert len(pixels) > 50
    assert (np.abs(pixels[:, 0] - 0.5) < 0.17).all() and (pixels[:, 1] < 0.5).all()


def test_labels_stand_beside_detections(tmp_path):
    found = boxes([0., 15, -1, 4, 2, 2, 0])
    black = [np.zeros((900, 1600, 3), np.uint8)]
    for name, labels in (('with', ['car 0.83']), ('without', ())):
        draw_bev(tmp_path / f'{name}_bev.png', np.zeros((0, 3)), detections=found, labels=labels)
        draw_cameras(tmp_path / f'{name}_cameras.png', black, [LIDAR2IMG], ['front'], detections=found, labels=labels)
    for picture in ('bev', 'cameras'):
        labeled, plain = (imread(str(tmp_path / f'{name}_{picture}.png')).astype(int) for name in ('with', 'without'))
        changed = np.argwhere((labeled != plain).any(axis=-1)) / labeled.shape[:2]
        box = where(tmp_path / f'without_{picture}.png', ORANGE)[:, ::-1]
        box = box[box[:, 0] < 0.8]  # without the legend
        assert len(changed) > 50 and (np.ptp(changed, axis=0) < 0.15).all()
        assert (abs(changed.mean(axis=0) - box.mean(axis=0)) < 0.2).all()


def test_nothing_is_left_of_a_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match='not supported'):
        draw_bev(tmp_path / 'bev.unknown', np.zeros((1, 3)))
    assert not list(tmp_path.iterdir())


def test_lists_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match='one length > 0, got 1, 1 and 2'):
        draw_cameras(tmp_path / 'cameras.png', [np.zeros((9, 16, 3), np.uint8)], [LIDAR2IMG], ['front', 'back'])
