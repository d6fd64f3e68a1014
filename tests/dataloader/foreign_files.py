"""A volume in files as other programs write them."""

import json
import struct
from pathlib import Path

import h5py
import mrcfile
import nibabel
import numpy as np
import tifffile
import zarr
from PIL import Image

Z, Y, X = np.meshgrid(np.arange(5), np.arange(24), np.arange(32), indexing="ij")
VOLUME = ((40 * Z + 3 * Y + X) % 251).astype(np.uint8)
V = VOLUME
SHAPE = VOLUME.shape
SIZE = (40.0, 4.0, 4.0)
IMOD_STAMP = 1146047817


def ome_zarr(
    path: Path,
    array: np.ndarray,
    axes: list,
    scales: list | None = None,
    version: str = "0.4",
    whole: list | None = None,
    **array_options,
) -> Path:
    """An OME-Zarr image of one level; ``scales`` of it, ``whole`` of the image."""
    v3 = version >= "0.5"
    group = zarr.open_group(path, mode="w", zarr_format=3 if v3 else 2)
    options = {"chunks": array.shape} | array_options
    group.create_array("0", data=np.ascontiguousarray(array), **options)
    level = {"path": "0"}
    if scales:
        level["coordinateTransformations"] = [{"type": "scale", "scale": scales}]
    image = {"version": version, "datasets": [level]} | ({"axes": axes} if axes else {})
    if whole:
        image["coordinateTransformations"] = [{"type": "scale", "scale": whole}]
    group.attrs.update({"ome": {"version": version, "multiscales": [image]}} if v3
                       else {"multiscales": [image]})  # fmt: skip
    return path


def space(names: str, unit: str = "nanometer") -> list[dict]:
    """Axes of OME-Zarr, with their units."""
    kinds = {"c": "channel", "t": "time"}
    return [{"name": n, "type": kinds.get(n.lower(), "space")}
            | ({} if n.lower() in kinds else {"unit": unit}) for n in names]  # fmt: skip


def zarr_array(path: Path, array: np.ndarray, attributes: dict | None = None, **options) -> Path:
    made = zarr.create_array(path, data=np.ascontiguousarray(array), **options)
    made.attrs.update(attributes or {})
    return path


def hdf5(path: Path, array: np.ndarray, labels: str = "", **attributes) -> Path:
    with h5py.File(path, "w") as file:
        file["main"] = array
        file["main"].attrs.update(attributes)
        for dim, label in zip(file["main"].dims, labels, strict=False):
            dim.label = label
    return path


def netcdf(path: Path, array: np.ndarray, names: str) -> Path:
    """Dimensions with scales, as netCDF-4 and xarray write them."""
    with h5py.File(path, "w") as file:
        file["raw"] = array
        for place, name in enumerate(names):
            file[name] = np.arange(array.shape[place])
            file[name].make_scale(name)
            file["raw"].dims[place].attach_scale(file[name])
    return Path(f"{path}:raw")


def vigra(keys: str) -> str:
    return json.dumps({"axes": [{"key": key, "typeFlags": 2, "resolution": 0} for key in keys]})


def ome_tiff(path: Path, array: np.ndarray, axes: str = "ZYX", **metadata) -> Path:
    tifffile.imwrite(path, array, ome=True, metadata={"axes": axes} | metadata)
    return path


def imagej(path: Path, array: np.ndarray, axes: str = "ZYX", side: float = 0.0, **metadata) -> Path:
    resolution = {"resolution": (1 / side, 1 / side)} if side else {}
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": axes} | metadata, **resolution)
    return path


def mrc(path: Path, array: np.ndarray, size: tuple = (40, 40, 400), **header: int) -> Path:
    """``header``: fields of the MRC header and their values."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(array)
        file.voxel_size = size
        for name, value in header.items():
            setattr(file.header, name, value)
    return path


def stamped(path: Path, flags: int, order: str = "<") -> Path:
    """An MRC file with IMOD's stamp and flags added."""
    with path.open("r+b") as file:
        file.seek(152)
        file.write(struct.pack(f"{order}ii", IMOD_STAMP, flags))
    return path


def nifti(path: Path, array: np.ndarray, zooms: tuple, unit: str) -> Path:
    image = nibabel.Nifti1Image(array.T, None)
    image.header.set_zooms(zooms)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def sections(path: Path, names: list[str], array: np.ndarray = VOLUME) -> Path:
    path.mkdir()
    for name, section in zip(names, array, strict=True):
        if name.endswith("tif"):
            tifffile.imwrite(path / name, section)
        else:
            Image.fromarray(section).save(path / name)
    return path


def root(path: Path, version: int = 2, **attributes) -> Path:
    """A group with nothing in it yet."""
    zarr.open_group(path, mode="w", attributes=attributes, zarr_format=version)
    return path


def below(store: Path, inner: Path) -> Path:
    """STORE:INNER, as one names what is in a store."""
    return Path(f"{store}:{inner.relative_to(store)}")
