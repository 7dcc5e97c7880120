"""Files appear under their final name complete or not at all."""
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path):
    """Context manager: write to the path it yields; that file is renamed to `path` when the block ends without error.

    The temporary file lies in the same folder (a rename across file systems is not atomic) and keeps the suffix
    (writers choose the format by it). Its name is fixed: the next attempt overwrites what a killed process leaves.

    Args:
        path (str | Path): final name; its folder is created.

    Yields:
        Path: the temporary name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.part{path.suffix}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_symlink(target, link):
    """Point `link` at `target` (relative to the link's folder) without a moment in which there is no link."""
    with atomic_path(link) as temporary:
        temporary.unlink(missing_ok=True)
        os.symlink(target, temporary)
