"""Volumes written section by section, which a kill at any moment leaves fit to go on with."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

import h5py
import numpy as np

from dataloader.formats.hdf5 import HDF5_DATASET, HDF5_SUFFIXES
from dataloader.formats.opening import open_volume
from utils.files import discard, part_of, sync_file, write_picture

CHUNK = 256  # side of the parts in which HDF5 keeps a section: a crop of 512 reads 9 of them
PAGE = 4096  # bytes


class VolumePart(ABC):
    """A volume that is being written, beside its place.

    Args:
        path: the place.
        shape: (sections, height, width); uint8 unless the kind says otherwise.
        resume: go on with what is there.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], resume: bool) -> None:
        self.path, self.shape, self.part = path, shape, part_of(path)
        if not resume:
            discard(self.part)
        self._open(resume)

    @abstractmethod
    def _open(self, resume: bool) -> None:
        """Make the part, or open it."""

    @abstractmethod
    def write(self, index: int, section: np.ndarray) -> None:
        """Write a section (H, W) uint8, once more if need be."""

    @abstractmethod
    def sync(self) -> None:
        """Bring all that is written to the disc."""

    def close(self) -> None:  # noqa: B027 - a folder is not kept open
        """Let go of the file."""


class FolderPart(VolumePart):
    """A folder of ``00.png``, ``01.png``, ..."""

    def _open(self, resume: bool) -> None:
        self.part.mkdir(parents=True, exist_ok=resume)
        self.unsynced: list[Path] = []

    def write(self, index: int, section: np.ndarray) -> None:
        file = self.part / section_name(index, self.shape)
        write_picture(file, section)
        self.unsynced.append(file)

    def sync(self) -> None:
        for file in self.unsynced:
            sync_file(file)
        self.unsynced.clear()


class Hdf5Part(VolumePart):
    """An HDF5 file with the data set ``main``, in chunks (height, width) of a section.

    All its space is allotted when it is made, so that writing a section changes none of the file's
    own structures: whenever the process is killed, the file can be opened. (Compressed, chunks
    would be allotted as they come, and a kill could leave the file unreadable.)
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        resume: bool,
        dtype: type = np.uint8,
        chunk: tuple[int, int] = (CHUNK, CHUNK),
    ) -> None:
        self.dtype = dtype
        self.chunk = tuple(min(sides) for sides in zip(chunk, shape[1:], strict=True))
        super().__init__(path, shape, resume)

    def _open(self, resume: bool) -> None:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+" if resume else "x"
        self.file = h5py.File(self.part, mode, alignment_threshold=PAGE, alignment_interval=PAGE)
        if not resume:
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            chunks = (1, *self.chunk)
            self.file.create_dataset(
                HDF5_DATASET, self.shape, self.dtype, chunks=chunks, dcpl=layout
            )
            self.sync()
        self.dataset = self.file[HDF5_DATASET]

    def write(self, index: int, section: np.ndarray) -> None:
        self.dataset[index] = section

    def sync(self) -> None:
        self.file.flush()
        sync_file(self.part)

    def close(self) -> None:
        self.file.close()


class Journal:
    """How far the parts of a volume are, in a file that outlives the process.

    Attributes:
        made_from: what tells their source from any other.
        sections: how many are written and on the disc.
        checks: state of the checks after so many.
        whole: nothing is left to do but to move the parts to their places.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.made_from, self.sections, self.checks, self.whole = "", 0, None, False
        try:
            self.__dict__ |= json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return

    def save(self, **changes) -> None:
        """Change it, on the disc as well."""
        self.__dict__ |= changes
        content = {k: v for k, v in self.__dict__.items() if k != "file"}
        beside = part_of(self.file)
        beside.write_text(json.dumps(content), encoding="utf-8")
        sync_file(beside)
        beside.replace(self.file)

    def remove(self) -> None:
        """The parts are no more."""
        self.file.unlink(missing_ok=True)
        self.__init__(self.file)


def new_part(path: Path, shape: tuple[int, int, int], resume: bool) -> VolumePart:
    """The part of a volume of the kind that its path says: an HDF5 file by its suffix, or a folder.

    Raises:
        OSError: it cannot be written, or what is there cannot be opened.
    """
    kind = Hdf5Part if path.suffix in HDF5_SUFFIXES else FolderPart
    return kind(path, shape, resume)


def can_resume(path: Path, shape: tuple[int, int, int], sections: int) -> bool:
    """Whether the part of a volume is there, with its first so many sections."""
    part = part_of(path)
    if path.suffix not in HDF5_SUFFIXES:
        return all((part / section_name(index, shape)).is_file() for index in range(sections))
    try:
        with h5py.File(part) as file:
            return file[HDF5_DATASET].shape == shape
    except (OSError, KeyError):
        return False


def section_name(index: int, shape: tuple[int, int, int]) -> str:
    """File name of a section, with as many digits as the last one needs."""
    return f"{index:0{len(str(shape[0] - 1))}d}.png"


def move_to_place(path: Path) -> None:
    """Give a whole part its final name."""
    if path.is_dir():
        path.rmdir()  # an empty folder, else it would not be replaced
    part_of(path).replace(path)


def volume_shape(path: Path) -> tuple[int, int, int] | None:
    """(sections, height, width) of a volume; None where there is none, or an empty folder.

    Raises:
        UserError: there is something else.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    return tuple(open_volume(path, keep=False).shape)
