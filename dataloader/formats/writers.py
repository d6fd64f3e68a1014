"""Volumes to files other tools open: sections in any order, at the right scale.

Files are written beside their place and moved there when they are whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import h5py
import numpy as np
import tifffile

from dataloader.formats.arrays import HDF5_DATASET
from dataloader.formats.voxel_size import VoxelSize
from utils.errors import UserError
from utils.files import discard, write_picture
from utils.optional import wanted

Format = Literal["folder", "tiff", "hdf5", "ome-zarr", "mrc", "nifti"]
CHUNK = 512  # pixels, side of the chunks of HDF5 and Zarr
LEVELS = 4  # at most, of an OME-Zarr's pyramid
SMALLEST_LEVEL = 128  # pixels, of the shorter side
NIFTI_HEADER, NIFTI_1_LIMIT = 352, 2**15 - 1


class VolumeSpec(NamedTuple):
    """What is going to be written.

    Attributes:
        shape: (sections, height, width).
        dtype: uint8, uint16, uint32 or float32.
        voxel_size: None where it is not known.
        names: file names of the sections, for a folder.
        discrete: masks or instance numbers, which must not be averaged.
    """

    shape: tuple[int, int, int]
    dtype: type
    voxel_size: VoxelSize | None
    names: Sequence[str]
    discrete: bool


class VolumeWriter(ABC):
    """Writes sections; a context that moves the whole file to its place, or takes it away.

    Args:
        folder: where it goes.
        stem: of the file's name.
        spec: what is written.
    """

    suffix: str

    def __init__(self, folder: Path, stem: str, spec: VolumeSpec) -> None:
        self.path, self.spec = folder / f"{stem}{self.suffix}", spec
        self.part = folder / f".{stem}.part{self.suffix}"

    def __enter__(self) -> Self:
        discard(self.part)
        self.open()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.close()
        if kind is None:
            discard(self.path)
            self.part.replace(self.path)
        else:
            discard(self.part)

    @abstractmethod
    def open(self) -> None:
        """Begin the file."""

    @abstractmethod
    def write(self, index: int, section: np.ndarray) -> None:
        """Write one section (H, W) of the dtype."""

    @abstractmethod
    def close(self) -> None:
        """Bring it to the disc."""


class FolderWriter(VolumeWriter):
    """A folder of PNG sections; numbers beyond 16 bits become TIFF sections."""

    suffix = ""

    def open(self) -> None:
        self.part.mkdir(parents=True)

    def write(self, index: int, section: np.ndarray) -> None:
        name = self.part / self.spec.names[index]
        if section.dtype.itemsize > 2:
            tifffile.imwrite(name.with_suffix(".tif"), section, compression="zlib")
        else:
            write_picture(name, section)

    def close(self) -> None:
        pass


class Hdf5Writer(VolumeWriter):
    """HDF5: data set ``main`` with the attributes ``axes`` and ``resolution`` (z, y, x in nm)."""

    suffix = ".hdf"

    def open(self) -> None:
        _, height, width = self.spec.shape
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        self.file = h5py.File(self.part, "w")
        self.dataset = self.file.create_dataset(
            HDF5_DATASET,
            self.spec.shape,
            self.spec.dtype,
            **({"chunks": (1, min(CHUNK, height), min(CHUNK, width))} | packed)
            if self.spec.discrete
            else {},
        )
        describe(self.dataset, self.spec.voxel_size)

    def write(self, index: int, section: np.ndarray) -> None:
        self.dataset[index] = section

    def close(self) -> None:
        self.file.close()


class TiffWriter(VolumeWriter):
    """OME-TIFF, uncompressed, BigTIFF where it must be: Fiji and napari read its scale."""

    suffix = ".ome.tif"

    def open(self) -> None:
        size = self.spec.voxel_size
        scale = {}
        if size:
            for axis, step in zip("ZYX", size, strict=True):
                scale |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": "nm"}
        self.map = tifffile.memmap(
            self.part,
            shape=self.spec.shape,
            dtype=self.spec.dtype,
            ome=True,
            photometric="minisblack",
            metadata={"axes": "ZYX"} | scale,
        ).reshape(self.spec.shape)

    def write(self, index: int, section: np.ndarray) -> None:
        self.map[index] = section

    def close(self) -> None:
        self.map.flush()
        del self.map


class OmeZarrWriter(VolumeWriter):
    """OME-Zarr 0.4 (Zarr v2), the version most viewers read, with a pyramid in y and x."""

    suffix = ".ome.zarr"

    def open(self) -> None:
        zarr = wanted("zarr", "to write OME-Zarr")
        sections, height, width = self.spec.shape
        group = zarr.open_group(self.part, mode="w", zarr_format=2)
        self.levels, datasets = [], []
        size = self.spec.voxel_size or VoxelSize(1.0, 1.0, 1.0)
        for level in range(LEVELS):
            step = 2**level
            shape = (sections, -(-height // step), -(-width // step))
            if level and min(shape[1:]) < SMALLEST_LEVEL:
                break
            self.levels.append(
                group.create_array(
                    str(level),
                    shape=shape,
                    dtype=self.spec.dtype,
                    chunks=(1, min(CHUNK, shape[1]), min(CHUNK, shape[2])),
                    chunk_key_encoding={"name": "v2", "separator": "/"},
                )
            )
            moved = (step - 1) / 2 * (0 if self.spec.discrete else 1)  # centre of averaged pixels
            transforms = [{"type": "scale", "scale": [size.z, size.y * step, size.x * step]}]
            if moved:
                moves = [0.0, size.y * moved, size.x * moved]
                transforms.append({"type": "translation", "translation": moves})
            datasets.append({"path": str(level), "coordinateTransformations": transforms})
        unit = {"unit": "nanometer"} if self.spec.voxel_size else {}
        axes = [{"name": name, "type": "space", **unit} for name in "zyx"]
        name = self.path.name.removesuffix(self.suffix)
        scales = {"version": "0.4", "name": name, "axes": axes, "datasets": datasets}
        group.attrs["multiscales"] = [scales]

    def write(self, index: int, section: np.ndarray) -> None:
        for level, array in enumerate(self.levels):
            if level:
                section = section[::2, ::2] if self.spec.discrete else _halved(section)
            array[index] = section

    def close(self) -> None:
        self.levels = []


class MrcWriter(VolumeWriter):
    """MRC: masks as signed bytes, numbers as 16 bits, others as 32-bit floats."""

    suffix = ".mrc"
    modes: ClassVar = {np.uint8: 0, np.uint16: 6, np.uint32: 2, np.float32: 2}

    def open(self) -> None:
        mrcfile = wanted("mrcfile", "to write MRC")
        mode = self.modes[self.spec.dtype]
        self.file = mrcfile.new_mmap(self.part, self.spec.shape, mrc_mode=mode)
        if self.spec.voxel_size:
            self.file.voxel_size = tuple(10 * step for step in reversed(self.spec.voxel_size))

    def write(self, index: int, section: np.ndarray) -> None:
        if section.dtype == np.uint8:
            section = section > 0  # 255 would be -1
        self.file.data[index] = section

    def close(self) -> None:
        self.file.close()


class NiftiWriter(VolumeWriter):
    """NIfTI, its axes (x, y, z) in nanometres as micrometres, which the format knows."""

    suffix = ".nii"

    def open(self) -> None:
        nibabel = wanted("nibabel", "to write NIfTI")
        shape = self.spec.shape[::-1]
        if max(shape) > NIFTI_1_LIMIT:
            raise UserError(f"{self.path}: NIfTI holds no side of {max(shape)}; use --format")
        size = self.spec.voxel_size
        zooms = tuple(step / 1000 for step in reversed(size)) if size else (1.0, 1.0, 1.0)
        header = nibabel.Nifti1Header()
        header.set_data_dtype(self.spec.dtype)
        header.set_data_shape(shape)
        header.set_zooms(zooms)
        header.set_sform(np.diag([*zooms, 1.0]), "scanner")
        header.set_xyzt_units("micron" if size else "unknown")
        header["vox_offset"], header["magic"] = NIFTI_HEADER, b"n+1"
        header.set_slope_inter(1, 0)
        with self.part.open("wb") as file:
            header.write_to(file)
            file.truncate(NIFTI_HEADER + int(np.prod(shape)) * np.dtype(self.spec.dtype).itemsize)
        self.map = np.memmap(
            self.part, self.spec.dtype, "r+", offset=NIFTI_HEADER, shape=self.spec.shape
        )

    def write(self, index: int, section: np.ndarray) -> None:
        self.map[index] = section

    def close(self) -> None:
        self.map.flush()
        del self.map


WRITERS: dict[str, type[VolumeWriter]] = {
    "folder": FolderWriter,
    "tiff": TiffWriter,
    "hdf5": Hdf5Writer,
    "zarr": OmeZarrWriter,
    "ome-zarr": OmeZarrWriter,
    "mrc": MrcWriter,
    "nifti": NiftiWriter,
}


def describe(dataset: h5py.Dataset, voxel_size: VoxelSize | None) -> None:
    """The axes and, in nm, the resolution of an HDF5 data set."""
    dataset.attrs["axes"] = "zyx"
    if voxel_size:
        dataset.attrs["resolution"] = voxel_size


def _halved(section: np.ndarray) -> np.ndarray:
    """Means of two by two pixels; odd borders are repeated."""
    height, width = section.shape
    even = np.pad(section, ((0, height % 2), (0, width % 2)), mode="edge").astype(np.float32)
    means = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return means.astype(section.dtype)
