"""Detections on frames given as files, their summary and their written form."""
import json
import time

import mmcv
import numpy as np
import torch
from mmcv.parallel import collate
from mmdet3d.datasets import build_dataset

from ..core.bbox.detection_records import detection_records
from ..datasets import FrameFolderDataset
from ..datasets.frame_folder_dataset import ORIGIN
from ..utils.atomic_file import atomic_path
from .distributed import wrap_model


def build_frame_dataset(cfg, frame_dir):
    """Frames in a folder, read by the test pipeline and with the classes of a config.

    Args:
        cfg (mmcv.Config): from `load_config`.
        frame_dir (str): folder in the form that `FrameFolderDataset` reads.

    Returns:
        FrameFolderDataset: in test mode, with ground truth where the folder has it.
    """
    test = cfg.data.test
    return build_dataset(dict(
        type='FrameFolderDataset', data_root=frame_dir, pipeline=test.pipeline, classes=test.classes, test_mode=True,
        load_failure_boxes=test.get('load_failure_boxes', False)))


def use_frame(cfg, frame_dir, parts):
    """Let the frame data sets of a config, which may name no folder, read one.

    Args:
        cfg (mmcv.Config): from `load_config`; changed.
        frame_dir (str | None): folder in the form that `FrameFolderDataset` reads; None keeps those of the config.
        parts (Sequence[str]): of `cfg.data` that will be used.

    Raises:
        ValueError: None, and a part has a frame data set without a folder; or a folder, and a part has no such set.
    """
    settings = {part: dict(_frame_settings(cfg.data.get(part), f'data.{part}')) for part in ('train', 'val', 'test')}
    if frame_dir is None:
        missing = [f'{name}.data_root' for part in parts for name, one in settings[part].items()
                   if not one.get('data_root')]
        if missing:
            raise ValueError(f'{cfg.filename} reads frames from a folder and names none: give it as --frame DIR '
                             f'(or set {", ".join(missing)}). {ORIGIN}')
        return
    other = [f'data.{part}' for part in parts if not settings[part]]
    if other:
        raise ValueError(f'--frame is for configs whose data sets are FrameFolderDataset; {", ".join(other)} of '
                         f'{cfg.filename} has none')
    for found in settings.values():
        for one in found.values():
            one['data_root'] = frame_dir


def _frame_settings(setting, name):
    """Names and settings of the frame data sets within a setting."""
    if isinstance(setting, dict):
        if setting.get('type') == FrameFolderDataset.__name__:
            yield name, setting
        for key, child in setting.items():
            yield from _frame_settings(child, f'{name}.{key}')
    elif isinstance(setting, (list, tuple)):
        for number, child in enumerate(setting):
            yield from _frame_settings(child, f'{name}.{number}')


def ground_truth(dataset, index):
    """Boxes of a sample (LiDARInstance3DBoxes) of nuScenes or a frame folder, None where it has no annotations."""
    if isinstance(dataset, FrameFolderDataset):
        annotated = dataset.has_ground_truth(index)
    else:
        annotated = 'gt_boxes' in dataset.data_infos[index]
    return dataset.get_ann_info(index)['gt_bboxes_3d'] if annotated else None


def camera_names(dataset, index):
    """Names of the cameras of a sample, in the order of its images."""
    return list(dataset.data_infos[index]['images' if isinstance(dataset, FrameFolderDataset) else 'cams'])


def input_images(img, meta):
    """What the network sees, as pictures.

    Args:
        img (Tensor): (V, 3, H, W) normalized images.
        meta (dict): of the sample, with `img_norm_cfg`.

    Returns:
        list[ndarray]: V images (H, W, 3), RGB, uint8.

    Raises:
        ValueError: the meta does not say how the images were normalized.
    """
    norm = meta.get('img_norm_cfg')
    if norm is None:
        raise ValueError("img_metas lack 'img_norm_cfg', which says how images were normalized: it must be among the "
                         'meta_keys of Collect3D')
    images = []
    for view in img.permute(0, 2, 3, 1).cpu().numpy():
        view = mmcv.imdenormalize(np.ascontiguousarray(view), norm['mean'], norm['std'], to_bgr=norm['to_rgb'])
        images.append(np.rint(view[..., ::-1]).clip(0, 255).astype(np.uint8))
    return images


def detect(model, dataset):
    """Run a detector over a dataset, one sample at a time, on CUDA where there is a GPU, otherwise on CPU.

    Args:
        model (nn.Module): detector in evaluation mode.
        dataset (Dataset): in test mode; a `torch.utils.data.Subset` of one will do.

    Yields:
        tuple[dict, dict, float]: a sample; its detections (`boxes_3d`, `scores_3d`, `labels_3d`, on CPU); the seconds
        that the model took, without loading the sample.
    """
    model = wrap_model(model)
    for index in range(len(dataset)):
        sample = dataset[index]
        batch = collate([sample], samples_per_gpu=1)
        start = time.perf_counter()
        with torch.no_grad():
            result, = model(return_loss=False, rescale=True, **batch)  # results are on CPU: the GPU has finished
        yield sample, result.get('pts_bbox', result), time.perf_counter() - start


def above_threshold(detections, score_thr):
    """The detections with a score of at least `score_thr`, highest first."""
    order = detections['scores_3d'].argsort(descending=True)
    order = order[detections['scores_3d'][order] >= score_thr]
    return {key: value[order] for key, value in detections.items() if key in ('boxes_3d', 'scores_3d', 'labels_3d')}


def write_detections(path, detections, classes, **header):
    """Write detections as JSON.

    Args:
        path (str): file to write.
        detections, classes: see `detection_records`.
        **header: further entries of the file.
    """
    content = {**header, 'detections': detection_records(detections, classes)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False))
