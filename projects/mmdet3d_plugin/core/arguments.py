"""Checks of constructor arguments: each returns a valid value, or raises an error that names the argument, what was
given and what is allowed.
"""
import difflib
import math
from numbers import Integral, Real


def check_names(names, known, others=()):
    """Refuse keyword arguments that do not exist.

    Args:
        names (Iterable[str]): of the arguments given.
        known (Iterable[str]): names that are allowed.
        others (Iterable[str]): names that are taken care of elsewhere, to propose one in place of a misspelt one.

    Raises:
        TypeError: for a name that is not known, proposing similar ones.
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *others])
            raise TypeError(f'unexpected argument {name!r}' + (
                f'; did you mean {" or ".join(map(repr, close))}?' if close else f'; allowed: {known}'))


def check_count(name, value, least=1):
    """``value`` where it is an integer >= ``least``; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f'{name} must be an integer >= {least}, got {value!r}')
    return int(value)


def check_flag(name, value):
    """``value`` where it is True or False; TypeError otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f'{name} must be True or False, got {value!r}')
    return value


def is_finite_number(value):
    """Whether a value is a number, neither NaN nor infinite; True and False are none."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def check_factor(name, value):
    """``value`` where it is a finite number >= 0; ValueError otherwise."""
    if not is_finite_number(value) or value < 0:
        raise ValueError(f'{name} must be a finite number >= 0, got {value!r}')
    return value


def check_factors(name, values, count):
    """``values`` where they are ``count`` finite numbers >= 0, not all of them 0; ValueError otherwise."""
    values = list(values)
    if len(values) != count or not all(is_finite_number(value) and value >= 0 for value in values) or not any(values):
        raise ValueError(f'{name} must hold {count} finite numbers >= 0, not all of them 0, got {values}')
    return values


def check_range(name, values):
    """``values`` where they are the lower x, y, z and the upper x, y, z of a box that holds something; ValueError
    otherwise.
    """
    values = list(values)
    if len(values) != 6 or not all(map(is_finite_number, values)) or not all(
            low < high for low, high in zip(values[:3], values[3:])):
        raise ValueError(f'{name} must hold 6 finite numbers, the lower x, y, z and then the upper ones, each above '
                         f'its lower one, got {values}')
    return values
