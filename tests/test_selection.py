"""Choosing a checkpoint without labels."""

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from model.checkpoint import MODEL, load_checkpoint
from tests.plain_inference import options
from tests.test_faults import Project
from training.checkpoint_choice import CHOICES, Source, chosen_by
from training.monitor import TargetMeasures, solidities
from training.selection import Snapshot, choose, kept_checkpoints, regret
from utils.config.schema import TrainSettings

SOURCE = Source(foreground=0.06, solidity=0.9)


def snapshot(iteration: int, averaged: bool = False, f1: float = 0.5, **measures) -> Snapshot:
    values = {"foreground": 0.06, "entropy": 0.1, "agreement": 0.9, "solidity": 0.8} | measures
    name = f"{'average' if averaged else 'last'}-{iteration:06d}.ckpt"
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
        ("average", "average-000500.ckpt", 0.15),
        ("agreement", "average-000300.ckpt", 0.2),
        ("entropy", "last-000300.ckpt", 0.1),
        ("foreground", "last-000300.ckpt", 0.1),
        ("solidity", "average-000400.ckpt", 0.0),
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
        assert choose(rule, collapsed, SOURCE).file == "average-000002.ckpt"


def test_what_was_kept_in_the_first_half_is_left_out(tmp_path: Path) -> None:
    kept = ("average-000500", "average-000501", "last-001000", "average-001000")
    for name in (*kept, "average", "last"):
        (tmp_path / f"{name}.ckpt").touch()
    assert [path.stem for path in kept_checkpoints(tmp_path)] == [
        "average-000501",
        "last-001000",
        "average-001000",
    ]


@pytest.mark.parametrize("rule", ["last", "average", "entropy", "solidity"])
def test_model_is_what_the_rule_chooses(command, tmp_path: Path, rule: str) -> None:
    """In training, and afterwards among what was kept, with labels of the target or without."""
    project = Project(command, tmp_path)
    for seed, name in enumerate(("source", "target")):
        masks = blobs(seed)
        project.write(f"{name}.hdf", (60 + (100 + 50 * seed) * masks).astype(np.uint8))
        project.write(f"{name}_groundtruth.hdf", masks)
    volumes = ["DATA.data_dir_val=target.hdf", "DATA.data_dir_val_label=target_groundtruth.hdf"]
    volumes = [] if rule == "entropy" else volumes
    kept = ["TRAIN.keep_checkpoints=true", "TRAIN.save_freq=1", "TRAIN.total_iters=10"]
    settings = options((*volumes, *kept, "TRAIN.if_valid=false", f"TRAIN.choose_by={rule}"))
    project.train(*settings)
    model = load_checkpoint(project.models / MODEL)
    assert model.chosen_by == chosen_by(rule)
    finished = command("choose_checkpoint", *project.arguments(*settings), "--write", rule)
    assert finished.code == 0, finished.err
    assert ("no labels (DATA.data_dir_val_label)" in finished.out) == (not volumes)
    found = {line.split()[0]: line.split() for line in finished.out.splitlines() if line}
    kept = load_checkpoint(project.models / found[rule][1])
    again = load_checkpoint(project.models / MODEL)
    for other in (kept, again):
        assert (other.iteration, other.weights.keys()) == (model.iteration, model.weights.keys())
        for name, value in model.weights.items():
            assert torch.equal(value, other.weights[name]), name
    assert again.chosen_by == model.chosen_by


def blobs(seed: int) -> np.ndarray:
    """Masks of which half is foreground: a network that has learned little finds some as well."""
    noise = np.random.default_rng(seed).random((4, 48, 48))
    smooth = gaussian_filter(noise, 3)
    return (smooth > np.median(smooth)).astype(np.uint8)


def test_every_rule_is_a_setting() -> None:
    assert set(get_args(TrainSettings.model_fields["choose_by"].annotation)) == set(CHOICES)


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
