import cv2
import numpy as np
import pytest


@pytest.fixture(scope='module')
def browse(run_tool, repo_root, synthetic_nuscenes):
    """Run the tool on the generated set; returns what it printed."""

    def run(*arguments, options=(), code=0):
        data = [f'data.train.data_root={synthetic_nuscenes}/',
                f'data.train.ann_file={synthetic_nuscenes / "nuscenes_infos_train.pkl"}', *options]
        return run_tool('browse_dataset.py', repo_root / 'configs/cmt_synthetic.py', *arguments, '--cfg-options',
                        *data, cwd=repo_root, code=code)

    return run


def test_pictures_repeat_with_the_seed(browse, tmp_path):
    browse('--samples', 0, 3, '--out', tmp_path / 'a')
    text = browse('--samples', 3, '--out', tmp_path / 'b')
    other = browse('--samples', 3, '--seed', 1, '--out', tmp_path / 'c')
    assert f'wrote {tmp_path / "b/sample_3.png"}' in text and 'sample_3.png' in other
    first, again, augmented = (cv2.imread(str(tmp_path / folder / 'sample_3.png')) for folder in 'abc')
    assert np.array_equal(first, again) and not (first.shape == augmented.shape and np.array_equal(first, augmented))
    assert (tmp_path / 'a/sample_0.png').is_file() and (first != 255).any(axis=2).mean() > 0.2


def test_a_sample_that_is_not_there(browse, tmp_path):
    text = browse('--samples', 0, 1000, '--out', tmp_path, code=2)
    assert 'argument --samples: data.train has samples 0 to ' in text and 'got [1000]' in text
    assert not list(tmp_path.iterdir())


def test_images_without_their_normalization(browse, tmp_path):
    keys = 'data.train.pipeline.15.meta_keys=lidar2img,box_type_3d'
    assert "img_metas lack 'img_norm_cfg'" in browse('--out', tmp_path, options=[keys], code=None)
