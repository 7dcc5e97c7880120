"""Tables and curves of precision from detections in a file."""
from mmdet3d.datasets import build_dataset

from ..evaluation.detection_matches import match_detections
from ..evaluation.nuscenes_evaluator import NuScenesEvaluator
from ..evaluation.precision_tables import precision_recall, precision_table
from .stored_results import load_results


def precision_of_results(cfg, path, trust_data=False):
    """AP by class, threshold and distance, and precision against recall.

    Args:
        cfg (mmcv.Config): from `load_config`; `cfg.data.test` must be the nuScenes samples that were tested.
        path (str): pickle file of `write_results`.
        trust_data (bool): see `load_results`.

    Returns:
        tuple[list[dict], dict]: see `precision_table` and `precision_recall`, the latter at 2 m.

    Raises:
        FileNotFoundError, ValueError: see `load_results` and `NuScenesEvaluator`; or no sample has a box to find.
    """
    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    boxes = NuScenesEvaluator(dataset).boxes(load_results(dataset, path, trust_data))
    if not boxes[0].all:
        raise ValueError(f'{dataset.ann_file}: no sample has a box of the classes {boxes[2]} within their ranges')
    return precision_table(*boxes), precision_recall(match_detections(*boxes))
