"""A volume seen from its sides: its xz and yz planes, as sections of a volume of their own."""

import tempfile
from pathlib import Path

import numpy as np

from dataloader.volume import DerivedVolume, Volume, resample, resample_mask

XZ, YZ = 1, 2  # of the axes (sections, height, width), that along which planes follow each other


class PlaneVolume(DerivedVolume):
    """Planes across a volume's sections, with pixels as high as they are wide.

    Args:
        volume: the volume.
        axis: along which the planes follow each other: ``XZ`` or ``YZ``.
        height: of a plane, pixels; so high are all sections together.
        scratch: a folder; as many bytes as the volume has lie there from the first reading on,
            until the planes are gone, in a file without a name.
        masks: the volume holds 0 and 1, and so do its planes.
    """

    def __init__(
        self, volume: Volume, axis: int, height: int, scratch: Path, masks: bool = False
    ) -> None:
        self.axis, self.scratch, self.masks = axis, scratch, masks
        self._planes: np.ndarray | None = None
        self._blank: np.ndarray | None = None  # as the planes, uint8 of 0 and 1; None: nowhere
        super().__init__(volume, (volume.shape[axis], height, volume.shape[3 - axis]))

    @property
    def names(self) -> list[str]:
        kind = "xz" if self.axis == XZ else "yz"
        return [f"{kind} plane {index}" for index in range(len(self))]

    def laid_out(self) -> np.ndarray:
        """(planes, sections, width), in the volume's type; written when first asked for.

        Ask before processes are forked that will read them: each would write its own.
        """
        if self._planes is None:
            shape = (len(self), len(self.volume), self.shape[2])
            self._planes = scratch_array(shape, self.volume.section(0).dtype, self.scratch)
            for index in range(len(self.volume)):
                self._planes[:, index] = self._across(self.volume.section(index))
                if (blank := self.volume.blank(index)) is not None:
                    if self._blank is None:
                        self._blank = scratch_array(shape, np.uint8, self.scratch)
                    self._blank[:, index] = self._across(blank)
        return self._planes

    def section(self, index: int) -> np.ndarray:
        fit = resample_mask if self.masks else resample
        return fit(np.asarray(self.laid_out()[index]), self.shape[1:])

    def blank(self, index: int) -> np.ndarray | None:
        self.laid_out()
        if self._blank is None or not self._blank[index].any():
            return None
        return resample_mask(np.asarray(self._blank[index]), self.shape[1:]) > 0

    def _across(self, section: np.ndarray) -> np.ndarray:
        return section if self.axis == XZ else section.T


class PaddedVolume(DerivedVolume):
    """Another volume, its sections reflected at their border as far as it takes.

    Args:
        volume: the volume.
        side: pixels that its sections have at least, in both directions.
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
    """Zeros in a file of a folder; it has no name, and is gone with the array."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, shape=shape)
