"""Which detections nuScenes counts as true positives, kept by sample, and the mAP of any re-weighting of the samples.

The devkit matches by descending score over the whole set, but only within a sample. So whether a detection is a true
positive does not depend on the other samples, and a bootstrap over scenes matches once and then counts samples anew.
"""
import dataclasses
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from nuscenes.eval.common.utils import center_distance

from ..utils.atomic_file import atomic_path
from .nuscenes_scores import CLASSES, DISTANCES

RECALL_DISTANCE = 2.0  # m, the devkit's threshold for its true-positive metrics
_MIN_PRECISION = 0.1
_RECALLS = np.linspace(0, 1, 101)[11:]  # (90,), of the devkit's 101 points those above its minimum recall, 0.1
_CHUNK = 2**18  # copies of detections held at once: small enough for a processor's cache


@dataclasses.dataclass
class DetectionMatches:
    """Detections and ground truth of one evaluation, matched by the rule of nuScenes' AP. Made by `match_detections`.

    Attributes:
        sample_tokens (ndarray): (N,) str, in the order of the ground truth.
        class_names (ndarray): (C,) str.
        distances (ndarray): (T,) thresholds of the center distance, m.
        label (ndarray): (D,) class index of every detection. Detections are sorted by class, within a class as the
            devkit ranks them: by descending score, those of equal score by descending position in the results.
        sample (ndarray): (D,) index into `sample_tokens`.
        score (ndarray): (D,) float64.
        is_tp (ndarray): (D, T) bool.
        gt_label (ndarray): (G,) class index of every ground-truth box, in the order of the ground truth.
        gt_sample (ndarray): (G,) index into `sample_tokens`.
        gt_center (ndarray): (G, 3) gravity center in the global frame, m.
        gt_score (ndarray): (G,) score of the detection matched at 2 m, NaN where there is none.
    """
    sample_tokens: np.ndarray
    class_names: np.ndarray
    distances: np.ndarray
    label: np.ndarray
    sample: np.ndarray
    score: np.ndarray
    is_tp: np.ndarray
    gt_label: np.ndarray
    gt_sample: np.ndarray
    gt_center: np.ndarray
    gt_score: np.ndarray

    @property
    def num_gt(self):
        """ndarray: (N, C) number of ground-truth boxes by sample and class."""
        shape = len(self.sample_tokens), len(self.class_names)
        cell = self.gt_sample * shape[1] + self.gt_label
        return np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)

    def save(self, path):
        """Write all arrays to one .npz file; it appears whole or not at all."""
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def load(cls, path):
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file of something else.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        with open(path, 'rb') as file:
            arrays = np.load(file, allow_pickle=False)
            found = getattr(arrays, 'files', 'a single array')
            if set(found) != set(names):
                raise ValueError(f'{path} must hold the arrays {names}, as DetectionMatches.save writes them; '
                                 f'got {found}')
            return cls(**{name: arrays[name] for name in names})


def match_detections(gt_boxes, pred_boxes, class_names=CLASSES, distances=DISTANCES):
    """Match detections to ground truth as `nuscenes.eval.detection.algo.accumulate` does, all classes and distances.

    Detections choose in the order of descending score; each takes the closest ground-truth box of its class and sample
    that is still free, if that is nearer than the threshold.

    Args:
        gt_boxes, pred_boxes (EvalBoxes): as a `DetectionEval` holds them: loaded and filtered by the devkit.
        class_names (Sequence[str]): classes to evaluate; boxes of others are ignored.
        distances (Sequence[float]): thresholds of the center distance, m; 2 among them.

    Returns:
        DetectionMatches

    Raises:
        ValueError: ground truth and detections are of different samples, a box names another sample than the one it is
            filed under, class names repeat, or `distances` lacks 2.
    """
    distances = np.array(distances, dtype=float)
    if RECALL_DISTANCE not in distances:
        raise ValueError(f'distances must include {RECALL_DISTANCE:g} m, got {distances.tolist()}')
    label_of = {name: label for label, name in enumerate(class_names)}
    if not label_of or len(label_of) != len(class_names):
        raise ValueError(f'class_names must be different names, at least one; got {list(class_names)}')
    index_of = {token: index for index, token in enumerate(gt_boxes.sample_tokens)}
    if set(index_of) != set(pred_boxes.sample_tokens):
        raise ValueError('gt_boxes and pred_boxes must be of the same samples; only one of them has '
                         f'{sorted(set(index_of) ^ set(pred_boxes.sample_tokens))[:5]}')

    truths, gt_label, gt_sample = _boxes(gt_boxes, label_of, index_of)
    found, label, sample = _boxes(pred_boxes, label_of, index_of)
    score = np.array([box.detection_score for box in found], dtype=float)  # (D,)
    order = np.lexsort((-np.arange(len(found)), -score, label))
    found, label, sample, score = [found[i] for i in order], label[order], sample[order], score[order]

    is_tp = np.zeros((len(found), len(distances)), dtype=bool)
    gt_score = np.full(len(truths), np.nan)
    rows, columns = _by_cell(label, sample), _by_cell(gt_label, gt_sample)
    for cell in rows.keys() & columns.keys():
        row, column = np.array(rows[cell]), np.array(columns[cell])
        distance = np.array([[center_distance(truths[g], found[d]) for g in column] for d in row])
        for i, threshold in enumerate(distances):
            match = _greedy_match(distance, threshold)
            is_tp[row, i] = match >= 0
            if threshold == RECALL_DISTANCE:
                gt_score[column[match[match >= 0]]] = score[row[match >= 0]]
    return DetectionMatches(
        sample_tokens=np.array(list(index_of), dtype=str), class_names=np.array(list(label_of), dtype=str),
        distances=distances, label=label, sample=sample, score=score, is_tp=is_tp, gt_label=gt_label,
        gt_sample=gt_sample, gt_score=gt_score,
        gt_center=np.array([box.translation for box in truths], dtype=float).reshape(-1, 3))


def _boxes(eval_boxes, label_of, index_of):
    """Boxes of the classes in `label_of` in the devkit's order, their class indices (B,) and sample indices (B,)."""
    boxes = []
    for token in eval_boxes.sample_tokens:
        for box in eval_boxes[token]:
            if box.sample_token != token:
                raise ValueError(f'a box of sample {box.sample_token!r} is filed under sample {token!r}')
            if box.detection_name in label_of:
                boxes.append(box)
    label = np.array([label_of[box.detection_name] for box in boxes], dtype=np.int64)
    sample = np.array([index_of[box.sample_token] for box in boxes], dtype=np.int64)
    return boxes, label, sample


def _by_cell(label, sample):
    """Positions by (class index, sample index), in ascending order."""
    cells = defaultdict(list)
    for position, cell in enumerate(zip(label.tolist(), sample.tolist())):
        cells[cell].append(position)
    return cells


def _greedy_match(distance, threshold):
    """For every detection, best first, the ground-truth box that it takes, -1 for none.

    Args:
        distance (ndarray): (D, G) between detections and ground-truth boxes, m.
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


def average_precisions(matches, weights=None):
    """nuScenes' AP of every class at every distance, each sample counted several times or not at all.

    Equal to the devkit on a set in which sample i occurs `weights[i]` times, copies in consecutive places.

    Args:
        matches (DetectionMatches): of C classes, T distances and N samples.
        weights (ndarray, optional): (N,) integers >= 0; by default every sample counts once.

    Returns:
        ndarray: (C, T) in [0, 1]; 0 for a class without ground truth in the samples counted.

    Raises:
        ValueError: weights of other shape, type or range.
    """
    count = len(matches.sample_tokens)
    weights = np.ones(count, dtype=np.int64) if weights is None else np.asarray(weights)
    if weights.shape != (count, ) or weights.dtype.kind not in 'iub' or (weights < 0).any():
        raise ValueError(f'weights must be {count} integers >= 0, one for each sample; got {weights.dtype} of shape '
                         f'{weights.shape}' + (f', minimum {weights.min()}' if weights.size else ''))
    return _average_precisions(matches, weights[None].astype(np.int64))[0]


def mean_ap(matches, weights=None):
    """nuScenes' mAP: the mean of `average_precisions` (arguments there) over classes and distances, a float."""
    return float(average_precisions(matches, weights).mean())


def _average_precisions(matches, weights):
    """`average_precisions` of several weightings at once: weights (R, N) int64 -> (R, C, T)."""
    num_gt = weights @ matches.num_gt  # (R, C)
    result = np.zeros((*num_gt.shape, len(matches.distances)))
    for label in range(len(matches.class_names)):
        own = slice(*np.searchsorted(matches.label, (label, label + 1)))
        if matches.is_tp[own].any():
            result[:, label] = _class_average_precisions(
                matches.sample[own], matches.score[own], matches.is_tp[own], weights, num_gt[:, label, None])
    return result


def _class_average_precisions(sample, score, is_tp, weights, num_gt):
    """AP of one class for several weightings.

    Detections of one sample with equal scores form a tie. The devkit ranks the copies of a sample one after the other,
    so a tie is repeated as a whole: its ranks are (copy, place within the tie).

    Args:
        sample, score (ndarray): (D,) in the devkit's order.
        is_tp (ndarray): (D, T) bool, at least one is true.
        weights (ndarray): (R, N) int64.
        num_gt (ndarray): (R, 1) ground-truth boxes of the class in the weighted set.

    Returns:
        ndarray: (R, T)
    """
    start = np.flatnonzero(np.append(True, (sample[1:] != sample[:-1]) | (score[1:] != score[:-1])))  # (K,) of K ties
    size = np.diff(np.append(start, len(score)))  # (K,)
    place = 1 + np.arange(len(score)) - np.repeat(start, size)  # (D,) within the tie, from 1
    tps = np.add.reduceat(is_tp.astype(np.int64), start, axis=0)  # (K, T)
    recalled = _recalled(num_gt)
    result = np.zeros((len(weights), is_tp.shape[1]))
    step = max(1, _CHUNK // len(start))
    for rows in (slice(first, first + step) for first in range(0, len(weights), step)):
        copies = weights[rows][:, sample[start]]  # (r, K)
        ranked = np.cumsum(copies * size, axis=1)  # (r, K) detections up to the end of each tie
        for i in range(is_tp.shape[1]):
            hit = np.flatnonzero(tps[:, i])  # (H,) ties with a true positive
            if len(hit):
                rank, total = _rank_of_next_tp(
                    recalled[rows], copies[:, hit], (ranked - copies * size)[:, hit], ranked[:, -1:], size[hit],
                    tps[hit, i], place[is_tp[:, i]])
                result[rows, i] = _clipped_mean(_precision(recalled[rows], rank, total, num_gt[rows]))
    return result


def _recalled(num_gt):
    """How many true positives have a recall of at most `_RECALLS`: num_gt (R, 1) -> (R, 90).

    Recalls are compared as the devkit computes them: precision jumps where they meet a point of the interpolation.
    """
    num_gt = np.maximum(num_gt, 1)
    number = np.floor(_RECALLS * num_gt).astype(np.int64)
    return number + ((number + 1) / num_gt <= _RECALLS)  # products may round down to below a whole number


def _rank_of_next_tp(recalled, copies, before, ranked, size, tps, place):
    """Rank, from 1, of the true positive that comes after the first `recalled` ones.

    Args:
        recalled (ndarray): (r, 90) numbers of true positives.
        copies, before (ndarray): (r, H) for H ties with true positives: how often they occur, detections before them.
        ranked (ndarray): (r, 1) number of all detections.
        size, tps (ndarray): (H,) number of detections and of true positives of each tie.
        place (ndarray): place of every true positive within its tie, in the order of the ties.

    Returns:
        tuple[ndarray]: (r, 90) ranks, one more than `ranked` where no true positive is left; (r, 1) number of all true
        positives.
    """
    found = np.cumsum(copies * tps, axis=1)  # (r, H) true positives up to the end of each tie
    total = found[:, -1:]
    wanted = np.minimum(recalled + 1, total)  # counted from 1
    row = np.arange(len(found))[:, None]
    shift = row * (total.max() + 1)  # makes one sorted sequence of all rows
    tie = np.searchsorted((found + shift).ravel(), wanted + shift) - row * found.shape[1]  # (r, 90)
    earlier = (found - copies * tps)[row, tie]
    copy, nth = np.divmod(wanted - 1 - earlier, tps[tie])
    first = np.cumsum(tps) - tps  # (H,) each tie's first in `place`
    rank = before[row, tie] + copy * size[tie] + place[first[tie] + nth]
    return np.where(recalled < total, rank, ranked + 1), total


def _precision(recalled, rank, total, num_gt):
    """Precision (r, 90) at `_RECALLS`, as `np.interp` finds it on the devkit's curve of recall and precision.

    Just before the next true positive, at `rank`, the curve ends a vertical piece at `recalled / (rank - 1)`; it goes
    straight from there to `(recalled + 1) / rank`. Precision is constant before the first point and 0 after the last.
    """
    num_gt = np.maximum(num_gt, 1)  # without ground truth nothing is recalled and all precisions are 0
    lower = np.where(rank > 1, recalled / np.maximum(rank - 1, 1), 1.0)
    upper = (recalled + 1) / rank
    precision = lower + (upper - lower) * (_RECALLS * num_gt - recalled)
    return np.where(_RECALLS > total / num_gt, 0.0, precision)


def _clipped_mean(precision):
    """The devkit's AP from precisions (r, 90) -> (r,): what exceeds the minimum precision, scaled to [0, 1]."""
    return np.maximum(precision - _MIN_PRECISION, 0).mean(axis=1) / (1 - _MIN_PRECISION)


def recall(matches, selected, score_thr):
    """Share of some ground-truth boxes that were matched at 2 m by a detection of at least a given score.

    Args:
        matches (DetectionMatches): with G ground-truth boxes.
        selected (ndarray): (G,) bool, the boxes that count.
        score_thr (float): minimum score.

    Returns:
        float: in [0, 1], NaN where no box is selected.

    Raises:
        ValueError: `selected` has another shape or type.
    """
    selected = np.asarray(selected)
    if selected.shape != matches.gt_score.shape or selected.dtype != bool:
        raise ValueError(f'selected must be {len(matches.gt_score)} bools, one for each ground-truth box; '
                         f'got {selected.dtype} of shape {selected.shape}')
    if not selected.any():
        return float('nan')
    return float((matches.gt_score[selected] >= score_thr).mean())


class BootstrapInterval(NamedTuple):
    """A difference and the 2.5 and 97.5 percentiles of its bootstrap distribution."""
    mean: float
    low: float
    high: float


def paired_bootstrap(pairs, scene_of_sample, rounds=1000, seed=0):
    """Difference in mAP of two models, with a 95 % percentile interval from a bootstrap over scenes.

    Samples of a scene show the same objects, so scenes are drawn, as many as there are, with replacement. A round draws
    the same scenes for both models and all training seeds. The interval tells how far the difference depends on
    the choice of scenes; the training seeds are taken as given. Where a round draws no ground truth of a class, its AP
    is 0 for both models, so a class of few scenes widens the interval toward 0.

    Args:
        pairs (Sequence[tuple[DetectionMatches, DetectionMatches]]): for every training seed models a and b.
        scene_of_sample (Mapping[str, str]): sample token -> scene; may hold further samples.
        rounds (int): how often scenes are drawn.
        seed (int): of the draws.

    Returns:
        BootstrapInterval: mean over training seeds of mAP(a) - mAP(b): on the set as it is, and the percentiles.

    Raises:
        ValueError: no pair or round, samples without a scene, or matches that are not of the same samples, ground
            truth, classes and distances.
    """
    pairs = list(pairs)
    if not pairs or rounds < 1:
        raise ValueError(f'pairs must hold at least one pair and rounds be at least 1, got {len(pairs)} and {rounds}')
    reference = pairs[0][0]
    for other in (matches for pair in pairs for matches in pair):
        _check_comparable(reference, other)
    missing = [token for token in reference.sample_tokens.tolist() if token not in scene_of_sample]
    if missing:
        raise ValueError(f'scene_of_sample must have every sample, it lacks {len(missing)}: {missing[:5]}')

    scenes, scene = np.unique([scene_of_sample[token] for token in reference.sample_tokens.tolist()],
                              return_inverse=True)  # scene: (N,)
    draws = np.random.default_rng(seed).multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), size=rounds)
    as_it_is = np.ones((1, len(scenes)), dtype=draws.dtype)
    weights = np.concatenate([as_it_is, draws])[:, scene]  # (1 + rounds, N)
    differences = np.mean([_average_precisions(a, weights).mean(axis=(1, 2))
                           - _average_precisions(b, weights).mean(axis=(1, 2)) for a, b in pairs], axis=0)
    return BootstrapInterval(*(float(value) for value in (
        differences[0], *np.percentile(differences[1:], (2.5, 97.5)))))


def _check_comparable(a, b):
    """Raise ValueError unless two `DetectionMatches` are of the same evaluation set."""
    for name in ('sample_tokens', 'class_names', 'distances', 'gt_sample', 'gt_label', 'gt_center'):
        if not np.array_equal(getattr(a, name), getattr(b, name)):
            raise ValueError('all matches must be of the same samples, classes, distances and ground truth, in the '
                             f'same order; {name} differ')
