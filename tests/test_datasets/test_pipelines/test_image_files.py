import cv2
import numpy as np
import pytest
from mmcv.utils import build_from_cfg
from mmdet3d.datasets.builder import PIPELINES as LOADERS
from mmdet3d.utils import get_root_logger

from projects.mmdet3d_plugin.datasets.pipelines import ResizeCropFlipImage

CONF = dict(H=90, W=160, final_dim=(32, 80), resize_lim=(0.5, 0.5), bot_pct_lim=(0, 0), rot_lim=(0, 0), rand_flip=False)


def picture(height=90, width=160, channels=3):
    return np.random.RandomState(0).randint(0, 255, (height, width, channels), dtype=np.uint8)


def load(*paths, **kwargs):
    return build_from_cfg(dict(type='LoadMultiViewImageFromFiles', **kwargs), LOADERS)(
        dict(img_filename=list(map(str, paths))))


def test_equal_images_have_mmdet3ds_keys(tmp_path):
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'{name}.png'), picture())
    results = load(tmp_path / 'a.png', tmp_path / 'b.png', to_float32=True)
    assert results['img_shape'] == results['ori_shape'] == results['pad_shape'] == (90, 160, 3, 2)
    assert [img.dtype for img in results['img']] == [np.float32] * 2
    np.testing.assert_array_equal(results['img'][1], picture())


def test_damaged_images_are_named(tmp_path):
    cv2.imwrite(str(tmp_path / 'whole.jpg'), picture())
    assert len(load(tmp_path / 'whole.jpg')['img']) == 1
    data = (tmp_path / 'whole.jpg').read_bytes()
    for name, content, message in (('cut', data[:len(data) * 2 // 3], 'cut short'), ('text', b'no image', 'no image'),
                                   ('empty', b'', 'no image')):
        (tmp_path / f'{name}.jpg').write_bytes(content)
        with pytest.raises(ValueError, match=f'{name}.jpg .*{message}'):
            load(tmp_path / f'{name}.jpg')


def test_a_hole_in_a_jpeg_is_announced(tmp_path, monkeypatch, caplog):
    """OpenCV goes on with gray."""
    monkeypatch.setattr(get_root_logger(), 'propagate', True)
    cv2.imwrite(str(tmp_path / 'whole.jpg'), picture())
    data = (tmp_path / 'whole.jpg').read_bytes()
    (tmp_path / 'hole.jpg').write_bytes(data[:5000] + bytes(2000) + data[7000:])
    for name in ('whole', 'hole', 'hole'):
        load(tmp_path / f'{name}.jpg')
    assert [record.message.partition(' has 1024 zero bytes or more in a row')[0] for record in caplog.records] == [
        f'image {tmp_path}/hole.jpg']


def test_sixteen_bits_are_named_and_converted_on_request(tmp_path):
    cv2.imwrite(str(tmp_path / 'deep.png'), picture().astype(np.uint16) * 257)
    with pytest.raises(ValueError, match="deep.png must have 8 bits a channel, got uint16.*color_type='color'"):
        load(tmp_path / 'deep.png')
    np.testing.assert_array_equal(load(tmp_path / 'deep.png', color_type='color')['img'][0], picture())


@pytest.mark.parametrize('channels', [1, 4])
def test_other_channels_are_named_and_converted_on_request(tmp_path, channels):
    cv2.imwrite(str(tmp_path / 'odd.png'), picture(channels=channels))
    with pytest.raises(ValueError, match="odd.png must have three channels.*color_type='color'"):
        load(tmp_path / 'odd.png')
    assert load(tmp_path / 'odd.png', color_type='color')['img'][0].shape == (90, 160, 3)


def test_images_of_different_sizes_get_one_size_and_their_own_matrices(tmp_path):
    cv2.imwrite(str(tmp_path / 'small.png'), picture())
    cv2.imwrite(str(tmp_path / 'large.png'), picture(180, 320))
    results = load(tmp_path / 'small.png', tmp_path / 'large.png')
    assert results['img_shape'] == [(90, 160, 3), (180, 320, 3)]
    eye = np.eye(4)
    results.update(cam_intrinsic=[eye, np.diag([2., 2., 1., 1.])], lidar2cam=[eye, eye], lidar2img=[eye, eye])
    results = ResizeCropFlipImage(CONF, training=False)(results)
    assert [img.shape for img in results['img']] == [(32, 80, 3)] * 2
    # A camera with twice the pixels and twice the focal length sees the same.
    np.testing.assert_allclose(results['lidar2img'][0], results['lidar2img'][1])
