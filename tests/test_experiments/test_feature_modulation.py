import pytest
import torch

from projects.mmdet3d_plugin.experiments.feature_modulation import FeatureModulationHead
from tests.test_models.conftest import head_config, make_batch, train_losses  # noqa: F401  (fixtures)


@pytest.fixture
def head():
    torch.manual_seed(0)
    cfg = head_config(type='FeatureModulationHead', enable_aqr=True)
    cfg.pop('type')
    head = FeatureModulationHead(**cfg)
    head.init_weights()
    return head.eval()


def test_neutral_weights_change_nothing(head, make_batch):  # noqa: F811
    x, x_img, metas = make_batch((3, 2))
    x = head.shared_conv(x)
    scaled, scaled_img, bias, record = head._apply_aqr_modulation(
        x, x_img, head.reference_points.weight.expand(2, -1, -1), metas)
    assert torch.equal(scaled, x) and torch.equal(scaled_img, x_img) and bias is None and record.bias is None


def test_features_follow_the_mean_weights(head, make_batch):  # noqa: F811
    """Against loops over samples, views and queries."""
    torch.nn.init.normal_(head.aqr_router.mlp[-1].weight)
    x, x_img, metas = make_batch((3, 2))
    x = head.shared_conv(x)
    with torch.no_grad():
        scaled, scaled_img, _, record = head._apply_aqr_modulation(
            x, x_img, head.reference_points.weight.expand(2, -1, -1), metas)
    for sample in range(2):
        assert torch.allclose(scaled[sample], x[sample] * 2 * record.lidar_weights[sample].mean(), atol=1e-5)
        for view in range(6):
            seen = record.projections.pts_pers_valid[sample, :, view]
            factor = 2 * record.camera_weights[sample, seen].mean() if seen.any() else 1
            index = sample * 6 + view
            assert torch.allclose(scaled_img[index], x_img[index] * factor, atol=1e-5)
    assert (scaled - x).abs().max() > 0.01


def test_denoising_queries_have_no_say_and_gradients_flow(head, make_batch, train_losses):  # noqa: F811
    head.train()
    losses = train_losses(head, make_batch((3, 2)))
    sum(losses.values()).backward()
    assert head.aqr_router.mlp[-1].weight.grad.abs().sum() > 0
