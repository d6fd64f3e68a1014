"""What goes wrong around a run that trains: one clear line each, and nothing lost."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from model.checkpoint import TRAINING_STATE, load_file
from tests.projects import RESUME, Project


def mounts() -> bool:
    """Whether this user may mount in a name space of its own."""
    trial = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        bool(shutil.which("unshare")) and not subprocess.run(trial, capture_output=True).returncode
    )


needs_mounts = pytest.mark.skipif(not mounts(), reason="needs the right to mount (root on Linux)")


def test_two_runs_never_write_to_one_folder(project: Project) -> None:
    with project.start("--set", "TRAIN.total_iters=100000") as process:
        assert any(line.startswith("step=4,") for line in process.stdout)  # saved at 2
        for option in ("--overwrite", "--resume"):
            error = project.fail(option, "--set", "TRAIN.total_iters=100000")
            assert f"logs/tiny: in use by another run (process {process.pid} on " in error
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (project.models / TRAINING_STATE).is_file()
    project.train("--overwrite")  # a killed process holds no lock


def test_a_full_disc_ends_a_run_in_one_line(resumable: Project) -> None:
    """A limit on the size of files does to a process what a full disc does, one file at a time."""
    state = (resumable.models / TRAINING_STATE).read_bytes()
    limit = len(state) // 2
    with resumable.start(
        *RESUME, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    ) as process:
        _, error = process.communicate()
    assert process.returncode == 2, error
    assert error.count("\n") == 1
    assert f"cannot be written ({os.strerror(errno.EFBIG)}); the previous checkpoint" in error
    assert (resumable.models / TRAINING_STATE).read_bytes() == state
    assert not list(resumable.models.glob("*.part"))
    resumable.train(*RESUME)


@needs_mounts
@pytest.mark.parametrize("room", [20, 200, 400])  # for logs only, for a checkpoint, for some
def test_no_room_on_the_disc(project: Project, room: int) -> None:
    """On a disc of some kilobytes; what was saved before is whole."""
    out = project.root / "small"
    out.mkdir()
    keep = f"; code=$?; cp -r {out} {project.root}/left; exit $code"
    before = f'mount -t tmpfs -o size={room}k none {out}; "$0" "$@" --out {out}{keep}'
    with project.start(before=before) as process:
        _, error = process.communicate()
    assert process.returncode == 2, error
    assert error.count("\n") == 1, error
    assert os.strerror(errno.ENOSPC) in error
    for path in (project.root / "left").rglob("*.ckpt"):
        load_file(path)


@needs_mounts
def test_a_read_only_output_folder(project: Project) -> None:
    before = f"mount --bind {project.root} {project.root}; mount -o remount,ro,bind {project.root}"
    with project.start(before=before) as process:
        _, error = process.communicate()
    assert process.returncode == 2
    assert error.count("\n") == 1
    assert f"cannot be written ({os.strerror(errno.EROFS)})" in error


@pytest.mark.parametrize("name", ["logs", "logs/tiny", "models/tiny"])
def test_a_file_where_a_folder_is_due(project: Project, name: str) -> None:
    (project.root / name).parent.mkdir(exist_ok=True)
    (project.root / name).write_text("")
    assert "cannot be written" in project.fail()


def test_a_worker_that_dies_is_named(project: Project) -> None:
    settings = ("TRAIN.num_workers=1", "TRAIN.total_iters=100000")
    with project.start(*(part for s in settings for part in ("--set", s))) as process:
        assert any(line.startswith("step=2,") for line in process.stdout)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        commands = {c: Path(f"/proc/{c}/cmdline").read_text() for c in children}
        worker = next(c for c, line in commands.items() if "main.py" in line)
        os.kill(int(worker), signal.SIGKILL)
        _, error = process.communicate(timeout=300)
    assert process.returncode == 2, error
    assert error.count("\n") == 1, error
    # PyTorch notices by a signal, "(pid 7)", or when it waits for pairs, "(pid(s) 7)"
    assert re.search(
        rf"TRAIN.num_workers 1: a process that loads pairs failed \(.*\b{worker}\)", error
    )


@needs_mounts
@pytest.mark.parametrize("room", ["8k", "100k"])  # not for the queues, not for the pairs
def test_shared_memory_that_is_too_small(project: Project, room: str) -> None:
    before = f"mount -t tmpfs -o size={room} none /dev/shm"
    settings = ("--set", "TRAIN.num_workers=1", "--set", "TRAIN.batch_size=16")
    with project.start(*settings, before=before) as process:
        _, error = process.communicate(timeout=300)
    assert process.returncode == 2, error
    assert error.count("\n") == 1, error
    assert "TRAIN.num_workers 1: a process that loads pairs failed (" in error
    assert "shared memory (/dev/shm)" in error
    assert "TRAIN.num_workers=0" in error
