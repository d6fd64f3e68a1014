"""Choosing a checkpoint without labels."""

import math
from pathlib import Path

import numpy as np
import pytest

from utils.selection import CHOICES, Snapshot, Source, choose, kept_checkpoints, regret
from utils.target_watch import TargetMeasures, solidities

SOURCE = Source(foreground=0.06, solidity=0.9)


def snapshot(iteration: int, averaged: bool = False, f1: float = 0.5, **measures) -> Snapshot:
    values = {"foreground": 0.06, "entropy": 0.1, "agreement": 0.9, "solidity": 0.8} | measures
    name = f"{'model' if averaged else 'last'}-{iteration:06d}.ckpt"
    return Snapshot(name, iteration, averaged, TargetMeasures(**values), f1)


RUN = [
    snapshot(300, entropy=0.05, f1=0.6),
    snapshot(300, averaged=True, agreement=0.97),
    snapshot(400, foreground=0.0, entropy=0.0, agreement=1.0, solidity=math.nan, f1=0.0),
    snapshot(400, averaged=True, solidity=0.88, foreground=0.12, f1=0.7),
    snapshot(500, foreground=0.05),
    snapshot(500, averaged=True, foreground=0.061, f1=0.55),
]


@pytest.mark.parametrize(
    ("rule", "file", "lost"),
    [
        ("last", "last-000500.ckpt", 0.2),
        ("average", "model-000500.ckpt", 0.15),
        ("agreement", "model-000300.ckpt", 0.2),
        ("entropy", "last-000300.ckpt", 0.1),
        ("foreground", "last-000300.ckpt", 0.1),
        ("solidity", "model-000400.ckpt", 0.0),
    ],
)
def test_rules_choose_what_they_say(rule: str, file: str, lost: float) -> None:
    assert choose(rule, RUN, SOURCE).file == file
    assert regret(rule, RUN, SOURCE) == pytest.approx(lost)


def test_where_all_has_collapsed_the_last_average_is_left() -> None:
    collapsed = [
        snapshot(n, averaged, foreground=0.5) for n in (1, 2) for averaged in (True, False)
    ]
    for rule in set(CHOICES) - {"last"}:
        assert choose(rule, collapsed, SOURCE).file == "model-000002.ckpt"


def test_what_was_kept_in_the_first_half_is_left_out(tmp_path: Path) -> None:
    for name in ("model-000500", "model-000501", "last-001000", "model-001000", "model", "last"):
        (tmp_path / f"{name}.ckpt").touch()
    assert [path.stem for path in kept_checkpoints(tmp_path)] == [
        "model-000501",
        "last-001000",
        "model-001000",
    ]


def test_solidity_of_shapes() -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[5:25, 5:35] = 1  # a rectangle
    mask[40:70, 5:15] = mask[60:70, 5:35] = 1  # an L
    mask[75, 75] = 1  # too small
    found = sorted(solidities(mask))
    assert len(found) == 2
    assert found[1] == pytest.approx(1.0)
    area, hull = 29 * 9 + 20 * 9, 29 * 29 - 20 * 20 / 2  # between the centres of pixels
    assert found[0] == pytest.approx(area / hull, rel=0.02)
    assert solidities(np.zeros((9, 9), np.uint8)) == []
