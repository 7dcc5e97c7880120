"""Pickles from elsewhere, read without running code: arrays and plain values, boxes where asked for, or an error."""
import io
import pickle
from pathlib import Path

import torch

# What info files and databases consist of, beside the values that a pickle holds without naming anything.
_ALLOWED = frozenset([
    ('collections', 'OrderedDict'), ('collections', 'defaultdict'), ('_codecs', 'encode'), ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    *(('builtins', name) for name in ('list', 'dict', 'tuple', 'set', 'frozenset', 'bytes', 'bytearray', 'complex',
                                      'int', 'float', 'bool', 'str', 'slice')),
    *((f'numpy.{core}.multiarray', name) for core in ('core', '_core') for name in ('_reconstruct', 'scalar')),
    *((f'numpy.{core}.numeric', '_frombuffer') for core in ('core', '_core'))])
# Python 2 wrote these names.
_RENAMED = {('__builtin__', name): ('builtins', name) for module, name in _ALLOWED if module == 'builtins'}


# What detections consist of beside that.
_BOXES = ('mmdet3d.core.bbox.structures.lidar_box3d', 'LiDARInstance3DBoxes')
_ZIP = b'PK'


class _Forbidden(Exception):
    """A pickle names a global that is not in the list."""


class _Unpickler(pickle.Unpickler):

    def find_class(self, module, name):
        module, name = _RENAMED.get((module, name), (module, name))
        if (module, name) not in _ALLOWED:
            raise _Forbidden(f'{module}.{name}')
        return super().find_class(module, name)


class _BoxUnpickler(_Unpickler):

    def find_class(self, module, name):
        if (module, name) == _BOXES:
            return pickle.Unpickler.find_class(self, module, name)
        return _OF_TENSORS.get((module, name)) or super().find_class(module, name)


def _storage(data):
    """In the place of torch's own, which unpickles whatever the bytes hold."""
    if data.startswith(_ZIP):  # storages in pickles have torch's older format; a zip may hold less than it declares
        raise ValueError('a storage in the format of a checkpoint')
    return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


def _tensor(storage, offset, size, stride, *_):
    """In the place of torch's own, which enlarges a storage that is too small by memory that is not the file's."""
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage).as_strided(size, stride, offset)


_OF_TENSORS = {('torch.storage', '_load_from_bytes'): _storage, ('torch._utils', '_rebuild_tensor_v2'): _tensor}


def load_pickle(path, what, trust=False, with_boxes=False, permission='trust_data=True'):
    """Read a pickle of arrays and plain values.

    Args:
        path (str | Path): The file.
        what (str): What it is, for the messages: 'info file'.
        trust (bool): Unpickle whatever it holds, which runs any code in it: for files that you made yourself.
        with_boxes (bool): It may hold tensors and LiDARInstance3DBoxes, as detections do.
        permission (str): How the user says ``trust``, for the message.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it names any global but numpy's and Python's containers and values (and boxes and tensors), or is
            no whole pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; looked for the {what}')
    with open(path, 'rb') as file:
        try:
            return (pickle.Unpickler if trust else _BoxUnpickler if with_boxes else _Unpickler)(file).load()
        except _Forbidden as error:
            allowed = f'numpy arrays and plain values{", boxes and tensors" if with_boxes else ""}'
            raise ValueError(f'{what} {path} asks for {error}: allowed are {allowed}, anything else could run code. If '
                             f'you trust the file, load it with {permission}') from None
        except Exception as error:  # damaged bytes make pickle raise almost anything
            raise ValueError(f'{what} {path} is no whole pickle ({path.stat().st_size} bytes): it was cut short or is '
                             f'of another format ({type(error).__name__}: {error})') from error
