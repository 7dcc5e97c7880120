"""spconv's 3D convolutions, made correct on CPU (docs/design.md, "The software stack").

spconv 2.3 computes CPU convolutions with a data race (wrong results with more than one thread) and its backward asks
for a CUDA stream. Its index pairs are right, so on CPU they are used with torch's own gather, matmul and ``index_add``:
exact, deterministic, differentiable. On CUDA spconv's kernels run as they are.
"""
import spconv.pytorch as spconv
from mmcv.cnn.bricks.registry import CONV_LAYERS
from spconv.core import ConvAlgo
from spconv.cppconstants import CPU_ONLY_BUILD
from spconv.pytorch import ops
from spconv.pytorch.core import IndiceData


class _CpuComputeMixin:
    """Replaces the compute of a spconv convolution for CPU tensors and for tensors without voxels on any device."""

    def forward(self, input):
        if input.features.is_cuda and len(input.features):
            if CPU_ONLY_BUILD:
                raise RuntimeError('the installed spconv has no CUDA kernels; install spconv-cu126 (or the build for '
                                   'your CUDA) in its place: pip uninstall spconv cumm, pip install spconv-cu126')
            return super().forward(input)
        if self.transposed or self.inverse:
            raise NotImplementedError(f'{type(self).__name__}: only forward sparse convolutions run on CPU')
        shape = input.spatial_shape if self.subm else ops.get_conv_output_size(
            input.spatial_shape, self.kernel_size, self.stride, self.padding, self.dilation)
        out = input.shadow_copy()
        if len(input.features):
            pairs = self._index_pairs(input, shape)
            features = self._convolve(input.features, pairs)
            out.indices = pairs.out_indices
            if self.indice_key is not None:
                out.indice_dict = {**input.indice_dict, self.indice_key: pairs}
        else:
            features = self._nothing(input.features)
        if self.bias is not None:
            features = features + self.bias
        out = out.replace_feature(features)
        out.spatial_shape = shape
        return out

    def _index_pairs(self, input, out_shape):
        """spconv's index pairs, reused between submanifold layers of one ``indice_key``."""
        known = input.find_indice_pair(self.indice_key)
        if known is not None:
            return known
        outids, pairs, counts = ops.get_indice_pairs(
            input.indices, input.batch_size, input.spatial_shape, ConvAlgo.Native, self.kernel_size, self.stride,
            self.padding, self.dilation, self.output_padding, self.subm, self.transposed)
        return IndiceData(outids, input.indices, pairs, counts, input.spatial_shape, out_shape, is_subm=self.subm,
                          algo=ConvAlgo.Native, ksize=self.kernel_size, stride=self.stride, padding=self.padding,
                          dilation=self.dilation)

    def _nothing(self, features):
        """(0, C_out) that is part of the graph: distributed training expects a gradient for every parameter."""
        return features.new_zeros(0, self.out_channels) + 0 * (features.sum() + self.weight.sum())

    def _convolve(self, features, pairs):
        """(N, C_in) -> (M, C_out): per kernel offset gather inputs, multiply, add to outputs."""
        kernel = self.weight.flatten(1, -2).permute(1, 2, 0)  # (K, C_in, C_out)
        out = features.new_zeros(len(pairs.out_indices), self.out_channels)
        counts = pairs.indice_pair_num.tolist()
        if not len(out):  # strides may step over every voxel
            return self._nothing(features)
        if self.subm:
            # A submanifold kernel is symmetric: spconv counts the pairs of the first half and none for the center,
            # where every voxel meets itself.
            half = counts[:len(kernel) // 2]
            counts = half + [0] + half[::-1]
            out = out + features @ kernel[len(kernel) // 2]
        for offset, (weight, count) in enumerate(zip(kernel, counts)):
            if count:
                source, target = pairs.indice_pairs[:, offset, :count].long()
                out = out.index_add(0, target, (features[source] @ weight).to(out.dtype))
        return out


@CONV_LAYERS.register_module(name='SparseConv3d', force=True)
class SparseConv3d(_CpuComputeMixin, spconv.SparseConv3d):
    """spconv's ``SparseConv3d``, correct on CPU."""


@CONV_LAYERS.register_module(name='SubMConv3d', force=True)
class SubMConv3d(_CpuComputeMixin, spconv.SubMConv3d):
    """spconv's ``SubMConv3d``, correct on CPU."""
