"""Bad input: one clear line that names the file or key, exit code 2, and nothing written.

What can be borne is borne with one warning. What goes wrong later, while a run trains, is in
training/test_surroundings.py; archives and downloads are in dataloader/test_published_faults.py
and test_download.py.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
import yaml
import zarr

from tests.scripts.sound_input import CONFIG, SHAPE, Input


@pytest.fixture
def bad(command, tmp_path: Path) -> Input:
    return Input(tmp_path, command)


def cut(path: Path, part: float) -> None:
    """Leave so much of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def spoil_section(name: str, part: float | None = None, image: np.ndarray | None = None):
    """A section of a folder cut off, or replaced."""

    def spoil(bad: Input) -> None:
        path = bad.section(name)
        if image is not None:
            cv2.imwrite(str(path), image)
        if part is not None:
            cut(path, part)

    return spoil


def as_file(write: Callable[[Path, np.ndarray], None], name: str, part: float | None = None):
    """The source's images as one file, cut off."""

    def spoil(bad: Input) -> None:
        write(bad.data / name, bad.images)
        if part is not None:
            cut(bad.data / name, part)
        bad.set("DATA.data_dir_img", name)

    return spoil


def write_hdf5(path: Path, images: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["main"] = images


def write_mrc(path: Path, images: np.ndarray) -> None:
    with mrcfile.new(path) as file:
        file.set_data(images.view(np.int8))


def write_nifti(path: Path, images: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(images.T, np.eye(4)), path)


def write_zarr(path: Path, images: np.ndarray) -> None:
    zarr.create_array(path, data=images, chunks=(1, 48, 64), zarr_format=2)


def write_pages(path: Path, images: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as file:
        for page in (images[0], images[1], images[2][:40], images[3]):
            file.write(page, contiguous=False)


def spoil_zarr(name: str, content: bytes | None):
    """A file of a Zarr store replaced, or removed."""

    def spoil(bad: Input) -> None:
        as_file(write_zarr, "v.zarr")(bad)
        path = bad.data / "v.zarr" / name
        path.write_bytes(content) if content is not None else path.unlink()

    return spoil


def hdf5(key: str, change: Callable[[np.ndarray], np.ndarray], labels: bool = False):
    """A volume of the config as HDF5, changed."""

    def spoil(bad: Input) -> None:
        bad.volume(key, "changed.hdf", change(bad.labels if labels else bad.images))

    return spoil


def with_value(value: float, section: int = 3):
    """A float volume with one pixel of a value."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32) / 255
        array[section, 5, 5] = value
        return array

    return change


def replaced(name: str, content: bytes):
    """A file in place of the source's images."""

    def spoil(bad: Input) -> None:
        (bad.data / name).write_bytes(content)
        bad.set("DATA.data_dir_img", name)

    return spoil


def key(name: str, value: object):
    return lambda bad: bad.set(name, value)


def text(content: str):
    return lambda bad: bad.write(content)


def two_datasets(bad: Input) -> None:
    with h5py.File(bad.volume("data_dir_img", "v.hdf", bad.images), "a") as file:
        file["other"] = bad.images
        file["third"] = file["main"][:]
        del file["main"]


def other_dataset(bad: Input) -> None:
    bad.volume("data_dir_img", "v.hdf", bad.images)
    bad.set("DATA.data_dir_img", "v.hdf:volumes/raw")


def empty_folder(bad: Input) -> None:
    shutil.rmtree(bad.data / "source")
    (bad.data / "source").mkdir()


def only_notes(bad: Input) -> None:
    empty_folder(bad)
    (bad.data / "source/notes.txt").write_text("no sections")


def other_size(bad: Input) -> None:
    cv2.imwrite(str(bad.section("source")), bad.images[2][:40])


def tiff_section_cut(bad: Input) -> None:
    bad.section("source").unlink()
    path = bad.data / "source/02.tif"
    tifffile.imwrite(path, bad.images[2])
    cut(path, 0.5)


def list_file(content: str):
    def spoil(bad: Input) -> None:
        (bad.data / "list.txt").write_text(content)
        bad.set("DATA.data_list", "list.txt")

    return spoil


def binary_config(bad: Input) -> None:
    bad.config.write_bytes(b"\x80\x81\xff")


DUPLICATE = yaml.safe_dump(CONFIG).replace("  width: 2\n", "  width: 2\n  width: 4\n")
TAB = yaml.safe_dump(CONFIG).replace("  width: 2\n", "\twidth: 2\n")
ALIASES = "NAME: a\nMODEL: &a {width: *a}\nDATA: {}\n"
DEEP = f"NAME: a\nMODEL: {'[' * 2000}\n"
BOMB = "NAME: &a [1]\n" + "".join(f"K{n}: [*a, *a]\n" for n in range(20))
PROGRAM = "NAME: !!python/object/apply:os.system [touch executed]\n"
RGB, RGBA = (np.full((48, 64, channels), 9, np.uint8) for channels in (3, 4))
RGB[0, 0], RGBA[0, 0] = 1, 1

# What is wrong, and a pattern of the line that must say so.
REFUSED: dict[str, tuple[Callable[[Input], None], str]] = {
    # sections
    "PNG of no bytes": (spoil_section("source", 0), r"source/002\.png: .*damaged or no image"),
    "PNG cut off": (spoil_section("source", 0.5), r"source/002\.png: .*damaged or no image"),
    "PNG with a header alone": (spoil_section("source", 0.01), r"source/002\.png: "),
    "PNG cut off in the labels": (spoil_section("labels", 0.5), r"labels/002\.png: "),
    "PNG cut off in the target": (spoil_section("target", 0.5), r"target/002\.png: "),
    "text called PNG": (
        lambda bad: bad.section("source").write_text("a picture"),
        r"source/002\.png: damaged or no image",
    ),
    "PNG in colour": (spoil_section("source", image=RGB), r"source/002\.png: found 3 channels"),
    "PNG in colour with transparency": (
        spoil_section("source", image=RGBA),
        r"source/002\.png: found 4 channels",
    ),
    "TIFF section cut off": (tiff_section_cut, r"source/02\.tif: "),
    "sections of mixed sizes": (other_size, r"source/002\.png: .*40.*48"),
    "folder without files": (empty_folder, r"source: .*no sections"),
    "folder without pictures": (only_notes, r"source: .*no sections"),
    "list that names what is not there": (
        list_file("000.png\n9.png\n"),
        r"source/9\.png: no such file",
    ),
    "list that is empty": (list_file(""), r"list\.txt: "),
    "list that is not there": (
        key("DATA.data_list_target", "gone.txt"),
        r"DATA\.data_list_target: .*gone\.txt: no such file; .*--set DATA\.data_list_target=null",
    ),
    # files
    "HDF5 of no bytes": (as_file(write_hdf5, "v.hdf", 0), r"v\.hdf: "),
    "HDF5 cut off": (as_file(write_hdf5, "v.hdf", 0.6), r"v\.hdf: "),
    "text called HDF5": (replaced("v.h5", b"no volume"), r"v\.h5: "),
    "HDF5 without a volume": (hdf5("data_dir_img", lambda v: v[0]), r"changed\.hdf"),
    "HDF5 with a 4-D data set": (hdf5("data_dir_img", lambda v: np.stack([v, v])), r"changed\.hdf"),
    "HDF5 of texts": (
        hdf5("data_dir_img", lambda v: np.full(v.shape, b"a")),
        r"changed\.hdf.*\|S1",
    ),
    "HDF5 of complex numbers": (
        hdf5("data_dir_img", lambda v: v.astype(np.complex64)),
        r"changed\.hdf.*complex64",
    ),
    "HDF5 with two volumes": (two_datasets, r"v\.hdf: .*other.*third"),
    "data set that does not exist": (other_dataset, r"v\.hdf.*volumes/raw"),
    "HDF5 of no sections": (hdf5("data_dir_img", lambda v: v[:0]), r"changed\.hdf.*0"),
    "TIFF of no bytes": (as_file(tifffile.imwrite, "v.tif", 0), r"v\.tif: "),
    "TIFF cut off": (as_file(tifffile.imwrite, "v.tif", 0.5), r"v\.tif: "),
    "TIFF in colour": (
        as_file(
            lambda p, v: tifffile.imwrite(p, np.stack([v] * 3, -1), photometric="rgb"), "v.tif"
        ),
        r"v\.tif: found 3 channels",
    ),
    "TIFF with pages of mixed sizes": (
        as_file(write_pages, "v.tif"),
        r"v\.tif: found several images",
    ),
    "MRC cut off": (as_file(write_mrc, "v.mrc", 0.6), r"v\.mrc: "),
    "MRC of no bytes": (as_file(write_mrc, "v.mrc", 0), r"v\.mrc: "),
    "NIfTI cut off": (as_file(write_nifti, "v.nii", 0.6), r"v\.nii: "),
    "compressed NIfTI cut off": (as_file(write_nifti, "v.nii.gz", 0.6), r"v\.nii\.gz: "),
    "Zarr without metadata": (spoil_zarr(".zarray", None), r"v\.zarr: "),
    "Zarr with broken metadata": (spoil_zarr(".zarray", b"{"), r"v\.zarr: "),
    "Zarr with a chunk of no bytes": (spoil_zarr("3.0.0", b""), r"v\.zarr.*section 3"),
    "Zarr with a broken chunk": (spoil_zarr("3.0.0", b"abcdefgh" * 9), r"v\.zarr.*section 3"),
    "file of an unknown format": (replaced("v.xyz", b"1"), r"v\.xyz: unknown format"),
    # values
    "NaN in the source": (
        hdf5("data_dir_img", with_value(np.nan)),
        r"changed\.hdf.*section 3.*NaN",
    ),
    "infinite value in the target": (
        hdf5("data_dir_target", with_value(-np.inf)),
        r"changed\.hdf.*section 3.*infinite",
    ),
    "NaN in the labels": (
        hdf5("data_dir_label", with_value(np.nan), labels=True),
        r"changed\.hdf.*NaN",
    ),
    # volumes that do not fit
    "labels of another shape": (
        hdf5("data_dir_label", lambda v: v[:, :40], labels=True),
        r"changed\.hdf:main: labels of shape \(5, 40, 64\)",
    ),
    "labels of too few sections": (
        lambda bad: bad.section("labels", 4).unlink(),
        r"labels: labels of shape \(4, 48, 64\)",
    ),
    "labels of background alone": (
        hdf5("data_dir_label", np.zeros_like, labels=True),
        r"changed\.hdf:main: all labels are background",
    ),
    "labels of mitochondria alone": (
        hdf5("data_dir_label", np.ones_like, labels=True),
        r"changed\.hdf:main: all labels are mitochondria",
    ),
    "a single section": (
        hdf5("data_dir_target", lambda v: v[:1]),
        r"found 1 sections.*stride of 1",
    ),
    "stride longer than the source": (
        key("DATA.source_stride", 5),
        r"found 5 sections.*stride of 5",
    ),
    "stride longer than the target": (
        key("DATA.target_stride", 9),
        r"found 5 sections.*stride of 9",
    ),
    "crop larger than the sections": (key("DATA.input_size", 64), r"smaller than the crop of 64"),
    "volume that is not there": (
        key("DATA.data_dir_img", "gone"),
        r"DATA\.data_dir_img: .*not found",
    ),
    "target that is not there": (
        key("DATA.data_dir_target", "gone"),
        r"DATA\.data_dir_target: .*not found",
    ),
    # the config
    "unknown key": (key("TRAIN.total_iter", 3), r"TRAIN\.total_iter: unknown key.*total_iters"),
    "key twice": (text(DUPLICATE), r"tiny\.yaml: line \d+: .*width.*twice"),
    "tab": (text(TAB), r"tiny\.yaml: line \d+: .*\\t.*spaces"),
    "alias of itself": (text(ALIASES), r"tiny\.yaml: line \d+: .*alias"),
    "many aliases": (text(BOMB), r"tiny\.yaml: line 12: .*more than 20 aliases"),
    "deep nesting": (text(DEEP), r"tiny\.yaml: not valid YAML: nested too deeply"),
    "no such date": (text("NAME: 2023-02-30\n"), r"tiny\.yaml: not valid YAML: day is out of"),
    "value and tag": (text("NAME: !!timestamp a\n"), r"tiny\.yaml: not valid YAML: "),
    "program in YAML": (text(PROGRAM), r"tiny\.yaml: line \d+: .*python/object"),
    "list for a config": (text("- a\n"), r"tiny\.yaml: expected the sections"),
    "nothing for a config": (text(""), r"tiny\.yaml: expected the sections"),
    "bytes for a config": (binary_config, r"tiny\.yaml: cannot be read"),
    "missing section": (text("NAME: a\n"), r"tiny\.yaml: DATA: missing"),
    "negative iterations": (key("TRAIN.total_iters", -5), r"TRAIN\.total_iters: found -5"),
    "no pair in a batch": (key("TRAIN.batch_size", 0), r"TRAIN\.batch_size: found 0"),
    "text for a number": (key("TRAIN.total_iters", "many"), r"TRAIN\.total_iters: found 'many'"),
    "truth for a number": (key("TRAIN.total_iters", True), r"TRAIN\.total_iters: found True"),
    "learning rate that is no number": (
        key("TRAIN.learning_rate", float("nan")),
        r"TRAIN\.learning_rate: found nan",
    ),
    "huge learning rate": (
        key("TRAIN.learning_rate", float("inf")),
        r"TRAIN\.learning_rate: found inf",
    ),
    "huge width": (key("MODEL.width", 10**30), r"MODEL\.width: found 10+"),
    "huge number of iterations": (
        key("TRAIN.total_iters", 10**30),
        r"TRAIN\.total_iters: found 10+",
    ),
    "seed that is too large": (key("TRAIN.random_seed", 2**40), r"TRAIN\.random_seed: found"),
    "crop that the network cannot read": (key("DATA.input_size", 40), r"DATA\.input_size: .*of 16"),
    "negative pixel size": (
        key("DATA.pixel_size_source", -4),
        r"DATA\.pixel_size_source: found -4",
    ),
    "working size without the others": (key("DATA.pixel_size_working", 9), r"DATA\.pixel_size_"),
    "name that is a path": (
        lambda bad: bad.write(CONFIG | {"NAME": "a/b"}),
        r"tiny\.yaml: NAME: found 'a/b'",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(bad: Input, spoil: Callable, message: str) -> None:
    spoil(bad)
    finished = bad.run()
    assert finished.code == 2, finished.err
    errors = [line for line in finished.err.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1, finished.err
    assert re.match("error: .*" + message, errors[0]), errors[0]
    assert len(errors[0]) < 500
    assert not list(bad.out.iterdir())  # not even an empty folder
    assert not Path("executed").exists()


ARGUMENTS = {
    "config that is not there": (["-c", "vnc2luchi"], r"-c vnc2luchi: no such config.*vnc2lucchi1"),
    "data root that is not there": (["--data", "/nowhere"], r"--data /nowhere: no such folder"),
    "override without a value": (
        ["--set", "TRAIN.total_iters"],
        r"--set TRAIN\.total_iters: expect",
    ),
    "override of an unknown key": (["--set", "TRAIN.iters=3"], r"TRAIN\.iters: unknown key"),
    "resuming nothing": (["--resume"], r"training_state\.ckpt: no such checkpoint"),
    "resuming and overwriting": (["--resume", "--overwrite"], r"--resume: "),
    "run name that is a path": (["--run-name", "../a"], r"--run-name \.\./a: "),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_refused_in_one_line(bad: Input, arguments: list[str], message: str) -> None:
    finished = bad.run(*arguments)
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert re.match("error: .*" + message, finished.err), finished.err
    assert not list(bad.out.iterdir())


def test_a_gpu_that_is_not_there(bad: Input) -> None:
    for script in ("main", "inference"):
        finished = bad.run("--device", "cuda", script=script)
        assert finished.code == 2
        assert finished.err.startswith("error: --device cuda: not available on this machine")


def test_an_output_folder_that_is_a_file(bad: Input) -> None:
    bad.out.rmdir()
    bad.out.write_text("")
    finished = bad.run()
    assert finished.code == 2
    assert re.fullmatch(r"error: .*out.*cannot be written.*\n", finished.err)


# What is borne


def constant_section(bad: Input) -> None:
    cv2.imwrite(str(bad.section("source", 0)), np.full(SHAPE[1:], 7, np.uint8))


def no_foreground(bad: Input) -> None:
    cv2.imwrite(str(bad.section("labels", 4)), np.zeros(SHAPE[1:], np.uint8))


def missing_number(bad: Input) -> None:
    for name in ("source", "labels"):
        bad.section(name).unlink()


def repeated_section(bad: Input) -> None:
    shutil.copy(bad.section("target", 1), bad.section("target", 2))


def beyond_one(bad: Input) -> None:
    bad.volume("data_dir_img", "v.hdf", bad.images.astype(np.float32) * 40 - 700)


def twelve_bits(bad: Input) -> None:
    bad.volume("data_dir_img", "v.hdf", bad.images.astype(np.uint16) * 16)


def numbered_labels(bad: Input) -> None:
    numbers = (bad.labels > 0) * (1 + np.arange(SHAPE[2], dtype=np.uint16) // 8)
    bad.volume("data_dir_label", "v.hdf", numbers.astype(np.uint16))


def spaces_and_unicode(bad: Input) -> None:
    (bad.data / "source").rename(bad.data / "Мозг мухи – süß 脑")
    bad.set("DATA.data_dir_img", "Мозг мухи – süß 脑")


def few_labels(bad: Input) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 10, 10] = 255
    bad.volume("data_dir_label", "v.hdf", labels)


# What is odd, and the one warning of it; None where there is nothing to say.
BORNE: dict[str, tuple[Callable[[Input], None], str | None]] = {
    "constant section": (constant_section, r"source: section 0 .*: one grey value"),
    "section without mitochondria": (no_foreground, r"labels: section 4 .*: no mitochondria"),
    "missing number": (missing_number, r"source: .*2"),
    "section twice": (repeated_section, r"target: section 2 .*: the same"),
    "floats outside of 0 to 1": (beyond_one, None),
    "12 of 16 bits": (twelve_bits, None),
    "instance numbers": (numbered_labels, r"labels 1, 4, 5, 6, 7 are merged"),
    "path with spaces and Unicode": (spaces_and_unicode, None),
    "hardly any label": (few_labels, r"0\.03% of the labels are mitochondria"),
}


@pytest.mark.parametrize(("change", "message"), BORNE.values(), ids=BORNE)
def test_borne_with_a_warning_at_most(bad: Input, change: Callable, message: str | None) -> None:
    sound = bad.run("--run-name", "sound").err.splitlines()
    assert sound == []
    change(bad)
    finished = bad.run()
    assert finished.code == 0, finished.err
    warnings = finished.err.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    if message is None:
        assert warnings == []
    else:
        assert re.match("warning: .*" + message, warnings[0]), warnings
    assert "Done" in finished.out
