"""The store of predicted sections: what is kept of an interrupted start, and what is not."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dataloader.formats.voxel_size import VoxelSize
from prediction import store
from prediction.store import PredictionStore, finished_fingerprint
from utils.runtime.distributed import Group

SHAPE = (5, 40, 30)
FINGERPRINT = {"weights": 1}


@pytest.fixture
def sections() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE, np.float32)


def opened(folder: Path, fingerprint: dict = FINGERPRINT) -> PredictionStore:
    return PredictionStore(folder / "preds.hdf", SHAPE, VoxelSize(40, 8, 8), fingerprint, Group())


@pytest.mark.parametrize("largest", [2**30, 14 * 30 * 4])  # a section in one chunk, and in three
def test_what_was_written_is_there_at_the_next_start(
    tmp_path: Path, sections, monkeypatch, largest
) -> None:
    monkeypatch.setattr(store, "MAX_CHUNK", largest)
    first = opened(tmp_path)
    assert first.done() == set()
    for index in (3, 0):
        first.write(index, sections[index])
    second = opened(tmp_path)
    assert second.done() == {0, 3}
    assert second.changed == []
    np.testing.assert_array_equal(second.read(3), sections[3])
    for index in (1, 2, 4):
        second.write(index, sections[index])
    assert finished_fingerprint(tmp_path / "preds.hdf") is None
    second.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["preds.hdf"]
    assert finished_fingerprint(tmp_path / "preds.hdf") == FINGERPRINT
    with h5py.File(tmp_path / "preds.hdf") as file:
        np.testing.assert_array_equal(file["main"], sections)
        assert file["main"].attrs["resolution"].tolist() == [40, 8, 8]


def test_an_interrupted_finish_loses_nothing(tmp_path: Path, sections) -> None:
    first = opened(tmp_path)
    for index in range(5):
        first.write(index, sections[index])
    checks = iter([None, None])
    with pytest.raises(StopIteration):  # at the third section
        first.finish(lambda: next(checks))
    assert finished_fingerprint(tmp_path / "preds.hdf") is None
    again = opened(tmp_path)
    assert again.done() == {0, 1, 2, 3, 4}
    again.finish()
    with h5py.File(tmp_path / "preds.hdf") as file:
        np.testing.assert_array_equal(file["main"], sections)


def test_sections_of_other_predictions_or_broken_ones_are_not_kept(
    tmp_path: Path, sections
) -> None:
    first = opened(tmp_path)
    for index in range(4):
        first.write(index, sections[index])
    files = sorted((tmp_path / "preds.hdf.part").glob("*.npy"))
    files[1].write_bytes(files[1].read_bytes()[:-100])  # half written when the power went
    files[2].write_bytes(b"")
    np.save(files[3], sections[3, :10])
    assert opened(tmp_path).done() == {0}
    other = opened(tmp_path, {"weights": 2})
    assert (other.done(), other.changed) == (set(), ["weights"])
    assert opened(tmp_path).done() == set()  # the other start has deleted them


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_start_that_was_killed_at_once_is_begun_anew(
    tmp_path: Path, sections, content: bytes
) -> None:
    first = opened(tmp_path)
    first.write(0, sections[0])
    (tmp_path / "preds.hdf.part/fingerprint.json").write_bytes(content)
    again = opened(tmp_path)
    assert again.done() == set()
    assert again.changed
    again.write(4, sections[4])
    np.testing.assert_array_equal(again.read(4), sections[4])
