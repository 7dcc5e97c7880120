"""The failures that exist: name -> how to make the failure from the text after its name."""
import inspect
import re
from typing import Callable, NamedTuple, Optional, Tuple

CLEAN = 'clean'  # the case without a failure
FAILURES = {}


class RegisteredFailure(NamedTuple):
    """An entry of ``FAILURES``.

    Attributes:
        usage: an example with its argument, for messages.
        make: makes the failure from the text of its argument, if it takes one, and ``severity``, if it has any; raises
            ValueError.
        severities: levels that it comes in, from mild to bad; () for a failure without.
        source: file that says what it does; None where there is none (an interactive session).
    """

    usage: str
    make: Callable
    severities: Tuple[int, ...] = ()
    source: Optional[str] = None

    @property
    def takes_argument(self):
        """bool: whether an argument is possible."""
        return bool(self._arguments)

    @property
    def needs_argument(self):
        """bool: whether there must be one."""
        return any(argument.default is argument.empty for argument in self._arguments)

    def is_default(self, argument):
        """Whether a text says as an argument what the failure does without one."""
        return any(each.default == argument for each in self._arguments)

    @property
    def _arguments(self):
        parameters = inspect.signature(self.make).parameters
        return [parameter for name, parameter in parameters.items() if name != 'severity']


def register_failure(name, usage=None, make=None, severities=(), source=None):
    """Class decorator: let configs and tools ask for a failure by name.

    A failure has ``needs``, the names of what a sample must have: keys of the sample, and 'rings' or 'boxes', which
    test data load on request; 'other_samples' (see :class:`~..other_samples.OtherSamples`) is there for every failure
    that needs it. Its ``apply(results, rng)`` changes a sample as the loaders leave it (``points``, ``img``,
    ``lidar2cam``...), takes random numbers from ``rng`` only, and returns as a dict the fields of a ``FailureRecord``
    that say what it did.

    Args:
        name (str): of the failure: a lower-case letter, then letters, digits and '_'; not 'clean'.
        usage (str | None): see :class:`RegisteredFailure`; default: the name.
        make (Callable | None): likewise; default: the class, with ``severity`` if it has severities.
        severities (Sequence[int]): likewise; cases name one of them after '@'.
        source (str | None): likewise; default: the class's file.

    Raises:
        ValueError: for a name that no case could have or that is taken, and for severities that are not different
            integers >= 0.
    """
    if not isinstance(name, str) or not re.fullmatch(r'[a-z]\w*', name, re.ASCII) or name == CLEAN:
        raise ValueError('the name of a sensor failure must be a lower-case letter, then letters, digits and _, and '
                         f'not {CLEAN!r}, got {name!r}')
    if name in FAILURES:
        raise ValueError(f'there is a sensor failure {name!r} already')
    if len(set(severities)) < len(severities) \
            or not all(isinstance(level, int) and not isinstance(level, bool) and level >= 0 for level in severities):
        raise ValueError(f'the severities of {name!r} must be different integers >= 0, got {severities!r}')

    def register(cls):
        default = (lambda severity: cls(severity)) if severities else (lambda: cls())
        levels = f'@{"|".join(map(str, severities))}' if severities else ''
        FAILURES[name] = RegisteredFailure(
            f'{usage or name}{levels}', make or default, tuple(severities), source or source_file(cls))
        return cls

    return register


def source_file(thing):
    """File (str) of a class or function, None where it has none."""
    try:
        return inspect.getsourcefile(thing)
    except (TypeError, OSError):  # of an interactive session
        return None
