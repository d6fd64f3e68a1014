"""HDF5."""

import importlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dataloader.formats.axes import Stack, axis_names, names_in
from dataloader.formats.base import CHUNK, ArrayVolume, VolumeWriter, only_one
from dataloader.formats.voxel_size import SizeFound, VoxelSize, from_attributes
from utils.errors import UserError

HDF5_SUFFIXES = (".hdf", ".h5", ".hdf5")
HDF5_DATASET = "main"
FILTERS = {  # registered numbers of filters that hdf5plugin provides
    32000: "LZF", 32001: "Blosc", 32004: "LZ4", 32008: "Bitshuffle", 32013: "ZFP",
    32015: "Zstandard", 32026: "Blosc2", 307: "BZip2",
}  # fmt: skip


class Hdf5Volume(ArrayVolume):
    """A data set of an HDF5 file: the one named, else ``main``, else the only 3-D one.

    Axes come from ``axistags`` (vigra, ilastik), dimension labels or an attribute ``axes``; the
    voxel size comes from ``voxel_size.from_attributes``.
    """

    kind, format_name, tiled = "hdf5", "HDF5 file", True

    def _open(self) -> Stack:
        file = h5py.File(self.path, "r")
        if self.dataset is None:
            shapes = _datasets(file)
            self.dataset = HDF5_DATASET if HDF5_DATASET in shapes else only_one(self.path, shapes)
        found = file.get(self.dataset)
        if not isinstance(found, h5py.Dataset):
            raise UserError(
                f"{self.path}: no data set {self.dataset}; found "
                f"{', '.join(_datasets(file)) or 'none'}"
            )
        if found.shape is None or found.dtype.kind not in "uifb":
            raise UserError(f"{self.where}: found type {found.dtype}, expected grey values")
        _require_filters(found, self.where)
        return Stack(found, _axes(found), self.where)

    @property
    def sources(self) -> list[Path]:
        """The file, and the files that hold an external or virtual data set."""
        array = self.array.array
        own = Path(array.file.filename)  # differs from the path for an external link
        parts = [name for name, *_ in array.external or ()]
        parts += [part.file_name for part in array.virtual_sources()] if array.is_virtual else []
        others = [own, *(own.parent / name for name in parts if name != ".")]
        return list(dict.fromkeys([self.path, *(file for file in others if file.is_file())]))

    def _read_voxel_size(self) -> SizeFound | None:
        return from_attributes(self.array.array.attrs, self.array.names)

    def close(self) -> None:
        if self._array is not None:
            self._array.array.file.close()
        super().close()


class Hdf5Writer(VolumeWriter):
    """HDF5: data set ``main`` with attributes: ``axes``, ``resolution`` (z, y, x), ``units``."""

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


def describe(dataset: h5py.Dataset, voxel_size: VoxelSize | None) -> None:
    """Write the axes and the resolution of a data set, with its unit, as attributes."""
    dataset.attrs["axes"] = "zyx"
    if voxel_size:
        dataset.attrs["resolution"], dataset.attrs["units"] = voxel_size, "nm"


def _axes(dataset: h5py.Dataset) -> list[str] | None:
    """The names of a data set's axes; None if it has none."""
    tags = dataset.attrs.get("axistags")
    if tags is not None:
        try:
            found = axis_names(json.loads(tags)["axes"], dataset.ndim)
        except (ValueError, TypeError, KeyError):
            found = None
        if found:
            return found
    # the label of each dimension, or the name of its scale, as in netCDF
    labels = [dim.label or (dim[0].name.rpartition("/")[2] if len(dim) else "")
              for dim in dataset.dims]  # fmt: skip
    return axis_names(labels, dataset.ndim) or names_in(dataset.attrs, dataset.ndim)


def _datasets(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all data sets in a file."""
    found = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found[name] = item.shape

    file.visititems(visit)
    return found


def _require_filters(dataset: h5py.Dataset, where: str) -> None:
    """Raise UserError if a compression filter of a data set is not installed."""
    properties = dataset.id.get_create_plist()
    used = [properties.get_filter(n)[0] for n in range(properties.get_nfilters())]
    missing = [number for number in used if not h5py.h5z.filter_avail(number)]
    if missing:
        with suppress(ModuleNotFoundError):
            importlib.import_module("hdf5plugin")  # registers filters
        missing = [number for number in missing if not h5py.h5z.filter_avail(number)]
    if missing:
        names = ", ".join(FILTERS.get(number, f"filter {number}") for number in missing)
        raise UserError(
            f"{where}: compressed with {names}, which is not installed; pip install hdf5plugin"
        )
