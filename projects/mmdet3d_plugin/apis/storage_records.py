"""Whether a checkpoint file holds all bytes that it declares; nothing in it is run or built.

torch < 2.10 reads a record that is shorter than its tensor without an error, and the rest of the weights is whatever
lay in memory (CVE-2026-24747).
"""
import pickle
import zipfile
from collections import Counter

import torch

# Storages by the names that torch.save writes; an untyped one counts bytes.
_ITEM_SIZES = {
    **{f'{name}Storage': dtype.itemsize for name, dtype in dict(
        Double=torch.double, Float=torch.float, Half=torch.half, BFloat16=torch.bfloat16, Long=torch.long,
        Int=torch.int, Short=torch.short, Char=torch.int8, Byte=torch.uint8, Bool=torch.bool,
        ComplexFloat=torch.cfloat, ComplexDouble=torch.cdouble, QInt8=torch.qint8, QInt32=torch.qint32,
        QUInt8=torch.quint8).items()},
    'UntypedStorage': 1
}

# What the standard library raises for bytes that make no sense.
_MALFORMED = (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, TypeError,
              AttributeError, LookupError)


def check_storage_records(path):
    """Compare the sizes of the records in a file of `torch.save` with the storages that its pickle declares.

    Files of other formats pass: torch notices there when bytes are missing.

    Args:
        path (str | Path): an existing file.

    Raises:
        ValueError: a record that is absent, there twice, or of another size than declared.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            repeated = [name for name, count in Counter(archive.namelist()).items() if count > 1]
            main = next((name for name in sizes if name.endswith('/data.pkl')), None)
            if main is None:
                return  # not by torch.save, which torch says
            with archive.open(main) as file:
                declared = _declared_storages(file)
    except _MALFORMED as error:
        raise ValueError(f'checkpoint {path} cannot be read, it may be damaged: {error}') from error
    if repeated:
        raise ValueError(f'checkpoint {path} is damaged: it holds records twice: {", ".join(repeated)}')
    folder = main.removesuffix('data.pkl') + 'data/'
    wrong = [f'record {key} has {sizes.get(folder + key, "no")} of {size} bytes' for key, size in declared.items()
             if sizes.get(folder + key) != size]
    if wrong:
        raise ValueError(f'checkpoint {path} is damaged: {"; ".join(wrong[:10])}{"; ..." * (len(wrong) > 10)}')


def _declared_storages(file):
    """Bytes of each storage in a stream of `torch.save`, by the name of its record."""
    reader = _StorageReader(file)
    reader.load()
    return reader.sizes


class _Inert:
    """In the place of every class and function that a pickle names: takes whatever it is given, does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass

    add = append


class _StorageReader(pickle.Unpickler):
    """Collects persistent ids; no name in the stream leads to anything that exists."""

    def __init__(self, file):
        super().__init__(file)
        self.sizes = {}

    def find_class(self, module, name):
        return type(name, (_Inert, ), {})

    def persistent_load(self, pid):
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == 'storage':
            _, kind, key, _, numel = pid
            item_size = _ITEM_SIZES.get(getattr(kind, '__name__', None))
            if item_size is not None and isinstance(numel, int):  # torch.load refuses the others
                self.sizes[str(key)] = max(numel * item_size, self.sizes.get(str(key), 0))
        return _Inert()
