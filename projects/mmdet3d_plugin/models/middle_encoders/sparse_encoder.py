from mmcv.cnn import NORM_LAYERS
from mmdet3d.models.builder import MIDDLE_ENCODERS
from mmdet3d.models.middle_encoders import SparseEncoder as _SparseEncoder
from torch import nn


@NORM_LAYERS.register_module()
class SparseBN1d(nn.BatchNorm1d):
    """BatchNorm over voxels that also works with one voxel or none, as when a failed sensor leaves an empty cloud.

    Statistics of fewer than two voxels are undefined; the running ones are used instead.
    """

    _abbr_ = 'bn'

    def forward(self, x):
        if len(x) > 1 or not self.training:
            return super().forward(x)
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0,
                                        self.eps)


@MIDDLE_ENCODERS.register_module(force=True)
class SparseEncoder(_SparseEncoder):
    """mmdet3d's ``SparseEncoder`` for any number of voxels, and for voxels outside its grid.

    Published configs declare a grid smaller than the point cloud range (docs/design.md, "Cells and views"). Voxels
    beyond the grid would alias others inside the sparse library; they are dropped.

    Args:
        in_channels, sparse_shape, norm_cfg, ...: see mmdet3d; ``norm_cfg`` must be BN1d.
    """

    def __init__(self, *args, norm_cfg=None, **kwargs):
        norm_cfg = dict(norm_cfg or dict(type='BN1d', eps=1e-3, momentum=0.01))
        if norm_cfg.get('type') not in ('BN1d', 'SparseBN1d'):
            raise ValueError('norm_cfg of SparseEncoder must be BN1d, which is made safe for empty clouds, got '
                             f'{norm_cfg}')
        norm_cfg['type'] = 'SparseBN1d'
        super().__init__(*args, norm_cfg=norm_cfg, **kwargs)

    def forward(self, voxel_features, coors, batch_size):
        """(N, C) features of voxels at (N, 4) (sample, z, y, x) -> (B, C_out, H, W)."""
        inside = (coors[:, 1:] < coors.new_tensor(self.sparse_shape)).all(dim=1)
        out = super().forward(voxel_features[inside], coors[inside], batch_size)
        if not out.any():
            # No voxels, or all beyond what the last strides reach: spconv skips norms without voxels, but distributed
            # training expects a gradient for every parameter.
            out = out + 0 * sum(parameter.sum() for parameter in self.parameters())
        return out
