"""Where queries lie: detection range, BEV cells, image cells. Always computed in single precision or better."""
import functools

import numpy as np
import torch


def full_precision(function):
    """Run a geometry function outside autocast: pixel coordinates do not survive half precision."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        device = next(arg.device for arg in (*args, *kwargs.values()) if isinstance(arg, torch.Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return wrapper


def to_unit_range(points, pc_range):
    """Metric points (..., 3) -> fractions of the detection range, [0, 1] inside it."""
    low, high = points.new_tensor(pc_range[:3]), points.new_tensor(pc_range[3:])
    return (points - low) / (high - low)


def from_unit_range(fractions, pc_range):
    """Inverse of :func:`to_unit_range`."""
    low, high = fractions.new_tensor(pc_range[:3]), fractions.new_tensor(pc_range[3:])
    return fractions * (high - low) + low


def lidar_to_image_matrices(img_metas, like):
    """Projection matrices of a batch.

    Args:
        img_metas (list[dict]): B dicts with ``lidar2img``: V arrays (4, 4).
        like (Tensor): gives the device; the dtype is float32 or that of ``like`` if wider.

    Returns:
        tuple[Tensor, Tensor]: (B, V, 4, 4) LiDAR to image and its inverse, inverted in float64.

    Raises:
        ValueError: if a sample lacks ``lidar2img`` or the samples have different numbers of views.
    """
    if any('lidar2img' not in meta for meta in img_metas):
        raise ValueError("img_metas: every sample needs 'lidar2img' (V matrices of 4x4) to place queries in images")
    views = [len(meta['lidar2img']) for meta in img_metas]
    if len(set(views)) != 1:
        raise ValueError(f'img_metas: all samples of a batch need the same number of views, got {views}')
    matrices = np.stack([np.asarray(meta['lidar2img'], dtype=np.float64) for meta in img_metas])  # (B, V, 4, 4)
    dtype = torch.promote_types(like.dtype, torch.float32)
    return tuple(torch.as_tensor(m, dtype=dtype, device=like.device) for m in (matrices, np.linalg.inv(matrices)))


def padded_image_size(img_metas):
    """(height, width) in pixels of the padded network input.

    Raises:
        ValueError: if views or samples of the batch differ in size: they could not have been stacked.
    """
    if any('pad_shape' not in meta for meta in img_metas):
        raise ValueError("img_metas: every sample needs 'pad_shape', (H, W, 3) of each padded view")
    sizes = {tuple(shape[:2]) for meta in img_metas for shape in meta['pad_shape']}
    if len(sizes) != 1:
        raise ValueError(f"img_metas: one 'pad_shape' is needed for all views of a batch, got {sorted(sizes)}")
    return sizes.pop()


@full_precision
def project_to_views(points, lidar2img):
    """Project metric points into every view.

    Args:
        points (Tensor): (B, Q, 3) in m.
        lidar2img (Tensor): (B, V, 4, 4).

    Returns:
        tuple[Tensor, Tensor]: pixels (B, V, Q, 2) as (u, v) and depth (B, V, Q) in m; pixels mean nothing where
        depth <= 0.
    """
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1).to(lidar2img.dtype)
    projected = torch.einsum('bvij,bqj->bvqi', lidar2img, homogeneous)  # (B, V, Q, 4)
    depth = projected[..., 2]
    in_front = depth > 0
    pixels = projected[..., :2] / torch.where(in_front, depth, torch.ones_like(depth)).unsqueeze(-1)
    return pixels, depth


@full_precision
def bev_cells(points, pc_range, cell_size, bev_shape):
    """BEV cell of each point, metric as in the voxel grid (docs/design.md, "Cells and views").

    Args:
        points (Tensor): (B, Q, >= 2) x, y in m.
        pc_range (Sequence[float]): its first two entries are the map's origin, m.
        cell_size (Sequence[float]): (x, y) size of a BEV cell, voxel size times output stride, m.
        bev_shape (tuple[int, int]): (H, W) of the BEV map, rows along y, columns along x.

    Returns:
        Tensor: (B, Q) int64, row * W + col, -1 outside the map.
    """
    height, width = bev_shape
    col, row = (((points[..., axis] - pc_range[axis]) / cell_size[axis]).floor().long() for axis in (0, 1))
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    return torch.where(inside, row * width + col, torch.full_like(row, -1))


@full_precision
def view_cells(pixels, depth, image_size, feature_size):
    """Feature cell of each projection in each view.

    Args:
        pixels (Tensor): (B, V, Q, 2) as (u, v).
        depth (Tensor): (B, V, Q), m.
        image_size (tuple[int, int]): (height, width) of the padded input, px.
        feature_size (tuple[int, int]): (h, w) of the feature map.

    Returns:
        tuple[Tensor, Tensor]: (B, Q, V, 2) int64 (row, col), -1 where unseen, and (B, Q, V) bool: seen, that is in
        front of the camera and inside its image.
    """
    (image_h, image_w), (h, w) = image_size, feature_size
    u, v = pixels.unbind(-1)
    row, col = (v * h / image_h).floor(), (u * w / image_w).floor()
    seen = (depth > 0) & (row >= 0) & (row < h) & (col >= 0) & (col < w)
    cells = torch.stack([row, col], dim=-1)  # (B, V, Q, 2)
    cells = torch.where(seen.unsqueeze(-1), cells, torch.full_like(cells, -1)).long()
    return cells.transpose(1, 2), seen.transpose(1, 2)
