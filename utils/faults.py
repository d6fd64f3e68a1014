"""Failures of the machine during training, in one line: memory, discs, processes that load pairs.

Everything else is a bug and keeps its traceback.
"""

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
RESUME = "--resume continues from the last save"


@contextmanager
def faults_in_one_line(folder: Path, workers: int) -> Iterator[None]:
    """Turn failures of the machine into a ``UserError``.

    Args:
        folder: of the logs; named if a failed write does not tell its file.
        workers: ``TRAIN.num_workers``.
    """
    try:
        yield
    except UserError as error:  # of a worker, it comes with the traceback there
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
    except PeerLost as error:
        raise UserError(f"{error}; {RESUME}") from None
    except (OSError, RuntimeError, MemoryError) as error:
        line = next(filter(None, (_explain(e, folder, workers) for e in _chain(error))), None)
        if line is None:
            raise
        _clear_frames(error)
        raise UserError(line) from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its contexts: the death of a worker interrupts whatever code is running."""
    while error is not None:
        yield error
        error = error.__context__


def _explain(error: BaseException, folder: Path, workers: int) -> str | None:
    """The line for an error; None for a bug."""
    text = str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in text:
        return (
            "out of memory; lower TRAIN.batch_size, DATA.input_size or MODEL.width "
            f"({lines[-1][:160]})"
        )
    if text.startswith("DataLoader worker") or "shared memory" in text or _from_queue(error):
        return (
            f"TRAIN.num_workers {workers}: a process that loads pairs failed ({lines[-1][:160]}); "
            "if memory or shared memory (/dev/shm) is short, set TRAIN.num_workers=0, or start "
            f"Docker with --shm-size=8g; {RESUME}"
        )
    if isinstance(error, OSError):
        advice = "; free some space" if error.errno in FULL else ""
        place = error.filename or folder
        return f"{place}: {error.strerror or lines[-1]}{advice}; {RESUME}"
    return None


def _from_queue(error: BaseException) -> bool:
    """Whether a queue between processes could not be made; the error names no file then."""
    frames = extract_tb(error.__traceback__)
    return isinstance(error, OSError) and any("multiprocessing" in f.filename for f in frames)


def _clear_frames(error: BaseException) -> None:
    """Drop a partly built loader here, silently: its ``__del__`` fails."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    clear_frames(error.__traceback__)
    sys.unraisablehook = hook
