"""Volumes: a folder of sections or an HDF5 file, read as (sections, height, width)."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import cv2
import h5py
import numpy as np
from PIL import Image

from dataloader.voxel import VoxelSize
from utils.errors import UserError

HDF5_SUFFIXES = (".hdf", ".h5", ".hdf5")
HDF5_DATASET = "main"
Image.MAX_IMAGE_PIXELS = None  # sections may be large; Pillow reads no more than their headers
SECTION_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


class Volume(ABC):
    """A stack of grey sections.

    Attributes:
        path: where it lies.
        shape: (sections, height, width).
        tiled: whether its sections are large enough that the method predicts them in tiles.
        kept: whether it is in memory; else sections are read as needed.
        voxel_size: from the file's own metadata, where it has one.
        kind: the format, "folder", "hdf5", "tiff", "zarr", "ome-zarr", "mrc" or "nifti".
    """

    path: Path
    shape: tuple[int, int, int]
    tiled: bool = False
    kept: bool = False
    voxel_size: VoxelSize | None = None
    kind: str = "folder"

    @property
    def original(self) -> "Volume":
        """This volume on its own grid, before any resampling."""
        return self

    @property
    def names(self) -> list[str]:
        """File names for the sections."""
        return [f"{index:04d}.png" for index in range(len(self))]

    @abstractmethod
    def section(self, index: int) -> np.ndarray:
        """One section (H, W), in the type of the file."""

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """A part (height, width) of a section, its corner at (y, x); cut off at the border."""
        return self.section(index)[y : y + height, x : x + width]

    @lru_cache(maxsize=4096)  # noqa: B019 - a volume lives as long as the run
    def grey_range(self, index: int) -> tuple[float, float]:
        """Least and largest value of a section."""
        section = self.section(index)
        return float(section.min()), float(section.max())

    def __len__(self) -> int:
        return self.shape[0]


class FolderVolume(Volume):
    """A folder of 8-bit or 16-bit grey sections in the natural order of their names.

    Args:
        path: the folder.
        names: file names of the sections to use; None: all.
        keep: read all sections now and keep them, in the type of their files.

    Raises:
        UserError: no sections, one that cannot be read, colour, or sizes that differ.
    """

    def __init__(self, path: Path, names: list[str] | None = None, keep: bool = True) -> None:
        self.path, self.kept = path, keep
        self.files = [path / name for name in names] if names else section_files(path)
        if not self.files:
            raise UserError(f"{path}: no sections; expected {', '.join(SECTION_SUFFIXES)} files")
        self.sections = [read_section(file) for file in self.files] if keep else None
        shapes = [s.shape for s in self.sections] if keep else map(section_shape, self.files)
        self.shape = (len(self.files), *self._common_shape(shapes))

    def _common_shape(self, shapes: Iterable[tuple[int, int]]) -> tuple[int, int]:
        first = None
        for file, shape in zip(self.files, shapes, strict=True):
            first = first or shape
            if shape != first:
                raise UserError(
                    f"{file}: found {shape[0]} x {shape[1]} pixels, expected "
                    f"{first[0]} x {first[1]} as {self.files[0].name}"
                )
        return first

    @property
    def names(self) -> list[str]:
        return [file.name for file in self.files]

    def section(self, index: int) -> np.ndarray:
        return self.sections[index] if self.kept else read_section(self.files[index])


class Hdf5Volume(Volume):
    """An HDF5 file with a data set ``main`` (sections, H, W); read as needed.

    Raises:
        UserError: no HDF5 file, or no such data set of three dimensions.
    """

    tiled = True
    kind = "hdf5"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._dataset: h5py.Dataset | None = None
        self.shape = self.dataset.shape
        self.close()

    @property
    def dataset(self) -> h5py.Dataset:
        """The data set, opened where it is used: HDF5 handles do not survive a fork."""
        if self._dataset is None:
            try:
                file = h5py.File(self.path, "r")
            except OSError as error:
                raise UserError(f"{self.path}: not a readable HDF5 file ({error})") from None
            if not isinstance(file.get(HDF5_DATASET), h5py.Dataset):
                raise UserError(
                    f"{self.path}: no data set {HDF5_DATASET}; found {', '.join(file) or 'none'}"
                )
            self._dataset = file[HDF5_DATASET]
            if self._dataset.ndim != 3:
                raise UserError(
                    f"{self.path}: {HDF5_DATASET} has shape {self._dataset.shape}, expected "
                    "(sections, height, width)"
                )
        return self._dataset

    def close(self) -> None:
        """Let go of the file; the next reading opens it again."""
        if self._dataset is not None:
            self._dataset.file.close()
            self._dataset = None

    def section(self, index: int) -> np.ndarray:
        return self.dataset[index]

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.dataset[index, y : y + height, x : x + width]


class ResampledVolume(Volume):
    """Another volume at another pixel size.

    Args:
        volume: the volume on its own grid.
        scale: new pixels per old pixel; below 1 shrinks.
        masks: keep the two values of masks.
    """

    def __init__(self, volume: Volume, scale: float, masks: bool) -> None:
        self.volume, self.masks = volume, masks
        self.path, self.tiled, self.kept = volume.path, volume.tiled, volume.kept
        height, width = (max(1, round(side * scale)) for side in volume.shape[1:])
        self.shape = (len(volume), height, width)
        self._resampled = [self._resample(i) for i in range(len(volume))] if self.kept else None

    @property
    def original(self) -> Volume:
        return self.volume

    def section(self, index: int) -> np.ndarray:
        return self._resampled[index] if self.kept else self._recent(index)

    @lru_cache(maxsize=16)  # noqa: B019 - a volume lives as long as the run
    def _recent(self, index: int) -> np.ndarray:
        return self._resample(index)

    def _resample(self, index: int) -> np.ndarray:
        section = self.volume.section(index)
        if self.masks:
            soft = resample(binarise(section).astype(np.float32), self.shape[1:])
            return (soft >= 0.5).astype(np.uint8)
        return resample(section, self.shape[1:])


class CroppedVolume(Volume):
    """The top-left square of each section of another volume."""

    def __init__(self, volume: Volume, side: int) -> None:
        self.volume, self.side, self.path = volume, side, volume.path
        self.shape = (len(volume), *(min(side, length) for length in volume.shape[1:]))

    def section(self, index: int) -> np.ndarray:
        return self.volume.crop(index, 0, 0, self.side, self.side)


def open_volume(
    path: Path,
    list_file: Path | None = None,
    scale: float = 1.0,
    masks: bool = False,
    keep: bool = True,
) -> Volume:
    """The volume at a path: a folder of sections or an HDF5 file.

    Args:
        path: folder, or HDF5 file; its suffix may be left out.
        list_file: text file naming the sections of a folder to use, one a line.
        scale: resample to so many pixels per pixel.
        masks: the volume holds masks.
        keep: a folder's sections in memory; else they are read as needed. HDF5 always is.

    Raises:
        UserError: nothing there, or nothing readable.
    """
    found = find_volume(path)
    if found is None:
        raise UserError(f"{path}: not found; expected a folder of sections or an HDF5 file")
    if found.is_dir():
        volume: Volume = FolderVolume(found, read_names(list_file), keep)
        if masks:
            check_masks(volume)
    else:
        volume = Hdf5Volume(found)
    return volume if scale == 1.0 else ResampledVolume(volume, scale, masks)


def find_volume(path: Path) -> Path | None:
    """The folder or file a path means, an HDF5 file's suffix written or not; None: not there."""
    candidates = [path, *(path.with_name(path.name + suffix) for suffix in HDF5_SUFFIXES)]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def section_files(folder: Path) -> list[Path]:
    """The sections in a folder in natural order: 2.png before 10.png."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in SECTION_SUFFIXES]
    return sorted(files, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which numbers in names count as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts]


def read_names(list_file: Path | None) -> list[str] | None:
    """Names of sections from a text file, in its order; None where there is no file."""
    if list_file is None or not list_file.is_file():
        return None
    lines = (line.strip() for line in list_file.read_text(encoding="utf-8").splitlines())
    names = [Path(line).name for line in lines if line]
    if not names:
        raise UserError(f"{list_file}: empty; expected the names of sections, one a line")
    return names


def read_section(file: Path) -> np.ndarray:
    """One grey section (H, W) in the type of its file.

    Raises:
        UserError: missing, unreadable, or colour.
    """
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) if file.is_file() else None
    if image is None:
        raise UserError(f"{file}: not a readable image; expected a grey section")
    check_grey(file, 1 if image.ndim == 2 else image.shape[2])
    return image


def section_shape(file: Path) -> tuple[int, int]:
    """(H, W) of a grey section from its file's header; raises UserError as ``read_section``."""
    try:
        with Image.open(file) as image:
            channels = 3 if image.mode == "P" else len(image.getbands())
            shape = image.height, image.width
    except (OSError, ValueError):
        raise UserError(f"{file}: not a readable image; expected a grey section") from None
    check_grey(file, channels)
    return shape


def check_grey(file: Path | str, channels: int) -> None:
    """Demand one channel; raises UserError."""
    if channels != 1:
        raise UserError(f"{file}: found {channels} channels, expected one (grey)")


def resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring an image (H, W) to another shape: area means when it shrinks, else linear."""
    if image.shape == tuple(shape):
        return image
    shrinks = shape[0] < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (shape[1], shape[0]), interpolation=interpolation)


def normalise(section: np.ndarray, grey_range: tuple[float, float] | None = None) -> np.ndarray:
    """Scale a section to float32 in [0, 1] by its least and largest value; constant: all 0."""
    low, high = grey_range or (float(section.min()), float(section.max()))
    scaled = (section.astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    return scaled.astype(np.float32, copy=False)


def check_masks(volume: FolderVolume) -> None:
    """Refuse 8-bit masks of which nobody knows what is foreground; raises UserError."""
    if volume.section(0).dtype != np.uint8:
        return
    highest = max(int(volume.section(index).max()) for index in range(len(volume)))
    if 1 < highest < 128:
        raise UserError(
            f"{volume.path}: found 8-bit masks with values up to {highest}, expected 0/255 or 0/1; "
            "save instance numbers as 16-bit"
        )


def binarise(mask: np.ndarray, highest: float | None = None) -> np.ndarray:
    """A mask as uint8 of 0 and 1.

    8-bit masks hold 0 and 255 (grey edges are cut at half) or 0 and 1; wider integers are
    instance numbers, all of them foreground.

    Args:
        mask: of any shape.
        highest: value of the whole section, of which this may be a part; None: of this mask.
    """
    if highest is None:
        highest = mask.max(initial=0)
    threshold = 127 if mask.dtype == np.uint8 and highest > 1 else 0
    return (mask > threshold).astype(np.uint8)
