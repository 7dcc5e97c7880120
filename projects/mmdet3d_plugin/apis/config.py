"""Reading a config with the options of the command line."""
import difflib
import importlib
import logging
import re
import threading
from pathlib import Path

from mmcv import Config
from mmcv.utils import import_modules_from_strings

from ..compat import name_reentrant_checkpoints
from ..package_names import CHECKOUT_NAME, DISTRIBUTION, registration
from .config_variables import refuse_overridden_variables, refuse_variables

# Keys that may be added to the sections of a config that no constructor checks. Sections with a `type` take any key
# here: what is built from them rejects the keys it does not know.
_KNOWN_KEYS = {
    '': {
        'auto_resume', 'auto_scale_lr', 'checkpoint_config', 'cudnn_benchmark', 'custom_hooks', 'custom_imports',
        'data', 'dist_params', 'evaluation', 'find_unused_parameters', 'fp16', 'load_from', 'log_config', 'log_level',
        'lr_config', 'model', 'momentum_config', 'mp_start_method', 'opencv_num_threads', 'optimizer',
        'optimizer_config', 'plugin', 'plugin_dir', 'resume_from', 'router_training', 'runner', 'test_cfg',
        'total_epochs', 'train_cfg', 'work_dir', 'workflow'
    },
    'data': {
        'persistent_workers', 'samples_per_gpu', 'test', 'test_dataloader', 'train', 'train_dataloader', 'val',
        'val_dataloader', 'workers_per_gpu'
    },
    'log_config': {'hooks', 'interval'},
    'router_training': {
        'batch', 'caution', 'held_out', 'iters', 'least_benefit', 'leave_out', 'lr', 'samples', 'weight_decay'
    },
    'checkpoint_config': {
        'by_epoch', 'create_symlink', 'file_client_args', 'filename_tmpl', 'interval', 'max_keep_ckpts', 'out_dir',
        'save_last', 'save_optimizer', 'sync_buffer', 'type'
    },
}

# What is read of `model.train_cfg.pts` and `model.test_cfg.pts`: published configs have more there, without any effect.
_READ = {'assigner', 'code_weights', 'out_size_factor', 'pc_range', 'point_cloud_range', 'voxel_size'}

# mmcv reads a config as a module in a temporary folder on sys.path, where another thread's module is not found.
_READING = threading.Lock()


def load_config(path, options=None):
    """Read a config, merge options into it and import the plugin that it names.

    A config may have variables of its own at top level; one whose name looks like a mistyped setting is warned of.

    Args:
        path (str | Path): config file.
        options (dict): dotted key to value, from `--cfg-options`.

    Returns:
        mmcv.Config: the config with `work_dir`, `load_from` and `resume_from` set (to None if not given).

    Raises:
        FileNotFoundError: no such config.
        KeyError: an option, a variable of a base config, or a key of `data`, `log_config` or `checkpoint_config`, that
            nothing would read.
        ValueError: `plugin=True` without a `plugin_dir` that could be a package; a setting that is not UTF-8.
        ImportError: that package does not import, or registers what is registered already.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config file not found: {path}')
    with _READING:
        cfg = Config.fromfile(str(path), import_custom_modules=False)
        refuse_overridden_variables(path, _KNOWN_KEYS[''])
    _import_custom_modules(cfg)
    refuse_variables(cfg, options or {}, _KNOWN_KEYS[''])
    _check_options(cfg, options or {})
    _refuse_unread_options(cfg, options or {})
    cfg.merge_from_dict(options or {})
    _check_keys(cfg)
    for key, value in cfg.items():
        _check_text(key, value)
    for key in ('work_dir', 'load_from', 'resume_from'):
        cfg.setdefault(key, None)
    if cfg.get('plugin'):
        _import_plugin(cfg.get('plugin_dir'))
    return cfg


def _import_custom_modules(cfg):
    """Import the modules of `custom_imports`; those of the checkout's package are those of this one."""
    if cfg.get('custom_imports') is None:
        return
    imports = cfg.custom_imports['imports']
    imports = [imports] if isinstance(imports, str) else imports
    package = __name__.removesuffix('.apis.config')
    names = [package + name.removeprefix(CHECKOUT_NAME) if f'{name}.'.startswith(f'{CHECKOUT_NAME}.') else name
             for name in imports]
    with registration(', '.join(names)):
        import_modules_from_strings(**{**cfg.custom_imports, 'imports': names})
    name_reentrant_checkpoints()


def _import_plugin(plugin_dir):
    """Import the package at a path relative to the project. Published configs name CMT's plugin: that is this package.
    """
    parts = Path(plugin_dir or '').parts
    if not parts or not all(part.isidentifier() for part in parts):
        raise ValueError('plugin=True needs plugin_dir, the path of a package relative to the project, such as '
                         f'projects/mmdet3d_plugin/; got {plugin_dir!r}')
    name = '.'.join(parts)
    if name == CHECKOUT_NAME:
        here, there = Path(__file__).resolve().parents[1], Path(plugin_dir).resolve()
        if there.is_dir() and there != here:
            logging.getLogger(__name__).warning(
                f'plugin_dir={plugin_dir!r} is served by {DISTRIBUTION} in {here}; {there} is not imported')
        return
    with registration(name):
        importlib.import_module(name)


def _check_options(cfg, options):
    for option in options:
        *sections, key = option.split('.')
        for depth in range(len(sections) + 1):
            section = '.'.join(sections[:depth])
            known = _KNOWN_KEYS.get(section)
            part = (*sections, key)[depth]
            if known is not None and part not in known | set(cfg.get(section) or {} if section else cfg.keys()):
                raise KeyError(f'--cfg-options {option}: {section or "the config"} has no {part!r}'
                               f'{_proposal(part, known)}; allowed to add: {sorted(known)}')


def _refuse_unread_options(cfg, options):
    """Raise KeyError for options of train_cfg and test_cfg that this package's detectors do not read."""
    if (cfg.get('model') or {}).get('type') != 'CmtDetector':
        return
    for option in options:
        section, key = re.match(r'(model\.(?:train|test)_cfg\.pts)\.([^.]+)|', option).groups()
        if key and key not in _READ:
            raise KeyError(f'--cfg-options {option}: nothing reads {key!r} of {section}; read are {sorted(_READ)}, and '
                           'what chooses detections is in model.pts_bbox_head.bbox_coder')


def _check_keys(cfg):
    """Check names in config files; names from the command line are among those checked before."""
    for section, known in _KNOWN_KEYS.items():
        if section and not isinstance(cfg.get(section) or {}, dict):
            raise ValueError(f'{cfg.filename}: {section} must be a dict of {sorted(known)}, got {cfg.get(section)!r}')
        keys = set(cfg.get(section) or {} if section else cfg.keys()) - known
        if section and (cfg.get(section) or {}).get('type', 'CheckpointHook') != 'CheckpointHook':
            continue  # checkpoint_config with a hook of another type, which checks its arguments itself
        for key in sorted(keys):
            proposal = _proposal(key, known, cutoff=0.6 if section else 0.8)
            if section:
                raise KeyError(f'{cfg.filename}: {section} has no {key!r}{proposal}; allowed: {sorted(known)}')
            if proposal:
                logging.getLogger(__name__).warning(f'{cfg.filename}: nothing reads {key!r} at top level{proposal}')


def _check_text(name, value):
    """Raise ValueError for a name that is not UTF-8: the work directory's config and log could not hold it."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f'{name}={value!r} is not UTF-8, as logs and saved configs are; rename it, '
                             'or link to it') from None
    elif isinstance(value, dict):
        for key, child in value.items():
            _check_text(f'{name}.{key}', child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            _check_text(name, child)


def _proposal(key, known, cutoff=0.6):
    close = difflib.get_close_matches(key, known, n=3, cutoff=cutoff)
    return f'; did you mean {" or ".join(close)}?' if close else ''
