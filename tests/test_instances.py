"""Mitochondria as objects: labelling in slabs, parting, measures, the table, their scores."""

import csv
import math
from pathlib import Path

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops

from dataloader.voxel import VoxelSize
from utils.instance_scores import Overlaps
from utils.instance_table import columns, write_table
from utils.instances import Instances, InstanceSettings
from utils.pictures import instances_picture

CUBE = VoxelSize(10, 10, 10)


def balls(shape: tuple, *places: tuple) -> np.ndarray:
    """Ellipsoids (centre z, y, x, radius z, y, x), bool."""
    grid = np.indices(shape)
    inside = np.zeros(shape, bool)
    for z, y, x, *radii in places:
        terms = [
            ((axis - centre) / radius) ** 2
            for axis, centre, radius in zip(grid, (z, y, x), radii, strict=True)
        ]
        inside |= sum(terms) <= 1
    return inside


def found(mask: np.ndarray, voxel_size: VoxelSize | None = None, **changes) -> Instances:
    probability = mask.astype(np.float32)
    return Instances(
        lambda z: probability[z], mask.shape, voxel_size, InstanceSettings(**changes)
    )  # fmt: skip


def volume(instances: Instances) -> np.ndarray:
    return np.stack([section for _, section in instances.sections()])


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.floats(0.1, 0.9),
    st.integers(1, 8),
    st.integers(1, 4),
)
def test_slabs_give_the_components_of_the_whole(
    seed: int, shape: tuple, density: float, smallest: int, depth: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < density
    whole = cc3d.connected_components(mask, connectivity=6)
    sizes = np.bincount(whole.ravel())
    whole[sizes[whole] < smallest] = 0
    slab = depth * shape[1] * shape[2]
    with found(mask, part=False, min_voxels=smallest, slab_voxels=slab) as instances:
        labels = volume(instances)
        assert same_partition(labels, whole)
        assert sorted(np.unique(labels[labels > 0])) == list(range(1, len(instances.table) + 1))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_parting_does_not_depend_on_slabs(seed: int, depth: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((12, 24, 24)), 1.5)
    mask = noise > np.quantile(noise, 0.6)
    with (
        found(mask, min_voxels=10, slab_voxels=depth * 24 * 24) as slabs,
        found(mask, min_voxels=10) as whole,
    ):
        np.testing.assert_array_equal(volume(slabs), volume(whole))
        assert slabs.table == whole.table


def test_touching_balls_part_and_a_bent_rod_does_not() -> None:
    two = balls((30, 30, 60), (15, 15, 15, 11, 11, 11), (15, 15, 35, 11, 11, 11))
    with found(two, CUBE, min_volume_um3=1e-5) as instances:
        assert len(instances.table) == 2
        labels = volume(instances)
        assert (labels > 0).sum() == two.sum()
        assert labels[15, 15, 15] != labels[15, 15, 35]
        one, other = (row.voxels for row in instances.table)
        assert abs(one - other) < 0.05 * one
    with found(two, CUBE, part=False) as instances:
        assert len(instances.table) == 1
    rod = np.zeros((20, 60, 60), bool)
    for t in np.linspace(0, 1, 60):
        rod |= balls(rod.shape, (10, 10 + 35 * t, 10 + 30 * math.sin(2 * t), 5, 5, 5))
    with found(rod, CUBE) as instances:
        assert len(instances.table) == 1


def test_small_objects_go_in_physical_units() -> None:
    mask = balls((20, 20, 60), (10, 10, 10, 3, 3, 3), (10, 10, 40, 8, 8, 8))
    small, large = 123, 2109  # voxels of 1e-6 um^3
    for least, expected in ((1e-4, {small, large}), (1.3e-4, {large})):
        with found(mask, CUBE, min_volume_um3=least) as instances:
            assert {row.voxels for row in instances.table} == expected


def test_measures_of_an_ellipsoid() -> None:
    size = VoxelSize(20, 10, 10)
    radii = np.array([12.0, 30.0, 20.0])  # voxels: 0.24, 0.3 and 0.2 um
    mask = balls((40, 80, 60), (20, 40, 30, *radii))
    with found(mask, size) as instances:
        (row,) = instances.table
        (region,) = regionprops(volume(instances).astype(int))
    assert row.volume == pytest.approx(4 / 3 * math.pi * 0.24 * 0.3 * 0.2, rel=0.01)
    p = 1.6075  # Thomsen's formula for the surface of an ellipsoid
    a, b, c = ((x * y) ** p for x, y in ((0.24, 0.3), (0.24, 0.2), (0.3, 0.2)))
    assert row.surface == pytest.approx(4 * math.pi * ((a + b + c) / 3) ** (1 / p), rel=0.02)
    centre = (row.centroid_z, row.centroid_y, row.centroid_x)
    assert centre == pytest.approx(
        [(c + 0.5) * s / 1000 for c, s in zip(region.centroid, size, strict=True)]
    )
    box = (row.box_z0, row.box_y0, row.box_x0, row.box_z1, row.box_y1, row.box_x1)
    assert box == pytest.approx([v * s / 1000 for v, s in zip(region.bbox, size * 2, strict=True)])
    assert row.voxels == region.area
    assert (row.first_section, row.last_section, row.sections) == (8, 32, 25)
    assert row.elongation == pytest.approx(0.3 / 0.24, rel=0.02)
    assert row.touches_border is False
    assert row.mean_probability == 1


def test_single_voxels_and_the_border_are_defined(tmp_path: Path) -> None:
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, 0] = mask[1, 2, 2] = True
    with found(mask, None, min_voxels=1) as instances:
        corner, middle = instances.table
        assert corner.touches_border is True
        assert middle.touches_border is False
        assert corner.elongation == middle.elongation == 1
        assert corner.surface > 0
        write_table(tmp_path / "objects.csv", instances.table, None)
    rows = list(csv.DictReader((tmp_path / "objects.csv").open()))
    assert list(rows[0]) == columns(None)
    assert "volume_vox3" in rows[0]
    assert "volume_um3" in columns(CUBE)
    assert rows[0]["touches_border"] == "1"
    with found(np.zeros((3, 4, 5), bool), CUBE) as none:
        assert none.table == []
        assert not volume(none).any()


def test_average_precision_of_instances() -> None:
    labelled = np.zeros((1, 10, 40), int)
    predicted = np.zeros_like(labelled)
    for n, (start, width) in enumerate(((0, 10), (10, 6), (20, 4)), 1):  # IoU 1, 0.6 and 0.4
        labelled[0, :, 10 * (n - 1) : 10 * n] = 10 * n
        predicted[0, :, start : start + width] = n
    predicted[0, :, 35:] = 4  # of nothing
    overlaps = Overlaps()
    for section in zip(predicted, labelled, strict=True):
        overlaps.add(*section)
    surest_last = overlaps.result({1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6})
    assert surest_last == pytest.approx((2 / 3, 1 / 3))
    surest_first = overlaps.result({1: 0.6, 2: 0.5, 3: 0.7, 4: 0.9})
    assert surest_first == pytest.approx(((1 / 2 + 1 / 2) / 3, 1 / 3 / 3))
    assert Overlaps().result({}) == (1, 1)


def test_colours_of_instances_are_their_own() -> None:
    instances = np.arange(12).reshape(3, 4)
    picture = instances_picture(np.full((3, 4), 7.0), instances)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 12
    assert not picture[0, 0].any()
