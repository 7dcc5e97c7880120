import numpy as np
import pytest
import torch
from mmdet3d.core.points import LiDARPoints

from projects.mmdet3d_plugin.datasets.pipelines import ModalMask3D


def modalities(num_points=4):
    return dict(img=[np.full((2, 3, 3), 9, np.uint8), np.full((2, 3, 3), 9., np.float32)],
                points=LiDARPoints(torch.ones(num_points, 5), points_dim=5))


def silenced(results):
    """Which of the two sensors was silenced; anything in between fails."""
    images = all((img == 0).all() for img in results['img'])
    points = bool((results['points'].tensor == 0).all())
    assert images or all((img == 9).all() for img in results['img'])
    assert points or (results['points'].tensor == 1).all()
    return images, points


def test_training_frequencies():
    """u > 0.75: images; 0.5 < u <= 0.75: points; else neither."""
    np.random.seed(0)
    draws = np.random.rand(2000)
    np.random.seed(0)
    transform = ModalMask3D(mode='train')
    outcome = [silenced(transform(modalities())) for _ in draws]
    assert outcome == [(u > 0.75, 0.5 < u <= 0.75) for u in draws]
    assert np.mean(outcome, axis=0) == pytest.approx([0.25, 0.25], abs=0.03)


@pytest.mark.parametrize('shares', [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.1, 0.4)])
def test_shares(shares):
    np.random.seed(0)
    outcome = [silenced(ModalMask3D(mode='train', shares=shares)(modalities())) for _ in range(1000)]
    assert np.mean(outcome, axis=0) == pytest.approx(shares, abs=0.04 if 0.1 in shares else 1e-9)


@pytest.mark.parametrize('modal, expected', [('image', (True, False)), ('points', (False, True))])
def test_test_mode(modal, expected):
    original = modalities()
    images, tensor = list(original['img']), original['points'].tensor
    results = ModalMask3D(mode='test', mask_modal=modal)(original)
    assert silenced(results) == expected
    assert results['points'].tensor.shape == (4, 5)  # they collapse to the origin, they do not disappear
    assert [img.dtype for img in results['img']] == [np.uint8, np.float32]
    assert all((img == 9).all() for img in images) and (tensor == 1).all()  # what came in is not written to


def test_empty_cloud():
    assert ModalMask3D(mode='test', mask_modal='points')(modalities(0))['points'].tensor.shape == (0, 5)


@pytest.mark.parametrize('arguments', [dict(mode='val'), dict(mask_modal='lidar'), dict(shares=(0.6, 0.5)),
                                       dict(shares=(-0.1, 0.5)), dict(shares=(0.5, ))])
def test_unknown_values_are_refused(arguments):
    with pytest.raises(ValueError, match='must be'):
        ModalMask3D(**arguments)
