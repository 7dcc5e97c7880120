from types import SimpleNamespace

import pytest
import torch
from mmdet3d.core import LiDARInstance3DBoxes

from projects.mmdet3d_plugin.core.failure_record import FailureRecord
from projects.mmdet3d_plugin.visualization import training_pictures


@pytest.mark.parametrize('case', ['stale_views:2@3', None])
def test_the_failure_that_struck_is_named(monkeypatch, tmp_path, case):
    """Or boxes beside the objects of a stale image would look like mistakes."""
    figures = []
    monkeypatch.setattr(training_pictures, 'save_figure', lambda figure, path: figures.append(figure))
    metas = {} if case is None else dict(failure=FailureRecord(case))
    sample = dict(img_metas=metas, points=torch.rand(9, 3), gt_labels_3d=torch.tensor([0]),
                  gt_bboxes_3d=LiDARInstance3DBoxes(torch.tensor([[5.0, 5, 0, 4, 2, 1, 0]])))
    training_pictures.draw_training_sample(
        tmp_path / 'sample.png', {name: SimpleNamespace(data=value) for name, value in sample.items()}, ['car'],
        title='data.train[0]')
    named = [] if case is None else [f'failure: {case}']
    assert figures[0].get_suptitle().split('\n') == ['data.train[0]', *named, '1 car']
