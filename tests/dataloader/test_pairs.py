"""Training pairs: stride, crops, masks, and draws that depend on seed and number alone."""

import re
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dataloader.formats.opening import open_volume
from dataloader.loader import load_batches
from dataloader.pairs import TILE_MARGIN, PairDataset, Sampling
from dataloader.synthetic import make_volume, write_sections
from dataloader.volume import Volume
from loss.supervised import inter_section_residual
from tests.projects import SHAPE, Project
from utils.config.schema import TrainSettings
from utils.errors import UserError
from utils.runtime.distributed import Group

SECTIONS, SIDE, CROP = 6, 96, 48
SEED = (7, 0)


def marked_volume(sections: int = SECTIONS, shape: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Sections in which every pixel but those of a sparse 0/200 grid holds 20 times the number.

    The grid fixes each section's least and largest value, so that the number can be told from a
    pixel of any crop: it is the median, whatever is flipped, turned or shifted.
    """
    volume = np.empty((sections, *shape), np.uint8)
    volume[:] = 20 * np.arange(1, sections + 1)[:, None, None]
    volume[:, ::8, ::8] = 0
    volume[:, 4::8, 4::8] = 200
    return volume


@pytest.fixture(scope="module")
def tiled_volumes(tmp_path_factory) -> tuple[Volume, Volume]:
    """Images and masks of a synthetic stack, as HDF5 files."""
    root = tmp_path_factory.mktemp("tiled")
    # Larger than the window that is read, so that its corner varies.
    images, labels = make_volume(2, (SECTIONS, CROP + 2 * TILE_MARGIN + 24, 300))
    return hdf5(root / "images.h5", images), hdf5(root / "labels.h5", labels, masks=True)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> tuple[Volume, Volume]:
    """Images and masks of a synthetic stack, as folders."""
    root = tmp_path_factory.mktemp("pairs")
    for name, volume in zip(
        ("images", "masks"), make_volume(1, (SECTIONS, SIDE, SIDE)), strict=True
    ):
        write_sections(root / name, volume)
    return open_volume(root / "images"), open_volume(root / "masks", masks=True)


def dataset(
    volumes, stride: int = 2, seed: tuple = SEED, length: int = 40, **kwargs
) -> PairDataset:
    return PairDataset(*volumes, Sampling(stride, kwargs.get("crop", CROP), seed, length))


def hdf5(path: Path, volume: np.ndarray, masks: bool = False) -> Volume:
    with h5py.File(path, "w") as file:
        file["main"] = volume
    return open_volume(path, masks=masks)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("stride", [1, 3])
def test_pairs_are_a_stride_apart_and_all_are_drawn(tmp_path, stride: int, tiled: bool) -> None:
    if tiled:
        volume = hdf5(tmp_path / "v.h5", marked_volume())
    else:
        write_sections(tmp_path / "v", marked_volume())
        volume = open_volume(tmp_path / "v")
    samples = dataset((volume, None), stride, length=120)
    drawn = []
    for n in range(len(samples)):
        values = np.median(samples[n]["images"], axis=(1, 2)) * 10  # 1 for the first section
        # Contrast and brightness are the same for both, and change the numbers; leave those out.
        if np.allclose(values, values.round(), atol=1e-3):
            drawn.append(tuple(int(v) - 1 for v in values.round()))
    assert len(drawn) > 60
    assert set(drawn) == {(k, k + stride) for k in range(SECTIONS - stride)}


def test_samples_are_crops_of_the_section_by_its_own_range(volumes) -> None:
    samples = dataset(volumes, length=40)
    whole = [volumes[0].section(i).astype(float) for i in range(SECTIONS)]
    whole = [(s - s.min()) / (s.max() - s.min()) for s in whole]
    labels = [volumes[1].section(i) for i in range(SECTIONS)]
    windows = [np.lib.stride_tricks.sliding_window_view(s, (CROP, CROP)) for s in whole]
    found = 0
    for n in range(len(samples)):
        sample = samples[n]
        assert sample["images"].shape == sample["masks"].shape == (2, CROP, CROP)
        assert sample["images"].dtype == np.float32
        assert sample["masks"].dtype == np.uint8
        assert 0 <= sample["images"].min() <= sample["images"].max() <= 1
        for k in range(SECTIONS - 2):
            corner = abs(windows[k][..., 0, :] - sample["images"][0, 0]).max(-1)
            if corner.min() > 1e-6:
                continue
            y, x = np.unravel_index(corner.argmin(), corner.shape)
            cut = (slice(y, y + CROP), slice(x, x + CROP))
            np.testing.assert_allclose(sample["images"][0], whole[k][cut], atol=1e-6)
            np.testing.assert_allclose(sample["images"][1], whole[k + 2][cut], atol=1e-6)
            np.testing.assert_array_equal(sample["masks"][0], labels[k][cut])
            np.testing.assert_array_equal(sample["masks"][1], labels[k + 2][cut])
            found += 1
    # Three in four are not augmented.
    assert 0.6 < found / len(samples) < 0.9


def place(samples: PairDataset, number: int) -> tuple[int, int, int, int, int]:
    """Current section, first row, end of rows, first column, end of columns of a sample."""
    found = re.search(
        r"sections (\d+) .*rows (\d+) to (\d+), columns (\d+) to (\d+)", samples.describe(number)
    )
    k, top, bottom, left, right = map(int, found.groups())
    return k, top, bottom + 1, left, right + 1


def test_samples_of_a_tiled_volume_are_scaled_by_the_range_of_what_is_round_them(
    tiled_volumes,
) -> None:
    images, labels = tiled_volumes
    samples, found = dataset(tiled_volumes, length=40), 0
    for n in range(len(samples)):
        if samples.describe(n).endswith("augmented"):
            continue
        k, top, end, left, right = place(samples, n)
        assert (end - top, right - left) == (CROP, CROP)
        rows = slice(top - TILE_MARGIN, end + TILE_MARGIN)
        columns = slice(left - TILE_MARGIN, right + TILE_MARGIN)
        for role, index in enumerate((k, k + 2)):
            around = images.section(index)[rows, columns].astype(float)
            assert around.shape == (CROP + 2 * TILE_MARGIN,) * 2
            scaled = (around - around.min()) / (around.max() - around.min())
            inner = slice(TILE_MARGIN, TILE_MARGIN + CROP)
            np.testing.assert_allclose(samples[n]["images"][role], scaled[inner, inner], atol=1e-6)
            mask = labels.section(index)[top:end, left:right]
            np.testing.assert_array_equal(samples[n]["masks"][role], mask)
        found += 1
    assert 0.6 < found / len(samples) < 0.9


def test_a_bright_spot_far_away_darkens_no_sample_of_a_tiled_volume(tmp_path) -> None:
    side = CROP + 2 * TILE_MARGIN
    array = np.random.default_rng(0).integers(50, 100, (3, side + 40, side + 40), np.uint8)
    array[:, 0, 0] = 255
    samples = dataset((hdf5(tmp_path / "v.h5", array), None), length=60)
    means = {True: [], False: []}  # with and without augmentation
    for n in range(len(samples)):
        augmented = samples.describe(n).endswith("augmented")
        _, top, _, left, _ = place(samples, n)
        corner = (top, left) if augmented else (top - TILE_MARGIN, left - TILE_MARGIN)
        if corner != (0, 0):
            means[augmented].append(samples[n]["images"].mean())
    assert len(means[True]) > 5
    assert np.mean(means[True]) == pytest.approx(0.5, abs=0.1)
    assert means[False] == pytest.approx([0.5] * len(means[False]), abs=0.05)


@pytest.mark.parametrize("tiled", [False, True])
def test_parts_of_masks_are_read_as_the_whole_section_is(tmp_path, tiled: bool) -> None:
    volume = marked_volume()
    masks = np.ones_like(volume)  # as JPEG leaves the black of a 0/255 mask
    masks[:, -1, -1] = 255
    volumes = []
    for name, array in (("images", volume), ("masks", masks)):
        write_sections(tmp_path / name, array)
        masks = name == "masks"
        whole = open_volume(tmp_path / name, masks=masks)
        volumes.append(hdf5(tmp_path / f"{name}.h5", array, masks) if tiled else whole)
    samples = dataset(volumes, length=30)
    assert max(samples[n]["masks"].mean() for n in range(30)) < 0.1


def loaded(samples: PairDataset, batch_size: int, workers: int = 0, first: int = 0) -> list[dict]:
    """The batches of all iterations after the first ones."""
    train = TrainSettings(batch_size=batch_size, num_workers=workers)
    iterations = range(first, len(samples) // batch_size)
    return list(load_batches(samples, iterations, train, torch.device("cpu"), Group()))


def test_residual_is_where_exactly_one_of_the_two_masks_is(volumes) -> None:
    samples = dataset(volumes, length=20)
    loader = loaded(samples, 4)
    differing = 0
    for batch in loader:
        residual = inter_section_residual(batch["masks"])
        current, auxiliary = batch["masks"][:, 0] == 1, batch["masks"][:, 1] == 1
        expected = (current & ~auxiliary) | (~current & auxiliary)
        np.testing.assert_array_equal(residual.numpy(), expected.numpy())
        differing += int(residual.sum())
    assert differing


def test_number_of_workers_changes_nothing(volumes) -> None:
    samples = dataset(volumes, length=10)
    alone, shared = (loaded(samples, 2, workers) for workers in (0, 2))
    assert len(alone) == 5
    assert all(equal(*batches) for batches in zip(alone, shared, strict=True))


def test_hdf5_volumes_are_read_by_workers(tiled_volumes) -> None:
    samples = dataset(tiled_volumes, length=6)
    alone = [samples[n] for n in range(6)]  # leaves the files open before the workers start
    shared = loaded(samples, 1, workers=2)
    for sample, batch in zip(alone, shared, strict=True):
        assert equal(sample, {name: value[0].numpy() for name, value in batch.items()})


def test_batches_reach_the_device_with_masks_as_losses_take_them(volumes) -> None:
    samples = dataset(volumes, length=6)
    for number, batch in enumerate(loaded(samples, 1)):
        assert batch["masks"].dtype == torch.int64
        np.testing.assert_array_equal(batch["masks"][0], samples[number]["masks"])
        np.testing.assert_array_equal(batch["images"][0], samples[number]["images"])


def test_processes_share_a_batch(volumes) -> None:
    samples, train = dataset(volumes, length=8), TrainSettings(batch_size=4, num_workers=0)
    parts = [
        list(load_batches(samples, range(2), train, torch.device("cpu"), Group(rank, 2)))
        for rank in (0, 1)
    ]
    for whole, *shares in zip(loaded(samples, 4), *parts, strict=True):
        joined = {name: torch.cat([share[name] for share in shares]) for name in whole}
        assert equal(whole, joined)


def test_a_stream_resumes_anywhere(volumes) -> None:
    samples = dataset(volumes, length=12)
    whole, rest = loaded(samples, 2), loaded(samples, 2, first=4)
    assert len(rest) == 2
    assert all(equal(*batches) for batches in zip(rest, islice(whole, 4, None), strict=True))


def test_draws_differ_between_numbers_seeds_and_domains(volumes) -> None:
    streams = [dataset(volumes, seed=seed, length=12) for seed in ((7, 0), (7, 1), (8, 0))]
    corners = [[s[n]["images"].tobytes() for n in range(len(s))] for s in streams]
    assert [dataset(volumes, length=12)[n]["images"].tobytes() for n in range(12)] == corners[0]
    assert len({image for stream in corners for image in stream}) == 36


def test_without_labels_there_are_no_masks_and_the_same_images(volumes) -> None:
    labelled, bare = dataset(volumes), dataset((volumes[0], None))
    for n in range(10):
        assert bare[n].keys() == {"images"}
        np.testing.assert_array_equal(bare[n]["images"], labelled[n]["images"])


def test_tiles_are_cut_at_the_centre_of_a_larger_window(tmp_path) -> None:
    # A pixel tells its place in the window by whose range it is scaled: y or x, from 0 to 1.
    window = 2 * TILE_MARGIN + CROP
    side, length = window + 20, 60
    ramp = np.tile(np.arange(side, dtype=np.uint16), (3, side, 1))
    columns = dataset((hdf5(tmp_path / "x.h5", ramp), None), 1, length=length)
    rows = dataset((hdf5(tmp_path / "y.h5", ramp.swapaxes(1, 2)), None), 1, length=length)
    corners = []
    for n in range(length):
        if not columns.describe(n).endswith("augmented"):
            x, y = (s[n]["images"][0] * (window - 1) for s in (columns, rows))
            np.testing.assert_allclose(x[0], TILE_MARGIN + np.arange(CROP), atol=1e-3)
            np.testing.assert_allclose(y[:, 0], TILE_MARGIN + np.arange(CROP), atol=1e-3)
            _, top, _, left, _ = place(columns, n)
            corners.append((top - TILE_MARGIN, left - TILE_MARGIN))
    assert len(corners) > 30
    assert np.min(corners) >= 0
    assert np.max(corners) <= 20
    assert (np.ptp(corners, axis=0) >= 15).all()


def test_tiled_volume_smaller_than_crop_and_margin_still_works(tmp_path) -> None:
    images, labels = make_volume(3, (3, 64, 80))
    samples = dataset(
        (hdf5(tmp_path / "i.h5", images), hdf5(tmp_path / "l.h5", labels, masks=True)), 1
    )
    for n in range(8):
        assert samples[n]["images"].shape == samples[n]["masks"].shape == (2, CROP, CROP)


def test_unfit_volumes_are_refused(volumes, tmp_path) -> None:
    images, _ = volumes
    with pytest.raises(UserError, match=f"found {SECTIONS} sections, expected more than the str"):
        dataset(volumes, stride=SECTIONS)
    assert len(dataset(volumes, stride=SECTIONS - 1)) == 40
    with pytest.raises(UserError, match="96 x 96 pixels are smaller than the crop of 112"):
        dataset(volumes, crop=112)
    for shape in ((SECTIONS - 1, SIDE, SIDE), (SECTIONS, SIDE, SIDE - 1)):
        other = hdf5(tmp_path / f"{sum(shape)}.h5", np.zeros(shape, np.uint8))
        with pytest.raises(UserError, match="do not fit") as caught:
            dataset((images, other))
        assert str(other.path) in str(caught.value)


def test_a_description_leads_to_the_pixels(project: Project) -> None:
    volume = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    project.write("source.hdf", volume)
    images = open_volume(project.root / "source.hdf")
    dataset = PairDataset(images, None, Sampling(2, 32, (1, 0), 20))
    found = 0
    for number in range(20):
        text = dataset.describe(number)
        current, auxiliary, y, last_y, x, last_x = map(
            int,
            re.search(
                r"sections (\d+) \(.*?\) and (\d+) \(.*?\), rows (\d+) to (\d+), "
                r"columns (\d+) to (\d+)",
                text,
            ).groups(),
        )
        assert auxiliary == current + 2
        if text.endswith("augmented"):
            continue
        for section, image in zip((current, auxiliary), dataset[number]["images"], strict=True):
            whole = volume[section]
            scaled = (whole - whole.min()) / (whole.max() - whole.min())
            cut = scaled[y : last_y + 1, x : last_x + 1]
            np.testing.assert_allclose(image, cut, atol=1e-6)
        found += 1
    assert found > 5
