"""The nuScenes devkit's evaluation on the samples and classes that a dataset has."""
import copy
import os.path as osp

import mmcv
from mmcv.utils import print_log
from nuscenes import NuScenes
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt_of_sample_tokens
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.utils.splits import create_splits_scenes

from .true_positive_errors import undefined_errors

EVAL_SETS = {'v1.0-mini': 'mini_val', 'v1.0-trainval': 'val'}


def check_version(dataset):
    """Raise ValueError where the version of a dataset's info file is none of :data:`EVAL_SETS`, and say what helps."""
    if dataset.version in tuple(EVAL_SETS):
        return
    if dataset.version == 'v1.0-test':
        reason = 'which has no annotations to evaluate with'
        advice = 'test.py --format-only writes the files of a submission'
    else:
        reason = 'a metadata.version that the evaluation does not know'
        advice = ('If its samples are in tables of one of these, make it again with tools/create_data.py --version '
                  '(--splits for scenes of own names) or correct metadata.version in it; own tables go into a folder '
                  'of such a name')
    raise ValueError(f'info file {dataset.ann_file} is of {dataset.version}, {reason}; allowed: {list(EVAL_SETS)}. '
                     f'{advice}')


class DatasetEvaluation(DetectionEval):
    """The devkit's evaluation, which wants exactly a split and ten classes, for any samples and classes of a set.

    On a whole split and ten classes it is the devkit's. Means go over the classes of the dataset.

    Args:
        nusc (NuScenes): Tables.
        dataset (CustomNuScenesDataset): Says which samples and classes.
        result_path (str): Detections in nuScenes' form.
        output_dir (str): Folder for results.

    Raises:
        ValueError: for a version without annotations; samples that the tables lack, detections of other samples than
            the dataset's, or more of them in a sample than nuScenes allows.
    """

    def __init__(self, nusc, dataset, result_path, output_dir):
        check_version(dataset)
        self.nusc, self.result_path, self.output_dir = nusc, result_path, output_dir
        self.verbose, self.eval_set = False, EVAL_SETS[dataset.version]
        self.cfg = copy.copy(dataset.eval_detection_configs)
        self.every_class = list(self.cfg.class_range)
        self.cfg.class_range = {name: limit for name, limit in self.cfg.class_range.items() if name in dataset.CLASSES}
        self.cfg.class_names = list(self.cfg.class_range)
        if not self.cfg.class_names:
            raise ValueError(f'classes must have one of {self.every_class} to be evaluated, got '
                             f'{list(dataset.CLASSES)}')
        tokens = list(dict.fromkeys(info['token'] for info in dataset.data_infos))  # each once: its boxes count once
        known = {row['token'] for row in nusc.sample}
        unknown = [token for token in tokens if token not in known]
        if unknown:
            raise ValueError(f'{len(unknown)} of {len(tokens)} samples of {dataset.ann_file} are not in the tables '
                             f'{nusc.version} of {nusc.dataroot}, the first is {unknown[0]!r}')
        content = mmcv.load(result_path)
        self.meta = content['meta']
        self._check_results(content['results'], tokens)
        self.pred_boxes = self._evaluated(EvalBoxes.deserialize(content['results'], DetectionBox))
        self.gt_boxes = self._evaluated(load_gt_of_sample_tokens(nusc, tokens, DetectionBox, verbose=False))
        self.sample_tokens = self.gt_boxes.sample_tokens

    def _check_results(self, results, tokens):
        if set(results) != set(tokens):
            raise ValueError(f'{self.result_path} must have the {len(tokens)} samples of the dataset, it has '
                             f'{len(results)}')
        allowed = self.cfg.max_boxes_per_sample
        for token, boxes in results.items():
            if len(boxes) > allowed:
                raise ValueError(f'nuScenes allows {allowed} detections in a sample, sample {token!r} has {len(boxes)}'
                                 ': set max_num of the bbox_coder')

    def _evaluated(self, boxes):
        """The boxes of the classes that are evaluated, and of them those within the devkit's limits."""
        kept = EvalBoxes()
        for token in boxes.sample_tokens:
            kept.add_boxes(token, [box for box in boxes[token] if box.detection_name in self.cfg.class_range])
        if not kept.all:
            return kept  # the devkit's filter raises where there is no box at all
        return filter_eval_boxes(self.nusc, add_center_dist(self.nusc, kept), self.cfg.class_range)

    @property
    def restriction(self):
        """str: what was evaluated, if that is not nuScenes' split and ten classes; else ''."""
        scenes = set(create_splits_scenes()[self.eval_set])
        split = {row['token'] for row in self.nusc.sample
                 if self.nusc.get('scene', row['scene_token'])['name'] in scenes}
        parts = []
        if set(self.sample_tokens) != split:
            parts.append(f'{len(self.sample_tokens)} samples, not the {len(split)} of {self.eval_set}')
        if len(self.cfg.class_names) < len(self.every_class):
            parts.append(f'{len(self.cfg.class_names)} of {len(self.every_class)} classes, over which the means go: '
                         f'{self.cfg.class_names}{self._undefined()}')
        return f'evaluated on {" and on ".join(parts)}; other results do not compare' if parts else ''

    def _undefined(self):
        """Words on the errors that the devkit defines for no class that is evaluated."""
        missing = undefined_errors(self.cfg.class_names)
        return f' (none of them has {", ".join(missing)}: NDS counts them as 1)' if missing else ''


def devkit_metrics(dataset, result_path, result_name='pts_bbox', logger=None):
    """Evaluate a file of detections on the samples and classes of a dataset.

    The devkit raises where no sample has any detection; a model at the start of its training may well be there. By
    definition both scores are then 0.

    Args:
        dataset (CustomNuScenesDataset): Validation samples.
        result_path (str): Detections in nuScenes' form; the devkit's summary is written beside it.
        result_name (str): First part of the metrics' names.
        logger (logging.Logger | str | None): Where it is said if not the whole split or not all classes are evaluated.

    Returns:
        dict[str, float]: as `mmdet3d.datasets.NuScenesDataset` gives them.
    """
    prefix = f'{result_name}_NuScenes'
    folder = osp.dirname(result_path)
    nusc = NuScenes(dataset.version, dataset.data_root, verbose=False)
    evaluation = DatasetEvaluation(nusc, dataset, result_path, folder)
    if evaluation.restriction:
        print_log(evaluation.restriction, logger)
    if not any(mmcv.load(result_path)['results'].values()):
        return {f'{prefix}/{score}': 0.0 for score in ('NDS', 'mAP')}
    summary = evaluation.main(render_curves=False)
    detail = {}
    for name in evaluation.cfg.class_names:
        for distance, ap in summary['label_aps'][name].items():
            detail[f'{prefix}/{name}_AP_dist_{distance}'] = round(float(ap), 4)
        for error, value in summary['label_tp_errors'][name].items():
            detail[f'{prefix}/{name}_{error}'] = round(float(value), 4)
    for error, value in summary['tp_errors'].items():
        detail[f'{prefix}/{dataset.ErrNameMapping[error]}'] = round(float(value), 4)
    return {**detail, f'{prefix}/NDS': summary['nd_score'], f'{prefix}/mAP': summary['mean_ap']}
