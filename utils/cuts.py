"""A volume predicted from several sides, and over depth: how it is cut, and how that is joined.

    q = mean over the cuts c of mean over |j - i| <= (n_c - 1) / 2 of p_c

p_c being the probabilities of single sections of a cut, and n_c the sections that make up
``TEST.depth``. There is the cut that a volume comes in, its xy sections; with ``TEST.orthoplane``,
or ``BEYOND.orthoplane`` in rounds of pseudo labels, there are its xz and yz planes as well, which a
network reads as it reads sections where voxels are near to cubes: tissue has no preferred
direction. What looks like a mitochondrion from one side, a cloud of vesicles or a membrane cut
flat, mostly does not from the others.

A mean of cuts that do not agree is seldom above half, so less is found in it than in each of them;
less in every round of pseudo labels, which are learned from. Joined cuts hold as much as their
probabilities say: with t the value above which q is as often as it is on the average,

    q <- q (1 - t) / (q (1 - t) + t (1 - q)),   which is half where q was t.

Source: Conrad and Narayan, *Instance segmentation of mitochondria in electron microscopy images
with a generalist deep learning model*, Cell Systems 14, 2023 (ortho-plane inference).
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloader.thickness import sections_in
from dataloader.volume import DerivedVolume, Volume, resample
from utils.config import Config
from utils.depth import choose_count, over_depth
from utils.errors import UserError
from utils.evaluation import choose_pairs, choose_windows
from utils.metrics import THRESHOLD
from utils.prediction import section_pairs
from utils.volumes import Role, pixel_size, section_spacing
from utils.windows import MARGIN, Windows, round_up

LEVELS = 4096  # of probability, that are told apart where the threshold is looked for
LEAST = 0.05  # of values that may take the threshold's place, and most below 1
STRETCHED = 2.0  # spacing of sections over pixel size; above it planes show too little


class Cut(NamedTuple):
    """One way to cut a volume into sections, and how these are predicted.

    Attributes:
        name: "xy", "xz" or "yz".
        axis: of the volume's own (sections, height, width), along which this cut's sections follow.
        volume: the sections.
        pairs: of them, to predict.
        windows: to predict them in.
        count: an odd number of sections, whose mean each prediction is.
    """

    name: str
    axis: int
    volume: Volume
    pairs: list[tuple[int, int]]
    windows: Windows
    count: int


def choose_cuts(
    config: Config,
    volume: Volume,
    role: Role,
    scratch: Path,
    orthoplane: bool,
    limit: int | None = None,
) -> list[Cut]:
    """The cuts a config asks for, the volume's own sections first.

    Args:
        config: ``TEST.depth`` and the sizes.
        volume: at the working pixel size.
        role: whose pixel size and spacing of sections the config gives.
        scratch: a folder, for the sections that planes are read from: as many bytes as the
            volume has, from the first reading until the cuts are gone, in a file without a name.
        orthoplane: xz and yz planes as well: ``TEST.orthoplane``, ``BEYOND.orthoplane``.
        limit: of pairs of each cut, for a quick look; None: all.

    Raises:
        UserError: how far apart sections are is unknown, or much farther than pixels; or
            ``TEST.padded_size`` or ``DATA.target_stride`` do not fit.
    """
    pairs, windows = choose_pairs(config, volume)[:limit], choose_windows(config, volume)
    own = Cut("xy", 0, volume, pairs, windows, choose_count(config, volume, role))
    if not orthoplane:
        return [own]
    depth, (spacing, pixel) = config.TEST.depth, _voxel(config, volume, role)
    sections = Stack(volume, scratch)
    height = max(1, round(len(volume) * spacing / pixel))
    stride = max(1, round(config.DATA.target_stride * spacing / pixel))
    cuts = [own]
    for name, axis in (("xz", 1), ("yz", 2)):
        planes = PlaneVolume(volume, sections, axis, height)
        pairs = section_pairs(len(planes), min(stride, len(planes) - 1))[:limit]
        padded_size = tuple(round_up(side + MARGIN) for side in planes.shape[1:])
        windows = choose_windows(config, planes, padded_size)
        cuts.append(
            Cut(name, axis, planes, pairs, windows, sections_in(depth, pixel) if depth else 1)
        )
    return cuts


class Stack:
    """All sections of a volume in a file, to be read across.

    Args:
        volume: whose sections.
        folder: of the file.
    """

    def __init__(self, volume: Volume, folder: Path) -> None:
        self.volume, self.folder = volume, folder

    @cached_property
    def array(self) -> np.ndarray:
        """(sections, height, width), in the volume's type; written when first asked for."""
        array = scratch_array(self.volume.shape, self.volume.section(0).dtype, self.folder)
        for index in range(len(self.volume)):
            array[index] = self.volume.section(index)
        return array


class PlaneVolume(DerivedVolume):
    """Planes across a volume's sections, with pixels as high as they are wide.

    Args:
        volume: the volume.
        sections: of it.
        axis: of these, along which the planes follow: 1 for xz, 2 for yz.
        height: of a plane, pixels; so high are all sections together.
    """

    def __init__(self, volume: Volume, sections: Stack, axis: int, height: int) -> None:
        self.sections, self.axis = sections, axis
        super().__init__(volume, (volume.shape[axis], height, volume.shape[3 - axis]))

    def section(self, index: int) -> np.ndarray:
        plane = np.ascontiguousarray(self.sections.array.take(index, self.axis))
        return resample(plane, self.shape[1:])


def join(
    cuts: Sequence[Cut],
    reads: Sequence[Callable[[int], np.ndarray]],
    scratch: Path,
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, np.ndarray]]:
    """The predictions of all cuts as one, in the volume's own sections.

    Args:
        cuts: as ``choose_cuts`` gives them.
        reads: of each cut, what gives a section's probability (H, W) float32.
        scratch: a folder; with more than one cut, four bytes a voxel lie there meanwhile.
        check: called before each section, several times for some; may raise.

    Yields:
        (index, probability (H, W) float32 in [0, 1]), in order.
    """
    own, shape = cuts[0], cuts[0].volume.shape
    if len(cuts) == 1:
        for index, section in over_depth(reads[0], shape[0], own.count):
            check()
            yield index, section
        return
    total = scratch_array(shape, np.float32, scratch)
    for cut, read in zip(cuts, reads, strict=True):
        across = (shape[0], cut.volume.shape[2]) if cut.axis else shape[1:]
        for index, section in over_depth(read, len(cut.volume), cut.count):
            check()
            total[(slice(None),) * cut.axis + (index,)] += np.clip(resample(section, across), 0, 1)
    seen, amounts = np.zeros(LEVELS + 1, np.int64), []
    for section in total:
        section /= len(cuts)
        amounts.append(float(section.mean()))
        seen += np.bincount((section * LEVELS).astype(np.int64).ravel(), minlength=LEVELS + 1)
    level = value_above_which(seen, float(np.mean(amounts)))
    for index, section in enumerate(total):
        check()
        yield index, section * (1 - level) / (section * (1 - level) + level * (1 - section))


def value_above_which(seen: np.ndarray, amount: float) -> float:
    """The value above which a fraction of all values is.

    Args:
        seen: how often each of the values 0 to 1, evenly spaced, was seen.
        amount: the fraction; where it is 0 or 1 nothing can be said, and half is returned.

    Returns:
        A value above 0 and below 1.
    """
    above = seen[::-1].cumsum()[::-1] / seen.sum()
    if not 0 < amount < 1:
        return THRESHOLD
    value = int(np.abs(above - amount).argmin()) / (len(seen) - 1)
    return min(max(value, LEAST), 1 - LEAST)


def _voxel(config: Config, volume: Volume, role: Role) -> tuple[float, float]:
    """Spacing of sections and size of working pixels, nm, if they are near to each other."""
    data, key = config.DATA, f"{'TEST' if role == 'val' else 'BEYOND'}.orthoplane"
    spacing = section_spacing(data, role, volume.original)
    pixel = data.pixel_size_working or pixel_size(data, role, volume.original)
    if spacing is None or pixel is None:
        unknown = "section_spacing_target" if spacing is None else "pixel_size_target"
        raise UserError(
            f"{key}: found true, but the voxels of {volume.path} are of unknown size; set "
            f"DATA.{unknown}, or {key} to false"
        )
    if spacing > STRETCHED * pixel:
        raise UserError(
            f"{key}: found true, but the sections of {volume.path} are {spacing:g} nm "
            f"apart and its pixels {pixel:g} nm, expected voxels near to cubes (at most "
            f"{STRETCHED:g} pixels apart); set {key} to false"
        )
    return spacing, pixel


def scratch_array(shape: tuple[int, ...], dtype: np.dtype, folder: Path) -> np.ndarray:
    """Zeros in a file of a folder; it has no name, and is gone with the array."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, shape=shape)
