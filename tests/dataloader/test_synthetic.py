"""The synthetic stacks: reproducible, labelled alike under both microscopes, smooth along z."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections

SHAPE = (8, 192, 192)


@pytest.fixture(scope="module")
def source():
    return make_volume(3, SHAPE, SOURCE_MICROSCOPE)


@pytest.fixture(scope="module")
def target():
    return make_volume(3, SHAPE, TARGET_MICROSCOPE)


def neighbour_iou(labels):
    mask = labels > 0
    return [(a & b).sum() / (a | b).sum() for a, b in pairwise(mask)]


def mitochondria_contrast(images, labels):
    """How much darker mitochondria are than the rest, as min-max scaled sections show them."""
    values = []
    for section, label in zip(images, labels, strict=True):
        scaled = cv2.normalize(section.astype(np.float32), None, 0, 1, cv2.NORM_MINMAX)
        values.append(scaled[label == 0].mean() - scaled[label > 0].mean())
    return np.mean(values)


def test_shapes_types_and_label_values(source):
    images, labels = source
    assert images.shape == labels.shape == SHAPE
    assert images.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 255}


def test_same_seed_gives_the_same_volume(source):
    for first, second in zip(source, make_volume(3, SHAPE), strict=True):
        np.testing.assert_array_equal(first, second)


def test_other_seed_gives_another_volume(source):
    images, labels = make_volume(4, SHAPE)
    assert (images != source[0]).mean() > 0.5
    assert (labels != source[1]).mean() > 0.05


def test_microscope_changes_images_but_not_labels(source, target):
    np.testing.assert_array_equal(source[1], target[1])
    assert (source[0] != target[0]).mean() > 0.5


def test_domain_gap_survives_scaling_of_each_section(source, target):
    assert 0.02 < mitochondria_contrast(*target) < 0.5 * mitochondria_contrast(*source)


def test_mitochondria_are_darker_than_their_surroundings(source, target):
    for images, labels in (source, target):
        inside = labels > 0
        assert images[inside].mean() < images[~inside].mean() - 10


@pytest.mark.parametrize("seed", range(5))
def test_foreground_fraction(seed):
    _, labels = make_volume(seed, SHAPE)
    assert 0.08 <= (labels > 0).mean() <= 0.15


def test_neighbouring_sections_change_smoothly(source):
    overlaps = neighbour_iou(source[1])
    assert min(overlaps) > 0.7
    assert max(overlaps) < 0.99


def test_written_sections_read_back(tmp_path, source):
    folder = tmp_path / "nested" / "images"
    write_sections(folder, source[0])
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"{z:03d}.png" for z in range(SHAPE[0])]
    read = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, source[0])
