"""About how long the stages of ``segment.py`` take on this machine."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from dataloader.volume import Volume
from prediction.orthoplane import SlicingAxis, slicing_axes
from prediction.predictor import NetworkPredictor, views
from training.rounds import phases
from training.setup import build_learning
from utils.config.schema import Config
from utils.progress import Stage
from utils.runtime.device import choose_precision

TRIAL_CROP, TRIAL_WINDOW = 256, 384  # pixels, at most: what is timed is to take seconds
LOADING = 1.15  # an iteration with its augmented pairs, divided by the network's part
STARTING = 15.0  # seconds to open the volumes and start a run
OBJECT_VOXELS = 25e6  # voxels a second when objects are found (docs/performance.md)
REPORT = 10.0  # seconds
ADAPT, PREDICT, OBJECTS, REPORTING = "adapt", "predict", "objects", "report"


class Speed(NamedTuple):
    """Measured seconds.

    Attributes:
        iteration: of training.
        encode, decode: of a pixel of a predicted window.
    """

    iteration: float
    encode: float
    decode: float


def measure_speed(config: Config, device: torch.device, trains: bool = True) -> Speed:
    """Time a few iterations and a predicted pair, on noise.

    Args:
        config: of the network, the crops and the batch.
        device: to compute on.
        trains: whether to time iterations too.
    """
    learning = build_learning(_uncompiled(config), device)
    side = min(config.DATA.crop, TRIAL_CROP) if device.type == "cpu" else config.DATA.crop
    images = torch.rand((config.TRAIN.batch_size, 2, side, side), device=device)
    masks = (images > 0.9).long()
    iteration = 0.0
    if trains:
        seconds = _time(lambda: learning.steps.source(1, images, masks), device)
        iteration = LOADING * seconds * (config.DATA.crop / side) ** 2
    segmentor = learning.learner.networks["segmentor"].eval()
    predictor = NetworkPredictor(segmentor, device, choose_precision(config.TEST.precision, device))
    window = torch.rand((1, TRIAL_WINDOW, TRIAL_WINDOW))
    features = predictor.encode(window)
    encode = _time(lambda: predictor.encode(window), device)
    decode = _time(lambda: predictor.decode(features, features), device)
    return Speed(iteration, encode / TRIAL_WINDOW**2, decode / TRIAL_WINDOW**2)


def estimate(
    config: Config,
    volume: Volume,
    speed: Speed,
    scratch: Path,
    trains: bool = True,
    start: int = 0,
) -> list[Stage]:
    """The stages, with about how long they take.

    Args:
        config: of the run.
        volume: to predict, at the working pixel size.
        speed: of this machine with this config.
        scratch: an existing folder; nothing is left there.
        trains: whether a network is trained.
        start: iterations that are done.
    """
    voxels = len(volume) * volume.original.shape[1] * volume.original.shape[2]
    objects = 2 + voxels / OBJECT_VOXELS
    axes = slicing_axes(config, volume, "val", scratch)
    predicted = {_unit(axis, axes): _section(axis, config, speed) for axis in axes}
    seconds = 2 + sum(len(axis.volume) * predicted[_unit(axis, axes)] for axis in axes)
    later = [
        Stage(PREDICT, seconds, predicted),
        Stage(OBJECTS, objects, {"section": objects / 2 / len(volume)}),
        Stage(REPORTING, REPORT),
    ]
    return [_training(config, volume, speed, scratch, start), *later] if trains else later


def _training(config: Config, volume: Volume, speed: Speed, scratch: Path, start: int) -> Stage:
    """Iterations, and the labelling of the target before each round."""
    left = max(1, config.TRAIN.total_iters - start)
    rounds = sum(phase.learns == "target" and phase.first >= start for phase in phases(config))
    axes = slicing_axes(config, volume, "target", scratch)
    of_item = {f"{axis.name} section": _section(axis, config, speed) for axis in axes}
    labelling = sum(len(axis.volume) * of_item[f"{axis.name} section"] for axis in axes)
    seconds = left * speed.iteration + rounds * labelling
    opening = min(STARTING, 0.1 * seconds)  # counted with the iterations
    of_item["it"] = speed.iteration + opening / left
    done = start * of_item["it"]
    return Stage(ADAPT, done + seconds + opening, of_item, done)


def _section(axis: SlicingAxis, config: Config, speed: Speed) -> float:
    """Seconds for a section along an axis: its windows in all its pairs, each encoded once."""
    height, width = axis.windows.size
    seen = len(views(height, width)) if config.TEST.flips else 1
    pixels = seen * len(axis.windows.corners) * height * width
    return pixels * (speed.encode + len(axis.pairs) * speed.decode / len(axis.volume))


def _unit(axis: SlicingAxis, axes: list[SlicingAxis]) -> str:
    """What ``prediction.predict`` calls a section of an axis."""
    return "section" if len(axes) == 1 else f"{axis.name} section"


def _uncompiled(config: Config) -> Config:
    train = config.TRAIN.model_copy(update={"compile": False})
    return config.model_copy(update={"TRAIN": train})


def _time(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the faster of two calls, after one that warms up unless it is slow."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
        if seconds[-1] > 5:
            break
    return min(seconds[-2:])
