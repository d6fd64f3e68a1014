"""The threshold of masks: fixed, or chosen without labels."""

import json

import h5py
import numpy as np
import pytest
from sklearn.metrics import f1_score

from dataloader.volume import Volume
from prediction.threshold import EdgeThreshold, ExpectedF1
from tests.helpers import ArrayVolume
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


def distances(side: int) -> np.ndarray:
    """Distances of the pixels of two sections from a centre, as a fraction of the side."""
    y, x = np.mgrid[:side, :side] / side
    return np.stack([np.hypot(y - 0.5, x - centre) for centre in (0.4, 0.6)])


def disc(distance: np.ndarray, inside: int = 60, outside: int = 180) -> np.ndarray:
    """Dark discs of a radius of a quarter of the side; 8-bit sections."""
    return np.where(distance < 0.25, inside, outside).astype(np.uint8)


def at_edges(volume: Volume, probability: np.ndarray) -> float:
    found = EdgeThreshold(volume)
    for index, section in enumerate(probability):
        found.add(index, section)
    return found.threshold


@pytest.mark.parametrize("at_the_edge", [0.3, 0.5, 0.65])
@pytest.mark.parametrize("greys", [(60, 180), (180, 60)], ids=["dark", "bright"])
@pytest.mark.parametrize("side", [128, 64], ids=["same grid", "coarser probability"])
def test_outlines_are_put_on_the_edges(
    at_the_edge: float, greys: tuple[int, int], side: int
) -> None:
    volume = ArrayVolume(disc(distances(128), *greys))
    probability = (at_the_edge + 2 * (0.25 - distances(side))).clip(0, 1)
    assert at_edges(volume, probability) == pytest.approx(at_the_edge, abs=0.05)


def test_nothing_is_learned_beside_blank_areas() -> None:
    distance = distances(128)
    probability = (0.3 + 2 * (0.25 - distance)).clip(0, 1)
    sections = disc(distance)
    sections[0] = np.where(distance[0] < 0.12, 0, 255)  # a strong edge along an inner outline
    assert at_edges(ArrayVolume(sections[:1]), probability[:1]) == pytest.approx(0.56, abs=0.05)
    only = Blank(sections[:1], sections[:1] == 0)
    assert at_edges(only, probability[:1]) == 0.5  # nothing to choose by
    both = Blank(sections, sections == 0)
    assert at_edges(both, probability) == pytest.approx(0.3, abs=0.05)


class Blank(ArrayVolume):
    def __init__(self, array: np.ndarray, blank: np.ndarray) -> None:
        super().__init__(array)
        self.where_blank = blank

    def blank(self, index: int) -> np.ndarray | None:
        return self.where_blank[index] if self.where_blank[index].any() else None


def test_without_edges_the_threshold_is_a_half() -> None:
    flat = np.full((2, 32, 32), 0.7)
    assert at_edges(ArrayVolume(disc(distances(32))), flat) == 0.5
    assert at_edges(ArrayVolume(np.zeros((2, 32, 32), np.uint8)), distances(32)) == 0.5


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


def test_masks_on_the_strongest_edges(trained: Project) -> None:
    out = infer(trained, "--set", "TEST.threshold=edges")
    probability, masks, summary = results(trained)
    with h5py.File(trained.root / "source.hdf") as file:
        expected = at_edges(ArrayVolume(file["main"][:]), probability)
    assert summary["threshold"] == expected != 0.5
    assert f"{expected:g}, where the outlines follow the strongest edges" in out
    np.testing.assert_array_equal(masks, probability >= expected)


@pytest.mark.parametrize("value", ["0", "1", "best"])
def test_mistakes(project: Project, value: str) -> None:
    assert "TEST.threshold" in project.fail("--set", f"TEST.threshold={value}")
