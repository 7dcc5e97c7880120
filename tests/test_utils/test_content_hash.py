"""Names for contents."""
import hashlib

import pytest

from projects.mmdet3d_plugin.utils.content_hash import code_sha256, content_key, file_sha256


def test_file_hash(tmp_path):
    (tmp_path / 'file').write_bytes(b'abc' * 100_000)
    assert file_sha256(tmp_path / 'file') == hashlib.sha256(b'abc' * 100_000).hexdigest()


def test_keys_change_with_contents_and_with_nothing_else():
    key = content_key(dict(a=1, b=[2.0, 'x']), 'seed', 3)
    assert key == content_key(dict(b=[2.0, 'x'], a=1), 'seed', 3) and len(key) == 16
    others = [content_key(dict(a=1, b=[2.0, 'y']), 'seed', 3), content_key(dict(a=1, b=['x', 2.0]), 'seed', 3),
              content_key(dict(a=1, b=[2.0, 'x']), 'seed', 4), content_key(dict(a=1, b=[2.0, 'x']), 'seed')]
    assert len({key, *others}) == 5


CODE = """class A:
    '''What it is.'''
    size = 3

    def double(self):  # of all
        '''Twice the size.'''
        return 2 * self.size
"""


@pytest.mark.parametrize('change, is_same', [
    (('What it is', 'Something else'), True), (("    '''What it is.'''\n", ''), True), (('# of all', '# of it'), True),
    (('size = 3\n', 'size = 3\n\n\n'), True), (('size = 3', 'size = 4'), False), (('2 *', '2 +'), False),
    (('size = 3', "size = 'a'"), False)])
def test_what_code_does(tmp_path, change, is_same):
    for name, text in (('a', CODE), ('b', CODE.replace(*change)), ('c', '')):
        (tmp_path / f'{name}.py').write_text(text)
    a, b, c = (tmp_path / f'{name}.py' for name in 'abc')
    assert CODE.replace(*change) != CODE and (code_sha256([a]) == code_sha256([b])) == is_same
    assert len({code_sha256(paths) for paths in ([a], [c], [a, c], [c, a], [])}) == 5
