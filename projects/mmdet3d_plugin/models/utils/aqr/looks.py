"""What each sensor alone makes the decoder see of every query."""
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .query_projection import QueryProjections


@dataclass
class Looks:
    """What queries hold after the decoder's first layer when it looks with one sensor, the other one blank
    (docs/design.md, "Looks and conferring").

    Attributes:
        lidar_states, camera_states: (B, Q, C), with LiDAR alone and with the cameras alone.
        lidar_logits, camera_logits: (B, Q, K), class logits of these states.
    """

    lidar_states: torch.Tensor
    camera_states: torch.Tensor
    lidar_logits: torch.Tensor
    camera_logits: torch.Tensor

    def verdicts(self, sensor):
        """The best class of every query in one look.

        Args:
            sensor (str): of ``MODALITIES``.

        Returns:
            tuple[Tensor, Tensor]: (B, Q) probabilities in [0, 1] and (B, Q) class indices.
        """
        return getattr(self, f'{sensor}_logits').detach().float().sigmoid().max(dim=-1)


class RouterEvidence(NamedTuple):
    """All that a router which needs looks judges by.

    Attributes:
        looks: of the queries.
        projections: of the queries.
        reference_points: (B, Q, 3), fractions of the detection range.
    """

    looks: Looks
    projections: QueryProjections
    reference_points: torch.Tensor
