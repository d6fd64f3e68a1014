"""What the values of labels mean: masks, instance numbers, classes, what is ignored."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dataloader.formats.opening import open_volume
from dataloader.label_values import IGNORE
from dataloader.volume import resample_mask

MAX64, MAX32 = 2**64 - 1, 2**32 - 1


def masks_of(path: Path, labels: np.ndarray):
    with h5py.File(path, "w") as file:
        file["main"] = labels
    return open_volume(path, masks=True, keep=False)


@pytest.mark.parametrize(
    ("values", "dtype", "expected", "kind"),
    [
        ([0, 1, 255], np.uint8, [0, 1, IGNORE], "mask"),
        ([0, 1, 255], np.uint16, [0, 1, IGNORE], "mask"),
        ([0, 1, 255], np.int32, [0, 1, IGNORE], "mask"),
        ([0, 1, 255], np.float32, [0, 1, IGNORE], "mask"),
        ([0, 1, 2, 255], np.uint8, [0, 1, 1, IGNORE], "instances"),
        ([0, 1, 60, 70, 255], np.uint8, [0, 1, 1, 1, 1], "instances"),
        ([0, 255], np.uint8, [0, 1], "mask"),
        ([0, 1, -1], np.int8, [0, 1, IGNORE], "mask"),
        ([0, -1], np.int8, [0, 1], "mask"),  # 255 as a signed byte
        ([0, -1], np.int16, [0, IGNORE], "mask"),
        ([0, 1, -1], np.int16, [0, 1, IGNORE], "mask"),
        ([0, 7, 9, -1], np.int64, [0, 1, 1, IGNORE], "instances"),
        ([0, 1, -1], np.float32, [0, 1, IGNORE], "mask"),
        ([0, 1, MAX64], np.uint64, [0, 1, IGNORE], "mask"),
        ([0, 5, 2**60, MAX64], np.uint64, [0, 1, 1, IGNORE], "instances"),
        ([0, MAX64 - 1, MAX64 - 2048], np.uint64, [0, 1, 1], "instances"),
        ([0, 1, MAX32], np.uint32, [0, 1, IGNORE], "mask"),
        ([0, MAX32], np.uint32, [0, 1], "mask"),
        ([0, 1, 65535], np.uint16, [0, 1, IGNORE], "mask"),
        ([0, 65535], np.uint16, [0, 1], "mask"),
        ([0, 1, 65534, 65535], np.uint16, [0, 1, 1, 1], "instances"),
    ],
)
def test_values(tmp_path: Path, values: list, dtype: type, expected: list, kind: str) -> None:
    section = np.array(values, dtype).repeat(8)[None].repeat(8, axis=0)
    masks = masks_of(tmp_path / "l.h5", np.stack([section, section]))
    assert masks.section(1)[4, 4::8].tolist() == expected
    assert masks.section(1).dtype == np.uint8
    assert masks.meaning.kind == kind


def test_noise_beside_0_and_255_is_no_class(tmp_path: Path) -> None:
    labels = np.zeros((2, 32, 32), np.uint8)
    labels[:, 8:24, 8:24] = 255
    labels[:, 7, 8:24:2], labels[:, 7, 9:24:2] = 1, 2
    masks = masks_of(tmp_path / "l.h5", labels)
    np.testing.assert_array_equal(masks.section(0), labels[0] == 255)


def test_what_is_ignored_is_said(tmp_path: Path, capsys) -> None:
    masks = masks_of(tmp_path / "l.h5", np.array([[[0, 1, 255]]], np.uint8))
    masks.section(0)
    assert "l.h5:main: label 255 is ignored" in capsys.readouterr().err


def test_255_is_ignored_in_sections_that_were_not_looked_at(tmp_path: Path) -> None:
    labels = np.zeros((100, 8, 8), np.uint8)
    labels[:, 2:5] = 1
    labels[1] = 255
    masks = masks_of(tmp_path / "l.h5", labels)
    assert masks.section(0).mean() == pytest.approx(3 / 8)
    assert (masks.section(1) == IGNORE).all()


def test_merged_classes_are_said(tmp_path: Path, capsys) -> None:
    labels = np.arange(4, dtype=np.uint8).repeat(16).reshape(1, 8, 8)
    assert masks_of(tmp_path / "classes.h5", labels).section(0).mean() == 0.75
    assert "labels 1, 2, 3 are merged: all of them count as mitochondria" in capsys.readouterr().err
    many = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    assert masks_of(tmp_path / "many.h5", many).section(0).sum() == 63
    assert not capsys.readouterr().err


def test_resampled_masks_keep_what_is_ignored() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 20:40] = 1
    mask[:, 40:] = IGNORE
    small = resample_mask(mask, (20, 30))
    assert small[0].tolist() == [0] * 10 + [1] * 10 + [IGNORE] * 10
    large = resample_mask(mask, (80, 120))
    assert (large == IGNORE).mean() == pytest.approx(1 / 3, abs=0.01)
    assert (large == 1).mean() == pytest.approx(1 / 3, abs=0.01)


def test_what_is_known_decides_in_a_resampled_mask() -> None:
    mask = np.tile(np.array([1, 1, 0, IGNORE, IGNORE], np.uint8), (10, 2))
    assert resample_mask(mask, (2, 2)).tolist() == [[1, 1], [1, 1]]
