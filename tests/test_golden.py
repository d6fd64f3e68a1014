"""The method, number by number, against independently computed golden numbers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from loss.consistency import pseudo_labels
from model.discriminator import build_discriminator
from model.published import to_published
from model.segmentor import PairLogits, Segmentor
from tests.golden import blobs, fill_segmentor, fill_weights
from utils.adaptation import AdaptationStep
from utils.config import TrainSettings

TRAINING_TOLERANCE = 1e-8

# golden column -> name in our report
COLUMNS = {
    "loss_seg_current": "seg_source_current",
    "loss_seg_auxiliary": "seg_source_auxiliary",
    "loss_residual": "seg_source_residual",
    "loss_consistency": "consistency_target",
    "loss_adv_seg": "adv_target_seg",
    "loss_adv_res": "adv_target_residual",
    "loss_disc_seg": "disc_seg",
    "loss_disc_res": "disc_residual",
    "grad_norm_segmentor": "grad_norm_segmentor",
    "grad_norm_disc_seg": "grad_norm_disc_seg",
    "grad_norm_disc_res": "grad_norm_disc_residual",
}


def golden_folders() -> list:
    """The golden folder, and another where GOLDEN_DIR names one."""
    extra = os.environ.get("GOLDEN_DIR")
    return ["shared", *([extra] if extra else [])]


@pytest.fixture(scope="module", params=golden_folders())
def training(request: pytest.FixtureRequest) -> tuple[dict, dict]:
    """Settings and golden arrays of the training steps."""
    if request.param == "shared":
        folder = request.getfixturevalue("shared") / "golden"
    else:
        folder = Path(request.param)
    with np.load(folder / "training_step.npz") as arrays:
        return json.loads((folder / "settings.json").read_text()), dict(arrays)


def golden_step(settings: dict) -> AdaptationStep:
    """The step on formula-made weights, float64."""
    rate = settings["learning_rate"]
    skipped = ("size", "iterations", "seed", "learning_rate")
    train = TrainSettings(
        **{key: value for key, value in settings.items() if key not in skipped},
        **dict.fromkeys(("learning_rate", "learning_rate_ms", "learning_rate_mt"), rate),
    )
    return AdaptationStep(
        fill_segmentor(Segmentor()).double(),
        fill_weights(build_discriminator(), "disc_seg.").double(),
        fill_weights(build_discriminator(), "disc_res.").double(),
        train,
    )


def pair(settings: dict, iteration: int, domain: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks of the pair fed at an iteration, with a batch dimension."""
    offset = 0 if domain == "source" else 1000
    images, masks = blobs(settings["seed"] + offset + 2 * iteration, settings["size"])
    return torch.from_numpy(images)[None], torch.from_numpy(masks)[None]


def close(found: torch.Tensor, golden: np.ndarray) -> None:
    """Demand the golden values to 1e-8, relative to the largest."""
    error = np.abs(found.detach().numpy() - golden).max() / np.abs(golden).max()
    assert error < TRAINING_TOLERANCE


def test_networks_and_pseudo_labels(training: tuple[dict, dict]) -> None:
    settings, golden = training
    step = golden_step(settings)
    source, _ = pair(settings, 1, "source")
    close(source, golden["source_input"])
    logits = step.segmentor(source)
    for head in PairLogits._fields:
        name = head if head == "residual" else f"seg_{head}"
        close(getattr(logits, head), golden[f"source_{name}"])

    target = step.segmentor(pair(settings, 1, "target")[0])
    close(step.disc_seg(target.current.softmax(1)), golden["disc_seg_on_target"])
    close(step.disc_residual(target.residual.softmax(1)), golden["disc_res_on_target"])
    current, auxiliary = pseudo_labels(*target)
    np.testing.assert_array_equal(current.numpy(), golden["pseudo_current"])
    np.testing.assert_array_equal(auxiliary.numpy(), golden["pseudo_auxiliary"])


def test_training_steps(training: tuple[dict, dict]) -> None:
    settings, golden = training
    step = golden_step(settings)
    columns = list(golden["columns"])
    assert set(columns) == {*COLUMNS, "lr"}
    for iteration, row in enumerate(golden["history"], start=1):
        source, masks = pair(settings, iteration, "source")
        report = step(iteration, source, masks, pair(settings, iteration, "target")[0])
        expected = dict(zip(columns, row, strict=True))
        found = {column: float(report[name]) for column, name in COLUMNS.items()}
        assert found == pytest.approx(
            {column: expected[column] for column in COLUMNS}, rel=TRAINING_TOLERANCE, abs=1e-15
        )
        for rate in step.learning_rates.values():
            assert rate == pytest.approx(expected["lr"], rel=1e-12)


def test_published_names_and_shapes(shared: Path) -> None:
    published = json.loads((shared / "reference/released_checkpoint_shapes.json").read_text())
    ours = to_published(Segmentor().state_dict())
    assert {key: list(value.shape) for key, value in ours.items()} == published
