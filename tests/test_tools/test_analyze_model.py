import csv

import pytest
from mmdet3d.datasets import build_dataset
from mmdet3d.models import build_model
from torch import nn

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.apis.model_cost import model_cost


@pytest.fixture(scope='module')
def options(synthetic_nuscenes):
    return {'data.test.data_root': f'{synthetic_nuscenes}/',
            'data.test.ann_file': str(synthetic_nuscenes / 'nuscenes_infos_val.pkl')}


@pytest.fixture(scope='module')
def scene(repo_root, options):
    """A detector with a router and a sample for it."""
    cfg = load_config(repo_root / 'configs/cmt_aqr_synthetic.py', options)
    return build_model(cfg.model).eval(), build_dataset(cfg.data.test, dict(test_mode=True))[0]


def test_parts_add_up_to_the_detector(scene):
    model, sample = scene
    *parts, whole = rows = model_cost(model, sample, 'cpu', runs=1)
    assert [row['part'] for row in rows] == ['image branch', 'LiDAR branch', 'head', 'routing', 'detector']
    assert whole['parameters (M)'] * 1e6 == sum(parameter.numel() for parameter in model.parameters())
    assert whole['parameters (M)'] == pytest.approx(sum(row['parameters (M)'] for row in parts))
    assert whole['GFLOPs'] == pytest.approx(sum(row['GFLOPs'] for row in parts))
    assert all(row['GFLOPs'] > 0 and row['ms'] >= 0 for row in rows)
    assert whole['frames/s'] == pytest.approx(1e3 / whole['ms'])
    assert model.pts_bbox_head.enable_aqr


def test_operations_of_the_images_are_those_of_their_convolutions(scene):
    """Counted layer by layer: there is nothing else in this branch."""
    model, sample = scene
    counted = []

    def count(layer, inputs, output):
        counted.append(2 * output.numel() * layer.weight[0].numel())

    layers = [layer for part in (model.img_backbone, model.img_neck) for layer in part.modules()
              if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    found = model_cost(model, sample, 'cpu', runs=1)[0]['GFLOPs'] * 1e9
    for hook in hooks:
        hook.remove()
    passes, rest = divmod(len(counted), len(layers))
    assert rest == 0 and passes > 1 and found == pytest.approx(sum(counted) / passes)


def test_the_tool(run_tool, repo_root, options, tmp_path):
    """The baseline has no routing; both kinds of output hold the same rows."""
    settings = [f'{key}={value}' for key, value in options.items()]
    printed = run_tool('analyze_model.py', repo_root / 'configs/cmt_synthetic.py', '--runs', 1, '--checkpoint',
                       repo_root / 'checkpoints/cmt_synthetic.pth', '--sample', 1, '--out', tmp_path / 'cost.csv',
                       '--cfg-options', *settings, cwd=repo_root)
    rows = list(csv.DictReader(open(tmp_path / 'cost.csv')))
    assert [row['part'] for row in rows] == ['image branch', 'LiDAR branch', 'head', 'detector']
    assert 'cpu, sample 1, median of 1 passes' in printed and '| detector ' in printed
    assert all(f'{float(row["GFLOPs"]):.3f}' in printed for row in rows)


def test_a_device_that_is_not_there(run_tool, repo_root, options, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    printed = run_tool('analyze_model.py', repo_root / 'configs/cmt_synthetic.py', '--device', 'cuda', '--cfg-options',
                       *(f'{key}={value}' for key, value in options.items()), cwd=repo_root, code=2)
    assert "device 'cuda': torch sees no CUDA; allowed here: cpu" in printed
