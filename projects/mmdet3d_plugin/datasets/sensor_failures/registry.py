"""The failures that exist: name -> how to make the failure from the text after its name."""
import inspect
from typing import Callable, NamedTuple

FAILURES = {}


class RegisteredFailure(NamedTuple):
    """An entry of ``FAILURES``.

    Attributes:
        usage: an example with its argument, for messages.
        make: argument text -> failure, or without parameters where the failure takes no argument; raises ValueError.
    """

    usage: str
    make: Callable

    @property
    def takes_argument(self):
        return bool(inspect.signature(self.make).parameters)


def register_failure(name, usage=None, make=None):
    """Class decorator: let configs and tools ask for a failure by name.

    A failure has ``needs``, the names of what a sample must have: keys of the sample, and 'rings' or 'boxes', which
    test data load on request. Its ``apply(results, rng)`` changes a sample as the loaders leave it (``points``,
    ``img``, ``lidar2cam``...), takes random numbers from ``rng`` only, and returns as a dict the fields of a
    ``FailureRecord`` that say what it did.

    Args:
        name (str): of the failure.
        usage (str | None): see :class:`RegisteredFailure`; default: the name.
        make (Callable | None): likewise; default: the class without arguments.
    """

    def register(cls):
        if name in FAILURES:
            raise ValueError(f'there is a sensor failure {name!r} already')
        FAILURES[name] = RegisteredFailure(usage or name, make or (lambda: cls()))
        return cls

    return register
