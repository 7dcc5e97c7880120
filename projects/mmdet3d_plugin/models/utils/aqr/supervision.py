"""Where the router should have moved weight: targets from simulated failures (docs/design.md, "Supervision")."""
from typing import NamedTuple, Optional

import torch
from mmdet.core import reduce_mean
from torch.nn import functional as F

from ..geometry import from_unit_range, full_precision
from ..token_layout import MODALITIES


class RoutingTargets(NamedTuple):
    """What simulated failures say of the queries of a batch.

    Attributes:
        lidar_lost, cameras_lost: (B, Q) bool, the sensor is lost at the query's place.
        weights: (B, Q, 2) LiDAR and camera weight to aim at, see ``TARGETS``.
        is_known: (B, Q) bool, False in samples whose failure is graded: where it struck is not known.
        has_target: (B, Q, 2) bool, the weight is taught. Of a graded failure that changed one sensor, trust in the
            other one is; preference needs to know both.
        importance: (B, Q, 2) factors >= 0 of the loss, None for equal ones.
    """

    lidar_lost: torch.Tensor
    cameras_lost: torch.Tensor
    weights: torch.Tensor
    is_known: torch.Tensor
    has_target: torch.Tensor
    importance: Optional[torch.Tensor] = None


def preference_targets(lidar_lost, cameras_lost):
    """Weights that cancel where sensors are alike: (0.5, 0.5) where neither or both are lost, else (0, 1) or (1, 0)."""
    preference = 0.5 * (cameras_lost.float() - lidar_lost.float())
    return torch.stack([0.5 + preference, 0.5 - preference], dim=-1)


def trust_targets(lidar_lost, cameras_lost):
    """One minus the probability that a sensor is lost; where both are, (0.5, 0.5): a query needs something to see."""
    trust = torch.stack([~lidar_lost, ~cameras_lost], dim=-1).float()
    return torch.where((lidar_lost & cameras_lost).unsqueeze(-1), 0.5, trust)


# Ways from what is lost, (B, Q) bool each, to the weights (B, Q, 2) to aim at. Trust goes with the map 'log_gate',
# which leaves a sensor of weight 1 alone; the linear map would bias both sensors there.
TARGETS = dict(preference=preference_targets, trust=trust_targets)


def places_to_distrust(lidar_lost, cameras_lost):
    """Where a sensor could be distrusted: where it is lost, or, where a sample has lost it nowhere, everywhere.

    Args:
        lidar_lost, cameras_lost (Tensor): (B, Q) bool.

    Returns:
        Tensor: (B, Q, 2) bool.
    """
    lost = torch.stack([lidar_lost, cameras_lost], dim=-1)
    return lost | ~lost.any(dim=1, keepdim=True)


def paying_targets(lidar_lost, cameras_lost, touched, benefits, least):
    """Trust where distrust would not pay (docs/design.md, "Trust that pays").

    A sensor is to be distrusted, in its places (:func:`places_to_distrust`), if a failure touched it and this lowers
    the detection loss by more than ``least``; of both sensors, the one where it lowers it more. The importance of a
    sample is the fourth root of what a wrong verdict would cost: by the cost itself, which spans three orders, a router
    learns from few samples alone and slowly.

    Args:
        lidar_lost, cameras_lost (Tensor): (B, Q) bool.
        touched (Tensor): (B, 2) bool, the failure changed data of LiDAR, of the cameras.
        benefits (Tensor): (B, 2), see ``distrust_benefits``.
        least (float): >= 0.

    Returns:
        RoutingTargets: with a target everywhere.
    """
    beyond = benefits - least  # (B, 2)
    pays = touched & (beyond > 0) & (beyond == beyond.amax(dim=1, keepdim=True))
    places = places_to_distrust(lidar_lost, cameras_lost)  # (B, Q, 2)
    weights = 1 - (places & pays.unsqueeze(1)).float()
    # A benefit in a sensor that nothing touched is chance.
    stake = torch.where(touched | (beyond < 0), beyond.abs(), 0) ** 0.25  # (B, 2)
    everywhere = torch.ones_like(places)
    return RoutingTargets(lidar_lost, cameras_lost, weights, everywhere[..., 0], everywhere,
                          stake.unsqueeze(1).expand_as(weights))


def targets_of_views(targets, seen, views_lost):
    """Targets of trust for each view in place of one for the cameras: a query that two views see may trust one of them.

    Views that the failure took, or all of them where it took none, are taught what the cameras' weight is taught where
    the sample has lost them, 0.5 where LiDAR is lost, too; other views are to be trusted.

    Args:
        targets (RoutingTargets): of trust.
        seen (Tensor): (B, Q, V) bool, the view sees the query; weights of others are not taught.
        views_lost (Tensor): (B, V) bool, see :func:`views_lost`.

    Returns:
        RoutingTargets: ``weights``, ``has_target`` and ``importance`` are (B, Q, 1 + V).
    """
    struck = views_lost | ~views_lost.any(dim=1, keepdim=True)  # (B, V)
    least = targets.weights[..., 1].amin(dim=1, keepdim=True)  # (B, 1)
    taught = torch.where(targets.weights[..., 1] == 0.5, 0.5, least)  # (B, Q)
    of_views = torch.where(struck.unsqueeze(1), taught.unsqueeze(-1), 1)  # (B, Q, V)

    def with_views(values, views):
        return torch.cat([values[..., :1], views], dim=-1)

    importance = targets.importance
    return targets._replace(
        weights=with_views(targets.weights, of_views.to(targets.weights)),
        has_target=with_views(targets.has_target, targets.has_target[..., 1:] & seen),
        importance=None if importance is None else with_views(importance, importance[..., 1:].expand(seen.shape)))


@torch.no_grad()
def routing_targets(record, img_metas, pc_range, bev_cell_size, targets='preference'):
    """Compare queries with the failure records of their samples.

    A query has lost LiDAR where its BEV cell, that is a place up to half a cell from its reference point, lost the
    points of an object, or where its reference point lies outside a limited field of view; it has lost the cameras
    where at least one view sees it and every view that does is lost.

    Args:
        record (RoutingRecord | RouterEvidence): of the batch; its reference points and projections are read.
        img_metas (list[dict]): B dicts with ``failure`` (FailureRecord).
        pc_range (list[float]): detection range, m.
        bev_cell_size (tuple[float, float]): (x, y) size of a BEV cell, m.
        targets (str): of ``TARGETS``.

    Returns:
        RoutingTargets

    Raises:
        ValueError: if a sample has no failure record.
    """
    if any('failure' not in meta for meta in img_metas):
        raise ValueError("img_metas: every sample needs 'failure' to supervise the router (aqr_loss_weight > 0): the "
                         "pipeline needs SimulateFailure, and Collect3D 'failure' among its meta_keys")
    failures = [meta['failure'] for meta in img_metas]
    points = from_unit_range(record.reference_points.float(), pc_range)
    margin = max(bev_cell_size) / 2
    lidar_lost = torch.stack([failure.lidar_lost(own, margin) for failure, own in zip(failures, points)])
    seen = record.projections.pts_pers_valid
    cameras_lost = torch.stack([failure.cameras_lost(own) for failure, own in zip(failures, seen)])  # (B, Q)
    weights = TARGETS[targets](lidar_lost, cameras_lost)  # (B, Q, 2)
    is_known = torch.tensor([not failure.is_graded for failure in failures], device=points.device)
    unchanged = torch.tensor([[sensor not in failure.changed for sensor in MODALITIES] for failure in failures],
                             device=points.device)
    return RoutingTargets(lidar_lost, cameras_lost, weights, is_known.unsqueeze(1).expand_as(lidar_lost),
                          _has_target(is_known, unchanged, targets).unsqueeze(1).expand_as(weights))


def views_lost(img_metas, seen):
    """Views that the failures of a batch took, (B, V) bool; ``img_metas`` as in :func:`routing_targets`, ``seen``
    (B, Q, V) gives the number of views.
    """
    lost = [meta['failure'].views_lost for meta in img_metas]
    return torch.stack([torch.zeros(seen.shape[-1], dtype=torch.bool) if views is None else torch.as_tensor(views)
                        for views in lost]).to(seen.device)


def _has_target(is_known, unchanged, targets):
    """(B, 2) bool from what is known of samples (B,) and which sensors' data are as they were (B, 2)."""
    is_known = is_known.unsqueeze(1)
    return is_known | unchanged if targets == 'trust' else is_known.expand_as(unchanged)


@full_precision
def routing_loss(lidar_weights, camera_weights, targets, is_supervised):
    """Binary cross entropy of all weights, mean over the supervised queries of all processes, by their importance.

    Where the target is 0.5 its least value is log 2, at a weight of 0.5.

    Args:
        lidar_weights (Tensor): (B, Q) in [0, 1].
        camera_weights (Tensor): (B, Q), or (B, Q, V), one a view.
        targets (RoutingTargets): of the same weights.
        is_supervised (Tensor): (B, Q) bool; of these, weights with a target count.

    Returns:
        Tensor: scalar with gradient; 0 where no process has a query that counts.
    """
    counts = is_supervised.unsqueeze(-1) & targets.has_target  # (B, Q, 2 or 1 + V)
    of_cameras = camera_weights if camera_weights.dim() == 3 else camera_weights.unsqueeze(-1)
    weights = torch.cat([lidar_weights.unsqueeze(-1), of_cameras], dim=-1).float()
    factors = counts.float() if targets.importance is None else targets.importance * counts
    losses = F.binary_cross_entropy(weights, targets.weights.to(weights), reduction='none')
    # Mean over processes of sum over own queries: together with the mean that distributed training takes of the
    # gradients it is the mean over all queries.
    total = reduce_mean(factors.sum()).clamp(min=1e-6)  # less than 1 where few of many processes have queries
    return torch.where(counts, losses * factors, 0).sum() / total
