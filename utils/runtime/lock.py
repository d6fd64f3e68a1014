"""One process at a time in a folder."""

import errno
import os
import sys
from pathlib import Path
from typing import IO

from utils.errors import UserError

LOCK = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)


def lock_folder(folder: Path, instead: str = "--run-name NAME") -> IO | None:
    """Keep other processes out of a folder until the file returned is closed.

    The lock is the process's own: neither a killed one nor the workers it leaves behind hold it,
    and whoever opens the file anew in the same process lets go of it. Where the file system has
    no locks there is a warning and None.

    Args:
        folder: to be used by this process alone.
        instead: the option that takes another one.

    Raises:
        UserError: another process is at work there.
        OSError: no right to write.
    """
    path = folder / LOCK
    file = path.open("a+", encoding="utf-8")
    try:
        import fcntl  # not on Windows

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        if getattr(error, "errno", None) not in HELD:
            file.close()
            print(f"warning: {path}: no locks here ({error}); start no second run", file=sys.stderr)
            return None
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise UserError(
            f"{folder}: in use by another run ({holder}); wait for it, end it, or give {instead}"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
    file.flush()
    return file
