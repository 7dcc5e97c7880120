"""What the package changes in the mm libraries so that they work with current torch."""
import functools
import subprocess
import sys
import warnings

import pytest
import torch
import torch.utils.checkpoint
from mmdet.models import build_backbone, build_neck

BACKBONES = [
    dict(type='ResNet', depth=18),
    dict(type='ResNet', depth=50),
    dict(type='Res2Net', depth=50, scales=4, base_width=26),
    dict(type='SwinTransformer', embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), drop_path_rate=0.),
]
LATE = """
import logging
from projects.mmdet3d_plugin.apis import load_config
load_config('config.py')
from mmcls.models.backbones import resnet
print(resnet.cp.checkpoint.keywords)
"""


def gradients(model, inputs):
    """Gradients of all parameters by one step, and the warnings of it."""
    model.train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        sum(output.square().mean() for output in model(inputs)).backward()
    told = [str(warning.message) for warning in caught if 'use_reentrant' in str(warning.message)]
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}, told


def assert_same_steps(build, inputs):
    torch.manual_seed(0)
    plain = build(with_cp=False)
    saving = build(with_cp=True)
    saving.load_state_dict(plain.state_dict())
    expected, _ = gradients(plain, inputs)
    found, told = gradients(saving, inputs)
    assert not told
    assert expected and found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize('config', BACKBONES, ids=lambda config: f'{config["type"]}{config.get("depth", "")}')
def test_backbones_that_save_memory_train_alike_and_without_a_warning(config):
    assert_same_steps(lambda with_cp: build_backbone(dict(config, with_cp=with_cp)), torch.rand(2, 3, 64, 64))


def test_a_neck_that_calls_checkpoint_by_its_name():
    inputs = [torch.rand(1, 4, 16 // 2**level, 16 // 2**level, requires_grad=True) for level in range(3)]
    assert_same_steps(lambda with_cp: build_neck(dict(
        type='HRFPN', in_channels=[4, 4, 4], out_channels=8, num_outs=3, with_cp=with_cp)), inputs)


def test_libraries_that_a_config_imports_later(repo_root, tmp_path):
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['mmcls.models'])\n")
    done = subprocess.run([sys.executable, '-c', LATE], cwd=tmp_path, capture_output=True, text=True,
                          env={'PYTHONPATH': str(repo_root)})
    assert done.stdout == "{'use_reentrant': True}\n", done.stderr


def test_torch_itself_is_left_as_it_is():
    assert not isinstance(torch.utils.checkpoint.checkpoint, functools.partial)
