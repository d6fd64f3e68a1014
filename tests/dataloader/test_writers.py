"""Volumes written, and read back with the libraries that viewers use."""

import json
from pathlib import Path

import cv2
import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from dataloader.formats.base import VolumeSpec
from dataloader.formats.opening import open_volume
from dataloader.formats.registry import WRITERS
from dataloader.formats.voxel_size import VoxelSize
from prediction.report.view import Lazy, add_layers
from utils.errors import collected_warnings

SHAPE = (4, 300, 270)
SIZE = VoxelSize(40.0, 8.0, 8.0)
DTYPES = [np.uint8, np.uint16, np.uint32, np.float32]
ORDER = (2, 0, 3, 1)  # pairs come in chains


def content(dtype: type) -> np.ndarray:
    noise = np.random.default_rng(0).random(SHAPE)
    if dtype == np.uint8:
        return (noise > 0.5).astype(np.uint8) * 255
    high = {np.uint16: 60_000, np.uint32: 2**24, np.float32: 1}[dtype]
    return (noise * high).astype(dtype)


def written(
    tmp_path: Path,
    kind: str,
    array: np.ndarray,
    size: VoxelSize | None = SIZE,
    origin: tuple[int, int, int] = (0, 0, 0),
) -> Path:
    names = [f"s{index}.png" for index in range(len(array))]
    discrete = array.dtype != np.float32
    spec = VolumeSpec(array.shape, array.dtype.type, size, names, discrete, origin)
    with WRITERS[kind](tmp_path, "out", spec) as writer:
        for index in ORDER:
            writer.write(index, array[index])
    assert [path.name for path in tmp_path.iterdir()] == [writer.path.name]
    return writer.path


# probabilities go to a folder in 8 bits
CASES = [(k, d) for k in WRITERS for d in DTYPES if (k, d) != ("folder", np.float32)]


@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_our_reader_gets_back_what_was_written(tmp_path: Path, kind: str, dtype: type) -> None:
    array = content(dtype)
    path = written(tmp_path, kind, array)
    volume = open_volume(path)
    expected = array > 0 if kind == "mrc" and dtype == np.uint8 else array
    for index in range(len(array)):
        np.testing.assert_array_equal(volume.section(index), expected[index])
    assert kind == "folder" or volume.voxel_size == pytest.approx(SIZE)
    masks = open_volume(path, masks=True)
    np.testing.assert_array_equal(masks.section(1), array[1] != 0)


def test_folder_of_sections(tmp_path: Path) -> None:
    array = content(np.uint16)
    path = written(tmp_path, "folder", array)
    image = cv2.imread(str(path / "s3.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image, array[3])


@pytest.mark.parametrize("size", [SIZE, None])
def test_ome_tiff_says_axes_and_scale(tmp_path: Path, size: VoxelSize | None) -> None:
    array = content(np.float32)
    with tifffile.TiffFile(written(tmp_path, "tiff", array, size)) as file:
        assert file.is_ome
        assert file.series[0].axes == "ZYX"
        np.testing.assert_array_equal(file.asarray(), array)
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        if size is None:
            assert "PhysicalSizeX" not in pixels
        else:
            assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (8, "nm")
            assert (pixels["PhysicalSizeZ"], pixels["PhysicalSizeZUnit"]) == (40, "nm")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_ome_zarr_is_as_its_specification_says(tmp_path: Path, dtype: type) -> None:
    array = content(dtype)
    path = written(tmp_path, "ome-zarr", array)
    (scales,) = json.loads((path / ".zattrs").read_text())["multiscales"]
    assert scales["version"] == "0.4"
    assert [axis["name"] for axis in scales["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in scales["axes"]} == {"nanometer"}
    levels = [level["path"] for level in scales["datasets"]]
    assert levels == ["0", "1"]  # the next would be below 128
    first, second = (level["coordinateTransformations"] for level in scales["datasets"])
    assert first == [{"type": "scale", "scale": list(SIZE)}]
    assert second[0] == {"type": "scale", "scale": [40.0, 16.0, 16.0]}
    assert json.loads((path / "0" / ".zarray").read_text())["dimension_separator"] == "/"
    assert (path / "0" / "1" / "0" / "0").is_file()  # a section is a chunk deep
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["0"][:], array)
    coarse = group["1"][:]
    if dtype == np.uint16:  # numbers are never averaged
        np.testing.assert_array_equal(coarse, array[:, ::2, ::2])
        assert len(second) == 1
    else:
        means = array.reshape(4, 150, 2, 135, 2).mean((2, 4))
        np.testing.assert_allclose(coarse, means, atol=1e-6)
        assert second[1] == {"type": "translation", "translation": [0.0, 4.0, 4.0]}


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_ome_zarr_lies_where_the_box_is(tmp_path: Path, dtype: type) -> None:
    path = written(tmp_path, "ome-zarr", content(dtype), origin=(2, 10, 100))
    (scales,) = json.loads((path / ".zattrs").read_text())["multiscales"]
    moved = [level["coordinateTransformations"][1] for level in scales["datasets"]]
    centre = 0 if dtype == np.uint16 else 4
    assert moved == [
        {"type": "translation", "translation": [80.0, 80.0, 800.0]},
        {"type": "translation", "translation": [80.0, 80.0 + centre, 800.0 + centre]},
    ]


def test_hdf5_mrc_and_nifti_say_their_scale(tmp_path: Path) -> None:
    array = content(np.float32)
    for kind in ("hdf5", "mrc", "nifti"):
        (tmp_path / kind).mkdir()
    with h5py.File(written(tmp_path / "hdf5", "hdf5", array)) as file:
        assert file["main"].attrs["resolution"].tolist() == list(SIZE)
        assert file["main"].attrs["axes"] == "zyx"
    with mrcfile.open(written(tmp_path / "mrc", "mrc", array)) as file:
        assert file.voxel_size.tolist() == pytest.approx((80, 80, 400))
        np.testing.assert_array_equal(file.data, array)
    mrcfile.validate(tmp_path / "mrc" / "out.mrc")
    image = nibabel.load(written(tmp_path / "nifti", "nifti", array))
    assert image.shape == SHAPE[::-1]
    assert image.header.get_zooms() == pytest.approx((0.008, 0.008, 0.04))
    assert image.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, array)


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_broken_off_leaves_nothing_and_keeps_the_earlier(tmp_path: Path, kind: str) -> None:
    earlier = content(np.uint8)
    path = written(tmp_path, kind, earlier)
    spec = VolumeSpec(SHAPE, np.uint8, SIZE, [f"s{n}.png" for n in range(4)], True)
    with pytest.raises(RuntimeError), WRITERS[kind](tmp_path, "out", spec) as writer:
        writer.write(0, earlier[0] * 0)
        raise RuntimeError
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert open_volume(path).section(0).any()


def test_an_empty_section_of_an_ome_zarr_is_no_missing_chunk(tmp_path: Path) -> None:
    path = written(tmp_path, "ome-zarr", np.zeros(SHAPE, np.uint8))
    with collected_warnings() as warnings:
        open_volume(path)
    assert not warnings


class Viewer:
    """Takes layers as napari's viewer does."""

    def __init__(self) -> None:
        self.layers: dict[str, tuple[str, object, dict]] = {}

    def add_image(self, data: object, name: str, **options: object) -> None:
        self.layers[name] = ("image", data, options)

    def add_labels(self, data: object, name: str, **options: object) -> None:
        self.layers[name] = ("labels", data, options)


def test_layers_of_the_viewer(tmp_path: Path) -> None:
    probability = content(np.float32)
    with h5py.File(tmp_path / "preds.hdf", "w") as file:
        file["main"] = probability
    raw = open_volume(tmp_path / "preds.hdf")
    viewer = Viewer()
    add_layers(viewer, raw, tmp_path, raw, None, SIZE)
    assert list(viewer.layers) == ["raw", "probability", "mask", "labels"]
    assert viewer.layers["mask"][0] == "labels"
    assert all(layer[2]["scale"] == [0.04, 0.008, 0.008] for layer in viewer.layers.values())
    mask = viewer.layers["mask"][1]
    np.testing.assert_array_equal(mask[2], probability[2] >= 0.5)
    np.testing.assert_array_equal(mask[1:3, 5:9, 7], (probability >= 0.5)[1:3, 5:9, 7])
    np.testing.assert_array_equal(Lazy(raw)[-1:, 3], probability[-1:, 3])
