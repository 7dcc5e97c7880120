"""nuScenes evaluation by the devkit, of many results on one set whose tables are loaded only once."""
import contextlib
import io
import tempfile
from pathlib import Path

from nuscenes import NuScenes
from nuscenes.eval.detection.evaluate import DetectionEval

from .detection_matches import match_detections

_EVAL_SETS = {'v1.0-mini': 'mini_val', 'v1.0-trainval': 'val'}
_PREFIX = 'pts_bbox_NuScenes'


class NuScenesEvaluator:
    """The devkit's `DetectionEval`, and the matches behind its AP.

    Args:
        dataset (CustomNuScenesDataset): validation samples of a set with annotations.

    Raises:
        ValueError: for a version without annotations of its validation scenes.
    """

    def __init__(self, dataset):
        if dataset.version not in _EVAL_SETS:
            raise ValueError(f'version must be one of {list(_EVAL_SETS)}, got {dataset.version!r}')
        self.dataset = dataset
        self.nusc = NuScenes(dataset.version, dataset.data_root, verbose=False)

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
            with contextlib.redirect_stdout(io.StringIO()):  # a progress bar and file names
                files, _ = self.dataset.format_results(detections, str(Path(folder) / 'results'))
                evaluation = DetectionEval(
                    self.nusc, self.dataset.eval_detection_configs, files['pts_bbox'],
                    _EVAL_SETS[self.dataset.version], output_dir=folder, verbose=False)
            matches = match_detections(evaluation.gt_boxes, evaluation.pred_boxes)
            if not any(len(result['pts_bbox']['boxes_3d']) for result in detections):
                return {f'{_PREFIX}/{score}': 0.0 for score in ('NDS', 'mAP')}, matches  # the devkit would raise
            summary = evaluation.evaluate()[0].serialize()
        metrics = {f'{_PREFIX}/NDS': summary['nd_score'], f'{_PREFIX}/mAP': summary['mean_ap']}
        for name, aps in summary['label_aps'].items():
            metrics.update({f'{_PREFIX}/{name}_AP_dist_{distance}': ap for distance, ap in aps.items()})
        for error, value in summary['tp_errors'].items():
            metrics[f'{_PREFIX}/{self.dataset.ErrNameMapping[error]}'] = value
        return metrics, matches
