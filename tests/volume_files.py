"""A small volume in a file of every format."""

from pathlib import Path

import h5py
import mrcfile
import nibabel
import numpy as np
import tifffile
import zarr

from dataloader.formats.voxel_size import VoxelSize

SHAPE = (5, 40, 48)
SIZE = VoxelSize(30.0, 4.0, 4.0)  # nm
OME_TRANSFORM = [{"type": "scale", "scale": [0.03, 0.004, 0.004]}]


def stack(dtype: type = np.uint8) -> np.ndarray:
    noise = np.random.default_rng(0).random(SHAPE)
    return (noise * (1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max)).astype(dtype)


def hdf5(path: Path, array: np.ndarray) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["main"] = array
        file["main"].attrs["resolution"] = SIZE
    return path.with_suffix(".h5")


def hdf5_in_micrometres(path: Path, array: np.ndarray) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("t0/channel0", data=array, chunks=(2, 16, 16), compression="gzip")
        file["t0/channel0"].attrs["element_size_um"] = np.array(SIZE) / 1000
    return path.with_suffix(".h5")


def imagej_tiff(path: Path, array: np.ndarray) -> Path:
    tifffile.imwrite(
        path.with_suffix(".tif"),
        array,
        imagej=True,
        resolution=(250.0, 250.0),
        metadata={"axes": "ZYX", "spacing": 0.03, "unit": "um"},
    )
    return path.with_suffix(".tif")


def ome_tiff(path: Path, array: np.ndarray) -> Path:
    metadata = {"axes": "ZYX", "PhysicalSizeX": 4, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 4,
                "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 0.03}  # fmt: skip
    tifffile.imwrite(
        path.with_suffix(".ome.tif"), array, ome=True, metadata=metadata, compression="zlib"
    )
    return path.with_suffix(".ome.tif")


def ome_zarr(path: Path, array: np.ndarray, version: int) -> Path:
    group = zarr.open_group(path.with_suffix(".zarr"), mode="w", zarr_format=version)
    units = {"type": "space", "unit": "micrometer"}
    axes = [{"name": name, **units} for name in "zyx"]
    levels = []
    for level, image in enumerate((array, array[:, ::2, ::2])):
        group.create_array(f"s{level}", data=image, chunks=(2, 16, 16))
        levels.append({"path": f"s{level}", "coordinateTransformations": OME_TRANSFORM})
    scales = [{"axes": axes, "datasets": levels, "version": "0.4"}]
    group.attrs.update(
        {"multiscales": scales}
        if version == 2
        else {"ome": {"version": "0.5", "multiscales": scales}}
    )
    return path.with_suffix(".zarr")


def ome_zarr_2(path: Path, array: np.ndarray) -> Path:
    return ome_zarr(path, array, 2)


def ome_zarr_3(path: Path, array: np.ndarray) -> Path:
    return ome_zarr(path, array, 3)


def mrc(path: Path, array: np.ndarray) -> Path:
    with mrcfile.new(path.with_suffix(".mrc"), array) as file:
        file.voxel_size = (40.0, 40.0, 300.0)  # x, y, z in Angstrom
    return path.with_suffix(".mrc")


def nifti(path: Path, array: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(array.T, np.diag([4.0, 4.0, 30.0, 1.0]))
    image.header.set_xyzt_units("micron")
    image.header.set_zooms((0.004, 0.004, 0.03))
    nibabel.save(image, path.with_suffix(".nii"))
    return path.with_suffix(".nii")


FORMATS = {
    "hdf5": (hdf5, np.uint8, np.uint16, np.float32),
    "hdf5-um": (hdf5_in_micrometres, np.uint8),
    "tiff-imagej": (imagej_tiff, np.uint8, np.uint16, np.float32),
    "tiff-ome": (ome_tiff, np.uint8, np.uint16, np.float32),
    "ome-zarr-2": (ome_zarr_2, np.uint8, np.uint16, np.float32),
    "ome-zarr-3": (ome_zarr_3, np.uint8, np.uint16, np.float32),
    "mrc": (mrc, np.uint16, np.float32, np.int8),
    "nifti": (nifti, np.uint8, np.uint16, np.float32),
}
