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
        lidar_weights, camera_weights: (B, Q) in [0, 1], 0.5 neutral, with gradient.
        projections: cells of the queries.
        is_learned: (Q,) bool, False for denoising queries.
        is_used: (B, Q) bool, False for padding among the denoising queries.
        reference_points: (B, Q, 3), fractions of the detection range, detached.
        bias: added in the cross-attention, of shape (B, Q, F); where heads have strengths of their own, before these.
        looks: what the router judged by; None of routers that do not look.
    """

    lidar_weights: torch.Tensor
    camera_weights: torch.Tensor
    projections: QueryProjections
    is_learned: torch.Tensor
    is_used: torch.Tensor
    reference_points: torch.Tensor
    bias: AttentionBias
    looks: Optional[Looks] = None


def regions(lidar_lost, cameras_lost):
    """Queries by what is lost at their place.

    Args:
        lidar_lost, cameras_lost (Tensor | np.ndarray): (...) bool, see ``RoutingTargets``.

    Returns:
        dict[str, Tensor | np.ndarray]: (...) bool masks, together all queries, each of them once.
    """
    return {'nothing lost': ~lidar_lost & ~cameras_lost, 'LiDAR lost': lidar_lost & ~cameras_lost,
            'cameras lost': ~lidar_lost & cameras_lost, 'both lost': lidar_lost & cameras_lost}
