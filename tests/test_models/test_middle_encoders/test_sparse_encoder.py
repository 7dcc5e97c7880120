import pytest
import torch
from mmdet3d.models.builder import build_middle_encoder

from projects.mmdet3d_plugin.models.middle_encoders import SparseEncoder

GRID = [9, 32, 32]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build_middle_encoder(dict(
        type='SparseEncoder', in_channels=5, sparse_shape=GRID, output_channels=16, order=('conv', 'norm', 'act'),
        base_channels=8, encoder_channels=((8, 8, 16), (16, 16)), encoder_paddings=((0, 0, 1), (0, 0)),
        block_type='basicblock'))


def voxels(count, seed=0, batch=2, grid=GRID):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(batch * grid[0] * grid[1] * grid[2], generator=generator)[:count]
    plane = grid[1] * grid[2]
    coors = torch.stack([cells // (plane * grid[0]), cells // plane % grid[0], cells // grid[2] % grid[1],
                         cells % grid[2]], dim=1)
    return torch.randn(count, 5, generator=generator), coors.int()


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('count', [0, 1, 2, 200])
def test_any_number_of_voxels(encoder, count, training):
    encoder.train(training)
    features, coors = voxels(count)
    features.requires_grad_()
    out = encoder(features, coors, 2)
    assert isinstance(encoder, SparseEncoder) and out.shape == (2, 32, 16, 16) and torch.isfinite(out).all()
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())
    assert all(torch.isfinite(buffer).all() for buffer in encoder.buffers())


def test_empty_last_sample_keeps_the_batch(encoder):
    features, coors = voxels(50)
    first = coors[:, 0] == 0
    encoder.eval()
    both = encoder(features[first], coors[first], 2)
    assert both.shape[0] == 2 and (both[1] == 0).all()
    torch.testing.assert_close(both[:1], encoder(features[first], coors[first], 1))


def test_voxels_beyond_the_grid_are_dropped_not_aliased(encoder):
    """Published 0.1 m config: 1080 voxels of range on a grid of 1024."""
    encoder.eval()
    features, coors = voxels(80)
    outside = coors.clone()
    outside[:, 3] += 32
    with torch.no_grad():
        inside_only = encoder(features, coors, 2)
        with_outside = encoder(torch.cat([features, features]), torch.cat([coors, outside]), 2)
    assert torch.equal(inside_only, with_outside)


def test_state_dict_keys_are_those_of_mmdet3d(encoder):
    from mmdet3d.models.middle_encoders.sparse_encoder import SparseEncoder as Original
    original = Original(5, GRID, output_channels=16, base_channels=8, encoder_channels=((8, 8, 16), (16, 16)),
                        encoder_paddings=((0, 0, 1), (0, 0)), block_type='basicblock')
    assert {k: v.shape for k, v in encoder.state_dict().items()} == {
        k: v.shape for k, v in original.state_dict().items()}


def test_voxels_that_every_stride_steps_over():
    """The top layer of a grid of even height: the last convolution does not reach it, so that nothing is left."""
    torch.manual_seed(0)
    encoder = build_middle_encoder(dict(
        type='SparseEncoder', in_channels=5, sparse_shape=[8, 32, 32], output_channels=16,
        order=('conv', 'norm', 'act'), base_channels=8, encoder_channels=((8, 8, 16), (16, 16)),
        encoder_paddings=((0, 0, 1), (0, 0)), block_type='basicblock'))
    coors = torch.tensor([[0, 7, 3, 4], [1, 7, 9, 9]], dtype=torch.int32)
    out = encoder(torch.randn(2, 5), coors, 2)
    assert (out == 0).all() and len(out) == 2
    out.sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in encoder.parameters())
