"""What goes beyond the paper: averaged weights, heads at a prior, other looks, flips."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from dataloader.class_randomisation import SURROUNDINGS, randomise_class
from dataloader.domain_randomisation import randomise_domain
from dataloader.histogram_matching import match_histograms
from dataloader.pairs import Appearance, PairDataset, Sampling
from loss.consistency import consistency_loss
from model.segmentor import Segmentor
from prediction.predictor import FlippedPredictor, NetworkPredictor
from tests.helpers import Sections
from tests.settings import config_of
from training.averaging import WeightAverage, choose_decay
from training.setup import build_learning
from utils.ignore import IGNORE

CPU = torch.device("cpu")


def test_average_of_weights_is_as_defined() -> None:
    network = torch.nn.Linear(1, 1)
    average, plain, zero = WeightAverage(network, 0.9), None, torch.tensor(0.0)
    for iteration in range(1, 40):
        with torch.no_grad():
            network.weight.fill_(iteration)
        plain = iteration if plain is None else plain
        decay = min(1 - 1 / (iteration + 1), 0.9)
        start = average.network.weight.item()
        average.update(network, iteration, zero)
        assert average.network.weight.item() == pytest.approx(
            decay * start + (1 - decay) * iteration, rel=1e-5
        )
    before = average.network.weight.item()
    average.update(network, 40, torch.tensor(1.0))  # skipped
    assert average.network.weight.item() == before
    assert (choose_decay("auto", 1500), choose_decay("auto", 200_000)) == (0.99, 0.999)
    assert choose_decay(0.5, 10) == 0.5


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A source pair, its masks, a target pair."""
    draw = torch.Generator().manual_seed(3)
    source, target = (torch.rand(1, 2, 32, 32, generator=draw) for _ in range(2))
    return source, torch.randint(0, 2, (1, 2, 32, 32), generator=draw), target


@pytest.mark.parametrize("kind", ["adapt", "target"])
def test_compiled_networks_learn_the_same(kind: str) -> None:
    reports = []
    for compiled in (lambda network: network, partial(torch.compile, backend="eager")):
        torch.manual_seed(0)
        step = getattr(build_learning(config_of(total_iters=10), CPU).steps, kind)
        step.segment = compiled(step.segment)
        report = step(2, *batch()[: 3 if kind == "adapt" else 2])
        reports.append({name: float(value) for name, value in report.items()})
    assert reports[0] == pytest.approx(reports[1], rel=1e-4)


def test_consistency_is_the_published_loss() -> None:
    torch.manual_seed(0)
    settings = {"total_iters": 10, "consistency_weight_rampup": False}
    made = build_learning(config_of(**settings), CPU)
    with torch.no_grad():
        expected = 0.1 * consistency_loss(*made.networks.segmentor(batch()[2]))
    found = made.steps.adapt(1, *batch())["consistency_target"]
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_randomise_domains_show_the_same_tissue() -> None:
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, 20:40, 24:44], masks[1, 20:40, 30:44] = 1, 1
    images = 0.3 + 0.4 * masks.astype(np.float32)
    areas = []
    for seed in range(40):
        seen, moved = randomise_domain(images, masks, np.random.default_rng(seed))
        assert seen.shape == images.shape
        assert set(np.unique(moved)) <= {0, 1}
        inside, outside = seen[moved == 1].mean(), seen[moved == 0].mean()
        assert inside > outside  # brighter, as it was
        areas.append(moved[0].sum() / masks[0].sum())
    assert min(areas) < 0.7
    assert max(areas) > 1.4


def test_mitochondria_alone_change_their_look() -> None:
    masks = np.zeros((2, 96, 96), np.uint8)
    masks[0, 30:60, 24:54], masks[1, 30:60, 34:64] = 1, 1
    masks[:, 22:28] = IGNORE
    noise = np.random.default_rng(0).normal(0, 0.02, masks.shape)
    images = (0.7 - 0.4 * (masks == 1) + noise).astype(np.float32)
    images[:, 22:28] = 0  # ignored pixels are not surroundings
    means, spreads, unchanged = [], [], 0
    for seed in range(60):
        seen = randomise_class(images, masks, np.random.default_rng(seed))
        if seen is images:
            unchanged += 1
            continue
        assert seen.dtype == np.float32
        far = masks == 0
        far[:, 30 - SURROUNDINGS : 60 + SURROUNDINGS] = False
        np.testing.assert_allclose(seen[far], images[far], atol=1e-6)
        inner = seen[:, 40:50, 38:50]
        means.append(inner.mean())
        spreads.append(inner.std())
        assert inner[0].mean() == pytest.approx(inner[1].mean(), abs=0.02)
    assert 8 < unchanged < 30
    assert 0.29 < min(means) < 0.36  # as they were
    assert 0.6 < max(means) < 0.68  # nearly as bright as the surroundings
    assert 0.012 < min(spreads) < 0.018
    assert 0.03 < max(spreads) < 0.04


@pytest.mark.parametrize("value", [0, 1, IGNORE])
def test_sections_without_mitochondria_or_surroundings_do_not_change(value: int) -> None:
    images = np.random.default_rng(0).random((2, 32, 32), np.float32)
    masks = np.full(images.shape, value, np.uint8)
    for seed in range(8):
        assert randomise_class(images, masks, np.random.default_rng(seed)) is images


def test_randomised_samples_repeat_and_move_their_masks() -> None:
    array = np.random.default_rng(0).random((4, 40, 40), np.float32)
    volumes = Sections(array), Sections((array > 0.9).astype(np.uint8))
    sampling = Sampling(1, 32, (5, 1), 6)
    plain, random, again = (
        PairDataset(*volumes, sampling, Appearance(random=on)) for on in (False, True, True)
    )
    look = Appearance(random_class=True)
    classes = PairDataset(*volumes, sampling, look)
    samples = [(classes[number], plain[number]) for number in range(6)]
    assert any((one["images"] != other["images"]).any() for one, other in samples)
    assert all((one["masks"] == other["masks"]).all() for one, other in samples)
    for number in range(6):
        one, other = plain[number], random[number]
        for name in ("images", "masks"):
            assert other[name].shape == (2, 32, 32)
            assert not np.array_equal(one[name], other[name])
            np.testing.assert_array_equal(other[name], again[number][name])


def test_consistency_ramps_up_from_the_begin() -> None:
    config = config_of(total_iters=10, rampup_iters=4, beyond={"warmup_fraction": 0.3})
    step = build_learning(config, CPU).steps.adapt
    weights = [step.consistency_weight(iteration) for iteration in (3, 5, 7)]
    assert weights == pytest.approx([0.1 * np.exp(-5 * (1 - t) ** 2) for t in (0, 0.5, 1)])


def test_learning_rates_restart_after_the_warm_up() -> None:
    def rates(**beyond: float) -> list[float]:
        settings = {"warmup_fraction": 0.4} | beyond
        learner = build_learning(
            config_of(total_iters=10, learning_rate=0.2, power=0.9, beyond=settings),
            torch.device("cpu"),
        ).learner
        found = []
        for iteration in range(1, 11):
            learner.start(iteration)
            found.append(learner.learning_rates["segmentor"])
        return found

    assert rates() == pytest.approx([0.2 * (1 - i / 10) ** 0.9 for i in range(1, 11)])
    warmup = [0.2 * (1 - i / 4) ** 0.9 for i in range(1, 5)]
    rest = [0.2 * 0.25 * (1 - i / 6) ** 0.9 for i in range(1, 7)]
    assert rates(restart_rate=0.25) == pytest.approx(warmup + rest)


def test_greys_become_those_of_the_other_volume() -> None:
    draw = np.random.default_rng(0)
    tissue = np.sort(draw.random((6, 50, 50)), axis=-1)
    other = draw.permuted(tissue.reshape(6, -1), axis=1).reshape(tissue.shape)
    source, target = Sections(tissue**2), Sections(np.sqrt(other))
    greys = match_histograms(source, target)
    changed = np.stack([greys(source.scaled(k)) for k in range(6)])
    wanted = np.stack([target.scaled(k) for k in range(6)])
    assert (
        np.abs(np.quantile(changed, [0.05, 0.5, 0.9]) - np.quantile(wanted, [0.05, 0.5, 0.9])).max()
        < 0.01
    )
    assert changed.dtype == np.float32
    assert (np.diff(changed, axis=-1) >= 0).all()  # what was darker stays so
    appearances = (Appearance(), Appearance(transfer=greys))
    sampling = Sampling(1, 32, (5, 1), 6)
    plain, moved = (PairDataset(source, None, sampling, look)[3]["images"] for look in appearances)
    assert (moved > plain).mean() > 0.9


@pytest.mark.parametrize("shape", [(32, 32), (32, 48)])
def test_flips_are_averaged(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = NetworkPredictor(Segmentor(width=2).eval(), CPU)
    flipped = FlippedPredictor(network)
    pair = torch.rand(2, 1, *shape)

    def predict(predictor, sections: torch.Tensor) -> torch.Tensor:
        return predictor.decode(*(predictor.encode(section) for section in sections))

    expected = []
    for turned in (False, True) if shape[0] == shape[1] else (False,):
        for axes in ((), (-1,), (-2,), (-2, -1)):
            seen = pair.transpose(-1, -2) if turned else pair
            found = predict(network, torch.flip(seen, axes)).flip(axes)
            expected.append(found.transpose(-1, -2) if turned else found)
    torch.testing.assert_close(predict(flipped, pair), torch.stack(expected).mean(0))


def test_heads_begin_as_detectors_at_their_prior() -> None:
    torch.manual_seed(0)
    network = Segmentor(16)
    plain = copy.deepcopy(network.residual_fine.state_dict())
    network.begin_at(0.06)
    with torch.no_grad():
        logits = network(torch.rand(1, 2, 96, 96))
    for maps in (logits.current, logits.auxiliary):
        assert float((maps[:, 1] - maps[:, 0]).median().sigmoid()) == pytest.approx(0.06, abs=0.03)
    weight = network.seg_current.head_logits.weight
    assert (weight[1] > weight[0]).all()  # whatever a feature says, it says mitochondria
    for name, value in network.residual_fine.state_dict().items():
        assert torch.equal(value, plain[name])
