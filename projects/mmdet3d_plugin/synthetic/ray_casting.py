"""Rays against oriented boxes: the one geometric engine of the synthetic LiDAR and cameras."""
from dataclasses import dataclass

import numpy as np


@dataclass
class Boxes:
    """N oriented boxes in one frame.

    Attributes:
        centers: (N, 3), m.
        rotations: (N, 3, 3), box to frame.
        half_sizes: (N, 3) along the box's own x, y, z, m.
        owners: (N,) int, the object that each box is a part of; the parts of an object are neighbors.
    """

    centers: np.ndarray
    rotations: np.ndarray
    half_sizes: np.ndarray
    owners: np.ndarray

    def __len__(self):
        return len(self.centers)

    @property
    def radii(self):
        """(N,) of the circumscribed spheres, m."""
        return np.linalg.norm(self.half_sizes, axis=1)

    def corners(self):
        """(N, 8, 3)."""
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T  # (8, 3)
        return self.centers[:, None] + np.einsum('nij,nkj->nki', self.rotations, signs * self.half_sizes[:, None])


@dataclass
class Hits:
    """What each ray of a grid (H, W) meets first.

    Attributes:
        distance: (H, W) in units of the ray's direction, inf where it meets nothing.
        box: (H, W) index of the box, -1 for none.
        axis: (H, W) axis of the box's face that was hit, 0 to 2.
        alone: dict, owner -> number of rays that would meet it if there were nothing else.
    """

    distance: np.ndarray
    box: np.ndarray
    axis: np.ndarray
    alone: dict


def cast_rays(origin, directions, boxes, windows):
    """First hits of a grid of rays.

    Args:
        origin (ndarray): (3,) common origin, outside of all boxes.
        directions (ndarray): (H, W, 3).
        boxes (Boxes): N.
        windows (list[tuple | None]): per box the rows and columns (index arrays) whose rays may meet it, None for no
            ray. A window only saves time: rays in it that miss are no harm, hits outside of it are lost.

    Returns:
        Hits
    """
    distance = np.full(directions.shape[:2], np.inf, dtype=np.float32)
    index = np.full(directions.shape[:2], -1, dtype=np.int32)
    axis = np.zeros(directions.shape[:2], dtype=np.int8)
    alone, silhouette = {}, np.zeros(directions.shape[:2], dtype=bool)
    for i, window in enumerate(windows):
        owner = boxes.owners[i]
        if owner not in alone:
            alone[owner] = 0
            silhouette[:] = False
        if window is None or len(window[0]) == 0 or len(window[1]) == 0:
            continue
        window = np.ix_(*window)
        near, far, face = _slab_test(origin, directions[window], boxes, i)
        hit = (near <= far) & (near > 0)
        alone[owner] += int((hit & ~silhouette[window]).sum())
        silhouette[window] |= hit
        first = hit & (near < distance[window])
        distance[window] = np.where(first, near, distance[window])
        index[window] = np.where(first, i, index[window])
        axis[window] = np.where(first, face, axis[window])
    return Hits(distance, index, axis, alone)


def _slab_test(origin, directions, boxes, i):
    """Distances (h, w) at which rays enter and leave box i, and the axis of the face of entry."""
    rotation = boxes.rotations[i].astype(np.float32)
    start = ((origin - boxes.centers[i]) @ boxes.rotations[i]).astype(np.float32)  # (3,) in the box's frame
    slopes = directions @ rotation  # (h, w, 3)
    slopes[slopes == 0] = 1e-20  # along a face: 1 / 0 would make NaN below, and hits would be lost
    inverse = 1 / slopes
    half = boxes.half_sizes[i].astype(np.float32)
    middle, reach = -start * inverse, half * np.abs(inverse)  # (h, w, 3)
    enter = middle - reach
    near, far, face = enter[..., 0], middle[..., 0] + reach[..., 0], np.zeros(enter.shape[:2], dtype=np.int8)
    for k in (1, 2):
        later = enter[..., k] > near
        face = np.where(later, np.int8(k), face)
        near = np.where(later, enter[..., k], near)
        far = np.minimum(far, middle[..., k] + reach[..., k])
    return near, far, face
