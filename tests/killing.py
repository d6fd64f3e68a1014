"""Runs a command in a process of its own that is killed: by time, at a file, or half way.

It can also be interrupted at a file.
"""

import io
import os
import random
import signal
import sys
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# Forked from a server that has imported PyTorch: a process starts in a tenth of a second.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["tests.killing", "torch._dynamo", "training.trainer", "training.segment.run"]
)


class Kill(NamedTuple):
    """When a process dies of SIGKILL.

    ``time``: after so many seconds. ``file``: at the so many-th opening, renaming, cutting or
    removing of a file in the output folder. ``half``: with half of the so many-th checkpoint
    written.
    """

    kind: str
    when: float


class Interrupt(NamedTuple):
    """When a process gets a signal: before it opens a file whose path ends like this."""

    name: str
    number: int = signal.SIGINT


def draw_kill(draw: random.Random, seconds: float, files: int, saves: int) -> Kill:
    """One of the three kinds, anywhere in a run."""
    kind = draw.choice(("time", "file", "half"))
    if kind == "time":
        return Kill(kind, draw.uniform(0, seconds))
    return Kill(kind, draw.randint(1, files if kind == "file" else saves))


def run(script: str, arguments: list[str], out: Path, kill: Kill | Interrupt | None = None) -> int:
    """Run a script; its exit code, -9 if it was killed. Its output is in ``out/output``."""
    process = PROCESSES.Process(target=_main, args=(script, arguments, out, kill))
    process.start()
    if isinstance(kill, Kill) and kill.kind == "time":
        process.join(kill.when)
        process.kill()
    process.join()
    return process.exitcode


def _main(script: str, arguments: list[str], out: Path, kill: Kill | Interrupt | None) -> None:
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "scripts"))
    with (out / "output").open("w") as stream:
        sys.stdout = sys.stderr = stream
        from utils.errors import run_command

        if isinstance(kill, Interrupt):
            _signal_at_file(kill)
        elif kill and kill.kind == "file":
            folders = [str(out / name) for name in ("logs", "models", "inference")]
            _die_at_file(tuple(folders), int(kill.when))
        elif kill and kill.kind == "half":
            _die_half_way(int(kill.when))
        sys.argv = [f"{script}.py", *arguments]
        run_command(import_module(script).main)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at_file(folders: tuple[str, ...], number: int) -> None:
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir"):
            count += str(arguments[0]).startswith(folders)
            if count == number:
                _die()

    sys.addaudithook(hook)


def _signal_at_file(interrupt: Interrupt) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs in the background
    waiting = True

    def hook(event: str, arguments: tuple) -> None:
        nonlocal waiting
        if waiting and event == "open" and str(arguments[0]).endswith(interrupt.name):
            waiting = False
            os.kill(os.getpid(), interrupt.number)

    sys.addaudithook(hook)


def _die_half_way(number: int) -> None:
    import torch

    save, count = torch.save, 0

    def die_half_way(content: object, file: io.BufferedWriter) -> None:
        nonlocal count
        count += 1
        if count == number:
            whole = io.BytesIO()
            save(content, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            _die()
        save(content, file)

    torch.save = die_half_way
