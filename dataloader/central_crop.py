"""The central part of a volume, and its copy on disc in the volume's format."""

from pathlib import Path

import numpy as np

from dataloader.formats.base import VolumeSpec
from dataloader.formats.registry import WRITERS
from dataloader.formats.voxel_size import VoxelSize
from dataloader.volume import TILED_FROM, DerivedVolume, Volume
from utils.files import discard


class CentralCrop(DerivedVolume):
    """The central box of another volume, with a grid of its own.

    Args:
        volume: on its own grid.
        shape: (sections, height, width) of the box, at most those of the volume.
    """

    def __init__(self, volume: Volume, shape: tuple[int, int, int]) -> None:
        super().__init__(volume, shape)
        inside = zip(volume.shape, self.shape, strict=True)
        self.corner = tuple((whole - side) // 2 for whole, side in inside)
        # sections of a large volume are tiled, sections of a small part need not be
        self.tiled = type(volume.original).tiled or max(self.shape[1:]) > TILED_FROM
        self.kept = False

    @property
    def original(self) -> Volume:
        return self

    @property
    def dtype(self) -> np.dtype:
        return self.volume.dtype

    @property
    def names(self) -> list[str]:
        first = self.corner[0]
        return self.volume.names[first : first + len(self)]

    def section(self, index: int) -> np.ndarray:
        first, y, x = self.corner
        return self.volume.crop(first + index, y, x, *self.shape[1:])

    def blank(self, index: int) -> np.ndarray | None:
        first, y, x = self.corner
        return self.volume.blank_crop(first + index, y, x, *self.shape[1:])

    own_blank = blank


def write_crop(
    crop: CentralCrop, folder: Path, stem: str, size: VoxelSize | None, masks: bool = False
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
