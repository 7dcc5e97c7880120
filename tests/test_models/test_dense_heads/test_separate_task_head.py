import pytest
import torch
from torch import nn

from projects.mmdet3d_plugin.models.dense_heads.separate_task_head import GroupLayerNorm1d, SeparateTaskHead


def test_group_layer_norm_equals_layer_norm_per_group():
    torch.manual_seed(0)
    norm = GroupLayerNorm1d(12, groups=3).double()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(2, 12, 5, dtype=torch.float64)
    out = norm(x)
    for group in range(3):
        part = slice(group * 4, group * 4 + 4)
        for position in range(5):
            expected = nn.functional.layer_norm(x[:, part, position], (4, ), norm.weight[part], norm.bias[part],
                                                eps=1e-6)
            torch.testing.assert_close(out[:, part, position], expected)


def test_each_layer_has_its_own_weights():
    torch.manual_seed(0)
    head = SeparateTaskHead(8, dict(center=(2, 2), cls_logits=(3, 2)), groups=2, head_conv=4)
    head.init_weights()
    x = torch.randn(2, 1, 6, 8)
    out = head(x)
    assert out['center'].shape == (2, 1, 6, 2) and out['cls_logits'].shape == (2, 1, 6, 3)
    changed = x.clone()
    changed[1] += 1
    assert (torch.equal(head(changed)['center'][0], out['center'][0])
            and not torch.equal(head(changed)['center'][1], out['center'][1]))


def test_class_bias_is_reached_by_init_weights_of_the_head(make_head):
    head = make_head()
    for task in head.task_heads:
        assert (task.cls_logits[-1].bias == -2.19).all() and (task.center[-1].bias != -2.19).all()


def test_init_cfg_is_refused():
    with pytest.raises(ValueError, match='init_cfg'):
        SeparateTaskHead(8, dict(center=(2, 2)), init_cfg=dict(type='Normal'))


def test_one_quantity_of_one_layer():
    torch.manual_seed(0)
    head = SeparateTaskHead(8, dict(center=(2, 3), cls_logits=(3, 2)), groups=3, head_conv=4, final_kernel=3).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 2, 6, 8, dtype=torch.float64)
    for name, expected in head(x).items():
        for layer in range(3):
            torch.testing.assert_close(head.of_layer(name, x[layer], layer), expected[layer])
