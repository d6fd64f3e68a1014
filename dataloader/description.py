"""Describe a volume as the project reads it, for people and for programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.inspection import examined, examined_only, inspect_images
from dataloader.label_values import IGNORE
from dataloader.volume import (
    MaskVolume,
    Volume,
    evenly_spaced,
    normalise,
    resample,
    resample_mask,
)
from utils.errors import collected_warnings

MAX_SECTIONS = 4096  # sections read for the means and the labels
MAX_VOXELS = 2**27  # largest mask whose components are counted
RANGE_SECTIONS = 16  # sections read for the range of grey values
SHEET_PANELS, SHEET_COLUMNS, SHEET_SIDE = 12, 4, 240  # contact sheet; side in pixels
RED = (220, 40, 40)


class LabelFacts(NamedTuple):
    """Content of a label volume.

    Attributes:
        kind: "mask" or "instances".
        mitochondria, ignored: fractions of the pixels of the sections read.
        objects: number of instances, or of connected components of a mask; None if the mask is too
            large to count them.
    """

    kind: str
    mitochondria: float
    ignored: float
    objects: int | None


class VolumeFacts(NamedTuple):
    """Description of a volume.

    Attributes:
        where: the path as the user writes it.
        kind: the format, see ``Volume.kind``.
        shape: (sections, height, width).
        dtype: name of the dtype.
        voxel_size: None if unknown.
        voxel_size_from: where in the file it was read; None if unknown.
        greys: minimum and maximum of the sections read.
        section_means: mean grey value of each section, of at most 4,096 evenly spaced ones; at an
            address, of the sections that are examined (``inspection.examined``).
        labels: content of the labels; None for grey sections.
        blank: fraction of the pixels in blank areas (``dataloader.blank``); 0 for labels.
        warnings: one line each.
    """

    where: str
    kind: str
    shape: tuple[int, int, int]
    dtype: str
    voxel_size: VoxelSize | None
    voxel_size_from: str | None
    greys: tuple[float, float]
    section_means: list[float]
    labels: LabelFacts | None
    blank: float
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """As numbers, strings and lists; None for what is unknown."""
        facts = {
            "format": self.kind,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "voxel_size_nm": None if self.voxel_size is None else list(self.voxel_size),
            "voxel_size_from": self.voxel_size_from,
            "grey_range": list(self.greys),
            "section_means": self.section_means,
            "blank": self.blank,
            "warnings": self.warnings,
        }
        return facts | (self.labels._asdict() if self.labels else {})

    def as_text(self) -> str:
        """As lines of text for people."""
        sections, height, width = self.shape
        size = self.voxel_size
        rows = [
            ("format", f"{self.kind}, {self.dtype}"),
            ("sections", f"{sections:,} of {height:,} x {width:,} pixels (height x width)"),
            ("voxel size", "unknown" if size is None else f"{size} (z, y, x)"),
            *([("", f"from the {self.voxel_size_from}")] if size else []),
            ("values", f"{self.greys[0]:g} to {self.greys[1]:g}"),
        ]
        if self.blank:
            rows.append(("blank areas", f"{self.blank:.2%} of the pixels"))
        if self.labels:
            known = 1 - self.labels.mitochondria - self.labels.ignored
            objects = "not counted" if self.labels.objects is None else f"{self.labels.objects:,}"
            rows += [
                ("labels", {"mask": "a mask", "instances": "instance numbers"}[self.labels.kind]),
                ("mitochondria", f"{self.labels.mitochondria:.2%} of the pixels"),
                ("background", f"{known:.2%}"),
                ("ignored", f"{self.labels.ignored:.2%}"),
                ("objects", objects),
            ]
        lines = [self.where, *(f"  {name:<14}{value}" for name, value in rows)]
        return "\n".join(lines + [f"warning: {line}" for line in self.warnings])


def describe_volume(
    path: Path, list_file: Path | None = None, labels: bool = False, means: bool = True
) -> VolumeFacts:
    """Open and describe a volume.

    Args:
        path: see ``open_volume``.
        list_file: list of the sections of a folder.
        labels: whether the volume holds labels.
        means: whether to compute the mean of each section. If not, only the sections that
            ``inspect_images`` samples are read.

    Raises:
        UserError: the volume cannot be read.
    """
    with collected_warnings() as warnings:
        volume = open_volume(path, list_file, masks=labels, keep=False, fill=not labels)
        part = examined(volume)
        raw = part.volume  # values as in the file
        if volume.voxel_size_note:
            warnings.append(f"{volume.where}: {volume.voxel_size_note}")
        found, blank = _count_labels(part) if labels else None, 0.0
        if labels and part is not volume:
            warnings.append(f"{volume.where}: {examined_only(part.shape)}")
        if found:
            greys = _range_of(raw)
        else:
            findings = inspect_images(volume)
            blank = findings.blank_share
            greys = _range_of(raw) if blank else (findings.low, findings.high)
            warnings += [f"{volume.where}: {line}" for line in findings.warnings()]
        indices = evenly_spaced(len(raw), MAX_SECTIONS) if means else []
        section_means = [float(raw.section(k).mean(dtype=np.float64)) for k in indices]
    return VolumeFacts(
        volume.where, volume.kind, volume.shape, str(raw.dtype), volume.voxel_size,
        volume.voxel_size_from, greys, section_means, found, blank, list(warnings),
    )  # fmt: skip


def contact_sheet(volume: Volume) -> np.ndarray:
    """Evenly spaced sections in one picture (H, W, 3) uint8; masks red, ignored pixels grey.

    Of a volume at an address, they are those of the middle (``inspection.examined``).
    """
    volume = examined(volume)
    height, width = volume.shape[1:]
    scale = SHEET_SIDE / max(height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    panel_of = _mask_panel if isinstance(volume, MaskVolume) else _grey_panel
    frame = ((2, 2), (2, 2), (0, 0))
    panels = [
        np.pad(panel_of(volume.section(index), shape), frame, constant_values=255)
        for index in evenly_spaced(len(volume), SHEET_PANELS)
    ]
    columns = min(SHEET_COLUMNS, len(panels))
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % columns)
    rows = (panels[start : start + columns] for start in range(0, len(panels), columns))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def _grey_panel(section: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    grey = np.rint(255 * normalise(resample(section, shape))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _mask_panel(section: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    mask = resample_mask(section, shape)
    panel = np.zeros((*shape, 3), np.uint8)
    panel[mask == 1], panel[mask == IGNORE] = RED, 128
    return panel


def _range_of(volume: Volume) -> tuple[float, float]:
    """Minimum and maximum, without NaN."""
    sections = [volume.section(index) for index in evenly_spaced(len(volume), RANGE_SECTIONS)]
    return float(min(map(np.nanmin, sections))), float(max(map(np.nanmax, sections)))


def _count_labels(masks: MaskVolume) -> LabelFacts:
    """Class fractions and number of objects."""
    kind = masks.meaning.kind
    indices = evenly_spaced(len(masks), MAX_SECTIONS)
    whole = len(indices) == len(masks)
    numbers: set[float] = set()
    foreground = ignored = 0
    for index in indices:
        mask = masks.section(index)
        foreground += int(np.count_nonzero(mask == 1))
        ignored += int(np.count_nonzero(mask == IGNORE))
        if kind == "instances":
            numbers |= set(np.unique(masks.volume.section(index)[mask == 1]).tolist())
    pixels = len(indices) * mask.size
    objects: int | None = len(numbers)
    if kind == "mask":
        countable = whole and pixels <= MAX_VOXELS
        objects = _components(masks.section, len(masks)) if countable else None
    return LabelFacts(kind, foreground / pixels, ignored / pixels, objects)


def _components(section: Callable[[int], np.ndarray], sections: int) -> int:
    """Number of 26-connected components of a mask."""
    mask = np.stack([section(index) == 1 for index in range(sections)])
    return int(ndimage.label(mask, np.ones((3, 3, 3)))[1])
