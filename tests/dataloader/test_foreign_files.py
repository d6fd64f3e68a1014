"""Files as other programs write them: axes, voxel sizes, values, what is refused and how."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from dataloader.formats.opening import open_volume
from tests.dataloader.foreign_files import (
    SHAPE,
    VOLUME,
    V,
    below,
    hdf5,
    imagej,
    mrc,
    netcdf,
    nifti,
    ome_tiff,
    ome_zarr,
    root,
    sections,
    space,
    stamped,
    vigra,
    zarr_array,
)
from utils.errors import UserError, collected_warnings

AXES: dict[str, Callable[[Path], Path]] = {
    "OME-Zarr 0.1, no axes": lambda p: ome_zarr(p / "v.zarr", V[None, None], []),
    "OME-Zarr 0.3, names": lambda p: ome_zarr(p / "v.zarr", V[None], ["c", "z", "y", "x"]),
    "OME-Zarr, capitals": lambda p: ome_zarr(p / "v.zarr", V, space("ZYX")),
    "OME-Zarr, xyz": lambda p: ome_zarr(p / "v.zarr", V.T, space("xyz")),
    "OME-Zarr, xyzct": lambda p: ome_zarr(p / "v.zarr", V.T[..., None, None], space("xyzct")),
    "OME-Zarr, zxy": lambda p: ome_zarr(p / "v.zarr", V.transpose(0, 2, 1), space("zxy")),
    "OME-Zarr 0.5": lambda p: ome_zarr(
        p / "v.zarr", V.T[None], space("cxyz"), version="0.5", dimension_names=list("cxyz")
    ),
    "OME-Zarr 0.5 in shards": lambda p: ome_zarr(
        p / "v.zarr", V[None], space("czyx"), version="0.5",
        chunks=(1, 1, 8, 8), shards=(1, 2, 16, 16),
    ),
    "OME-Zarr, chunks named with dots": lambda p: ome_zarr(
        p / "v.zarr", V, space("zyx"), chunks=(2, 8, 8),
        chunk_key_encoding={"name": "v2", "separator": "."},
    ),
    "OME-Zarr, sections called times": lambda p: ome_zarr(p / "v.zarr", V, space("tyx")),
    "bioformats2raw 0.5": lambda p: ome_zarr(
        root(p / "b.zarr", 3, ome={"bioformats2raw.layout": 3}) / "0",
        V[None, None],
        space("tczyx"),
        version="0.5",
    ).parent,
    "an image in a store": lambda p: below(
        root(p / "b.zarr"), ome_zarr(p / "b.zarr" / "em" / "fibsem", V, space("zyx"))
    ),
    "the images below a group": lambda p: below(
        root(p / "b.zarr"), ome_zarr(root(p / "b.zarr" / "em") / "s", V, space("zyx")).parent
    ),
    "a level of an image, by its path": lambda p: ome_zarr(p / "v.zarr", V.T, space("xyz")) / "0",
    "a level of an image in a store": lambda p: below(
        root(p / "b.zarr"), ome_zarr(p / "b.zarr" / "em", V.T, space("xyz")) / "0"
    ),
    "Zarr 3, dimension_names": lambda p: zarr_array(p / "v.zarr", V.T, dimension_names=list("xyz")),
    "Zarr 3, some names": lambda p: zarr_array(
        p / "v.zarr", V[None], dimension_names=["channel", "z", "y", "x"]
    ),
    "Zarr 3, useless names": lambda p: zarr_array(
        p / "v.zarr", V, dimension_names=["dim_0", "dim_1", "dim_2"]
    ),
    "Zarr 2, xarray": lambda p: zarr_array(
        p / "v.zarr", V.T, {"_ARRAY_DIMENSIONS": ["x", "y", "z"]}, zarr_format=2
    ),
    "Zarr, funlib": lambda p: zarr_array(
        p / "v.zarr", V[None], {"axis_names": ["c^", "z", "y", "x"]}
    ),
    "Zarr, four axes without names": lambda p: zarr_array(p / "v.zarr", V[None]),
    "HDF5, ilastik tzyxc": lambda p: hdf5(
        p / "v.h5", V[None, ..., None], axistags=vigra("tzyxc")
    ),
    "HDF5, vigra xyzc": lambda p: hdf5(p / "v.h5", V.T[..., None], axistags=vigra("xyzc")),
    "HDF5, labels of dimensions": lambda p: hdf5(p / "v.h5", V.T, "xyz"),
    "HDF5, labels of dimensions, capitals": lambda p: hdf5(p / "v.h5", V.T[None], "CXYZ"),
    "HDF5, netCDF": lambda p: netcdf(p / "v.h5", V.T, "xyz"),
    "HDF5, axes": lambda p: hdf5(p / "v.h5", V.T, axes="xyz"),
    "HDF5, one channel first": lambda p: hdf5(p / "v.h5", V[None]),
    "HDF5, five axes": lambda p: hdf5(p / "v.h5", V[None, None]),
    "OME-TIFF, CZYX": lambda p: ome_tiff(p / "v.ome.tif", V[None], "CZYX"),
    "OME-TIFF, sections called times": lambda p: ome_tiff(p / "v.ome.tif", V, "TYX"),
    "ImageJ, TZCYX": lambda p: imagej(p / "v.tif", V[None, :, None], "TZCYX"),
    "ImageJ, sections called times": lambda p: imagej(p / "v.tif", V, "TYX"),
    "MRC, sections along x": lambda p: mrc(p / "v.mrc", V.astype(np.int16).T, mapc=3, maps=1),
    "NIfTI, one time": lambda p: nifti(p / "v.nii", V[None], (4, 4, 40, 1), "unknown"),
}  # fmt: skip


@pytest.mark.parametrize("name", AXES)
def test_axes_go_by_their_names(tmp_path: Path, name: str) -> None:
    volume = open_volume(AXES[name](tmp_path), keep=False)
    assert volume.shape == SHAPE
    for index in (3, 0):
        np.testing.assert_array_equal(volume.section(index), VOLUME[index])
    np.testing.assert_array_equal(volume.crop(2, 3, 5, 9, 11), VOLUME[2, 3:12, 5:16])


PLANE: dict[str, Callable[[Path], Path]] = {
    "OME-Zarr": lambda p: ome_zarr(p / "v.zarr", V[0], space("yx")),
    "OME-Zarr, cyx": lambda p: ome_zarr(p / "v.zarr", V[:1], space("cyx")),
    "HDF5": lambda p: hdf5(p / "v.h5", V[0]),
    "HDF5, a channel": lambda p: hdf5(p / "v.h5", V[0, ..., None]),
    "TIFF": lambda p: imagej(p / "v.tif", V[0], "YX"),
    "MRC": lambda p: mrc(p / "v.mrc", V[0].astype(np.uint16)),
    "NIfTI": lambda p: nifti(p / "v.nii", V[0], (4, 4), "unknown"),
    "PNG": lambda p: sections(p / "s", ["a.png"], V[:1]) / "a.png",
}


@pytest.mark.parametrize("name", PLANE)
def test_one_section(tmp_path: Path, name: str) -> None:
    volume = open_volume(PLANE[name](tmp_path), keep=False)
    assert volume.shape == (1, *SHAPE[1:])
    np.testing.assert_array_equal(volume.section(0), VOLUME[0])


def two(path: Path, **options) -> Path:
    """A root of bioformats2raw with two images."""
    zarr.open_group(path, mode="w", attributes={"bioformats2raw.layout": 3}, zarr_format=2)
    for name in "01":
        ome_zarr(path / name, V, space("zyx"))
    return path


def multi_file(path: Path) -> Path:
    """The first of an OME-TIFF's two files; the second is lost."""
    blocks = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1">'
        f'<UUID FileName="z{z}.ome.tif">urn:uuid:0000000{z}-0000-0000-0000-000000000000</UUID>'
        "</TiffData>"
        for z in range(2)
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:00000000-0000-0000-0000-000000000000"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="32" SizeY="24" '
        f'SizeZ="2" SizeC="1" SizeT="1"><Channel ID="Channel:0:0"/>{blocks}</Pixels></Image></OME>'
    )
    for z in range(2):
        text = xml.replace('0000-000000000000"><Image', f'0000-00000000000{z}"><Image')
        tifffile.imwrite(path / f"z{z}.ome.tif", V[z], description=text, metadata=None)
    return path / "z0.ome.tif"


def test_an_ome_tiff_of_several_files(tmp_path: Path) -> None:
    path = multi_file(tmp_path)
    volume = open_volume(path, keep=False)
    assert volume.shape == (2, *SHAPE[1:])
    np.testing.assert_array_equal(volume.section(1), V[1])
    (tmp_path / "z1.ome.tif").unlink()
    with pytest.raises(UserError, match=r"z0\.ome\.tif: .* z1\.ome\.tif is missing beside it"):
        open_volume(path, keep=False)


def filtered(path: Path) -> Path:
    """An HDF5 file whose compression nobody here knows."""
    hdf5(path, V)
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(SHAPE)
        properties.set_filter(32019, h5py.h5z.FLAG_OPTIONAL, ())
        kind = h5py.h5t.NATIVE_UINT8
        h5py.h5d.create(file.id, b"main", kind, h5py.h5s.create_simple(SHAPE), dcpl=properties)
    return path


def palette(path: Path) -> Path:
    """A PNG of colours by a palette."""
    image = Image.fromarray(V[0]).convert("P")
    image.putpalette([n for k in range(256) for n in (k, 255 - k, 0)])
    path.mkdir()
    image.save(path / "0.png")
    return path


def in_folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"x" * 100)
    return path


RGB = np.repeat(V[..., None], 3, axis=-1)
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "OME-Zarr of two channels": (
        lambda p: ome_zarr(p / "v.zarr", np.stack([V, V]), space("czyx")),
        r"v\.zarr:0: .*one channel, not 2; save one",
    ),
    "OME-Zarr of times and sections": (
        lambda p: ome_zarr(p / "v.zarr", np.stack([V, V]), space("tzyx")), r"one time, not 2",
    ),
    "HDF5 of two channels last": (
        lambda p: hdf5(p / "v.h5", np.stack([V, V], -1), axistags=vigra("zyxc")),
        r"v\.h5:main: .*one channel, not 2",
    ),
    "HDF5 of pictures": (lambda p: hdf5(p / "v.h5", RGB[0]), r"one channel, not 3; .*grey"),
    "ImageJ, sections called channels": (
        lambda p: imagej(p / "v.tif", V, "CYX"), r"one channel, not 5; if they are sections, call",
    ),
    "TIFF, sections called samples": (
        lambda p: tifffile.imwrite(
            p / "v.tif", V, photometric="minisblack", planarconfig="separate"
        ) or p / "v.tif",
        r"found 5 channels, expected one; if they are sections",
    ),
    "TIFF of colours": (
        lambda p: tifffile.imwrite(p / "v.tif", RGB, photometric="rgb") or p / "v.tif",
        r"found 3 channels, expected one; convert it to grey",
    ),
    "two images": (lambda p: two(p / "b.zarr"), r"images, 0, 1; name one, such as b\.zarr:0"),
    "a palette of colours": (lambda p: palette(p / "s"), r"0\.png: found a palette of colours"),
    "a filter": (lambda p: filtered(p / "v.h5"), r"filter 32019.*pip install hdf5plugin"),
    "N5": (lambda p: in_folder(p / "v.n5", attributes__json='{"n5": "2.0.0"}'), "v.n5: no array"),
    "N5 by its content": (
        lambda p: in_folder(p / "v", attributes__json='{"n5": "2.0.0"}'), "/v: no array",
    ),
    "meshes": (
        lambda p: in_folder(p / "v", info='{"@type": "neuroglancer_legacy_mesh"}'),
        "/v: found no volume; there is info; expected",
    ),
    "a stack's section twice": (
        lambda p: sections(p / "s", ["0.png", "1.png", "1.tif", "2.png", "3.png"]),
        r"found 1\.(png|tif) and 1\.(png|tif), expected one file per section",
    ),
    "MRC of complex numbers": (
        lambda p: mrc(p / "v.mrc", V.astype(np.complex64)), r"v\.mrc: found MRC mode 4",
    ),
}  # fmt: skip
FOREIGN = {"dm3": "DM3", "dm4": "DM4", "czi": "CZI", "ims": "IMS", "nrrd": "NRRD", "mat": "MAT"}
REFUSED |= {
    suffix: (lambda p, suffix=suffix: empty(p / f"v.{suffix}"), rf"{name}.* convert it with ")
    for suffix, name in FOREIGN.items()
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_what_to_do(tmp_path: Path, name: str) -> None:
    make, says = REFUSED[name]
    with pytest.raises(UserError, match=says) as refused:
        open_volume(make(tmp_path), keep=False)
    assert "\n" not in str(refused.value)


def both(p: Path, array: np.ndarray, **options) -> list[Path]:
    """A stack and a folder of TIFFs of the same content."""
    tifffile.imwrite(p / "stack.tif", array, **options)
    (p / "folder").mkdir()
    for index, section in enumerate(array):
        tifffile.imwrite(p / "folder" / f"{index}.tif", section, **options)
    return [p / "stack.tif", p / "folder"]


GREYS = np.repeat(np.arange(256, dtype=np.uint16)[None, ::-1] * 257, 3, axis=0)  # inverted
VALUES: dict[str, tuple[np.ndarray, dict, np.ndarray]] = {
    "white is zero": (255 - V, {"photometric": "miniswhite"}, V),
    "white is zero, 16 bits": (
        65535 - V.astype(np.uint16) * 200, {"photometric": "miniswhite"}, V.astype(np.uint16) * 200,
    ),
    "a grey palette": (255 - V, {"photometric": "palette", "colormap": GREYS}, V),
    "white is zero, compressed": (
        255 - V, {"photometric": "miniswhite", "compression": "zlib"}, V,
    ),
} | {
    str(np.dtype(kind)): ((V.astype(float) * factor).astype(kind), {"photometric": "minisblack"},
                          (V.astype(float) * factor).astype(kind))
    for kind, factor in {
        np.int8: 0.5, np.int16: -7, np.uint32: 1e7, np.int32: -8e6, np.uint64: 1e16,
        np.int64: -1e15, np.float16: 0.25, np.float64: 1e-7, np.uint16: 200, bool: 1,
        ">u2": 200, ">f4": 0.5,
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_a_stack_and_a_folder_have_the_same_values(tmp_path: Path, name: str) -> None:
    stored, options, expected = VALUES[name]
    for path in both(tmp_path, stored, **options):
        volume = open_volume(path, keep=False)
        assert volume.section(2).dtype == expected.dtype.newbyteorder("=")
        for index in range(len(expected)):
            np.testing.assert_array_equal(volume.section(index), expected[index])


def test_a_palette_of_colours_is_refused(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    for path in both(tmp_path, V, photometric="palette", colormap=colours):
        with pytest.raises(UserError, match="a palette of colours"):
            open_volume(path, keep=False)


def test_pictures_of_other_formats(tmp_path: Path) -> None:
    wide = V.astype(np.uint16) * 257
    grey = Image.fromarray(V[0]).convert("P")
    grey.putpalette([255 - k for k in range(256) for _ in range(3)])
    (tmp_path / "s").mkdir()
    grey.save(tmp_path / "palette.png")
    Image.fromarray(wide[0]).save(tmp_path / "wide.png")
    Image.fromarray(V[0] > 100).save(tmp_path / "bits.png")
    Image.fromarray(V[0]).save(tmp_path / "v.jpg", quality=100)
    index = np.asarray(grey)
    expected = {"palette.png": 255 - index, "wide.png": wide[0], "bits.png": V[0] > 100}
    for name, section in expected.items():
        np.testing.assert_array_equal(open_volume(tmp_path / name).section(0), section)
    assert np.abs(open_volume(tmp_path / "v.jpg").section(0).astype(int) - V[0]).max() <= 8


SIGNED = (V.astype(np.int16) - 128).astype(np.int8)
BYTES: dict[str, tuple[tuple[int, int], tuple, np.ndarray]] = {  # dmin and dmax, IMOD's, values
    "IMOD, unsigned": ((0, 250), (0,), V),
    "IMOD, signed": ((0, 250), (1,), V.view(np.int8)),
    "IMOD, unsigned, other bits": ((-1, 1), (6,), V),
    "IMOD, the stamp of another machine": ((0, 1), (0, ">"), V),
    "a range above 127": ((0, 250), (), V),
    "a range below 0": ((-128, 127), (), V.view(np.int8)),
    "no range": ((0, -1), (), V.view(np.int8)),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_of_mrc(tmp_path: Path, name: str) -> None:
    (low, high), imod, expected = BYTES[name]
    path = mrc(tmp_path / "v.mrc", V.view(np.int8), dmin=low, dmax=high)
    volume = open_volume(stamped(path, *imod) if imod else path, keep=False)
    assert volume.section(1).dtype == expected.dtype
    np.testing.assert_array_equal(volume.section(1), expected[1])


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.float32, np.uint16, np.float16])
def test_modes_of_mrc(tmp_path: Path, kind: type) -> None:
    array = (V.astype(float) / 2).astype(kind)
    volume = open_volume(mrc(tmp_path / "v.mrc", array), keep=False)
    assert volume.section(1).dtype == kind
    np.testing.assert_array_equal(volume.section(1), array[1])


def test_an_mrc_file_without_the_words_of_the_standard(tmp_path: Path) -> None:
    path = mrc(tmp_path / "v.mrc", V.astype(np.int16))
    content = bytearray(path.read_bytes())
    content[208:216] = bytes(8)  # "MAP " and the machine's stamp, as files before 2000
    path.write_bytes(content)
    np.testing.assert_array_equal(open_volume(path, keep=False).section(3), V[3])


ORDERS = [
    ["s-2", "s-1", "s0", "s0.5", "s1", "s10"],
    ["-10", "-9", "0", "9", "10"],
    ["z-1.5", "z-1.25", "z+0.5", "z+2"],
    ["a-1", "a-2", "a-10"],  # a dash between words
    ["2020-01-02_003", "2020-01-02_020", "2020-02-01_001"],
    ["scan_1.9", "scan_1.10", "scan_2.1"],  # counted numbers
    ["v1.2.3", "v1.2.10"],
    ["z0.05", "z0.1", "z0.25", "z1.0", "z1.5"],
    ["tile_2_z-1", "tile_2_z0", "tile_10_z-1"],
    ["x.001", "x.002", "x.010"],
    ["z007.50nm", "z008.00nm", "z100.25nm"],
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order[0])
def test_order_of_names(tmp_path: Path, order: list[str]) -> None:
    folder = sections(tmp_path / "s", [f"{name}.png" for name in sorted(order)[::-1]],
                      np.zeros((len(order), 4, 4), np.uint8))  # fmt: skip
    assert [Path(name).stem for name in open_volume(folder).names] == order


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_other_systems(tmp_path: Path, encoding: str) -> None:
    folder = sections(tmp_path / "s", [f"{n}.png" for n in range(5)])
    names = tmp_path / "list.txt"
    names.write_bytes("C:\\data\\3.png\r\n\r\n1.png\r\n".encode(encoding))
    volume = open_volume(folder, names)
    assert volume.names == ["3.png", "1.png"]


def test_a_section_twice_in_a_list_is_refused(tmp_path: Path) -> None:
    folder = sections(tmp_path / "s", ["0.png", "1.png", "1.tif", "2.png", "3.png"])
    names = tmp_path / "list.txt"
    names.write_text("0.png\n1.png\n1.tif\n")
    with pytest.raises(UserError, match=r"found 1\.png and 1\.tif"):
        open_volume(folder, names)
    names.write_text("0.png\n1.png\n3.png\n")
    assert len(open_volume(folder, names)) == 3


def test_content_decides_over_the_name_of_a_section(tmp_path: Path) -> None:
    folder = sections(tmp_path / "s", ["0.png", "1.tif"], V[:2])
    (folder / "0.png").rename(folder / "2.tif")
    (folder / "1.tif").rename(folder / "3.png")
    volume = open_volume(folder)
    np.testing.assert_array_equal(volume.section(0), V[0])
    np.testing.assert_array_equal(volume.section(1), V[1])


CHUNKS: dict[str, dict] = {
    "Zarr 3": {},
    "Zarr 2, dots": {"zarr_format": 2},
    "Zarr 2, slashes": {
        "zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "Zarr 3, names as of 2": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "shards": {"chunks": (1, 8, 8), "shards": (2, 16, 16)},
}  # fmt: skip


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_that_are_missing_are_counted(tmp_path: Path, name: str) -> None:
    options = {"chunks": (2, 8, 8)} | CHUNKS[name]
    path = zarr_array(tmp_path / "v.zarr", V + 1, **options)
    with collected_warnings() as none:
        open_volume(path, keep=False)
    assert not none
    chunks = [
        file for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs")
    ]  # fmt: skip
    for file in chunks[:2]:
        file.unlink()
    missing, whole = (16, 60) if name == "shards" else (2, 36)
    with collected_warnings() as warnings:
        open_volume(path, keep=False)
    assert len(warnings) == 1
    assert f"{missing} of {whole} chunks are missing" in warnings[0]


def test_chunks_that_a_shard_lacks_are_counted(tmp_path: Path) -> None:
    array = V + 1
    array[0, :8, :8] = 0
    path = zarr_array(
        tmp_path / "v.zarr", array, chunks=(1, 8, 8), shards=(2, 16, 16)
    )  # a chunk of zeros is left out
    with collected_warnings() as warnings:
        open_volume(path, keep=False)
    assert [" 1 of 60 chunks are missing" in line for line in warnings] == [True]
