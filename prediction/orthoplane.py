"""A volume predicted from several sides, and over depth: how it is cut, and how that is joined.

    q = mean over the cuts c of mean over |j - i| <= (n_c - 1) / 2 of p_c

p_c being the probabilities of single sections of a cut, and n_c the sections that make up
``TEST.depth``. There is the cut that a volume comes in, its xy sections; with ``TEST.orthoplane``,
or ``BEYOND.orthoplane`` in rounds of pseudo labels, there are its xz and yz planes as well, which a
network reads as it reads sections where voxels are near to cubes: tissue has no preferred
direction. What looks like a mitochondrion from one side, a cloud of vesicles or a membrane cut
flat, mostly does not from the others.

Source: Conrad and Narayan, *Instance segmentation of mitochondria in electron microscopy images
with a generalist deep learning model*, Cell Systems 14, 2023 (ortho-plane inference).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloader.orthogonal_slices import XZ, YZ, PlaneVolume, scratch_array
from dataloader.roles import Role, pixel_size, section_spacing
from dataloader.volume import Volume, resample
from prediction.predictor import section_pairs
from prediction.volume import choose_pairs, choose_windows
from prediction.windows import MARGIN, Windows, round_up
from prediction.z_average import choose_count, over_depth, sections_in
from utils.config.schema import Config
from utils.errors import UserError

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

    @property
    def stride(self) -> int:
        """Sections between the two of a pair."""
        current, auxiliary = self.pairs[0]
        return auxiliary - current


def choose_cuts(
    config: Config, volume: Volume, role: Role, scratch: Path, limit: int | None = None
) -> list[Cut]:
    """The cuts in which a config has a volume predicted, its own sections first.

    Args:
        config: ``TEST``, the sizes, and whether there are planes: ``TEST.orthoplane`` for the
            validation volume, ``BEYOND.orthoplane`` for the target.
        volume: at the working pixel size.
        role: of the volume.
        scratch: a folder, for the planes: twice as many bytes as the volume has, from the first
            reading until the cuts are gone, in files without a name.
        limit: of pairs of each cut, for a quick look; None: all.

    Raises:
        UserError: how far apart sections are is unknown, or much farther than pixels; or
            ``TEST.padded_size`` or ``DATA.target_stride`` do not fit.
    """
    pairs, windows = choose_pairs(config, volume)[:limit], choose_windows(config, volume)
    cuts = [Cut("xy", 0, volume, pairs, windows, choose_count(config, volume, role))]
    if not (config.TEST if role == "val" else config.BEYOND).orthoplane:
        return cuts
    depth, (spacing, pixel) = config.TEST.depth, _voxel(config, volume, role)
    height = max(1, round(len(volume) * spacing / pixel))
    stride = max(1, round(config.DATA.target_stride * spacing / pixel))
    for name, axis in (("xz", XZ), ("yz", YZ)):
        planes = PlaneVolume(volume, axis, height, scratch)
        pairs = section_pairs(len(planes), min(stride, len(planes) - 1))[:limit]
        padded_size = tuple(round_up(side + MARGIN) for side in planes.shape[1:])
        windows = choose_windows(config, planes, padded_size)
        count = sections_in(depth, pixel) if depth else 1
        cuts.append(Cut(name, axis, planes, pairs, windows, count))
    return cuts


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
    for index, section in enumerate(total):
        check()
        yield index, section / len(cuts)


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
