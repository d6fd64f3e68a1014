"""What a busy core costs a training iteration, by threads and by how long they spin.

    python -m benchmarks.threads            # three minutes on two cores that are otherwise idle

Prints the median milliseconds of an iteration, each setting in a process of its own, first on idle
cores and then while another process keeps one core busy. ``GOMP_SPINCOUNT`` is how often a thread
of GNU OpenMP looks for work before it sleeps.
"""

import os
import subprocess
import sys
import time
from statistics import median

from utils.paths import CONFIG_DIR, ROOT

CONFIGS = {"demo": 20, "vnc2lucchi2_small": 8}  # and measured iterations
SETTINGS = {  # by what the table says: threads and GOMP_SPINCOUNT
    "one thread": ("1", None),
    "two threads, library's default": ("2", None),
    "two threads, spin count 2000": ("2", "2000"),
}
WARM_UP = 4  # iterations


def main() -> None:
    """Measure every setting, idle and busy."""
    if len(sys.argv) > 1:
        print(f"{1000 * median(iteration_seconds(sys.argv[1])):.0f}")
        return
    print(f"{'milliseconds an iteration':<32}" + "".join(f"{name:>20}" for name in CONFIGS))
    for name, (threads, spins) in SETTINGS.items():
        for busy in (False, True):
            found = [measure(config, threads, spins, busy) for config in CONFIGS]
            label = f"{name}{', busy' if busy else ''}"
            print(f"{label:<32}" + "".join(f"{value:>20}" for value in found), flush=True)


def measure(config: str, threads: str, spins: str | None, busy: bool) -> str:
    """The median of a process of its own, beside one that computes or alone."""
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
    environment |= {"GOMP_SPINCOUNT": spins} if spins else {}
    neighbour = [sys.executable, "-c", "while True: pass"]
    command = [sys.executable, "-m", "benchmarks.threads", config]
    other = subprocess.Popen(neighbour) if busy else None
    try:
        run = subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
    finally:
        if other:
            other.kill()
            other.wait()
    return run.stdout.strip()


def iteration_seconds(name: str) -> list[float]:
    """Seconds of iterations that adapt, in float32 without compilation."""
    import torch

    from training.setup import build_learning
    from utils.config.load import load_config

    overrides = ["TRAIN.compile=false", "TRAIN.precision=float32"]
    config = load_config(name, overrides, CONFIG_DIR).config
    torch.manual_seed(0)
    step = build_learning(config, torch.device("cpu")).steps.adapt
    source, target = torch.rand(2, 2, 2, config.DATA.crop, config.DATA.crop)
    masks, seconds = (source > 0.9).long(), []
    for iteration in range(1, WARM_UP + CONFIGS[name] + 1):
        begin = time.perf_counter()
        step(iteration, source, masks, target)
        seconds.append(time.perf_counter() - begin)
    return seconds[WARM_UP:]


if __name__ == "__main__":
    main()
