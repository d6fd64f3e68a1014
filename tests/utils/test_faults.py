"""What the machine lacks is one line; a bug keeps its traceback."""

import errno
from pathlib import Path

import pytest
import torch

from utils.errors import UserError
from utils.faults import faults_in_one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory; lower TRAIN.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory; lower TRAIN.batch_size"),
        (OSError(errno.ENOSPC, "No space left"), "some/logs: No space left; free some space; "),
        (OSError(errno.EIO, "I/O error", "some/file"), "some/file: I/O error; --resume continues"),
        (UserError("Caught UserError in x\nOriginal\nutils.errors.UserError: a: bad"), "a: bad"),
        (UserError("a: found b, expected c"), "a: found b, expected c"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error: Exception, line: str) -> None:
    with pytest.raises(UserError) as caught, faults_in_one_line(Path("some/logs"), 0):
        raise error
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_bug_keeps_its_traceback() -> None:
    bugs = RuntimeError("shapes differ"), RuntimeError("Caught RuntimeError in DataLoader worker")
    for bug in bugs:
        with pytest.raises(RuntimeError) as caught, faults_in_one_line(Path("some/logs"), 1):
            raise bug
        assert caught.value is bug
