"""Variables at the top of config files: settings are made of them when a file is read, so that a later change is lost.

mmcv keeps them in the config beside the settings and lets anyone change them there, without any effect.
"""
import ast
from pathlib import Path

from mmcv import Config

_SHOWN = 8  # settings that a message names


def refuse_variables(cfg, options, settings):
    """Raise KeyError where an option names a variable of the config instead of a setting.

    Args:
        cfg (mmcv.Config): as read.
        options (Iterable[str]): dotted names, from `--cfg-options`.
        settings (set[str]): names at top level that something reads.
    """
    for option in options:
        name = option.split('.')[0]
        if name in cfg and name not in settings:
            raise KeyError(f'--cfg-options {option}: {name} is a variable of the config file, and nothing reads it any '
                           f'more{_instead(cfg, cfg[name], settings)}')


def refuse_overridden_variables(path, settings):
    """Raise KeyError where a config file gives a variable of its `_base_` another value and does not use it.

    Args:
        path (str | Path): config file.
        settings (set[str]): names at top level that something reads.
    """
    tree = ast.parse(Path(path).read_text(encoding='utf-8'))
    given = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
             if isinstance(target, ast.Name)}
    if '_base_' not in given:
        return
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    own = Config.fromfile(str(path), import_custom_modules=False)
    for base in _bases(tree, path):
        refuse_overridden_variables(base, settings)
        inherited = Config.fromfile(str(base), import_custom_modules=False)
        for name in sorted((given & set(inherited.keys())) - settings - used - {'_base_'}):
            if own[name] != inherited[name]:
                raise KeyError(f'{path}: {name} is a variable of {base}, whose settings were made with its value; '
                               f'another value here changes nothing{_instead(inherited, inherited[name], settings)}')


def _bases(tree, path):
    """Paths of the `_base_` files of a config."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and '_base_' in [getattr(target, 'id', None) for target in node.targets]:
            bases = ast.literal_eval(node.value)
            return [Path(path).parent / base for base in ([bases] if isinstance(bases, str) else bases)]
    return []


def _instead(cfg, value, settings):
    """Words on the settings that hold a variable's value."""
    found = [place for name in sorted(settings & set(cfg.keys())) for place in _places(cfg[name], value, name)]
    if not found:
        return '; set the settings that were made of it instead'
    more = f' and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''
    return f'; set instead: {", ".join(found[:_SHOWN])}{more}'


def _places(setting, value, name):
    """Dotted names of places in a setting that equal a value, or begin with it where it is a text."""
    same = setting == value and type(setting) is type(value)
    if same or (isinstance(value, str) and value and isinstance(setting, str) and setting.startswith(value)):
        yield name
    elif isinstance(setting, dict):
        for key, child in setting.items():
            yield from _places(child, value, f'{name}.{key}')
    elif isinstance(setting, (list, tuple)):
        for number, child in enumerate(setting):
            yield from _places(child, value, f'{name}.{number}')
