"""Predictions along three slicing axes, and their mean."""

from pathlib import Path

import numpy as np
import pytest

from prediction.orthoplane import join, slicing_axes
from prediction.predictor import predict_volume
from tests.helpers import ArrayVolume, Plain, noise
from utils.config.schema import Config
from utils.errors import UserError

DATA = {"data_dir_img": "a", "data_dir_label": "b", "data_dir_target": "c"}


def config(spacing: float | None, pixel: float | None = 10, stride: int = 1, **test) -> Config:
    sizes = {"section_spacing_target": spacing, "pixel_size_target": pixel, "target_stride": stride}
    return Config(NAME="tiny", DATA=DATA | sizes, TEST={"orthoplane": True} | test)


def axes_of(array: np.ndarray, folder: Path, *sizes, **test) -> list:
    return slicing_axes(config(*sizes, **test), ArrayVolume(array), "val", folder)


def test_slices_have_square_pixels_and_pairs_as_far_apart_as_sections(tmp_path: Path) -> None:
    array = noise(12, 10, 9)
    xy, xz, yz = axes_of(array, tmp_path, 5.0, 10.0, 4)
    assert [axis.name for axis in (xy, xz, yz)] == ["xy", "xz", "yz"]
    assert xz.volume.shape == (10, 6, 9)
    assert yz.volume.shape == (9, 6, 10)
    assert {b - a for a, b in xz.pairs} == {b - a for a, b in yz.pairs} == {2}  # 20 nm as well
    means = array.reshape(6, 2, 10, 9).astype(float).mean(1)
    assert np.abs(xz.volume.section(3) - means[:, 3]).max() <= 0.5
    assert xz.windows.padded_shape == (64, 64)  # 6 + 48 and 9 + 48, of a multiple of 16
    assert axes_of(array, tmp_path, 20.0)[1].volume.shape == (10, 24, 9)


def test_thickness_is_as_many_sections_of_each_cut_as_it_takes(tmp_path: Path) -> None:
    axes = axes_of(noise(12, 10, 9), tmp_path, 5.0, z_average=50)
    assert [axis.count for axis in axes] == [9, 5, 5]
    assert [axis.count for axis in axes_of(noise(12, 10, 9), tmp_path, 5.0)] == [1, 1, 1]


@pytest.mark.parametrize("thickness", [None, 30.0])
def test_the_join_is_the_mean_of_the_axes(tmp_path: Path, thickness: float | None) -> None:
    axes = axes_of(noise(4, 5, 6), tmp_path, 10.0, z_average=thickness)
    rng = np.random.default_rng(1)
    found = [rng.random(axis.volume.shape, np.float32) for axis in axes]
    joined = dict(join(axes, [part.__getitem__ for part in found], tmp_path))

    def near(part: np.ndarray) -> np.ndarray:
        reach = 1 if thickness else 0
        return np.stack([part[max(0, k - reach) : k + reach + 1].mean(0) for k in range(len(part))])

    xy, xz, yz = map(near, found)
    expected = (xy + xz.transpose(1, 0, 2) + yz.transpose(1, 2, 0)) / 3
    assert list(joined) == [0, 1, 2, 3]
    np.testing.assert_allclose(np.stack(list(joined.values())), expected, atol=1e-6)
    assert not list(tmp_path.iterdir())  # nothing is left


def test_what_is_seen_comes_back_to_its_place(tmp_path: Path) -> None:
    """A network that gives back what it sees, on a volume with half of the pixels' spacing."""
    ramps = np.indices((16, 12, 20)) / np.reshape([15, 11, 19], (3, 1, 1, 1))
    array = (0.25 + ramps.sum(0) / 6).astype(np.float32)
    axes = axes_of(array, tmp_path, 5.0)
    predict = Plain(lambda pair: pair)
    found = []
    for axis in axes:
        part = np.empty(axis.volume.shape, np.float32)
        for index, section in predict_volume(predict, axis.task(1)):
            low, high = axis.volume.grey_range(index)  # the network sees each from 0 to 1
            part[index] = low + section * (high - low)
        found.append(part)
    joined = dict(join(axes, [part.__getitem__ for part in found], tmp_path))
    difference = np.abs(np.stack(list(joined.values())) - array)
    assert difference.max() < 0.01  # at the first and last section, from the resampling
    assert difference[2:-2].max() < 1e-5


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((None,), "set DATA.section_spacing_target, or"),
        ((10.0, None), "set DATA.pixel_size_target, or"),
        ((50.0,), "sections of array are 50 nm apart and its pixels 10 nm, expected voxels near"),
    ],
)
def test_voxels_must_be_known_and_near_to_cubes(tmp_path: Path, sizes: tuple, said: str) -> None:
    with pytest.raises(UserError, match=said):
        axes_of(noise(4, 5, 6), tmp_path, *sizes)
