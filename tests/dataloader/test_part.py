"""A part of a volume, in memory and on disc."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.part import central, write_crop
from dataloader.synthetic import write_sections
from tests.dataloader.foreign_files import hdf5, mrc, nifti, ome_tiff, ome_zarr, space
from utils.errors import UserError

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
    crop = central(open_volume(path, keep=False), BOX.shape)
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
    crop = central(volume, (3, 40, 120))
    blank = crop.blank(0)
    assert blank.shape == (40, 120)
    first = (array.shape[2] - 120) // 2
    assert blank[:, : 100 - first].all()
    assert not blank[:, 100 - first :].any()
    assert central(volume, (3, 40, 20)).blank(0) is None


@pytest.mark.parametrize("name", VOLUMES)
def test_a_box_after_a_path_is_a_volume_of_its_own(tmp_path: Path, name: str) -> None:
    write, dtype = VOLUMES[name]
    shift = 9 if np.dtype(dtype).itemsize == 1 else 1
    array, box = ((part >> shift).astype(dtype) for part in (ARRAY, BOX))
    path = write(tmp_path / f"v{SUFFIXES.get(name.partition(',')[0], '')}", array)
    for keep in (False, True):
        volume = open_volume(Path(f"{path}[2:5, 5:15, 3:27]"), keep=keep)
        assert volume.shape == BOX.shape
        assert volume.dtype == open_volume(path).dtype
        assert volume.where == f"{open_volume(path).where}[2:5,5:15,3:27]"
        assert np.array_equal([volume.section(index) for index in range(3)], box)
        assert np.array_equal(volume.crop(1, 8, 20, 9, 9), box[1, 8:, 20:])
        assert volume.original.origin == (2, 5, 3)
    assert open_volume(Path(volume.where)).where == volume.where
    assert open_volume(path).origin == (0, 0, 0)
    assert volume.names == open_volume(path).names[2:5]
    rest = open_volume(Path(f"{path}[5:,:,:7]"))
    assert rest.shape == (2, 20, 7)
    assert np.array_equal(rest.section(1), array[6, :, :7])
    assert len({each.fingerprint() for each in (volume, rest, open_volume(path))}) == 3


def test_a_box_of_a_named_array_of_labels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["raw"], file["labels"] = ARRAY, np.uint8(ARRAY > 30000) * 255
    masks = open_volume(Path(f"{tmp_path / 'v.h5'}:labels[2:5,5:15,3:27]"), masks=True)
    assert np.array_equal(masks.section(0), BOX[0] > 30000)
    scaled = open_volume(Path(f"{tmp_path / 'v.h5'}:raw[2:5,5:15,3:27]"), scale=0.5)
    assert scaled.shape == (3, 5, 12)


def test_a_folder_may_have_brackets_in_its_name(tmp_path: Path) -> None:
    write_sections(tmp_path / "v[0:1,0:2,0:2]", ARRAY.astype(np.uint8))
    volume = open_volume(tmp_path / "v[0:1,0:2,0:2]")
    assert volume.shape == ARRAY.shape
    assert open_volume(Path(f"{volume.where}[1:2,:,:]")).shape == (1, *ARRAY.shape[1:])


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ("", "found [] after it, expected a box [z0:z1, y0:y1, x0:x1]"),
        ("0:2,0:2", "expected a box [z0:z1, y0:y1, x0:x1] of first voxels and one after the last"),
        ("0:2,0:2,-3:2", "expected a box"),
        ("0:2,0:2,0:2:1", "expected a box"),
        ("0:8,:,:", "found 0:8 along z in [0:8,:,:], expected a part of 0:7"),
        (":,20:,:", "found 20:20 along y in [:,20:,:], expected a part of 0:20"),
        (":,:,5:4", "found 5:4 along x in [:,:,5:4], expected a part of 0:30"),
    ],
)
def test_boxes_that_are_none(tmp_path: Path, box: str, said: str) -> None:
    path = ome_tiff(tmp_path / "v.tif", ARRAY)
    with pytest.raises(UserError, match=re.escape(f"{path}: found")) as raised:
        open_volume(Path(f"{path}[{box}]"))
    assert said in str(raised.value)
