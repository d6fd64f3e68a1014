"""The fast ways against the plain ones of the benchmarks."""

import copy

import numpy as np
import pytest
import torch

from benchmarks.plain import PlainStep, plain_prediction, plain_sample, plain_scores
from dataloader.formats.folder import section_files
from dataloader.formats.opening import open_volume
from dataloader.pairs import PairDataset, Sampling
from dataloader.synthetic import make_volume, write_sections
from dataloader.volume import Volume, normalise
from model.discriminator import build_discriminator
from model.segmentor import Segmentor
from prediction.metrics import SectionScores
from prediction.predictor import NetworkPredictor, Task, predict_volume, section_pairs
from prediction.windows import whole_section
from tests.golden.formula import blobs
from tests.settings import config_of
from training.setup import join


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> tuple[Volume, Volume]:
    """Five sections of 96 x 112 and their masks."""
    root = tmp_path_factory.mktemp("plain")
    for name, volume in zip(("images", "masks"), make_volume(0, (5, 96, 112)), strict=True):
        write_sections(root / name, volume)
    return open_volume(root / "images"), open_volume(root / "masks", masks=True)


def test_step_learns_as_the_plain_one() -> None:
    torch.manual_seed(1)
    networks = [net.double() for net in (Segmentor(2), *(build_discriminator(2) for _ in "ab"))]
    config = config_of(
        total_iters=10, rampup_iters=5, weight_cross=1, weight_adv_spatial=0.5,
        weight_adv_temporal=0.3, learning_rate=1e-2,
    )  # fmt: skip
    plain = PlainStep(*copy.deepcopy(networks), config.TRAIN)
    made = join([n.to(memory_format=torch.channels_last) for n in networks], config)
    for iteration in range(1, 5):
        draws = [blobs(10 * iteration + n, 32) for n in range(4)]
        source, masks, target = (
            torch.from_numpy(np.stack([draw[kind] for draw in pair]))
            for pair, kind in ((draws[:2], 0), (draws[:2], 1), (draws[2:], 0))
        )
        expected = plain(iteration, source, masks, target)
        report = made.steps.adapt(iteration, source, masks, target)
        found = sum(v.item() for k, v in report.items() if k.startswith(("seg", "cons", "adv")))
        assert found == pytest.approx(expected, rel=1e-9)
    for one, other in zip(plain.networks, made.learner.networks.values(), strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_samples_are_the_plain_ones(volumes) -> None:
    images, masks = volumes
    samples = PairDataset(images, masks, Sampling(stride=2, crop=64, seed=(3, 0), length=40))
    for number in range(40):
        draw = np.random.default_rng((3, 0, number))
        first = int(draw.integers(3))
        pair = (first, first + 2)
        files = ([section_files(volume.path)[k] for k in pair] for volume in volumes)
        expected = plain_sample(*files, samples.augment, int(draw.integers(2**32)))
        np.testing.assert_allclose(samples[number]["images"], expected[0], atol=1e-6)
        np.testing.assert_array_equal(samples[number]["masks"], expected[1])


@pytest.mark.parametrize("stride", [1, 2])
def test_predictions_are_the_plain_ones(volumes, stride: int) -> None:
    images, _ = volumes
    torch.manual_seed(0)
    segmentor = Segmentor(4)
    volume = torch.from_numpy(np.stack([normalise(images.section(i)) for i in range(5)]))
    expected = plain_prediction(segmentor, volume, stride)
    segmentor.to(memory_format=torch.channels_last)
    found = dict(
        predict_volume(
            NetworkPredictor(segmentor, torch.device("cpu")),
            Task(images, section_pairs(5, stride), whole_section((96, 112), (96, 112))),
        )
    )
    for index in range(5):
        np.testing.assert_allclose(found[index], expected[index], atol=1e-5)


def test_scores_are_the_plain_ones(volumes) -> None:
    images, masks = volumes
    scores = SectionScores()
    probability = np.stack([1 - normalise(images.section(i)) for i in range(5)])
    label = np.stack([masks.section(i) > 0 for i in range(5)])
    for pair in zip(probability, label, strict=True):
        scores.add(*pair)
    assert list(scores.result()) == pytest.approx(plain_scores(probability, label), abs=1e-6)
