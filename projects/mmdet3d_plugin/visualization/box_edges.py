"""Edges of 3D boxes, in space and in images."""
import numpy as np

# Corners of mmdet3d boxes differ in one axis along an edge; 4 to 7 are the front (BaseInstance3DBoxes.corners).
EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])
BOTTOM = np.array([0, 3, 7, 4])


def project_edges(corners, lidar2img, near=0.1):
    """Project the edges of boxes into an image; what lies behind the camera is cut off in space before the division.

    Args:
        corners (np.ndarray): (N, 8, 3) corners in the LiDAR frame, meters, order as in mmdet3d.
        lidar2img (np.ndarray): (4, 4) matrix from LiDAR to (u * depth, v * depth, depth).
        near (float): least depth in meters that is drawn.

    Returns:
        np.ndarray: (M, 2, 2) line segments (start and end, u and v) in pixels, of all edges that reach past `near`.
    """
    homogeneous = np.concatenate([corners, np.ones_like(corners[..., :1])], axis=-1)  # (N, 8, 4)
    scaled = (homogeneous @ np.asarray(lidar2img, dtype=np.float64).T)[..., :3]  # (N, 8, 3): u depth, v depth, depth
    segments = scaled[:, EDGES].reshape(-1, 2, 3)  # (N * 12, 2, 3)
    segments = segments[(segments[..., 2] > near).any(axis=1)]
    start, end = segments[:, 0], segments[:, 1]
    hidden = segments[..., 2] < near  # (M, 2)
    # Where the line from start to end reaches the near plane; its two depths differ whenever one end is hidden.
    fraction = np.zeros(len(segments))
    np.divide(near - start[:, 2], end[:, 2] - start[:, 2], out=fraction, where=hidden.any(axis=1))
    crossing = start + fraction[:, None] * (end - start)  # (M, 3)
    segments = np.where(hidden[..., None], crossing[:, None], segments)
    return segments[..., :2] / segments[..., 2:]
