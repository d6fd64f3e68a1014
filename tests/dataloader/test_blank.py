"""Blank areas: what is one, what is not, what is put there, and that nothing counts there."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from dataloader.blank import blank_mask, fill_blank
from dataloader.filled_volume import FilledVolume
from dataloader.formats.opening import open_volume
from dataloader.inspection import inspect_images
from dataloader.orthogonal_slices import XZ, YZ, OrthogonalSlices, PaddedVolume
from dataloader.pairs import PairDataset, Sampling
from dataloader.part import top_left
from dataloader.synthetic import SOURCE_MICROSCOPE, make_volume, write_sections
from dataloader.volume import KeptVolume, ResampledVolume, Volume, normalise
from tests.helpers import ArrayVolume, noise
from training.monitor import foreground
from utils.ignore import IGNORE

SHAPE = (200, 240)


def tissue(seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A section of grain on smooth shades, from 60 to 220."""
    draw = np.random.default_rng(seed)
    shades = cv2.GaussianBlur(draw.normal(size=shape).astype(np.float32), (0, 0), 12)
    shades = 140 + 40 * shades / np.abs(shades).max() + draw.normal(0, 12, shape)
    return np.clip(np.rint(shades), 60, 220).astype(np.uint8)


def areas(shape: tuple[int, int] = SHAPE) -> dict[str, np.ndarray]:
    """Blank areas as alignment leaves them."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    turn = cv2.getRotationMatrix2D((shape[1] / 2, shape[0] / 2), 5, 0.95)
    return {
        "strip of 8": x < 8,
        "strip of 40": y >= shape[0] - 40,
        "two sides": (x < 60) | (y < 30),
        "corner": x + y < (0.06 * x.size) ** 0.5,
        "turned": cv2.warpAffine(np.ones(shape, np.uint8), turn, shape[::-1]) == 0,
        "most": (x > 40) | (y > 50),
    }


def blanked(section: np.ndarray, area: np.ndarray, level: int, noisy: int = 0) -> np.ndarray:
    """A section of which an area has one grey value, but for so many levels of noise."""
    draw = np.random.default_rng(5)
    grain = draw.integers(-noisy, noisy + 1, section.shape)
    return np.clip(np.where(area, level + grain, section), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 25, 128, 255])
@pytest.mark.parametrize("noisy", [0, 3])
@pytest.mark.parametrize("name", areas())
def test_blank_areas_are_found_whole(name: str, level: int, noisy: int) -> None:
    area = areas()[name]
    found = blank_mask(blanked(tissue(), area, level, noisy))
    assert not (area & ~found).any()
    beside = (found & ~area).sum() / (~area).sum()  # of tissue that has the same grey value
    assert beside == 0 if level in (0, 25, 255) else beside < 0.01


@pytest.mark.parametrize("quality", [95, 80])
@pytest.mark.parametrize("level", [0, 128])
@pytest.mark.parametrize("name", ["strip of 40", "two sides", "corner", "turned"])
def test_those_of_a_jpeg_are_found(name: str, level: int, quality: int) -> None:
    area = areas()[name]
    _, file = cv2.imencode(".jpg", blanked(tissue(), area, level), [1, quality])
    found = blank_mask(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE))
    assert (area & found).sum() > 0.85 * area.sum()
    assert (found & ~area).sum() < 0.01 * (~area).sum()


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint64, np.float16, ">f8"])
def test_they_are_found_in_every_type(dtype: str) -> None:
    area = areas()["two sides"]
    section = (blanked(tissue(), area, 0).astype(np.float64) // 2).astype(dtype)
    np.testing.assert_array_equal(blank_mask(section), area)
    assert blank_mask((tissue() // 2).astype(dtype)) is None
    assert fill_blank(section, area).dtype == np.dtype(dtype)


def test_one_hot_pixel_does_not_make_tissue_blank() -> None:
    section = tissue().astype(np.uint16)
    section[100, 100] = 65535
    assert blank_mask(section) is None


def flat(section: np.ndarray) -> np.ndarray:
    """Half of it as smooth as resin: of one level, with the grain of a detector."""
    grain = np.random.default_rng(2).normal(200, 2.5, section.shape)
    section[:, :120] = np.rint(grain)[:, :120]
    return section


def drifting(section: np.ndarray) -> np.ndarray:
    """Half of it without any grain, darker by 25 levels at one end than at the other."""
    section[:, :120] = np.linspace(190, 215, 200)[:, None]
    return section


def saturated(section: np.ndarray) -> np.ndarray:
    """Spots of 255 and of 0 inside, at a side and at a corner."""
    for centre, radius, level in (((120, 90), 40, 255), ((60, 0), 30, 255), ((239, 199), 18, 0)):
        cv2.circle(section, centre, radius, level, -1)
    return section


def blurred(section: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(section, (0, 0), 3)


def faint(section: np.ndarray) -> np.ndarray:
    """Of twenty levels."""
    return blurred(section) // 4 + 100


@pytest.mark.parametrize("kind", [flat, drifting, saturated, blurred, faint])
def test_tissue_resin_and_saturated_spots_are_none(kind) -> None:
    for seed in range(5):
        assert blank_mask(kind(tissue(seed))) is None


def test_synthetic_and_real_sections_have_none(shared: Path) -> None:
    images, _ = make_volume(3, (4, 160, 160), SOURCE_MICROSCOPE)
    files = sorted((shared / "data").glob("*/*/*.png"))[::9]
    sections = [cv2.imread(str(file), 0) for file in files if "groundtruth" not in str(file)]
    assert len(sections) > 30
    assert all(blank_mask(section) is None for section in (*images, *sections))


@pytest.mark.parametrize("section", [np.full(SHAPE, 77, np.uint8), np.zeros((1, 1), np.float32)])
def test_a_section_of_one_value_is_blank(section: np.ndarray) -> None:
    assert blank_mask(section).all()
    assert fill_blank(section, blank_mask(section)) is section


def test_a_section_of_noise_alone_is_blank() -> None:
    assert blank_mask(blanked(tissue(), np.ones(SHAPE, bool), 3, noisy=3)).all()


def test_writing_on_a_blank_area_belongs_to_it() -> None:
    area = areas()["two sides"]
    section = blanked(tissue(), area, 0)
    cv2.putText(section, "5 um", (70, 20), cv2.FONT_HERSHEY_PLAIN, 0.8, 255)
    np.testing.assert_array_equal(blank_mask(section), area)


def test_a_strip_is_filled_by_its_mirror_image() -> None:
    section, area = tissue(), np.zeros(SHAPE, bool)
    area[:, :50] = True
    filled = fill_blank(blanked(section, area, 0), area)
    edge = 51  # one column of tissue is not trusted either
    np.testing.assert_array_equal(filled[:, edge:], section[:, edge:])
    np.testing.assert_array_equal(filled[:, :edge], section[:, 2 * edge : edge : -1])


@pytest.mark.parametrize("name", areas())
def test_statistics_hardly_notice_what_is_filled(name: str) -> None:
    section, area = tissue(), areas()[name]
    filled = fill_blank(blanked(section, area, 0), area)
    assert filled.min() >= section[~area].min()
    assert filled.max() <= section[~area].max()
    assert filled.mean() == pytest.approx(section[~area].mean(), abs=4)
    assert filled.std() == pytest.approx(section[~area].std(), rel=0.12)


def test_a_line_of_tissue_fills_a_section() -> None:
    area = np.ones((40, 50), bool)
    area[20] = False
    section = np.where(area, 0, 9).astype(np.uint8)
    assert (fill_blank(section, area) == 9).all()


def stack(sections: int = 6, name: str = "two sides", **beside: int) -> np.ndarray:
    """Sections with a blank area; ``beside`` gives the level of sections that are so throughout."""
    volume = np.stack([blanked(tissue(k), areas()[name], 0) for k in range(sections)])
    for number, level in beside.items():
        volume[int(number.removeprefix("all_"))] = level
    return volume


def test_a_volume_is_read_filled_and_knows_where() -> None:
    volume = FilledVolume(ArrayVolume(stack()))
    area = areas()["two sides"]
    for index in (3, 0):
        np.testing.assert_array_equal(volume.blank(index), area)
        expected = fill_blank(stack()[index], area)
        np.testing.assert_array_equal(volume.section(index), expected)
        assert volume.grey_range(index) == (expected.min(), expected.max())
        np.testing.assert_array_equal(volume.scaled(index), normalise(expected))
    assert volume.grey_range(0)[0] >= 60  # the black is not in it
    assert volume.original.section(2)[0, 0] == 0


def test_without_blank_areas_a_volume_is_read_as_it_is() -> None:
    volume = FilledVolume(ArrayVolume(np.stack([tissue(k) for k in range(3)])))
    for index in range(3):
        assert volume.section(index) is not None
        np.testing.assert_array_equal(volume.section(index), tissue(index))
        assert volume.blank(index) is None
        assert volume.blank_crop(index, 0, 0, 50, 50) is None
    assert not volume.may_be_blank


def test_a_section_without_tissue_shows_its_neighbour() -> None:
    volume = FilledVolume(ArrayVolume(stack(all_2=0, all_3=255)))
    np.testing.assert_array_equal(volume.section(2), volume.section(1))
    np.testing.assert_array_equal(volume.section(3), volume.section(4))
    assert volume.blank(2).all()
    nothing = FilledVolume(ArrayVolume(np.zeros((3, *SHAPE), np.uint8)))
    assert (nothing.scaled(1) == 0).all()


class Tiled(ArrayVolume):
    """A volume that is read in parts, and counts how often whole sections are."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array, tiled=True)
        self.whole = 0

    def section(self, index: int) -> np.ndarray:
        self.whole += 1
        return super().section(index)

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.array[index, y : y + height, x : x + width]


def test_parts_of_a_large_section_are_filled_by_what_they_show() -> None:
    array = stack(all_2=0)
    volume = FilledVolume(Tiled(array))
    kept = KeptVolume(FilledVolume(Tiled(array)))
    place = (1, 10, 20, 100, 55)  # there is more tissue beside it to be mirrored
    part, area = array[1, 10:110, 20:75], areas()["two sides"][10:110, 20:75]
    for one in (volume, kept):
        np.testing.assert_array_equal(one.crop(*place), fill_blank(part, area))
        np.testing.assert_array_equal(one.blank_crop(*place), area)
        assert one.blank_crop(1, 60, 80, 40, 40) is None
        assert one.crop(2, *place[1:]).std() > 5  # of the neighbour


def test_large_sections_without_blank_areas_are_read_in_parts_alone() -> None:
    source = Tiled(np.stack([tissue(k) for k in range(2)]))
    volume = FilledVolume(source)
    np.testing.assert_array_equal(volume.crop(1, 0, 0, 50, 60), tissue(1)[:50, :60])
    assert volume.blank_crop(1, 0, 0, 50, 60) is None
    assert source.whole == 0


def test_resampling_and_cropping_know_of_it() -> None:
    filled = FilledVolume(ArrayVolume(stack()))
    half = ResampledVolume(filled, 0.5)
    assert half.section(1).min() >= 60
    np.testing.assert_array_equal(half.blank(1), areas()["two sides"][::2, ::2])
    np.testing.assert_array_equal(half.own_blank(1), areas()["two sides"])
    cropped = top_left(filled, 90)
    np.testing.assert_array_equal(cropped.blank(1), areas()["two sides"][:90, :90])
    assert top_left(filled, 90).section(1).min() >= 60


@pytest.mark.parametrize("axis", [XZ, YZ])
def test_planes_and_padding_know_of_it(tmp_path: Path, axis: int) -> None:
    array, area = stack(), np.broadcast_to(areas()["two sides"], (6, *SHAPE))
    planes = OrthogonalSlices(FilledVolume(ArrayVolume(array)), axis, 6, tmp_path)
    for index in (5, 100):
        np.testing.assert_array_equal(planes.blank(index), area.take(index, axis))
    assert planes.section(100).min() >= 60
    padded = PaddedVolume(planes, 16)
    np.testing.assert_array_equal(padded.blank(100)[5:11], planes.blank(100))
    plain = OrthogonalSlices(FilledVolume(ArrayVolume(noise(4, 40, 40))), axis, 4, tmp_path)
    assert plain.blank(3) is None


def written(folder: Path, array: np.ndarray, **options) -> Volume:
    write_sections(folder, array)
    return open_volume(folder, **options)


def test_sections_are_filled_where_that_is_asked_for(tmp_path: Path) -> None:
    plain = written(tmp_path / "images", stack())
    filled = open_volume(tmp_path / "images", fill=True)
    assert filled.kept
    assert plain.section(0).min() == 0
    assert plain.blank(0) is None
    assert filled.section(0).min() >= 60
    np.testing.assert_array_equal(filled.blank(0), areas()["two sides"])


CROP = 64


def pairs(
    images: Volume, labels: Volume | None = None, length: int = 60, seed: int = 1
) -> PairDataset:
    return PairDataset(images, labels, Sampling(1, CROP, (seed,), length))


def half_blank(tiled: bool = False, **beside: int) -> FilledVolume:
    array = stack(8, "most", **beside)
    return FilledVolume(Tiled(array) if tiled else ArrayVolume(array))


@pytest.mark.parametrize("tiled", [False, True])
def test_crops_avoid_what_is_mostly_blank(tiled: bool) -> None:
    shape = 280, 400
    area = np.broadcast_to(np.arange(shape[1]) < 180, shape)
    array = np.stack([blanked(tissue(k, shape), area, 0) for k in range(6)])
    array[3] = 0
    images = FilledVolume(Tiled(array) if tiled else ArrayVolume(array))
    samples = pairs(images)
    shares = [samples[n]["ignored"].mean((1, 2)).max() for n in range(60)]
    assert max(shares) <= 0.5
    assert max(shares) > 0.1  # those beside it are not avoided
    assert all("sections 3 (" not in samples.describe(n) for n in range(60))
    assert all(samples.plain(n)[1].mean((1, 2)).max() <= 0.5 for n in range(20))
    again = pairs(images)
    for number in range(10):
        np.testing.assert_array_equal(samples[number]["images"], again[number]["images"])
        assert samples.describe(number) == again.describe(number)


def test_where_nothing_else_is_to_be_had_the_least_blank_crop_is_taken() -> None:
    images = FilledVolume(ArrayVolume(stack(4, "most")))  # 40 x 50 of it is tissue
    samples = pairs(images, length=30)
    shares = np.array([samples[n]["ignored"].mean() for n in range(30)])
    assert shares.min() < 0.8
    assert np.median(shares) < 0.97
    nothing = pairs(FilledVolume(ArrayVolume(np.zeros((3, 80, 80), np.uint8))), length=3)
    assert all(nothing[n]["ignored"].all() for n in range(3))
    assert all(np.isfinite(nothing[n]["images"]).all() for n in range(3))


def test_labels_do_not_count_there() -> None:
    images = FilledVolume(ArrayVolume(stack(6, "corner")))
    labels = ArrayVolume(np.stack([(tissue(k) > 150).astype(np.uint8) for k in range(6)]))
    labelled, unlabelled = pairs(images, labels), pairs(images)
    seen = set()
    for number in range(60):
        sample, other = labelled[number], unlabelled[number]
        assert sample.keys() == {"images", "masks"}
        np.testing.assert_array_equal(sample["images"], other["images"])
        np.testing.assert_array_equal(sample["masks"] == IGNORE, other["ignored"])
        seen |= set(np.unique(sample["masks"]).tolist())
    assert seen == {0, 1, IGNORE}


def test_volumes_without_blank_areas_give_the_same_samples() -> None:
    array = np.stack([tissue(k) for k in range(5)])
    plain, filled = ArrayVolume(array), KeptVolume(FilledVolume(ArrayVolume(array)))
    masks = ArrayVolume((array > 150).astype(np.uint8))
    for labels, keys in ((None, {"images"}), (masks, {"images", "masks"})):
        for number in range(20):
            one, other = pairs(plain, labels)[number], pairs(filled, labels)[number]
            assert one.keys() == other.keys() == keys
            for key, value in one.items():
                np.testing.assert_array_equal(value, other[key])


def test_foreground_is_that_of_the_tissue() -> None:
    images = FilledVolume(ArrayVolume(stack()))
    labels = ArrayVolume(np.ones((6, *SHAPE), np.uint8) * ~areas()["two sides"])
    assert foreground(labels, images) == 1
    assert foreground(labels) == pytest.approx((~areas()["two sides"]).mean())


def test_it_is_said() -> None:
    array = stack(8, all_4=0)
    found = inspect_images(FilledVolume(ArrayVolume(array)))
    area = areas()["two sides"].mean()
    assert found.blank == [4]
    assert found.repeated == []  # though section 4 shows section 3
    assert found.blank_share == pytest.approx((7 * area + 1) / 8)
    assert found.low >= 60
    (line,) = (line for line in found.warnings() if "blank" in line)
    assert line.startswith(f"{found.blank_share:.2%} of the pixels examined are blank")
    assert "7 sections" in line


def test_planes_of_a_target_lie_ready_for_workers(tmp_path: Path) -> None:
    source = ArrayVolume(stack())
    planes = OrthogonalSlices(FilledVolume(source), XZ, 6, tmp_path)
    planes.laid_out()
    read = len(source.read)
    assert planes.blank(10) is not None
    assert len(source.read) == read


def test_a_file_read_in_parts_is_filled_too(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["main"] = stack()
    volume = open_volume(tmp_path / "a.h5", fill=True, keep=False)
    assert volume.tiled
    np.testing.assert_array_equal(volume.blank(1), areas()["two sides"])
    assert volume.crop(1, 0, 0, 100, 100).min() >= 60


def test_samples_of_a_batch_are_alike_while_sections_are_found_out() -> None:
    """A worker may have looked at all sections while another has not."""
    images = FilledVolume(ArrayVolume(np.stack([tissue(k) for k in range(4)])))
    samples = pairs(images)
    assert "ignored" in samples[0]
    for index in range(4):
        images.section(index)
    assert not images.may_be_blank
    assert "ignored" in samples[1]
    assert not torch.from_numpy(samples[1]["ignored"]).any()
