"""CMT's heads of a single sensor, against outputs of the published ones for weights and inputs of the fusion head."""
import json

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmdet3d.core.bbox import LiDARInstance3DBoxes
from mmdet3d.models.builder import build_head

BRANCHES = ('center', 'height', 'dim', 'rot', 'vel', 'cls_logits')
TOLERANCE = dict(rtol=1e-4, atol=1e-5)
UNUSED = dict(Lidar='rv_embedding', Image='shared_conv')


@pytest.fixture(scope='module')
def arrays(upstream):
    return {name: torch.from_numpy(value) for file in ('cmt_head_tiny.npz', 'cmt_single_heads_tiny.npz')
            for name, value in np.load(upstream / file).items()}


def tiny_config(upstream, kind):
    spec = json.loads((upstream / 'cmt_head_tiny.json').read_text())
    cfg = ConfigDict(dict(spec['head'], train_cfg=spec['train_cfg'], test_cfg=spec['test_cfg'], type=f'Cmt{kind}Head'))
    cfg.transformer.type = f'Cmt{kind}Transformer'
    if kind == 'Lidar':  # as in the published config
        cfg.separate_head.final_kernel = 3
        cfg.test_cfg.pc_range = cfg.test_cfg.pc_range[:2]
        cfg.test_cfg.voxel_size = cfg.test_cfg.voxel_size[:2]
    return cfg


@pytest.fixture(params=['Lidar', 'Image'])
def kind(request):
    return request.param


@pytest.fixture
def head(upstream, arrays, kind):
    state = {}
    for name, value in arrays.items():
        if not name.startswith('state/') or name.startswith(f'state/{UNUSED[kind]}.'):
            continue
        if kind == 'Lidar' and 'task_heads' in name and value.dim() == 3:  # how the recorded head got a kernel of 3
            value = torch.cat([value / 2, value, -value / 4], dim=2)
        state[name[len('state/'):]] = value
    head = build_head(tiny_config(upstream, kind))
    head.load_state_dict(state)
    return head


@pytest.fixture
def metas(arrays):
    metas = []
    for sample in range(2):
        gravity = arrays[f'train/gt/{sample}/boxes_gravity_center']
        metas.append(dict(
            lidar2img=list(arrays['in/lidar2img'].numpy()), pad_shape=[(64, 160, 3)] * 6,
            box_type_3d=LiDARInstance3DBoxes, gt_labels_3d=arrays[f'train/gt/{sample}/labels'],
            gt_bboxes_3d=LiDARInstance3DBoxes(gravity, box_dim=9, origin=(0.5, 0.5, 0.5))))
    return metas


def features(arrays, kind):
    return ([arrays['in/x']], None) if kind == 'Lidar' else (None, [arrays['in/x_img']])


def test_evaluation_outputs(head, arrays, metas, kind):
    with torch.no_grad():
        outs = head.eval()(*features(arrays, kind), metas)[0][0]
    for name in BRANCHES:
        torch.testing.assert_close(outs[name], arrays[f'{kind.lower()}/eval/{name}'], **TOLERANCE)


def test_training_pass(head, arrays, metas, kind):
    head.train()
    head.denoising.sample_noise = lambda centers: arrays['train/dn_noise_uniform01'] * 2 - 1
    outs = head(*features(arrays, kind), metas)
    losses = head.loss([meta['gt_bboxes_3d'] for meta in metas], [meta['gt_labels_3d'] for meta in metas], outs)
    prefix = f'{kind.lower()}/train/loss/'
    expected = {name[len(prefix):]: value for name, value in arrays.items() if name.startswith(prefix)}
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].double(), value, **TOLERANCE)
    sum(losses.values()).backward()
    torch.testing.assert_close(head.bev_embedding[0].weight.grad,
                               arrays[f'{kind.lower()}/train/grad/bev_embedding.0.weight'], **TOLERANCE)
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_features_of_the_other_sensor_are_refused(head, arrays, metas):
    with pytest.raises(ValueError, match='alone, got (img|pts)_feats; CmtHead takes both'):
        head([arrays['in/x']], [arrays['in/x_img']], metas)


def test_aqr_is_refused(upstream, kind):
    with pytest.raises(ValueError, match=f'enable_aqr=True weighs LiDAR against cameras, but Cmt{kind}Head takes'):
        build_head(dict(tiny_config(upstream, kind), enable_aqr=True))


def test_a_normalized_position_embedding_starts_centered(upstream, kind):
    head = build_head(dict(tiny_config(upstream, kind), position_gain=1.0))
    before = head.bev_embedding[-2].bias.clone()
    head.init_weights()
    assert not torch.equal(head.bev_embedding[-2].bias, before)


@pytest.mark.parametrize('wrong', [[-50.0, -50.0], [-54.0], [-54.0, -54.0, -5.0]])
def test_a_range_that_does_not_fit_is_refused(upstream, kind, wrong):
    cfg = tiny_config(upstream, kind)
    cfg.test_cfg.pc_range = wrong
    with pytest.raises(ValueError, match='test_cfg must agree with'):
        build_head(cfg)
