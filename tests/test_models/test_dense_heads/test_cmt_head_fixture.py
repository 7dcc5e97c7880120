"""The published CMT code computed ``tests/data/cmt_head_tiny``; our head must reproduce it."""
import json

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.models.builder import build_head

BRANCHES = ('center', 'height', 'dim', 'rot', 'vel', 'cls_logits')
TOLERANCE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope='module')
def arrays(upstream):
    return {name: torch.from_numpy(value) for name, value in np.load(upstream / 'cmt_head_tiny.npz').items()}


@pytest.fixture
def head(upstream, arrays):
    spec = json.loads((upstream / 'cmt_head_tiny.json').read_text())
    head = build_head(ConfigDict(dict(spec['head'], train_cfg=spec['train_cfg'], test_cfg=spec['test_cfg'])))
    head.load_state_dict({name[len('state/'):]: value for name, value in arrays.items() if name.startswith('state/')})
    return head


@pytest.fixture
def metas(arrays):
    return [dict(lidar2img=list(arrays['in/lidar2img'].numpy()), pad_shape=[(64, 160, 3)] * 6,
                 box_type_3d=LiDARInstance3DBoxes) for _ in range(2)]


def test_evaluation_outputs(head, arrays, metas):
    with torch.no_grad():
        outs = head.eval()([arrays['in/x']], [arrays['in/x_img']], metas)[0][0]
    for name in BRANCHES:
        torch.testing.assert_close(outs[name], arrays[f'eval/{name}'], **TOLERANCE)


def test_decoded_boxes(head, arrays, metas):
    with torch.no_grad():
        outs = head.eval()([arrays['in/x']], [arrays['in/x_img']], metas)
        results = head.get_bboxes(outs, metas)
    for sample, (boxes, scores, labels) in enumerate(results):
        expected = [arrays[f'decoded/{sample}/{name}'] for name in ('boxes', 'scores', 'labels')]
        assert len(scores) == len(expected[1])
        # Near ties may swap places: every expected detection must occur exactly once.
        free = torch.ones(len(scores), dtype=torch.bool)
        for box, score, label in zip(*expected):
            same = free & (labels == label) & torch.isclose(scores, score, **TOLERANCE) \
                & torch.isclose(boxes.tensor, box, **TOLERANCE).all(dim=1)
            assert same.any(), f'no detection equals {box.tolist()}'
            free[same.nonzero()[0]] = False


def test_training_pass(head, arrays, metas):
    boxes, labels = [], []
    for sample, meta in enumerate(metas):
        gravity = arrays[f'train/gt/{sample}/boxes_gravity_center']
        meta['gt_bboxes_3d'] = LiDARInstance3DBoxes(gravity, box_dim=9, origin=(0.5, 0.5, 0.5))
        meta['gt_labels_3d'] = arrays[f'train/gt/{sample}/labels']
        boxes.append(meta['gt_bboxes_3d'])
        labels.append(meta['gt_labels_3d'])
    head.train()
    head.denoising.sample_noise = lambda centers: arrays['train/dn_noise_uniform01'] * 2 - 1
    outs = head([arrays['in/x']], [arrays['in/x_img']], metas)
    for name in BRANCHES:
        torch.testing.assert_close(outs[0][0][name], arrays[f'train/{name}'], **TOLERANCE)
        torch.testing.assert_close(outs[0][0][f'dn_{name}'], arrays[f'train/dn_{name}'], **TOLERANCE)
    losses = head.loss(boxes, labels, outs)
    expected = {name[len('train/loss/'):]: value for name, value in arrays.items() if name.startswith('train/loss/')}
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].double(), value, **TOLERANCE)
    sum(losses.values()).backward()
    torch.testing.assert_close(head.bev_embedding[0].weight.grad, arrays['train/grad/bev_embedding.0.weight'],
                               **TOLERANCE)
