"""One set of modules, and one entry in each registry, under both names of the package."""
import importlib
import sys
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader
from pathlib import Path

DISTRIBUTION = 'cmt-aqr'
CHECKOUT_NAME = 'projects.mmdet3d_plugin'  # also the name of CMT's own plugin, which published configs ask for
NAMES = ('cmt_aqr', CHECKOUT_NAME)


def is_alias(name):
    """Whether the package is loaded under its other name already; then both names mean the same modules from now on.

    Args:
        name (str): under which the package is being imported.

    Raises:
        ImportError: the other name belongs to a copy of the package in another folder.
    """
    here = Path(__file__).resolve().parent
    for other in NAMES:
        package = sys.modules.get(other)
        if other == name or getattr(package, '__distribution__', None) != DISTRIBUTION:
            continue
        if Path(package.__file__).resolve().parent != here:
            raise ImportError(f'this process has loaded {DISTRIBUTION} as {other} from {Path(package.__file__).parent} '
                              f'already; {name} in {here} is another copy, and both would register the same detector. '
                              f'Use one of them')
        _share_modules(name, other)
        return True
    return False


def _share_modules(alias, name):
    """Let all that was or will be imported as ``alias`` be the modules of ``name``."""
    for loaded in [module for module in sys.modules if module == alias or module.startswith(f'{alias}.')]:
        del sys.modules[loaded]
    for loaded in [module for module in sys.modules if module == name or module.startswith(f'{name}.')]:
        sys.modules[alias + loaded.removeprefix(name)] = sys.modules[loaded]
    sys.meta_path.insert(0, _AliasFinder(alias, name))


class _AliasFinder(MetaPathFinder, Loader):
    """Finds modules of an alias: those of the package's other name."""

    def __init__(self, alias, name):
        self.alias, self.name = alias, name
        self._own_specs = {}

    def find_spec(self, fullname, path=None, target=None):
        return spec_from_loader(fullname, self) if fullname.startswith(f'{self.alias}.') else None

    def create_module(self, spec):
        module = importlib.import_module(self.name + spec.name.removeprefix(self.alias))
        self._own_specs[spec.name] = module.__spec__  # the import system is about to replace it
        return module

    def exec_module(self, module):
        """The module has been executed under its own name."""
        module.__spec__ = self._own_specs.pop(module.__spec__.name)


@contextmanager
def registration(name):
    """Context manager around imports that register parts of the package.

    Raises:
        ImportError: another plugin of this process has registered a part of the same name.
    """
    try:
        yield
    except KeyError as error:
        if 'already registered' not in str(error):
            raise
        others = [f'{module} ({getattr(sys.modules[module], "__file__", None)})' for module in sorted(sys.modules)
                  if module.endswith('mmdet3d_plugin') and module != name]
        raise ImportError(
            f'{name} cannot register its parts: {error.args[0]}, by another plugin of this process'
            f'{": " + ", ".join(others) if others else ""}. Load one of them only (docs/troubleshooting.md)') from error
