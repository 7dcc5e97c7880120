"""Test data on which a simulated sensor failure strikes."""
import copy
import inspect

from mmdet3d.datasets.pipelines import Collect3D

from ..datasets.sensor_failures import needs_boxes, needs_rings, parse_case

_SWEEPS = 'LoadPointsFromMultiSweeps'
_META_KEYS = inspect.signature(Collect3D).parameters['meta_keys'].default


def with_failure(cfg, case, seed=0):
    """A copy of a config whose `data.test` simulates a failure; its record reaches `img_metas` as 'failure'.

    `SimulateFailure` comes after the loaders. Where a case needs them, sweeps are loaded with their rings and samples
    with the boxes of the ground truth, which never reach the model.

    Args:
        cfg (mmcv.Config): from `load_config`.
        case (str): see `parse_case`; 'clean' also adds the record.
        seed (int): of the failure.

    Raises:
        ValueError: unknown case; or the test pipeline does not start with loaders, already simulates a failure at its
            top level, loads no sweeps although the case needs rings, or does not end in `Collect3D`.
    """
    parse_case(case)
    cfg = copy.deepcopy(cfg)
    pipeline = list(cfg.data.test.pipeline)
    types = [transform['type'] for transform in pipeline]
    for name in ('ModalMask3D', 'SimulateFailure'):
        if name in types:
            raise ValueError(f'data.test.pipeline already simulates a failure ({name}): {types}')
    loaders = next((i for i, name in enumerate(types) if not name.startswith('Load')), len(types))
    if not loaders:
        raise ValueError(f'data.test.pipeline must start with loaders (Load...), got {types}')
    if needs_rings(case):
        if not {_SWEEPS, f'{_SWEEPS}WithRings'} & set(types[:loaders]):
            raise ValueError(f'case {case!r} needs rings, which come with {_SWEEPS}; data.test.pipeline has {types}')
        for transform in pipeline[:loaders]:
            if transform['type'] == _SWEEPS:
                transform['type'] = f'{_SWEEPS}WithRings'
    pipeline.insert(loaders, dict(type='SimulateFailure', cases=case, seed=seed))
    collect = _last_transform(pipeline)
    if collect['type'] != 'Collect3D':
        raise ValueError(f'data.test.pipeline must end in Collect3D, got {collect["type"]}')
    collect['meta_keys'] = (*collect.get('meta_keys', _META_KEYS), 'failure')
    cfg.data.test.pipeline = pipeline
    if needs_boxes(case):
        cfg.data.test.load_failure_boxes = True
    return cfg


def _last_transform(pipeline):
    """The last transform, wrappers (MultiScaleFlipAug3D) looked through."""
    last = pipeline[-1]
    return _last_transform(last['transforms']) if 'transforms' in last else last
