"""Lock a folder for one process."""

import errno
import os
import platform
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from utils.errors import UserError, warn

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def lock_folder(folder: Path, instead: str = "--run-name NAME") -> BaseFileLock:
    """Lock a folder until the returned lock is released.

    The lock ends with the process, even if it is killed and its workers live on. If the file system
    does not support locks, a warning is printed and other processes are not kept out.

    Args:
        folder: the folder.
        instead: the option that selects another folder, for the message.

    Raises:
        UserError: another process has locked the folder.
        OSError: the folder is not writable.
    """
    path = folder / LOCK
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
        path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip()
        raise UserError(
            f"{folder}: in use by another run ({holder}); wait for it, end it, or use {instead}"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(f"{path}: the file system has no locks ({error}); do not start a second run")
    return lock
