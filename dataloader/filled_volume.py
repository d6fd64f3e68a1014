"""A volume whose blank areas are filled with tissue."""

from zlib import compress, decompress

import numpy as np

from dataloader.blank import blank_mask, border_is_blank, fill_blank
from dataloader.volume import DerivedVolume, Volume


class FilledVolume(DerivedVolume):
    """A volume with its blank areas (``dataloader.blank``) filled by reflected tissue.

    Grey ranges, resampling, slicing and padding then use tissue only. ``blank`` tells where a
    section is blank. An entirely blank section is replaced by the nearest section that is not.
    Blank areas are detected when a section is first read, and kept compressed.
    """

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume, volume.shape)
        self._found: dict[int, bytes | None] = {}  # packed and compressed, by section

    @property
    def dtype(self) -> np.dtype:
        return self.volume.dtype

    def section(self, index: int) -> np.ndarray:
        section = self.volume.section(index)
        if index not in self._found:
            self._detect(index, section)
        if (substitute := self._substitute(index)) != index:
            return self.section(substitute)
        blank = self.blank(index)
        return section if blank is None else fill_blank(section, blank)

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        if not self.tiled:
            return super().crop(index, y, x, height, width)
        area = (self._substitute(index), y, x, height, width)
        part, blank = self.volume.crop(*area), self.blank_crop(*area)
        return part if blank is None else fill_blank(part, blank)

    def blank(self, index: int) -> np.ndarray | None:
        return self._unpacked(index, slice(None))

    own_blank = blank

    @property
    def may_be_blank(self) -> bool:
        return len(self._found) < len(self) or any(self._found.values())

    def blank_crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray | None:
        rows = self._unpacked(index, slice(y, y + height))
        part = None if rows is None else rows[:, x : x + width]
        return part if part is not None and part.any() else None

    def _unpacked(self, index: int, rows: slice) -> np.ndarray | None:
        """Rows of a section's blank mask, bool; None if the section has no blank area."""
        if index not in self._found:
            if self._may_be_blank(index):
                self._detect(index, self.volume.section(index))
            else:
                self._found[index] = None
        packed = self._found[index]
        if packed is None:
            return None
        bits = np.frombuffer(decompress(packed), np.uint8).reshape(self.shape[1], -1)[rows]
        return np.unpackbits(bits, axis=1, count=self.shape[2]).view(bool)

    def _detect(self, index: int, section: np.ndarray) -> None:
        blank = blank_mask(section)
        self._found[index] = None if blank is None else compress(np.packbits(blank, axis=1), 1)

    def _may_be_blank(self, index: int) -> bool:
        """False if the outermost lines rule it out, so that a large section need not be read."""
        if not self.tiled:
            return True
        _, height, width = self.shape
        rows = [self.volume.crop(index, y, 0, 1, width)[0] for y in (0, height - 1)]
        columns = [self.volume.crop(index, 0, x, height, 1)[:, 0] for x in (0, width - 1)]
        return rows[0].dtype.itemsize > 1 or border_is_blank(rows + columns, (height, width))

    def _substitute(self, index: int) -> int:
        """The index itself, or if that section is entirely blank the nearest one that is not."""
        if not self._all_blank(index):
            return index
        order = sorted(range(len(self)), key=lambda other: abs(other - index))
        return next((other for other in order if not self._all_blank(other)), index)

    def _all_blank(self, index: int) -> bool:
        blank = self.blank(index)
        return blank is not None and bool(blank.all())
