import dataclasses
import json
import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection import algo
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name

from projects.mmdet3d_plugin.evaluation import detection_matches
from projects.mmdet3d_plugin.evaluation.detection_matches import (
    DetectionMatches,
    average_precisions,
    bootstrap_scores,
    match_detections,
    mean_ap,
    paired_bootstrap,
    recall,
    weighted_scores,
)
from projects.mmdet3d_plugin.evaluation.nuscenes_scores import DISTANCES, ERRORS

NAMES = ('car', 'bus', 'traffic_cone')


def box(token, name, center, score=-1.0):
    return DetectionBox(sample_token=token, translation=(*map(float, center), 1.0), size=(1., 1., 1.),
                        rotation=(1., 0., 0., 0.), velocity=(0., 0.), detection_name=name, detection_score=float(score))


def eval_boxes(by_token):
    boxes = EvalBoxes()
    for token, own in by_token.items():
        boxes.add_boxes(token, own)
    return boxes


def random_boxes(seed, samples, ties, names=NAMES):
    """Ground truth and detections of random number, in another order of samples.

    With ties, scores and coordinates take few values: equal scores within and across samples, equal distances,
    distances of exactly a threshold.
    """
    rng = np.random.default_rng(seed)

    def centers(count):
        return rng.integers(0, 12, (count, 2)) / 2 if ties else rng.uniform(0, 6, (count, 2))

    def of_sample(token, most, scored):
        count = rng.integers(0, most + 1)
        scores = rng.integers(1, 6, count) / 8 if ties else rng.uniform(0.01, 1, count)
        return [box(token, rng.choice(names), center, score if scored else -1.0)
                for center, score in zip(centers(count), scores)]

    tokens = [f'sample {i}' for i in range(samples)]
    gt = {token: of_sample(token, 8, False) for token in tokens}
    pred = {token: of_sample(token, 16, True) for token in rng.permutation(tokens).tolist()}
    return eval_boxes(gt), eval_boxes(pred)


def devkit_aps(gt_boxes, pred_boxes, names=NAMES, distances=DISTANCES):
    return np.array([[algo.calc_ap(algo.accumulate(gt_boxes, pred_boxes, name, center_distance, distance), 0.1, 0.1)
                      for distance in distances] for name in names])


def repeated(boxes, weights):
    """The samples as often as `weights` (dict, token -> int) says, copies under tokens of their own."""
    copies = {}
    for token in boxes.sample_tokens:
        for copy in range(weights[token]):
            name = f'{token} copy {copy}'
            copies[name] = [DetectionBox.deserialize({**own.serialize(), 'sample_token': name}) for own in boxes[token]]
    return eval_boxes(copies)


class TestAgainstDevkit:

    @settings(max_examples=60)
    @given(st.integers(0, 2**31), st.integers(1, 6), st.booleans())
    def test_average_precisions(self, seed, samples, ties):
        gt, pred = random_boxes(seed, samples, ties)
        matches = match_detections(gt, pred, class_names=NAMES)
        expected = devkit_aps(gt, pred)
        np.testing.assert_allclose(average_precisions(matches), expected, rtol=0, atol=1e-12)
        assert mean_ap(matches) == pytest.approx(expected.mean(), abs=1e-12)

    @settings(max_examples=60)
    @given(st.integers(0, 2**31), st.lists(st.integers(0, 4), min_size=1, max_size=5), st.booleans())
    def test_weights_are_repeated_samples(self, seed, weights, ties):
        gt, pred = random_boxes(seed, len(weights), ties)
        matches = match_detections(gt, pred, class_names=NAMES)
        by_token = dict(zip(matches.sample_tokens.tolist(), weights))
        expected = devkit_aps(repeated(gt, by_token), repeated(pred, by_token))
        np.testing.assert_allclose(average_precisions(matches, weights), expected, rtol=0, atol=1e-12)
        assert mean_ap(matches, np.array(weights, dtype=np.uint8)) == pytest.approx(expected.mean(), abs=1e-12)

    @pytest.mark.parametrize('missed', [0, 1, 5])
    @pytest.mark.parametrize('count', [1, 7, 10, 50, 100, 200])
    def test_recalls_that_meet_points_of_the_interpolation(self, count, missed):
        """There precision jumps. 95 / 100 is less than the devkit's point by the last bit, 99 / 100 is equal."""
        rng = np.random.default_rng(count)
        tokens = [str(i) for i in range(count)]
        gt = eval_boxes({token: [box(token, 'car', (0, 0))] for token in tokens})
        pred = eval_boxes({token: [box(token, 'car', (0, 0), rng.uniform())] * (i >= missed)
                           + [box(token, 'car', (9, 9), rng.uniform())] * rng.integers(3)
                           for i, token in enumerate(tokens)})
        matches = match_detections(gt, pred, class_names=['car'])
        np.testing.assert_allclose(average_precisions(matches), devkit_aps(gt, pred, ['car']), rtol=0, atol=1e-12)

    def test_classes_without_ground_truth_or_detections(self):
        gt = eval_boxes({'a': [box('a', 'car', (0, 0)), box('a', 'bus', (0, 0))], 'b': []})
        pred = eval_boxes({'b': [box('b', 'car', (0, 0), 0.9)],
                           'a': [box('a', 'traffic_cone', (0, 0), 0.9), box('a', 'car', (0.5, 0), 0.5)]})
        matches = match_detections(gt, pred, class_names=NAMES)
        aps = average_precisions(matches)
        np.testing.assert_allclose(aps, devkit_aps(gt, pred), rtol=0, atol=1e-12)
        assert aps[0, 0] == 0 < aps[0, 1] and not aps[1:].any()  # 0.5 m is not nearer than 0.5 m
        np.testing.assert_allclose(average_precisions(matches, [1, 0]), [[0, 1, 1, 1], [0] * 4, [0] * 4])
        assert mean_ap(matches, [1, 0]) == pytest.approx(0.25)
        assert mean_ap(matches, [0, 3]) == mean_ap(matches, [0, 0]) == 0
        nothing = match_detections(eval_boxes({'a': []}), eval_boxes({'a': []}))
        assert mean_ap(nothing) == 0 and math.isnan(recall(nothing, np.zeros(0, bool), 0.1))

    @settings(max_examples=40)
    @given(st.integers(0, 2**31), st.integers(1, 4), st.booleans())
    def test_ground_truth(self, seed, samples, ties):
        """The devkit computes the translation error of each match: what it is called with are its matches."""
        gt, pred = random_boxes(seed, samples, ties)
        matches = match_detections(gt, pred, class_names=NAMES)
        assert matches.sample_tokens.tolist() == gt.sample_tokens
        tokens = matches.sample_tokens[matches.gt_sample]
        assert [(own.sample_token, own.detection_name) for own in gt.all] == [
            (token, NAMES[label]) for token, label in zip(tokens, matches.gt_label)]
        np.testing.assert_array_equal(matches.gt_center, np.reshape([own.translation for own in gt.all], (-1, 3)))
        np.testing.assert_array_equal(matches.num_gt, [
            [sum(own.detection_name == name for own in gt[token]) for name in NAMES] for token in gt.sample_tokens])
        score_of = {}
        for name in NAMES:
            with patch.object(algo, 'center_distance', wraps=center_distance) as error:
                algo.accumulate(gt, pred, name, center_distance, 2.0)
            score_of.update({id(call.args[0]): call.args[1].detection_score for call in error.call_args_list})
        np.testing.assert_array_equal(matches.gt_score, [score_of.get(id(own), math.nan) for own in gt.all])

    def test_real_loading(self, synthetic_nuscenes, tmp_path):
        """Evaluated from a results file by the devkit. One detection of each sample is beyond the devkit's range."""
        rng = np.random.default_rng(0)
        nusc = NuScenes('v1.0-mini', str(synthetic_nuscenes), verbose=False)
        results = {}
        for sample in nusc.sample:
            scene = nusc.get('scene', sample['scene_token'])['name']
            if scene in ('scene-0103', 'scene-0916'):  # mini_val
                results[sample['token']] = boxes = []
                for annotation in (nusc.get('sample_annotation', token) for token in sample['anns']):
                    name = category_to_detection_name(annotation['category_name'])
                    for _ in range(2 if name else 0):
                        center = np.array(annotation['translation']) + (rng.normal(0, 1, 3) if boxes else 200.0)
                        boxes.append(dict(
                            sample_token=sample['token'], translation=center.tolist(), size=annotation['size'],
                            rotation=annotation['rotation'], velocity=[0., 0.], detection_name=name,
                            detection_score=rng.integers(1, 10) / 10, attribute_name=''))
        path = tmp_path / 'results.json'
        path.write_text(json.dumps(dict(meta=dict(use_lidar=True), results=results)))
        evaluation = DetectionEval(nusc, config_factory('detection_cvpr_2019'), str(path), 'mini_val', str(tmp_path),
                                   verbose=False)
        metrics, _ = evaluation.evaluate()
        matches = match_detections(evaluation.gt_boxes, evaluation.pred_boxes)
        assert 0.05 < metrics.mean_ap < 0.95
        assert mean_ap(matches) == pytest.approx(metrics.mean_ap, abs=1e-12)
        expected = [[metrics.get_label_ap(name, d) for d in matches.distances] for name in matches.class_names]
        np.testing.assert_allclose(average_precisions(matches), expected, rtol=0, atol=1e-12)
        assert len(matches.score) == sum(len(boxes) - 1 for boxes in results.values())
        assert matches.num_gt.sum() == len(evaluation.gt_boxes.all)

        scene_of_sample = {sample['token']: nusc.get('scene', sample['scene_token'])['name'] for sample in nusc.sample}
        nothing = match_detections(evaluation.gt_boxes, eval_boxes({token: [] for token in evaluation.sample_tokens}))
        interval = paired_bootstrap([(matches, nothing)], scene_of_sample, rounds=50)
        assert interval.mean == pytest.approx(metrics.mean_ap, abs=1e-12) and interval.low > 0


ATTRIBUTES = ('vehicle.moving', 'vehicle.parked', '')
DEVKIT_ERRORS = ('trans_err', 'scale_err', 'orient_err', 'vel_err', 'attr_err')


def rich_boxes(seed, samples, ties, names):
    """As `random_boxes`, with sizes, headings, velocities, some of them unknown, and attributes, some missing."""
    rng = np.random.default_rng(seed)

    def rich(boxes):
        for own in boxes.all:
            angle = rng.uniform(-4, 4)
            own.size = tuple(rng.uniform(0.5, 3, 3))
            own.rotation = (math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2))
            own.velocity = tuple(rng.uniform(-1, 1, 2)) if rng.uniform() < 0.7 else (math.nan, math.nan)
            own.attribute_name = str(rng.choice(ATTRIBUTES))
        return boxes

    return tuple(rich(boxes) for boxes in random_boxes(seed, samples, ties, names))


def devkit_scores(gt_boxes, pred_boxes, names):
    """The devkit's own mAP, NDS and errors of these boxes, means over some classes."""
    evaluation = DetectionEval.__new__(DetectionEval)
    evaluation.cfg, evaluation.verbose = config_factory('detection_cvpr_2019'), False
    evaluation.cfg.class_names = list(names)
    evaluation.gt_boxes, evaluation.pred_boxes = gt_boxes, pred_boxes
    with np.errstate(all='ignore'):
        metrics = evaluation.evaluate()[0]
        return {'mAP': metrics.mean_ap, 'NDS': metrics.nd_score,
                **dict(zip(ERRORS, (metrics.tp_errors[name] for name in DEVKIT_ERRORS)))}


CLASS_CHOICES = st.sampled_from([NAMES, ('car', 'barrier', 'bus'), ('traffic_cone', ), ('barrier', 'traffic_cone')])


@pytest.mark.filterwarnings('ignore:Mean of empty slice')
class TestScores:

    @settings(max_examples=80)
    @given(st.integers(0, 2**31), st.integers(1, 6), st.booleans(), CLASS_CHOICES)
    def test_against_the_devkit(self, seed, samples, ties, names):
        gt, pred = rich_boxes(seed, samples, ties, names)
        matches = match_detections(gt, pred, class_names=names)
        found = weighted_scores(matches, np.ones((2, samples), dtype=int))
        for name, value in devkit_scores(gt, pred, names).items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-9, err_msg=name)

    @settings(max_examples=80)
    @given(st.integers(0, 2**31), st.lists(st.integers(0, 4), min_size=1, max_size=5), st.booleans(), CLASS_CHOICES)
    def test_weights_are_repeated_samples(self, seed, weights, ties, names):
        gt, pred = rich_boxes(seed, len(weights), ties, names)
        matches = match_detections(gt, pred, class_names=names)
        by_token = dict(zip(matches.sample_tokens.tolist(), weights))
        others = np.random.default_rng(seed).integers(0, 3, (3, len(weights)))
        found = weighted_scores(matches, np.concatenate([[weights], others]))
        for name, value in devkit_scores(repeated(gt, by_token), repeated(pred, by_token), names).items():
            np.testing.assert_allclose(found[name][0], value, rtol=0, atol=1e-9, err_msg=name)

    def test_errors_are_those_of_the_true_positives(self):
        """One of two cars found, at 1.2 m and a quarter turn; of the other classes there is nothing."""
        gt = eval_boxes({'a': [box('a', 'car', (0, 0)), box('a', 'car', (9, 9))]})
        pred = eval_boxes({'a': [box('a', 'car', (1.2, 0), 0.5), box('a', 'bus', (0, 0), 0.9)]})
        pred.all[0].rotation, pred.all[0].velocity = (math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)), (0.0, 0.25)
        matches = match_detections(gt, pred, class_names=['car', 'bus'])
        np.testing.assert_allclose(matches.errors, [[1.2, 0, math.pi / 2, 0.25, math.nan]])
        scores = weighted_scores(matches, np.array([[1]]))
        # A mean over both classes, of which the one without true positives has 1; no attribute anywhere is also 1.
        errors = np.array([1.2, 0, math.pi / 2, 0.25, 1])
        np.testing.assert_allclose([scores[name][0] for name in ERRORS], (errors + 1) / 2)

    def test_files_of_earlier_versions(self, tmp_path):
        matches = match_detections(*random_boxes(1, 4, True))
        dataclasses.replace(matches, errors=None).save(tmp_path / 'old.npz')
        old = DetectionMatches.load(tmp_path / 'old.npz')
        assert mean_ap(old) == mean_ap(matches) and old.errors is None
        with pytest.raises(ValueError, match='stored by an earlier version'):
            weighted_scores(old, np.ones((1, 4), dtype=int))

    def test_bootstrap(self):
        gt, pred = rich_boxes(3, 8, False, NAMES)
        matches = match_detections(gt, pred, class_names=NAMES)
        scene_of_sample = {token: f'scene {number % 3}' for number, token in enumerate(matches.sample_tokens.tolist())}
        scores = bootstrap_scores(matches, scene_of_sample, rounds=20, seed=5)
        assert scores['NDS'].shape == (21, )
        draws = np.random.default_rng(5).multinomial(3, np.full(3, 1 / 3), size=20)
        for row, draw in enumerate([np.ones(3, dtype=int), *draws]):
            weights = [int(draw[int(scene_of_sample[token][-1])]) for token in matches.sample_tokens.tolist()]
            expected = devkit_scores(*(repeated(boxes, dict(zip(matches.sample_tokens.tolist(), weights)))
                                       for boxes in (gt, pred)), NAMES)
            assert scores['NDS'][row] == pytest.approx(expected['NDS'], abs=1e-9)
        for name in scores:
            np.testing.assert_array_equal(scores[name], bootstrap_scores(matches, scene_of_sample, 20, 5)[name])


def test_recall():
    gt = eval_boxes({'a': [box('a', 'car', (x, 0)) for x in (0, 10, 20)], 'b': [box('b', 'bus', (0, 0))]})
    pred = eval_boxes({'a': [box('a', 'car', (1.5, 0), 0.5), box('a', 'car', (10, 0), 0.25),
                             box('a', 'bus', (20, 0), 0.9), box('a', 'car', (22, 0), 0.9)],  # 2 m is not below 2 m
                       'b': []})
    matches = match_detections(gt, pred, class_names=NAMES)
    np.testing.assert_array_equal(matches.gt_score, [0.5, 0.25, np.nan, np.nan])
    everything = np.ones(4, dtype=bool)
    assert [recall(matches, everything, score) for score in (0, 0.25, 0.3, 0.5, 0.6)] == [0.5, 0.5, 0.25, 0.25, 0]
    assert recall(matches, matches.gt_center[:, 0] == 0, 0.1) == 0.5
    assert recall(matches, matches.gt_label == 0, 0.1) == pytest.approx(2 / 3)
    assert math.isnan(recall(matches, ~everything, 0.1))
    for selected in (np.ones(3, dtype=bool), np.ones(4), [0, 1]):
        with pytest.raises(ValueError, match='selected must be 4 bools'):
            recall(matches, selected, 0.1)


def test_save_and_load(tmp_path):
    matches = match_detections(*random_boxes(1, 4, True))
    matches.save(tmp_path / 'new' / 'matches.npz')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['matches.npz']
    loaded = DetectionMatches.load(tmp_path / 'new' / 'matches.npz')
    for field in dataclasses.fields(DetectionMatches):
        before, after = getattr(matches, field.name), getattr(loaded, field.name)
        assert before.dtype == after.dtype and before.dtype.kind != 'O'
        np.testing.assert_array_equal(before, after)
    np.savez(tmp_path / 'other.npz', score=np.zeros(3))
    np.save(tmp_path / 'single.npy', np.zeros(3))
    for name in ('other.npz', 'single.npy'):
        with pytest.raises(ValueError, match=f'{name} must hold the arrays'):
            DetectionMatches.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        DetectionMatches.load(tmp_path / 'none.npz')


class TestErrors:

    def test_matching(self):
        gt, pred = random_boxes(1, 2, False)
        with pytest.raises(ValueError, match="same samples; only one of them has .'sample 1'"):
            match_detections(gt, eval_boxes({'sample 0': []}))
        with pytest.raises(ValueError, match=r'distances must include 2 m, got \[0.5, 1.0\]'):
            match_detections(gt, pred, distances=(0.5, 1))
        for names in (('car', 'car'), ()):
            with pytest.raises(ValueError, match='class_names must be different names'):
                match_detections(gt, pred, class_names=names)
        for boxes in ((eval_boxes({'a': [box('b', 'car', (0, 0))]}), eval_boxes({'a': []})),
                      (eval_boxes({'a': []}), eval_boxes({'a': [box('b', 'car', (0, 0), 0.5)]}))):
            with pytest.raises(ValueError, match="a box of sample 'b' is filed under sample 'a'"):
                match_detections(*boxes)

    @pytest.mark.parametrize('weights, message', [
        ([1], r'shape \(1,\)'), ([1, -1], 'minimum -1'), ([1.0, 2.0], 'got float64'), ([[1, 1]], r'shape \(1, 2\)')])
    def test_weights(self, weights, message):
        matches = match_detections(*random_boxes(1, 2, False))
        with pytest.raises(ValueError, match='weights must be 2 integers >= 0.*' + message):
            average_precisions(matches, weights)

    def test_bootstrap(self):
        gt, pred = random_boxes(1, 3, False)
        matches = match_detections(gt, pred)
        scenes = dict.fromkeys(matches.sample_tokens.tolist(), 'scene')
        with pytest.raises(ValueError, match='at least one pair'):
            paired_bootstrap([], scenes)
        with pytest.raises(ValueError, match='rounds must be at least 1, got 0'):
            paired_bootstrap([(matches, matches)], scenes, rounds=0)
        with pytest.raises(ValueError, match="it lacks 1: .'sample 2'"):
            paired_bootstrap([(matches, matches)], {token: scenes[token] for token in ('sample 0', 'sample 1')})
        fewer = match_detections(*(eval_boxes({token: boxes[token] for token in ('sample 0', 'sample 1')})
                                   for boxes in (gt, pred)))
        for pairs in ([(matches, fewer)], [(fewer, matches)], [(matches, matches), (fewer, fewer)]):
            with pytest.raises(ValueError, match='the same samples.*sample_tokens differ'):
                paired_bootstrap(pairs, scenes)
        for other, name in ((match_detections(gt, pred, class_names=NAMES), 'class_names'),
                            (match_detections(gt, pred, distances=(1, 2)), 'distances')):
            with pytest.raises(ValueError, match=f'; {name} differ'):
                paired_bootstrap([(matches, other)], scenes)

    @pytest.mark.parametrize('own, name', [
        ([('b', 'car', (0, 0))], 'gt_sample'), ([('a', 'bus', (0, 0))], 'gt_label'),
        ([('a', 'car', (1, 0))], 'gt_center'), ([], 'gt_sample')])
    def test_bootstrap_with_different_ground_truth(self, own, name):
        nothing = eval_boxes({'a': [], 'b': []})
        one, other = (match_detections(eval_boxes({token: [box(*value) for value in values if value[0] == token]
                                                   for token in 'ab'}), nothing)
                      for values in ([('a', 'car', (0, 0))], own))
        with pytest.raises(ValueError, match=f'ground truth, in the same order; {name} differ'):
            paired_bootstrap([(one, other)], dict(a='scene', b='scene'))


class TestBootstrap:

    @staticmethod
    def models(quality, samples=12, scenes=5):
        """Matches of models that find each object with a probability, on the same ground truth; sample -> scene.

        One scene has the only objects of a class, which every model finds.
        """
        rng = np.random.default_rng(0)
        tokens = [f'sample {i}' for i in range(samples)]
        gt = {token: [box(token, NAMES[i % 2], (10 * i, 0)) for i in range(rng.integers(2, 8))] for token in tokens}
        gt[tokens[0]].append(box(tokens[0], NAMES[2], (0, 50)))

        def model(share):
            pred = {token: [box(token, own.detection_name, (
                own.translation[0] + 20 * (own.detection_name != NAMES[2] and rng.uniform() > share),
                own.translation[1] + 0.1), rng.uniform(0.1, 1)) for own in gt[token]] for token in tokens}
            return match_detections(eval_boxes(gt), eval_boxes(pred), class_names=NAMES)

        return [model(share) for share in quality], {token: f'scene {i % scenes}' for i, token in enumerate(tokens)}

    @pytest.mark.parametrize('chunk', [1, 3, None])
    def test_against_a_plain_loop(self, monkeypatch, chunk):
        if chunk:
            monkeypatch.setattr(detection_matches, '_CHUNK', chunk)
        (a0, a1, b0, b1), scene_of_sample = self.models([0.7, 0.6, 0.4, 0.5])
        names = sorted(set(scene_of_sample.values()))
        scene_of_sample['another sample'] = 'another scene'
        draws = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=60)
        differences = []
        for draw in draws:
            weights = [draw[names.index(scene_of_sample[token])] for token in a0.sample_tokens]
            differences.append((mean_ap(a0, weights) - mean_ap(b0, weights)
                                + mean_ap(a1, weights) - mean_ap(b1, weights)) / 2)
        interval = paired_bootstrap([(a0, b0), (a1, b1)], scene_of_sample, rounds=60, seed=3)
        mean = (mean_ap(a0) - mean_ap(b0) + mean_ap(a1) - mean_ap(b1)) / 2
        assert interval == pytest.approx((mean, *np.percentile(differences, [2.5, 97.5])), abs=1e-12)
        assert interval._fields == ('mean', 'low', 'high') and interval.low < interval.mean < interval.high
        assert paired_bootstrap([(a0, b0), (a1, b1)], scene_of_sample, rounds=60, seed=4) != interval

    def test_identical_models(self):
        (a, b), scene_of_sample = self.models([0.7, 0.5])
        assert paired_bootstrap([(a, a), (b, b)], scene_of_sample, rounds=50) == (0, 0, 0)

    def test_a_model_that_is_better_in_every_scene(self):
        (better, worse), scene_of_sample = self.models([1.0, 0.5])
        for scene in set(scene_of_sample.values()):
            weights = [scene_of_sample[token] == scene for token in better.sample_tokens.tolist()]
            assert mean_ap(better, weights) > mean_ap(worse, weights)
        interval = paired_bootstrap([(better, worse)], scene_of_sample, rounds=200)
        assert 0 < interval.low < interval.mean < interval.high
        turned = paired_bootstrap([(worse, better)], scene_of_sample, rounds=200)
        assert turned == pytest.approx((-interval.mean, -interval.high, -interval.low))

    def test_equal_models_differ_by_chance(self):
        """Two models of equal quality: the interval holds 0; with more samples in as many scenes it shrinks."""
        widths = []
        for samples in (20, 320):
            (a, b), scene_of_sample = self.models([0.6, 0.6], samples, scenes=20)
            interval = paired_bootstrap([(a, b)], scene_of_sample, rounds=200)
            assert interval.low < 0 < interval.high
            widths.append(interval.high - interval.low)
        assert widths[1] < widths[0] / 2
