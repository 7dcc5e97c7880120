"""The configs resolve to the published values, are consistent in themselves and can be overridden."""
import argparse
import ast
import math
from pathlib import Path

import pytest
from mmcv import Config, DictAction
from mmdet3d.models import build_model

REPO = Path(__file__).resolve().parent.parent
LEAVES = sorted(path.name for path in (REPO / 'configs').glob('*.py'))
PUBLISHED = ['cmt_voxel0100_r50_800x320_cbgs', 'cmt_voxel0075_vov_1600x640_cbgs']
AQR_LEAVES = [name for name in LEAVES if '_aqr_' in name]


def load(name):
    return Config.fromfile(REPO / 'configs' / name)


def override(config, options):
    """What the tools do with --cfg-options."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    config.merge_from_dict(parser.parse_args(['--cfg-options', *options]).cfg_options)


def plain(value):
    """Config values as dicts, lists and scalars; tuples count as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def leaves(value, path=''):
    """Yield (dotted path, scalar) for everything in nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
    else:
        for key, item in items:
            yield from leaves(item, f'{path}.{key}' if path else str(key))


def nodes(value):
    """Yield every dict in nested dicts and lists."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list)):
        for item in (value.values() if isinstance(value, dict) else value):
            yield from nodes(item)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_values(name, upstream):
    published = plain(ast.literal_eval((upstream / f'{name}.config.txt').read_text()))
    # The tools set the devices; a stale list makes mmcv rescale the iteration when a run is resumed.
    published.pop('gpu_ids')
    ours = plain(load(f'{name}.py')._cfg_dict)
    assert {key: ours.get(key) for key in published} == published


@pytest.mark.parametrize('name', LEAVES)
def test_no_absolute_path(name):
    absolute = [f'{path}={value}' for path, value in leaves(plain(load(name)._cfg_dict))
                if isinstance(value, str) and (value.startswith(('/', '~')) or str(REPO) in value)]
    assert not absolute


@pytest.mark.parametrize('name', LEAVES)
def test_nothing_left_of_the_config_syntax(name):
    resolved = plain(load(name)._cfg_dict)
    left = [path for path, value in leaves(resolved) if '_delete_' in path or '_base_' in f'{path}{value}']
    assert not left
    assert not [path for path, value in leaves(resolved) if callable(value)]


@pytest.mark.parametrize('name', LEAVES)
def test_pretty_text_round_trip(name):
    """Checkpoints store the config as text; mmcv reads it back when a run is resumed."""
    config = load(name)
    assert plain(Config.fromstring(config.pretty_text, '.py')._cfg_dict) == plain(config._cfg_dict)


@pytest.mark.parametrize('name', LEAVES)
def test_sizes_agree(name):
    """One value for everything that is stated in several places."""
    config = plain(load(name)._cfg_dict)
    model = config['model']
    train, test, head = model['train_cfg']['pts'], model['test_cfg']['pts'], model['pts_bbox_head']

    def agree(*values):
        assert all(value == values[0] for value in values), values

    ranges = [node['point_cloud_range'] for node in nodes(config['data']) if 'point_cloud_range' in node]
    agree(train['point_cloud_range'], train['assigner']['pc_range'],
          test['pc_range'], head['bbox_coder']['pc_range'], config['point_cloud_range'], *ranges)
    agree(train['voxel_size'], test['voxel_size'], head['bbox_coder']['voxel_size'])
    agree(train['out_size_factor'], test['out_size_factor'], head['downsample_scale'])
    agree(train['code_weights'], train['assigner']['code_weights'])
    agree(config['class_names'], [cls for task in head['tasks'] for cls in task['class_names']])
    agree(train['grid_size'], test['grid_size'])
    layer = head['transformer']['decoder']['transformerlayers']
    agree(head['hidden_dim'], layer['ffn_cfgs']['embed_dims'],
          *(attention['embed_dims'] for attention in layer['attn_cfgs']))
    sizes = [node['data_aug_conf']['final_dim'] for node in nodes(config['data']) if 'data_aug_conf' in node]
    assert bool(sizes) == (model['img_backbone'] is not None)
    if model['img_backbone']:
        agree(config['ida_aug_conf']['final_dim'], *sizes)
        agree(head['hidden_dim'], model['img_neck']['out_channels'])
    if model['pts_backbone']:
        check_lidar_sizes(model, agree)


def check_lidar_sizes(model, agree):
    train, voxel_layer, middle = model['train_cfg']['pts'], model['pts_voxel_layer'], model['pts_middle_encoder']
    x, y, z = train['grid_size']
    agree(voxel_layer['point_cloud_range'], train['point_cloud_range'])
    agree(voxel_layer['voxel_size'], train['voxel_size'])
    if middle['type'] == 'PointPillarsScatter':
        agree([middle['output_shape'], z], [[y, x], 1])
        agree(model['pts_voxel_encoder']['voxel_size'], train['voxel_size'])
        agree(model['pts_voxel_encoder']['point_cloud_range'], train['point_cloud_range'])
    else:
        agree(middle['sparse_shape'], [z + 1, y, x])
    agree(model['pts_bbox_head']['in_channels'], sum(model['pts_neck']['out_channels']))
    agree(model['pts_backbone']['out_channels'], model['pts_neck']['in_channels'])


@pytest.mark.parametrize('name', [name for name in LEAVES if 'voxel0100' not in name])
def test_grid_covers_range(name):
    """The published 0.1 m grid is short by 56 cells; every other grid fits its range."""
    model = load(name).model
    train = model.train_cfg.pts
    low, high = train.point_cloud_range[:3], train.point_cloud_range[3:]
    for cells, size, extent in zip(train.grid_size, train.voxel_size, (end - start for start, end in zip(low, high))):
        assert cells * size == pytest.approx(extent)
    # Otherwise the upsampled levels of the LiDAR neck differ in size.
    stride = train.out_size_factor * (math.prod(model.pts_backbone.layer_strides) if model.pts_backbone else 1)
    assert all(cells % stride == 0 for cells in train.grid_size[:2])


@pytest.mark.parametrize('name', LEAVES)
def test_names_of_parts_exist(name):
    config = load(name)
    named = [*config.optimizer_config.get('custom_fp16', {}),
             *(config.optimizer.get('paramwise_cfg') or {}).get('custom_keys', {}),
             *config.model.get('train_only', [])]
    assert {name.split('.')[0] for name in named} <= set(config.model)


@pytest.mark.parametrize('name', AQR_LEAVES)
def test_aqr_switched_on(name):
    assert load(name).model.pts_bbox_head.enable_aqr is True


@pytest.mark.parametrize('name', [name for name in LEAVES if name not in AQR_LEAVES])
def test_baseline_has_no_aqr(name):
    assert not [key for key in load(name).model.pts_bbox_head if 'aqr' in key]


@pytest.mark.parametrize('name', [f'cmt_aqr_{size}_cbgs.py' for size in
                                  ('voxel0100_r50_800x320', 'voxel0075_vov_1600x640')])
def test_aqr_differs_from_baseline_in_the_head_only(name):
    ours, baseline = plain(load(name)._cfg_dict), plain(load(name.replace('_aqr', ''))._cfg_dict)
    head = ours['model']['pts_bbox_head']
    for key in [key for key in head if 'aqr' in key]:
        head.pop(key)
    assert ours == baseline


def test_local_variant():
    head = load('cmt_aqr_local_voxel0100_r50_800x320_cbgs.py').model.pts_bbox_head
    assert head.aqr_use_local_bias is True
    assert head.aqr_local_window_size == dict(lidar=5, camera=15)


def test_router_finetune_variant():
    config = load('cmt_aqr_router_finetune_voxel0100_r50_800x320_cbgs.py')
    assert config.model.train_only == ['pts_bbox_head.aqr_router']
    assert config.total_epochs == 1
    assert config.load_from == 'ckpts/cmt_voxel0100_r50_800x320_cbgs.pth'


@pytest.mark.parametrize('name', LEAVES)
@pytest.mark.parametrize('option, value', [
    ('enable_aqr=True', True), ('enable_aqr=False', False), ('aqr_bias_strength=3.0', 3.0),
    ('aqr_use_local_bias=True', True), ('aqr_local_window_size=9', 9), ('aqr_bias_denoising=False', False),
    ('aqr_router.windows=9', 9), ('aqr_router.hidden_dims=64', 64),
])
def test_aqr_options_by_command_line(name, option, value):
    """Any AQR option can be given, whether the leaf states it or not, and nothing else changes."""
    config = load(name)
    before = dict(leaves(plain(config._cfg_dict)))
    key = f'model.pts_bbox_head.{option}'.split('=')[0]
    override(config, [f'model.pts_bbox_head.{option}'])
    after = dict(leaves(plain(config._cfg_dict)))
    assert after[key] == value
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert all(path == key or path.startswith(key + '.') for path in changed)


@pytest.mark.parametrize('options, found', [
    (['enable_aqr=False'], lambda head: not hasattr(head, 'aqr_router')),
    (['aqr_bias_strength=3.0'], lambda head: head.aqr_bias.bias_strength == 3.0),
    (['aqr_use_local_bias=True'], lambda head: head.aqr_bias.use_local_bias is True),
    (['aqr_local_window_size=9'], lambda head: head.aqr_bias.local_window_size == dict(lidar=9, camera=9)),
    (['aqr_local_window_size.lidar=7', 'aqr_local_window_size.camera=9'],
     lambda head: head.aqr_bias.local_window_size == dict(lidar=7, camera=9)),
    (['aqr_bias_denoising=False'], lambda head: head.aqr.bias_denoising is False),
    (['aqr_router.windows=3'], lambda head: head.aqr_router.camera_attention.window == 3),
    (['aqr_router.hidden_dims=16'], lambda head: head.aqr_router.mlp[-1].in_features == 16),
])
def test_aqr_options_reach_the_model(options, found):
    config = load('cmt_aqr_real_frame.py')
    assert not found(build_model(config.model).pts_bbox_head)
    override(config, [f'model.pts_bbox_head.{option}' for option in options])
    assert found(build_model(config.model).pts_bbox_head)


@pytest.mark.parametrize('name', [f'{name}.py' for name in PUBLISHED])
def test_pasting_is_switched_off_by_command_line(name):
    """The command line in the comment of the dataset file."""
    config = load(name)
    text = (REPO / 'configs/_base_/datasets/nuscenes_800x320.py').read_text()
    override(config, text.split('--cfg-options')[1].splitlines()[0].split())
    transforms = config.data.train.dataset.pipeline
    rates = {item.type: item.db_sampler.rate for item in transforms if 'db_sampler' in item}
    assert rates == dict(UnifiedObjectSample=0)
    assert len(transforms) == len(config.train_pipeline)


def test_router_finetune_alternative_by_command_line():
    """The command line in the config's comment: everything trains, the router a hundred times faster."""
    config = load('cmt_aqr_router_finetune_voxel0100_r50_800x320_cbgs.py')
    comment = next(line for line in Path(config.filename).read_text().splitlines() if '--cfg-options' in line)
    override(config, comment.split('--cfg-options')[1].split())
    assert config.model.train_only is None
    baseline = load('cmt_voxel0100_r50_800x320_cbgs.py').optimizer
    assert config.optimizer.lr * 100 == pytest.approx(baseline.lr)
    keys = config.optimizer.paramwise_cfg.custom_keys
    assert keys.pop('aqr_router') == dict(lr_mult=100)
    assert keys == baseline.paramwise_cfg.custom_keys
