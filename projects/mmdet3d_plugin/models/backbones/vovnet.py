"""VoVNet-v2 image backbones: one-shot aggregation with effective squeeze-excitation.

Lee and Park, "CenterMask: Real-Time Anchor-Free Instance Segmentation", CVPR 2020, section 3.3. Parameter names follow
the original release (``stage4.OSA4_1.layers.0.OSA4_1_0/conv.weight``), so that published weights load.
"""
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.runner import BaseModule
from mmdet.models.builder import BACKBONES
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

STAGE_NAMES = ('stage2', 'stage3', 'stage4', 'stage5')


class VoVNetSpec(NamedTuple):
    """One architecture. Tuples over stages go from stage 2 (stride 4) to stage 5 (stride 32)."""

    stem: tuple             # output channels of the three stem convolutions
    width: tuple            # channels of the 3x3 convolutions, per stage
    out_channels: tuple     # output channels, per stage
    layers: int             # 3x3 convolutions per block
    blocks: tuple           # blocks per stage
    depthwise: bool = False


_WIDE = dict(width=(128, 160, 192, 224), out_channels=(256, 512, 768, 1024))
_SLIM = dict(width=(64, 80, 96, 112), out_channels=(112, 256, 384, 512))

SPECS = {
    'V-19-slim-dw-eSE': VoVNetSpec((64, 64, 64), **_SLIM, layers=3, blocks=(1, 1, 1, 1), depthwise=True),
    'V-19-dw-eSE': VoVNetSpec((64, 64, 64), **_WIDE, layers=3, blocks=(1, 1, 1, 1), depthwise=True),
    'V-19-slim-eSE': VoVNetSpec((64, 64, 128), **_SLIM, layers=3, blocks=(1, 1, 1, 1)),
    'V-19-eSE': VoVNetSpec((64, 64, 128), **_WIDE, layers=3, blocks=(1, 1, 1, 1)),
    'V-39-eSE': VoVNetSpec((64, 64, 128), **_WIDE, layers=5, blocks=(1, 1, 2, 2)),
    'V-57-eSE': VoVNetSpec((64, 64, 128), **_WIDE, layers=5, blocks=(1, 1, 4, 3)),
    'V-99-eSE': VoVNetSpec((64, 64, 128), **_WIDE, layers=5, blocks=(1, 3, 9, 3)),
}


def conv_unit(name, in_channels, out_channels, kernel_size=3, stride=1):
    """Convolution, BatchNorm and ReLU as a name -> module dict; spatial size is kept at stride 1."""
    return {
        f'{name}/conv': nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        f'{name}/norm': nn.BatchNorm2d(out_channels),
        f'{name}/relu': nn.ReLU(inplace=True),
    }


def separable_unit(name, in_channels, out_channels, stride=1):
    """Depthwise 3x3, pointwise 1x1, BatchNorm and ReLU as a name -> module dict."""
    return {
        f'{name}/dw_conv3x3': nn.Conv2d(
            in_channels, out_channels, 3, stride, padding=1, groups=out_channels, bias=False),
        f'{name}/pw_conv1x1': nn.Conv2d(out_channels, out_channels, 1, bias=False),
        f'{name}/pw_norm': nn.BatchNorm2d(out_channels),
        f'{name}/pw_relu': nn.ReLU(inplace=True),
    }


def sequential(units):
    """A dict of modules as ``nn.Sequential`` with those names."""
    layers = nn.Sequential()
    for name, module in units.items():
        layers.add_module(name, module)
    return layers


class EffectiveSE(nn.Module):
    """Channel attention with a single full-width projection (CenterMask, eq. 5)."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        gate = self.fc(x.mean(dim=(2, 3), keepdim=True))    # (N, C, 1, 1)
        return x * F.hardsigmoid(gate)


class OneShotAggregation(nn.Module):
    """A chain of 3x3 convolutions whose input and every output are concatenated once, at the end.

    Args:
        name (str): Prefix of the parameter names, e.g. ``'OSA4_1'``.
        in_channels (int): Channels of the input.
        width (int): Channels of each 3x3 convolution.
        out_channels (int): Channels of the output.
        layers (int): Number of 3x3 convolutions.
        depthwise (bool): Whether the convolutions are depthwise separable.
        residual (bool): Whether the input is added to the output (needs ``in_channels == out_channels``).
        with_cp (bool): Whether activations are recomputed in the backward pass.
    """

    def __init__(self, name, in_channels, width, out_channels, layers, depthwise=False, residual=False, with_cp=False):
        super().__init__()
        self.residual = residual
        self.with_cp = with_cp
        chain_in = in_channels
        if depthwise and in_channels != width:      # a depthwise convolution cannot change the channel count
            self.conv_reduction = sequential(conv_unit(f'{name}_reduction_0', in_channels, width, kernel_size=1))
            chain_in = width
        else:
            self.conv_reduction = nn.Identity()
        unit = separable_unit if depthwise else conv_unit
        self.layers = nn.ModuleList(
            sequential(unit(f'{name}_{i}', width if i else chain_in, width)) for i in range(layers))
        self.concat = sequential(
            conv_unit(f'{name}_concat', in_channels + layers * width, out_channels, kernel_size=1))
        self.ese = EffectiveSE(out_channels)

    def forward(self, x):
        """(N, in_channels, H, W) -> (N, out_channels, H, W)."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._aggregate, x, use_reentrant=False)
        return self._aggregate(x)

    def _aggregate(self, x):
        features = [x]
        chain = self.conv_reduction(x)
        for layer in self.layers:
            chain = layer(chain)
            features.append(chain)
        out = self.ese(self.concat(torch.cat(features, dim=1)))     # (N, in_channels + layers * width, H, W) inside
        return out + x if self.residual else out


@BACKBONES.register_module()
class VoVNet(BaseModule):
    """VoVNet-v2 backbone.

    Stages after the deepest requested one are not built, so that every parameter takes part in the loss.

    Args:
        spec_name (str): Architecture, a key of :data:`SPECS`, e.g. ``'V-99-eSE'``.
        input_ch (int): Image channels.
        out_features (Sequence[str], optional): Which of ``'stem'``, ``'stage2'`` ... ``'stage5'`` (strides 4, 4, 8, 16,
            32) to return; default: the four stages.
        frozen_stages (int): -1 freezes nothing, 0 the stem, k the stem and the first k stages: parameters without
            gradient, modules in evaluation mode even after ``train()``.
        norm_eval (bool): Whether BatchNorm layers keep their running statistics in training.
        pretrained (str, optional): Deprecated spelling of ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        with_cp (bool): Whether blocks recompute their activations in the backward pass to save memory. With
            ``norm_eval=False`` the running statistics then see every batch twice.
        init_cfg (dict, optional): Initialization; default: Kaiming convolutions, unit BatchNorm.

    Raises:
        ValueError: for an unknown ``spec_name`` or feature name, a repeated feature, ``frozen_stages`` outside
            [-1, 4], or ``pretrained`` together with ``init_cfg``.
    """

    def __init__(self, spec_name, input_ch=3, out_features=None, frozen_stages=-1, norm_eval=True, pretrained=None,
                 with_cp=False, init_cfg=None):
        super().__init__(self._initialization(pretrained, init_cfg))
        if spec_name not in SPECS:
            raise ValueError(f'spec_name must be one of {sorted(SPECS)}, got {spec_name!r}')
        if not -1 <= frozen_stages <= len(STAGE_NAMES):
            raise ValueError(f'frozen_stages must lie in [-1, {len(STAGE_NAMES)}], got {frozen_stages}')
        self.out_features = self._checked_features(STAGE_NAMES if out_features is None else out_features)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        spec = SPECS[spec_name]
        stem_1, stem_2, stem_3 = spec.stem
        unit = separable_unit if spec.depthwise else conv_unit
        self.stem = sequential({
            **conv_unit('stem_1', input_ch, stem_1, stride=2),
            **unit('stem_2', stem_1, stem_2),
            **unit('stem_3', stem_2, stem_3, stride=2),
        })
        used = [i for i, name in enumerate(STAGE_NAMES) if name in self.out_features]
        self.stage_names = STAGE_NAMES[:used[-1] + 1] if used else ()
        in_channels = stem_3
        for i, name in enumerate(self.stage_names):
            setattr(self, name, self._build_stage(spec, i, in_channels, with_cp))
            in_channels = spec.out_channels[i]
        self._freeze()

    @staticmethod
    def _initialization(pretrained, init_cfg):
        if pretrained is not None:
            if init_cfg is not None:
                raise ValueError(f'give pretrained or init_cfg, not both; got {pretrained!r} and {init_cfg!r}')
            warnings.warn("pretrained is deprecated: use init_cfg=dict(type='Pretrained', checkpoint=...)",
                          DeprecationWarning, stacklevel=3)
            return dict(type='Pretrained', checkpoint=pretrained)
        return init_cfg or [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1, layer='_BatchNorm')]

    @staticmethod
    def _checked_features(names):
        allowed = ('stem', *STAGE_NAMES)
        if isinstance(names, str) or not names or set(names) - set(allowed) or len(set(names)) != len(names):
            raise ValueError(f'out_features must be distinct names from {allowed}, at least one, got {names!r}')
        return tuple(name for name in allowed if name in names)

    @staticmethod
    def _build_stage(spec, index, in_channels, with_cp):
        stage = nn.Sequential()
        if index > 0:       # the stem already brings stage 2 to stride 4
            stage.add_module('Pooling', nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True))
        out_channels = spec.out_channels[index]
        for block in range(spec.blocks[index]):
            name = f'OSA{index + 2}_{block + 1}'
            stage.add_module(name, OneShotAggregation(
                name, out_channels if block else in_channels, spec.width[index], out_channels, spec.layers,
                spec.depthwise, residual=block > 0, with_cp=with_cp))
        return stage

    def forward(self, x):
        """Return the requested feature maps as a tuple, shallow to deep.

        Args:
            x (Tensor): Images, (N, input_ch, H, W).

        Returns:
            tuple[Tensor]: One (N, C, ceil(H / stride), ceil(W / stride)) map per name in ``out_features``.
        """
        features = []
        for name in ('stem', *self.stage_names):
            x = getattr(self, name)(x)
            if name in self.out_features:
                features.append(x)
        return tuple(features)

    def _freeze(self):
        for name in ('stem', *self.stage_names)[:self.frozen_stages + 1]:
            getattr(self, name).eval().requires_grad_(False)

    def train(self, mode=True):
        """Set the mode; frozen stages and, with ``norm_eval``, BatchNorm layers stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
