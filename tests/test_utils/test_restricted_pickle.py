import collections
import io
import os
import pickle

import numpy as np
import pytest
import torch
from mmdet3d.core.bbox import LiDARInstance3DBoxes

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


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_boxes_and_tensors_come_back_where_they_belong(tmp_path, protocol):
    boxes = LiDARInstance3DBoxes(torch.rand(3, 9), box_dim=9)
    tensors = [torch.rand(2, 3).t(), torch.arange(5)[2:4], torch.zeros(0, 7), torch.tensor([True]),
               torch.ones(2).half(), torch.tensor(1.5, requires_grad=True)]
    path = tmp_path / 'results.pkl'
    path.write_bytes(pickle.dumps([dict(boxes_3d=boxes, tensors=tensors, scores=np.ones(2))], protocol=protocol))
    (loaded, ) = load_pickle(path, 'test file', with_boxes=True)
    assert type(loaded['boxes_3d']) is LiDARInstance3DBoxes and loaded['boxes_3d'].box_dim == 9
    assert torch.equal(loaded['boxes_3d'].tensor, boxes.tensor) and (loaded['scores'] == 1).all()
    for old, new in zip(tensors, loaded['tensors']):
        assert new.dtype == old.dtype and torch.equal(new, old)
    with pytest.raises(ValueError, match='test file .* asks for mmdet3d.*allowed are numpy arrays and plain values'):
        load_pickle(path, 'test file')


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_tensors_neither_run_code_nor_reach_beyond_their_bytes(tmp_path):
    path, made = tmp_path / 'bomb.pkl', tmp_path / 'made'
    archive = io.BytesIO()
    torch.save(torch.rand(3).storage(), archive)  # this format may declare more than it holds: CVE-2026-24747
    for value in (Calls(torch.storage._load_from_bytes, pickle.dumps(Bomb(made))),
                  Calls(torch.storage._load_from_bytes, archive.getvalue()),
                  Calls(torch._utils._rebuild_tensor_v2, torch.rand(3).storage(), 1, (3, ), (1, ), False, {})):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(ValueError, match='test file .*bomb.pkl'):
            load_pickle(path, 'test file', with_boxes=True)
    assert not made.exists()
