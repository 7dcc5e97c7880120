"""Make mmdet3d 1.0.0rc6 work beside mmcv-full 1.7.2 and current torch (docs/design.md, "The software stack").

mmdet3d 1.0.0rc6 asserts mmcv <= 1.7.0 when it is imported. Its development branch lifted that bound to 1.8.0 without
any other change, and mmcv-full 1.7.2 is the release that compiles against current torch. tools/setup_env.sh lifts the
bound in the installed mmdet3d; for other environments the newest version that mmdet3d accepts is shown to it, during
its import only.

Where a backbone has ``with_cp=True``, the mm libraries call torch's checkpoint() without ``use_reentrant``. torch warns
of that and announces an error, so the argument is added.
"""
import sys
from functools import partial
from types import SimpleNamespace

import mmcv
import torch.utils.checkpoint
from mmcv.utils import digit_version

_NEWEST_ACCEPTED = '1.7.0'
_MM_LIBRARIES = ('mmcls', 'mmcv', 'mmdet', 'mmdet3d', 'mmseg')


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


def name_reentrant_checkpoints():
    """Let the modules of mm libraries that are imported by now call checkpoint() with ``use_reentrant=True``.

    That is what torch takes where it is not said, and what these libraries were written for: results stay the same.
    torch itself, and what others call in it, is left as it is.
    """
    checkpoint = partial(torch.utils.checkpoint.checkpoint, use_reentrant=True)
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] not in _MM_LIBRARIES:
            continue
        if vars(module).get('cp') is torch.utils.checkpoint:
            module.cp = SimpleNamespace(checkpoint=checkpoint)
        elif vars(module).get('checkpoint') is torch.utils.checkpoint.checkpoint:
            module.checkpoint = checkpoint
