"""The published CMT configs, and ours on top of them: state dicts, one training and one test step on the real frame."""
import ast
import copy

import pytest
import torch
from mmcv import Config, ConfigDict
from mmcv.parallel import MMDataParallel, collate
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model

R50, VOV = 'cmt_voxel0100_r50_800x320_cbgs', 'cmt_voxel0075_vov_1600x640_cbgs'
LIDAR, CAMERA = 'cmt_lidar_voxel0075_cbgs', 'cmt_camera_vov_1600x640_cbgs'


def published(upstream, name):
    """Resolved values as published: a Python literal."""
    return ConfigDict(ast.literal_eval((upstream / f'{name}.config.txt').read_text()))


def key_table(upstream, name):
    lines = (upstream / f'{name}.keys.tsv').read_text().splitlines()
    rows = [line.split('\t') for line in lines if line]
    return {key: ('' if shape == 'scalar' else shape, dtype) for key, shape, dtype in rows}


def key_shapes(model):
    return {key: ('x'.join(map(str, value.shape)), str(value.dtype).replace('torch.', ''))
            for key, value in model.state_dict().items()}


@pytest.mark.parametrize('name', [R50, VOV, LIDAR, CAMERA])
def test_state_dict_equals_the_key_table(upstream, name):
    expected = key_table(upstream, name)
    assert len(expected) > 300
    assert key_shapes(build_model(published(upstream, name).model)) == expected


@pytest.mark.parametrize('name', [R50, VOV])
def test_state_dicts_of_our_configs_equal_the_key_table(upstream, repo_root, name):
    expected = key_table(upstream, name)
    for prefix, extra in [('cmt_', False), ('cmt_aqr_', True)]:
        cfg = Config.fromfile(str(repo_root / 'configs' / f'{name.replace("cmt_", prefix, 1)}.py'))
        found = key_shapes(build_model(cfg.model))
        router = {key for key in found if key.startswith('pts_bbox_head.aqr_router.')}
        assert bool(router) == extra
        assert {key: value for key, value in found.items() if key not in router} == expected


def frame_data(cfg, real_frame, training, num_points=None):
    """One sample of the real frame through the config's own pipeline, collated."""
    pipeline = copy.deepcopy(cfg.data.train.dataset.pipeline if training else cfg.data.test.pipeline)
    pipeline = [step for step in pipeline if 'ObjectSample' not in step['type']]  # there is no object database
    dataset = build_dataset(dict(type='FrameFolderDataset', data_root=str(real_frame), classes=cfg.class_names,
                                 pipeline=pipeline, test_mode=not training, modality=cfg.input_modality))
    torch.manual_seed(0)
    data = collate([dataset[0]], samples_per_gpu=1)
    if num_points:
        points = data['points'] if training else data['points'][0]
        points._data[0][0] = points._data[0][0][:num_points]
    return data


def shrink_images(cfg, size):
    """Smaller network input, the same pipeline."""

    def visit(node):
        if isinstance(node, dict):
            if node.get('type') == 'ResizeCropFlipImage':
                height, width = size
                limit = max(height / node['data_aug_conf']['H'], width / node['data_aug_conf']['W'])
                node['data_aug_conf'].update(final_dim=size, resize_lim=(limit, limit * 1.1))
            for value in node.values():
                visit(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                visit(value)

    visit(cfg.data)


# Image size and point count are reduced where the full config is too slow for a test; the layers are all there.
@pytest.mark.parametrize('name, size, num_points', [
    (R50, (160, 416), 8000), (VOV, (96, 256), 4000), (LIDAR, None, 4000), (CAMERA, (96, 256), None)])
def test_one_training_and_one_test_step(upstream, real_frame, name, size, num_points):
    cfg = published(upstream, name)
    if size:
        shrink_images(cfg, size)
    model = MMDataParallel(build_model(cfg.model), device_ids=[-1])
    model.module.init_weights()
    before = {key: value.clone() for key, value in model.module.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()
    out = model.train_step(frame_data(cfg, real_frame, training=True, num_points=num_points), optimizer)
    assert torch.isfinite(out['loss']) and out['loss'] > 0
    out['loss'].backward()
    optimizer.step()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    assert any(not torch.equal(p, before[key]) for key, p in model.module.named_parameters())

    model.eval()
    with torch.no_grad():
        result = model(return_loss=False, rescale=True,
                       **frame_data(cfg, real_frame, training=False, num_points=num_points))
    boxes = result[0]['pts_bbox']
    assert len(boxes['scores_3d']) == len(boxes['boxes_3d']) == len(boxes['labels_3d']) <= 300
    assert torch.isfinite(boxes['boxes_3d'].tensor).all() and boxes['boxes_3d'].tensor.shape[1] == 9


@pytest.mark.parametrize('name, missing', [(LIDAR, 'no img_backbone'), (CAMERA, 'no pts_backbone')])
def test_aqr_on_a_single_sensor_is_refused(upstream, name, missing):
    cfg = published(upstream, name).model
    cfg.pts_bbox_head.enable_aqr = True
    with pytest.raises(ValueError, match=f'enable_aqr=True weighs LiDAR against cameras, but the model has {missing}'):
        build_model(cfg)
