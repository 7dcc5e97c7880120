"""Objects that the LiDAR sees and that are not there."""
from dataclasses import dataclass

import numpy as np
from mmdet3d.core.bbox import box_np_ops
from scipy.spatial.transform import Rotation

from .clouds import boxes_of
from .registry import register_failure

_MIN_POINTS = 5   # of an object that is copied
_TRIES = 30       # for each phantom
_CLEARANCE = 0.3  # m around a phantom, and below it the height of ground


@register_failure('phantoms', 'phantoms:5', lambda count: Phantoms(int(count)))
@dataclass(frozen=True)
class Phantoms:
    """The points of ``count`` objects, drawn from those with at least five, stand in a second, free place, too.

    A copy is turned about the sensor, so that distance, height and the side that shows stay as they were, and so do the
    rings. Free: no box of an object or phantom is near, and no point lies inside the copy's box or within 30 cm of its
    sides, ground apart (up to 30 cm above the bottom). A copy for which thirty places were not free is left out;
    ``phantoms`` of the record's details is the number of copies, 0 in samples without such an object.
    """

    needs = ('points', 'boxes')
    count: int

    def __post_init__(self):
        if not 1 <= self.count <= 100:
            raise ValueError(f'phantoms: their number must lie in 1..100, got {self.count}')

    def apply(self, results, rng):
        points = results['points']
        boxes = boxes_of(results, 'phantoms').tensor[:, :7].numpy()  # bottom centers
        places = points.coord.numpy()
        inside = box_np_ops.points_in_rbbox(places, boxes)  # (N, G)
        sources = np.flatnonzero(inside.sum(axis=0) >= _MIN_POINTS)
        phantoms, clouds, indices = [], [points], [np.arange(len(points))]
        for _ in range(self.count if len(sources) else 0):
            found = _free_copy(boxes, sources, places, phantoms, rng)
            if found is not None:
                source, angle, phantom = found
                own = np.flatnonzero(inside[:, source])
                copy = points[own].clone()
                copy.coord = _turned(places[own], angle)
                phantoms.append(phantom)
                clouds.append(copy)
                indices.append(own)
        results['points'] = points.cat(clouds)
        if 'rings' in results:
            results['rings'] = results['rings'][np.concatenate(indices)]
        lost = np.array(phantoms, dtype=np.float64).reshape(-1, 7)
        lost[:, 2] += lost[:, 5] / 2
        return dict(lost_boxes=lost, details=dict(phantoms=len(phantoms)))


def _free_copy(boxes, sources, places, phantoms, rng):
    """A free place for the copy of a random source.

    Returns:
        tuple[int, float, np.ndarray] | None: the source, the angle in rad by which its copy is turned about the sensor,
        and the copy's box (7,), bottom center.
    """
    for _ in range(_TRIES):
        source, angle = rng.choice(sources), rng.uniform(-np.pi, np.pi)
        copy = boxes[source].copy()
        copy[:3] = _turned(copy[:3], angle)
        copy[6] += angle
        if _is_free(copy, np.array([*boxes, *phantoms]), places):
            return source, angle, copy
    return None


def _turned(places, angle):
    """Places (..., 3) turned by an angle in rad about the sensor's z axis."""
    return (places @ Rotation.from_euler('z', angle).as_matrix().T).astype(np.float32)


def _is_free(box, others, places):
    """Whether a box (7,) is clear of other boxes (M, 7), by their circumscribed circles, and of places (N, 3)."""
    reach, others_reach = np.hypot(box[3], box[4]) / 2, np.hypot(others[:, 3], others[:, 4]) / 2
    if (np.linalg.norm(others[:, :2] - box[:2], axis=1) <= reach + others_reach).any():
        return False
    x, y, z = (places - box[:3]).T
    along, across = x * np.cos(box[6]) + y * np.sin(box[6]), y * np.cos(box[6]) - x * np.sin(box[6])
    inside = (np.abs(along) <= box[3] / 2 + _CLEARANCE) & (np.abs(across) <= box[4] / 2 + _CLEARANCE)
    return not (inside & (_CLEARANCE < z) & (z <= box[5])).any()
