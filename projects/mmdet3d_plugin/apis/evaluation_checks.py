"""What an evaluation needs, checked before the first sample: a test may take hours until the dataset would refuse."""
import inspect
import json
from pathlib import Path

from mmdet3d.datasets import NuScenesDataset
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.utils.splits import create_splits_scenes

from ..datasets import CustomNuScenesDataset, FrameFolderDataset
from ..evaluation.devkit_evaluation import EVAL_SETS, check_version

# Metrics that an evaluation gives whatever it finds: nuScenes' others are absent where nothing is detected.
_NUSCENES_SCORES = ('NDS', 'mAP')
_FRAME_SCORES = ('recall', 'mean_center_error', 'num_gt', 'num_detections')


def check_arguments(dataset, method, arguments):
    """Raise ValueError where a method of a dataset would refuse its arguments: before the detections, not after hours.

    Args:
        dataset (Dataset): what evaluates or formats.
        method (str): 'evaluate' or 'format_results'.
        arguments (dict): all but the detections; `metric` is checked where the dataset is known to have but one.
    """
    name = f'{type(dataset).__name__}.{method}'
    try:
        inspect.signature(getattr(dataset, method)).bind(None, **arguments)
    except TypeError as error:
        raise ValueError(f'{name} does not take {arguments} (from evaluation in the config and from --eval-options): '
                         f'{error}') from error
    metric = arguments.get('metric', 'bbox')
    if isinstance(dataset, (NuScenesDataset, FrameFolderDataset)) and metric not in ('bbox', ['bbox']):
        raise ValueError(f"{name}: metric must be 'bbox', got {metric!r}")


def check_evaluation(dataset):
    """Check that a dataset can evaluate its samples; other datasets than nuScenes' pass.

    Only two small tables are read. Fewer samples or classes than nuScenes' are evaluated as they are.

    Returns:
        str: what the evaluation leaves out, empty where it is nuScenes' own.

    Raises:
        FileNotFoundError: no tables of the dataset's version.
        ValueError: a version without annotations, unknown classes, samples that the tables lack, or a dataset class
            that evaluates nothing but whole splits.
    """
    if not isinstance(dataset, NuScenesDataset):
        return ''
    check_version(dataset)
    unknown = [name for name in dataset.CLASSES if name not in DETECTION_NAMES]
    if unknown:
        raise ValueError(f'nuScenes has no annotations of the classes {unknown}; allowed: {DETECTION_NAMES}')
    known, split = _sample_tokens(dataset)
    own = {info['token'] for info in dataset.data_infos}
    if own - known:
        raise ValueError(f'{len(own - known)} of {len(own)} samples in {dataset.ann_file} are not in the tables of '
                         f'{dataset.version} in data_root={dataset.data_root!r}')
    left_out = [f'{len(own)} samples, not the {len(split)} of {EVAL_SETS[dataset.version]}'] if own != split else []
    if len(dataset.CLASSES) < len(DETECTION_NAMES):
        left_out.append(f'{len(dataset.CLASSES)} of {len(DETECTION_NAMES)} classes')
    if left_out and not isinstance(dataset, CustomNuScenesDataset):
        raise ValueError(f'{" and ".join(left_out)}: {type(dataset).__name__} evaluates whole splits with all classes, '
                         f'{CustomNuScenesDataset.__name__} also parts of them')
    return ' and '.join(left_out)


def _sample_tokens(dataset):
    """Tokens of all samples in the tables of a dataset's version, and of those in the split that is evaluated."""
    folder = Path(dataset.data_root) / dataset.version
    missing = [name for name in ('scene.json', 'sample.json') if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f'{folder} lacks {", ".join(missing)}: the evaluation reads the tables of '
                                f'{dataset.version} in data_root={dataset.data_root!r}')
    scenes, samples = (json.loads((folder / name).read_text()) for name in ('scene.json', 'sample.json'))
    names = set(create_splits_scenes()[EVAL_SETS[dataset.version]])
    inside = {scene['token'] for scene in scenes if scene['name'] in names}
    return ({sample['token'] for sample in samples},
            {sample['token'] for sample in samples if sample['scene_token'] in inside})


def check_box_limit(dataset, most_boxes, origin):
    """Raise ValueError where a sample may have more boxes than nuScenes' evaluation and its test server accept.

    Args:
        dataset (Dataset): other datasets than nuScenes' have no limit.
        most_boxes (int | None): boxes of one sample, None where unknown.
        origin (str): what has them, for the message.
    """
    limit = dataset.eval_detection_configs.max_boxes_per_sample if isinstance(dataset, NuScenesDataset) else None
    if limit is not None and most_boxes is not None and most_boxes > limit:
        raise ValueError(f'{origin} is {most_boxes}, but nuScenes accepts at most {limit} boxes a sample')


def check_best_metric(dataset, save_best, result_names=('pts_bbox', )):
    """Raise ValueError where no evaluation will give the metric by which the best checkpoint is chosen.

    Args:
        dataset (Dataset): what evaluates; of datasets of unknown classes the metrics are unknown.
        save_best (str | None): `evaluation.save_best`.
        result_names (Sequence[str]): see `NuScenesDataset.evaluate`.
    """
    allowed = None
    if isinstance(dataset, NuScenesDataset):
        allowed = [f'{name}_NuScenes/{score}' for name in result_names for score in _NUSCENES_SCORES]
    elif isinstance(dataset, FrameFolderDataset):
        allowed = list(_FRAME_SCORES)
    if save_best is not None and allowed is not None and save_best not in allowed:
        raise ValueError(f'evaluation.save_best={save_best!r}: allowed with {type(dataset).__name__}: {allowed}')
