"""NIfTI."""

import logging
from typing import Any

import numpy as np

from dataloader.formats.axes import Stack
from dataloader.formats.base import ArrayVolume, VolumeWriter
from dataloader.formats.voxel_size import SizeFound
from utils.optional import wanted

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NIFTI_1_LIMIT = 2**15 - 1  # voxels of a side
AXES = ["x", "y", "z", "t", "c", "other", "other"]

logging.getLogger("nibabel").setLevel(logging.CRITICAL)  # nibabel repairs odd headers


class NiftiVolume(ArrayVolume):
    """A NIfTI file; sections follow each other along the third axis. Compressed files are slow."""

    kind, format_name = "nifti", "NIfTI file"

    def _open(self) -> Stack:
        image = wanted("nibabel", "to read NIfTI").load(self.path)
        return Stack(_Scaled(image), AXES[: len(image.shape)], self.where)

    def _read_voxel_size(self) -> SizeFound | None:
        header = self.array.array.image.header
        steps = [float(step) for step in header.get_zooms()[:3]]
        units = [header.get_xyzt_units()[0]] * len(steps)
        return SizeFound.of("xyz"[: len(steps)], steps, units, "NIfTI header")


class _Scaled:
    """The values of a NIfTI image, scaled if the header says so."""

    def __init__(self, image: Any) -> None:
        self.image, self.shape = image, image.shape
        plain = (image.dataobj.slope, image.dataobj.inter) == (1, 0)
        self.dtype = image.dataobj.dtype if plain else np.dtype(np.float64)

    def __getitem__(self, place: tuple[int | slice, ...]) -> np.ndarray:
        return np.asarray(self.image.dataobj[place])


class NiftiWriter(VolumeWriter):
    """NIfTI with axes (x, y, z); sizes in micrometres, as the format has no nanometres."""

    suffix = ".nii"

    def open(self) -> None:
        nibabel = wanted("nibabel", "to write NIfTI")
        shape, size = self.spec.shape[::-1], self.spec.voxel_size
        zooms = [step / 1000 for step in reversed(size)] if size else [1.0] * 3
        kind = nibabel.Nifti1Image if max(shape) <= NIFTI_1_LIMIT else nibabel.Nifti2Image
        empty = np.broadcast_to(self.spec.dtype(0), shape)
        image = kind(empty, np.diag([*zooms, 1.0]))
        image.header.set_xyzt_units("micron" if size else "unknown")
        nibabel.save(image, self.part)
        place = nibabel.load(self.part).dataobj.offset
        self.map = np.memmap(self.part, self.spec.dtype, "r+", offset=place, shape=self.spec.shape)

    def write(self, index: int, section: np.ndarray) -> None:
        self.map[index] = section

    def close(self) -> None:
        self.map.flush()
        del self.map
