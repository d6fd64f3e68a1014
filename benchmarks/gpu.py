"""All that a GPU should be asked on the first day: `make gpu`.

Usage: python -m benchmarks.gpu [--device cpu] [--data DIR] [--out DIR] [--again STAGE ...]

Each stage writes a file STAGE.txt to the folder of results and ends within ten minutes. A stage
whose file is there is not run again, so that the command continues where it was stopped. On a CPU
the stages are shortened, to try the command itself.
"""

import argparse
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench import HEADER, LEGEND, VOLUMES, Row, measured, operations, seconds
from benchmarks.plain import PlainStep, plain_prediction
from model.discriminator import build_discriminator
from model.segmentor import Segmentor
from prediction.predictor import NetworkPredictor
from training.setup import join
from utils.config.schema import Config
from utils.paths import ROOT, Workspace
from utils.runtime.device import choose_device, choose_precision

LONGEST = 600  # seconds of a stage
RUN, ITERATIONS, SHOWN = "gpu", 500, 100
PUBLISHED = ROOT.parent / "shared/reference/logs/vnc2lucchi2"
SHORT = (  # training on a CPU
    *("MODEL.width=4", "DATA.input_size=64", "TRAIN.compile=false"),
    *("TRAIN.display_freq=5", "TRAIN.save_freq=5"),
)


def run(*command: object) -> Iterator[str]:
    """The lines that a command prints, as they come; raises if it fails or takes too long.

    Training that is no longer listened to saves its state and ends.
    """
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = threading.Timer(LONGEST, process.terminate)
    timer.start()
    try:
        yield from map(str.rstrip, process.stdout)
        if code := process.wait():
            raise ChildProcessError(f"exit code {code}: {shlex.join(process.args)}")
    finally:
        timer.cancel()
        process.terminate()
        process.wait()


def tests(device: torch.device, _: argparse.Namespace) -> Iterator[str]:
    """The tests that need a GPU; on a CPU, those that stand for them."""
    chosen = ["--gpu", "--deselect", "tests/test_golden.py"]
    if device.type == "cpu":
        chosen = ["tests/test_no_host_reads.py"]
    yield from run(sys.executable, "-m", "pytest", "-q", *chosen)


def golden(device: torch.device, _: argparse.Namespace) -> Iterator[str]:
    """The method, number by number, against golden numbers in float64."""
    chosen = ["-k", "pseudo_labels"] if device.type == "cpu" else ["--gpu"]
    yield from run(sys.executable, "-m", "pytest", "-q", "tests/test_golden.py", *chosen)


class Work:
    """A training step and a prediction, plain and fast, on a device.

    Args:
        device: to compute on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.precision = device, choose_precision("auto", device)
        small = device.type == "cpu"
        self.width, self.crop, self.section = (8, 64, 128) if small else (64, 512, 1120)
        torch.manual_seed(0)
        modules = [network(self.width) for network in (Segmentor, *(build_discriminator,) * 2)]
        train = {"compile": not small}
        config = Config(NAME="gpu", TRAIN=train, DATA=dict.fromkeys(VOLUMES, "nowhere"))
        self.networks = [module.to(device) for module in modules]
        self.plain_step = PlainStep(*self.networks, config.TRAIN)
        modules = [network(self.width) for network in (Segmentor, *(build_discriminator,) * 2)]
        modules = [module.to(device, memory_format=torch.channels_last) for module in modules]
        made = join(modules, config, self.precision)
        self.fast_step, self.network = (
            made.steps.adapt,
            NetworkPredictor(modules[0], device, self.precision),
        )
        shape = (1, 2, self.crop, self.crop)
        images, target = (torch.rand(shape, device=device) for _ in range(2))
        self.batch = images, (images > 0.5).long(), target
        self.pair = torch.rand(2, self.section, self.section, device=device)

    def step(self, fast: bool) -> None:
        """One training step on source and target."""
        (self.fast_step if fast else self.plain_step)(1, *self.batch)
        self.wait()

    def predict(self, fast: bool) -> None:
        """One pair of sections."""
        if fast:
            current, auxiliary = (self.network.encode(section[None]) for section in self.pair)
            self.network.decode(current, auxiliary)
        else:
            plain_prediction(self.networks[0], self.pair, 1)
        self.wait()

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def matrix_rate(self, side: int = 4096) -> float:
        """Floating-point operations per second of a matrix product in the precision."""
        side = side if self.device.type == "cuda" else 1024
        a, b = (torch.randn(side, side, device=self.device).to(self.precision) for _ in range(2))

        def multiply() -> Tensor:
            product = a @ b
            self.wait()
            return product

        multiply()
        return 2 * side**3 / min(seconds(multiply) for _ in range(7))


def bench(device: torch.device, _: argparse.Namespace) -> Iterator[str]:
    """Plain and fast code in turn, and what the matrix rate allows."""
    work = Work(device)
    rate = work.matrix_rate()
    yield f"matrix rate {work.precision}: {rate / 1e12:.2f} TFLOP/s"
    yield HEADER
    named: dict[str, Callable[[bool], None]] = {
        f"step {work.crop}, width {work.width}": work.step,
        f"pair {work.section}, width {work.width}": work.predict,
    }
    for name, act in named.items():
        with torch.compiler.set_stance("force_eager"):  # the counter hooks into modules
            wall = operations(lambda act=act: act(True)) / rate
        row: Row = measured(name, lambda act=act: act(False), lambda act=act: act(True), 5, wall)
        yield str(row)
    yield LEGEND
    if device.type == "cuda":
        yield f"peak memory: {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"


def profile(device: torch.device, _: argparse.Namespace) -> Iterator[str]:
    """Where the time of five training steps and of five pairs goes."""
    work = Work(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for act in (work.step, work.predict):
        act(True)
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(5):
                act(True)
        order = f"self_{device.type}_time_total"
        yield f"{act.__name__}:"
        yield from profiler.key_averages().table(sort_by=order, row_limit=25).splitlines()


def training(device: torch.device, args: argparse.Namespace) -> Iterator[str]:
    """The first iterations of ``vnc2lucchi2``, their losses beside the published ones."""
    short = device.type == "cpu"
    shown, last = (5, 10) if short else (SHOWN, ITERATIONS)
    settings = ("TRAIN.if_valid=false", *(SHORT if short else (f"TRAIN.save_freq={SHOWN}",)))
    command = [sys.executable, ROOT / "scripts/main.py", "-c", "vnc2lucchi2", "--run-name", RUN]
    command += ["--device", device.type, "--data", args.data, "--out", args.out]
    command += [part for setting in settings for part in ("--set", setting)]
    log = args.out / "logs" / RUN / "loss.txt"
    if (args.out / "models" / RUN / "training_state.ckpt").is_file():
        command.append("--resume")
    elif log.parent.exists():
        command.append("--overwrite")
    if last not in (losses(log) if log.is_file() else {}):
        with closing(run(*command)) as lines:
            for line in lines:
                yield line
                if f"step={last}," in line:
                    break
    ours, theirs = losses(log), losses(PUBLISHED / "loss.txt")
    yield f"{'step':>6} {'loss here':>10} {'published':>10}"
    for step in range(shown, last + 1, shown):
        published = f"{theirs[step]:10.4f}" if step in theirs else f"{'-':>10}"
        yield f"{step:6} {ours[step]:10.4f} {published}"


def losses(path: Path) -> dict[int, float]:
    """The loss of each line of a ``loss.txt``; empty without such a file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {int(a): float(b) for a, b in re.findall(r"step=(\d+), loss=([\d.]+)", text)}


STAGES = {stage.__name__: stage for stage in (tests, golden, bench, profile, training)}


def main() -> int:
    """Run the stages that are not finished; the exit code is the number of those that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu for a trial")
    parser.add_argument("--data", type=Path, default=Workspace().data, help="root of the data tree")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu", help="folder for the results")
    parser.add_argument("--again", nargs="+", default=[], choices=STAGES, help="stages to repeat")
    args = parser.parse_args()
    args.data, args.out = args.data.resolve(), args.out.resolve()
    device = choose_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, stage in STAGES.items():
        file = args.out / f"{name}.txt"
        if file.is_file() and name not in args.again:
            print(f"{name}: {file} is there, not run again")
            continue
        failed += not finish(name, stage(device, args), file)
    return failed


def finish(name: str, lines: Iterator[str], file: Path) -> bool:
    """Print the lines of a stage and write them to a file; False if the stage fails."""
    print(f"== {name}", flush=True)
    begin, part = time.monotonic(), file.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        try:
            for line in lines:
                print(line, flush=True)
                out.write(line + "\n")
        except (OSError, RuntimeError, KeyError) as error:
            print(f"== {name} failed: {error}; see {part}")
            return False
        out.write(f"{time.monotonic() - begin:.0f} s\n")
    part.replace(file)
    return True


if __name__ == "__main__":
    sys.exit(main())
