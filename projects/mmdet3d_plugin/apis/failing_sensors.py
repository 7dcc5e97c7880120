"""Test data on which a sensor fails or is silent."""
import copy
import inspect

from mmdet3d.datasets.pipelines import Collect3D

from ..datasets.sensor_failures import FailureCase

MODALITIES = ('both', 'lidar', 'camera')
_SILENCED = dict(lidar='image', camera='points')
_SWEEPS = 'LoadPointsFromMultiSweeps'
_META_KEYS = inspect.signature(Collect3D).parameters['meta_keys'].default


def with_failure(cfg, case, seed=0):
    """A copy of a config whose `data.test` simulates a failure; its record reaches `img_metas` as 'failure'.

    `SimulateFailure` comes after the loaders. Where a case needs them, sweeps are loaded with their rings and samples
    with the boxes of the ground truth, which never reach the model.

    Args:
        cfg (mmcv.Config): from `load_config`.
        case (FailureCase | str): 'clean' also adds the record.
        seed (int): of the failure.

    Raises:
        ValueError: unknown case; or the test pipeline does not start with loaders, already simulates a failure at its
            top level, loads no sweeps although the case needs rings, or does not end in `Collect3D`.
    """
    case = FailureCase.parse(case)
    cfg, pipeline, loaders = _after_loaders(cfg, dict(type='SimulateFailure', cases=str(case), seed=seed))
    if 'rings' in case.needs:
        types = [transform['type'] for transform in pipeline]
        if not {_SWEEPS, f'{_SWEEPS}WithRings'} & set(types[:loaders]):
            raise ValueError(f"case '{case}' needs rings, which come with {_SWEEPS}; data.test.pipeline has {types}")
        for transform in pipeline[:loaders]:
            if transform['type'] == _SWEEPS:
                transform['type'] = f'{_SWEEPS}WithRings'
    collect = _last_transform(pipeline)
    if collect['type'] != 'Collect3D':
        raise ValueError(f'data.test.pipeline must end in Collect3D, got {collect["type"]}')
    collect['meta_keys'] = (*collect.get('meta_keys', _META_KEYS), 'failure')
    if 'boxes' in case.needs:
        cfg.data.test.load_failure_boxes = True
    return cfg


def with_modality(cfg, modality):
    """A copy of a config that tests with LiDAR alone, cameras alone, or unchanged with both, as CMT silences sensors.

    `ModalMask3D` does it: silenced images are zero; silenced points all lie at the origin. (The failure 'lidar_drop'
    is another one: there are no points then.)

    Args:
        cfg (mmcv.Config): from `load_config`.
        modality (str): one of `MODALITIES`.

    Raises:
        ValueError: unknown modality; or the test pipeline does not start with loaders, or already silences a sensor.
    """
    if modality not in MODALITIES:
        raise ValueError(f'modality must be one of {MODALITIES}, got {modality!r}')
    mask = None if modality == 'both' else dict(type='ModalMask3D', mode='test', mask_modal=_SILENCED[modality])
    return _after_loaders(cfg, mask)[0]


def _after_loaders(cfg, transform):
    """A copy of a config whose test pipeline has a transform more, where published training pipelines mask sensors:
    after the loaders, before anything else. None adds nothing.

    Returns:
        tuple[mmcv.Config, list, int]: the config, its test pipeline, and the number of its loaders.
    """
    cfg = copy.deepcopy(cfg)
    pipeline = list(cfg.data.test.pipeline)
    types = [step['type'] for step in pipeline]
    for name in ('ModalMask3D', 'SimulateFailure'):
        if name in types:
            raise ValueError(f'data.test.pipeline already silences a sensor or simulates a failure ({name}): {types}')
    loaders = next((i for i, name in enumerate(types) if not name.startswith('Load')), len(types))
    if transform is not None:
        if not loaders:
            raise ValueError(f'data.test.pipeline must start with loaders (Load...), got {types}')
        pipeline.insert(loaders, transform)
        cfg.data.test.pipeline = pipeline
    return cfg, cfg.data.test.pipeline, loaders


def _last_transform(pipeline):
    """The last transform, wrappers (MultiScaleFlipAug3D) looked through."""
    last = pipeline[-1]
    return _last_transform(last['transforms']) if 'transforms' in last else last
