import numpy as np
import pytest

from projects.mmdet3d_plugin.core.greedy_match import greedy_match


def claimed_in_turn(distance, threshold):
    """One detection after the other, box by box."""
    taken, match = set(), []
    for row in distance.tolist():
        near = [(value, column) for column, value in enumerate(row) if column not in taken and value < threshold]
        match.append(min(near)[1] if near else -1)
        taken.add(match[-1])
    return match


@pytest.mark.parametrize('shape', [(0, 3), (3, 0), (1, 1), (4, 7), (30, 5), (12, 12)])
def test_against_detections_that_claim_in_turn(shape):
    rng = np.random.default_rng(shape[0])
    for _ in range(30):
        distance = rng.integers(0, 9, shape) / 2  # with ties, and with distances that are the threshold
        distance[rng.random(shape) < 0.2] = np.inf
        given = distance.copy()
        assert greedy_match(distance, 2.0).tolist() == claimed_in_turn(distance, 2.0)
        np.testing.assert_array_equal(distance, given)
