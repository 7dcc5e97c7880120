"""The published head on random features, without AQR and with it."""
import torch

from benchmarks.harness import Comparison

from .scenes import AQR, features, metas, published_head, published_model, run_without_grad


def build(settings):
    """Compare heads in evaluation mode; each has weights of its own."""
    heads = {name: published_head(settings, **options) for name, options in AQR.items()}
    config = published_model(settings.scale).pts_bbox_head
    x, x_img = features(settings, config.in_channels, config.hidden_dim, torch.Generator().manual_seed(0))
    img_metas = metas(settings.scale, settings.batch)
    return Comparison({name: lambda head=head: head([x], [x_img], img_metas) for name, head in heads.items()},
                      {'forward': run_without_grad})
