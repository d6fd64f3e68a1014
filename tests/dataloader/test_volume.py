"""Reading volumes: folders, HDF5 files, resampling, masks, grey values."""

from functools import partial
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from dataloader.formats.folder import read_names
from dataloader.formats.natural_order import natural_order
from dataloader.formats.opening import open_volume
from dataloader.part import top_left
from dataloader.volume import MaskVolume, normalise, resample
from utils.errors import UserError


def write(folder: Path, **sections: np.ndarray) -> Path:
    """Sections by their file names, ``__`` standing for the dot."""
    folder.mkdir(exist_ok=True)
    for name, section in sections.items():
        assert cv2.imwrite(str(folder / name.replace("__", ".")), section)
    return folder


def write_hdf5(path: Path, volume: np.ndarray, name: str = "main") -> Path:
    with h5py.File(path, "w") as file:
        file[name] = volume
    return path


def flat(value: int, shape: tuple[int, int] = (4, 6), dtype=np.uint8) -> np.ndarray:
    return np.full(shape, value, dtype)


@pytest.fixture
def stack() -> np.ndarray:
    """Three sections of noise, uint8."""
    return np.random.default_rng(0).integers(0, 256, (3, 40, 60), np.uint8)


def test_natural_order() -> None:
    names = ["z10.png", "z2.png", "z1_10.png", "z1_9.png", "Z3.png", "7.png", "a.png"]
    expected = ["7.png", "a.png", "z1_9.png", "z1_10.png", "z2.png", "Z3.png", "z10.png"]
    assert list(natural_order(names)) == expected


def test_natural_order_of_digits_that_are_no_numbers() -> None:
    assert list(natural_order(["²1.png", "1.png"])) == ["1.png", "²1.png"]


KEEP = pytest.mark.parametrize("keep", [True, False])


@KEEP
def test_folder_is_read_in_natural_order_whatever_the_format(tmp_path: Path, keep: bool) -> None:
    folder = write(tmp_path, s10__png=flat(10), s2__tif=flat(2), s1__PNG=flat(1))
    (folder / "notes.txt").write_text("no section")
    volume = open_volume(folder, keep=keep)
    assert volume.kept == keep
    assert volume.shape == (3, 4, 6)
    assert len(volume) == 3
    assert not volume.tiled
    assert [int(volume.section(i)[0, 0]) for i in range(3)] == [1, 2, 10]
    assert volume.names == ["s1.PNG", "s2.tif", "s10.png"]


def test_16_bit_sections_keep_their_type(tmp_path: Path) -> None:
    volume = open_volume(write(tmp_path, a__tif=flat(60000, dtype=np.uint16)))
    assert volume.section(0).dtype == np.uint16
    assert volume.section(0)[0, 0] == 60000


def test_list_file_chooses_and_orders_sections(tmp_path: Path) -> None:
    folder = write(tmp_path / "v", a__png=flat(1), b__png=flat(2), c__png=flat(3))
    names = tmp_path / "list.txt"
    names.write_text("c.png\n\n  some/where/a.png \n")
    volume = open_volume(folder, names)
    assert [int(volume.section(i)[0, 0]) for i in range(len(volume))] == [3, 1]
    assert read_names(None) is None


def test_list_file_may_not_name_what_is_not_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "v", a__png=flat(1))
    names = tmp_path / "list.txt"
    names.write_text("b.png\n")
    with pytest.raises(UserError, match=r"b\.png: no such file"):
        open_volume(folder, names)


@KEEP
def test_bad_sections_are_named(tmp_path: Path, keep: bool) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no sections"):
        open_volume(tmp_path / "empty", keep=keep)
    with pytest.raises(UserError, match=r"b\.png: found 4 x 7 pixels, expected 4 x 6 as a\.png"):
        open_volume(write(tmp_path / "sizes", a__png=flat(0), b__png=flat(0, (4, 7))), keep=keep)
    with pytest.raises(UserError, match=r"a\.png: found 3 channels"):
        open_volume(write(tmp_path / "colour", a__png=np.zeros((4, 6, 3), np.uint8)), keep=keep)
    broken = write(tmp_path / "broken", a__png=flat(0))
    (broken / "b.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"b\.png: damaged or no image"):
        open_volume(broken, keep=keep)


def test_missing_numbers_are_told(tmp_path: Path, capsys) -> None:
    names = {f"s{number}__png": flat(1) for number in (0, 1, 2, 4, 5, 9)}
    open_volume(write(tmp_path / "gaps", **names))
    assert "gaps: 4 numbers are missing between s0.png and s9.png, the first is 3" in (
        capsys.readouterr().err
    )
    open_volume(write(tmp_path / "tens", s0__png=flat(1), s10__png=flat(1), s20__png=flat(1)))
    open_volume(write(tmp_path / "names", a__png=flat(1), b7__png=flat(1), b9__png=flat(1)))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("tiled", [False, True])
def test_resampling_takes_area_means(tmp_path: Path, stack: np.ndarray, tiled: bool) -> None:
    path = tmp_path / "v"
    if tiled:
        write_hdf5(path.with_suffix(".h5"), stack)
    else:
        write(path, **{f"{i}__png": section for i, section in enumerate(stack)})
    volume = open_volume(path, scale=0.5)
    assert volume.shape == (3, 20, 30)
    assert volume.tiled is tiled
    means = stack.reshape(3, 20, 2, 30, 2).astype(float).mean((2, 4))
    for index in range(3):
        assert volume.section(index).shape == (20, 30)
        np.testing.assert_allclose(volume.section(index), means[index], atol=0.5)
        np.testing.assert_array_equal(
            volume.crop(index, 3, 5, 8, 9), volume.section(index)[3:11, 5:14]
        )
    assert volume.original.shape == stack.shape
    np.testing.assert_array_equal(volume.original.section(1), stack[1])
    assert open_volume(path, scale=1.0).original.shape == stack.shape


@pytest.mark.parametrize("scale", [0.46, 0.5, 1.7])
def test_resampled_masks_stay_masks_and_keep_their_area(tmp_path: Path, scale: float) -> None:
    mask = np.zeros((1, 80, 100), np.uint8)
    cv2.circle(mask[0], (45, 40), 20, 255, -1)
    volume = open_volume(write_hdf5(tmp_path / "m.h5", mask), scale=scale, masks=True)
    assert volume.shape == (1, round(80 * scale), round(100 * scale))
    section = volume.section(0)
    assert set(np.unique(section)) == {0, 1}
    assert section.mean() == pytest.approx((mask > 0).mean(), rel=0.03)


def test_resample_to_the_same_shape_changes_nothing(stack: np.ndarray) -> None:
    np.testing.assert_array_equal(resample(stack[0], (40, 60)), stack[0])
    large = resample(stack[0].astype(np.float32), (80, 90))
    assert large.shape == (80, 90)
    assert stack[0].min() <= large.min() <= large.max() <= stack[0].max()


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 255, 255], np.uint8, [0, 1, 1]),
        ([0, 3, 100, 128, 254, 255, 255], np.uint8, [0, 0, 0, 1, 1, 1, 1]),  # edges, JPEG
        ([0, 1, 1], np.uint8, [0, 1, 1]),
        ([0, 200, 200], np.uint8, [0, 1, 1]),
        ([0, 1, 7, 63], np.uint8, [0, 1, 1, 1]),  # instances
        ([0, 1, 60, 70, 90, 255], np.uint8, [0, 1, 1, 1, 1, 1]),
        ([0, 0, 0], np.uint8, [0, 0, 0]),
        ([0, 1, 7, 300], np.uint16, [0, 1, 1, 1]),
        ([0, -1], np.int8, [0, 1]),  # 255 in MRC
        ([0, 255], np.int64, [0, 1]),
        ([0.0, 1.0], np.float32, [0, 1]),
        ([False, True], bool, [0, 1]),
    ],
)
def test_labels_as_masks(values: list, dtype: type, expected: list, tmp_path: Path) -> None:
    volume = np.array([[values], [values]], dtype)
    path = write_hdf5(tmp_path / "l.h5", volume)
    for keep in (False, True):
        masks = open_volume(path, masks=True, keep=keep)
        assert masks.section(1).dtype == np.uint8
        assert masks.section(1).tolist() == [expected]
        assert masks.crop(0, 0, 1, 1, 2).tolist() == [expected[1:3]]


def discs(numbers: list[int]) -> np.ndarray:
    """A section with a disc of each number; those of the first are smaller."""
    section = np.zeros((200, 80 * len(numbers)), np.uint8)
    for place, number in enumerate(numbers):
        centre, radius = (40 + 80 * place, 100), 12 if place == 0 else 36
        cv2.circle(section, centre, radius, number, -1)
    return section


NUMBERS = ([1, 254], [3, 240, 255, 230], [100, 250], [29, 226], [7, 8, 254, 255, 253], [200, 255])


@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_low_numbers_count_beside_many_pixels_of_high_ones(tmp_path: Path, numbers: list) -> None:
    labels = np.stack([discs(numbers), discs(numbers)])
    masks = open_volume(write_hdf5(tmp_path / "l.h5", labels), masks=True)
    np.testing.assert_array_equal(masks.section(1), labels[1] > 0)


def jpeg(section: np.ndarray, quality: int) -> np.ndarray:
    _, packed = cv2.imencode(".jpg", section, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)


NOISE = {
    **{f"JPEG {q}": partial(jpeg, quality=q) for q in (5, 20, 50, 70, 75, 90, 100)},
    "JPEG twice": lambda section: jpeg(jpeg(section, 60)[3:, 5:], 75),
    "JPEG of grey": lambda section: jpeg(section // 255 * 235 + 10, 75),
    "edges of half pixels": lambda section: cv2.resize(
        section, None, fx=0.46, fy=0.46, interpolation=cv2.INTER_AREA
    ),
    "soft edges": lambda section: cv2.GaussianBlur(section, (0, 0), 2),
    "enlarged": lambda section: cv2.resize(section, None, fx=4, fy=4),
    "enlarged without smoothing": lambda section: cv2.resize(
        jpeg(section, 50), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", NOISE.values(), ids=NOISE)
def test_noise_and_edges_of_black_and_white_masks_are_cut_at_half(tmp_path: Path, change) -> None:
    section = np.zeros((512, 512), np.uint8)
    for y, x, radius in np.random.default_rng(0).integers((0, 0, 8), (512, 512, 40), (12, 3)):
        cv2.circle(section, (int(x), int(y)), int(radius), 255, -1)
    labels = np.stack([change(section), change(section[::-1].copy()), change(section * 0)])
    masks = open_volume(write_hdf5(tmp_path / "l.h5", labels), masks=True)
    for index in range(3):
        np.testing.assert_array_equal(masks.section(index), labels[index] > 127)


def test_an_empty_section_of_masks_is_read_as_its_volume_is(tmp_path: Path) -> None:
    volume = np.zeros((3, 8, 8), np.uint8)
    volume[1] = 3  # the noise JPEG leaves in the black of a 0/255 mask
    volume[2] = 255
    masks = open_volume(write_hdf5(tmp_path / "l.h5", volume), masks=True, keep=False)
    assert [int(masks.section(index).max()) for index in range(3)] == [0, 0, 1]
    assert isinstance(masks, MaskVolume)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_normalise_scales_least_to_0_and_largest_to_1(dtype: type) -> None:
    section = np.array([[10, 60, 110], [35, 10, 85]], dtype)
    scaled = normalise(section)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[0, 0.5, 1], [0.25, 0, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(normalise(section[:, 1:], (10, 110)), scaled[:, 1:])


def test_normalise_keeps_the_whole_16_bit_range() -> None:
    scaled = normalise(np.array([[0, 1, 65535]], np.uint16))
    np.testing.assert_allclose(scaled, [[0, 1 / 65535, 1]])


def test_normalise_of_the_widest_range_there_is() -> None:
    section = np.array([-3e38, 0, 3e38], np.float32)
    np.testing.assert_array_equal(normalise(section), [0, 0.5, 1])


def test_normalise_of_a_constant_section_is_0() -> None:
    assert not normalise(flat(0)).any()
    assert not normalise(flat(200)).any()


def test_cropped_volume_is_the_top_left_square(tmp_path: Path, stack: np.ndarray) -> None:
    volume = open_volume(write_hdf5(tmp_path / "v.hdf", stack))
    cropped = top_left(volume, 50)
    assert cropped.shape == (3, 40, 50)
    np.testing.assert_array_equal(cropped.section(1), stack[1, :, :50])
    assert top_left(volume, 16).shape == (3, 16, 16)
    np.testing.assert_array_equal(top_left(volume, 16).section(2), stack[2, :16, :16])
