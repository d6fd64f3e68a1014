"""The central part of a volume, in memory and on disc."""

from pathlib import Path

import numpy as np
import pytest

from dataloader.central_crop import CentralCrop, write_crop
from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.synthetic import write_sections
from tests.dataloader.foreign_files import hdf5, mrc, nifti, ome_tiff, ome_zarr, space

ARRAY = np.random.default_rng(0).integers(0, 2**16, (7, 20, 30), np.uint16)
BOX = ARRAY[2:5, 5:15, 3:27]


def folder(path: Path, array: np.ndarray) -> Path:
    write_sections(path, array)
    return path


VOLUMES = {  # writes the volume, its dtype
    "folder": (folder, np.uint8),
    "tiff, 8 bits": (ome_tiff, np.uint8),
    "tiff, 16 bits": (ome_tiff, np.uint16),
    "tiff, floats": (ome_tiff, np.float32),
    "hdf5, bits": (hdf5, bool),
    "hdf5, signed": (hdf5, np.int32),
    "hdf5, numbers": (hdf5, np.uint32),
    "mrc, bytes": (lambda path, array: mrc(path, array, (80, 80, 400)), np.int8),
    "mrc, 16 bits": (lambda path, array: mrc(path, array, (80, 80, 400)), np.uint16),
    "nifti": (lambda path, array: nifti(path, array, (8e-3, 8e-3, 4e-2), "micron"), np.int16),
    "ome-zarr": (lambda path, array: ome_zarr(path, array, space("zyx"), [[40, 8, 8]]), np.uint16),
}
SUFFIXES = {"tiff": ".tif", "hdf5": ".h5", "mrc": ".mrc", "nifti": ".nii", "ome-zarr": ".zarr"}


@pytest.mark.parametrize("name", VOLUMES)
def test_a_crop_is_written_in_the_format_of_its_volume(tmp_path: Path, name: str) -> None:
    write, dtype = VOLUMES[name]
    kind = name.partition(",")[0]
    shift = 9 if np.dtype(dtype).itemsize == 1 else 1  # to 7 or 15 bits, which signed types hold
    array, box = ((part >> shift).astype(dtype) for part in (ARRAY, BOX))
    path = write(tmp_path / f"v{SUFFIXES.get(kind, '')}", array)
    crop = CentralCrop(open_volume(path, keep=False), BOX.shape)
    assert crop.original.shape == BOX.shape
    assert crop.tiled == (kind == "hdf5")
    written = open_volume(write_crop(crop, tmp_path, "crop", VoxelSize(40, 8, 8)), keep=False)
    assert written.kind == kind
    size = written.voxel_size and pytest.approx(written.voxel_size)
    assert size == (None if kind == "folder" else (40, 8, 8))
    assert np.array_equal([written.section(index) for index in range(3)], box)
    if kind == "folder":
        assert written.names == open_volume(path).names[2:5]


def test_blank_areas_are_those_of_the_box(tmp_path: Path) -> None:
    array = (ARRAY >> 8).astype(np.uint8)
    array = np.tile(array, (1, 8, 8))
    array[:, :, :100] = 0
    volume = open_volume(hdf5(tmp_path / "v.h5", array), keep=False, fill=True)
    crop = CentralCrop(volume, (3, 40, 120))
    blank = crop.blank(0)
    assert blank.shape == (40, 120)
    first = (array.shape[2] - 120) // 2
    assert blank[:, : 100 - first].all()
    assert not blank[:, 100 - first :].any()
    assert CentralCrop(volume, (3, 40, 20)).blank(0) is None
