"""A user's mistakes: one clear line and exit code 2."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.interruption import Interrupted


class UserError(Exception):
    """What the user has to mend. The message names the file or key, what was found, what to do."""


def run_command(command: Callable[[], None]) -> None:
    """Run a command; end it with one line and exit code 2 at a ``UserError``."""
    try:
        command()
    except UserError as error:
        sys.exit(_fail(f"error: {error}", 2))
    except Interrupted as error:
        sys.exit(_fail(str(error), error.code))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 130))


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the place."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"{where}: cannot be written ({error.strerror or error})") from None


def _fail(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code
