"""The published head on random features, without AQR and with each kind of it."""
import torch

from benchmarks.harness import Comparison

from .scenes import (
    AQR,
    LOOKS,
    blank_features,
    conferring_head,
    features,
    let_lean,
    metas,
    published_head,
    published_model,
    run_without_grad,
)


def build(settings):
    """Compare heads in evaluation mode; each has weights of its own."""
    config = published_model(settings.scale).pts_bbox_head
    sensors = features(settings, config.in_channels, config.hidden_dim, torch.Generator().manual_seed(0))
    x, x_img = (each.requires_grad_() for each in sensors)
    img_metas, blank = metas(settings.scale, settings.batch), blank_features((x, x_img))
    heads = {name: published_head(settings, **options) for name, options in AQR.items()}
    for name, share in LOOKS.items():
        heads[name] = conferring_head(settings)
        let_lean(heads[name], share, x, x_img, img_metas)
    return Comparison({name: lambda head=head: head([x], [x_img], img_metas, blank) for name, head in heads.items()},
                      {'forward': run_without_grad, 'forward + backward': _run_with_grad})


def _run_with_grad(candidate):
    """A pass: the candidate, and gradients of all that it predicts."""
    tasks = candidate()
    sum(value.sum() for task in tasks for value in task[0].values() if isinstance(value, torch.Tensor)).backward()
