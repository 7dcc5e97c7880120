import pytest
import torch

from projects.mmdet3d_plugin.models.utils.token_layout import TokenLayout


def test_order_is_bev_rows_then_views():
    batch, channels, (height, width), (views, h, w) = 2, 3, (2, 4), (3, 2, 5)
    x, x_img = torch.rand(batch, channels, height, width), torch.rand(batch * views, channels, h, w)
    layout = TokenLayout.from_features(x, x_img, batch)
    tokens = torch.cat(layout.runs(x, x_img, batch))
    assert tokens.shape == (layout.num_tokens, batch, channels) == (8 + 30, 2, 3)
    index = 0
    for row in range(height):
        for col in range(width):
            assert torch.equal(tokens[index], x[:, :, row, col])
            index += 1
    for view in range(views):
        for row in range(h):
            for col in range(w):
                assert torch.equal(tokens[index], x_img.view(batch, views, channels, h, w)[:, view, :, row, col])
                index += 1


def test_single_modalities():
    x, x_img = torch.rand(1, 3, 2, 2), torch.rand(6, 3, 2, 5)
    assert TokenLayout.from_features(x, None, 1).num_tokens == 4
    assert TokenLayout.from_features(None, x_img, 1).view_shape == (6, 2, 5)
    with pytest.raises(ValueError, match='both None'):
        TokenLayout.from_features(None, None, 1)
    with pytest.raises(ValueError, match='x_img'):
        TokenLayout.from_features(None, x_img, 4)
    with pytest.raises(ValueError, match='x: features of 1 samples'):
        TokenLayout.from_features(x, x_img, 2)
