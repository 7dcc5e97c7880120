"""What the tools share: this checkout on the path, arguments of the same kind, and how a tool starts.

The tools and this file import the standard library at the top, and the package inside functions, after the command line
is parsed: torch, mmcv and mmdet3d take seconds to import. That way `--help` and most mistakes are answered at once, and
a missing environment is reported in one sentence.
"""
import argparse
import json
import logging
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CASES_HELP = ('for example clean, lidar_drop, view_drop:3, view_drop:CAM_FRONT,CAM_BACK, or fov:60+view_drop:3 for '
              'both at once; a name that does not exist lists all there are')

# What tools/setup_env.sh installs and the package imports, as Python calls it.
_ENVIRONMENT = {'PIL', 'cv2', 'matplotlib', 'mmcv', 'mmdet', 'mmdet3d', 'mmseg', 'nuscenes', 'numpy', 'pyquaternion',
                'scipy', 'sklearn', 'spconv', 'torch', 'tqdm'}

sys.path.insert(0, str(ROOT))  # the checkout that the tool belongs to, whichever one is installed
if '__mp_main__' in sys.modules:
    # The name of a tool in a process that multiprocessing spawned, such as a worker of a data loader. What it is to do
    # may import mmdet3d, and the plugin must come before that, see its compat.py.
    import projects.mmdet3d_plugin  # noqa: F401


def run(parse_args, main):
    """Start a tool: parse its command line, import the plugin, do the work.

    Args:
        parse_args (Callable): takes nothing, returns the arguments.
        main (Callable): takes the arguments. The plugin is imported by then, as it must be before other mm imports.

    Raises:
        SystemExit: with one sentence, where Python lacks the environment of the project.
    """
    try:
        _quiet_libraries()
        args = parse_args()
        import projects.mmdet3d_plugin  # noqa: F401
        main(args)
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] not in _ENVIRONMENT:
            raise
        sys.exit(f'{sys.executable} has no module {error.name!r}: build the environment with {ROOT}/tools/setup_env.sh '
                 f'and activate it with `source {ROOT}/.venv/bin/activate`')


def _quiet_libraries():
    """Leave out what libraries say at every start: that mmcv 2 is out, and that there is no CUDA."""
    warnings.filterwarnings('ignore', message='On January 1, 2023, MMCV will release')
    logging.getLogger('torch.utils.cpp_extension').addFilter(
        lambda record: 'No CUDA runtime is found' not in record.getMessage())


_NOT_UTF8 = 'is not UTF-8, as logs and tables are; rename it'


class _Parser(argparse.ArgumentParser):
    """argparse's parser, which also refuses names that are not UTF-8, and work in a folder with such a name.

    Python opens them, but logs, tables, saved configs, OpenCV and TensorBoard do not take them, most after the work.
    """

    def parse_known_args(self, args=None, namespace=None):
        parsed, unknown = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if not _is_utf8(value):
                self.error(str(argparse.ArgumentError(action, f'{value!r} {_NOT_UTF8}, or link to it')))
        if not _is_utf8(os.getcwd()):
            self.error(f'the name of the current folder, {os.getcwd()!r}, {_NOT_UTF8}')
        return parsed, unknown


def _is_utf8(value):
    """Whether all text in a value, however nested, can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def new_parser(description):
    """A parser whose help shows the docstring of a tool with its own line breaks; names must be UTF-8."""
    return _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def refuse(message):
    """End as argparse does for a wrong argument, where only the package could tell that it is wrong.

    Raises:
        SystemExit: always, with code 2.
    """
    print(f'{Path(sys.argv[0]).name}: error: {message}', file=sys.stderr)
    sys.exit(2)


def require_different(parser, argument, values):
    """Refuse an argument that was given a value twice.

    Args:
        parser (ArgumentParser): to report it.
        argument (str): name in the message.
        values (Sequence | None): None where it was not given.
    """
    names = [str(value) for value in values or ()]
    if len(set(names)) < len(names):
        parser.error(f'argument {argument}: must differ, got {", ".join(names)}')


class OptionAction(argparse.Action):
    """`key=value` arguments; mmcv's DictAction with a message where the `=` is missing or a value cannot be read."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                raise argparse.ArgumentError(self, f'expected key=value, got {value!r}')
        from mmcv import DictAction
        try:
            DictAction(self.option_strings, self.dest, self.nargs)(parser, namespace, values, option_string)
        except RecursionError:  # mmcv takes apart lists and tuples alone, and goes round in circles at other brackets
            raise argparse.ArgumentError(self, 'values may be numbers, words, lists and tuples of them, not dicts '
                                         f'(name their keys: a.0.b=1), got {values}') from None


class OneOf(argparse.Action):
    """argparse's `choices` for words that the package knows, which is asked only when one is given.

    An action and not a type: argparse would pass the default to a type, and import the package for it.

    Args:
        allowed (Callable): takes nothing, returns the words.
        *args, **kwargs: see `argparse.Action`.
    """

    def __init__(self, *args, allowed, **kwargs):
        super().__init__(*args, **kwargs)
        self.allowed = allowed

    def __call__(self, parser, namespace, values, option_string=None):
        allowed = self.allowed()
        for value in values if isinstance(values, list) else [values]:
            if value not in allowed:
                raise argparse.ArgumentError(
                    self, f'invalid choice: {value!r} (choose from {", ".join(map(repr, allowed))})')
        setattr(namespace, self.dest, values)


def existing_file(path):
    """argparse type: the path of a file that must exist."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'no such file: {path}')
    return path


def existing_folder(path):
    """argparse type: the path of a folder that must exist."""
    if not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f'no such folder: {path}')
    return path


def existing_checkpoint(path):
    """argparse type: a checkpoint file that must exist, or its address."""
    return path if path.startswith(('http://', 'https://')) else existing_file(path)


def recording_file(path):
    """argparse type: the `.rrd` file of a recording to write, where rerun-sdk is installed."""
    if Path(path).suffix != '.rrd':
        raise argparse.ArgumentTypeError(f'must end in .rrd, got {path}')
    from projects.mmdet3d_plugin.visualization.rerun_recording import import_rerun
    try:
        import_rerun()
    except ModuleNotFoundError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def failure_case(text):
    """argparse type: a FailureCase that exists."""
    from projects.mmdet3d_plugin.datasets.sensor_failures import FailureCase
    try:
        return FailureCase.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Cases(argparse.Action):
    """Failure cases and names of presets, which become their cases, as a list of FailureCases, each once."""

    def __call__(self, parser, namespace, values, option_string=None):
        from projects.mmdet3d_plugin.datasets.sensor_failures import FailureCase
        from projects.mmdet3d_plugin.datasets.sensor_failures.presets import PRESETS, expand_cases
        try:
            cases = [(value, expand_cases([value])) for value in values]
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        require_different(parser, option_string, [value if value in PRESETS else case[0] for value, case in cases])
        earlier = getattr(namespace, self.dest) or []  # of --cases beside --preset
        together = expand_cases([*earlier, *(case for _, several in cases for case in several)])
        setattr(namespace, self.dest, [FailureCase.parse(case) for case in together])


def add_case_arguments(parser, what, default):
    """Add the cases of a tool: `--cases`, and `--preset` for whole presets; both fill `cases`, None without them.

    Args:
        parser (ArgumentParser): of the tool.
        what (str): what the tool does with them, for the help.
        default (str): what it takes without them, for the help.
    """
    parser.add_argument('--cases', nargs='+', action=Cases, metavar='CASE',
                        help=f'sensor failures {what}, {CASES_HELP}; presets may stand among them (default: {default})')
    parser.add_argument('--preset', nargs='+', action=Cases, dest='cases', metavar='NAME',
                        help='cases that belong together: multicorrupt, drops, lies')


def positive_integer(text):
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {value}')
    return value


def score(text):
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'must be in [0, 1], got {value}')
    return value


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
                        help='unpickle arbitrary Python objects from checkpoints, which can run code hidden in them: '
                        'only for files whose origin you trust')


def add_frame_argument(parser):
    """Add the folder of a config for frames."""
    parser.add_argument('--frame', type=existing_folder, metavar='DIR',
                        help='folder of frames that configs with FrameFolderDataset read')


def load_config(args, parts):
    """The config of a tool with --frame; ends the tool where the frame is missing.

    Args:
        args (Namespace): with `config`, `cfg_options` and `frame`.
        parts (Sequence[str]): see `use_frame`.
    """
    from projects.mmdet3d_plugin.apis import load_config
    from projects.mmdet3d_plugin.apis.inference import use_frame
    cfg = load_config(args.config, args.cfg_options)
    try:
        use_frame(cfg, args.frame, parts)
    except ValueError as error:
        refuse(error)
    return cfg


def add_drop_router_argument(parser):
    """Add the permission to leave out a router."""
    parser.add_argument('--drop-router', action='store_true',
                        help='leave out the router weights of an AQR checkpoint when the config has no router')


def add_process_arguments(parser):
    """Add what training and testing take beside that: processes, devices and seeds."""
    parser.add_argument('--launcher', action=OneOf, allowed=_launchers, default='none',
                        help='what started the processes, such as pytorch or slurm (default: none, a single process)')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
    parser.add_argument('--gpu-id', type=int, default=0, help='GPU of a single process (default: 0)')
    parser.add_argument('--seed', type=int, default=0, help='seed of python, numpy and torch (default: 0)')
    parser.add_argument('--deterministic', action='store_true',
                        help='use deterministic algorithms where torch has them')


def _launchers():
    from projects.mmdet3d_plugin.apis.distributed import LAUNCHERS
    return LAUNCHERS


def parse_process_arguments(parser):
    """Parse the command line; the local rank also goes where torchrun puts it, into the environment."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
