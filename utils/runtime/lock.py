"""One process at a time in a folder."""

import errno
import os
import platform
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from utils.errors import UserError, warn

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def lock_folder(folder: Path, instead: str = "--run-name NAME") -> BaseFileLock:
    """Keep other processes out of a folder until the lock returned is released.

    Neither a killed process nor the workers that it leaves behind hold it. Where the file system
    has no locks there is a warning, and the lock returned holds nobody out.

    Args:
        folder: to be used by this process alone.
        instead: the option that takes another one.

    Raises:
        UserError: another process is at work there.
        OSError: no right to write.
    """
    path = folder / LOCK
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
        path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip()
        raise UserError(
            f"{folder}: in use by another run ({holder}); wait for it, end it, or give {instead}"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(f"{path}: no locks here ({error}); start no second run")
    return lock
