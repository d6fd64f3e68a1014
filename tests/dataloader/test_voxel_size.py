"""Voxel sizes as other programs write them, and what is made of pixels that are not square."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from dataloader.description import describe_volume
from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import nanometres
from dataloader.roles import at_common_size, open_images, open_labels, pixel_size, voxel_size
from tests.dataloader.foreign_files import (
    SHAPE,
    SIZE,
    V,
    hdf5,
    imagej,
    mrc,
    nifti,
    ome_tiff,
    ome_zarr,
    space,
    zarr_array,
)
from utils.config.schema import DataSettings
from utils.errors import collected_warnings
from utils.paths import Workspace


def scaled(p: Path, scales: list, axes: list, whole: list | None = None) -> Path:
    names = [axis["name"] for axis in axes]
    array = V if len(names) == 3 else V[None]
    return ome_zarr(p / "v.zarr", array, axes, scales, whole=whole)


def unit_axes(*units: str | None) -> list[dict]:
    return [{"name": n, "type": "space"} | ({"unit": u} if u else {})
            for n, u in zip("zyx", units, strict=True)]  # fmt: skip


def pixels(**sizes: object) -> dict:
    """Keywords of OME-TIFF: Z=40, ZUnit="nm" ..."""
    return {f"PhysicalSize{key}": value for key, value in sizes.items()}


VOXELS: dict[str, tuple[Callable[[Path], Path], tuple | None]] = {
    "level and image": (lambda p: scaled(p, [1, 2, 2], space("zyx"), [40, 2, 2]), SIZE),
    "an axis of its own unit": (
        lambda p: scaled(p, [0.04, 4, 40], unit_axes("micrometer", "nm", "angstrom")), SIZE,
    ),
    "an axis without a unit": (
        lambda p: scaled(p, [1, 4, 4], unit_axes(None, "nm", "nm")), (None, 4, 4),
    ),
    "no unit at all": (lambda p: scaled(p, [40, 4, 4], unit_axes(None, None, None)), None),
    "negative": (lambda p: scaled(p, [-40, 4, -4], space("zyx")), SIZE),
    "with a channel": (lambda p: scaled(p, [7, 40, 4, 4], space("czyx")), SIZE),
    "pixels that are not square": (lambda p: scaled(p, [40, 8, 4], space("zyx")), (40, 8, 4)),
    "metres": (lambda p: scaled(p, [4e-8, 4e-9, 4e-9], space("zyx", "meter")), SIZE),
    "Zarr, resolution": (lambda p: zarr_array(p / "v.zarr", V, {"resolution": [40, 4, 4]}), SIZE),
    "Zarr, voxel_size and units": (
        lambda p: zarr_array(
            p / "v.zarr", V, {"voxel_size": [0.04, 0.004, 0.004], "units": ["um", "um", "um"]}
        ), SIZE,
    ),
    "Zarr, voxel_size": (lambda p: zarr_array(p / "v.zarr", V, {"voxel_size": [40, 4, 4]}), SIZE),
    "Zarr, in the order of its axes": (
        lambda p: zarr_array(
            p / "v.zarr", V.T, {"resolution": [4, 4, 40]}, dimension_names=list("xyz")
        ), SIZE,
    ),
    "Zarr, in pixels": (
        lambda p: zarr_array(p / "v.zarr", V, {"resolution": [1, 1, 1], "units": "pixel"}), None,
    ),
    "N5's attributes": (
        lambda p: zarr_array(
            p / "v.zarr", V, {"pixelResolution": {"unit": "nm", "dimensions": [4, 4, 40]}}
        ), SIZE,
    ),
    "HDF5, one number": (lambda p: hdf5(p / "v.h5", V, resolution=8), (8, 8, 8)),
    "HDF5, an array of one": (lambda p: hdf5(p / "v.h5", V, resolution=[8.0]), (8, 8, 8)),
    "HDF5, in-plane alone": (lambda p: hdf5(p / "v.h5", V, resolution=[4, 4]), (None, 4, 4)),
    "HDF5, voxel_size and unit": (
        lambda p: hdf5(p / "v.h5", V, voxel_size=[0.04, 0.004, 0.004], unit="µm"), SIZE,
    ),
    "HDF5, units as bytes": (
        lambda p: hdf5(p / "v.h5", V, voxel_size=[40.0, 4, 4], units=np.bytes_("nm")), SIZE,
    ),
    "HDF5, element_size_um": (
        lambda p: hdf5(p / "v.h5", V, element_size_um=[0.04, 0.004, 0.004]), SIZE,
    ),
    "HDF5, element_size_um of one channel": (
        lambda p: hdf5(p / "v.h5", V[None], element_size_um=[0.04, 0.004, 0.004]), SIZE,
    ),
    "HDF5, no number": (lambda p: hdf5(p / "v.h5", V, resolution="high"), None),
    "OME-TIFF, units of their own": (
        lambda p: ome_tiff(
            p / "v.ome.tif", V,
            **pixels(X=40, XUnit="Å", Y=4, YUnit="nm", Z=4e-5, ZUnit="mm"),
        ), SIZE,
    ),
    "OME-TIFF, its default unit": (
        lambda p: ome_tiff(p / "v.ome.tif", V, **pixels(X=0.004, Y=0.004, Z=0.04)), SIZE,
    ),
    "OME-TIFF, in pixels": (
        lambda p: ome_tiff(
            p / "v.ome.tif", V, **pixels(X=1, XUnit="pixel", Y=1, YUnit="pixel", Z=1, ZUnit="pixel")
        ), None,
    ),
    "ImageJ, no spacing": (lambda p: imagej(p / "v.tif", V, side=4, unit="nm"), (None, 4, 4)),
    "ImageJ, negative spacing": (
        lambda p: imagej(p / "v.tif", V, side=4, unit="nm", spacing=-40), SIZE,
    ),
    "ImageJ, an escaped unit": (
        lambda p: imagej(p / "v.tif", V, side=0.004, unit="\\u00B5m", spacing=0.04), SIZE,
    ),
    "ImageJ, pixels": (lambda p: imagej(p / "v.tif", V, side=1, unit="pixel", spacing=1), None),
    "ImageJ, no unit": (lambda p: imagej(p / "v.tif", V, side=4, spacing=40), None),
    "TIFF, resolution of a microscope": (
        lambda p: tifffile.imwrite(
            p / "v.tif", V, resolution=(2.5e6, 2.5e6), resolutionunit="CENTIMETER", metadata=None
        ) or p / "v.tif", (None, 4, 4),
    ),
    "MRC": (lambda p: mrc(p / "v.mrc", V.astype(np.int16)), SIZE),
    "MRC, no size": (lambda p: mrc(p / "v.mrc", V.astype(np.int16), (0, 0, 0)), None),
    "NIfTI in um": (lambda p: nifti(p / "v.nii", V, (0.004, 0.004, 0.04), "micron"), SIZE),
    "NIfTI in mm": (lambda p: nifti(p / "v.nii", V, (4e-6, 4e-6, 4e-5), "mm"), SIZE),
}  # fmt: skip


@pytest.mark.parametrize("name", VOXELS)
def test_voxel_sizes(tmp_path: Path, name: str) -> None:
    make, expected = VOXELS[name]
    with collected_warnings() as warnings:
        found = open_volume(make(tmp_path), keep=False).voxel_size
    assert not warnings
    if expected is None:
        assert found is None
        return
    assert [side is None for side in found] == [side is None for side in expected]
    known = [(a, b) for a, b in zip(found, expected, strict=True) if b is not None]
    for side, size in known:
        assert side == pytest.approx(size, rel=1e-5)


NO_UNIT = "without a unit of length in the {} are not used"
ORIGINS: dict[str, tuple[Callable[[Path], Path], str | None, str]] = {
    # where it was read; what is wrong with its unit
    "no unit": (
        lambda p: hdf5(p / "v.h5", V, resolution=[40, 4, 4]), "attribute resolution",
        "the attribute resolution has no unit; nm is assumed",
    ),
    "a unit": (
        lambda p: hdf5(p / "v.h5", V, voxel_size=[40, 4, 4], units="nm"), "attribute voxel_size",
        "",
    ),
    "um": (
        lambda p: hdf5(p / "v.h5", V, element_size_um=[0.04, 0.004, 0.004]),
        "attribute element_size_um", "",
    ),
    "another unit": (
        lambda p: zarr_array(p / "v.zarr", V, {"resolution": [40, 4, 4], "units": "pixel"}), None,
        NO_UNIT.format("attribute resolution"),
    ),
    "OME-Zarr": (lambda p: scaled(p, [40, 4, 4], space("zyx")), "OME-Zarr metadata", ""),
    "OME-Zarr without a unit": (
        lambda p: scaled(p, [40, 4, 4], unit_axes(None, None, None)), None,
        NO_UNIT.format("OME-Zarr metadata"),
    ),
    "OME-Zarr, voxels of 1": (
        lambda p: scaled(p, [1, 1, 1], unit_axes(None, None, None)), None, "",
    ),
    "OME-TIFF": (
        lambda p: ome_tiff(p / "v.tif", V, **pixels(Z=0.04, Y=0.004, X=0.004)), "OME metadata", "",
    ),
    "ImageJ": (lambda p: imagej(p / "v.tif", V, side=4, spacing=40, unit="nm"),
               "ImageJ metadata", ""),
    "ImageJ without a unit": (
        lambda p: imagej(p / "v.tif", V, side=4, spacing=40), None,
        NO_UNIT.format("ImageJ metadata"),
    ),
    "MRC": (lambda p: mrc(p / "v.mrc", V.astype(np.int16)), "MRC header", ""),
    "NIfTI": (lambda p: nifti(p / "v.nii", V, (4e-6, 4e-6, 4e-5), "mm"), "NIfTI header", ""),
    "NIfTI without a unit": (
        lambda p: nifti(p / "v.nii", V, (4, 4, 40), "unknown"), None,
        NO_UNIT.format("NIfTI header"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ORIGINS)
def test_where_a_voxel_size_was_read_and_whether_it_has_a_unit(tmp_path: Path, name: str) -> None:
    make, where, note = ORIGINS[name]
    volume = open_volume(make(tmp_path), keep=False, fill=True)
    assert volume.voxel_size_from == where
    assert (volume.voxel_size is None) == (where is None)
    assert (note in volume.voxel_size_note) if note else volume.voxel_size_note == ""
    lines = describe_volume(volume.path, means=False).warnings
    assert (
        any(note in line for line in lines) if note else not any("unit" in line for line in lines)
    )


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [
        (("nm", "NM", " nanometer", "Nanometers", "nanometre", "nanometres", b"nm", "nm\0"), 1),
        (("um", "µm", "μm", "\\u00B5m", "micron", "Microns", "micrometer", "micrometres", "Âµm"),
         1e3),
        (("Å", "\N{ANGSTROM SIGN}", "A", "angstrom", "Angstroms", "Ångström"), 0.1),
        (("mm", "millimeter"), 1e6),
        (("pm", "picometer"), 1e-3),
        (("m", "meter", "metres"), 1e9),
        (("cm", "centimeter"), 1e7),
        (("inch", "inches", "in"), 2.54e7),
        (("", None, "pixel", "px", "a.u.", "second", "kilometer parsec"), None),
    ],
)  # fmt: skip
def test_units_in_any_spelling(spellings: tuple, expected: float | None) -> None:
    for spelling in spellings:
        assert nanometres(spelling) == (expected and pytest.approx(expected)), spelling


IMPLAUSIBLE: dict[str, tuple[Callable[[Path], Path], str, tuple | None]] = {
    "MRC's default": (
        lambda p: mrc(p / "v.mrc", V.astype(np.int16), (1, 1, 1)), "0.1 nm", None,
    ),
    "NIfTI's millimetre": (lambda p: nifti(p / "v.nii", V, (1, 1, 1), "mm"), "1 mm", None),
    "OME-TIFF's micrometre": (
        lambda p: ome_tiff(p / "v.ome.tif", V, **pixels(X=1, Y=1, Z=1)), "1000 nm", None,
    ),
    "an inch": (
        lambda p: imagej(p / "v.tif", V, side=1 / 72, unit="inch", spacing=1), "352778 nm", None,
    ),
    "the spacing alone": (
        lambda p: scaled(p, [1, 4, 4], unit_axes("mm", "nm", "nm")), "1e+06 nm", (None, 4, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPLAUSIBLE)
def test_sizes_that_no_microscope_has_are_unknown(tmp_path: Path, name: str) -> None:
    make, number, expected = IMPLAUSIBLE[name]
    with collected_warnings() as warnings:
        found = open_volume(make(tmp_path), keep=False).voxel_size
    assert found == expected
    assert len(warnings) == 1
    assert number in warnings[0]


def test_pixels_that_are_not_square_come_back_on_their_own_grid(tmp_path: Path) -> None:
    hdf5(tmp_path / "v.h5", V, resolution=[40, 16, 4])
    hdf5(tmp_path / "l.h5", (V > 100).astype(np.uint8))
    workspace = Workspace(tmp_path, tmp_path)
    data = DataSettings(data_dir_img="v", data_dir_label="l", data_dir_target="v", data_dir_val="v")
    data = at_common_size(workspace, data)
    for role in ("source", "target", "val"):
        volume = open_images(workspace, data, role)
        assert volume.shape == (5, 48, 16)  # pixels of 8 nm
        assert volume.original.shape == SHAPE
    assert open_labels(workspace, data, "source").shape == (5, 48, 16)
    assert voxel_size(data, volume) == (40, 16, 4)
    assert pixel_size(data, "val", volume) == 8
    stated = data.model_copy(update={"pixel_size_target": 4.0})
    assert open_images(workspace, stated, "val").shape == SHAPE
    assert voxel_size(stated, volume) == (40, 4, 4)
    fixed = data.model_copy(update={"pixel_size_working": 16.0})
    assert open_images(workspace, fixed, "val").shape == (5, 24, 8)
