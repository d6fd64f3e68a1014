"""User mistakes: one clear line and exit code 2."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from utils.runtime.rank import rank
from utils.runtime.signals import Interrupted


class UserError(Exception):
    """A mistake of the user: the message names the file or key, what was found, what to do."""


_collecting: ContextVar[list[str] | None] = ContextVar("collecting", default=None)


def warn(message: str) -> None:
    """Print a one-line warning, once."""
    lines = _collecting.get()
    if lines is None:
        _print_once(message)
    elif message not in lines:
        lines.append(message)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect warnings instead of printing them, each once."""
    lines: list[str] = []
    token = _collecting.set(lines)
    try:
        yield lines
    finally:
        _collecting.reset(token)


@lru_cache(maxsize=1024)  # a volume may be opened several times
def _print_once(message: str) -> None:
    if rank() == 0:
        print(f"warning: {message}", file=sys.stderr)


def run_command(command: Callable[[], None]) -> None:
    """Run a command; exit with one line and code 2 at a ``UserError``."""
    try:
        command()
    except UserError as error:
        place = f"process {rank()}: " if rank() else ""
        sys.exit(_fail(f"error: {place}{error}", 2))
    except Interrupted as error:
        sys.exit(error.code if rank() else _fail(str(error), error.code))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 130))


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a failure to write into a ``UserError`` that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"{where}: cannot be written ({error.strerror or error})") from None


def _fail(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code
