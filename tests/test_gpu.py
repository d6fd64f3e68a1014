"""On a CUDA GPU: the same numbers as on the CPU; `pytest --gpu` runs these tests alone."""

import copy
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from model.checkpoint import LAST, load_checkpoint
from model.discriminator import build_discriminator
from model.segmentor import Segmentor
from prediction.predictor import NetworkPredictor
from tests.golden.formula import blobs, fill_segmentor, fill_weights
from tests.projects import Project
from tests.settings import config_of
from training.setup import Learning, join
from utils.runtime.device import choose_device

pytestmark = pytest.mark.gpu
WIDTH = 8


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    """No TF32, and the same algorithms each time."""
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        yield


def learning_on(device: torch.device) -> Learning:
    """The networks on formula-made weights."""
    networks = (
        fill_segmentor(Segmentor(WIDTH)),
        fill_weights(build_discriminator(WIDTH), "disc_seg."),
        fill_weights(build_discriminator(WIDTH), "disc_res."),
    )
    return join([network.to(device) for network in networks], config_of(WIDTH, total_iters=10))


def test_iterations_are_those_of_the_cpu() -> None:
    """Three, in float32: every loss, accuracy and gradient norm."""
    reports = {}
    for name in ("cpu", "cuda"):
        device = choose_device(name)
        made = learning_on(device)
        for iteration in (1, 2, 3):
            (source, masks), (target, _) = (
                blobs(number, 64) for number in (iteration, 1000 + iteration)
            )
            images = [torch.from_numpy(pair).float()[None].to(device) for pair in (source, target)]
            labels = torch.from_numpy(masks)[None].to(device)
            report = made.steps.adapt(iteration, images[0], labels, images[1])
            reports[name, iteration] = {key: float(value) for key, value in report.items()}
    for iteration in (1, 2, 3):
        assert reports["cuda", iteration] == pytest.approx(
            reports["cpu", iteration], rel=1e-3, abs=1e-5
        )


def test_predictions_are_those_of_the_cpu() -> None:
    segmentor = fill_segmentor(Segmentor(WIDTH)).eval()
    sections = torch.rand(2, 2, 96, 128, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in ("cpu", "cuda"):
        device = choose_device(name)
        predict = NetworkPredictor(copy.deepcopy(segmentor).to(device), device)
        found[name] = predict.decode(*map(predict.encode, sections)).cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=0, atol=1e-4)


def test_a_run_learns_and_predicts(project: Project) -> None:
    on_gpu = ("--device", "cuda", "--set", "TRAIN.if_cuda=true")
    output = project.train(*on_gpu, "--set", "TRAIN.total_iters=4")
    assert "device: cuda" in output
    weights = load_checkpoint(project.models / LAST).weights
    assert all(value.isfinite().all() for value in weights.values())
    predictions = []
    for name in ("cuda", "cpu"):
        arguments = project.arguments("--device", name, "--set", "DATA.data_dir_val=target.hdf")
        out = ("--out", project.root / name)
        models = ("--set", f"TRAIN.save_path={project.models.parent}")
        finished = project.command("inference", *arguments, *out, *models)
        assert finished.code == 0, finished.err
        predictions.append(probability(project.root / name / "inference/tiny/preds.hdf"))
    np.testing.assert_allclose(*predictions, rtol=0, atol=1e-3)


def probability(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["main"][:]
