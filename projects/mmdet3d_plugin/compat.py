"""Make mmdet3d 1.0.0rc6 importable beside mmcv-full 1.7.2 (docs/design.md, "The software stack").

mmdet3d 1.0.0rc6 asserts mmcv <= 1.7.0 when it is imported. Its development branch lifted that bound to 1.8.0 without
any other change, and mmcv-full 1.7.2 is the release that compiles against current torch. tools/setup_env.sh lifts the
bound in the installed mmdet3d; for other environments the newest version that mmdet3d accepts is shown to it, during
its import only.
"""
import mmcv
from mmcv.utils import digit_version

_NEWEST_ACCEPTED = '1.7.0'


def import_mmdet3d():
    """Import mmdet3d with any mmcv 1.7.x and return the module.

    Raises:
        ImportError: if mmcv is not a 1.x release, for which mmdet3d 1.0 was written.
    """
    installed = mmcv.__version__
    if digit_version(installed) >= digit_version('2.0.0rc0'):
        raise ImportError(f'mmdet3d 1.0 needs mmcv-full 1.x, got mmcv {installed}; run tools/setup_env.sh')
    if digit_version(installed) > digit_version(_NEWEST_ACCEPTED):
        mmcv.__version__ = _NEWEST_ACCEPTED
    try:
        import mmdet3d
    finally:
        mmcv.__version__ = installed
    return mmdet3d
