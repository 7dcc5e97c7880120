import os

import pytest

from projects.mmdet3d_plugin.utils.atomic_file import atomic_path, atomic_symlink, check_destination


def test_the_file_appears_when_the_block_ends_and_keeps_its_suffix(tmp_path):
    path = tmp_path / 'new' / 'file.json'
    with atomic_path(str(path)) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == '.json'
        temporary.write_text('new')
        assert not path.exists()
    assert path.read_text() == 'new' and os.listdir(path.parent) == ['file.json']


def test_a_destination_is_tried_before_the_work(tmp_path):
    check_destination(tmp_path / 'new/file.pkl')
    assert os.listdir(tmp_path / 'new') == []
    (tmp_path / 'file.txt').write_text('old')
    check_destination(tmp_path / 'file.txt')
    assert (tmp_path / 'file.txt').read_text() == 'old'
    for path in (tmp_path / 'new', tmp_path / 'file.txt/results', '/proc/file.pkl'):
        with pytest.raises(OSError, match=f'{path} cannot be written'):
            check_destination(path)
    assert sorted(os.listdir(tmp_path)) == ['file.txt', 'new']


def test_an_error_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    with pytest.raises(RuntimeError, match='half way'), atomic_path(path) as temporary:
        temporary.write_text('ne')
        raise RuntimeError('half way')
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file.txt']


def test_a_leftover_of_a_killed_process_is_overwritten(tmp_path):
    with atomic_path(tmp_path / 'file.txt') as temporary:
        temporary.write_text('first')
    temporary.write_text('what a killed process left, and longer')
    with atomic_path(tmp_path / 'file.txt') as temporary:
        temporary.write_text('second')
    assert (tmp_path / 'file.txt').read_text() == 'second' and os.listdir(tmp_path) == ['file.txt']


def test_two_writers_of_one_file_do_not_disturb_one_another(tmp_path):
    path = tmp_path / 'file.txt'
    with atomic_path(path) as first:
        with atomic_path(path) as second:
            assert first != second and second.suffix == '.txt'
            first.write_text('first')
            second.write_text('second')
        assert path.read_text() == 'second'
    assert path.read_text() == 'first' and os.listdir(tmp_path) == ['file.txt']


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / 'other.txt').write_text('of someone else')
    with atomic_path(tmp_path / 'file.txt') as temporary:
        pass
    temporary.symlink_to(tmp_path / 'other.txt')
    with atomic_path(tmp_path / 'file.txt') as temporary:
        temporary.write_text('new')
    assert (tmp_path / 'file.txt').read_text() == 'new' and not (tmp_path / 'file.txt').is_symlink()
    assert (tmp_path / 'other.txt').read_text() == 'of someone else'


def test_leftovers_of_several_killed_writers_are_removed(tmp_path):
    path = tmp_path / 'file.txt'
    with atomic_path(path) as first, atomic_path(path) as second:
        names = [first, second]
    for name in names:
        name.write_text('what a killed process left')
    with atomic_path(path) as temporary:
        temporary.write_text('new')
    assert os.listdir(tmp_path) == ['file.txt']


def test_the_contents_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda descriptor: events.append('fsync') or fsync(descriptor))
    monkeypatch.setattr(os, 'replace', lambda *names: events.append('replace') or replace(*names))
    with atomic_path(tmp_path / 'file.txt') as temporary:
        temporary.write_text('new')
    assert events[:2] == ['fsync', 'replace']


def test_files_get_the_permissions_of_new_files(tmp_path):
    (tmp_path / 'plain').touch()
    with atomic_path(tmp_path / 'file.txt') as temporary:
        temporary.write_text('new')
    assert (tmp_path / 'file.txt').stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_a_link_is_replaced_not_followed(tmp_path):
    link = tmp_path / 'latest.pth'
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        (tmp_path / name).write_text(name)
        atomic_symlink(name, link)
        assert os.readlink(link) == name and link.read_text() == name
    assert (tmp_path / 'epoch_1.pth').read_text() == 'epoch_1.pth'
    assert sorted(os.listdir(tmp_path)) == ['epoch_1.pth', 'epoch_2.pth', 'latest.pth']
