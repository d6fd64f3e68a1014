"""Numbers that are not finite: named, skipped, counted, and never learned from."""

import re

import numpy as np
import pytest
import torch

from dataloader.formats.opening import open_volume
from dataloader.pairs import PairDataset, Sampling
from model.checkpoint import LAST, TRAINING_STATE, load_checkpoint, load_file
from tests.projects import Project
from tests.settings import config_of
from training.nonfinite import MOST_SKIPPED, NonFiniteMonitor
from training.setup import build_learning
from utils.errors import UserError

EXPLODING = ("--set", "TRAIN.learning_rate=1.0e+30")  # no number is left after the first step


def test_a_loss_that_is_not_finite_stops_the_run(project: Project) -> None:
    error = project.fail(*EXPLODING, "--set", "TRAIN.save_freq=1")
    assert "error: iteration 2: not finite: " in error
    assert "seg_source_current" in error
    assert "grad_norm_segmentor" in error
    assert re.search(r"source.hdf:main, sections \d \(000\d.png\) and \d ", error)
    assert "target.hdf:main, sections " in error
    assert "TRAIN.on_nan=skip" in error
    assert (project.logs / "nonfinite-2-source.png").is_file()
    with np.load(project.logs / "nonfinite-2.npz") as arrays:
        assert set(arrays) == {"source_images", "source_masks", "target_images"}
    assert load_checkpoint(project.models / LAST).iteration == 1


def test_skipped_iterations_change_nothing_but_the_count(project: Project) -> None:
    output = project.train(
        *EXPLODING, "--set", "TRAIN.on_nan=skip", "--set", "TRAIN.display_freq=6"
    )
    for iteration in range(2, 7):
        assert f"skipped at {iteration}: not finite: " in output
        assert f"({iteration - 1} so far)" in output
    assert "nan" not in (project.logs / "loss.txt").read_text()
    assert load_file(project.models / TRAINING_STATE)["nonfinite"]["skipped"] == 5


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("where", ["source", "target"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_skipped_leaves_everything_as_it_was(
    where: str, value: float, optimiser: str
) -> None:
    torch.manual_seed(0)
    settings = config_of(total_iters=10, opt_type=optimiser)
    made = build_learning(settings, torch.device("cpu"))
    step, learner = made.steps.adapt, made.learner
    source, target = torch.rand(1, 2, 32, 32), torch.rand(1, 2, 32, 32)
    masks = torch.randint(0, 2, (1, 2, 32, 32))
    assert step(1, source, masks, target)["skipped"] == 0
    before = plain(learner.state_dict())
    (source if where == "source" else target)[0, 0, 3, 3] = value
    report = step(2, source, masks, target)
    assert report["skipped"] == 1
    assert plain(learner.state_dict()) == before
    target = source = torch.rand(1, 2, 32, 32)
    assert step(2, source, masks, target)["skipped"] == 0
    assert plain(learner.state_dict()) != before


def plain(value: object) -> object:
    """Tensors as lists; learning rates, which follow the iteration, left out."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key != "lr"}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_too_many_skips_in_a_row_stop(project: Project) -> None:
    images = open_volume(project.root / "source.hdf")
    dataset = PairDataset(images, None, Sampling(1, 32, (1, 0), 200))
    pairs = {"source": dataset}
    watch, lines = NonFiniteMonitor("skip", 1, None), []
    bad = {"loss": torch.tensor(float("nan")), "skipped": torch.tensor(1.0)}
    good = {"loss": torch.tensor(1.0), "skipped": torch.tensor(0.0)}
    for iteration in range(1, MOST_SKIPPED):
        watch.add(iteration, bad, pairs)
    watch.settle(lines.append)
    other = NonFiniteMonitor("skip", 1, None)
    other.load_state_dict(watch.state_dict())  # a resumed run goes on counting
    watch.add(MOST_SKIPPED, good, pairs)
    watch.add(MOST_SKIPPED + 1, bad, pairs)
    watch.settle(lines.append)
    assert len(lines) == MOST_SKIPPED
    other.add(MOST_SKIPPED, bad, pairs)
    with pytest.raises(UserError, match=f"{MOST_SKIPPED} iterations in a row were skipped"):
        other.settle(lines.append)
