"""cmt-aqr: adaptive modality weighting for the CMT LiDAR-camera 3D detector.

Importing the package registers its detectors, heads, datasets, pipelines and hooks with mmdetection3d. It is called
``cmt_aqr`` where it is installed and ``projects.mmdet3d_plugin`` in a checkout; a process may use both names.
"""
from .compat import import_mmdet3d, name_reentrant_checkpoints
from .package_names import DISTRIBUTION, is_alias, registration

__version__ = '0.2.0'
__distribution__ = DISTRIBUTION

if not is_alias(__name__):
    import_mmdet3d()
    with registration(__name__):
        from . import core, datasets, hooks, models  # noqa: F401  (needs mmdet3d imported)
    name_reentrant_checkpoints()
