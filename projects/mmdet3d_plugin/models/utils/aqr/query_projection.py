"""Where each query looks: its BEV cell and its cell in every view that sees it."""
from dataclasses import dataclass

import torch

from ..geometry import (
    bev_cells,
    from_unit_range,
    lidar_to_image_matrices,
    padded_image_size,
    project_to_views,
    view_cells,
)


@dataclass
class QueryProjections:
    """Cells of the queries (docs/design.md, "Cells and views").

    Attributes:
        pts_idx: (B, Q) int64, row * W + col of the BEV cell, -1 outside the map.
        pts_pers_idx: (B, Q, V, 2) int64, (row, col) in each view, -1 where unseen.
        pts_pers_valid: (B, Q, V) bool, the view sees the query.
    """

    pts_idx: torch.Tensor
    pts_pers_idx: torch.Tensor
    pts_pers_valid: torch.Tensor


@torch.no_grad()
def project_queries(reference_points, img_metas, pc_range, bev_cell_size, layout):
    """Project queries onto the BEV map and into the views.

    Args:
        reference_points (Tensor): (B, Q, 3), fractions of the detection range.
        img_metas (list[dict]): B dicts with ``lidar2img`` and ``pad_shape``.
        pc_range (list[float]): detection range, m.
        bev_cell_size (tuple[float, float]): (x, y) size of a BEV cell, m.
        layout (TokenLayout): with both modalities.

    Returns:
        QueryProjections

    Raises:
        ValueError: if the number of views in ``img_metas`` differs from that of the features.
    """
    points = from_unit_range(reference_points.float(), pc_range)
    lidar2img, _ = lidar_to_image_matrices(img_metas, like=points)
    if lidar2img.shape[1] != layout.view_shape[0]:
        raise ValueError(f'img_metas: lidar2img has {lidar2img.shape[1]} views, the camera features '
                         f'{layout.view_shape[0]}')
    pixels, depth = project_to_views(points, lidar2img)
    cells, seen = view_cells(pixels, depth, padded_image_size(img_metas), layout.view_shape[1:])
    return QueryProjections(bev_cells(points, pc_range, bev_cell_size, layout.bev_shape), cells, seen)
