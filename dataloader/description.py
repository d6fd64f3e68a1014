"""What a volume is, as the project reads it: for people and for programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.inspection import inspect_images
from dataloader.label_values import IGNORE
from dataloader.volume import MaskVolume, Volume, normalise, resample, resample_mask
from utils.errors import collected_warnings

MOST_SECTIONS = 4096  # that are looked at for the means and the labels
MOST_VOXELS = 2**27  # of masks whose components are counted
SHEET_PANELS, SHEET_COLUMNS, SHEET_SIDE = 12, 4, 240  # of a contact sheet; pixels
RED = (220, 40, 40)


class LabelFacts(NamedTuple):
    """What is in labels.

    Attributes:
        kind: "mask" or "instances".
        mitochondria, ignored: fractions of all pixels of the sections looked at.
        objects: different numbers, or connected components of a mask; None where there are too
            many voxels to count them.
    """

    kind: str
    mitochondria: float
    ignored: float
    objects: int | None


class VolumeFacts(NamedTuple):
    """What a volume is.

    Attributes:
        where: the path as one gives it.
        format: see ``Volume.kind``.
        shape: (sections, height, width).
        dtype: name of the type.
        voxel_size: None where nothing is known.
        greys: least and largest value of the sections looked at.
        section_means: of the values as a viewer shows them; of a volume of more than 4,096 sections
            those of so many evenly spaced ones.
        labels: what is in labels; None for grey sections.
        blank: fraction of the pixels in blank areas (``dataloader.blank``), of the sections looked
            at; 0 of labels.
        warnings: a line each.
    """

    where: str
    format: str
    shape: tuple[int, int, int]
    dtype: str
    voxel_size: VoxelSize | None
    greys: tuple[float, float]
    section_means: list[float]
    labels: LabelFacts | None
    blank: float
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """As numbers, strings and lists; what is unknown is None."""
        facts = {
            "format": self.format,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "voxel_size_nm": None if self.voxel_size is None else list(self.voxel_size),
            "grey_range": list(self.greys),
            "section_means": self.section_means,
            "blank": self.blank,
            "warnings": self.warnings,
        }
        return facts | (self.labels._asdict() if self.labels else {})

    def as_text(self) -> str:
        """For people, in lines of some 80 columns but for paths and warnings."""
        sections, height, width = self.shape
        size = self.voxel_size
        rows = [
            ("format", f"{self.format}, {self.dtype}"),
            ("sections", f"{sections:,} of {height:,} x {width:,} pixels (height x width)"),
            ("voxel size", "unknown" if size is None else f"{size} (z, y, x)"),
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
    """Open a volume and look at it.

    Args:
        path: as ``open_volume`` takes it.
        list_file: of the sections of a folder.
        labels: the volume holds labels.
        means: of each section, too; else only the sections that ``inspect_images`` takes are read.

    Raises:
        UserError: it cannot be read.
    """
    with collected_warnings() as warnings:
        volume = open_volume(path, list_file, masks=labels, keep=False, fill=not labels)
        raw = volume.volume  # values as they are in the file
        found, blank = _count_labels(volume) if labels else None, 0.0
        if found:
            greys = _range_of(raw)
        else:
            looked = inspect_images(volume)
            blank = looked.blank_share
            greys = _range_of(raw) if blank else (looked.low, looked.high)
            warnings += [f"{volume.where}: {line}" for line in looked.warnings()]
        values = [float(raw.section(k).mean(dtype=np.float64)) for k in _spaced(raw)] * means
    return VolumeFacts(
        volume.where, volume.kind, volume.shape, str(raw.section(0).dtype), volume.voxel_size,
        greys, values, found, blank, list(warnings),
    )  # fmt: skip


def contact_sheet(volume: Volume) -> np.ndarray:
    """Evenly spaced sections in a picture (H, W, 3) uint8; masks red, what is ignored grey."""
    height, width = volume.shape[1:]
    scale = SHEET_SIDE / max(height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    draw = _mask_panel if isinstance(volume, MaskVolume) else _grey_panel
    panels = [
        np.pad(draw(volume.section(index), shape), ((2, 2), (2, 2), (0, 0)), constant_values=255)
        for index in _spaced(volume, SHEET_PANELS)
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


def _spaced(volume: Volume, most: int = MOST_SECTIONS) -> list[int]:
    """All sections, or so many evenly spaced ones."""
    count = len(volume)
    return sorted(set(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()))


def _range_of(volume: Volume) -> tuple[float, float]:
    """Least and largest value; NaN counts as no value."""
    sections = [volume.section(index) for index in _spaced(volume, 16)]
    return float(min(map(np.nanmin, sections))), float(max(map(np.nanmax, sections)))


def _count_labels(masks: MaskVolume) -> LabelFacts:
    """Fractions and objects of labels."""
    kind = masks.meaning.kind
    indices = _spaced(masks)
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
        countable = whole and pixels <= MOST_VOXELS
        objects = _components(masks.section, len(masks)) if countable else None
    return LabelFacts(kind, foreground / pixels, ignored / pixels, objects)


def _components(section: Callable[[int], np.ndarray], sections: int) -> int:
    """Connected components of a mask, of voxels that share a face, an edge or a corner."""
    mask = np.stack([section(index) == 1 for index in range(sections)])
    return int(ndimage.label(mask, np.ones((3, 3, 3)))[1])
