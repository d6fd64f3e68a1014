"""A part of a volume, and its copy on disc in the volume's format."""

import re
from pathlib import Path

import numpy as np

from dataloader.formats.base import VolumeSpec
from dataloader.formats.registry import WRITERS
from dataloader.formats.voxel_size import VoxelSize
from dataloader.volume import TILED_FROM, DerivedVolume, Volume
from utils.errors import UserError
from utils.files import discard

RANGE = re.compile(r"\s*(\d*)\s*:\s*(\d*)\s*")


class PartVolume(DerivedVolume):
    """A box of another volume, with a grid of its own.

    Args:
        volume: on its own grid.
        corner: (section, row, column) of its first voxel.
        shape: (sections, height, width) of the box, inside of the volume.
    """

    def __init__(
        self, volume: Volume, corner: tuple[int, int, int], shape: tuple[int, int, int]
    ) -> None:
        super().__init__(volume, shape)
        self.corner = corner
        # sections of a large volume are tiled, sections of a small part need not be
        self.tiled = type(volume.original).tiled or max(self.shape[1:]) > TILED_FROM
        self.kept = False

    @property
    def original(self) -> Volume:
        return self

    @property
    def origin(self) -> tuple[int, int, int]:
        whole = self.volume.original.origin
        return tuple(sum(pair) for pair in zip(whole, self.corner, strict=True))

    @property
    def dtype(self) -> np.dtype:
        return self.volume.crop(*self._place(0), 1, 1).dtype  # of a voxel that is needed anyway

    @property
    def names(self) -> list[str]:
        first = self.corner[0]
        return self.volume.names[first : first + len(self)]

    def section(self, index: int) -> np.ndarray:
        return self.volume.crop(*self._place(index), *self.shape[1:])

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        height, width = min(height, self.shape[1] - y), min(width, self.shape[2] - x)
        return self.volume.crop(*self._place(index, y, x), height, width)

    def blank(self, index: int) -> np.ndarray | None:
        return self.volume.blank_crop(*self._place(index), *self.shape[1:])

    own_blank = blank

    def _place(self, index: int, y: int = 0, x: int = 0) -> tuple[int, int, int]:
        """A place of the part in the whole volume."""
        first, top, left = self.corner
        return first + index, top + y, left + x


class BoxVolume(PartVolume):
    """The box that the user names after a path, as in ``stack.tif[0:50, 0:2000, 500:2500]``.

    Args:
        volume: on its own grid.
        box: what is between the brackets: first voxel and one after the last along z, y and x;
            nothing stands for the first or last voxel of the volume.

    Raises:
        UserError: the box is not written like this, or is not inside of the volume.
    """

    def __init__(self, volume: Volume, box: str) -> None:
        ranges = [RANGE.fullmatch(part) for part in box.split(",")]
        if len(ranges) != 3 or not all(ranges):
            raise UserError(
                f"{volume.where}: found [{box}] after it, expected a box [z0:z1, y0:y1, x0:x1] of "
                "first voxels and one after the last, as in [0:50, 0:2000, 500:2500]"
            )
        firsts = tuple(int(found[1] or 0) for found in ranges)
        ends = [int(f[2] or side) for f, side in zip(ranges, volume.shape, strict=True)]
        for axis, first, end, side in zip("zyx", firsts, ends, volume.shape, strict=True):
            if not first < end <= side:
                raise UserError(
                    f"{volume.where}: found {first}:{end} along {axis} in [{box}], expected a "
                    f"part of 0:{side}"
                )
        shape = tuple(end - first for first, end in zip(firsts, ends, strict=True))
        super().__init__(volume, firsts, shape)

    @property
    def where(self) -> str:
        return self.volume.where + self._box

    def fingerprint(self) -> str:
        """As of the volume; it changes with the box as well."""
        return self.volume.fingerprint() + self._box

    @property
    def _box(self) -> str:
        ends = (f + side for f, side in zip(self.corner, self.shape, strict=True))
        ranges = (f"{first}:{end}" for first, end in zip(self.corner, ends, strict=True))
        return f"[{','.join(ranges)}]"


def central(volume: Volume, shape: tuple[int, int, int]) -> PartVolume:
    """The box of this shape in the middle of a volume that is at least as large."""
    inside = zip(volume.shape, shape, strict=True)
    return PartVolume(volume, tuple((whole - side) // 2 for whole, side in inside), shape)


def top_left(volume: Volume, side: int) -> PartVolume:
    """The top-left square of each section, clipped at the border."""
    shape = (len(volume), *(min(side, length) for length in volume.shape[1:]))
    return PartVolume(volume, (0, 0, 0), shape)


def write_crop(
    crop: PartVolume, folder: Path, stem: str, size: VoxelSize | None, masks: bool = False
) -> Path:
    """Write a crop in the format of its volume, with the values of the file; replaces others.

    Args:
        crop: of a volume as ``open_volume`` reads it.
        folder: for the file.
        stem: of the file's name.
        size: written where the format has a place for it.
        masks: whether the values are labels.

    Returns:
        The file or folder.
    """
    names = [f"{Path(name).stem}.png" for name in crop.names]
    dtype = _written(crop.dtype, crop.kind)
    spec = VolumeSpec(crop.shape, dtype, size, names, masks)
    for kind in WRITERS.values():  # an earlier crop may have another format or other sections
        discard(folder / f"{stem}{kind.suffix}")
    with WRITERS[crop.kind](folder, stem, spec) as writer:
        for index in range(len(crop)):
            writer.write(index, crop.section(index).astype(dtype))
    return writer.path


def _written(dtype: np.dtype, kind: str) -> type:
    """The type of ``VolumeSpec`` that keeps the values of a dtype; float32 for signed numbers."""
    if kind == "mrc" and dtype.itemsize == 1:
        return np.float32  # its bytes are masks
    types = {"uint8": np.uint8, "bool": np.uint8, "uint16": np.uint16, "uint32": np.uint32}
    return types.get(dtype.name, np.float32)
