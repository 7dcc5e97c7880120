"""Files appear under their final name complete or not at all."""
import errno
import fcntl
import os
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # file systems that have none


@contextmanager
def atomic_path(path):
    """Context manager: write to the path it yields; that file is renamed to `path` when the block ends without error.

    The temporary file lies in the same folder (a rename across file systems is not atomic) and keeps the suffix
    (writers choose the format by it). It is this block's own, whoever else writes the same file, and exists when the
    block begins. What a killed process leaves is taken over or removed. The contents are on the disk before they get
    their name, so that not even a power failure leaves a part.

    Args:
        path (str | Path): final name; its folder is created.

    Yields:
        Path: the temporary name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, descriptor = _claim_temporary(path)
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)  # gives the lock back


def check_destination(path):
    """Make the folder of a file and see that `atomic_path` can write there: before work whose result it will hold.

    Args:
        path (str | Path): final name of the file; one that exists stays as it is.

    Raises:
        OSError: it cannot be written; names it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        temporary, descriptor = _claim_temporary(path)
    except OSError as error:
        raise type(error)(error.errno, f'{path} cannot be written ({error.strerror})', error.filename) from error
    temporary.unlink()
    os.close(descriptor)


def atomic_symlink(target, link):
    """Point `link` at `target` (relative to the link's folder) without a moment in which there is no link."""
    link = Path(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary, descriptor = _claim_temporary(link)
    new = temporary.with_name(f'{temporary.name}.link')  # whose claim `temporary` is, too
    try:
        new.unlink(missing_ok=True)
        os.symlink(target, new)
        os.replace(new, link)
    finally:
        new.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def _claim_temporary(path):
    """Make the first free one of the temporary names of a path this process's own; remove stale ones behind it.

    Returns:
        tuple[Path, int]: the file, empty and locked, and the descriptor that holds the lock.
    """
    number = 0
    while (claimed := _claim(_temporary_name(path, number))) is None:
        number += 1
    name = _temporary_name(path, number)
    while os.path.lexists(stale := _temporary_name(path, number := number + 1)):
        descriptor = _claim(stale)
        if descriptor is not None:
            stale.unlink(missing_ok=True)
            os.close(descriptor)
    return name, claimed


def _temporary_name(path, number):
    return path.with_name(f'.{path.stem}.part{number or ""}{path.suffix}')


def _claim(name):
    """Create a file and lock it; a descriptor, or None where another writer that is alive has it.

    The lock ends with the process that holds it, however that ends: a file without it is stale. No link is followed.
    """
    while True:
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            if not _remove_stale(name):
                return None
            continue
        if not _lock(descriptor, without=True) or not _is(name, descriptor):  # another writer took it for stale
            os.close(descriptor)
            continue
        return descriptor


def _remove_stale(name):
    """Remove a file that no living writer holds; False where one does."""
    if os.path.islink(name):
        os.unlink(name)
        return True
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        if not _lock(descriptor, without=False):
            return False
        if _is(name, descriptor):
            os.unlink(name)
        return True
    finally:
        os.close(descriptor)


def _lock(descriptor, without):
    """Whether this process now holds the lock of a file; `without` says so where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return without
    return True


def _is(name, descriptor):
    """Whether a name leads to the file behind a descriptor."""
    try:
        return os.path.samestat(os.lstat(name), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _flush_to_disk(path):
    """Wait until a file is on the disk; file systems that cannot say so are taken at their word."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
