"""Voxel sizes: nanometres throughout, from any unit, an axis at a time."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from utils.errors import warn

PIXEL_RANGE = (0.3, 500.0)  # nm, of electron microscopes
SPACING_RANGE = (0.3, 5000.0)  # nm; every hundredth section, say
PREFIXES = {
    "": 1e9, "deci": 1e8, "centi": 1e7, "milli": 1e6, "micro": 1e3, "nano": 1.0, "pico": 1e-3,
}  # fmt: skip
SYMBOLS = {
    "nm": 1.0, "um": 1e3, "μm": 1e3, "mu": 1e3, "micron": 1e3, "microns": 1e3, "mm": 1e6,
    "cm": 1e7, "dm": 1e8, "m": 1e9, "pm": 1e-3, "inch": 2.54e7, "inches": 2.54e7, "in": 2.54e7,
    "å": 0.1, "ångström": 0.1, "ångströms": 0.1, "angstrom": 0.1, "angstroms": 0.1,
    "angström": 0.1, "ang": 0.1,
}  # fmt: skip
ANGSTROM = 0.1  # nm
SPACE = "zyx"


class VoxelSize(NamedTuple):
    """Size of a voxel along the axes of a volume, nm; z is the distance between sections.

    An axis whose size nobody knows is None.
    """

    z: float | None
    y: float | None
    x: float | None

    @classmethod
    def of(cls, sizes: Mapping[str, float | None]) -> Self | None:
        """Sizes by axis, nm: a negative one counts as positive; 0 and no number are unknown.

        None if none is known.
        """
        known = [_size(sizes.get(axis)) for axis in SPACE]
        return None if known == [None] * 3 else cls(*known)

    @property
    def in_plane(self) -> float | None:
        """Side of a pixel; of one that is not square, that of a square of the same area."""
        if self.y is None or self.x is None:
            return None
        return self.y if self.y == self.x else (self.y * self.x) ** 0.5

    @property
    def whole(self) -> bool:
        """Whether all three are known."""
        return None not in self

    def __str__(self) -> str:
        return " x ".join("?" if side is None else f"{side:g}" for side in self) + " nm"


def nanometres(unit: Any) -> float | None:
    r"""Nanometres in a unit, however it is spelt; None: no unit of length, or none at all.

    Examples: "nm", "Nanometers", "µm" with either mu or as ``\u00B5m``, "microns", "A", "Å".
    """
    if isinstance(unit, bytes):
        unit = unit.decode("utf-8", "replace")
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), str(unit or ""))
    text = unicodedata.normalize("NFKC", text.replace("Â", "")).strip(" \t\r\n\0.\"'")
    if text == "A":
        return ANGSTROM
    text = unicodedata.normalize("NFC", text.casefold())
    if text in SYMBOLS:
        return SYMBOLS[text]
    named = re.fullmatch(r"(.*?)met(?:er|re)s?", text)
    return PREFIXES.get(named[1]) if named else None


def in_nanometres(sizes: Iterable[Any], units: Iterable[Any]) -> list[float | None]:
    """Sizes in units of their own; None where either is missing."""
    factors = [nanometres(unit) for unit in units]
    return [
        None if factor is None or (known := _size(size)) is None else known * factor
        for size, factor in zip(sizes, factors, strict=True)
    ]


def from_attributes(attributes: Mapping[str, Any], axes: Sequence[str] | None) -> VoxelSize | None:
    """The voxel size that the attributes of an array of HDF5 or Zarr tell.

    ``resolution`` or ``voxel_size`` are one number for all axes, or one for each axis of space, in
    the order of the array's axes, in ``units`` (``unit``), else in nm; ``element_size_um`` is
    (z, y, x) in um, as ilastik and Fiji write it; ``pixelResolution`` is N5's, of (x, y, z).

    Args:
        attributes: by name.
        axes: the array's, as ``axes.axis_name`` gives them; None: they have no names.
    """
    for key in ("resolution", "voxel_size"):
        if key in attributes:
            units = attributes.get("units", attributes.get("unit", "nm"))
            return _of_axes(attributes[key], units, axes)
    if "element_size_um" in attributes:
        return _of_axes(attributes["element_size_um"], "um", None)
    pixel = attributes.get("pixelResolution")
    if isinstance(pixel, Mapping):
        return _of_axes(pixel.get("dimensions"), pixel.get("unit"), "xyz")
    return None


def plausible(size: VoxelSize | None, where: str) -> VoxelSize | None:
    """A voxel size, without what no electron microscope has; warns of that."""
    if size is None:
        return None
    for side in (size.y, size.x):
        if side is not None and not PIXEL_RANGE[0] <= side <= PIXEL_RANGE[1]:
            warn(
                f"{where}: found pixels of {_spelt(side)}, expected {PIXEL_RANGE[0]:g} to "
                f"{PIXEL_RANGE[1]:g} nm; the voxel size is taken as unknown"
            )
            return None
    if size.z is not None and not SPACING_RANGE[0] <= size.z <= SPACING_RANGE[1]:
        warn(
            f"{where}: found sections {_spelt(size.z)} apart, expected {SPACING_RANGE[0]:g} to "
            f"{SPACING_RANGE[1]:g} nm; their spacing is taken as unknown"
        )
        return VoxelSize.of({"y": size.y, "x": size.x})
    return size


def _of_axes(sizes: Any, units: Any, axes: Sequence[str] | None) -> VoxelSize | None:
    try:
        sizes = np.asarray(sizes, float).ravel().tolist()
    except (TypeError, ValueError):
        return None
    named = list(axes or ())
    space = [axis for axis in named if axis in SPACE]
    if len(sizes) == len(named):
        order = named
    elif len(sizes) == len(space):
        order = space
    else:
        order = {1: ["z"], 2: ["y", "x"], 3: list(SPACE)}.get(len(sizes), [])
    if len(sizes) == 1:
        sizes, order = sizes * 3, list(SPACE)
    if not order:
        return None
    if isinstance(units, (str, bytes)) or units is None or np.ndim(units) == 0:
        units = [units] * len(sizes)
    if len(units) != len(sizes):
        return None
    return VoxelSize.of(dict(zip(order, in_nanometres(sizes, units), strict=True)))


def _size(value: Any) -> float | None:
    """A positive number; None where there is none."""
    try:
        size = abs(float(value))
    except (TypeError, ValueError):
        return None
    return size if math.isfinite(size) and size > 0 else None


def _spelt(size: float) -> str:
    return f"{size:g} nm" + (f" ({size / 1e6:g} mm)" if size >= 1e5 else "")
