"""Benchmarks: each part of the project against plain code, and against the limit of the machine.

The plain and the fast code run in turn in one process. The table shows their median times, the
ratio with its range over the rounds, the wall (the least time that the measured matrix rate or
memory bandwidth allows), and the fraction of this limit that the fast code reaches.
"""

import argparse
import copy
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import h5py
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import PlainStep, plain_prediction, plain_sample, plain_scores
from dataloader.formats.folder import section_files
from dataloader.formats.opening import open_volume
from dataloader.pairs import PairDataset, Sampling
from dataloader.synthetic import make_volume, write_sections
from dataloader.volume import normalise
from model.checkpoint import Checkpoint, save_checkpoint
from model.discriminator import build_discriminator
from model.segmentor import Segmentor
from prediction.metrics import SectionScores
from prediction.predictor import NetworkPredictor, Task, predict_volume, section_pairs
from prediction.windows import whole_section
from training.setup import join
from utils.config.schema import Config
from utils.paths import ROOT
from utils.runtime.device import choose_device, choose_precision

CPU = torch.device("cpu")


class Size(NamedTuple):
    """The sizes of the benchmarks."""

    width: int  # of the network in training and inference
    crop: int  # of the training step
    section: tuple[int, int]  # height and width of the predicted sections
    rounds: int
    memory_sections: int  # sections of 4096 x 4096 in the memory measurement


FULL = Size(width=64, crop=256, section=(768, 1024), rounds=5, memory_sections=100)
QUICK = Size(width=16, crop=192, section=(384, 512), rounds=5, memory_sections=3)


class Row(NamedTuple):
    """A line of the table; times in seconds."""

    name: str
    plain: float
    fast: float
    ratios: list[float]
    wall: float

    def __str__(self) -> str:
        spread = f"{min(self.ratios):.2f}-{max(self.ratios):.2f}"
        return (
            f"{self.name:<27} {self.plain * 1e3:8.1f} {self.fast * 1e3:8.1f} "
            f"{self.plain / self.fast:6.2f} {spread:>11} {self.wall * 1e3:8.2f} "
            f"{self.wall / self.fast:5.0%}"
        )


HEADER = f"{'':<27} {'plain':>8} {'fast':>8} {'ratio':>6} {'range':>11} {'wall':>8} {'of it':>5}"
LEGEND = (
    "Milliseconds, medians. Wall: the operations at the matrix rate (step, sections), or the\n"
    "bytes at the copy bandwidth (pairs, scores)."
)


def measured(
    name: str,
    plain: Callable[[], object],
    fast: Callable[[], object],
    rounds: int,
    wall: float,
) -> Row:
    """Time plain and fast code in turn, after one run of each as a warm-up."""
    plain(), fast()
    times = [(seconds(plain), seconds(fast)) for _ in range(rounds)]
    slow, quick = (median(column) for column in zip(*times, strict=True))
    return Row(name, slow, quick, [a / b for a, b in times], wall)


def seconds(work: Callable[[], object]) -> float:
    """Time of one call: elapsed, or on a single thread of a CPU the process's own.

    Other programs disturb the latter least.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if alone else time.perf_counter
    begin = clock()
    work()
    return clock() - begin


def matrix_rate(dtype: torch.dtype, side: int = 2048) -> float:
    """Measure the floating-point operations per second of a matrix product."""
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(seconds(lambda: a @ b) for _ in range(7))


def copy_bandwidth(size: int = 2**27) -> float:
    """Measure the bytes per second, read plus written, of a copy."""
    source = np.ones(size, np.uint8)
    target = source.copy()
    return 2 * size / min(seconds(lambda: np.copyto(target, source)) for _ in range(7))


def operations(work: Callable[[], object]) -> int:
    """Count the floating-point operations of convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


VOLUMES = ("data_dir_img", "data_dir_label", "data_dir_target")  # required keys; none is read


def bench_step(size: Size, precision: torch.dtype, rate: float) -> Row:
    """Time a training step on source and target, batch 1."""
    torch.manual_seed(0)
    width = size.width
    networks = [Segmentor(width), build_discriminator(width), build_discriminator(width)]
    config = Config(NAME="bench", DATA=dict.fromkeys(VOLUMES, "nowhere"))
    plain = PlainStep(*copy.deepcopy(networks), config.TRAIN)
    networks = [network.to(memory_format=torch.channels_last) for network in networks]
    fast = join(networks, config, precision).steps.adapt
    shape = (1, 2, size.crop, size.crop)
    batch = torch.rand(shape), (torch.rand(shape) > 0.5).long(), torch.rand(shape)
    flops = operations(lambda: fast(1, *batch))
    name = f"step {size.crop}, width {width}"
    rounds = min(size.rounds, 3) if width == 64 else size.rounds
    return measured(
        name,
        lambda: plain(1, *batch),
        lambda: fast(1, *batch),
        rounds,
        flops / rate,
    )


def bench_pairs(size: Size, bandwidth: float, folder: Path, pairs: int = 24) -> Row:
    """Time training pairs of 512 pixels from sections of 768 x 1024, in one process."""
    for name, volume in zip(("images", "masks"), make_volume(0, (3, 768, 1024)), strict=True):
        write_sections(folder / name, volume)
    images, masks = open_volume(folder / "images"), open_volume(folder / "masks", masks=True)
    files = [section_files(folder / name)[:2] for name in ("images", "masks")]
    samples = PairDataset(images, masks, Sampling(1, 512, seed=(0, 0), length=10**6))
    numbers = iter(range(10**6))

    def plain() -> None:
        for _ in range(pairs):
            seed = next(numbers)
            plain_sample(*files, samples.augment, seed)

    def fast() -> None:
        for _ in range(pairs):
            samples[next(numbers)]

    moved = 2 * 512**2 * (1 + 4 + 1 + 1)  # uint8 to float32 and uint8 to uint8, twice
    return measured(
        f"{pairs} training pairs",
        plain,
        fast,
        size.rounds,
        pairs * moved / bandwidth,
    )


def bench_inference(
    size: Size, precision: torch.dtype, rate: float, folder: Path, compiles: bool
) -> Row:
    """Time the prediction of four whole sections at stride 1, without padding."""
    torch.manual_seed(0)
    sections = 4
    images, _ = make_volume(0, (sections, *size.section))
    write_sections(folder / "sections", images)
    volume = open_volume(folder / "sections")
    plain_network = Segmentor(size.width).eval()
    fast_network = copy.deepcopy(plain_network).to(memory_format=torch.channels_last)
    predict = NetworkPredictor(fast_network, CPU, precision)
    pairs, windows = section_pairs(sections, 1), whole_section(size.section, size.section)

    def plain() -> None:
        scaled = torch.from_numpy(np.stack([normalise(section) for section in images]))
        plain_prediction(plain_network, scaled, 1)

    def fast() -> None:
        for _ in predict_volume(predict, Task(volume, pairs, windows)):
            pass

    flops = operations(fast)
    if compiles:
        predict.compile_for([(1, *size.section)])
    rounds = 2 if size.width == 64 else size.rounds
    name = f"{sections} sections, width {size.width}" + (", compiled" if compiles else "")
    return measured(name, plain, fast, rounds, flops / rate)


def bench_scores(size: Size, bandwidth: float, sections: int = 4) -> Row:
    """Time mAP, F1, MCC and IoU of sections of 768 x 1024, on one core."""
    _, labels = make_volume(0, (sections, 768, 1024))
    labels = labels > 0
    draw = np.random.default_rng(0)
    noise = draw.standard_normal(labels.shape, np.float32)
    logits = [cv2.GaussianBlur(12.0 * label - 6, (0, 0), 4) for label in labels]
    probability = 1 / (1 + np.exp(-np.stack(logits) - noise)).astype(np.float32)

    def fast() -> None:
        scores = SectionScores()
        for pair in zip(probability, labels, strict=True):
            scores.add(*pair)
        scores.result()

    return measured(
        f"scores of {sections} sections",
        lambda: plain_scores(probability, labels),
        fast,
        min(size.rounds, 3),
        5 * labels.size / bandwidth,
    )


def memory_of_a_volume(sections: int, folder: Path) -> str:
    """Measure a process that predicts and scores sections of 4096 x 4096: peak memory and time."""
    draw = np.random.default_rng(0)
    for name in ("raw", "labels"):
        with h5py.File(folder / f"{name}.hdf", "w") as file:
            dataset = file.create_dataset("main", (sections, 4096, 4096), np.uint8)
            for index in range(sections):
                section = draw.integers(0, 256, (4096, 4096), np.uint8)
                dataset[index] = section if name == "raw" else section // 230
    (folder / "models/memory").mkdir(parents=True)
    torch.manual_seed(0)
    weights = Segmentor(4).state_dict()
    save_checkpoint(folder / "models/memory/model.ckpt", Checkpoint(weights, iteration=0))
    config = folder / "memory.yaml"
    paths = {f"data_dir_{key}": "raw" for key in ("img", "target", "val")}
    paths |= {"data_dir_label": "labels", "data_dir_val_label": "labels"}
    config.write_text(f"NAME: memory\nMODEL: {{width: 4}}\nDATA: {paths}\n", encoding="utf-8")
    command = [sys.executable, ROOT / "scripts/inference.py", "-c", config, "-mm", "map_3d"]
    begin = time.perf_counter()
    command += ["--data", folder, "--out", folder]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = time.perf_counter() - begin
    peak = next(line for line in output.splitlines() if line.startswith("peak memory"))
    return f"{sections} x 4096 x 4096, width 4, predicted and scored: {peak}, {spent:.0f} s"


def main() -> None:
    """Run all benchmarks and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, about two minutes")
    parser.add_argument(
        "--memory-sections", type=int, metavar="N", help="sections in the memory measurement"
    )
    parts = ("step", "pairs", "inference", "scores", "memory")
    parser.add_argument("--width", type=int, help="of the network")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART")
    args = parser.parse_args()
    if args.memory_sections is not None and args.memory_sections < 2:
        parser.error("--memory-sections: expected 2 or more")
    size = QUICK if args.quick else FULL
    size = size._replace(width=args.width or size.width)
    device = choose_device("cpu")
    precision = choose_precision("auto", device)
    rates = {dtype: matrix_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    bandwidth = copy_bandwidth()

    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype, rate in rates.items():
        print(f"matrix rate {str(dtype).removeprefix('torch.')}: {rate / 1e9:.0f} GFLOP/s")
    print(f"copy bandwidth: {bandwidth / 1e9:.1f} GB/s; precision of the fast code: {precision}")
    print(f"\n{HEADER}")
    with tempfile.TemporaryDirectory() as folder:
        rate = rates[precision]
        benches = {
            "step": [lambda: bench_step(size, precision, rate)],
            "pairs": [lambda: bench_pairs(size, bandwidth, Path(folder))],
            "inference": [
                partial(bench_inference, size, precision, rate, Path(folder), compiles)
                for compiles in (False, True)
            ],
            "scores": [lambda: bench_scores(size, bandwidth)],
        }
        for bench in (bench for part, row in benches.items() if part in args.only for bench in row):
            print(bench(), flush=True)
        print(LEGEND)
        if "memory" in args.only:
            sections = args.memory_sections or size.memory_sections
            print("\n" + memory_of_a_volume(sections, Path(folder)))


if __name__ == "__main__":
    main()
