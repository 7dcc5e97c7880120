import pytest
from mmcv import Config

from projects.mmdet3d_plugin.apis.latest_checkpoint import find_checkpoint


def config(folder, **settings):
    return Config(dict(work_dir=str(folder / 'work'), checkpoint_config=dict(interval=1, **settings)))


def make(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_nothing_to_find(tmp_path):
    assert find_checkpoint(config(tmp_path)) is None
    make(tmp_path / 'work/notes.txt', tmp_path / 'work/published.pth', tmp_path / 'work/best_mAP_epoch_9.pth')
    assert find_checkpoint(config(tmp_path)) is None
    assert find_checkpoint(config(tmp_path, filename_tmpl='always.pth')) is None


def test_the_newest_by_number_or_by_link(tmp_path):
    make(*(tmp_path / f'work/epoch_{number}.pth' for number in (2, 9, 10)), tmp_path / 'work/.epoch_11.part.pth')
    assert find_checkpoint(config(tmp_path)) == str(tmp_path / 'work/epoch_10.pth')
    (tmp_path / 'work/latest.pth').symlink_to('epoch_9.pth')
    assert find_checkpoint(config(tmp_path)) == str(tmp_path / 'work/latest.pth')


def test_names_and_places_that_the_config_gives(tmp_path):
    make(tmp_path / 'work/epoch_1.pth', tmp_path / 'disk/work/epoch_2.pth', tmp_path / 'work/kept/after_3.pth')
    assert find_checkpoint(config(tmp_path, out_dir=str(tmp_path / 'disk'))) == str(tmp_path / 'disk/work/epoch_2.pth')
    assert find_checkpoint(config(tmp_path, filename_tmpl='kept/after_{}.pth')) == str(
        tmp_path / 'work/kept/after_3.pth')


def test_a_link_that_leads_nowhere(tmp_path):
    make(tmp_path / 'work/epoch_1.pth')
    (tmp_path / 'work/latest.pth').symlink_to('epoch_2.pth')
    with pytest.raises(ValueError, match='latest.pth leads to .*work/epoch_2.pth, which is not there'):
        find_checkpoint(config(tmp_path))


def test_a_store_that_cannot_be_searched(tmp_path):
    with pytest.raises(ValueError, match=r'cannot search s3://bucket/work \(checkpoint_config.out_dir\)'):
        find_checkpoint(config(tmp_path, out_dir='s3://bucket'))
