"""One run at a time in a folder."""
import errno
import fcntl
import os
import socket
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = 'run.lock'


@contextmanager
def run_lock(folder):
    """Context manager: no other process enters it for the same folder. A killed process leaves a file, but no lock.

    A record lock and not `flock`: processes that this one forks, such as workers of data loaders, would hold a `flock`
    for as long as they live, which is longer than a killed parent.

    Args:
        folder (str | Path): is created.

    Raises:
        RuntimeError: another process is in; names its host and process id.
    """
    path = Path(folder) / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes: after it the file may be that of the next run
        file.close()


def _locked(path):
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        file = os.fdopen(descriptor, 'r+')
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = file.read().strip()
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise OSError(error.errno, f'no lock of {path} ({error.strerror}): the file system of a work directory '
                              'must have locks') from error
            raise RuntimeError(f'{path.parent} is in use by another run ({owner or "just starting"}): wait for its '
                               'end, stop it, or choose another work directory') from error
        if not path.exists() or not os.path.samestat(os.stat(path), os.fstat(descriptor)):
            file.close()  # the run before removed it in between
            continue
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        return file
