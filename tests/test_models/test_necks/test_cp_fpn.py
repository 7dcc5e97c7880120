"""CPFPN against mmdet's FPN with the same weights."""
import pytest
import torch
from mmdet.models import build_neck
from mmdet.models.necks import FPN

from projects.mmdet3d_plugin.models.necks.cp_fpn import CPFPN

PUBLISHED = dict(cmt_voxel0100_r50_800x320_cbgs=[1024, 2048], cmt_voxel0075_vov_1600x640_cbgs=[768, 1024])


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_state_dict(name, upstream):
    rows = [line.split('\t') for line in (upstream / f'{name}.keys.tsv').read_text().splitlines()]
    table = {key: shape for key, shape, _ in rows if key.startswith('img_neck.')}
    neck = build_neck(dict(type='CPFPN', in_channels=PUBLISHED[name], out_channels=256, num_outs=2))
    assert {f'img_neck.{key}': 'x'.join(map(str, value.shape)) for key, value in neck.state_dict().items()} == table


@pytest.mark.parametrize('kwargs', [
    dict(num_outs=2),
    dict(num_outs=4),                                           # extra levels by pooling
    dict(num_outs=4, add_extra_convs='on_input'),
    dict(num_outs=4, add_extra_convs='on_lateral', relu_before_extra_convs=True),
    dict(num_outs=2, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')),
])
@pytest.mark.parametrize('in_channels, sizes', [([4, 6], [(10, 14), (5, 7)]), ([4, 6], [(9, 13), (5, 7)])])
def test_equals_fpn_before_its_output_convolutions(in_channels, sizes, kwargs):
    torch.manual_seed(0)
    fpn = FPN(in_channels, 8, **kwargs).eval()
    fpn.init_weights()
    neck = CPFPN(in_channels, 8, **kwargs).eval()
    missing, unexpected = neck.load_state_dict(fpn.state_dict(), strict=False)
    assert not missing
    assert unexpected and all(key.startswith('fpn_convs.1.') for key in unexpected)

    inputs = [torch.randn(2, channels, *size) for channels, size in zip(in_channels, sizes)]
    with torch.no_grad():
        ours, reference = neck(inputs), fpn(inputs)
        assert len(ours) == len(reference) == kwargs['num_outs']
        torch.testing.assert_close(ours[0], reference[0])
        torch.testing.assert_close(fpn.fpn_convs[1](ours[1]), reference[1])
        if kwargs.get('add_extra_convs'):       # their sources come before the output convolutions
            for feature, expected in zip(ours[2:], reference[2:]):
                torch.testing.assert_close(feature, expected)


def test_first_level_reaches_every_parameter():
    neck = CPFPN([4, 6, 8], 8, num_outs=3)
    neck([torch.randn(1, c, s, s) for c, s in ((4, 16), (6, 8), (8, 4))])[0].sum().backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


def test_start_level():
    neck = CPFPN([4, 6, 8], 8, num_outs=2, start_level=1)
    out = neck([torch.randn(1, c, s, s) for c, s in ((4, 16), (6, 8), (8, 4))])
    assert [tuple(feature.shape) for feature in out] == [(1, 8, 8, 8), (1, 8, 4, 4)]
    assert [key for key in neck.state_dict() if key.startswith('fpn_convs')] == [
        'fpn_convs.0.conv.weight', 'fpn_convs.0.conv.bias'
    ]
