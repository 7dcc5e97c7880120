"""What a simulated sensor failure did to a sample, and where: from the data pipeline to the router's targets.

A sensor is *lost* at a place where what it says of it is gone or false.
"""
from dataclasses import dataclass, field, replace
from typing import Dict, FrozenSet, Optional, Tuple

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class FailureRecord:
    """Where the sensors of one sample were lost (docs/design.md, "Supervision" and "Sensor failures").

    Places are kept in the LiDAR frame in which the failure struck. Augmentations that move the scene afterward only
    add to ``motion``. To ask about a place, it is moved back into that frame, which is exact for any affine motion.

    Attributes:
        case: name of what was simulated, see ``FailureCase``; 'clean' for nothing.
        seed: with the sample's token and the case it determines the failure.
        lidar_everywhere: all points are gone, or they are those of another time or place.
        field_of_view: degrees to either side of forward (+y) beyond which points are gone, None for no limit.
        lost_boxes: (n, 7) boxes (gravity center, l, w, h, yaw; m, rad) whose points are gone, or false.
        views_lost: (V,) bool, views without an image or with a false one; None for a sample without cameras.
        is_graded: a sensor got worse without a place where it is lost (fewer beams, darkness).
        changed: 'lidar', 'camera' or both, the sensors whose data are not what they were.
        spared: names of failures that left points, images and calibrations as they were.
        severities: level by name of the failure, for failures that come in several.
        details: plain values that say what was done, for logs: numbers of points, degrees.
        motion: (4, 4) from the frame in which the failure struck to that of the sample now.
    """

    case: str
    seed: Tuple[int, ...] = ()
    lidar_everywhere: bool = False
    field_of_view: Optional[float] = None
    lost_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))
    views_lost: Optional[np.ndarray] = None
    is_graded: bool = False
    changed: FrozenSet[str] = frozenset()
    spared: Tuple[str, ...] = ()
    severities: Dict[str, int] = field(default_factory=dict)
    details: Dict = field(default_factory=dict)
    motion: np.ndarray = field(default_factory=lambda: np.eye(4))

    def joined(self, **found):
        """The record with what one more failure did to the sample: fields of this class by name."""
        merged = dict(found)
        for name in {'details', 'severities'} & set(found):
            merged[name] = {**getattr(self, name), **found[name]}
        if 'views_lost' in found and self.views_lost is not None:
            merged['views_lost'] = self.views_lost | found['views_lost']
        if 'lost_boxes' in found:
            merged['lost_boxes'] = np.concatenate([self.lost_boxes, found['lost_boxes']])
        return replace(self, **merged)

    @property
    def has_lidar_region(self):
        """Whether there is any place at which LiDAR is lost."""
        return self.lidar_everywhere or self.field_of_view is not None or len(self.lost_boxes) > 0

    def moved(self, motion):
        """The record after the scene was moved by ``motion`` (4, 4)."""
        return replace(self, motion=np.asarray(motion, dtype=np.float64) @ self.motion)

    def lidar_lost(self, points, margin=0.0):
        """Places at which LiDAR is lost.

        Args:
            points (Tensor): (..., 3), m, in the sample's LiDAR frame as it is now.
            margin (float): m by which lost boxes are enlarged to each side in BEV: a place is a BEV cell, not a point.

        Returns:
            Tensor: (...) bool. A box counts with its whole column, since BEV cells have no height.
        """
        if self.lidar_everywhere or not self.has_lidar_region:
            return torch.full(points.shape[:-1], self.lidar_everywhere, dtype=torch.bool, device=points.device)
        undo = torch.as_tensor(np.linalg.inv(self.motion), device=points.device)  # float64
        origin = points.to(undo.dtype) @ undo[:3, :3].T + undo[:3, 3]  # (..., 3) where the failure struck
        x, y = origin[..., 0], origin[..., 1]
        lost = torch.zeros(points.shape[:-1], dtype=torch.bool, device=points.device)
        if self.field_of_view is not None:
            lost = torch.atan2(x, y).abs() > np.deg2rad(self.field_of_view)
        if len(self.lost_boxes):
            boxes = torch.as_tensor(self.lost_boxes, dtype=undo.dtype, device=points.device)  # (n, 7)
            dx, dy = x.unsqueeze(-1) - boxes[:, 0], y.unsqueeze(-1) - boxes[:, 1]  # (..., n)
            cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
            # In a scaled scene the lost boxes are scaled, too; the margin counts in meters after scaling.
            margin = margin / abs(np.linalg.det(self.motion[:3, :3])) ** (1 / 3)
            along, across = (dx * cos + dy * sin).abs(), (dy * cos - dx * sin).abs()
            inside = (along <= boxes[:, 3] / 2 + margin) & (across <= boxes[:, 4] / 2 + margin)
            lost = lost | inside.any(dim=-1)
        return lost

    def cameras_lost(self, seen):
        """Places that some view sees and all whose views are lost.

        Args:
            seen (Tensor): (..., V) bool, the view sees the place.

        Returns:
            Tensor: (...) bool. A place that no view sees has lost nothing.
        """
        if self.views_lost is None:
            return torch.zeros(seen.shape[:-1], dtype=torch.bool, device=seen.device)
        if len(self.views_lost) != seen.shape[-1]:
            raise ValueError(f'seen must end in the {len(self.views_lost)} views of the failure record, got '
                             f'{tuple(seen.shape)}')
        works = torch.as_tensor(~self.views_lost, device=seen.device)
        return seen.any(dim=-1) & ~(seen & works).any(dim=-1)
