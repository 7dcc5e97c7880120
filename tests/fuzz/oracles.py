"""What is right, in its plainest and slowest form: loops over numbers. Nothing here calls what it judges."""
import math

import numpy as np
import torch
from torch.nn import functional as F

from tests.fuzz.strategies import GRID


def loop_dense(bias):
    """The definition, key by key."""
    out = torch.zeros(bias.shape, dtype=bias.values.dtype)
    for index in torch.cartesian_prod(*map(torch.arange, bias.values.shape[:-1])).view(
            -1, bias.values.dim() - 1).tolist():
        b, q = index[0], index[-1]
        token = 0
        for segment, (height, width) in enumerate(bias.shapes):
            for row in range(height):
                for col in range(width):
                    factor = 1.0
                    if bias.is_local:
                        r, c = bias.cells[b, q, segment].tolist()
                        dist = math.hypot(row - r, col - c)
                        factor = max(0.0, 1 - dist / (bias.windows[segment] / 2)) * float(bias.seen[b, q, segment])
                    out[(*index, token)] = bias.values[(*index, segment)] * factor
                    token += 1
    return out


def loop_bias(lidar_weights, camera_weights, pts_idx, cells, seen, bev_shape, view_shape, alpha, windows):
    """The definition, one number at a time. ``windows`` is None in global mode."""
    (height, width), (views, h, w) = bev_shape, view_shape
    batch, num_query = lidar_weights.shape
    bias = torch.zeros(batch, num_query, height * width + views * h * w, dtype=lidar_weights.dtype)
    for b in range(batch):
        for q in range(num_query):
            lidar, camera = ((float(x[b, q]) - 0.5) * 2 * alpha for x in (lidar_weights, camera_weights))
            token = 0
            for row in range(height):
                for col in range(width):
                    factor = 1.0
                    if windows:
                        center = divmod(int(pts_idx[b, q]), width)
                        dist = math.hypot(row - center[0], col - center[1])
                        factor = max(0.0, 1 - dist / (windows['lidar'] / 2)) if pts_idx[b, q] >= 0 else 0.0
                    bias[b, q, token] = lidar * factor
                    token += 1
            for view in range(views):
                for row in range(h):
                    for col in range(w):
                        factor = 1.0
                        if windows:
                            dist = math.hypot(row - int(cells[b, q, view, 0]), col - int(cells[b, q, view, 1]))
                            factor = max(0.0, 1 - dist / (windows['camera'] / 2)) if seen[b, q, view] else 0.0
                        bias[b, q, token] = camera * factor
                        token += 1
    return bias


def dense_grid(features, coors, batch):
    """(N, C) features at their voxels in a grid of zeros (B, C, z, y, x)."""
    b, z, y, x = coors.long().unbind(1)
    return features.new_zeros(batch, *GRID, features.shape[1]).index_put((b, z, y, x), features).permute(0, 4, 1, 2, 3)


def loop_mask(groups, slots, num_query):
    """Forbidden pairs, from the definition: learned queries see only each other, groups see themselves and learned
    queries.
    """
    total = groups * slots + num_query
    mask = torch.zeros(total, total, dtype=torch.bool)
    for i in range(total):
        for j in range(total):
            i_learned, j_learned = i >= groups * slots, j >= groups * slots
            if i_learned:
                mask[i, j] = not j_learned
            else:
                mask[i, j] = not j_learned and i // slots != j // slots
    return mask


def naive_view_cell(point, matrix, image_size, feature_size):
    u, v, depth, _ = matrix @ np.append(point, 1.0)
    if depth <= 0:
        return None
    u, v = u / depth, v / depth
    if not (0 <= u < image_size[1] and 0 <= v < image_size[0]):
        return None
    return int(v * feature_size[0] / image_size[0]), int(u * feature_size[1] / image_size[1])


def dense_convolution(conv, features, coors, batch):
    """Dense ``conv3d`` with the weights of a sparse convolution, (B, C, z, y, x).

    A sparse one has outputs only where its inputs reach: at the input voxels (submanifold), or below the kernel.
    """
    weight = conv.weight.permute(0, 4, 1, 2, 3)  # (out, z, y, x, in) -> (out, in, z, y, x)
    stride, padding = (1, [size // 2 for size in conv.kernel_size]) if conv.subm else (conv.stride, conv.padding)
    out = F.conv3d(dense_grid(features, coors, batch), weight, conv.bias, stride, padding)
    occupied = dense_grid(torch.ones(len(coors), 1), coors, batch)
    if not conv.subm:
        occupied = F.conv3d(occupied, torch.ones(1, 1, *conv.kernel_size), None, stride, padding)
    return out * (occupied > 0)


def plain_attention(query, key, value, bias, values):
    """Biased attention in float64 with the scores written out; gradients by autograd.

    Args:
        query, key, value (Tensor): (B, heads, N, d).
        bias (AttentionBias): gives windows and shapes.
        values (Tensor): (B, Q, S) or (B, heads, Q, S), the bias' values with gradient.
    """
    factors = torch.zeros(values.shape[0], values.shape[-2], bias.num_tokens, dtype=torch.float64)
    segment_of = torch.tensor([s for s, (h, w) in enumerate(bias.shapes) for _ in range(h * w)], dtype=torch.long)
    for b in range(values.shape[0]):
        for q in range(values.shape[-2]):
            for token, place in enumerate((s, row, col) for s, (h, w) in enumerate(bias.shapes) for row in range(h)
                                          for col in range(w)):
                factors[b, q, token] = window_factor(bias, b, q, *place)
    dense = values.double()[..., segment_of] * (factors.unsqueeze(1) if values.dim() == 4 else factors)
    scores = (query.double().unsqueeze(-2) * key.double().unsqueeze(-3)).sum(-1) / math.sqrt(query.shape[-1])
    scores = scores + (dense if values.dim() == 4 else dense.unsqueeze(1))
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return (weights.unsqueeze(-1) * value.double().unsqueeze(-3)).sum(-2) / weights.sum(-1, keepdim=True)


def window_factor(bias, sample, query, segment, row, col):
    """Factor in [0, 1] of a query's bias at one cell of a segment."""
    if not bias.is_local:
        return 1.0
    if not bias.seen[sample, query, segment]:
        return 0.0
    center = bias.cells[sample, query, segment].tolist()
    return max(0.0, 1 - math.hypot(row - center[0], col - center[1]) / (bias.windows[segment] / 2))


def loop_bev_cell(point, pc_range, cell_size, bev_shape):
    """The cell that holds a point, by search, or -1; None within 1e-9 of a border."""
    found = -1
    for row in range(bev_shape[0]):
        for col in range(bev_shape[1]):
            low = pc_range[0] + col * cell_size[0], pc_range[1] + row * cell_size[1]
            inward = [min(x - start, start + size - x) for x, start, size in zip(point, low, cell_size)]
            if min(map(abs, inward)) < 1e-9:
                return None
            if min(inward) > 0:
                found = row * bev_shape[1] + col
    return found


def lost_place(point, failure, margin):
    """Whether LiDAR lost a place (x, y, z) of the sample; None within 1e-3 of a border (m, or degrees)."""
    if failure.lidar_everywhere:
        return True
    x, y, _, _ = np.linalg.solve(failure.motion, [*point, 1.0])
    scale = abs(np.linalg.det(failure.motion[:3, :3])) ** (1 / 3)
    distances = []  # > 0: lost
    if failure.field_of_view is not None:
        distances.append(math.degrees(math.acos(max(-1.0, min(1.0, y / math.hypot(x, y))))) - failure.field_of_view)
    for center_x, center_y, _, length, width, _, yaw in failure.lost_boxes.tolist():
        turned = complex(x - center_x, y - center_y) * complex(math.cos(yaw), -math.sin(yaw))
        distances.append(min(length / 2 + margin / scale - abs(turned.real),
                             width / 2 + margin / scale - abs(turned.imag)))
    return None if any(abs(distance) < 1e-3 for distance in distances) else any(d > 0 for d in distances)
