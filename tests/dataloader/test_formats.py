"""Volumes of every format: values, types, voxel sizes, names of arrays, broken files."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import torch
import zarr

from dataloader.formats.opening import find_volume, open_volume
from dataloader.loader import load_batches
from dataloader.pairs import PairDataset, Sampling
from tests.volume_files import (
    FORMATS,
    SHAPE,
    SIZE,
    hdf5,
    imagej_tiff,
    mrc,
    nifti,
    ome_tiff,
    ome_zarr,
    stack,
)
from utils.config.schema import TrainSettings
from utils.errors import UserError
from utils.runtime.distributed import Group

CASES = [
    pytest.param(name, write, dtype, id=f"{name}-{np.dtype(dtype)}")
    for name, (write, *dtypes) in FORMATS.items()
    for dtype in dtypes
]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("name", "write", "dtype"), CASES)
def test_values_types_and_voxel_size(
    tmp_path: Path, name: str, write: Callable, dtype: type, keep: bool
) -> None:
    array = stack(dtype)
    volume = open_volume(write(tmp_path / "v", array), keep=keep)
    assert volume.kept == keep
    assert volume.shape == SHAPE
    assert name.startswith(volume.kind)
    for index in (3, 0, 4):
        assert volume.section(index).dtype == dtype
        np.testing.assert_array_equal(volume.section(index), array[index])
    np.testing.assert_array_equal(volume.crop(2, 5, 7, 16, 20), array[2, 5:21, 7:27])
    assert volume.grey_range(1) == (array[1].min(), array[1].max())
    np.testing.assert_allclose(volume.voxel_size, SIZE, rtol=1e-6)


@pytest.mark.parametrize(("name", "write", "dtype"), CASES[::3])
def test_volumes_are_read_in_worker_processes(
    tmp_path: Path, name: str, write: Callable, dtype: type
) -> None:
    volume = open_volume(write(tmp_path / "v", stack(dtype)), keep=False)
    volume.section(0)  # open here before the workers start
    pairs = PairDataset(volume, None, Sampling(1, 32, (1,), 6))
    alone, shared = (
        load_batches(
            pairs,
            range(3),
            TrainSettings(batch_size=2, num_workers=workers),
            torch.device("cpu"),
            Group(),
        )
        for workers in (0, 2)
    )
    assert all(
        one["images"].equal(other["images"]) for one, other in zip(alone, shared, strict=True)
    )
    again = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(again.section(2), volume.section(2))


def test_bigtiff_of_single_pages_and_a_single_section(tmp_path: Path) -> None:
    array = stack(np.uint16)
    with tifffile.TiffWriter(tmp_path / "big.tif", bigtiff=True) as file:
        for section in array:
            file.write(section, contiguous=False, compression="zlib", tile=(16, 16))
    volume = open_volume(tmp_path / "big.tif", keep=False)
    assert volume.shape == SHAPE
    np.testing.assert_array_equal(volume.section(3), array[3])
    assert volume.voxel_size is None
    tifffile.imwrite(tmp_path / "one.tif", array[0])
    assert open_volume(tmp_path / "one.tif").shape == (1, *SHAPE[1:])


def test_named_arrays(tmp_path: Path) -> None:
    array = stack()
    with h5py.File(tmp_path / "many.hdf", "w") as file:
        file["raw"], file["labels/mito"], file["table"] = array, array // 2, array[0, 0]
    store = zarr.open_group(tmp_path / "many.zarr", mode="w")
    store.create_array("raw", data=array)
    store.create_array("labels/mito", data=array // 2)
    for file in ("many.hdf", "many.zarr"):
        with pytest.raises(UserError, match=rf"{file}: found several arrays, .*such as {file}:"):
            open_volume(tmp_path / file)
        named = open_volume(Path(f"{tmp_path / file}:labels/mito"))
        np.testing.assert_array_equal(named.section(1), array[1] // 2)
        with pytest.raises(UserError, match=rf"{file}: no .* other; found "):
            open_volume(Path(f"{tmp_path / file}:other"))
    np.testing.assert_array_equal(
        open_volume(tmp_path / "many.zarr" / "labels" / "mito").section(1), array[1] // 2
    )
    assert open_volume(Path(f"{tmp_path}/many:raw")).shape == SHAPE  # without its suffix
    assert find_volume(Path(f"{tmp_path}/nothing:raw")) is None
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["volumes/raw"], file["offset"] = array, [0, 0, 0]
    np.testing.assert_array_equal(open_volume(tmp_path / "one.h5").section(4), array[4])


def test_levels_and_labels_of_an_ome_zarr(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "v", stack(), 3)
    coarse = open_volume(Path(f"{path}:s1"))
    assert coarse.kind == "ome-zarr"
    assert coarse.shape == (5, 20, 24)
    zarr.open_group(path, mode="a").create_group("labels")
    ome_zarr(path / "labels" / "mito", stack() // 2, 3)  # written as mito.zarr
    labels = open_volume(Path(f"{path}:labels/mito.zarr"))
    np.testing.assert_array_equal(labels.section(0), stack()[0] // 2)
    np.testing.assert_allclose(labels.voxel_size, SIZE)


def test_time_and_channel_of_an_ome_zarr_must_be_one(tmp_path: Path) -> None:
    for channels in (1, 2):
        group = zarr.open_group(tmp_path / f"{channels}.zarr", mode="w", zarr_format=2)
        group.create_array("0", data=np.stack([stack()] * channels)[None])
        axes = [{"name": "t"}, {"name": "c"}, *({"name": name} for name in "zyx")]
        group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    volume = open_volume(tmp_path / "1.zarr")
    assert volume.shape == SHAPE
    assert volume.voxel_size is None
    np.testing.assert_array_equal(volume.section(2), stack()[2])
    with pytest.raises(UserError, match=r"2\.zarr:0: found shape \(1, 2, 5, 40, 48\), expected"):
        open_volume(tmp_path / "2.zarr")


def test_printed_resolutions_are_no_voxel_sizes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "v.tif", stack(), resolution=(72, 72), resolutionunit="INCH")
    assert open_volume(tmp_path / "v.tif").voxel_size is None
    with mrcfile.new(tmp_path / "v.mrc", stack(np.float32)):
        pass
    assert open_volume(tmp_path / "v.mrc").voxel_size is None


def write_damaged(path: Path, write: Callable, keep: float) -> Path:
    """A file cut off after a part of its length."""
    path = write(path, stack(np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.9])
@pytest.mark.parametrize("write", [hdf5, imagej_tiff, ome_tiff, mrc, nifti])
def test_damaged_files_are_named(tmp_path: Path, write: Callable, part: float) -> None:
    path = write_damaged(tmp_path / "v", write, part)
    with pytest.raises(
        UserError, match=rf"{path.name}.*(not a readable|cannot be read|is empty|cut off)"
    ):
        volume = open_volume(path, keep=False)
        for index in range(len(volume)):
            volume.section(index)


def test_pages_that_go_in_circles_end(tmp_path: Path) -> None:
    """Found by tests/fuzz.py: the last page's successor is itself."""
    path = tmp_path / "v.tif"
    with tifffile.TiffWriter(path) as file:
        for page in stack():
            file.write(page, contiguous=False)
    with tifffile.TiffFile(path) as file:
        place, last = file.pages[-1].offset, file.pages[-1]
        successor = place + 2 + 12 * len(last.tags)
    content = bytearray(path.read_bytes())
    content[successor : successor + 4] = place.to_bytes(4, "little")
    path.write_bytes(content)
    volume = open_volume(path, keep=False)
    np.testing.assert_array_equal(volume.section(0), stack()[0])


def test_less_than_no_sections_are_refused(tmp_path: Path) -> None:
    """Found by tests/fuzz.py: a NIfTI header whose third side is negative."""
    path = nifti(tmp_path / "v", stack())
    content = bytearray(path.read_bytes())
    content[46:48] = (-7).to_bytes(2, "little", signed=True)  # dim[3]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"v\.nii: .*(found shape \(-7|not a readable)"):
        open_volume(path, keep=False)


def test_damaged_zarr_is_named(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "v", stack(), 3)
    chunk = next(file for file in (path / "s0" / "c").rglob("*") if file.is_file())
    whole = chunk.read_bytes()
    for part in (whole[:0], whole[: len(whole) // 2]):
        chunk.write_bytes(part)
        with pytest.raises(UserError, match=r"v\.zarr:s0: section \d cannot be read"):
            open_volume(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(UserError, match=r"v\.zarr: not a readable Zarr store"):
        open_volume(path)
    (path / "zarr.json").unlink()
    with pytest.raises(UserError, match=r"v\.zarr: not a readable Zarr store"):
        open_volume(path)


def test_colour_and_other_shapes_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((5, 16, 16, 3), np.uint8), photometric="rgb")
    with pytest.raises(UserError, match=r"rgb\.tif: found 3 channels"):
        open_volume(tmp_path / "rgb.tif")
    with h5py.File(tmp_path / "four.h5", "w") as file:
        file["main"] = np.zeros((2, 3, 4, 5), np.uint8)
    with pytest.raises(UserError, match=r"four\.h5:main: found shape \(2, 3, 4, 5\), expected"):
        open_volume(tmp_path / "four.h5")
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["main"] = np.full((2, 3, 4), b"a")
    with pytest.raises(UserError, match=r"text\.h5:main: found type \|S1, expected grey"):
        open_volume(tmp_path / "text.h5")
    (tmp_path / "v.xyz").write_bytes(b"1")
    with pytest.raises(UserError, match=r"v\.xyz: unknown format"):
        open_volume(tmp_path / "v.xyz")
    with pytest.raises(UserError, match=r"rgb\.tif: found :main after it"):
        open_volume(Path(f"{tmp_path}/rgb.tif:main"))
