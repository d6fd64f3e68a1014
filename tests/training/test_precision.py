"""bfloat16 beside float32: chosen where it is fast, and of no consequence for the scores."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dataloader.synthetic import make_volume
from dataloader.volume import normalise
from model.normalisation import norm_relu
from prediction.metrics import SectionScores
from prediction.predictor import NetworkPredictor
from tests.settings import config_of
from training.setup import build_learning
from utils.errors import UserError
from utils.runtime.device import AUTO, choose_precision, widened

CPU = torch.device("cpu")
ITERATIONS = 120


@pytest.fixture(scope="module")
def volume() -> tuple[torch.Tensor, np.ndarray]:
    """Sections (Z, H, W) in [0, 1] and their masks."""
    images, labels = make_volume(1, (4, 128, 128))
    return torch.from_numpy(np.stack([normalise(i) for i in images])), labels > 0


def pairs(volume: tuple[torch.Tensor, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = volume
    masks = torch.from_numpy(labels).long()
    return torch.stack([images[:2], images[1:3]], 1), torch.stack([masks[:2], masks[1:3]], 1)


@pytest.fixture(scope="module")
def trained(volume) -> nn.Module:
    """A small network that has learned something."""
    torch.manual_seed(0)
    made = build_learning(config_of(8, total_iters=ITERATIONS, learning_rate=3e-3), CPU)
    images, masks = pairs(volume)
    for iteration in range(1, ITERATIONS + 1):
        made.steps.source(iteration, images, masks)
    return made.learner.networks["segmentor"]


def test_scores_of_a_trained_network_do_not_move(trained: nn.Module, volume) -> None:
    images, labels = volume
    results = []
    for precision in (torch.float32, torch.bfloat16):
        predict = NetworkPredictor(trained.eval(), CPU, precision)
        scores = SectionScores()
        for index in range(len(images) - 1):
            features = [predict.encode(images[i : i + 1]) for i in (index, index + 1)]
            probability = predict.decode(*features)
            assert probability.dtype == torch.float32
            for role in (0, 1):
                scores.add(probability[0, role].numpy(), labels[index + role])
        results.append(scores.result())
    assert results[0].F1 > 0.6
    assert results[0] != results[1]
    np.testing.assert_allclose(*results, rtol=0, atol=0.002)


def test_a_step_in_bfloat16_is_nearly_the_same(trained: nn.Module, volume) -> None:
    images, masks = pairs(volume)
    reports = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        made = build_learning(config_of(8, total_iters=10, precision=precision), CPU)
        segmentor = made.learner.networks["segmentor"]
        segmentor.load_state_dict(trained.state_dict())
        report = made.steps.adapt(1, images, masks, images.flip(-1))
        assert {value.dtype for value in report.values()} == {torch.float32}
        assert {p.dtype for p in segmentor.parameters()} == {torch.float32}
        reports.append({name: value.item() for name, value in report.items()})
    plain, rounded = reports
    assert plain != rounded
    assert rounded == pytest.approx(plain, rel=0.1, abs=1e-3)


def test_norm_of_bfloat16_maps_sums_in_float32() -> None:
    draw = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, 4, 96, 96, generator=draw) + 2).bfloat16()
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    wide = x.detach().float().to(memory_format=torch.channels_last).requires_grad_()
    found, expected = norm_relu(x), norm_relu(wide)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=5e-3, atol=5e-3)
    for maps in (found, expected):
        maps.backward(torch.ones_like(maps) * maps.detach().sin())
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.float(), wide.grad, rtol=2e-2, atol=5e-3)


def test_precision_by_its_name(monkeypatch) -> None:
    monkeypatch.delenv(AUTO, raising=False)
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16
    flags = Path("/proc/cpuinfo")  # of Linux
    able = flags.exists() and {"amx_bf16", "avx512_bf16"} & set(flags.read_text().split())
    assert choose_precision("auto", CPU) == (torch.bfloat16 if able else torch.float32)
    assert choose_precision("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_environment_decides_for_auto_alone(monkeypatch, name: str) -> None:
    monkeypatch.setenv(AUTO, name)
    assert choose_precision("auto", CPU) == getattr(torch, name)
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16
    monkeypatch.setenv(AUTO, "half")
    with pytest.raises(UserError, match=f"{AUTO}: found 'half', expected float32 or bfloat16"):
        choose_precision("auto", CPU)


def test_widened_leaves_wider_numbers_alone() -> None:
    for dtype, expected in (("bfloat16", "float32"), ("float32", "float32"), ("float64",) * 2):
        maps = torch.ones(2, dtype=getattr(torch, dtype))
        assert widened(maps).dtype == getattr(torch, expected)
    assert widened(None) is None
