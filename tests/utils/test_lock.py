"""One process at a time in a folder."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.paths import ROOT
from utils.runtime.lock import lock_folder


def test_a_folder_is_free_again_when_the_lock_is_released(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    with pytest.raises(
        UserError, match=rf"in use by another run \(process {os.getpid()} on .*use X"
    ):
        lock_folder(tmp_path, instead="X")
    lock.release()
    lock_folder(tmp_path).release()


def test_a_lock_is_not_held_by_the_workers_of_a_killed_run(tmp_path: Path) -> None:
    child = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from utils.runtime.lock import lock_folder\n"
        "lock = lock_folder(Path(sys.argv[2]))\n"
        "if os.fork() == 0: print('ready', flush=True); sys.stdin.read(); os._exit(0)\n"
        "os.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", child, str(ROOT), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match="in use by another run"):
            lock_folder(tmp_path)
        process.kill()
        process.wait()
        lock_folder(tmp_path).release()  # its child lives and has the file open
        process.stdin.close()


def test_without_locks_on_the_file_system_there_is_a_warning(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    def missing(*_: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    for _ in range(2):  # nobody is held out
        lock_folder(tmp_path).release()
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {tmp_path}/.lock: the file system has no locks")
    assert error.count("\n") == 1


def test_a_place_that_cannot_be_written_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        lock_folder(tmp_path / "file")
