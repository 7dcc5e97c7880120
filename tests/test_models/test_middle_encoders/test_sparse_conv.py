import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.cnn import build_conv_layer
from spconv.pytorch import SparseConvTensor

from tests.fuzz.oracles import dense_convolution
from tests.fuzz.strategies import GRID, voxels


@pytest.mark.parametrize('cfg', [
    dict(type='SubMConv3d', kernel_size=3, padding=1, bias=False),
    dict(type='SparseConv3d', kernel_size=3, stride=2, padding=1, bias=False),
    dict(type='SparseConv3d', kernel_size=3, stride=2, padding=[0, 1, 1], bias=True),
    dict(type='SparseConv3d', kernel_size=(3, 1, 1), stride=(2, 1, 1), padding=0, bias=False),
])
@given(st.integers(1, 60), st.integers(1, 2), st.integers(0, 2**31))
def test_equals_dense_convolution(cfg, count, batch, seed):
    cfg = dict(cfg)
    kind = dict(type=cfg.pop('type'))
    torch.manual_seed(seed)
    conv = build_conv_layer(kind, 4, 3, indice_key='key', **cfg)
    features, coors = voxels(count, 4, batch, seed)
    features.requires_grad_()
    out = conv(SparseConvTensor(features, coors, GRID, batch)).dense()
    expected = dense_convolution(conv, features, coors, batch)
    assert out.shape == expected.shape
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    inputs = (features, conv.weight)
    for grad, want in zip(torch.autograd.grad(out.square().sum(), inputs),
                          torch.autograd.grad(expected.square().sum(), inputs)):
        torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-4)


def test_repeats_bit_for_bit_with_two_threads():
    """spconv's own CPU kernel differs from itself here (19 of 60 runs; docs/design.md, "The software stack")."""
    torch.manual_seed(0)
    conv = build_conv_layer(dict(type='SparseConv3d'), 16, 32, kernel_size=3, stride=2, padding=1, bias=False)
    shape = (20, 40, 40)
    cells = torch.randperm(20 * 40 * 40)[:4000]
    coors = torch.stack([torch.zeros_like(cells), cells // 1600, cells // 40 % 40, cells % 40], dim=1).int()
    features = torch.randn(4000, 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        results = [conv(SparseConvTensor(features, coors, shape, 1)).dense() for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_no_voxels_keep_the_shape():
    conv = build_conv_layer(dict(type='SparseConv3d'), 4, 3, kernel_size=3, stride=2, padding=1, bias=False)
    out = conv(SparseConvTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), GRID, 2))
    assert out.dense().shape == (2, 3, 3, 3, 4) and (out.dense() == 0).all()


def test_unsupported_kinds_raise():
    from projects.mmdet3d_plugin.models.middle_encoders.sparse_conv import SparseConv3d
    conv = SparseConv3d(4, 3, 3)
    conv.transposed = True
    with pytest.raises(NotImplementedError, match='CPU'):
        conv(SparseConvTensor(*voxels(5, 4, 1, 0), GRID, 1))
