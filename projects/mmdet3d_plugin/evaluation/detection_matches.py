"""Which detections nuScenes counts as true positives, kept by sample, and mAP and NDS of any re-weighting of samples.

The devkit matches by descending score over the whole set, but only within a sample. So whether a detection is a true
positive does not depend on the other samples, and a bootstrap over scenes matches once and then counts samples anew.
"""
import dataclasses
from collections import defaultdict
from typing import NamedTuple, Optional

import numpy as np
from nuscenes.eval.common.utils import center_distance

from ..core.greedy_match import greedy_match
from ..utils.atomic_file import atomic_path
from .nuscenes_scores import CLASSES, DISTANCES, ERRORS
from .true_positive_errors import TruePositiveTies, box_errors, nds

RECALL_DISTANCE = 2.0  # m, the devkit's threshold for its true-positive metrics
_MIN_PRECISION = 0.1
_RECALLS = np.linspace(0, 1, 101)[11:]  # (90,), of the devkit's 101 points those above its minimum recall, 0.1
_CHUNK = 2**18  # numbers held at once: small enough for a processor's cache


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
        errors (ndarray | None): (P, 5) `ERRORS` of the P detections matched at 2 m, in the order of the detections, NaN
            where the devkit has none; None in files of earlier versions, which tell mAP but not NDS.
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
    errors: Optional[np.ndarray] = None

    @property
    def num_gt(self):
        """ndarray: (N, C) number of ground-truth boxes by sample and class."""
        shape = len(self.sample_tokens), len(self.class_names)
        cell = self.gt_sample * shape[1] + self.gt_label
        return np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)

    def save(self, path):
        """Write all arrays to one .npz file; it appears whole or not at all."""
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
            np.savez_compressed(file, **{name: array for name, array in arrays.items() if array is not None})

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
            if not {*names} - {'errors'} <= {*found} <= {*names}:
                raise ValueError(f'{path} must hold the arrays {names}, as DetectionMatches.save writes them; '
                                 f'got {found}')
            return cls(**{name: arrays[name] for name in found})


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
    gt_score, errors = np.full(len(truths), np.nan), np.full((len(found), len(ERRORS)), np.nan)
    rows, columns = _by_cell(label, sample), _by_cell(gt_label, gt_sample)
    for cell in rows.keys() & columns.keys():
        row, column = np.array(rows[cell]), np.array(columns[cell])
        distance = np.array([[center_distance(truths[g], found[d]) for g in column] for d in row])
        for i, threshold in enumerate(distances):
            match = greedy_match(distance, threshold)
            is_tp[row, i] = match >= 0
            if threshold == RECALL_DISTANCE:
                hits, owners = row[match >= 0], column[match[match >= 0]]
                gt_score[owners] = score[hits]
                for d, g in zip(hits, owners):
                    errors[d] = box_errors(truths[g], found[d])
    return DetectionMatches(
        sample_tokens=np.array(list(index_of), dtype=str), class_names=np.array(list(label_of), dtype=str),
        distances=distances, label=label, sample=sample, score=score, is_tp=is_tp, gt_label=gt_label,
        gt_sample=gt_sample, gt_score=gt_score,
        errors=errors[is_tp[:, distances == RECALL_DISTANCE].any(axis=1)],
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
    weights = np.ones(len(matches.sample_tokens), dtype=np.int64) if weights is None else np.asarray(weights)
    return _average_precisions(matches, _checked(matches, weights, 1)[None])[0]


def weighted_scores(matches, weights):
    """nuScenes' scores of several weightings at once, each as `average_precisions` has it.

    Args:
        matches (DetectionMatches): of N samples.
        weights (ndarray): (R, N) integers >= 0.

    Returns:
        dict[str, ndarray]: mAP, NDS and the mean `ERRORS`, (R,) each. Errors of a class without a true positive count
        as 1, as the devkit has it.

    Raises:
        ValueError: weights of other shape, type or range; matches without errors, from a file of an earlier version.
    """
    if matches.errors is None:
        raise ValueError('these matches were stored by an earlier version, without the errors that NDS needs: repeat '
                         'the test in another folder')
    aps, errors = _weighted_metrics(matches, _checked(matches, np.asarray(weights), 2), with_errors=True)
    mean_ap = aps.mean(axis=(1, 2))
    return {'mAP': mean_ap, **nds(mean_ap, errors, matches.class_names)}


def _checked(matches, weights, dimensions):
    """Weights (N,) or (R, N) as int64; raise ValueError for others."""
    count = len(matches.sample_tokens)
    fits = weights.ndim == dimensions and weights.shape[-1] == count
    if not fits or weights.dtype.kind not in 'iub' or (weights < 0).any():
        raise ValueError(f'weights must be {count} integers >= 0, one for each sample; got {weights.dtype} of shape '
                         f'{weights.shape}' + (f', minimum {weights.min()}' if weights.size else ''))
    return weights.astype(np.int64)


def mean_ap(matches, weights=None):
    """nuScenes' mAP: the mean of `average_precisions` (arguments there) over classes and distances, a float."""
    return float(average_precisions(matches, weights).mean())


def _average_precisions(matches, weights):
    """`average_precisions` of several weightings at once: weights (R, N) int64 -> (R, C, T)."""
    return _weighted_metrics(matches, weights)[0]


def _weighted_metrics(matches, weights, with_errors=False):
    """AP (R, C, T) and errors (R, C, 5) of several weightings (R, N) int64; errors are 1 unless asked for."""
    num_gt = weights @ matches.num_gt  # (R, C)
    aps, errors = np.zeros((*num_gt.shape, len(matches.distances))), np.ones((*num_gt.shape, len(ERRORS)))
    # Samples with the same weights in all rows, such as those of a scene, are one group.
    weights, group = np.unique(weights, axis=1, return_inverse=True)  # (R, S)
    group = group.reshape(-1)[matches.sample]  # (D,)
    error_of = np.cumsum(matches.is_tp[:, matches.distances == RECALL_DISTANCE].any(axis=1))  # of detections, from 1
    for label in range(len(matches.class_names)):
        first, last = np.searchsorted(matches.label, (label, label + 1))
        own = slice(first, last)
        if matches.is_tp[own].any():
            known = None
            if with_errors:
                known = matches.errors[error_of[first - 1] if first else 0:error_of[last - 1]]
            ties = _Ties.of(matches.sample[own], matches.score[own], matches.is_tp[own], group[own])
            for i, distance in enumerate(matches.distances):
                if ties.tps[:, i].any():
                    _score_class(ties, i, known if distance == RECALL_DISTANCE else None, weights,
                                 num_gt[:, label, None], aps[:, label, i], errors[:, label])
    return aps, errors


class _Ties(NamedTuple):
    """Detections of one class, in the devkit's order; those of one sample with equal scores are a tie.

    The devkit ranks the copies of a sample one after the other, so a tie is repeated as a whole: its ranks are (copy,
    place within the tie).

    Attributes:
        score, size, group: (K,) score, number of detections and group of each tie.
        tps: (K, T) true positives of each tie.
        place: (D,) of every detection within its tie, from 1.
        is_tp: (D, T).
    """
    score: np.ndarray
    size: np.ndarray
    group: np.ndarray
    tps: np.ndarray
    place: np.ndarray
    is_tp: np.ndarray

    @classmethod
    def of(cls, sample, score, is_tp, group):
        """From detections: their sample, score and group (D,), and is_tp (D, T)."""
        start = np.flatnonzero(np.append(True, (sample[1:] != sample[:-1]) | (score[1:] != score[:-1])))  # (K,)
        size = np.diff(np.append(start, len(score)))
        return cls(score[start], size, group[start], np.add.reduceat(is_tp.astype(np.int64), start, axis=0),
                   1 + np.arange(len(score)) - np.repeat(start, size), is_tp)

    def before(self, hit, groups):
        """What comes before ties with a true positive, by group.

        Args:
            hit (ndarray): (H,) ties.
            groups (int): number S of groups.

        Returns:
            tuple[ndarray, ndarray]: (S, H + 1) detections before each of them, and last tie before each of them, -1
            for none; the last column is of all ties.
        """
        cell = self.group * (len(hit) + 1) + np.searchsorted(hit, np.arange(len(self.size)), side='right')
        shape = groups, len(hit) + 1
        counts = np.bincount(cell, self.size, minlength=shape[0] * shape[1]).reshape(shape)
        last = np.full(shape[0] * shape[1], -1)
        last[cell] = np.arange(len(self.size))  # of several the last one stays
        return np.cumsum(counts, axis=1), np.maximum.accumulate(last.reshape(shape), axis=1)


def _score_class(ties, column, errors, weights, num_gt, ap, mean_errors):
    """AP and errors of one class at one distance, for several weightings, written into `ap` and `mean_errors`.

    Args:
        ties (_Ties): of the class, with at least one true positive at the distance.
        column (int): of the distance.
        errors (ndarray | None): (P, 5) of the true positives; None leaves `mean_errors` as they are.
        weights (ndarray): (R, S) int64, how often the samples of a group occur.
        num_gt (ndarray): (R, 1) ground-truth boxes of the class in the weighted set.
        ap, mean_errors (ndarray): (R,) and (R, 5), to be filled.
    """
    hit = np.flatnonzero(ties.tps[:, column])  # (H,) ties with a true positive
    size, tps, place = ties.size[hit], ties.tps[hit, column], ties.place[ties.is_tp[:, column]]
    before, last_before = ties.before(hit, weights.shape[1])
    recalled = _recalled(num_gt)
    known = None if errors is None else TruePositiveTies.of(ties.score[hit], np.cumsum(tps) - tps, errors)
    step = max(1, _CHUNK // max(len(hit), weights.shape[1] * len(_RECALLS)))
    for rows in (slice(begin, begin + step) for begin in range(0, len(weights), step)):
        copies = weights[rows][:, ties.group[hit]]  # (r, H)
        ranked = np.rint(weights[rows].astype(float) @ before).astype(np.int64)  # (r, H + 1); floats multiply faster
        following = _next_tp(recalled[rows], copies, ranked, size, tps, place)
        ap[rows] = _clipped_mean(_precision(recalled[rows], following.rank, following.total, num_gt[rows]))
        if known is not None:
            mean_errors[rows] = known.mean_errors(copies, _confidence(
                recalled[rows], following, num_gt[rows], weights[rows], last_before, ties.score[hit], ties.score))


def _recalled(num_gt):
    """How many true positives have a recall of at most `_RECALLS`: num_gt (R, 1) -> (R, 90).

    Recalls are compared as the devkit computes them: precision jumps where they meet a point of the interpolation.
    """
    num_gt = np.maximum(num_gt, 1)
    number = np.floor(_RECALLS * num_gt).astype(np.int64)
    return number + ((number + 1) / num_gt <= _RECALLS)  # products may round down to below a whole number


class _NextTruePositive(NamedTuple):
    """What comes after the first `recalled` true positives of r weightings, at each of the 90 `_RECALLS`.

    Attributes:
        rank: (r, 90) of the next true positive, from 1; where none is left, one more than the number of detections.
        tie: (r, 90) its tie among those with a true positive; where none is left, their number.
        is_first: (r, 90) bool, it is the first detection of the first copy of its tie, or none is left.
        total: (r, 1) number of all true positives.
    """
    rank: np.ndarray
    tie: np.ndarray
    is_first: np.ndarray
    total: np.ndarray


def _next_tp(recalled, copies, ranked, size, tps, place):
    """Find the true positives that come next.

    Args:
        recalled (ndarray): (r, 90) numbers of true positives.
        copies (ndarray): (r, H) for H ties with true positives: how often they occur.
        ranked (ndarray): (r, H + 1) detections before them, and of all.
        size, tps (ndarray): (H,) number of detections and of true positives of each tie.
        place (ndarray): place of every true positive within its tie, in the order of the ties.

    Returns:
        _NextTruePositive
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
    place = place[first[tie] + nth]
    is_left = recalled < total
    return _NextTruePositive(
        np.where(is_left, ranked[row, tie] + copy * size[tie] + place, ranked[:, -1:] + 1),
        np.where(is_left, tie, found.shape[1]), ~is_left | ((copy == 0) & (place == 1)), total)


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


def _confidence(recalled, following, num_gt, weights, last_before, hit_score, score):
    """Score (r, 90) that reaches `_RECALLS`, as `np.interp` finds it on the devkit's curve of recall and score.

    Between the detection before the next true positive and this one itself the score changes linearly with recall. It
    is constant before the first point and 0 after the last.

    Args:
        recalled, num_gt (ndarray): as of `_precision`.
        following (_NextTruePositive): after `recalled`.
        weights (ndarray): (r, S) how often the samples of a group occur.
        last_before (ndarray): (S, H + 1) see `_Ties.before`.
        hit_score, score (ndarray): (H,) and (K,) scores of the ties with a true positive and of all.
    """
    num_gt = np.maximum(num_gt, 1)
    upper = np.append(hit_score, 0)[following.tie]
    previous = np.where(weights[:, None] > 0, last_before.T[following.tie], -1).max(axis=2)  # (r, 90) tie, -1 for none
    lower = np.where(following.is_first & (previous >= 0), score[previous], upper)
    slope = (upper - lower) / ((recalled + 1) / num_gt - recalled / num_gt)
    is_left = recalled < following.total
    confidence = np.where(is_left, slope * (_RECALLS - recalled / num_gt) + lower, lower)
    return np.where(_RECALLS > following.total / num_gt, 0.0, confidence)


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
    """A value and the 2.5 and 97.5 percentiles of its bootstrap distribution."""
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        """From the value on the set as it is, and those of the rounds behind it; NaN where a round has none."""
        return cls(*(float(value) for value in (values[0], *np.percentile(values[1:], (2.5, 97.5)))))


def bootstrap_scores(matches, scene_of_sample, rounds=1000, seed=0):
    """`weighted_scores` on the set as it is and in the rounds of a bootstrap over scenes, see `paired_bootstrap`.

    Rounds of equal seed draw the same scenes for all matches of a set, so that differences and ratios of their values
    are paired; `BootstrapInterval.of` makes intervals of them.

    Args:
        matches (DetectionMatches): to score.
        scene_of_sample, rounds, seed: see `paired_bootstrap`.

    Returns:
        dict[str, ndarray]: mAP, NDS and the mean `ERRORS`, (1 + rounds,) each, first on the set as it is.

    Raises:
        ValueError: no round, samples without a scene, or see `weighted_scores`.
    """
    return weighted_scores(matches, _drawn_scenes(matches, scene_of_sample, rounds, seed))


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
    if not pairs:
        raise ValueError('pairs must hold at least one pair of matches, got none')
    reference = pairs[0][0]
    for other in (matches for pair in pairs for matches in pair):
        _check_comparable(reference, other)
    weights = _drawn_scenes(reference, scene_of_sample, rounds, seed)
    differences = np.mean([_average_precisions(a, weights).mean(axis=(1, 2))
                           - _average_precisions(b, weights).mean(axis=(1, 2)) for a, b in pairs], axis=0)
    return BootstrapInterval.of(differences)


def _drawn_scenes(matches, scene_of_sample, rounds, seed):
    """(1 + rounds, N) how often each sample counts: once, then as often as each round drew its scene."""
    if rounds < 1:
        raise ValueError(f'rounds must be at least 1, got {rounds}')
    tokens = matches.sample_tokens.tolist()
    missing = [token for token in tokens if token not in scene_of_sample]
    if missing:
        raise ValueError(f'scene_of_sample must have every sample, it lacks {len(missing)}: {missing[:5]}')
    scenes, scene = np.unique([scene_of_sample[token] for token in tokens], return_inverse=True)  # scene: (N,)
    draws = np.random.default_rng(seed).multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), size=rounds)
    as_it_is = np.ones((1, len(scenes)), dtype=draws.dtype)
    return np.concatenate([as_it_is, draws])[:, scene]


def _check_comparable(a, b):
    """Raise ValueError unless two `DetectionMatches` are of the same evaluation set."""
    for name in ('sample_tokens', 'class_names', 'distances', 'gt_sample', 'gt_label', 'gt_center'):
        if not np.array_equal(getattr(a, name), getattr(b, name)):
            raise ValueError('all matches must be of the same samples, classes, distances and ground truth, in the '
                             f'same order; {name} differ')
