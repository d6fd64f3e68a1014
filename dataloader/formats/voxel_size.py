"""Voxel sizes, in nanometres throughout."""

from typing import NamedTuple

NANOMETRES = {  # in one of each unit, by the names that formats use
    "angstrom": 0.1,
    "Å": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "\\u00B5m": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "millimetre": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "centimetre": 1e7,
    "m": 1e9,
    "meter": 1e9,
    "metre": 1e9,
    "inch": 2.54e7,
}


class VoxelSize(NamedTuple):
    """Size of a voxel along the axes of a volume, nm; z is the distance between sections."""

    z: float
    y: float
    x: float

    @property
    def in_plane(self) -> float:
        """Side of a pixel; of one that is not square, that of a square of the same area."""
        return (self.y * self.x) ** 0.5

    def __str__(self) -> str:
        return f"{self.z:g} x {self.y:g} x {self.x:g} nm"
