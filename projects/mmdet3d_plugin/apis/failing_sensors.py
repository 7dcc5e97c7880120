"""Test data on which a sensor fails or is silent."""
import copy
import inspect

from mmdet3d.datasets import build_dataset
from mmdet3d.datasets.pipelines import Collect3D, Compose

from ..datasets.pipelines import SimulateFailure
from ..datasets.sensor_failures import FAILURES, FailureCase
from ..datasets.sensor_failures.presets import PRESETS, expand_cases

MODALITIES = ('both', 'lidar', 'camera')
_SILENCED = dict(lidar='image', camera='points')
_SWEEPS = 'LoadPointsFromMultiSweeps'
_META_KEYS = inspect.signature(Collect3D).parameters['meta_keys'].default


def with_failure(cfg, case, seed=0, modality='both', digest=False):
    """A copy of a config whose `data.test` simulates a failure; its record reaches `img_metas` as 'failure'.

    `SimulateFailure` comes after the loaders. Where a case needs them, sweeps are loaded with their rings and samples
    with the boxes of the ground truth, which never reach the model.

    Args:
        cfg (mmcv.Config): from `load_config`.
        case (FailureCase | str): 'clean' also adds the record.
        seed (int): of the failure.
        modality (str): sensors that are left after the failure struck, see `with_modality`.
        digest (bool): also note the 'input_digest' of what the failure left in `img_metas`, see `DigestInputs`.

    Raises:
        ValueError: unknown case or modality; or the test pipeline does not start with loaders, already simulates a
            failure at its top level, loads no sweeps although the case needs rings, or does not end in `Collect3D`.
    """
    case = FailureCase.parse(case)
    steps = [dict(type='SimulateFailure', cases=str(case), seed=seed), *[dict(type='DigestInputs')] * digest,
             *_silencing(modality)]
    cfg, pipeline, loaders = _after_loaders(cfg, steps)
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
    collect['meta_keys'] = (*collect.get('meta_keys', _META_KEYS), 'failure', *['input_digest'] * digest)
    if 'boxes' in case.needs:
        cfg.data.test.load_failure_boxes = True
    return cfg


def case_datasets(cfg, cases, seed=0):
    """The test data of a config under one failure case after the other.

    The info file is read only once where it can be: use each dataset before asking for the next one.

    Args:
        cfg (mmcv.Config): from `load_config`.
        cases (Sequence[FailureCase | str]): what strikes.
        seed (int): of the failures.

    Yields:
        tuple[FailureCase, Dataset]

    Raises:
        ValueError: see `with_failure`; or the dataset has no samples.
    """
    dataset = None
    for case in map(FailureCase.parse, cases):
        test = with_failure(cfg, case, seed).data.test
        if dataset is None or test.get('load_failure_boxes', False) > dataset.load_failure_boxes:
            dataset = build_dataset(test, dict(test_mode=True))
        dataset.pipeline = Compose([dict(step, test_mode=True) if step['type'].startswith(_SWEEPS) else step
                                    for step in test.pipeline])  # as the dataset has it
        if not len(dataset):
            raise ValueError('data.test has no samples')
        yield case, dataset


def check_cases(cfg, cases, seed=0):
    """Let every case strike the first sample of `data.test`, so that what cannot work shows before a long test.

    Args:
        cfg, cases, seed: see `case_datasets`.

    Raises:
        ValueError: see `case_datasets`; or a case needs what the samples lack: a sensor, calibrations, rings, a camera.
        FileNotFoundError: see the dataset.
    """
    for case, dataset in case_datasets(cfg, cases, seed):
        try:
            struck_sample(dataset, 0)
        except ValueError as error:
            if f'case {str(case)!r}' in str(error):
                raise
            raise ValueError(f'case {str(case)!r}: {error}') from error


def every_case():
    """list[str]: the cases of all presets, every severity of every failure that has some, and an example of others."""
    graded = [f'{name}@{level}' for name, known in FAILURES.items() if not known.needs_argument
              for level in known.severities]
    cases = expand_cases([*PRESETS, *graded])
    kinds = {kind for case in cases for kind in FailureCase.parse(case).kinds}
    return [*cases, *(known.usage.split()[0] for name, known in FAILURES.items() if name not in kinds)]


def struck_sample(dataset, index):
    """A sample as its loaders and the failure leave it, before anything that suits it to a network.

    Args:
        dataset (CustomNuScenesDataset | FrameFolderDataset): whose pipeline simulates a failure, see `with_failure`.
        index (int): of the sample.

    Returns:
        dict: `points`, `img` (list of (H, W, 3) BGR), `lidar2img`, `failure` and whatever else the loaders give.
    """
    sample = dataset.get_data_info(index)
    dataset.pre_pipeline(sample)
    for transform in dataset.pipeline.transforms:
        sample = transform(sample)
        if isinstance(transform, SimulateFailure):
            return sample
    raise ValueError('the pipeline simulates no failure: make the dataset from a config of with_failure')


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
    return _after_loaders(cfg, _silencing(modality))[0]


def _silencing(modality):
    """Transforms that leave the sensors of a modality."""
    if modality not in MODALITIES:
        raise ValueError(f'modality must be one of {MODALITIES}, got {modality!r}')
    return [] if modality == 'both' else [dict(type='ModalMask3D', mode='test', mask_modal=_SILENCED[modality])]


def _after_loaders(cfg, transforms):
    """A copy of a config whose test pipeline has transforms more, where published training pipelines mask sensors:
    after the loaders, before anything else.

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
    if transforms:
        if not loaders:
            raise ValueError(f'data.test.pipeline must start with loaders (Load...), got {types}')
        pipeline[loaders:loaders] = transforms
        cfg.data.test.pipeline = pipeline
    return cfg, cfg.data.test.pipeline, loaders


def _last_transform(pipeline):
    """The last transform, wrappers (MultiScaleFlipAug3D) looked through."""
    last = pipeline[-1]
    return _last_transform(last['transforms']) if 'transforms' in last else last
