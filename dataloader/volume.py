"""What a volume is: grey sections of one shape, read when they are needed."""

from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np

from dataloader.formats.voxel_size import VoxelSize
from utils.errors import UserError

TILED_FROM = 2048  # pixels; sections with a longer side are predicted in tiles
LABEL_SAMPLE = 32  # sections that tell how a label volume is written
LABEL_NOISE = 30  # grey values by which the black and white of 8-bit masks may be off


class Volume(ABC):
    """A stack of grey sections.

    Attributes:
        path: where it lies.
        shape: (sections, height, width).
        tiled: whether its sections are cut into tiles, in training and in inference.
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

    @cached_property
    def _grey_ranges(self) -> dict[int, tuple[float, float]]:
        return {}

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = tuple(int(side) for side in shape)
        self.tiled = self.tiled or max(self.shape[1:]) > TILED_FROM

    @property
    def original(self) -> "Volume":
        """This volume on its own grid, before any resampling."""
        return self

    @property
    def where(self) -> str:
        """The path as one gives it, with the name of the array in it."""
        return str(self.path)

    @property
    def names(self) -> list[str]:
        """File names for the sections."""
        return [f"{index:04d}.png" for index in range(len(self))]

    @abstractmethod
    def section(self, index: int) -> np.ndarray:
        """One section (H, W), in the type of the file; raises UserError if it is unreadable."""

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """A part (height, width) of a section, its corner at (y, x); cut off at the border."""
        return self.section(index)[y : y + height, x : x + width]

    def grey_range(self, index: int) -> tuple[float, float]:
        """Least and largest value of a section; raises UserError if they are not finite."""
        if index not in self._grey_ranges:
            self._note_grey_range(index, self.section(index))
        return self._grey_ranges[index]

    def scaled(self, index: int) -> np.ndarray:
        """A section as float32 in [0, 1], least to largest value; raises UserError for NaN."""
        section = self.section(index)
        self._note_grey_range(index, section)
        return normalise(section, self._grey_ranges[index])

    def _note_grey_range(self, index: int, section: np.ndarray) -> None:
        self._grey_ranges[index] = self.range_of(index, section)

    def range_of(self, index: int, part: np.ndarray) -> tuple[float, float]:
        """Least and largest value of a part of a section; raises UserError as ``grey_range``."""
        low, high = float(part.min()), float(part.max())
        if not np.isfinite(high - low):
            raise UserError(
                f"{self.path}: section {index} holds NaN or infinite values, expected numbers; "
                "fill them with the section's mean, say"
            )
        return low, high

    def close(self) -> None:  # noqa: B027 - few volumes hold a file open
        """Let go of the file; the next reading opens it again."""

    def __len__(self) -> int:
        return self.shape[0]


class DerivedVolume(Volume):
    """Another volume seen in another way; what it says of itself is the other's."""

    def __init__(self, volume: Volume, shape: tuple[int, int, int]) -> None:
        self.volume, self.path, self.kind = volume, volume.path, volume.kind
        self.voxel_size = volume.voxel_size
        super().__init__(shape)
        self.tiled, self.kept = volume.tiled, volume.kept

    @property
    def original(self) -> Volume:
        return self.volume.original

    @property
    def where(self) -> str:
        return self.volume.where

    @property
    def names(self) -> list[str]:
        return self.volume.names

    def close(self) -> None:
        self.volume.close()


class KeptVolume(DerivedVolume):
    """Another volume, read at once and kept in memory in its own type."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume, volume.shape)
        first = volume.section(0)
        self.sections = np.empty(volume.shape, first.dtype)
        for index in range(len(volume)):
            self.sections[index] = volume.section(index)
        self.kept = True
        self.close()

    def section(self, index: int) -> np.ndarray:
        return self.sections[index]


class MaskVolume(DerivedVolume):
    """Labels as masks, uint8 of 0 and 1.

    Values of more than 8 bits, and of less than 0, are instance numbers, all of them foreground.
    8-bit labels hold 0 and one other value; or 0 and 255 with grey edges, which are cut at half;
    or instance numbers: ``label_threshold`` tells which from a sample of the sections.
    """

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume, volume.shape)
        self._threshold: int | None = None

    @property
    def threshold(self) -> int:
        """What is above it is foreground."""
        if self._threshold is None:
            self._threshold = label_threshold(self.volume)
        return self._threshold

    def section(self, index: int) -> np.ndarray:
        return self._binary(index, self.volume.section(index))

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._binary(index, self.volume.crop(index, y, x, height, width))

    def _binary(self, index: int, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise UserError(
                f"{self.path}: section {index} of the labels holds NaN or infinite values, "
                "expected 0 for background and other numbers for mitochondria"
            )
        foreground = labels > self.threshold if labels.dtype == np.uint8 else labels != 0
        return foreground.astype(np.uint8)


class ResampledVolume(DerivedVolume):
    """Another volume at another pixel size.

    Args:
        volume: the volume on its own grid; masks of 0 and 1 stay so.
        scale: new pixels per old pixel; below 1 shrinks.
    """

    def __init__(self, volume: Volume, scale: float) -> None:
        height, width = (max(1, round(side * scale)) for side in volume.shape[1:])
        super().__init__(volume, (len(volume), height, width))
        self.kept = False

    @lru_cache(maxsize=16)  # noqa: B019 - a volume lives as long as the run
    def section(self, index: int) -> np.ndarray:
        section = self.volume.section(index)
        if isinstance(self.volume, MaskVolume):
            return resample_mask(section, self.shape[1:])
        return resample(section, self.shape[1:])


class CroppedVolume(DerivedVolume):
    """The top-left square of each section of another volume."""

    def __init__(self, volume: Volume, side: int) -> None:
        self.side = side
        super().__init__(volume, (len(volume), *(min(side, n) for n in volume.shape[1:])))
        self.tiled = False

    @property
    def original(self) -> Volume:
        return self

    def section(self, index: int) -> np.ndarray:
        return self.volume.crop(index, 0, 0, self.side, self.side)


def resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring an image (H, W) to another shape: area means when it shrinks, else linear.

    The type stays, but those that OpenCV does not resize become float32 or float64.
    """
    if image.shape == tuple(shape):
        return image
    if image.dtype.kind in "iub" and image.dtype not in (np.uint8, np.uint16, np.int16):
        image = image.astype(np.float64 if image.dtype.itemsize > 2 else np.float32)
    elif image.dtype == np.float16:
        image = image.astype(np.float32)
    shrinks = shape[0] < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (shape[1], shape[0]), interpolation=interpolation)


def resample_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring a mask (H, W) of 0 and 1 to another shape, uint8 of 0 and 1: what half of is 1."""
    return (resample(mask.astype(np.float32), shape) >= 0.5).astype(np.uint8)


def normalise(section: np.ndarray, grey_range: tuple[float, float] | None = None) -> np.ndarray:
    """Scale a section to float32 in [0, 1] by its least and largest value; constant: all 0."""
    low, high = grey_range or (float(section.min()), float(section.max()))
    single = section.dtype.itemsize <= 2 or section.dtype == np.float32
    fits = single and high - low <= np.finfo(np.float32).max
    exact = np.float32 if fits else np.float64
    scaled = (section.astype(exact) - low) / max(high - low, np.finfo(np.float32).tiny)
    return scaled.astype(np.float32, copy=False)


def label_threshold(volume: Volume) -> int:
    """The value above which 8-bit labels are foreground: 127 where they are 0/255, else 0.

    They are taken as 0/255, with grey edges or the noise of JPEG, if more pixels are bright than
    between bright and dark; else every value but 0 is foreground. Evenly spaced sections are
    looked at.
    """
    step = max(1, len(volume) // LABEL_SAMPLE)
    counts = np.zeros(256, np.int64)
    for index in range(0, len(volume), step):
        section = volume.section(index)
        if section.dtype != np.uint8:
            return 0
        counts += np.bincount(section.ravel(), minlength=256)
    dark, bright = LABEL_NOISE, 255 - LABEL_NOISE
    return 127 if counts[bright + 1 :].sum() > counts[dark : bright + 1].sum() else 0
