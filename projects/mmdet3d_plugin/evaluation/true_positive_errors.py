"""The five errors of nuScenes' true positives, of a set whose samples count several times or not at all.

The devkit looks them up by score: at each point of recall it takes the score that reaches it, and the mean error of all
true positives down to that score, both by linear interpolation (`nuscenes.eval.detection.algo`).
"""
import dataclasses
import warnings

import numpy as np
from nuscenes.eval.common.utils import attr_acc, center_distance, scale_iou, velocity_l2, yaw_diff

from .nuscenes_scores import ERRORS

# Errors that the devkit leaves out of its means.
_UNDEFINED = dict(traffic_cone=('mAOE', 'mAVE', 'mAAE'), barrier=('mAVE', 'mAAE'))
_MAP_WEIGHT = 5  # of mAP in NDS; each of the errors counts once


def box_errors(truth, found):
    """(5,) errors of a detection, in the order of `ERRORS`; NaN where the devkit has none.

    Args:
        truth, found (DetectionBox): the ground truth and the detection that it was matched with.
    """
    period = np.pi if truth.detection_name == 'barrier' else 2 * np.pi
    return np.array([center_distance(truth, found), 1 - scale_iou(truth, found), yaw_diff(truth, found, period),
                     velocity_l2(truth, found), 1 - attr_acc(truth, found)])


@dataclasses.dataclass(frozen=True)
class TruePositiveTies:
    """True positives of one class; those of one sample with equal scores are a tie (see `detection_matches`).

    Attributes:
        score: (H,) of each tie, descending.
        sums, counts: (H, 5) sum of the errors that are not NaN, and their number, in each tie.
        first_sums, first_counts: (H, 5) the same of each tie's first true positive alone.
    """
    score: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    first_sums: np.ndarray
    first_counts: np.ndarray

    @classmethod
    def of(cls, score, first, errors):
        """From the scores (H,) of ties, the place of each one's first true positive (H,), and all errors (P, 5)."""
        known = ~np.isnan(errors)
        values = np.where(known, errors, 0.0)
        return cls(score, np.add.reduceat(values, first, axis=0), np.add.reduceat(known.astype(int), first, axis=0),
                   values[first], known[first].astype(int))

    def mean_errors(self, copies, confidence):
        """The devkit's errors of several weightings.

        Args:
            copies (ndarray): (r, H) how often each tie occurs.
            confidence (ndarray): (r, n) score that reaches each point of recall, 0 for points that are not reached.

        Returns:
            ndarray: (r, 5), 1 where no point is reached.
        """
        count = len(self.score)
        rows = np.arange(len(copies))[:, None]
        here = np.where(copies > 0, np.arange(count), count)
        following = _padded(np.minimum.accumulate(here[:, ::-1], axis=1)[:, ::-1], count, last=True)  # (r, H + 1)
        previous = _padded(np.maximum.accumulate(np.where(copies > 0, np.arange(count), -1), axis=1), -1, last=False)
        lower = following[rows, np.searchsorted(-self.score, -confidence)]  # (r, n) first tie at or below, H for none
        higher = previous[rows, lower]  # (r, n) last tie above, -1 for none

        sums, counts = (_padded(np.cumsum(copies[..., None] * own, axis=1), 0, last=False)
                        for own in (self.sums, self.counts))  # (r, H + 1, 5) of all ties before
        at_higher = _ratio(sums[rows, lower], counts[rows, lower])  # (r, n, 5) mean error down to that tie
        at_lower = _ratio(sums[rows, lower] + _padded(self.first_sums, 0, last=True, axis=0)[lower],
                          counts[rows, lower] + _padded(self.first_counts, 0, last=True, axis=0)[lower])
        between = (lower < count) & (higher >= 0)
        low, high = (self.score[np.where(between, tie, 0)] for tie in (lower, higher))
        share = np.where(between, confidence - low, 0.0) / np.where(between, high - low, 1.0)
        errors = at_lower + share[..., None] * (at_higher - at_lower)
        errors = np.where(counts[:, -1:] > 0, errors, 1.0)  # an error that no true positive has

        points = np.arange(confidence.shape[1])
        reached = np.where(confidence != 0, points, -1).max(axis=1, keepdims=True)  # (r, 1) last point that is reached
        used = points <= reached
        return np.where(reached >= 0, np.where(used[..., None], errors, 0).sum(axis=1) / np.maximum(reached + 1, 1), 1)


def undefined_errors(class_names):
    """list[str]: the `ERRORS` that the devkit defines for none of these classes."""
    return [error for error in ERRORS if all(error in _UNDEFINED.get(str(name), ()) for name in class_names)]


def nds(mean_ap, class_errors, class_names):
    """nuScenes detection score and the mean errors behind it. As in the devkit an error that no class has counts as 1.

    Args:
        mean_ap (ndarray): (R,) mAP.
        class_errors (ndarray): (R, C, 5) errors of the classes.
        class_names (Sequence[str]): C names.

    Returns:
        dict[str, ndarray]: 'NDS' and `ERRORS`, (R,) each; NaN for an error that no class has.
    """
    defined = np.array([[error not in _UNDEFINED.get(str(name), ()) for error in ERRORS] for name in class_names])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # an error that no class has
        means = np.nanmean(np.where(defined, class_errors, np.nan), axis=1)  # (R, 5)
    scores = np.fmax(0.0, 1 - means)
    return {'NDS': (_MAP_WEIGHT * mean_ap + scores.sum(axis=1)) / (_MAP_WEIGHT + len(ERRORS)),
            **dict(zip(ERRORS, means.T))}


def _padded(values, filler, last, axis=1):
    """Values with one more entry along an axis, at its end or start."""
    shape = list(values.shape)
    shape[axis] = 1
    extra = np.full(shape, filler, dtype=values.dtype)
    return np.concatenate([values, extra] if last else [extra, values], axis=axis)


def _ratio(sums, counts):
    return sums / np.maximum(counts, 1)
