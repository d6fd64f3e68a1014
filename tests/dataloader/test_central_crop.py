"""The central part of a volume, in memory and on disc."""

from pathlib import Path

import numpy as np
import pytest

from dataloader.central_crop import CentralCrop, write_crop
from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.synthetic import write_sections
from tests.dataloader.foreign_files import hdf5, ome_tiff

ARRAY = np.random.default_rng(0).integers(0, 2**16, (7, 20, 30), np.uint16)
BOX = ARRAY[2:5, 5:15, 3:27]


@pytest.mark.parametrize("kind", ["folder", "tiff", "hdf5"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_a_crop_is_written_in_the_format_of_its_volume(tmp_path: Path, kind: str, dtype) -> None:
    array, box = ((part >> 8).astype(dtype) for part in (ARRAY, BOX))
    if kind == "folder":
        array, box = array.astype(np.uint8), box.astype(np.uint8)
        write_sections(tmp_path / "v", array)
        path = tmp_path / "v"
    elif kind == "tiff":
        path = ome_tiff(tmp_path / "v.tif", array.astype(np.uint8) if dtype is bool else array)
    else:
        path = hdf5(tmp_path / "v.h5", array)
    crop = CentralCrop(open_volume(path, keep=False), BOX.shape)
    assert crop.original.shape == BOX.shape
    assert crop.tiled == (kind == "hdf5")
    written = open_volume(write_crop(crop, tmp_path, "crop", VoxelSize(40, 8, 8)), keep=False)
    assert written.kind == kind
    assert written.voxel_size == (None if kind == "folder" else (40, 8, 8))
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
