import copy

import pytest

from projects.mmdet3d_plugin.apis import load_config
from projects.mmdet3d_plugin.apis.failing_sensors import with_modality

CONFIGS = ['cmt_voxel0100_r50_800x320_cbgs.py', 'cmt_voxel0075_vov_1600x640_cbgs.py', 'cmt_aqr_real_frame.py']


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('modality, masked', [('lidar', 'image'), ('camera', 'points')])
def test_the_mask_stands_after_the_loaders_before_all_else(repo_root, name, modality, masked):
    cfg = load_config(repo_root / 'configs' / name)
    before = copy.deepcopy(cfg)
    result = with_modality(cfg, modality)
    loaders, rest = cfg.data.test.pipeline[:3], cfg.data.test.pipeline[3:]
    mask = dict(type='ModalMask3D', mode='test', mask_modal=masked)
    assert result.data.test.pipeline == [*loaders, mask, *rest]
    assert rest[0].type == 'MultiScaleFlipAug3D' and {loader.type[:4] for loader in loaders} == {'Load'}
    assert cfg._cfg_dict == before._cfg_dict
    assert with_modality(cfg, 'both')._cfg_dict == before._cfg_dict


def test_mistakes(repo_root):
    cfg = load_config(repo_root / 'configs' / CONFIGS[0])
    with pytest.raises(ValueError, match=r"one of \('both', 'lidar', 'camera'\), got 'radar'"):
        with_modality(cfg, 'radar')
    masked = with_modality(cfg, 'lidar')
    for modality in ('both', 'camera'):
        with pytest.raises(ValueError, match='already silences a sensor'):
            with_modality(masked, modality)
    cfg.data.test.pipeline = cfg.data.test.pipeline[3:]
    with pytest.raises(ValueError, match=r'must start with loaders \(Load...\), got'):
        with_modality(cfg, 'lidar')
