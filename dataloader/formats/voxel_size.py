"""Voxel sizes in nanometres, from any unit, each axis by itself."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from utils.errors import warn

PIXEL_RANGE = (0.3, 500.0)  # nm; plausible in electron microscopy
SPACING_RANGE = (0.3, 5000.0)  # nm; allows for every hundredth section
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
    """Size of a voxel along each axis in nm, None if unknown; z is the section spacing."""

    z: float | None
    y: float | None
    x: float | None

    @classmethod
    def of(cls, sizes: Mapping[str, float | None]) -> Self | None:
        """From sizes by axis, nm. Negative sizes count as positive; 0 and non-numbers as unknown.

        Returns None if no size is known.
        """
        known = [_size(sizes.get(axis)) for axis in SPACE]
        return None if known == [None] * 3 else cls(*known)

    @property
    def in_plane(self) -> float | None:
        """Side of a square with the area of a pixel, nm; None if unknown."""
        if self.y is None or self.x is None:
            return None
        return self.y if self.y == self.x else (self.y * self.x) ** 0.5

    @property
    def whole(self) -> bool:
        """Whether all three are known."""
        return None not in self

    def __str__(self) -> str:
        return " x ".join("?" if side is None else f"{side:g}" for side in self) + " nm"


class SizeFound(NamedTuple):
    """A voxel size in the metadata of a file.

    Attributes:
        size: None: there are numbers, but they cannot be used.
        where: the attribute, tag or header that gives it.
        note: what is wrong with its unit; empty: nothing.
    """

    size: VoxelSize | None
    where: str
    note: str = ""

    @classmethod
    def of(
        cls, axes: Iterable[str], sizes: Iterable[Any], units: Iterable[Any], where: str
    ) -> Self | None:
        """From sizes by axis, each with its own unit; None if there is no size but 1 or none.

        A size of 1 without a unit is what a library writes that knows none.
        """
        axes, sizes, units = list(axes), list(sizes), list(units)
        known = in_nanometres(sizes, units)
        lost = [size for size, nm in zip(sizes, known, strict=True) if nm is None and _size(size)]
        note = ""
        if any(_size(size) != 1 for size in lost):
            note = f"sizes without a unit of length in the {where} are not used"
        size = VoxelSize.of(dict(zip(axes, known, strict=True)))
        return cls(size, where, note) if size or note else None


def unlikeness(one: VoxelSize, other: VoxelSize) -> float:
    """How far two voxel sizes are apart: 0 if equal, log 2 for twice the pixels or the spacing.

    The sum of both; a size that is unknown in either does not count.
    """
    sides = zip((one.in_plane, one.z), (other.in_plane, other.z), strict=True)
    return sum(abs(math.log(a / b)) for a, b in sides if a and b)


def nanometres(unit: Any) -> float | None:
    r"""Nanometres per unit, in any usual spelling; None if it is not a unit of length.

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
    """Convert sizes, each with its own unit; None if the size or the unit is missing."""
    factors = [nanometres(unit) for unit in units]
    return [
        None if factor is None or (known := _size(size)) is None else known * factor
        for size, factor in zip(sizes, factors, strict=True)
    ]


def from_attributes(attributes: Mapping[str, Any], axes: Sequence[str] | None) -> SizeFound | None:
    """The voxel size in the attributes of an HDF5 or Zarr array.

    ``resolution`` or ``voxel_size`` is one number for all axes, or one for each spatial axis in the
    order of the array. The unit is that of ``units`` or ``unit``, else nm. ``element_size_um`` is
    (z, y, x) in µm (ilastik, Fiji). ``pixelResolution`` is (x, y, z) (N5).

    Args:
        attributes: by name.
        axes: names of the array's axes, see ``axes.axis_name``; None: they have no names.
    """
    for key in ("resolution", "voxel_size"):
        if key in attributes:
            units = attributes.get("units", attributes.get("unit"))
            found = _of_axes(attributes[key], "nm" if units is None else units, axes, key)
            if units is None and found:
                found = found._replace(note=f"the attribute {key} has no unit; nm is assumed")
            return found
    if "element_size_um" in attributes:
        return _of_axes(attributes["element_size_um"], "um", None, "element_size_um")
    pixel = attributes.get("pixelResolution")
    if isinstance(pixel, Mapping):
        return _of_axes(pixel.get("dimensions"), pixel.get("unit"), "xyz", "pixelResolution")
    return None


def plausible(size: VoxelSize | None, where: str) -> VoxelSize | None:
    """The voxel size without implausible values, of which it warns."""
    if size is None:
        return None
    for side in (size.y, size.x):
        if side is not None and not PIXEL_RANGE[0] <= side <= PIXEL_RANGE[1]:
            warn(
                f"{where}: found pixels of {_text(side)}, expected {PIXEL_RANGE[0]:g} to "
                f"{PIXEL_RANGE[1]:g} nm; the voxel size counts as unknown"
            )
            return None
    if size.z is not None and not SPACING_RANGE[0] <= size.z <= SPACING_RANGE[1]:
        warn(
            f"{where}: found sections {_text(size.z)} apart, expected {SPACING_RANGE[0]:g} to "
            f"{SPACING_RANGE[1]:g} nm; the spacing counts as unknown"
        )
        return VoxelSize.of({"y": size.y, "x": size.x})
    return size


def _of_axes(sizes: Any, units: Any, axes: Sequence[str] | None, key: str) -> SizeFound | None:
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
    return SizeFound.of(order, sizes, units, f"attribute {key}")


def _size(value: Any) -> float | None:
    """The absolute value; None if it is 0 or not a finite number."""
    try:
        size = abs(float(value))
    except (TypeError, ValueError):
        return None
    return size if math.isfinite(size) and size > 0 else None


def _text(size: float) -> str:
    return f"{size:g} nm" + (f" ({size / 1e6:g} mm)" if size >= 1e5 else "")
