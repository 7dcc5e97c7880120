"""Long jobs in processes of their own, whose end, of whatever kind, leaves their parent alone."""
import multiprocessing
import os
import sys
import threading
from pathlib import Path


def run_in_child(function, *args, log=None):
    """Call a function in a new process and wait for it; the process ends with its parent.

    Args:
        function (Callable): importable by name.
        *args: picklable.
        log (str | Path | None): file to which all that the process prints is appended; default: where the parent
            prints.

    Returns:
        int: exit code, 0 where the function returned.
    """
    process = multiprocessing.get_context('spawn').Process(target=_child, args=(function, args, log))
    process.start()
    try:
        process.join()
    finally:  # interrupted
        process.kill()
    return process.exitcode


def _child(function, args, log):
    # A parent that is killed takes its job along: the next one would work in the same folder.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, 'a') as file:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
    function(*args)


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
