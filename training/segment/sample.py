"""The part of a volume, and the length of a run, that ``--preview`` works on."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.part import PartVolume, central, write_crop
from dataloader.volume import MaskVolume, ResampledVolume, Volume
from training.propose_config import RunSize, VolumeFacts
from training.segment.estimate import Speed, estimate, measure_speed
from training.segment.proposal import config_of, propose_adaptation, propose_preview
from utils.config.schema import Config
from utils.progress import about

BUDGET = 300.0  # seconds, from the start of the command
SAFETY = 0.8  # fraction of the time left that is planned with
PREDICTING = 0.3  # fraction of it for predicting the crop, in rounds and at the end
LEAST_ITERATIONS = 100
SECTIONS = 48  # at most, if the pairs need no more
SHRINKING = 0.8  # sides of a crop, relative to the next larger one
CROP, CROP_LABELS = "crop", "crop_labels"


class Sample(NamedTuple):
    """A crop, and the run on it.

    Attributes:
        shape: (sections, height, width).
        iterations: of training.
        whole: of a run on the whole volume.
        seconds: that such a run takes.
    """

    shape: tuple[int, int, int]
    iterations: int
    whole: int
    seconds: float

    @property
    def notes(self) -> list[str]:
        """Lines on what is done."""
        sections, height, width = self.shape
        return [
            f"preview: {sections} sections of {height} x {width} from the middle, "
            f"{self.iterations:,} of {self.whole:,} iterations",
            f"  without --preview: {about(self.seconds)}, and more mitochondria are found",
        ]


def choose_sample(
    sources: list[VolumeFacts],
    target: VolumeFacts,
    size: RunSize,
    device: torch.device,
    began: float,
) -> tuple[Sample, Speed]:
    """The largest crop, and the most iterations, that fit into five minutes on this machine.

    Args:
        sources, target: the volumes.
        size: of the network.
        device: to train on.
        began: ``time.perf_counter()`` at the start of the command.
    """
    whole = config_of(propose_adaptation(sources, target, size), "sample")
    speed = measure_speed(whole, device)
    left = SAFETY * (BUDGET - (time.perf_counter() - began))
    scratch = Path()  # nothing is read, so nothing is written
    for shape in _shapes(target, whole):
        part = target._replace(images=central(target.images, shape))
        config = config_of(propose_preview(sources, part, size), "sample")
        stages = estimate(config, _working(part.images, part, config), speed, scratch)
        seconds = sum(stage.seconds for stage in stages)
        other = seconds - config.TRAIN.total_iters * stages[0].of_item["it"]
        if other <= PREDICTING * left:
            break
    iterations, most = int((left - other) / stages[0].of_item["it"]), whole.TRAIN.total_iters
    iterations = min(most, max(LEAST_ITERATIONS, iterations // 10 * 10))
    full = estimate(whole, _working(target.images, target, whole), speed, scratch)
    return Sample(shape, iterations, most, sum(stage.seconds for stage in full)), speed


def write_sample(target: VolumeFacts, shape: tuple[int, int, int], folder: Path) -> VolumeFacts:
    """Write the crop of a volume, and of its labels if it has any, in its format; open them."""
    size = VoxelSize(target.spacing, *(target.sides or (None, None)))
    size = size if size.whole else None
    crop = _cropped(target.images, shape)
    images = open_volume(write_crop(crop, folder, CROP, size), keep=False, fill=True)
    labels = None
    if target.labels is not None:
        crop = _cropped(target.labels, shape)
        labels = MaskVolume(
            open_volume(write_crop(crop, folder, CROP_LABELS, size, masks=True), keep=False)
        )
    return target._replace(images=images, labels=labels)


def _cropped(volume: Volume, shape: tuple[int, int, int]) -> PartVolume:
    """The crop of a volume with the values of its file."""
    return central(open_volume(Path(volume.where), keep=False), shape)


def _shapes(target: VolumeFacts, whole: Config) -> Iterator[tuple[int, int, int]]:
    """Shapes of crops, from the largest to the smallest."""
    sections, height, width = target.images.shape
    sections = min(sections, max(SECTIONS, 3 * whole.DATA.target_stride))
    working = whole.DATA.pixel_size_working or target.pixel
    sides = target.sides or (target.pixel, target.pixel)
    least = [round(whole.DATA.crop * working / side) + 2 for side in sides]
    while True:
        yield sections, height, width
        smaller = [
            max(round(side * SHRINKING), min(side, limit))
            for side, limit in zip((height, width), least, strict=True)
        ]
        if smaller == [height, width]:
            return
        height, width = smaller


def _working(volume: Volume, facts: VolumeFacts, config: Config) -> Volume:
    """A volume at the working pixel size."""
    working = config.DATA.pixel_size_working
    if working is None or facts.sides is None:
        return volume
    return ResampledVolume(volume, tuple(side / working for side in facts.sides))
