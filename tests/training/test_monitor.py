"""The target without labels: what is measured, and when a collapse is warned of."""

import re

import h5py
import numpy as np
import pytest
import torch

from dataloader.formats.opening import open_volume
from dataloader.pairs import PairDataset, Sampling
from dataloader.volume import MaskVolume
from model.segmentor import PairLogits
from tests.projects import Project
from training.monitor import TargetMeasures, TargetMonitor, foreground


def logits_of(current: torch.Tensor, auxiliary: torch.Tensor, residual: torch.Tensor) -> PairLogits:
    return PairLogits(*(torch.stack([-m, m], 1) for m in (current, auxiliary, residual)))


def test_measures_of_the_target(project: Project) -> None:
    images = open_volume(project.root / "target.hdf")
    target = PairDataset(images, None, Sampling(1, 32, (1, 1), 9))
    watch = TargetMonitor(target, 0.1, 10)
    draw = np.random.default_rng(0)
    maps = draw.normal(size=(8, 3, 32, 32)).astype(np.float32)
    seen = []

    def segment(pair: torch.Tensor) -> PairLogits:
        seen.append(pair)
        return logits_of(*(torch.from_numpy(m)[None] for m in maps[len(seen) - 1]))

    found = watch.measure(segment, torch.device("cpu"))
    masks, residual = maps[:, :2] > 0, maps[:, 2] > 0
    p = 1 / (1 + np.exp(-2 * maps[:, :2].astype(np.float64)))
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    agreement = (masks[:, 0] == (masks[:, 1] ^ residual)).mean()
    assert found == pytest.approx((masks.mean(), entropy.mean(), agreement), rel=1e-5)
    again = len(seen)
    watch.measure(lambda pair: seen.append(pair) or logits_of(*maps_like(pair)), seen[0].device)
    assert all(torch.equal(a, b) for a, b in zip(seen[:again], seen[again:], strict=True))


def test_foreground_of_labels(project: Project) -> None:
    labels = MaskVolume(open_volume(project.root / "source_groundtruth.hdf"))
    with h5py.File(project.root / "source_groundtruth.hdf") as file:
        expected = (file["main"][:] > 0).mean()
    assert foreground(labels) == pytest.approx(expected, rel=1e-6)


def maps_like(pair: torch.Tensor) -> list[torch.Tensor]:
    return [torch.zeros(1, 32, 32)] * 3


@pytest.mark.parametrize(
    ("fraction", "warns"),
    [
        (0.0, "nearly nothing"),
        (0.009, "nearly nothing"),
        (0.011, None),
        (0.49, None),
        (0.51, "nearly everywhere"),
        (1.0, "nearly everywhere"),
    ],
)
def test_a_collapse_is_warned_of_once(project: Project, fraction: float, warns) -> None:
    images = open_volume(project.root / "target.hdf")
    target = PairDataset(images, None, Sampling(1, 32, (1, 1), 9))
    measures = TargetMeasures(fraction, 0.0, 1.0)
    warmed = TargetMonitor(target, 0.1, 100, warmup_iters=40)
    assert warmed.check(39, measures) is None  # of no loss on the target
    watch = TargetMonitor(target, 0.1, 100)
    assert watch.check(1, measures) is None  # too early to tell
    assert watch.check(4, measures) is None
    warning = watch.check(5, measures)
    assert warmed.check(40, measures) == warning
    if warns is None:
        assert warning is None
        return
    assert warns in warning
    assert watch.check(6, measures) is None
    assert watch.check(7, TargetMeasures(0.1, 0, 1)) is None
    assert watch.check(8, measures) == warning  # the next onset


def test_the_target_is_looked_at_without_labels_and_logged(half_way: Project) -> None:
    lines = (half_way.logs / "target.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["model-1", "model-3", "model-4"]
    assert all(re.search("foreground=0.*entropy=0.*agreement=", line) for line in lines)
    assert not (half_way.logs / "valid.txt").exists()
