"""Feature pyramid without the output convolutions that CMT never uses."""
from mmdet.models.builder import NECKS
from mmdet.models.necks import FPN
from torch import nn


@NECKS.register_module()
class CPFPN(FPN):
    """FPN (Lin et al., CVPR 2017) with an output convolution on its first level only.

    CMT reads the first level alone. Without the other output convolutions every parameter receives a gradient, which
    DistributedDataParallel asks for, and activation checkpointing in the backbone works with it. The other levels are
    returned as merged lateral maps. Arguments, inputs and outputs are those of :class:`mmdet.models.necks.FPN`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for level in range(1, len(self.lateral_convs)):
            self.fpn_convs[level] = nn.Identity()
