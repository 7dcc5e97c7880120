import collections
import os
import pickle

import numpy as np
import pytest

from projects.mmdet3d_plugin.utils.restricted_pickle import load_pickle


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder), )


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_values_come_back(tmp_path, protocol):
    value = collections.OrderedDict(
        array=np.arange(6.).reshape(2, 3), names=np.array(['car', 'bus']), scalar=np.float32(1.5),
        empty=np.zeros((0, 7)), mask=np.array([True]), objects=np.array([dict(a=1)], dtype=object),
        plain=[1, 2.5, 'x', None, True, (1, b'y'), b''], some={1, 2}, number=1 + 2j,
        fortran=np.asfortranarray(np.eye(3)))
    path = tmp_path / 'value.pkl'
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    loaded = load_pickle(path, 'test file')
    assert list(loaded) == list(value) and loaded['plain'] == value['plain'] and loaded['some'] == {1, 2}
    for name in ('array', 'names', 'scalar', 'empty', 'mask', 'objects', 'fortran'):
        np.testing.assert_array_equal(loaded[name], value[name])


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_code_is_not_run_unless_trusted(tmp_path, protocol):
    path, made = tmp_path / 'bomb.pkl', tmp_path / 'made'
    path.write_bytes(pickle.dumps(dict(infos=[Bomb(made)]), protocol=protocol))
    with pytest.raises(ValueError, match=r'test file .*bomb.pkl asks for (posix|nt).mkdir: .*trust_data=True'):
        load_pickle(path, 'test file')
    assert not made.exists()
    load_pickle(path, 'test file', trust=True)
    assert made.exists()


@pytest.mark.parametrize('code', [b'cbuiltins\neval\n(Vprint(1)\ntR.', b'cnumpy.testing._private.utils\nrunstring\n.',
                                  b'\x80\x04\x8c\x08builtins\x8c\x0bdict.update\x93.'])
def test_other_ways_to_code(tmp_path, code):
    path = tmp_path / 'bomb.pkl'
    path.write_bytes(code)
    with pytest.raises(ValueError, match='bomb.pkl asks for'):
        load_pickle(path, 'test file')


@pytest.mark.parametrize('content', [b'', b'no pickle', pickle.dumps(dict(a=np.arange(99)))[:-7]])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / 'damaged.pkl'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'test file .*damaged.pkl is no whole pickle \({len(content)} bytes\)'):
        load_pickle(path, 'test file')


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pkl does not exist; looked for the test file'):
        load_pickle(tmp_path / 'none.pkl', 'test file')
