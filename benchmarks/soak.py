"""Train for an hour on the demo's volumes and check that memory, handles and threads do not grow.

``python -m benchmarks.soak`` prints a line each minute and, at the end, the means of the first and
the last quarter. Exits with code 1 if the last one is more than 2 % and 20 MB above the first.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np

from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections
from utils.paths import ROOT

SHAPE = (16, 256, 256)
SETTINGS = {
    "TRAIN.total_iters": 10**7,
    "TRAIN.num_workers": 1,
    "TRAIN.save_freq": 50,
    "TRAIN.show_freq": 50,
    "TRAIN.valid_freq": 100,
    "TRAIN.display_freq": 10,
}


class Sample(NamedTuple):
    """The resources of a process and its children.

    Attributes:
        iteration: the last logged iteration.
        resident: memory, MB; shared memory counts once.
        handles: number of open files.
        threads: number of threads.
    """

    iteration: int
    resident: float
    handles: int
    threads: int


def main() -> None:
    """Start a run, sample it, stop it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="length of the run")
    parser.add_argument("--every", type=float, default=60, help="seconds between samples")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = soak(Path(folder), args.minutes * 60, args.every)
    quarter = max(1, len(samples) // 4)
    early, late = samples[:quarter], samples[-quarter:]
    grown = False
    print("\nmeans of        first quarter  last quarter")
    for name in ("resident", "handles", "threads"):
        one, other = (mean(getattr(s, name) for s in part) for part in (early, late))
        grown |= other > 1.02 * one and other - one > (20 if name == "resident" else 0)
        print(f"{name:<14} {one:>14.1f} {other:>13.1f}")
    print("grown" if grown else "flat")
    sys.exit(int(grown))


def soak(folder: Path, seconds: float, every: float) -> list[Sample]:
    """Sample a training run of some seconds; samples of the first minute are left out."""
    for seed, (name, microscope) in enumerate(
        {"source": SOURCE_MICROSCOPE, "target": TARGET_MICROSCOPE, "holdout": TARGET_MICROSCOPE}
        .items()
    ):  # fmt: skip
        images, labels = make_volume(seed, SHAPE, microscope)
        write_sections(folder / "demo" / name, images)
        write_sections(folder / "demo" / f"{name}_groundtruth", labels.astype(np.uint8))
    command = [sys.executable, str(ROOT / "scripts/main.py"), "-c", "demo", "--run-name", "soak"]
    command += ["--data", str(folder), "--out", str(folder)]
    command += [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    samples, begin = [], time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        print("minute  iteration  resident MB  handles  threads")
        while time.monotonic() - begin < seconds and process.poll() is None:
            time.sleep(every)
            found = sample(process.pid, folder / "logs/soak/loss.txt")
            if time.monotonic() - begin > 60:
                samples.append(found)
            minute = (time.monotonic() - begin) / 60
            print(
                f"{minute:6.1f}  {found.iteration:9d}  {found.resident:11.1f}  "
                f"{found.handles:7d}  {found.threads:7d}",
                flush=True,
            )
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    if code != 128 + signal.SIGTERM:
        sys.exit(f"the run ended with code {code}, expected {128 + signal.SIGTERM}")
    return samples


def sample(pid: int, losses: Path) -> Sample:
    """The current resources of a process and its children."""
    processes = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    resident, handles, threads = 0.0, 0, 0
    for number in processes:
        place = Path(f"/proc/{number}")
        resident += field(place / "smaps_rollup", "Pss") / 1024
        threads += field(place / "status", "Threads")
        handles += len(list((place / "fd").iterdir()))
    lines = losses.read_text().splitlines() if losses.exists() else []
    iteration = int(lines[-1].split(",")[0].removeprefix("step=")) if lines else 0
    return Sample(iteration, resident, handles, threads)


def field(path: Path, name: str) -> int:
    """The number after a name in a file of /proc."""
    lines = path.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
