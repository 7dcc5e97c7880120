"""Names for contents."""
import hashlib

from projects.mmdet3d_plugin.utils.content_hash import content_key, file_sha256


def test_file_hash(tmp_path):
    (tmp_path / 'file').write_bytes(b'abc' * 100_000)
    assert file_sha256(tmp_path / 'file') == hashlib.sha256(b'abc' * 100_000).hexdigest()


def test_keys_change_with_contents_and_with_nothing_else():
    key = content_key(dict(a=1, b=[2.0, 'x']), 'seed', 3)
    assert key == content_key(dict(b=[2.0, 'x'], a=1), 'seed', 3) and len(key) == 16
    others = [content_key(dict(a=1, b=[2.0, 'y']), 'seed', 3), content_key(dict(a=1, b=['x', 2.0]), 'seed', 3),
              content_key(dict(a=1, b=[2.0, 'x']), 'seed', 4), content_key(dict(a=1, b=[2.0, 'x']), 'seed')]
    assert len({key, *others}) == 5
