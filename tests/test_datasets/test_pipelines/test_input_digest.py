import numpy as np
import pytest
import torch
from mmdet3d.core.points import LiDARPoints

from projects.mmdet3d_plugin.datasets.pipelines import DigestInputs
from projects.mmdet3d_plugin.datasets.pipelines.input_digest import joint_digest


def sample():
    rng = np.random.default_rng(0)
    return dict(points=LiDARPoints(torch.as_tensor(rng.normal(size=(20, 5)), dtype=torch.float32), points_dim=5),
                img=[rng.integers(0, 256, (4, 6, 3), dtype=np.uint8) for _ in range(2)],
                lidar2cam=[rng.normal(size=(4, 4)) for _ in range(2)], cam_intrinsic=[np.eye(4)] * 2)


def digest(results):
    return DigestInputs()(results)['input_digest']


def one_point(results):
    results['points'].tensor[3, 1] += 1e-4


def order_of_points(results):
    results['points'].tensor[:2] = results['points'].tensor[:2].flip(0)


def no_points(results):
    results['points'] = results['points'][:0]


def one_pixel(results):
    results['img'][1][2, 3, 0] ^= 1


def views_swapped(results):
    results['img'] = results['img'][::-1]


def types(results):
    results['img'] = [image.astype(np.float32) for image in results['img']]


def turned_camera(results):
    results['lidar2cam'][0][0, 0] += 1e-3


def other_lens(results):
    results['cam_intrinsic'] = [np.eye(4) * 2, np.eye(4)]


@pytest.mark.parametrize('change', [one_point, order_of_points, no_points, one_pixel, views_swapped, types,
                                    turned_camera, other_lens])
def test_whatever_sensors_say_changes_it(change):
    results = sample()
    change(results)
    assert digest(results) != digest(sample())


def test_the_same_says_the_same():
    """Also where matrices differ in their last digits, as those of another machine do, and for sensors alone."""
    results = sample()
    results['lidar2cam'] = [matrix + 1e-13 for matrix in results['lidar2cam']]
    results['cam_intrinsic'] = [np.where(matrix == 0, -0.0, matrix) for matrix in results['cam_intrinsic']]
    assert digest(results) == digest(sample()) and len(digest(sample())) == 64
    lidar, cameras = ({name: sample()[name] for name in names} for names in (('points', ), ('img', 'lidar2cam')))
    assert len({digest(lidar), digest(cameras), digest(sample())}) == 3


def test_of_many_samples():
    digests = dict(a='1', b='2', c='3')
    assert joint_digest(digests) == joint_digest(dict(reversed(digests.items())))
    assert len({joint_digest(each) for each in (digests, {**digests, 'a': '2'}, dict(a='2', b='1', c='3'),
                                                dict(a='1', b='2'), {})}) == 5
