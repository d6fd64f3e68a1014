"""Base classes of the formats: volumes in array files, and writers of volumes."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from dataloader.formats.axes import Stack
from dataloader.formats.voxel_size import SizeFound, VoxelSize, plausible
from dataloader.volume import Volume
from utils.errors import UserError
from utils.files import discard

Format = Literal["folder", "tiff", "hdf5", "ome-zarr", "mrc", "nifti"]
CHUNK = 512  # pixels, side of the chunks of HDF5 and Zarr
MEMORY_SHARE = 0.25  # of the available memory, for a volume that is kept and for cached chunks


class ArrayVolume(Volume):
    """A volume that a library presents as an array. Each process opens the file itself.

    Args:
        path: of the file or store.
        dataset: name of the array in it, if the format supports several.

    Raises:
        UserError: the file is unreadable, or does not hold an array of grey sections.
    """

    format_name: str  # for messages

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        self.path, self.dataset = path, dataset
        self._array: Any = None
        self._process = 0
        try:
            array = self.array
            found = self._read_voxel_size() or SizeFound(None, "")
        except UserError:
            raise
        except Exception as error:  # libraries raise many types for a broken file
            raise UserError(
                f"{self.where}: not a readable {self.format_name} ({message_of(error)})"
            ) from None
        if min(array.shape) < 1:
            raise UserError(
                f"{self.where}: found shape {tuple(array.shape)}, expected (sections, height, "
                "width) of grey values"
            )
        if np.dtype(array.dtype).kind not in "uifb":
            raise UserError(f"{self.where}: found type {array.dtype}, expected grey values")
        self.voxel_size = plausible(found.size, self.where)
        self.voxel_size_from = found.where if self.voxel_size else None
        self.voxel_size_note = found.note
        super().__init__(array.shape)
        self._check()
        self.close()

    @property
    def where(self) -> str:
        return f"{self.path}:{self.dataset}" if self.dataset else str(self.path)

    @property
    def array(self) -> Any:
        """The open array, (sections, height, width); index it with [section, rows, columns]."""
        if self._array is None or self._process != os.getpid():  # handles do not survive a fork
            self._array, self._process = self._open(), os.getpid()
        return self._array

    def close(self) -> None:
        self._array = None

    def fingerprint(self) -> str:
        opened = self._array is not None
        try:
            return super().fingerprint()
        finally:
            if not opened:
                self.close()

    def section(self, index: int) -> np.ndarray:
        return self._read(index, slice(None), slice(None))

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._read(index, slice(y, y + height), slice(x, x + width))

    def _read(self, index: int, rows: slice, columns: slice) -> np.ndarray:
        try:
            part = np.asarray(self.array[index, rows, columns])
        except Exception as error:  # as above
            raise UserError(
                f"{self.where}: section {index} cannot be read ({message_of(error)})"
            ) from None
        return np.ascontiguousarray(part, part.dtype.newbyteorder("="))

    def __getstate__(self) -> dict:
        """Everything but the open file, for worker processes."""
        return self.__dict__ | {"_array": None}

    @abstractmethod
    def _open(self) -> Stack | Any:
        """Open the array."""

    def _read_voxel_size(self) -> SizeFound | None:
        """The voxel size in the file's metadata; None if there is none."""
        return None

    def _check(self) -> None:
        """Warn of defects in a readable file."""


class VolumeSpec(NamedTuple):
    """Description of a volume to write.

    Attributes:
        shape: (sections, height, width).
        dtype: uint8, uint16, uint32 or float32.
        voxel_size: with all three sides, or None if unknown.
        names: file names of the sections, for a folder.
        discrete: whether the values are masks or instance numbers, which must not be averaged.
        origin: (section, row, column) of the first voxel in the volume that this one is a box of;
            written where the format has a place for it.
    """

    shape: tuple[int, int, int]
    dtype: type
    voxel_size: VoxelSize | None
    names: Sequence[str]
    discrete: bool
    origin: tuple[int, int, int] = (0, 0, 0)


class VolumeWriter(ABC):
    """Context manager that writes sections in any order.

    The file is written under a temporary name and renamed at the end. After an exception it is
    deleted.

    Args:
        folder: where to write.
        stem: file name without suffix.
        spec: description of the volume.
    """

    suffix: str

    def __init__(self, folder: Path, stem: str, spec: VolumeSpec) -> None:
        self.path, self.spec = folder / f"{stem}{self.suffix}", spec
        self.part = self.part_of(folder, stem)

    @classmethod
    def part_of(cls, folder: Path, stem: str) -> Path:
        """The temporary path until the volume is complete."""
        return folder / f".{stem}.part{cls.suffix}"

    def __enter__(self) -> Self:
        discard(self.part)
        self.open()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.close()
        if kind is None:
            self.place()
        else:
            discard(self.part)

    def place(self) -> None:
        """Rename the complete file to its final path."""
        discard(self.path)
        self.part.replace(self.path)

    @abstractmethod
    def open(self) -> None:
        """Create the file."""

    @abstractmethod
    def write(self, index: int, section: np.ndarray) -> None:
        """Write one section (H, W) of the dtype of ``spec``."""

    @abstractmethod
    def close(self) -> None:
        """Flush and close the file."""


def message_of(error: Exception) -> str:
    """The message of a library's exception, shortened to 120 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def only_one(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    """The name of the only array that can be a volume; raises UserError if there is not one.

    Arrays with three dimensions come first, then those with more, then those with two.
    """
    ranks = [lambda n: n == 3, lambda n: n > 3, lambda n: n == 2]
    for fits in ranks:
        found = [name for name, shape in shapes.items() if fits(len(shape))]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{path}: found several arrays, {listed(shapes)}; name one, such as "
                f"{path.name}:{found[0]}"
            )
    raise UserError(f"{path}: no array of shape (sections, height, width); found {listed(shapes)}")


def listed(shapes: dict[str, tuple[int, ...]], most: int = 20) -> str:
    """Names and shapes of at most ``most`` arrays, for messages."""
    names = [f"{name} {shape}" for name, shape in shapes.items()]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more) or "none"
