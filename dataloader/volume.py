"""Volumes: stacks of grey sections of one shape, read as needed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np

from dataloader.area_means import AreaMeans, resizable
from dataloader.blank import fill_blank
from dataloader.fingerprint import fingerprint
from dataloader.formats.voxel_size import VoxelSize
from dataloader.label_values import IGNORE, LabelMeaning, label_meaning
from utils.errors import UserError, warn

TILED_FROM = 2048  # pixels; sections with a longer side are tiled
LABEL_SAMPLE = 32  # sections that are read to interpret label values
LABEL_SIDE = 1024  # pixels of them that are read at an address, in the middle
LABEL_NOISE = 30  # grey levels by which black and white of 8-bit masks may be off
NUMBERED = 0.5  # fraction of pixels with equal neighbours: near 0 in noise, 0.9 in instances


class Volume(ABC):
    """A stack of grey sections.

    Attributes:
        path: file or folder.
        shape: (sections, height, width).
        tiled: whether training and inference read sections in tiles.
        kept: whether the volume is in memory; otherwise sections are read as needed.
        voxel_size: from the metadata of the file, if it has any.
        voxel_size_from: where in the metadata it was read.
        voxel_size_note: what is wrong with its unit, for a warning.
        kind: the format, "folder", "hdf5", "tiff", "zarr", "ome-zarr", "mrc", "nifti", "n5" or
            "precomputed".
        remote: whether it lies at an address, so that no more of it is read than is needed.
        fork_safe: whether a forked process can read it.
    """

    path: Path
    shape: tuple[int, int, int]
    tiled: bool = False
    kept: bool = False
    voxel_size: VoxelSize | None = None
    voxel_size_from: str | None = None
    voxel_size_note: str = ""
    kind: str = "folder"
    remote: bool = False
    fork_safe: bool = True

    @cached_property
    def _grey_ranges(self) -> dict[int, tuple[float, float]]:
        return {}

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = tuple(int(side) for side in shape)
        self.tiled = self.tiled or max(self.shape[1:]) > TILED_FROM

    @property
    def origin(self) -> tuple[int, int, int]:
        """The (section, row, column) of the first voxel in the file; not 0 in a box of it."""
        return 0, 0, 0

    @property
    def original(self) -> "Volume":
        """This volume on its own grid, before any resampling."""
        return self

    @property
    def where(self) -> str:
        """The path as the user writes it, with the name of the array in the file."""
        return str(self.path)

    @property
    def dtype(self) -> np.dtype:
        """Of the sections."""
        return self.section(0).dtype

    @property
    def names(self) -> list[str]:
        """File names for the sections."""
        return [f"{index:04d}.png" for index in range(len(self))]

    @property
    def sources(self) -> list[Path]:
        """The files and folders that the volume is read from."""
        return [self.path]

    def fingerprint(self) -> str:
        """Changes when a file of ``sources`` changes; see ``dataloader.fingerprint``."""
        return fingerprint(self.sources)

    @abstractmethod
    def section(self, index: int) -> np.ndarray:
        """One section (H, W) in the dtype of the file; raises UserError if it is unreadable."""

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """The part (height, width) of a section with corner (y, x), clipped at the border."""
        return self.section(index)[y : y + height, x : x + width]

    def blank(self, index: int) -> np.ndarray | None:
        """Where a section is blank (``dataloader.blank``), bool (H, W); None if nowhere."""
        return None

    def own_blank(self, index: int) -> np.ndarray | None:
        """``blank`` on the volume's own grid, before any resampling."""
        return None

    @property
    def may_be_blank(self) -> bool:
        """Whether a section has blank areas, or has not been examined yet."""
        return False

    def blank_crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray | None:
        """Where a ``crop`` is blank; None if nowhere."""
        blank = self.blank(index)
        part = None if blank is None else blank[y : y + height, x : x + width]
        return part if part is not None and part.any() else None

    def grey_range(self, index: int) -> tuple[float, float]:
        """Minimum and maximum of a section; raises UserError if they are not finite."""
        if index not in self._grey_ranges:
            self._note_grey_range(index, self.section(index))
        return self._grey_ranges[index]

    def scaled(self, index: int) -> np.ndarray:
        """A section scaled to [0, 1], float32; raises UserError for NaN and infinite values."""
        section = self.section(index)
        self._note_grey_range(index, section)
        return normalise(section, self._grey_ranges[index])

    def _note_grey_range(self, index: int, section: np.ndarray) -> None:
        self._grey_ranges[index] = self.range_of(index, section)

    def range_of(self, index: int, part: np.ndarray) -> tuple[float, float]:
        """Minimum and maximum of a part of a section; raises UserError as ``grey_range`` does."""
        low, high = float(part.min()), float(part.max())
        if not np.isfinite(high - low):
            raise UserError(
                f"{self.where}: section {index} has NaN or infinite values, expected finite "
                "numbers; replace them, for example by the mean of the section"
            )
        return low, high

    def close(self) -> None:  # noqa: B027 - few volumes hold a file open
        """Close the file; the next read opens it again."""

    def __len__(self) -> int:
        return self.shape[0]


class DerivedVolume(Volume):
    """Base of volumes that wrap another volume and share its metadata."""

    def __init__(self, volume: Volume, shape: tuple[int, int, int]) -> None:
        self.volume, self.path, self.kind = volume, volume.path, volume.kind
        self.voxel_size = volume.voxel_size
        self.voxel_size_from = volume.voxel_size_from
        self.voxel_size_note = volume.voxel_size_note
        self.remote, self.fork_safe = volume.remote, volume.fork_safe
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

    def blank(self, index: int) -> np.ndarray | None:
        return self.volume.blank(index)

    def own_blank(self, index: int) -> np.ndarray | None:
        return self.volume.own_blank(index)

    @property
    def may_be_blank(self) -> bool:
        return self.volume.may_be_blank

    def fingerprint(self) -> str:
        return self.volume.fingerprint()

    def close(self) -> None:
        self.volume.close()


class KeptVolume(DerivedVolume):
    """Another volume, read completely and kept in memory in its dtype."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume, volume.shape)
        first = volume.section(0)
        self.sections = np.empty(volume.shape, first.dtype)
        for index in range(len(volume)):
            self.sections[index] = volume.section(index)
        self.kept, self.fork_safe = True, True
        self.close()

    def section(self, index: int) -> np.ndarray:
        return self.sections[index]

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        part = super().crop(index, y, x, height, width)
        blank = self.blank_crop(index, y, x, height, width) if self.tiled else None
        # filled from the crop alone, as when the volume is not kept
        return part if blank is None else fill_blank(part, blank)


class MaskVolume(DerivedVolume):
    """Labels as masks, uint8: 0 background, 1 mitochondria, 255 (``IGNORE``) ignored.

    The values are interpreted from a sample of the sections (``dataloader.label_values``).
    """

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume, volume.shape)
        self._meaning: LabelMeaning | None = None

    @property
    def meaning(self) -> LabelMeaning:
        """How label values are interpreted; prints the notes as warnings when first called."""
        if self._meaning is None:
            self._meaning = label_meaning(_label_sample(self.volume), label_threshold(self.volume))
            for note in self._meaning.notes:
                warn(f"{self.where}: {note}")
        return self._meaning

    def section(self, index: int) -> np.ndarray:
        return self._mask(index, self.volume.section(index))

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._mask(index, self.volume.crop(index, y, x, height, width))

    def _mask(self, index: int, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise UserError(
                f"{self.where}: section {index} of the labels has NaN or infinite values, "
                "expected 0 for background and other numbers for mitochondria"
            )
        return self.meaning.mask(labels)


class ResampledVolume(DerivedVolume):
    """Another volume at another pixel size.

    Args:
        volume: the volume on its own grid; masks stay masks.
        scale: new pixels per old pixel, or the same for (y, x); below 1 downsamples.
    """

    def __init__(self, volume: Volume, scale: float | tuple[float, float]) -> None:
        scales = np.broadcast_to(scale, 2).tolist()
        sides = zip(volume.shape[1:], scales, strict=True)
        height, width = (max(1, round(side * factor)) for side, factor in sides)
        super().__init__(volume, (len(volume), height, width))
        self.kept = False

    @lru_cache(maxsize=16)  # noqa: B019 - a volume lives as long as the run
    def section(self, index: int) -> np.ndarray:
        fit = resample_mask if isinstance(self.volume, MaskVolume) else resample
        return fit(self.volume.section(index), self.shape[1:])

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        whole, shape = self.volume.shape[1:], self.shape[1:]
        height, width = min(height, shape[0] - y), min(width, shape[1] - x)
        shrinks = shape[0] <= whole[0] and shape[1] <= whole[1]
        if not shrinks or (height, width) == shape:
            return super().crop(index, y, x, height, width)
        means = AreaMeans(whole, shape)
        part = self.volume.crop(index, *means.source(y, x, height, width))

        def fit(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
            return means(image, y, x, *shape)

        if isinstance(self.volume, MaskVolume):
            return resample_mask(part, (height, width), fit)
        return fit(part, (height, width))

    @lru_cache(maxsize=4)  # noqa: B019 - as above
    def blank(self, index: int) -> np.ndarray | None:
        blank = self.volume.blank(index)
        return None if blank is None else resample_mask(blank, self.shape[1:]) > 0


def resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample an image (H, W): area means along axes that shrink, else linear interpolation.

    The dtype is kept, except that those OpenCV cannot resize become float32 or float64.
    """
    if image.shape == tuple(shape):
        return image
    image = resizable(image)
    smaller = tuple(min(sides) for sides in zip(shape, image.shape, strict=True))
    if smaller != image.shape:
        image = AreaMeans(image.shape, smaller)(image, 0, 0, *smaller)
    if smaller != tuple(shape):
        image = cv2.resize(image, tuple(shape)[::-1], interpolation=cv2.INTER_LINEAR)
    return image


def resample_mask(
    mask: np.ndarray,
    shape: tuple[int, int],
    fit: Callable[[np.ndarray, tuple[int, int]], np.ndarray] = resample,
) -> np.ndarray:
    """Resample a mask (H, W), uint8. A new pixel is ignored if at least half of it is.

    Otherwise it is 1 if at least half of its part that is not ignored is 1.

    Args:
        mask: 0, 1 and ``IGNORE``.
        shape: new (H, W).
        fit: resamples a float32 image to the shape.
    """
    ignored = mask == IGNORE
    foreground = fit((mask == 1).astype(np.float32), shape)
    if not ignored.any():
        return (foreground >= 0.5).astype(np.uint8)
    unknown = fit(ignored.astype(np.float32), shape)
    resampled = (foreground >= 0.5 * (1 - unknown)).astype(np.uint8)
    resampled[unknown >= 0.5] = IGNORE
    return resampled


def normalise(section: np.ndarray, grey_range: tuple[float, float] | None = None) -> np.ndarray:
    """Scale a section to [0, 1], float32, by its minimum and maximum; all 0 if constant."""
    low, high = grey_range or (float(section.min()), float(section.max()))
    single = section.dtype.itemsize <= 2 or section.dtype == np.float32
    fits = single and high - low <= np.finfo(np.float32).max
    exact = np.float32 if fits else np.float64
    scaled = (section.astype(exact) - low) / max(high - low, np.finfo(np.float32).tiny)
    return scaled.astype(np.float32, copy=False)


def evenly_spaced(count: int, most: int) -> list[int]:
    """Indices of at most ``most`` evenly spaced items of ``count``, the first and last included."""
    return sorted(set(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()))


def _label_sample(volume: Volume) -> Iterator[np.ndarray]:
    """The sections from which label values are interpreted; at an address, their middle."""
    shape = [min(side, LABEL_SIDE) for side in volume.shape[1:]]
    corner = [(whole - side) // 2 for whole, side in zip(volume.shape[1:], shape, strict=True)]
    for index in range(0, len(volume), max(1, len(volume) // LABEL_SAMPLE)):
        yield volume.crop(index, *corner, *shape) if volume.remote else volume.section(index)


def label_threshold(volume: Volume) -> int:
    """The value above which 8-bit labels are foreground: 127 for 0/255 masks, else 0.

    Labels count as a 0/255 mask if bright pixels outnumber those between bright and dark, and if
    most of the pixels that are neither bright nor the section's black differ from a neighbour, as
    JPEG noise and grey edges do. Most pixels of an instance number have equal neighbours.
    """
    dark, bright = LABEL_NOISE, 255 - LABEL_NOISE
    counts, other, inside = np.zeros(256, np.int64), 0, 0
    for section in _label_sample(volume):
        if section.dtype != np.uint8:
            return 0
        own = np.bincount(section.ravel(), minlength=256)
        counts += own
        rest = (section <= bright) & (section != own[:dark].argmax())
        around = np.ones((3, 3), np.uint8)
        uniform = cv2.erode(section, around) == cv2.dilate(section, around)
        other += np.count_nonzero(rest)
        inside += np.count_nonzero(rest & uniform)
    outnumbered = counts[bright + 1 :].sum() > counts[dark : bright + 1].sum()
    return 127 if outnumbered and inside <= NUMBERED * other else 0
