"""Pickles from elsewhere, read without running code: arrays and plain values, or an error."""
import pickle
from pathlib import Path

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


class _Forbidden(Exception):
    """A pickle names a global that is not in the list."""


class _Unpickler(pickle.Unpickler):

    def find_class(self, module, name):
        module, name = _RENAMED.get((module, name), (module, name))
        if (module, name) not in _ALLOWED:
            raise _Forbidden(f'{module}.{name}')
        return super().find_class(module, name)


def load_pickle(path, what, trust=False):
    """Read a pickle of arrays and plain values.

    Args:
        path (str | Path): The file.
        what (str): What it is, for the messages: 'info file'.
        trust (bool): Unpickle whatever it holds, which runs any code in it: for files that you made yourself.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it names any global but numpy's and Python's containers and values, or is no whole pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; looked for the {what}')
    with open(path, 'rb') as file:
        try:
            return (pickle.Unpickler if trust else _Unpickler)(file).load()
        except _Forbidden as error:
            raise ValueError(f'{what} {path} asks for {error}: allowed are numpy arrays and plain values, anything '
                             'else could run code. If you trust the file, load it with trust_data=True') from None
        except Exception as error:  # damaged bytes make pickle raise almost anything
            raise ValueError(f'{what} {path} is no whole pickle ({path.stat().st_size} bytes): it was cut short or is '
                             f'of another format ({type(error).__name__}: {error})') from error
