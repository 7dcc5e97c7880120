"""The matching of the nuScenes benchmark: detections claim boxes in the order of their scores."""
import numpy as np


def greedy_match(distance, threshold):
    """For every detection, best first, the nearest ground-truth box that is still free, -1 for none within reach.

    Args:
        distance (ndarray): (D, G) between detections and ground-truth boxes, m; infinite where they cannot match.
        threshold (float): a match is nearer than this, m.

    Returns:
        ndarray: (D,) column indices.
    """
    match = np.full(len(distance), -1)
    free = distance.copy()  # taken boxes are infinitely far
    for row in np.flatnonzero((distance < threshold).any(axis=1)):
        column = free[row].argmin()
        if free[row, column] < threshold:
            match[row] = column
            free[:, column] = np.inf
    return match
