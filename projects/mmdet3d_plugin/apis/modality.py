"""Test data with one sensor silenced."""
import copy

MODALITIES = ('both', 'lidar', 'camera')
_SILENCED = dict(lidar='image', camera='points')


def with_modality(cfg, modality):
    """A copy of a config that tests with LiDAR alone, cameras alone, or unchanged with both.

    `ModalMask3D` does it where the published training pipelines have it: after the loaders, before images are
    normalised. Silenced images are zero; silenced points all lie at the origin.

    Args:
        cfg (mmcv.Config): from `load_config`.
        modality (str): one of `MODALITIES`.

    Raises:
        ValueError: unknown modality; or the test pipeline does not start with loaders, or already silences a sensor.
    """
    if modality not in MODALITIES:
        raise ValueError(f'modality must be one of {MODALITIES}, got {modality!r}')
    cfg = copy.deepcopy(cfg)
    pipeline = list(cfg.data.test.pipeline)
    types = [transform['type'] for transform in pipeline]
    if 'ModalMask3D' in types:
        raise ValueError(f'data.test.pipeline already silences a sensor: {types}')
    if modality != 'both':
        loaders = next((i for i, name in enumerate(types) if not name.startswith('Load')), len(types))
        if not loaders:
            raise ValueError(f'data.test.pipeline must start with loaders (Load...), got {types}')
        pipeline.insert(loaders, dict(type='ModalMask3D', mode='test', mask_modal=_SILENCED[modality]))
        cfg.data.test.pipeline = pipeline
    return cfg
