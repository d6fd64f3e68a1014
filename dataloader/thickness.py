"""Sections of a volume as thick as those of another microscope.

A block-face section (FIB-SEM) shows the surface of a cut, its neighbours 5 or 10 nm below; a
section cut off for transmission (ssTEM) shows all that lies in its 40 or 50 nm, one on the other.
What a thin volume shows in thick sections is the mean over the tissue,

    thick_i = mean of section_j,   |j - i| <= (n - 1) / 2,   n the odd number next to t / spacing

with t the thickness, and fewer at the volume's ends. The projection is that of transmission
microscopy up to the logarithm of the intensity, see Frank, *Electron tomography*, 2006.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from dataloader.volume import DerivedVolume, Volume


def sections_in(thickness: float, spacing: float) -> int:
    """The odd number of sections ``spacing`` apart that make up a thickness best, both in nm."""
    return 2 * max(0, round((thickness / spacing - 1) / 2)) + 1


class ThickVolume(DerivedVolume):
    """Another volume in thick sections, float32, one for each of its own.

    Args:
        volume: whose sections are averaged, at least as many as ``count``.
        count: an odd number of sections.
    """

    def __init__(self, volume: Volume, count: int) -> None:
        super().__init__(volume, volume.shape)
        self.kept = False
        self.count = count
        self.recent: OrderedDict[int, np.ndarray] = OrderedDict()  # neighbours share sections

    def section(self, index: int) -> np.ndarray:
        return self._mean(index, self._read)

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        if not self.tiled:
            return super().crop(index, y, x, height, width)
        return self._mean(index, lambda k: self.volume.crop(k, y, x, height, width))

    def _mean(self, index: int, read: Callable[[int], np.ndarray]) -> np.ndarray:
        half = self.count // 2
        near = range(max(0, index - half), min(len(self), index + half + 1))
        total = 0.0
        for k in near:
            total = total + read(k).astype(np.float32)
        return total / np.float32(len(near))

    def _read(self, index: int) -> np.ndarray:
        found = self.recent.pop(index, None)
        self.recent[index] = self.volume.section(index) if found is None else found
        while len(self.recent) > self.count:
            self.recent.popitem(last=False)
        return self.recent[index]
