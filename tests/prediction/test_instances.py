"""Mitochondria as objects: labelling, parting, measuring, scoring."""

import csv
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.special import elliprg
from skimage.measure import regionprops
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from dataloader.formats.voxel_size import VoxelSize
from prediction.instances.necks import FACES, part
from prediction.instances.scores import InstanceScorer, InstanceScores
from prediction.instances.segmentation import (
    Instances,
    InstanceSettings,
    mask_components,
)
from prediction.instances.table import (
    Mitochondrion,
    columns,
    spacing,
    surface_area,
    write_table,
)
from prediction.pictures import instance_colour, instances_picture

MITOEM = VoxelSize(30, 8, 8)
volumes = st.tuples(st.integers(1, 7), st.integers(1, 11), st.integers(1, 11))


def find(probability: np.ndarray, voxel_size: VoxelSize | None = None, **chosen) -> Instances:
    """The instances of a volume in memory; to be closed by the test."""
    return Instances(
        probability.__getitem__, probability.shape, voxel_size, InstanceSettings(**chosen)
    )


def stacked(probability: np.ndarray, **chosen) -> tuple[np.ndarray, list[Mitochondrion], str]:
    with find(probability, **chosen) as instances:
        sections = dict(instances.sections())
        assert list(sections) == list(range(len(probability)))
        return np.stack(list(sections.values())), instances.table, instances.notes


def smooth_noise(seed: int, shape: tuple[int, ...], width: float = 1.2) -> np.ndarray:
    """Probabilities with many bumpy bodies and necks, half of them foreground."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), width)
    return (0.5 + (noise - np.median(noise))).astype(np.float32)


def by_first_voxel(labels: np.ndarray) -> np.ndarray:
    """Labels renumbered in the order of their first voxels."""
    numbers, first = np.unique(labels, return_index=True)
    order = [n for _, n in sorted(zip(first, numbers, strict=True)) if n]
    lookup = np.zeros(int(labels.max()) + 1, int)
    lookup[order] = np.arange(1, len(order) + 1)
    return lookup[labels]


def coordinates(shape: tuple[int, int, int], voxel_size: VoxelSize) -> list[np.ndarray]:
    """Distances of voxels from the centre of a volume, nm."""
    along = [(np.arange(n) - (n - 1) / 2) * side for n, side in zip(shape, voxel_size, strict=True)]
    return list(np.ix_(*along))


def dumbbell(voxel_size: VoxelSize, radius: float, neck: float, axis: int = 0) -> np.ndarray:
    """Two balls of a radius, 600 nm apart along an axis, joined by a rod; nm."""
    lengths = [2 * radius + 4 * side for side in voxel_size]
    lengths[axis] += 600
    shape = tuple(math.ceil(a / side) for a, side in zip(lengths, voxel_size, strict=True))
    places = coordinates(shape, voxel_size)
    along = places.pop(axis)
    across = places[0] ** 2 + places[1] ** 2
    balls = (abs(along) - 300) ** 2 + across <= radius**2
    return (balls | ((abs(along) <= 300) & (across <= neck**2))).astype(np.float32)


# labelling


@given(volumes, st.integers(0, 10**6), st.floats(0.1, 0.9), st.integers(1, 99), st.integers(1, 5))
def test_components_are_those_of_the_whole_volume(shape, seed, density, slab, smallest) -> None:
    probability = np.random.default_rng(seed).random(shape).astype(np.float32)
    probability[probability >= 1 - density] = 0.75
    probability[probability < 1 - density] = 0.25
    found, table, notes = stacked(probability, part=False, min_voxels=smallest, slab_runs=slab)
    labels, count = ndimage.label(probability >= 0.5, FACES)
    small = np.bincount(labels.ravel()) < smallest
    labels[small[labels]] = 0
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, by_first_voxel(labels))
    assert [row.label for row in table] == list(range(1, found.max() + 1))
    assert [row.voxels for row in table] == np.bincount(found.ravel())[1:].tolist()
    assert notes.endswith(f": {count - len(table)}")


@given(volumes, st.integers(0, 10**6), st.integers(1, 99))
def test_parts_and_table_do_not_depend_on_the_slabs(shape, seed, slab) -> None:
    probability = smooth_noise(seed, shape)
    chosen = {"min_voxels": 4, "neck": 0.99}
    whole, table, notes = stacked(probability, **chosen)
    slabs = stacked(probability, **chosen, slab_runs=slab)
    np.testing.assert_array_equal(slabs[0], whole)
    assert slabs[1:] == (table, notes)


def test_the_threshold_counts_as_mitochondrion() -> None:
    probability = np.full((2, 3, 3), np.nextafter(np.float32(0.5), np.float32(0)))
    probability[0, 1, 1] = 0.5
    found, _, _ = stacked(probability, min_voxels=1, grow=1.0)
    assert np.argwhere(found).tolist() == [[0, 1, 1]]


def grown_cores(probability: np.ndarray, low: float, smallest: int) -> np.ndarray:
    """What ``Instances`` finds, without parts, slabs and runs."""
    cores, _ = ndimage.label(probability >= 0.5, FACES)
    cores[(np.bincount(cores.ravel()) < smallest)[cores]] = 0
    weak, _ = ndimage.label(probability >= low, FACES)
    held = np.isin(weak, weak[cores > 0])
    return by_first_voxel(watershed(-probability, cores, mask=held))


@given(volumes, st.integers(0, 10**6), st.floats(0.8, 0.99), st.integers(1, 99), st.integers(1, 5))
def test_cores_grow_into_less_sure_voxels(shape, seed, grow, slab, smallest) -> None:
    probability = smooth_noise(seed, shape, 0.8)
    chosen = {"part": False, "min_voxels": smallest, "grow": grow, "slab_runs": slab, "sure": 0}
    found, table, _ = stacked(probability, **chosen)
    np.testing.assert_array_equal(found, grown_cores(probability, grow * 0.5, smallest))
    for row in table:
        own = probability[found == row.label].astype(float)
        assert (row.voxels, row.mean_probability) == (own.size, pytest.approx(own.mean()))


def test_an_object_keeps_its_weak_end_and_meets_no_other() -> None:
    """Along a line: an object with a weak end, its neighbour over a weak gap, one too weak."""
    line = [0.9, 0.9, 0.36, 0.36, 0.1, 0.9, 0.9, 0.36, 0.38, 0.7, 0.8, 0.1, 0.45, 0.49, 0.45]
    found, table, _ = stacked(np.float32(line).reshape(1, 1, -1), min_voxels=2, grow=0.7)
    assert found.ravel().tolist() == [1, 1, 1, 1, 0, 2, 2, 2, 3, 3, 3, 0, 0, 0, 0]
    assert [row.voxels for row in table] == [4, 3, 3]
    line = np.float32([0.9, 0.41, 0.39]).reshape(1, 1, -1)  # by default, 0.8 of the threshold
    assert stacked(line, min_voxels=1)[0].ravel().tolist() == [1, 1, 0]


def test_the_smallest_volume_is_that_of_the_core() -> None:
    line = np.float32([0.4, 0.4, 0.9, 0.4, 0.4]).reshape(1, 1, -1)
    assert stacked(line, min_voxels=1, grow=0.7)[0].all()
    found, table, notes = stacked(line, min_voxels=2, grow=0.7)
    assert not found.any() and not table
    assert notes.endswith("removed as smaller than 2 voxels: 1")


def test_a_threshold_takes_the_lower_one_with_it() -> None:
    line = np.float32([0.2, 0.25, 0.4, 0.15]).reshape(1, 1, -1)
    found, _, _ = stacked(line, min_voxels=1, threshold=0.4, grow=0.5)
    assert found.ravel().tolist() == [1, 1, 1, 0]


def test_an_object_far_less_sure_than_most_is_left_out() -> None:
    means = [0.9, 0.6, 0.8, 0.55, 0.9]  # median 0.8; of the way from 0.4, 0.6 is at 0.64
    line = np.float32([value for mean in means for value in (mean, mean, 0.1)]).reshape(1, 1, -1)
    found, table, notes = stacked(line, min_voxels=1)
    assert found.ravel()[::3].tolist() == [1, 0, 2, 0, 3]
    assert [row.mean_probability for row in table] == pytest.approx([0.9, 0.8, 0.9])
    assert [row.label for row in table] == [1, 2, 3]
    assert notes.endswith("as of a mean probability under 0.64: 2")
    found, _, notes = stacked(line, min_voxels=1, sure=0)
    assert found.ravel()[::3].tolist() == [1, 2, 3, 4, 5]
    assert "mean probability" not in notes


def test_parts_of_one_component_are_left_out_singly() -> None:
    line = [0.9, 0.9, 0.42, 0.51, 0.42, 0.9, 0.9, 0.1, 0.9, 0.9]
    found, _, _ = stacked(np.float32(line).reshape(1, 1, -1), min_voxels=1)
    assert found.ravel().tolist() == [1, 1, 1, 0, 2, 2, 2, 0, 3, 3]


def test_cores_in_a_box_that_is_too_large_do_not_grow() -> None:
    line = np.float32([0.9, 0.4, 0.4, 0.4, 0.9]).reshape(1, 1, -1)
    found, table, notes = stacked(line, min_voxels=1, grow=0.7, largest_parted=4)
    assert found.ravel().tolist() == [1, 0, 0, 0, 2]
    assert [row.mean_probability for row in table] == pytest.approx([0.9, 0.9])
    assert notes.endswith("million voxels): 1")


def test_corners_do_not_join() -> None:
    probability = np.zeros((2, 4, 4), np.float32)
    probability[0, :2, :2] = probability[1, 2:, 2:] = probability[0, 2:, 2:] = 1
    found, _, _ = stacked(probability, min_voxels=1)
    assert found[0, 0, 0] == 1
    assert found[0, 3, 3] == found[1, 3, 3] == 2


def test_nothing_found() -> None:
    found, table, notes = stacked(np.zeros((3, 4, 5), np.float32))
    assert not found.any()
    assert table == []
    assert notes.startswith("mitochondria: 0")


@pytest.mark.parametrize(
    ("voxel_size", "chosen", "smallest"),
    [
        (None, {}, 500),
        (None, {"min_voxels": 0}, 1),
        (VoxelSize(10, 10, 10), {}, 1000),
        (VoxelSize(10, 10, 10), {"min_volume_um3": 0.0010001}, 1001),
        (MITOEM, {}, 521),
        (MITOEM, {"min_volume_um3": 0.0}, 1),
        (VoxelSize(50, 4.6, 4.6), {"min_volume_um3": 1000 * 50 * 4.6 * 4.6 / 1e9}, 1000),
    ],
)
def test_small_is_measured_in_volume_where_it_can_be(voxel_size, chosen, smallest) -> None:
    assert InstanceSettings(**chosen).smallest(voxel_size) == smallest


# parting


@pytest.mark.parametrize("voxel_size", [VoxelSize(12, 12, 12), MITOEM])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("neck", "count"), [(60, 2), (90, 1)])
def test_only_narrow_necks_part(voxel_size, axis, neck, count) -> None:
    probability = dumbbell(voxel_size, 240, neck, axis)
    with find(probability, voxel_size) as instances:
        assert len(instances.table) == count
        if count == 2:  # it is cut in the middle
            one, other = (row.voxels for row in instances.table)
            assert one == pytest.approx(other, rel=0.05)
    with find(probability, voxel_size, part=False) as instances:
        assert len(instances.table) == 1


def test_bumpy_rods_stay_whole() -> None:
    z, y, x = coordinates((24, 90, 300), MITOEM)
    rng = np.random.default_rng(0)
    radius = 200 + 40 * np.sin(x / 60) + 25 * rng.standard_normal((24, 90, 300))
    rod = (z**2 + y**2 <= radius**2).astype(np.float32)
    with find(rod, MITOEM) as instances:
        assert len(instances.table) == 1


def test_a_step_between_sections_is_no_neck() -> None:
    mask = np.zeros((5, 40, 90), np.float32)
    mask[1:3, 5:35, 5:85] = 1  # two sections, and a third at both ends
    mask[3, 5:35, 5:35] = mask[3, 5:35, 55:85] = 1
    with find(mask, MITOEM) as instances:
        assert len(instances.table) == 1


def test_the_volume_does_not_end_mitochondria() -> None:
    """Few sections are parted like the plane, however thin the stack."""
    section = dumbbell(MITOEM, 240, 60, axis=1)[9]
    with find(np.stack([section] * 2), MITOEM) as instances:
        assert len(instances.table) == 2
    with find(np.ones((2, 30, 30), np.float32), MITOEM) as instances:
        assert len(instances.table) == 1


def test_no_part_is_too_small() -> None:
    probability = dumbbell(MITOEM, 240, 60)
    voxels = int(probability.sum())
    unit = math.prod(spacing(MITOEM))
    for share, count in ((0.45, 2), (0.55, 1)):
        least = share * voxels * unit
        with find(probability, MITOEM, min_volume_um3=least) as instances:
            assert len(instances.table) == count


def h_maxima(
    mask: np.ndarray, sides: tuple[float, float, float], neck: float
) -> tuple[np.ndarray, int]:
    """The maxima left of the distance to the background, numbered, and how many there are."""
    distance = ndimage.distance_transform_edt(mask, sampling=sides).astype(np.float32)
    lowered = np.minimum(neck * distance, distance - 1.5 * max(sides))
    filled = reconstruction(np.clip(lowered, 1e-3, None) * mask, distance * mask, footprint=FACES)
    return ndimage.label(local_maxima(filled, connectivity=1) & mask, FACES)


@given(st.floats(3, 9), st.floats(1.5, 9), st.floats(0, 4), st.floats(0.2, 0.5))
def test_no_neck_is_overlooked(one, other, rod, neck) -> None:
    """Two discs of some radii, joined by a rod of another one."""
    y, x = np.ogrid[-10:11, -11:34]
    section = (y**2 + x**2 <= one**2) | (y**2 + (x - 22) ** 2 <= other**2)
    section |= (abs(y) <= rod) & (x >= 0) & (x <= 22)
    mask = np.stack([section])
    sides = (1.0, 1.0, 1.0)
    _, count = h_maxima(mask, sides, neck)
    parts = part(mask, sides, neck, smallest=1)
    assert (1 if parts is None else parts.max()) == count


@given(volumes, st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.8, 0.99]))
def test_parts_are_those_of_the_h_maxima(shape, seed, neck) -> None:
    """As many as the maxima left when the distance is lowered by h and filled again."""
    mask = smooth_noise(seed, shape) >= 0.5
    mask = np.pad(ndimage.label(mask, FACES)[0] == 1, 1)
    if not mask.any():
        return
    sides = (0.5, 0.2, 0.3)
    parts = part(mask, sides, neck, smallest=1)
    seeds, count = h_maxima(mask, sides, neck)
    if parts is None:
        assert count == 1
        return
    assert parts.max() == count
    np.testing.assert_array_equal(parts > 0, mask)
    of_seeds = {tuple(pair) for pair in np.stack([seeds, parts], -1)[seeds > 0].tolist()}
    peaks = {(s, p) for s, p in of_seeds if (parts[seeds == s] == p).mean() > 0.5}
    assert len({p for _, p in peaks}) == count
    for number in range(1, count + 1):
        assert ndimage.label(parts == number, FACES)[1] == 1


def test_what_is_too_large_stays_whole_and_is_said() -> None:
    probability = dumbbell(MITOEM, 240, 60)
    with find(probability, MITOEM, largest_parted=1000) as instances:
        assert len(instances.table) == 1
        assert "too large to be parted" in instances.notes
        assert instances.notes.endswith("million voxels): 1")


def test_parting_one_leaves_its_neighbours_alone() -> None:
    """Two dumbbells, a ball of one at the other's neck: their boxes overlap."""
    bell = dumbbell(MITOEM, 240, 60, axis=1)
    depth, height, width = bell.shape
    down, right = 300 // 8, 420 // 8
    assert right < width - 4
    probability = np.zeros((depth, height + down, width + right), np.float32)
    for corner in ((0, 0), (down, right)):
        place = np.s_[:, corner[0] : corner[0] + height, corner[1] : corner[1] + width]
        probability[place] = np.maximum(probability[place], bell)
    with find(probability, MITOEM, part=False) as whole, find(probability, MITOEM) as parted:
        assert len(whole.table) == 2
        assert len(parted.table) == 4
        pairs = set()
        for (_, one), (_, other) in zip(whole.sections(), parted.sections(), strict=True):
            pairs |= {tuple(p) for p in np.stack([one, other], -1).reshape(-1, 2).tolist()}
    assert sorted(one for one, _ in pairs) == [0, 1, 1, 2, 2]
    assert sorted(other for _, other in pairs) == [0, 1, 2, 3, 4]


# the scratch file


def test_the_scratch_file_is_deleted(tmp_path: Path) -> None:
    probability = smooth_noise(0, (3, 20, 20))
    with Instances(probability.__getitem__, probability.shape, scratch=tmp_path):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_the_scratch_file_is_deleted_after_a_failure(tmp_path: Path) -> None:
    def probability(index: int) -> np.ndarray:
        if index == 2:
            raise OSError("disc gone")
        return np.ones((5, 5), np.float32)

    with pytest.raises(OSError, match="disc gone"):
        Instances(probability, (3, 5, 5), scratch=tmp_path)
    assert not list(tmp_path.iterdir())


# measuring


@pytest.mark.parametrize("voxel_size", [None, MITOEM])
def test_table_is_regionprops(voxel_size) -> None:
    probability = smooth_noise(3, (9, 40, 50), 2) - 0.01
    sides = np.array(spacing(voxel_size))
    chosen = {"min_voxels": 5, "min_volume_um3": 1e-5, "sure": 0}
    with find(probability, voxel_size, **chosen) as instances:
        labels = np.stack([section for _, section in instances.sections()])
        table = instances.table
    regions = regionprops(labels, probability, spacing=sides)
    assert len(table) == len(regions) > 3
    for row, region in zip(table, regions, strict=True):
        box = np.array(region.bbox).reshape(2, 3)
        assert row.label == region.label
        assert row.voxels == region.num_pixels
        assert row.volume == pytest.approx(region.area)
        centroid = np.array(region.centroid) + sides / 2
        assert row[4:7] == pytest.approx(tuple(centroid))
        assert row[7:13] == pytest.approx((*(box[0] * sides), *(box[1] * sides)))
        assert (row.first_section, row.last_section) == (box[0, 0], box[1, 0] - 1)
        assert row.sections == len(np.unique(region.coords[:, 0]))
        assert row.touches_border == ((box[0] == 0) | (box[1] == labels.shape)).any()
        assert row.mean_probability == pytest.approx(region.intensity_mean)
        spread = np.cov(region.coords.T * sides[:, None], bias=True) + np.diag(sides**2 / 12)
        moments = np.sort(np.linalg.eigvalsh(spread))
        assert row.elongation == pytest.approx(math.sqrt(moments[2] / moments[1]))


def ellipsoid(voxel_size: VoxelSize, axes: tuple[float, float, float]) -> np.ndarray:
    shape = tuple(2 * math.ceil(a / s) + 5 for a, s in zip(axes, voxel_size, strict=True))
    places = coordinates(shape, voxel_size)
    return sum((p / a) ** 2 for p, a in zip(places, axes, strict=True)) <= 1


@pytest.mark.parametrize(
    ("voxel_size", "axes"),
    [
        (VoxelSize(5, 5, 5), (100, 100, 100)),
        (VoxelSize(10, 10, 10), (200, 120, 380)),
        (MITOEM, (200, 200, 200)),
        (MITOEM, (300, 150, 600)),
        (VoxelSize(50, 4.6, 4.6), (400, 150, 150)),
    ],
)
def test_ellipsoids_measure_what_they_should(voxel_size, axes) -> None:
    mask = ellipsoid(voxel_size, axes)
    with find(mask.astype(np.float32), voxel_size) as instances:
        (row,) = instances.table
    a, b, c = (length / 1e3 for length in axes)
    assert row.volume == pytest.approx(4 / 3 * math.pi * a * b * c, rel=0.02)
    surface = 4 * math.pi * elliprg(a * a * b * b, a * a * c * c, b * b * c * c)
    assert row.surface == pytest.approx(surface, rel=0.04)
    _, middle, longest = sorted(axes)
    assert row.elongation == pytest.approx(longest / middle, rel=0.03)
    assert not row.touches_border


def test_surfaces_close_at_the_border() -> None:
    radius = 40
    ball = ellipsoid(VoxelSize(1, 1, 1), (radius,) * 3)
    half = ball[: len(ball) // 2]  # its flat side is the volume's border
    with find(half.astype(np.float32)) as instances:
        (row,) = instances.table
    assert row.touches_border
    assert row.surface == pytest.approx(3 * math.pi * radius**2, rel=0.03)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 9), (1, 12, 12), (2, 2, 2), (7, 1, 1)])
def test_the_smallest_objects_have_finite_measures(size) -> None:
    probability = np.zeros((9, 20, 20), np.float32)
    probability[tuple(slice(1, 1 + n) for n in size)] = 0.75
    with find(probability, MITOEM, min_volume_um3=0.0) as instances:
        (row,) = instances.table
    assert all(math.isfinite(value) for value in row)
    assert row.surface > 0
    assert row.elongation >= 1
    assert row.mean_probability == 0.75


def test_a_layer_of_one_section_has_two_faces() -> None:
    layer = np.zeros((3, 60, 60), bool)
    layer[1, 5:55, 5:55] = True
    area = surface_area(layer.__getitem__, np.s_[1:2, 5:55, 5:55], (1.0, 1.0, 1.0))
    assert area == pytest.approx(2 * 50 * 50, rel=0.1)


@given(st.integers(0, 10**6), st.integers(1, 4000))
def test_surfaces_do_not_depend_on_the_blocks(seed, block) -> None:
    mask = smooth_noise(seed, (9, 12, 13)) >= 0.5
    box = tuple(slice(0, n) for n in mask.shape)
    whole = surface_area(mask.__getitem__, box, (0.03, 0.008, 0.01))
    blocks = surface_area(mask.__getitem__, box, (0.03, 0.008, 0.01), block)
    assert blocks == pytest.approx(whole, rel=1e-5)


def test_objects_that_are_thin_in_places_only_are_smoothed_all_the_same() -> None:
    thin = np.zeros((3, 3, 30), bool)
    thin[1, 1] = True
    thick = np.zeros((14, 14, 30), bool)
    thick[2:12, 2:12, :12] = True
    alone = surface_area(thick.__getitem__, np.s_[2:12, 2:12, 0:12], (1.0, 1.0, 1.0))
    thick[6, 6] = True
    both = surface_area(thick.__getitem__, np.s_[2:12, 2:12, 0:30], (1.0, 1.0, 1.0))
    assert both == pytest.approx(alone, rel=0.02)
    assert surface_area(thin.__getitem__, np.s_[1:2, 1:2, 0:30], (1.0, 1.0, 1.0)) > 30


def test_the_table_is_written_whole_with_its_units(tmp_path: Path) -> None:
    probability = dumbbell(MITOEM, 240, 60)
    path = tmp_path / "objects.csv"
    with find(probability, MITOEM) as instances:
        write_table(path, instances.table, MITOEM)
    assert [file.name for file in tmp_path.iterdir()] == ["objects.csv"]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == (
        "label,voxels,volume_um3,surface_um2,centroid_z_um,centroid_y_um,centroid_x_um,box_z0_um,"
        "box_y0_um,box_x0_um,box_z1_um,box_y1_um,box_x1_um,first_section,last_section,sections,"
        "elongation,touches_border,mean_probability"
    )
    assert rows[0]["label"] == "1"
    assert rows[0]["touches_border"] == "0"
    for row, mitochondrion in zip(rows, instances.table, strict=True):
        assert list(map(float, row.values())) == pytest.approx([*map(float, mitochondrion)])


def test_columns_in_voxels() -> None:
    named = [name for name in columns(None) if "vox" in name]
    assert named[:4] == ["voxels", "volume_vox3", "surface_vox2", "centroid_z_vox"]
    assert not any("_um" in name for name in columns(None))


# scores


def scored(predicted: np.ndarray, labels: np.ndarray, confidences: list[float]) -> InstanceScores:
    scorer = InstanceScorer()
    for one, other in zip(predicted, labels, strict=True):
        scorer.add(one, other)
    return scorer.result(confidences)


def plain_precision(predicted, labels, confidences, threshold) -> float:
    """Average precision of dense volumes, word by word as it is defined."""
    free = set(np.unique(labels).tolist()) - {0}
    total, true, curve = len(free), 0, []
    numbers = [n for n in np.unique(predicted).tolist() if n]
    for rank, n in enumerate(sorted(numbers, key=lambda n: -confidences[n - 1]), 1):
        ious = {
            m: ((predicted == n) & (labels == m)).sum() / ((predicted == n) | (labels == m)).sum()
            for m in free
        }
        best = max(ious, key=ious.get, default=None)
        if best is not None and ious[best] >= threshold:
            free.remove(best)
            true += 1
        curve.append((100 * true, true / rank))
    return np.mean(
        [max((p for r, p in curve if r >= k * total), default=0.0) for k in range(101)]
    ).item()


@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0, 0.4))
def test_average_precision_is_as_defined(seed, count, wrong) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, count + 1, (3, 8, 6)), 3, axis=2)
    labels[0, 0, 0] = count
    predicted = np.where(rng.random(labels.shape) < wrong, rng.permutation(labels, axis=1), labels)
    names = rng.permutation(10**5)[: count + 1].astype(np.uint32)
    names[0] = 0  # labels need not be consecutive
    confidences = (rng.permutation(count) / count).tolist()
    scores = scored(predicted.astype(np.uint32), names[labels], confidences)
    for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        expected = plain_precision(predicted, labels, confidences, threshold)
        assert getattr(scores, name) == pytest.approx(expected)


def boxes(*corners: tuple[int, int]) -> np.ndarray:
    """Intervals of a line as instances 1, 2, ..."""
    labels = np.zeros((2, 1, 100), np.uint32)
    for number, (start, stop) in enumerate(corners, 1):
        labels[:, :, start:stop] = number
    return labels


def test_scores_by_hand() -> None:
    labels = boxes((0, 10), (20, 30))
    assert scored(labels, labels, [0.9, 0.8]) == (1,) * 6
    # 6 of 10 voxels: IoU 0.6; the other is not found: recall 0.5, 51 of 101 recalls reached
    scores = scored(boxes((0, 6)), labels, [0.9])
    # one match of 1 predicted and 2 labelled: F1 = 2 / 3, PQ = 2 * 0.6 / 3
    assert scores == pytest.approx((51 / 101, 0, 2 / 3, 0, 0.4, 0))
    # a false one ranked first halves the precision; ranked last it changes nothing
    predicted = boxes((40, 50), (0, 10))
    assert scored(predicted, labels, [0.9, 0.8])[0] == pytest.approx(0.5 * 51 / 101)
    assert scored(predicted, labels, [0.8, 0.9])[0] == pytest.approx(51 / 101)
    assert scored(boxes(), labels, []) == (0,) * 6


def test_a_label_is_found_once() -> None:
    halves, whole = boxes((0, 5), (5, 10)), boxes((0, 10), (50, 60))
    scorer = InstanceScorer()
    for one, other in zip(halves, whole, strict=True):
        scorer.add(one, other)
    assert scorer.result([0.9, 0.8])[0] == pytest.approx(51 / 101)  # either has an IoU of 0.5
    assert scorer.notes == (
        "instances: 2 predicted, 2 labelled; matched: 1 at IoU 0.5, 0 at IoU 0.75"
    )


def test_scores_need_labels() -> None:
    with pytest.raises(ValueError, match="no labelled instance"):
        scored(boxes((0, 5)), boxes(), [0.9])


def test_scores_print() -> None:
    assert str(InstanceScores(0.75, 0.5, 0.9, 0.8, 0.7, 0.6)) == (
        "AP50=0.7500, AP75=0.5000, F1_50=0.9000, F1_75=0.8000, PQ50=0.7000, PQ75=0.6000"
    )


def test_small_labels_are_neither_demanded_nor_punished() -> None:
    labels = boxes((0, 20), (40, 44), (60, 63), (80, 84))  # 40, 8, 6 and 8 voxels
    predicted = boxes((0, 20), (40, 47), (59, 68))  # 8 of 14 and 6 of 18 voxels are on small ones
    scorer = InstanceScorer(smallest=10)
    for one, other in zip(predicted, labels, strict=True):
        scorer.add(one, other)
    _, _, f1, _, quality, _ = scorer.result([0.9, 0.9, 0.9])
    assert f1 == quality == pytest.approx(2 / 3)  # one match; the third is a false positive
    assert scorer.notes.startswith("instances: 2 predicted (and 1 on labels of under 10 voxels), 1")
    scorer.smallest = 1  # the second matches, 8 of 14 voxels
    _, _, f1, _, quality, _ = scorer.result([0.9, 0.9, 0.9])
    assert f1 == pytest.approx(2 * 2 / 7)
    assert quality == pytest.approx(2 * (1 + 8 / 14) / 7)


def test_components_of_a_mask() -> None:
    mask = np.random.default_rng(0).random((5, 12, 12)) < 0.3
    with mask_components(mask.__getitem__, mask.shape) as components:
        found = np.stack([section for _, section in components.sections()])
        assert components.table == []
    np.testing.assert_array_equal(found, by_first_voxel(ndimage.label(mask, FACES)[0]))


# pictures


def test_colours_are_stable_and_neighbours_differ() -> None:
    assert instance_colour(1) == instance_colour(1) != instance_colour(2)
    assert len({instance_colour(n) for n in range(1, 1001)}) > 950
    for one, other in pairwise(range(1, 200)):
        a, b = np.array(instance_colour(one)), np.array(instance_colour(other))
        assert abs(a - b).sum() > 100


def test_picture_of_instances() -> None:
    section = np.linspace(0, 255, 400).reshape(20, 20).astype(np.uint8)
    labels = np.zeros((20, 20), np.uint32)
    labels[2:10, 2:10], labels[2:10, 10:18] = 5, 70_000
    picture = instances_picture(section, labels)
    assert picture.dtype == np.uint8
    outside = picture[labels == 0]
    np.testing.assert_array_equal(outside, np.repeat(section[labels == 0][:, None], 3, axis=1))
    for number, inner in ((5, (5, 5)), (70_000, (5, 14))):
        outline = (5, 9) if number == 5 else (5, 10)  # where they touch
        assert tuple(picture[outline]) == instance_colour(number)
        mixed = 0.55 * section[inner] + 0.45 * np.array(instance_colour(number))
        assert picture[inner] == pytest.approx(mixed, abs=1)
    again = instances_picture(section, np.where(labels == 5, 5, 0))
    assert tuple(again[5, 5]) == tuple(picture[5, 5])
