"""Predictions along several slicing axes, and their mean.

    q = mean over the slicing axes a of mean over |j - i| <= (n_a - 1) / 2 of p_a

p_a are the probabilities of single sections along axis a. n_a is the number of sections in
``TEST.z_average``. The first axis gives the volume's own xy sections. With ``TEST.orthoplane``, and
in rounds of pseudo labels with ``BEYOND.orthoplane``, the xz and yz slices are predicted as well.
Where voxels are nearly cubes a network reads these as it reads sections. A cloud of vesicles or a
membrane cut flat may look like a mitochondrion in one direction, but rarely does in all three.

Source: Conrad and Narayan, *Instance segmentation of mitochondria in electron microscopy images
with a generalist deep learning model*, Cell Systems 14, 2023 (ortho-plane inference).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloader.orthogonal_slices import XZ, YZ, OrthogonalSlices, scratch_array
from dataloader.roles import Role, pixel_size, section_spacing
from dataloader.volume import Volume, resample
from prediction.predictor import Task, section_pairs
from prediction.volume import choose_pairs, choose_windows
from prediction.windows import MARGIN, Windows, round_up
from prediction.z_average import averaged_sections, sections_in, z_averaged
from utils.config.schema import Config
from utils.errors import UserError

MAX_ANISOTROPY = 2.0  # section spacing / pixel size; above it slices show too little


class SlicingAxis(NamedTuple):
    """A volume's sections along one axis, and how they are predicted.

    Attributes:
        name: "xy", "xz" or "yz", the plane of the sections.
        dim: dimension of the volume (sections, height, width) along which they are stacked.
        volume: the sections.
        pairs: of sections to predict.
        windows: of each section.
        count: odd number of sections over which predictions are averaged.
    """

    name: str
    dim: int
    volume: Volume
    pairs: list[tuple[int, int]]
    windows: Windows
    count: int

    def task(self, batch_size: int) -> Task:
        """What ``predict_volume`` takes."""
        return Task(self.volume, self.pairs, self.windows, batch_size)

    @property
    def stride(self) -> int:
        """Sections between the two of a pair."""
        current, auxiliary = self.pairs[0]
        return auxiliary - current


def slicing_axes(
    config: Config, volume: Volume, role: Role, scratch: Path, limit: int | None = None
) -> list[SlicingAxis]:
    """The axes along which a volume is predicted, that of its own sections first.

    Args:
        config: ``TEST.orthoplane`` adds xz and yz for the validation volume, ``BEYOND.orthoplane``
            for the target.
        volume: at the working pixel size.
        role: of the volume.
        scratch: folder for the orthogonal slices: unnamed files of twice the volume's size, which
            exist from the first read until the axes are garbage-collected.
        limit: maximum number of pairs of each axis, for a quick check; None: all.

    Raises:
        UserError: the section spacing is unknown or much larger than the pixels; or
            ``TEST.padded_size`` or ``DATA.target_stride`` does not fit the volume.
    """
    pairs, windows = choose_pairs(config, volume)[:limit], choose_windows(config, volume)
    axes = [SlicingAxis("xy", 0, volume, pairs, windows, averaged_sections(config, volume, role))]
    if not (config.TEST if role == "val" else config.BEYOND).orthoplane:
        return axes
    thickness, (spacing, pixel) = config.TEST.z_average, _voxel(config, volume, role)
    height = max(1, round(len(volume) * spacing / pixel))
    stride = max(1, round(config.DATA.target_stride * spacing / pixel))
    for name, dim in (("xz", XZ), ("yz", YZ)):
        slices = OrthogonalSlices(volume, dim, height, scratch)
        pairs = section_pairs(len(slices), min(stride, len(slices) - 1))[:limit]
        padded_size = tuple(round_up(side + MARGIN) for side in slices.shape[1:])
        windows = choose_windows(config, slices, padded_size)
        count = sections_in(thickness, pixel) if thickness else 1
        axes.append(SlicingAxis(name, dim, slices, pairs, windows, count))
    return axes


def join(
    axes: Sequence[SlicingAxis],
    reads: Sequence[Callable[[int], np.ndarray]],
    scratch: Path,
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Average the predictions of all axes on the volume's own sections.

    Args:
        axes: from ``slicing_axes``.
        reads: for each axis, a function that returns a section's probability (H, W) float32.
        scratch: folder; with more than one axis it temporarily holds four bytes for each voxel.
        check: called before each section; may raise.

    Yields:
        (index, probability (H, W) float32 in [0, 1]), in order.
    """
    own, shape = axes[0], axes[0].volume.shape
    if len(axes) == 1:
        for index, section in z_averaged(reads[0], shape[0], own.count):
            check()
            yield index, section
        return
    total = scratch_array(shape, np.float32, scratch)
    for axis, read in zip(axes, reads, strict=True):
        across = (shape[0], axis.volume.shape[2]) if axis.dim else shape[1:]
        for index, section in z_averaged(read, len(axis.volume), axis.count):
            check()
            total[(slice(None),) * axis.dim + (index,)] += np.clip(resample(section, across), 0, 1)
    for index, section in enumerate(total):
        check()
        yield index, section / len(axes)


def _voxel(config: Config, volume: Volume, role: Role) -> tuple[float, float]:
    """Section spacing and working pixel size, nm; raises UserError unless they are similar."""
    data, key = config.DATA, f"{'TEST' if role == 'val' else 'BEYOND'}.orthoplane"
    spacing = section_spacing(data, role, volume.original)
    pixel = data.pixel_size_working or pixel_size(data, role, volume.original)
    if spacing is None or pixel is None:
        unknown = "section_spacing_target" if spacing is None else "pixel_size_target"
        raise UserError(
            f"{key}: found true, but the voxels of {volume.where} are of unknown size; set "
            f"DATA.{unknown}, or {key} to false"
        )
    if spacing > MAX_ANISOTROPY * pixel:
        raise UserError(
            f"{key}: found true, but the sections of {volume.where} are {spacing:g} nm "
            f"apart and its pixels {pixel:g} nm, expected voxels near to cubes (at most "
            f"{MAX_ANISOTROPY:g} pixels apart); set {key} to false"
        )
    return spacing, pixel
