import torch
import torch.nn.functional as F
from mmcv.runner import BaseModule
from mmdet.models import HEADS
from torch import nn


class GroupLayerNorm1d(nn.Module):
    """LayerNorm over the channels of each group at each position; unlike ``nn.GroupNorm`` it does not mix positions.

    Args:
        channels (int): groups * channels per group.
        groups (int): number of groups.
        eps (float): added to the variance.
    """

    def __init__(self, channels, groups=1, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = groups
        self.eps = eps

    def forward(self, x):
        """(B, groups * C, Q) -> the same shape."""
        grouped = x.unflatten(1, (self.groups, -1)).movedim(2, -1)  # (B, groups, Q, C)
        normed = F.layer_norm(grouped, grouped.shape[-1:], eps=self.eps).movedim(-1, 2).flatten(1, 2)
        return normed * self.weight.unsqueeze(-1) + self.bias.unsqueeze(-1)


@HEADS.register_module()
class SeparateTaskHead(BaseModule):
    """One small MLP per predicted quantity; the decoder layers are its groups, each with weights of its own (CMT).

    Convolutions keep PyTorch's initialization. Upstream declares Kaiming's, which never reaches its heads; with so few
    output channels it would start box codes tens of meters off (first loss 229 instead of 47 on the real frame).

    Args:
        in_channels (int): channels C of a decoded query.
        heads (dict[str, tuple[int, int]]): per quantity, output channels and number of layers.
        groups (int): number of decoder layers L.
        head_conv (int): channels of hidden layers.
        final_kernel (int): kernel size along the queries, odd; 1 treats each query by itself.
        init_bias (float): initial bias of ``cls_logits``, -2.19 is a probability of 0.1.
        init_cfg (dict | None): must be None: initialization is fixed.
    """

    def __init__(self, in_channels, heads, groups=1, head_conv=64, final_kernel=1, init_bias=-2.19, init_cfg=None):
        if init_cfg is not None:
            raise ValueError(f'init_cfg: the initialization of SeparateTaskHead is fixed, got {init_cfg}')
        super().__init__()
        self.heads = dict(heads)
        self.groups = groups
        self.init_bias = init_bias
        for name, (out_channels, num_layers) in self.heads.items():
            channels = [in_channels] + [head_conv] * (num_layers - 1) + [out_channels]
            layers = []
            for index, (c_in, c_out) in enumerate(zip(channels[:-1], channels[1:])):
                is_last = index == num_layers - 1
                layers.append(nn.Conv1d(c_in * groups, c_out * groups, final_kernel, padding=final_kernel // 2,
                                        groups=groups, bias=is_last))
                if not is_last:
                    layers += [GroupLayerNorm1d(c_out * groups, groups), nn.ReLU(inplace=True)]
            self.add_module(name, nn.Sequential(*layers))

    def init_weights(self):
        super().init_weights()
        if 'cls_logits' in self.heads:
            nn.init.constant_(self.cls_logits[-1].bias, self.init_bias)

    def forward(self, x):
        """Decoded queries (L, B, Q, C) -> dict of (L, B, Q, channels of the quantity)."""
        grouped = x.permute(1, 0, 3, 2).flatten(1, 2)  # (B, L * C, Q)
        outputs = {}
        for name in self.heads:
            out = getattr(self, name)(grouped).unflatten(1, (self.groups, -1))  # (B, L, channels, Q)
            outputs[name] = out.permute(1, 0, 3, 2)
        return outputs

    def of_layer(self, name, x, layer):
        """One quantity of one decoder layer: as in :meth:`forward`, without the work for the others.

        Args:
            name (str): of the quantity.
            x (Tensor): (B, Q, C) queries that this layer decoded.
            layer (int): which.

        Returns:
            Tensor: (B, Q, channels of the quantity).
        """
        x = x.transpose(1, 2)  # (B, C, Q)
        for module in getattr(self, name):
            if isinstance(module, nn.ReLU):
                x = module(x)
                continue
            weight, bias = (each if each is None else each.chunk(self.groups)[layer]
                            for each in (module.weight, module.bias))
            if isinstance(module, nn.Conv1d):
                x = F.conv1d(x, weight, bias, padding=module.padding)
            else:
                x = F.layer_norm(x.transpose(1, 2), weight.shape, weight, bias, module.eps).transpose(1, 2)
        return x.transpose(1, 2)
