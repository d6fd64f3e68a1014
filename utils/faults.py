"""What goes wrong outside the program while it trains, in one line each."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import clear_frames, extract_tb

import torch

from utils.errors import UserError
from utils.runtime.distributed import PeerLost

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
IN_WORKER = "Caught "  # how torch begins what a worker raised, with its whole traceback


@contextmanager
def faults_in_one_line(folder: Path, workers: int) -> Iterator[None]:
    """Turn full discs, dead workers and exhausted memory into a ``UserError``.

    Args:
        folder: of the run's logs.
        workers: processes that load pairs, for each domain.
    """
    try:
        yield
    except UserError as error:
        if not str(error).startswith(IN_WORKER):
            raise
        raise UserError(_last_line(error).partition("UserError: ")[2]) from None
    except PeerLost as error:
        raise UserError(f"{error}; --resume goes on from the last save") from None
    except OSError as error:
        if "shared memory" in str(error) or "shm" in str(error) or _of_queues(error):
            _clear_away(error)
            raise UserError(_shared_memory(workers)) from None
        place = error.filename or folder
        reason = error.strerror or str(error).splitlines()[0]
        todo = "; make room" if error.errno in FULL else ""
        raise UserError(f"{place}: {reason}{todo}; --resume goes on from the last save") from None
    except (RuntimeError, MemoryError) as error:
        line = next(filter(None, (_explained(e, workers) for e in _chain(error))), None)
        if line is None:
            raise
        raise UserError(line) from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those in whose handling it came: a worker's death is told in whatever runs."""
    while error is not None:
        yield error
        error = error.__context__


def _explained(error: BaseException, workers: int) -> str | None:
    """One line for what torch says in several; None for what is a fault of the program."""
    text = str(error)
    if "Bus error" in text or "shared memory" in text or "No space left on device" in text:
        return _shared_memory(workers)
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexp" in text):
        reason = text.splitlines()[0].removeprefix("DataLoader worker ").strip().rstrip(".")
        return (
            f"TRAIN.num_workers {workers}: a process that loads pairs died, {reason}; is memory "
            "short? TRAIN.num_workers=0 needs least; --resume goes on from the last save"
        )
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in text:
        return (
            "out of memory; lower TRAIN.batch_size, DATA.input_size or MODEL.width "
            f"({_last_line(error)[:160]})"
        )
    return None


def _of_queues(error: OSError) -> bool:
    """Whether it was raised where queues to processes are made; it names no file then."""
    return any("multiprocessing" in frame.filename for frame in extract_tb(error.__traceback__))


def _clear_away(error: OSError) -> None:
    """Drop a loader that is half made, unheard: torch's own clearing fails on it."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    clear_frames(error.__traceback__)
    sys.unraisablehook = hook


def _shared_memory(workers: int) -> str:
    return (
        f"TRAIN.num_workers {workers}: no room in shared memory (/dev/shm) for the pairs that "
        "processes load; set TRAIN.num_workers=0, or give it more (docker run --shm-size=8g)"
    )


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
