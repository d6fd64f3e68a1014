"""The xz and yz slices of a volume as volumes of their own."""

import tempfile
from pathlib import Path

import numpy as np

from dataloader.volume import DerivedVolume, Volume, resample, resample_mask

XZ, YZ = 1, 2  # dimension of (sections, height, width) along which the slices follow each other


class OrthogonalSlices(DerivedVolume):
    """Slices across a volume's sections, resampled to square pixels.

    Args:
        volume: the volume.
        dim: dimension along which the slices follow each other: ``XZ`` or ``YZ``.
        height: height of a slice in pixels; the stack of sections is resampled to it.
        scratch: folder for an unnamed file of the volume's size. It exists from the first read
            until the slices are garbage-collected.
        masks: whether the volume holds masks.
    """

    def __init__(
        self, volume: Volume, dim: int, height: int, scratch: Path, masks: bool = False
    ) -> None:
        self.dim, self.scratch, self.masks = dim, scratch, masks
        self._slices: np.ndarray | None = None
        self._blank: np.ndarray | None = None  # like _slices, uint8 of 0 and 1; None: nowhere
        super().__init__(volume, (volume.shape[dim], height, volume.shape[3 - dim]))

    @property
    def names(self) -> list[str]:
        kind = "xz" if self.dim == XZ else "yz"
        return [f"{kind} slice {index}" for index in range(len(self))]

    def laid_out(self) -> np.ndarray:
        """(slices, sections, width), in the volume's dtype; written on the first call.

        Call it before forking the processes that read it: otherwise each writes its own copy.
        """
        if self._slices is None:
            self._lay_out()
        return self._slices

    def _lay_out(self) -> None:
        shape = (len(self), len(self.volume), self.shape[2])
        slices = scratch_array(shape, self.volume.dtype, self.scratch)
        blanks: np.ndarray | None = None
        for index in range(len(self.volume)):
            slices[:, index] = self._across(self.volume.section(index))
            if (blank := self.volume.blank(index)) is not None:
                if blanks is None:
                    blanks = scratch_array(shape, np.uint8, self.scratch)
                blanks[:, index] = self._across(blank)
        # Last, complete: sections are read ahead in another thread.
        self._blank, self._slices = blanks, slices

    def section(self, index: int) -> np.ndarray:
        fit = resample_mask if self.masks else resample
        return fit(np.asarray(self.laid_out()[index]), self.shape[1:])

    def blank(self, index: int) -> np.ndarray | None:
        self.laid_out()
        if self._blank is None or not self._blank[index].any():
            return None
        return resample_mask(np.asarray(self._blank[index]), self.shape[1:]) > 0

    def _across(self, section: np.ndarray) -> np.ndarray:
        return section if self.dim == XZ else section.T


class PaddedVolume(DerivedVolume):
    """A volume whose sections are reflect-padded to a minimum size.

    Args:
        volume: the volume.
        side: minimum height and width, pixels.
    """

    def __init__(self, volume: Volume, side: int) -> None:
        lacking = [max(0, side - length) for length in volume.shape[1:]]
        self.margins = [(pixels // 2, pixels - pixels // 2) for pixels in lacking]
        grown = (length + pixels for length, pixels in zip(volume.shape[1:], lacking, strict=True))
        super().__init__(volume, (len(volume), *grown))

    def section(self, index: int) -> np.ndarray:
        return np.pad(self.volume.section(index), self.margins, "reflect")

    def blank(self, index: int) -> np.ndarray | None:
        blank = self.volume.blank(index)
        return None if blank is None else np.pad(blank, self.margins, "reflect")


def scratch_array(shape: tuple[int, ...], dtype: np.dtype, folder: Path) -> np.ndarray:
    """Zeros backed by an unnamed file in a folder, which is freed with the array."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, shape=shape)
