"""A volume seen from its sides, and pairs of what is seen there."""

import re
from pathlib import Path

import numpy as np
import pytest

from dataloader.orthogonal_slices import XZ, YZ, OrthogonalSlices, PaddedVolume
from dataloader.pairs import PairDataset, Sampling
from tests.helpers import ArrayVolume, noise
from training.rounds import TargetLabels
from utils.config.schema import Config
from utils.errors import UserError

SHAPE = (40, 48, 72)  # of a volume of cubes: less high than the crops are
CROP = 64


def config(spacing: float | None = 10.0, **beyond) -> Config:
    data = {"data_dir_img": "a", "data_dir_label": "b", "data_dir_target": "c", "target_stride": 4}
    sizes = {"section_spacing_target": spacing, "pixel_size_target": 10}
    beyond = {"rounds": 1, "warmup_fraction": 0.4, "orthoplane": True} | beyond
    train = {"weight_adv_spatial": 0, "weight_adv_temporal": 0}
    return Config(NAME="tiny", DATA=data | sizes, BEYOND=beyond, TRAIN=train)


@pytest.mark.parametrize("dim", [XZ, YZ])
def test_slices_are_the_volume_seen_from_its_sides(tmp_path: Path, dim: int) -> None:
    array = noise(6, 5, 7)
    slices = OrthogonalSlices(ArrayVolume(array), dim, 6, tmp_path)
    assert slices.shape == {XZ: (5, 6, 7), YZ: (7, 6, 5)}[dim]
    for index in range(len(slices)):
        np.testing.assert_array_equal(slices.section(index), array.take(index, dim))
    assert slices.names[3] == {XZ: "xz slice 3", YZ: "yz slice 3"}[dim]
    assert not list(tmp_path.iterdir())  # the scratch file has no name


@pytest.mark.parametrize("height", [3, 12])
def test_slices_of_masks_are_masks_as_high_as_those_of_the_images(
    tmp_path: Path, height: int
) -> None:
    masks = (noise(6, 5, 7) > 100).astype(np.uint8)
    slices = OrthogonalSlices(ArrayVolume(masks), XZ, height, tmp_path, masks=True)
    slice_ = slices.section(2)
    assert slice_.shape == (height, 7)
    assert slice_.dtype == np.uint8
    assert set(np.unique(slice_)) == {0, 1}
    if height == 3:  # two sections are one row
        np.testing.assert_array_equal(slice_, masks[:, 2].reshape(3, 2, 7).mean(1) >= 0.5)


def test_sections_are_reflected_until_a_crop_fits() -> None:
    array = noise(3, 5, 20)
    padded = PaddedVolume(ArrayVolume(array), 16)
    assert padded.shape == (3, 16, 20)
    # five rows once, and then there and back again
    rows = [abs((row - 5 + 80) % 8 - 8 * ((row - 5 + 80) % 8 > 4)) for row in range(16)]
    np.testing.assert_array_equal(padded.section(1), array[1][rows])
    np.testing.assert_array_equal(padded.crop(1, 4, 2, 8, 9), array[1][rows][4:12, 2:11])
    assert PaddedVolume(ArrayVolume(array), 4).shape == (3, 5, 20)


def test_a_labelled_target_is_learned_from_in_all_directions(tmp_path: Path) -> None:
    """The image tells what the label must be: of the same slice, the same part of it."""
    array = noise(*SHAPE)
    images, masks = ArrayVolume(array), ArrayVolume((array > 127).astype(np.uint8))
    own = PairDataset(
        PaddedVolume(images, CROP), PaddedVolume(masks, CROP), Sampling(4, CROP, (3, 1), 300)
    )
    alone = [own[number] for number in range(20)]
    slices = TargetLabels(config(), images, 0.1, tmp_path).pairs(own, masks).others
    own = own.labelled(own.labels, slices)
    read = len(images.read), len(masks.read)
    assert own.others[0][0].keys() == own.others[1][0].keys() == {"images", "masks"}
    assert read == (len(images.read), len(masks.read))  # all slices lie ready for workers
    kinds = {"xz": 0, "yz": 0, "": 0}
    for number in range(300):
        said = own.describe(number)
        kind = re.search(r"(xz|yz) slice|$", said)[1] or ""
        kinds[kind] += 1
        sample = own[number]
        assert sample["images"].shape == sample["masks"].shape == (2, CROP, CROP)
        if kind:
            first, second = map(int, re.findall(rf"{kind} slice (\d+)", said))
            assert second - first == 4
        if "augmented" not in said:
            np.testing.assert_array_equal(sample["images"] > 127.5 / 255, sample["masks"] == 1)
        if not kind and number < 20:
            np.testing.assert_array_equal(sample["images"], alone[number]["images"])
    assert all(70 <= count <= 130 for count in kinds.values())


def test_slices_are_learned_from_only_where_voxels_are_near_to_cubes(tmp_path: Path) -> None:
    images = ArrayVolume(noise(*SHAPE))
    with pytest.raises(UserError, match=r"BEYOND\.orthoplane: found true, but the sections"):
        TargetLabels(config(50.0), images, 0.1, tmp_path)
    with pytest.raises(UserError, match=r"BEYOND\.orthoplane: found true, but the voxels"):
        TargetLabels(config(None), images, 0.1, tmp_path)
    labels = TargetLabels(config(orthoplane=False), images, 0.1, tmp_path)
    pairs = PairDataset(PaddedVolume(images, CROP), None, Sampling(4, CROP, (3, 1), 9))
    assert labels.pairs(pairs, images).others == ()
