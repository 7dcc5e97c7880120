"""Coordinates-encoding of CMT (Yan et al., ICCV 2023, section 3.2): what the head's two position MLPs are fed.

Every function returns coordinates as fractions of the detection range; the MLPs belong to the head, whose
checkpoints hold their weights.
"""
import math

import torch

from ..geometry import from_unit_range, full_precision, to_unit_range

# Depth axis is scaled by one plus this, so that a projection just in front of a camera does not divide by zero.
_DEPTH_EPS = 1e-6


@full_precision
def sine_encoding(positions, num_feats, max_cycles=None):
    """Sine encoding of BEV positions.

    Args:
        positions (Tensor): (..., >= 2), fractions of the range in x and y.
        num_feats (int): features per axis, even.
        max_cycles (float | None): frequencies grow geometrically from 1 to ``max_cycles`` cycles over the range, which
            tells near places apart from the start. None: as CMT was trained, wavelengths grow linearly from 1 to 2
            ranges.

    Returns:
        Tensor: (..., 2 * num_feats), y first, sine and cosine interleaved.
    """
    index = torch.arange(num_feats, dtype=positions.dtype, device=positions.device)
    pair = 2 * index.div(2, rounding_mode='floor')
    if max_cycles is None:
        divisor = pair / num_feats + 1
    else:
        divisor = float(max_cycles) ** (-pair / max(num_feats - 2, 1))
    angles = positions[..., :2].unsqueeze(-1) * (2 * math.pi) / divisor  # (..., 2, num_feats)
    waves = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)
    return torch.cat([waves[..., 1, :], waves[..., 0, :]], dim=-1)


@full_precision
def octave_encoding(positions, max_cycles):
    """Sine and cosine of positions at 1, 2, 4, .. cycles over the range, the last one at most ``max_cycles``.

    Args:
        positions (Tensor): (..., N), fractions of the range.
        max_cycles (float): >= 1.

    Returns:
        Tensor: (..., 2 * N * octaves).
    """
    cycles = 2.0**torch.arange(num_octaves(max_cycles), dtype=positions.dtype, device=positions.device)
    angles = (2 * math.pi * positions.unsqueeze(-1) * cycles).flatten(-2)  # (..., N * octaves)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def num_octaves(max_cycles):
    """How many of 1, 2, 4, .. are at most ``max_cycles``."""
    return int(math.log2(max_cycles)) + 1


def bev_cell_centers(bev_shape, like):
    """Centers of the BEV cells, (H * W, 2) as fractions (x, y) of the map, row-major.

    The map is taken to span the whole range, as published checkpoints were trained (docs/design.md, "Cells and views").
    """
    y, x = torch.meshgrid(*[(torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
                            for size in bev_shape], indexing='ij')
    return torch.stack([x, y], dim=-1).flatten(0, 1)  # (H * W, 2)


def depth_bins(depth_num, pc_range, like):
    """Depths (D,) in m, evenly spaced from 1 m up to (not including) the range's end."""
    return 1 + torch.arange(depth_num, device=like.device, dtype=like.dtype) * (pc_range[3] - 1) / depth_num


@full_precision
def camera_ray_points(img2lidar, image_size, feature_size, depth_num, pc_range):
    """Points along the camera ray of every feature cell.

    Args:
        img2lidar (Tensor): (B, V, 4, 4).
        image_size (tuple[int, int]): (height, width) of the padded input, px.
        feature_size (tuple[int, int]): (h, w) of the feature map.
        depth_num (int): number of depths D.
        pc_range (list[float]): detection range, m.

    Returns:
        Tensor: (B * V, h, w, D * 3), fractions of the range.
    """
    (image_h, image_w), (h, w) = image_size, feature_size
    rows = torch.arange(h, device=img2lidar.device, dtype=img2lidar.dtype) * image_h / h
    cols = torch.arange(w, device=img2lidar.device, dtype=img2lidar.dtype) * image_w / w
    v, u, depth = torch.meshgrid(rows, cols, depth_bins(depth_num, pc_range, img2lidar), indexing='ij')  # (h, w, D)
    frustum = torch.stack([u * depth, v * depth, depth, torch.ones_like(depth)], dim=-1)  # (h, w, D, 4)
    points = torch.einsum('hwdj,nij->nhwdi', frustum, img2lidar.flatten(0, 1))[..., :3]  # (B * V, h, w, D, 3)
    return to_unit_range(points, pc_range).flatten(-2)


def level_ray_points(count, depth_num, pc_range, like):
    """Points along random rays from the LiDAR, all around and within 20 degrees of the horizon, as car cameras have.

    Returns:
        Tensor: (count, D * 3), fractions of the range.
    """
    azimuth, elevation = torch.rand(2, count, device=like.device, dtype=like.dtype)
    azimuth, elevation = azimuth * 2 * math.pi, (elevation - 0.5) * math.radians(40)
    direction = torch.stack([azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()], dim=-1)
    points = direction.unsqueeze(1) * depth_bins(depth_num, pc_range, like).unsqueeze(-1)  # (count, D, 3)
    return to_unit_range(points, pc_range).flatten(-2)


@full_precision
def query_ray_points(reference_points, lidar2img, img2lidar, image_size, depth_num, pc_range):
    """Points along the rays from every camera through every query.

    Args:
        reference_points (Tensor): (B, Q, 3), fractions of the range.
        lidar2img, img2lidar (Tensor): (B, V, 4, 4).
        image_size, depth_num, pc_range: as in :func:`camera_ray_points`.

    Returns:
        tuple[Tensor, Tensor]: (B, V, Q, D * 3) fractions of the range, and (B, V, Q) bool: the view sees the query.
    """
    points = from_unit_range(reference_points, pc_range)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    projected = torch.einsum('bvij,bqj->bvqi', lidar2img, homogeneous)  # (B, V, Q, 4)
    # Depth counts as a constant: the gradient moves a query across the image, not along its ray.
    depth = projected[..., 2:3].detach()
    on_plane = projected[..., :3] / (depth + torch.where(depth > 0, _DEPTH_EPS, -_DEPTH_EPS))
    pixels = on_plane[..., :2].detach()
    seen = (depth > 0).squeeze(-1) & ((pixels >= 0) & (pixels < pixels.new_tensor(image_size[::-1]))).all(dim=-1)
    bins = depth_bins(depth_num, pc_range, points)
    rays = on_plane.unsqueeze(-2) * bins.unsqueeze(-1)  # (B, V, Q, D, 3)
    rays = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1)
    rays = torch.einsum('bvqdj,bvij->bvqdi', rays, img2lidar)[..., :3]  # (B, V, Q, D, 3)
    return to_unit_range(rays, pc_range).flatten(-2), seen
