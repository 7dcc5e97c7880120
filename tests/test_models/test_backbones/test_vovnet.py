"""VoVNet against a functional reading of its state dict, and against the key table of the published checkpoint."""
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import build_backbone
from torch.nn.modules.batchnorm import _BatchNorm

from projects.mmdet3d_plugin.models.backbones.vovnet import SPECS, STAGE_NAMES, VoVNet

FEATURES = ('stem', *STAGE_NAMES)
SMALL = 'V-19-slim-dw-eSE'


def randomized(**kwargs):
    """A backbone whose BatchNorm layers do something."""
    torch.manual_seed(0)
    model = VoVNet(**kwargs)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model


def oracle_unit(state, name, x, stride=1):
    """Convolution (plain or depthwise separable), BatchNorm on running statistics, ReLU; parameters found by name."""
    if f'{name}/conv.weight' in state:
        weight = state[f'{name}/conv.weight']
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        norm = f'{name}/norm'
    else:
        weight = state[f'{name}/dw_conv3x3.weight']
        x = F.conv2d(x, weight, stride=stride, padding=1, groups=len(weight))
        x = F.conv2d(x, state[f'{name}/pw_conv1x1.weight'])
        norm = f'{name}/pw_norm'
    mean, var, weight, bias = (state[f'{norm}.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias'))
    return F.relu((x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * weight[:, None, None]
                  + bias[:, None, None])


def has(state, prefix):
    return any(key.startswith(prefix) for key in state)


def oracle(state, x):
    """All five feature maps, computed from the state dict alone."""
    for i, stride in ((1, 2), (2, 1), (3, 2)):
        x = oracle_unit(state, f'stem.stem_{i}', x, stride)
    outputs = [x]
    for stage in range(2, 6):
        if stage > 2:
            x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        for block in count(1):
            name = f'OSA{stage}_{block}'
            at = f'stage{stage}.{name}'
            if not has(state, at + '.'):
                break
            features = [x]
            if has(state, f'{at}.conv_reduction.'):
                chain = oracle_unit(state, f'{at}.conv_reduction.{name}_reduction_0', x)
            else:
                chain = x
            for i in count():
                if not has(state, f'{at}.layers.{i}.'):
                    break
                chain = oracle_unit(state, f'{at}.layers.{i}.{name}_{i}', chain)
                features.append(chain)
            out = oracle_unit(state, f'{at}.concat.{name}_concat', torch.cat(features, 1))
            pooled = F.adaptive_avg_pool2d(out, 1)
            gate = F.relu6(F.conv2d(pooled, state[f'{at}.ese.fc.weight'], state[f'{at}.ese.fc.bias']) + 3) / 6
            out = out * gate
            x = out + x if block > 1 else out
        outputs.append(x)
    return outputs


def test_published_state_dict(upstream):
    rows = [line.split('\t') for line in
            (upstream / 'cmt_voxel0075_vov_1600x640_cbgs.keys.tsv').read_text().splitlines()]
    prefix = 'img_backbone.'
    table = {key[len(prefix):]: (shape, dtype) for key, shape, dtype in rows if key.startswith(prefix)}
    model = VoVNet('V-99-eSE', out_features=('stage4', 'stage5'))
    ours = {key: ('x'.join(map(str, value.shape)) or 'scalar', str(value.dtype).replace('torch.', ''))
            for key, value in model.state_dict().items()}
    assert ours == table


@pytest.mark.parametrize('spec_name, tensors, parameters', [
    ('V-19-slim-dw-eSE', 154, 1384752), ('V-19-dw-eSE', 160, 5518080), ('V-19-slim-eSE', 122, 2653136),
    ('V-19-eSE', 122, 10180416), ('V-39-eSE', 246, 25184128), ('V-57-eSE', 360, 41454912), ('V-99-eSE', 626, 69523520),
])
def test_sizes_of_the_published_architectures(spec_name, tensors, parameters):
    """Counted on the backbone in CMT's release."""
    model = VoVNet(spec_name)
    assert len(model.state_dict()) == tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize('spec_name', SPECS)
def test_matches_oracle(spec_name):
    model = randomized(spec_name=spec_name, out_features=FEATURES).eval()
    x = torch.randn(2, 3, 50, 71)       # odd sizes, so that pooling has to round up
    with torch.no_grad():
        ours, expected = model(x), oracle(model.state_dict(), x)
    assert isinstance(ours, tuple) and len(ours) == len(expected)
    for feature, reference, channels in zip(ours, expected, (SPECS[spec_name].stem[2], *SPECS[spec_name].out_channels)):
        assert feature.shape[1] == channels
        torch.testing.assert_close(feature, reference, rtol=0, atol=1e-5 * reference.abs().max().item())


def test_strides():
    features = VoVNet(SMALL, out_features=FEATURES)(torch.randn(1, 3, 64, 128))
    assert [tuple(feature.shape[2:]) for feature in features] == [(16, 32), (16, 32), (8, 16), (4, 8), (2, 4)]


def test_features_come_in_stage_order_and_default_to_the_stages():
    x = torch.randn(1, 3, 64, 64)
    named = VoVNet(SMALL, out_features=['stage4', 'stem'])(x)
    assert [feature.shape[1] for feature in named] == [64, 384]
    assert [feature.shape[1] for feature in VoVNet(SMALL)(x)] == [112, 256, 384, 512]


@pytest.mark.parametrize('out_features', [('stem', ), ('stage3', ), ('stage2', 'stage5')])
def test_every_parameter_takes_part(out_features):
    """DistributedDataParallel asks for a gradient on every parameter."""
    model = VoVNet(SMALL, out_features=out_features)
    model(torch.randn(1, 3, 64, 64))[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
@pytest.mark.parametrize('norm_eval', [True, False])
def test_frozen_parts_survive_train(frozen_stages, norm_eval):
    model = VoVNet(SMALL, frozen_stages=frozen_stages, norm_eval=norm_eval)
    model.init_weights()
    frozen = FEATURES[:frozen_stages + 1]
    for mode in (True, False, True):
        assert model.train(mode) is model
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.split('.')[0] not in frozen), name
    for name, module in model.named_modules():
        if name.split('.')[0] in FEATURES:
            stopped = name.split('.')[0] in frozen or (norm_eval and isinstance(module, _BatchNorm))
            assert module.training == (not stopped), name


@pytest.mark.parametrize('norm_eval', [True, False])
def test_checkpointing_changes_no_gradient(norm_eval):
    plain = randomized(spec_name=SMALL, norm_eval=norm_eval).train()
    saving = VoVNet(SMALL, norm_eval=norm_eval, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    outputs = [model(x) for model in (plain, saving)]
    saved = {0: 0, 1: 0}
    for i, model in enumerate((plain, saving)):
        with torch.autograd.graph.saved_tensors_hooks(
                lambda tensor, i=i: saved.__setitem__(i, saved[i] + tensor.numel()) or tensor, lambda tensor: tensor):
            model(x)
    assert saved[1] < saved[0] / 2
    for feature, reference in zip(outputs[1], outputs[0]):
        assert torch.equal(feature, reference)
    for features in outputs:
        sum(feature.square().mean() for feature in features).backward()
    for (name, ours), reference in zip(saving.named_parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, reference.grad, msg=lambda text, name=name: f'{name}: {text}')


def test_registered_and_initialized():
    model = build_backbone(dict(type='VoVNet', spec_name=SMALL))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    name = 'stage3.OSA3_1.concat.OSA3_1_concat/conv.weight'
    assert not torch.equal(model.state_dict()[name], before[name])
    # Kaiming, fan out, for a 1x1 convolution: variance 2 / output channels
    assert model.state_dict()[name].std().item() == pytest.approx((2 / 256)**0.5, rel=0.05)


def test_pretrained(tmp_path):
    source = randomized(spec_name=SMALL)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'weights.pth')
    with pytest.warns(DeprecationWarning, match='init_cfg'):
        model = VoVNet(SMALL, pretrained=str(tmp_path / 'weights.pth'))
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize('kwargs, message', [
    (dict(spec_name='V-98-eSE'), r"spec_name .*'V-99-eSE'.*got 'V-98-eSE'"),
    (dict(spec_name=SMALL, out_features=('stage6', )), r"out_features .*'stem', 'stage2'.*got \('stage6',\)"),
    (dict(spec_name=SMALL, out_features=()), r'out_features .*got \(\)'),
    (dict(spec_name=SMALL, out_features=('stage2', 'stage2')), 'distinct'),
    (dict(spec_name=SMALL, out_features='stage2'), 'out_features'),
    (dict(spec_name=SMALL, frozen_stages=5), r'frozen_stages .*\[-1, 4\], got 5'),
    (dict(spec_name=SMALL, frozen_stages=-2), r'frozen_stages .*got -2'),
    (dict(spec_name=SMALL, pretrained='a.pth', init_cfg=dict(type='Kaiming')), 'not both'),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VoVNet(**kwargs)
