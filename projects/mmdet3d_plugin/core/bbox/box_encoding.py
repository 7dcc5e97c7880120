"""Boxes as the regression heads predict them: log sizes, sine and cosine of the heading (DETR3D, CMT).

CMT concatenates its branches center (2), height (1), dim (3), rot (2), vel (2) and compares them with this code in this
order, so in published checkpoints "height" holds log dx and "dim" holds (log dy, z, log dz). Published checkpoints fix
both names and order.
"""
import torch

BRANCHES = ('center', 'height', 'dim', 'rot', 'vel')


def concat_branches(preds, layer):
    """Box codes (B, Q, 10) of one decoder layer from the regression branches (L, B, Q, C) of a task head."""
    return torch.cat([preds[name][layer] for name in BRANCHES], dim=-1)


def with_gravity_center(boxes):
    """Box tensor (n, 9) of LiDARInstance3DBoxes, which keep the bottom center, with the gravity center instead."""
    return torch.cat([boxes.gravity_center, boxes.tensor[:, 3:]], dim=1)


def encode_boxes(boxes):
    """Encode metric boxes into regression targets.

    Args:
        boxes (Tensor): (..., 7 or 9) gravity center x, y, z in m, sizes dx, dy, dz in m (> 0), yaw in rad and,
            optionally, velocity vx, vy in m/s (NaN where unknown).

    Returns:
        Tensor: (..., 8 or 10) x, y, log dx, log dy, z, log dz, sin yaw, cos yaw[, vx, vy].
    """
    x, y, z, dx, dy, dz, yaw = boxes[..., :7].unbind(-1)
    code = torch.stack([x, y, dx.log(), dy.log(), z, dz.log(), yaw.sin(), yaw.cos()], dim=-1)
    return torch.cat([code, boxes[..., 7:]], dim=-1)


def decode_boxes(code):
    """Inverse of :func:`encode_boxes`: (..., 8 or 10) -> (..., 7 or 9), yaw in (-pi, pi]."""
    x, y, log_dx, log_dy, z, log_dz, sin, cos = code[..., :8].unbind(-1)
    boxes = torch.stack([x, y, z, log_dx.exp(), log_dy.exp(), log_dz.exp(), torch.atan2(sin, cos)], dim=-1)
    return torch.cat([boxes, code[..., 8:]], dim=-1)
