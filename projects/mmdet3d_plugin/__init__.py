from .compat import import_mmdet3d

import_mmdet3d()

from . import core, datasets, hooks, models  # noqa: E402,F401  (registration; needs mmdet3d imported)
