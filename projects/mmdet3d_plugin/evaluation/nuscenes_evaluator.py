"""nuScenes evaluation by the devkit, of many results on one set whose tables are loaded only once."""
import contextlib
import io
import tempfile
from pathlib import Path

from mmcv.utils import print_log
from nuscenes import NuScenes

from .detection_matches import match_detections
from .devkit_evaluation import DatasetEvaluation, check_version
from .nuscenes_scores import CLASSES

_PREFIX = 'pts_bbox_NuScenes'


class NuScenesEvaluator:
    """The devkit's evaluation on the samples and classes of a dataset, and the matches behind its AP.

    It says once if these are not all of nuScenes' split and its ten classes.

    Args:
        dataset (CustomNuScenesDataset): validation samples of a set with annotations.

    Raises:
        ValueError: for a version without annotations of its validation scenes.
    """

    def __init__(self, dataset):
        check_version(dataset)
        self.dataset = dataset
        self.nusc = NuScenes(dataset.version, dataset.data_root, verbose=False)
        self._said = set()

    @property
    def scene_of_sample(self):
        """dict[str, str]: name of the scene of each sample token."""
        return {row['token']: self.nusc.get('scene', row['scene_token'])['name'] for row in self.nusc.sample}

    def evaluate(self, detections):
        """Score the detections of all samples.

        Args:
            detections (list[dict]): one per sample, in the dataset's order, as the detector returns them.

        Returns:
            tuple[dict, DetectionMatches]: metrics under the names of `CustomNuScenesDataset.evaluate`, not rounded, and
            the matches.
        """
        with tempfile.TemporaryDirectory() as folder:
            evaluation, classes = self._evaluation(detections, folder)
            matches = match_detections(evaluation.gt_boxes, evaluation.pred_boxes, classes)
            if not any(len(result['pts_bbox']['boxes_3d']) for result in detections):
                return {f'{_PREFIX}/{score}': 0.0 for score in ('NDS', 'mAP')}, matches  # the devkit would raise
            summary = evaluation.evaluate()[0].serialize()
        metrics = {f'{_PREFIX}/NDS': summary['nd_score'], f'{_PREFIX}/mAP': summary['mean_ap']}
        for name, aps in summary['label_aps'].items():
            metrics.update({f'{_PREFIX}/{name}_AP_dist_{distance}': ap for distance, ap in aps.items()})
        for error, value in summary['tp_errors'].items():
            metrics[f'{_PREFIX}/{self.dataset.ErrNameMapping[error]}'] = value
        return metrics, matches

    def boxes(self, detections):
        """Ground truth and detections as the devkit evaluates them.

        Args:
            detections (list[dict]): see `evaluate`.

        Returns:
            tuple[EvalBoxes, EvalBoxes, list[str]]: ground truth, detections, names of the classes that are evaluated.
        """
        with tempfile.TemporaryDirectory() as folder:
            evaluation, classes = self._evaluation(detections, folder)
            return evaluation.gt_boxes, evaluation.pred_boxes, classes

    def _evaluation(self, detections, folder):
        """The DatasetEvaluation of detections, whose files lie in a folder, and the classes in our order."""
        with contextlib.redirect_stdout(io.StringIO()):  # a progress bar and file names
            files, _ = self.dataset.format_results(detections, str(Path(folder) / 'results'))
            evaluation = DatasetEvaluation(self.nusc, self.dataset, files['pts_bbox'], folder)
        if evaluation.restriction not in ('', *self._said):
            self._said.add(evaluation.restriction)
            print_log(evaluation.restriction)
        return evaluation, [name for name in CLASSES if name in evaluation.cfg.class_names]
