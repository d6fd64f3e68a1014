"""The store of predictions: what is kept of an unfinished start, and what is not."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dataloader.formats.voxel_size import VoxelSize
from prediction import store
from prediction.store import PredictionStore
from utils.runtime.distributed import Group

SHAPE = (5, 40, 30)
MADE_FROM = {"weights": 1}


@pytest.fixture
def sections() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE, np.float32)


def opened(folder: Path, made_from: dict = MADE_FROM) -> PredictionStore:
    return PredictionStore(folder / "preds.hdf", SHAPE, VoxelSize(40, 8, 8), made_from, Group())


@pytest.mark.parametrize("largest", [2**30, 14 * 30 * 4])  # a section in one chunk, and in three
def test_what_was_written_is_there_at_the_next_start(
    tmp_path: Path, sections, monkeypatch, largest
) -> None:
    monkeypatch.setattr(store, "LARGEST_CHUNK", largest)
    first = opened(tmp_path)
    assert first.done() == set()
    for index in (3, 0):
        first.write(index, sections[index])
    first.close()
    second = opened(tmp_path)
    assert second.done() == {0, 3}
    np.testing.assert_array_equal(second.read(3), sections[3])
    for index in (1, 2, 4):
        second.write(index, sections[index])
    second.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["preds.hdf"]
    with h5py.File(tmp_path / "preds.hdf") as file:
        np.testing.assert_array_equal(file["main"], sections)
        assert file["main"].attrs["resolution"].tolist() == [40, 8, 8]
        offset = file["main"].id.get_chunk_info(1).byte_offset
    assert largest < 2**30 or offset % 4096 == 0  # processes write whole pages of their own


def test_what_was_made_otherwise_or_is_broken_is_not_kept(tmp_path: Path, sections) -> None:
    store = opened(tmp_path)
    for index in range(3):
        store.write(index, sections[index])
    store.file.seek(store.offsets[1, 0] + 10)
    store.file.write(b"x")  # half written when the power went
    (store.marks / "2").write_text("")
    store.close()
    assert opened(tmp_path).done() == {0}
    assert opened(tmp_path, {"weights": 2}).done() == set()
    assert opened(tmp_path).done() == set()  # the other start has begun anew


@pytest.mark.parametrize("broken", ["preds.hdf.part", ".preds.hdf.done/fingerprint.json"])
def test_a_start_that_was_killed_at_once_is_begun_anew(tmp_path: Path, sections, broken) -> None:
    store = opened(tmp_path)
    store.write(0, sections[0])
    store.close()
    (tmp_path / broken).write_bytes(b"")
    again = opened(tmp_path)
    assert again.done() == set()
    again.write(4, sections[4])
    np.testing.assert_array_equal(again.read(4), sections[4])
