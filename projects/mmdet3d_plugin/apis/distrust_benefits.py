"""What a detector would win, sample by sample, if it distrusted a sensor (docs/design.md, "Trust that pays")."""
import contextlib

import torch
from torch import nn

from ..core.bbox.box_encoding import with_gravity_center
from ..models.utils.token_layout import MODALITIES


class _GivenWeights(nn.Module):
    """A router that gives weights (B, Q, 2) which are known already."""

    def __init__(self, weights, projections):
        super().__init__()
        self.weights, self.projections = weights, projections

    def forward(self, *_):
        """As ``AQRWeightGenerator``."""
        return *self.weights.unbind(-1), self.projections


@contextlib.contextmanager
def _routed_by(head, router):
    """A head with another router for a while."""
    own, head.aqr_router = head.aqr_router, router
    try:
        yield
    finally:
        head.aqr_router = own


@torch.no_grad()
def distrust_benefits(head, scene, img_metas, projections, places):
    """By how much the detection loss of samples falls when one sensor is distrusted as far as the head's bias goes.

    Args:
        head (CmtHead): in evaluation, with a router.
        scene (EmbeddedScene): of ``CmtHead.embed_scene``.
        img_metas (list[dict]): B, with ``gt_bboxes_3d`` and ``gt_labels_3d``.
        projections (QueryProjections): of the queries.
        places (Tensor): (B, Q, 2) bool, where LiDAR and the cameras are distrusted, one at a time.

    Returns:
        Tensor: (B, 2) float32, above 0 where distrust of LiDAR, of the cameras, helps.

    Raises:
        ValueError: metas without ground truth.
    """
    missing = {name for name in ('gt_bboxes_3d', 'gt_labels_3d') for meta in img_metas if name not in meta}
    if missing:
        raise ValueError(f'img_metas: what distrust is worth shows against ground truth, but Collect3D has not '
                         f'{sorted(missing)} among its meta_keys')
    losses = []
    for distrusted in (None, *range(len(MODALITIES))):
        weights = torch.full(places.shape, 0.5, device=places.device)
        if distrusted is not None:
            weights[..., distrusted][places[..., distrusted]] = 0.0
        with _routed_by(head, _GivenWeights(weights, projections)):
            losses.append(_detection_losses(head, head.detect(scene, img_metas), img_metas))
    neutral, *others = losses
    return torch.stack([neutral - other for other in others], dim=-1)


def _detection_losses(head, preds, img_metas):
    """Class and box loss (B,) of the last layer, for each sample by itself."""
    device = preds[0][0]['cls_logits'].device
    losses = []
    for sample, meta in enumerate(img_metas):
        boxes, labels = (meta[name].data for name in ('gt_bboxes_3d', 'gt_labels_3d'))
        branches = [{name: value[-1:, sample:sample + 1] for name, value in task[0].items()
                     if isinstance(value, torch.Tensor)} for task in preds]
        found = head.criterion(branches, [with_gravity_center(boxes).to(device)], [labels.to(device)], None)
        losses.append(found['loss_cls'] + found['loss_bbox'])
    return torch.stack(losses).float()
