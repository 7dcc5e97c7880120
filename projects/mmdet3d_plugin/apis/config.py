"""Reading a config with the options of the command line, and the arguments that all tools share."""
import argparse
import difflib
import importlib
import logging
import os
from pathlib import Path

from mmcv import Config, DictAction

from ..datasets.sensor_failures import FailureCase
from .distributed import LAUNCHERS

# Keys that may be added to the sections of a config that no constructor checks. Sections with a `type` take any key
# here: what is built from them rejects the keys it does not know.
_KNOWN_KEYS = {
    '': {
        'auto_resume', 'auto_scale_lr', 'checkpoint_config', 'cudnn_benchmark', 'custom_hooks', 'custom_imports',
        'data', 'dist_params', 'evaluation', 'find_unused_parameters', 'fp16', 'load_from', 'log_config', 'log_level',
        'lr_config', 'model', 'momentum_config', 'mp_start_method', 'opencv_num_threads', 'optimizer',
        'optimizer_config', 'plugin', 'plugin_dir', 'resume_from', 'runner', 'test_cfg', 'total_epochs', 'train_cfg',
        'work_dir', 'workflow'
    },
    'data': {
        'persistent_workers', 'samples_per_gpu', 'test', 'test_dataloader', 'train', 'train_dataloader', 'val',
        'val_dataloader', 'workers_per_gpu'
    },
    'log_config': {'hooks', 'interval'},
    'checkpoint_config': {
        'by_epoch', 'create_symlink', 'file_client_args', 'filename_tmpl', 'interval', 'max_keep_ckpts', 'out_dir',
        'save_last', 'save_optimizer', 'sync_buffer', 'type'
    },
}


class OptionAction(DictAction):
    """`key=value` arguments; mmcv's action with a message where the `=` is missing."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                parser.error(f'argument {option_string}: expected key=value, got {value!r}')
        super().__call__(parser, namespace, values, option_string)


def existing_file(path):
    """argparse type: the path of a file that must exist."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'no such file: {path}')
    return path


def existing_checkpoint(path):
    """argparse type: a checkpoint file that must exist, or its address."""
    return path if path.startswith(('http://', 'https://')) else existing_file(path)


def failure_case(text):
    """argparse type: a FailureCase that exists."""
    try:
        return FailureCase.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_config_arguments(parser):
    """Add what tools for one config take: the config, its options, and the permission to unpickle."""
    parser.add_argument('config', type=existing_file, help='config file')
    add_option_arguments(parser)


def add_option_arguments(parser):
    """Add the options of configs and the permission to unpickle."""
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, metavar='KEY=VALUE',
                        help='override settings of the config, e.g. model.pts_bbox_head.aqr_bias_strength=3.0; lists '
                        'as key="[a,b]" or key=a,b, nested as key="[(a,b),(c,d)]", without spaces')
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='unpickle arbitrary Python objects of checkpoints, which can run code hidden in them: '
                        'only for files whose origin you trust')


def add_process_arguments(parser):
    """Add what training and testing take beside that: processes, devices and seeds."""
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='what started the processes')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
    parser.add_argument('--gpu-id', type=int, default=0, help='GPU of a single process')
    parser.add_argument('--seed', type=int, default=0, help='seed of python, numpy and torch')
    parser.add_argument('--deterministic', action='store_true', help='deterministic algorithms where torch has them')


def parse_process_arguments(parser):
    """Parse the command line; the local rank also goes where torchrun puts it, into the environment."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


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
        KeyError: an option, or a key of `data`, `log_config` or `checkpoint_config`, that nothing would read.
        ValueError: `plugin=True` without an importable `plugin_dir`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config file not found: {path}')
    cfg = Config.fromfile(str(path))
    _check_options(cfg, options or {})
    cfg.merge_from_dict(options or {})
    _check_keys(cfg)
    for key in ('work_dir', 'load_from', 'resume_from'):
        cfg.setdefault(key, None)
    if cfg.get('plugin'):
        parts = Path(cfg.get('plugin_dir') or '').parts
        if not parts or not all(part.isidentifier() for part in parts):
            raise ValueError('plugin=True needs plugin_dir, the path of a package relative to the project, such as '
                             f'projects/mmdet3d_plugin/; got {cfg.get("plugin_dir")!r}')
        importlib.import_module('.'.join(parts))
    return cfg


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


def _check_keys(cfg):
    """Check names in config files; names from the command line are among those checked before."""
    for section, known in _KNOWN_KEYS.items():
        keys = set(cfg.get(section) or {} if section else cfg.keys()) - known
        if section and (cfg.get(section) or {}).get('type', 'CheckpointHook') != 'CheckpointHook':
            continue  # checkpoint_config with a hook of another type, which checks its arguments itself
        for key in sorted(keys):
            proposal = _proposal(key, known, cutoff=0.6 if section else 0.8)
            if section:
                raise KeyError(f'{cfg.filename}: {section} has no {key!r}{proposal}; allowed: {sorted(known)}')
            if proposal:
                logging.getLogger(__name__).warning(f'{cfg.filename}: nothing reads {key!r} at top level{proposal}')


def _proposal(key, known, cutoff=0.6):
    close = difflib.get_close_matches(key, known, n=3, cutoff=cutoff)
    return f'; did you mean {" or ".join(close)}?' if close else ''
