"""What a router decided in one forward pass."""
from dataclasses import dataclass
from typing import Optional

import torch

from ..attention.attention_bias import AttentionBias
from .looks import Looks
from .query_projection import QueryProjections


@dataclass
class RoutingRecord:
    """What the router decided in one forward pass, for losses, hooks and pictures.

    Attributes:
        lidar_weights, camera_weights: (B, Q) in [0, 1], 0.5 neutral, with gradient. Of a router that judges view by
            view, the camera weight is that of the view that it trusts most, of those that see the query.
        projections: cells of the queries.
        is_learned: (Q,) bool, False for denoising queries.
        is_used: (B, Q) bool, False for padding among the denoising queries.
        reference_points: (B, Q, 3), fractions of the detection range, detached.
        bias: added in the cross-attention, of shape (B, Q, F); where heads have strengths of their own, before these.
        looks: what the router judged by; None of routers that do not look.
        view_weights: (B, Q, V) camera weight for each view, 0.5 where the view does not see the query; None of routers
            that judge the cameras as one.
    """

    lidar_weights: torch.Tensor
    camera_weights: torch.Tensor
    projections: QueryProjections
    is_learned: torch.Tensor
    is_used: torch.Tensor
    reference_points: torch.Tensor
    bias: AttentionBias
    looks: Optional[Looks] = None
    view_weights: Optional[torch.Tensor] = None

    def weights_of_views(self):
        """Camera weight (B, Q, V) of every view."""
        if self.view_weights is not None:
            return self.view_weights
        return self.camera_weights.unsqueeze(-1).expand_as(self.projections.pts_pers_valid)


def best_view_weights(weights, seen):
    """Weight (B, Q) of the view that is trusted most of those that see a query, 0.5 where none does; weights and seen
    (B, Q, V).
    """
    best = torch.where(seen, weights, -1).amax(dim=-1)
    return torch.where(seen.any(dim=-1), best, 0.5)


def regions(lidar_lost, cameras_lost):
    """Queries by what is lost at their place.

    Args:
        lidar_lost, cameras_lost (Tensor | np.ndarray): (...) bool, see ``RoutingTargets``.

    Returns:
        dict[str, Tensor | np.ndarray]: (...) bool masks, together all queries, each of them once.
    """
    return {'nothing lost': ~lidar_lost & ~cameras_lost, 'LiDAR lost': lidar_lost & ~cameras_lost,
            'cameras lost': ~lidar_lost & cameras_lost, 'both lost': lidar_lost & cameras_lost}
