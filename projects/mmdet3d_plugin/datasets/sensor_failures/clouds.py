"""The cloud of a sample, for failures: which points stay, where they lie, which sweep they are from."""
import numpy as np
import torch


def keep_points(results, mask):
    """Keep the points of a bool mask (N,), and their rings where the sample has them."""
    results['points'] = results['points'][torch.from_numpy(mask)]  # slow with a mask of NumPy
    if 'rings' in results:
        results['rings'] = results['rings'][mask]


def places_of(results):
    """(N, 3) float64 coordinates in m, a copy."""
    return results['points'].coord.numpy().astype(np.float64)


def intensity_of(results):
    """(N,) float64, the fourth value of each point, a copy; zeros where points have three."""
    tensor = results['points'].tensor
    return tensor[:, 3].numpy().astype(np.float64) if tensor.shape[1] > 3 else np.zeros(len(tensor))


def change_points(results, places, intensity=None):
    """Replace the points by copies at other places (N, 3), with another intensity (N,) where points have one."""
    points = results['points'].clone()
    points.coord = places.astype(np.float32)
    if intensity is not None and points.shape[1] > 3:
        points.tensor[:, 3] = points.tensor.new_tensor(intensity)
    results['points'] = points


def sweep_numbers(points):
    """Which sweep each point is from, by its time lag, the fifth value.

    A cloud without sweeps is one: its fifth value is missing, or still the ring, a whole number as lags are not.

    Args:
        points (BasePoints): N.

    Returns:
        np.ndarray: (N,) int from 0, the keyframe's.
    """
    lags = points.tensor[:, 4:5].numpy().ravel()
    if not len(lags) or (lags.max() >= 1 and (lags == lags.round()).all()):
        return np.zeros(len(points), dtype=int)
    return np.unique(lags, return_inverse=True)[1].ravel()


def boxes_of(results, failure):
    """The ground truth of a sample (LiDARInstance3DBoxes), in tests what the dataset loaded for failures.

    Raises:
        ValueError: if there is none; the message names the ``failure``.
    """
    boxes = results.get('gt_bboxes_3d', results.get('failure_boxes'))
    if boxes is None:
        raise ValueError(f'{failure} needs boxes: gt_bboxes_3d in training, in tests failure_boxes, which the dataset '
                         'adds with load_failure_boxes=True')
    return boxes
