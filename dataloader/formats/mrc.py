"""MRC."""

import warnings
from typing import Any, ClassVar

import numpy as np

from dataloader.formats.axes import Stack
from dataloader.formats.base import ArrayVolume, VolumeWriter
from dataloader.formats.voxel_size import ANGSTROM, SizeFound
from utils.errors import UserError
from utils.optional import wanted

MRC_SUFFIXES = (".mrc", ".rec", ".map", ".st", ".mrcs", ".ali", ".preali", ".ccp4")
IMOD_STAMP, SIGNED = 1146047817, 1  # at byte 152; bit of the flags at byte 156
IMOD_PLACE = slice(40, 48)  # of the header field that starts at byte 112
LARGEST_SIGNED = 127
PACKED, COLOUR, COMPLEX = 101, 16, (3, 4)  # modes


class MrcVolume(ArrayVolume):
    """An MRC file; axes and voxel size come from the header.

    Bytes (mode 0) are signed, as in the standard, unless IMOD's flag says that they are unsigned.
    Without IMOD's stamp they are unsigned if the maximum in the header is above 127.
    """

    kind, format_name = "mrc", "MRC file"
    _file: Any = None

    def _open(self) -> Stack:
        mrcfile = wanted("mrcfile", "to read MRC")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files have incomplete headers
            self._file = mrcfile.mmap(self.path, mode="r", permissive=True)
        data, header = self._file.data, self._file.header
        mode = int(header.mode)
        if data is None or mode in COMPLEX:
            if mode in (PACKED, COLOUR, *COMPLEX):
                raise UserError(
                    f"{self.path}: found MRC mode {mode}, expected 0, 1, 2, 6 or 12; IMOD's "
                    "newstack -mode 1 converts it"
                )
            raise ValueError("the header does not fit the file; was it copied completely?")
        if data.dtype == np.int8 and _unsigned(header):
            data = data.view(np.uint8)
        return Stack(data, _axes(header, data.ndim), self.where)

    def _read_voxel_size(self) -> SizeFound | None:
        with np.errstate(all="ignore"):
            size = self._file.voxel_size
        return SizeFound.of("zyx", [float(size[axis]) for axis in "zyx"], ["A"] * 3, "MRC header")

    def close(self) -> None:
        super().close()
        self._file = None

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_file": None}


class MrcWriter(VolumeWriter):
    """MRC: masks as signed bytes, 16-bit numbers as such, all else as 32-bit floats."""

    suffix = ".mrc"
    modes: ClassVar = {np.uint8: 0, np.uint16: 6, np.uint32: 2, np.float32: 2}

    def open(self) -> None:
        mrcfile = wanted("mrcfile", "to write MRC")
        mode = self.modes[self.spec.dtype]
        self.file = mrcfile.new_mmap(self.part, self.spec.shape, mrc_mode=mode)
        if self.spec.voxel_size:
            self.file.voxel_size = tuple(step / ANGSTROM for step in reversed(self.spec.voxel_size))

    def write(self, index: int, section: np.ndarray) -> None:
        if section.dtype == np.uint8:
            section = section > 0  # 255 would be -1
        self.file.data[index] = section

    def close(self) -> None:
        self.file.close()


def _unsigned(header: Any) -> bool:
    """Whether bytes are unsigned."""
    raw = bytes(header.extra2.tobytes()[IMOD_PLACE])
    for order in ("little", "big"):
        stamp, flags = (int.from_bytes(raw[n : n + 4], order) for n in (0, 4))
        if stamp == IMOD_STAMP:
            return not flags & SIGNED
    return float(header.dmin) >= 0 and float(header.dmax) > LARGEST_SIGNED


def _axes(header: Any, count: int) -> list[str] | None:
    """Names of the axes (sections, rows, columns); None for the usual order."""
    order = [int(header[name]) for name in ("maps", "mapr", "mapc")]
    if count != 3 or sorted(order) != [1, 2, 3]:
        return None
    return ["xyz"[axis - 1] for axis in order]
