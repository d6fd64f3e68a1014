"""Volumes in one file or store: HDF5, TIFF, Zarr and OME-Zarr, MRC, NIfTI; read as needed."""

import logging
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import tifffile

from dataloader.formats.voxel_size import NANOMETRES, VoxelSize
from dataloader.volume import Volume
from utils.errors import UserError
from utils.optional import wanted

HDF5_SUFFIXES = (".hdf", ".h5", ".hdf5")
HDF5_DATASET = "main"
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
MRC_SUFFIXES = (".mrc", ".rec", ".map", ".st")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")  # files that make a folder a Zarr store
ZARR_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")  # of a group
SPACE = "zyx"

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a broken file is said in one line


class ArrayVolume(Volume):
    """A volume that a library shows as an array, opened anew in every process that reads it.

    Args:
        path: of the file or store.
        dataset: name of the array in it, where the format has several.

    Raises:
        UserError: not readable, or not an array (sections, height, width) of numbers.
    """

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        self.path, self.dataset = path, dataset
        self._array: Any = None
        self._process = 0
        try:
            array = self.array
            self.voxel_size = self._read_voxel_size()
        except UserError:
            raise
        except Exception as error:  # the libraries raise many kinds for a broken file
            raise UserError(f"{path}: not a readable {self.format} ({_line(error)})") from None
        if len(array.shape) != 3 or min(array.shape) < 1:
            raise UserError(
                f"{self.where}: found shape {tuple(array.shape)}, expected (sections, height, "
                "width) of grey values"
            )
        if np.dtype(array.dtype).kind not in "uifb":
            raise UserError(f"{self.where}: found type {array.dtype}, expected grey values")
        super().__init__(array.shape)
        self.close()

    format: str  # as messages say it

    @property
    def where(self) -> str:
        return f"{self.path}:{self.dataset}" if self.dataset else str(self.path)

    @property
    def array(self) -> Any:
        """What has a shape and a dtype, and gives ``array[index, rows, columns]``."""
        if self._array is None or self._process != os.getpid():  # handles do not survive a fork
            self._array, self._process = self._open(), os.getpid()
        return self._array

    def close(self) -> None:
        self._array = None

    def fingerprint(self) -> str:
        opened = self._array is not None
        try:
            return super().fingerprint()
        finally:
            if not opened:
                self.close()

    def section(self, index: int) -> np.ndarray:
        return self._read(index, slice(None), slice(None))

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._read(index, slice(y, y + height), slice(x, x + width))

    def _read(self, index: int, rows: slice, columns: slice) -> np.ndarray:
        try:
            part = np.asarray(self.array[index, rows, columns])
        except Exception as error:  # as above
            raise UserError(
                f"{self.where}: section {index} cannot be read ({_line(error)})"
            ) from None
        return part.astype(part.dtype.newbyteorder("="), copy=False)

    def __getstate__(self) -> dict:
        """Without the open file, for worker processes."""
        return self.__dict__ | {"_array": None}

    @abstractmethod
    def _open(self) -> Any:
        """Open the array."""

    def _read_voxel_size(self) -> VoxelSize | None:
        """From the file's metadata; None where it has none."""
        return None


class Hdf5Volume(ArrayVolume):
    """A data set of an HDF5 file: the one named, else ``main``, else the only one of 3 dimensions.

    Its voxel size is the attribute ``resolution`` (z, y, x in nm) or ``element_size_um``.
    """

    kind, format, tiled = "hdf5", "HDF5 file", True

    def _open(self) -> h5py.Dataset:
        file = h5py.File(self.path, "r")
        if self.dataset is None:
            self.dataset = self._choose(file)
        found = file.get(self.dataset)
        if not isinstance(found, h5py.Dataset):
            raise UserError(
                f"{self.path}: no data set {self.dataset}; found "
                f"{', '.join(_datasets(file)) or 'none'}"
            )
        return found

    def _choose(self, file: h5py.File) -> str:
        shapes = _datasets(file)
        if HDF5_DATASET in shapes:
            return HDF5_DATASET
        return _only_one(self.path, shapes)

    def _read_voxel_size(self) -> VoxelSize | None:
        attributes = self.array.attrs
        for name, unit in (("resolution", 1.0), ("element_size_um", 1e3)):
            if name in attributes:
                return _voxel_size(attributes[name], [unit] * 3)
        return None

    @property
    def sources(self) -> list[Path]:
        """The file, and those in which HDF5 keeps an array that is external or virtual."""
        array = self.array
        own = Path(array.file.filename)  # another than the path's where a link leads there
        parts = [name for name, *_ in array.external or ()]
        parts += [part.file_name for part in array.virtual_sources()] if array.is_virtual else []
        others = [own, *(own.parent / name for name in parts if name != ".")]
        return list(dict.fromkeys([self.path, *(file for file in others if file.is_file())]))

    def close(self) -> None:
        if self._array is not None and self._process == os.getpid():
            self._array.file.close()
        super().close()


class TiffVolume(ArrayVolume):
    """A TIFF, BigTIFF, OME-TIFF or ImageJ TIFF of several pages.

    Its voxel size is that of the OME or ImageJ metadata; the resolution of others is that of a
    printed page.
    """

    kind, format = "tiff", "TIFF file"

    def _open(self) -> "_Pages":
        return _Pages(self.path)

    @property
    def sources(self) -> list[Path]:
        """The file, and the others of an OME-TIFF of several."""
        pages = (page for page in self.array.pages if page is not None)
        others = (Path(page.parent.filehandle.path) for page in pages)
        return list(dict.fromkeys([self.path, *others]))

    def _read_voxel_size(self) -> VoxelSize | None:
        file = self.array.file
        if file.is_ome:
            return _ome_voxel_size(file.ome_metadata)
        if file.is_imagej:
            return _imagej_voxel_size(file)
        return None


class _Pages:
    """A TIFF's pages as an array: mapped where they lie one after the other, else read singly."""

    def __init__(self, path: Path) -> None:
        self.file = tifffile.TiffFile(path)
        len(self.file.pages)  # finds lists of pages that go in circles; series would for ever
        first, *others = self.file.series
        lengths = dict(zip(first.get_axes(squeeze=False), first.get_shape(False), strict=True))
        channels = lengths.get("S", 1) * lengths.get("C", 1)
        if channels > 1:
            raise UserError(f"{path}: found {channels} channels, expected one; convert it to grey")
        height, width = lengths["Y"], lengths["X"]
        self.dtype, self.pages = first.dtype, list(first.pages)
        if len(self.pages) == 1:  # sections written one by one, as some programs do
            alike = [s for s in others if s.shape == first.shape and s.dtype == first.dtype]
            self.pages += [page for series in alike for page in series.pages]
        if len(self.pages) < len(self.file.pages):
            shapes = " and ".join(str(series.shape) for series in self.file.series[:3])
            raise UserError(
                f"{path}: found several images, of shapes {shapes}, expected one volume; save it "
                "as a file of its own"
            )
        mapped = first.dataoffset is not None and first.dtype.isnative and not others
        self.map = self.file.asarray(out="memmap").reshape(-1, height, width) if mapped else None
        self.shape = (len(self.pages) if self.map is None else len(self.map), height, width)
        promised = (self.file.imagej_metadata or {}).get("images", 1) if self.file.is_imagej else 1
        if self.shape[0] < promised:
            raise UserError(f"{path}: cut off after {self.shape[0]} of {promised} pages")

    def __getitem__(self, place: tuple[int, slice, slice]) -> np.ndarray:
        index, rows, columns = place
        if self.map is not None:
            return np.array(self.map[place])
        return self.pages[index].asarray().reshape(self.shape[1:])[rows, columns]


class ZarrVolume(ArrayVolume):
    """An array of a Zarr store (v2 or v3): the one named, the finest of an OME-Zarr image, the one
    that the path itself is, or the only one of 3 dimensions.

    Its voxel size is that of the OME-Zarr's scale, or an attribute ``resolution`` (z, y, x in nm).
    """

    kind, format = "zarr", "Zarr store"

    _image: tuple[list[dict], dict] | None = None  # axes and data set, if an OME-Zarr's

    def _open(self) -> Any:
        zarr = wanted("zarr", "to read Zarr")
        node = zarr.open(self.path, mode="r")
        if isinstance(node, zarr.Group):
            node = self._choose(zarr, node)
        if self._image is None:
            return node
        return _Spatial(node, [axis["name"] for axis in self._image[0]])

    @property
    def sources(self) -> list[Path]:
        """The array's folder, and the metadata above it: others of the store do not count."""
        array = self.path / (self.dataset or "")
        if not array.is_dir():
            return [self.path]
        folders = [folder for folder in array.parents if folder.is_relative_to(self.path)]
        metadata = (folder / name for folder in folders for name in ZARR_METADATA)
        return [*(file for file in metadata if file.is_file()), array]

    def _choose(self, zarr: Any, group: Any) -> Any:
        images = _ome_images(group)
        named = {name: image for name, image in images.items() if name == self.dataset}
        if self.dataset is None and images:
            named = dict([next(iter(images.items()))])  # the finest comes first
        for name, image in named.items():
            self.kind, self._image, self.dataset = "ome-zarr", image, name
            return group[name]
        members = group.members(max_depth=None)
        arrays = {name: node.shape for name, node in members if isinstance(node, zarr.Array)}
        if self.dataset is None:
            self.dataset = _only_one(self.path, arrays)
        node = group.get(self.dataset)
        if isinstance(node, zarr.Group):  # an image below the store's root
            inner = _ome_images(node)
            if inner:
                name, image = next(iter(inner.items()))
                self.kind, self._image = "ome-zarr", image
                return node[name]
        if not isinstance(node, zarr.Array):
            raise UserError(
                f"{self.path}: no array {self.dataset}; found {', '.join(arrays) or 'none'}"
            )
        return node

    def _read_voxel_size(self) -> VoxelSize | None:
        if self._image is None:
            resolution = self.array.attrs.get("resolution")
            return None if resolution is None else _voxel_size(resolution, [1.0] * 3)
        axes, dataset = self._image
        scales = [t["scale"] for t in dataset["coordinateTransformations"] if t["type"] == "scale"]
        size, units = {}, {}
        for axis, step in zip(axes, scales[0] if scales else (), strict=False):
            size[axis["name"]] = step
            units[axis["name"]] = NANOMETRES.get(axis.get("unit", ""), 0.0)
        if not set("yx") <= set(size):
            return None
        return _voxel_size(
            [size.get(name, size["y"]) for name in SPACE],
            [units.get(name, units["y"]) for name in SPACE],
        )


class _Spatial:
    """An OME-Zarr's array without its axes of time and channel, which must have the length 1."""

    def __init__(self, array: Any, axes: list[str]) -> None:
        self.array, self.dtype = array, array.dtype
        lengths = dict(zip(axes or "tczyx"[-array.ndim :], array.shape, strict=True))
        others = {name: lengths.pop(name) for name in list(lengths) if name not in SPACE}
        self.lead = (0,) * len(others)
        self.flat = "z" not in lengths  # a single section
        self.shape = (lengths.pop("z", 1), *lengths.values())
        if any(length > 1 for length in others.values()):
            self.shape = array.shape  # which is refused

    def __getitem__(self, place: tuple[int, slice, slice]) -> np.ndarray:
        return self.array[(*self.lead, *(place[1:] if self.flat else place))]


class MrcVolume(ArrayVolume):
    """An MRC file; its voxel size is the header's."""

    kind, format = "mrc", "MRC file"

    def _open(self) -> np.ndarray:
        self._file = wanted("mrcfile", "to read MRC").mmap(self.path, mode="r")
        data = self._file.data
        return data[None] if data.ndim == 2 else data

    def _read_voxel_size(self) -> VoxelSize | None:
        size = self._file.voxel_size
        return _voxel_size([float(size[axis]) for axis in SPACE], [NANOMETRES["angstrom"]] * 3)

    def close(self) -> None:
        super().close()
        self._file = None

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_file": None}


class NiftiVolume(ArrayVolume):
    """A NIfTI file; its sections are those along the third axis. Compressed ones are slow."""

    kind, format = "nifti", "NIfTI file"

    def _open(self) -> "_Transposed":
        return _Transposed(wanted("nibabel", "to read NIfTI").load(self.path))

    def _read_voxel_size(self) -> VoxelSize | None:
        header = self.array.image.header
        unit = NANOMETRES.get(header.get_xyzt_units()[0], 0.0)
        if unit == 0.0 and header.get_xyzt_units()[0] == "unknown":
            return None
        return _voxel_size([float(step) for step in header.get_zooms()[2::-1]], [unit] * 3)


class _Transposed:
    """NIfTI's (x, y, z) as (z, y, x)."""

    def __init__(self, image: Any) -> None:
        self.image = image
        x, y, *z = image.shape
        self.lead = len(z)
        self.shape = (*reversed(z[:1] or [1]), y, x, *(n for n in z[1:] if n > 1))
        self.dtype = image.dataobj.dtype if image.dataobj.slope == 1 else np.dtype(np.float64)

    def __getitem__(self, place: tuple[int, slice, slice]) -> np.ndarray:
        index, rows, columns = place
        section = (columns, rows, index, *[0] * (self.lead - 1))[: 2 + self.lead]
        return np.asarray(self.image.dataobj[section]).T


def _datasets(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all data sets of a file."""
    found = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item.shape

    file.visititems(visit)
    return found


def _only_one(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    """The only array of three dimensions; raises UserError."""
    solid = [name for name, shape in shapes.items() if len(shape) == 3]
    if len(solid) == 1:
        return solid[0]
    names = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
    if solid:
        raise UserError(f"{path}: which of {names}? Write {path.name}:{solid[0]}, say")
    raise UserError(f"{path}: no array of shape (sections, height, width); found {names}")


def _ome_images(group: Any) -> dict[str, tuple[list[dict], dict]]:
    """Axes and description of each level of an OME-Zarr image, the finest first."""
    attributes = group.attrs
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        return {}
    axes = scales[0].get("axes", [])
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]  # 0.3: names only
    return {
        level["path"]: (axes, {"coordinateTransformations": []} | level)
        for level in scales[0]["datasets"]
    }


def _ome_voxel_size(xml: str) -> VoxelSize | None:
    pixels = next(e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels"))
    if "PhysicalSizeX" not in pixels.attrib:
        return None
    y = pixels.get("PhysicalSizeY", pixels.get("PhysicalSizeX"))
    steps = [pixels.get("PhysicalSizeZ", y), y, pixels.get("PhysicalSizeX")]
    units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"]
    return _voxel_size([float(s) for s in steps], [NANOMETRES.get(unit, 0.0) for unit in units])


def _imagej_voxel_size(file: tifffile.TiffFile) -> VoxelSize | None:
    metadata, tags = file.imagej_metadata or {}, file.pages[0].tags
    unit = NANOMETRES.get(str(metadata.get("unit", "")), 0.0)
    if not unit or "XResolution" not in tags or "YResolution" not in tags:
        return None
    x, y = (tags[f"{axis}Resolution"].value for axis in "XY")  # pixels per unit, as a fraction
    if not (x[0] and y[0]):
        return None
    step = y[1] / y[0]
    return _voxel_size([float(metadata.get("spacing", step)), step, x[1] / x[0]], [unit] * 3)


def _voxel_size(steps: Any, units: list[float]) -> VoxelSize | None:
    """Steps (z, y, x) in units of so many nm; None where they are no sizes."""
    steps = np.asarray(steps, float).ravel() * units if len(steps) == 3 else np.zeros(3)
    return VoxelSize(*steps.tolist()) if np.isfinite(steps).all() and steps.min() > 0 else None


def _line(error: Exception) -> str:
    """An exception of a library in part of a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
