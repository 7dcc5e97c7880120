"""Long jobs in processes of their own, whose end, of whatever kind, leaves their parent alone."""
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
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


def map_in_children(make, args, jobs, workers, log):
    """Do jobs in several new processes, each of which ends with its parent.

    Args:
        make (Callable): importable by name; called once in every process, returns the function that does a job.
        args (tuple): its arguments, picklable.
        jobs (Sequence): picklable.
        workers (int): number of processes.
        log (str | Path): file to which all that they print is appended.

    Yields:
        tuple: a job and what its function returned, in the order in which they end.

    Raises:
        RuntimeError: a process was killed. What a job raises is raised here; jobs that have not begun do not begin.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), _prepare, (make, args, log))
    futures = {pool.submit(_do, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(f'a process was killed or could not start, see {log}') from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_made = {}  # in a process of `map_in_children`: what does its jobs


def _prepare(make, args, log):
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _print_to(log)
    _made['function'] = make(*args)


def _do(job):
    return _made['function'](job)


def _child(function, args, log):
    # A parent that is killed takes its job along: the next one would work in the same folder.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if log is not None:
        _print_to(log)
    function(*args)


def _print_to(log):
    """From now on, append all that this process prints to a file."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'a') as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
