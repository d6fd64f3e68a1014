"""The threshold of masks: fixed, or where the expected F1 is largest."""

import json

import h5py
import numpy as np
import pytest
from sklearn.metrics import f1_score

from prediction.threshold import ExpectedF1
from tests.projects import Project

CHOSEN = ("--set", "TEST.threshold=expected_f1")


def chosen(probability: np.ndarray) -> float:
    found = ExpectedF1()
    for index, section in enumerate(probability):
        found.add(index, section)
    return found.threshold


@pytest.mark.parametrize(("a", "b"), [(0.2, 2.0), (0.5, 5.0), (2.0, 2.0)])
def test_right_probabilities_give_the_best_f1(a: float, b: float) -> None:
    rng = np.random.default_rng(3)
    probability = rng.beta(a, b, (4, 200, 200)).astype(np.float32)
    labels = (rng.random(probability.shape) < probability).ravel()
    thresholds = np.arange(0.02, 0.98, 0.01)
    scores = [f1_score(labels, probability.ravel() >= t) for t in thresholds]
    found = chosen(probability)
    assert f1_score(labels, probability.ravel() >= found) > max(scores) - 0.002
    assert found == pytest.approx(max(scores) / 2, abs=0.02)  # Lipton et al.


def test_certain_probabilities_are_cut_below_one() -> None:
    probability = np.zeros((2, 8, 8), np.float32)
    probability[:, :4] = 1
    mask = probability >= chosen(probability)
    assert mask[:, :4].all()
    assert not mask[:, 4:].any()


def test_nothing_found_stays_nothing() -> None:
    assert chosen(np.zeros((2, 8, 8), np.float32)) == 0.5


@pytest.fixture
def trained(project: Project) -> Project:
    project.train()
    return project


def infer(project: Project, *more: object) -> str:
    labels = ("--set", "DATA.data_dir_val=source.hdf", "--set",
              "DATA.data_dir_val_label=source_groundtruth.hdf")  # fmt: skip
    finished = project.command("inference", *project.arguments(*labels, *more))
    assert finished.code == 0, finished.err
    return finished.out


def results(project: Project) -> tuple[np.ndarray, np.ndarray, dict]:
    folder = project.root / "inference/tiny"
    with h5py.File(folder / "preds.hdf") as file:
        probability = file["main"][:]
    with h5py.File(folder / "masks.hdf") as file:
        masks = file["main"][:]
    return probability, masks > 0, json.loads((folder / "summary.json").read_text())


def test_masks_and_scores_at_the_chosen_threshold(trained: Project) -> None:
    plain = infer(trained)
    probability, masks, summary = results(trained)
    np.testing.assert_array_equal(masks, probability >= 0.5)
    assert summary["threshold"] == 0.5
    assert summary["scores_at_threshold"] is None
    out = infer(trained, *CHOSEN)
    assert "not predicted again" in out
    same, masks, summary = results(trained)
    np.testing.assert_array_equal(same, probability)
    threshold = chosen(probability)
    assert threshold != 0.5
    np.testing.assert_array_equal(masks, probability >= threshold)
    assert summary["threshold"] == threshold
    with h5py.File(trained.root / "source_groundtruth.hdf") as file:
        labels = file["main"][:] > 0
    expected = [f1_score(t.ravel(), m.ravel()) for t, m in zip(labels, masks, strict=True)]
    assert summary["scores_at_threshold"]["F1"] == pytest.approx(np.mean(expected), abs=1e-6)
    at_half = next(line for line in plain.splitlines() if line.startswith("mAP="))
    lines = (trained.root / "inference/tiny/scores.txt").read_text().splitlines()
    assert lines[0] == at_half  # the first line stays at 0.5
    assert lines[1].startswith(f"masks at {threshold:g}: F1={np.mean(expected):.4f}, MCC=")


def test_objects_of_another_threshold_are_removed(trained: Project) -> None:
    infer(trained, "-sw")
    assert (trained.root / "inference/tiny/seg_img").is_dir()
    infer(trained)
    assert (trained.root / "inference/tiny/seg_img").is_dir()
    infer(trained, "--set", "TEST.threshold=0.3")
    assert not (trained.root / "inference/tiny/seg_img").exists()
    probability, masks, _ = results(trained)
    np.testing.assert_array_equal(masks, probability >= 0.3)


def test_a_new_prediction_uses_it_at_once(trained: Project) -> None:
    infer(trained, *CHOSEN, "--repredict")
    probability, masks, summary = results(trained)
    assert summary["threshold"] == chosen(probability)
    np.testing.assert_array_equal(masks, probability >= summary["threshold"])


@pytest.mark.parametrize("value", ["0", "1", "best"])
def test_mistakes(project: Project, value: str) -> None:
    assert "TEST.threshold" in project.fail("--set", f"TEST.threshold={value}")
