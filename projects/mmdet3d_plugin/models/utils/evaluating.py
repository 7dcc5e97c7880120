"""Evaluation mode for a while."""
import contextlib


@contextlib.contextmanager
def evaluating(module):
    """A module and all below it in evaluation mode; each returns to its own mode afterwards."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode
