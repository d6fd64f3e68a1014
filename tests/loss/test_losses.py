"""Losses and one iteration of adaptation, against plain implementations."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from loss.adversarial import discriminator_loss, fooling_loss, probabilities
from loss.consistency import consistency_loss, pseudo_labels, rampup
from loss.supervised import supervised_losses
from model.discriminator import build_discriminator
from model.segmentor import Segmentor
from tests.golden.formula import blobs
from tests.helpers import random_logits
from tests.settings import config_of
from training.setup import Learning, build_learning, join

SIZE = 32
ALIGNMENT_OFF = {"weight_adv_spatial": 0, "weight_adv_temporal": 0}
ADAPTATION = ("consistency_target", "adv_target_seg", "adv_target_residual")


def plain_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over all pixels of -log softmax at the label."""
    terms = []
    for b, y, x in np.ndindex(labels.shape):
        values = logits[b, :, y, x]
        terms.append(math.log(sum(math.exp(v) for v in values)) - values[int(labels[b, y, x])])
    return sum(terms) / len(terms)


def plain_adversarial(logits: np.ndarray, target: int) -> float:
    """Mean binary cross entropy of logits against one value."""
    probabilities = 1 / (1 + np.exp(-logits.ravel()))
    return float(-np.mean(np.log(probabilities if target else 1 - probabilities)))


def plain_pseudo_labels(logits) -> tuple[np.ndarray, np.ndarray]:
    current, auxiliary, residual = (maps.detach().numpy() for maps in logits)
    masks = [maps[:, 1] > maps[:, 0] for maps in (current, auxiliary, residual)]
    return masks[1] != masks[2], masks[0] != masks[2]


@pytest.mark.parametrize("seed", range(3))
def test_consistency_loss(seed: int) -> None:
    logits = random_logits(seed)
    expected = plain_pseudo_labels(logits)
    for found, plain in zip(pseudo_labels(*logits), expected, strict=True):
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(found.numpy(), plain)
    loss = consistency_loss(*logits)
    plain = sum(
        plain_cross_entropy(maps.detach().numpy(), labels)
        for maps, labels in zip(logits[:2], expected, strict=True)
    )
    assert loss.item() == pytest.approx(plain, rel=1e-12)


def test_nothing_is_learned_from_the_residual() -> None:
    current, auxiliary, residual = random_logits(0)
    consistency_loss(current, auxiliary, residual).backward()
    assert residual.grad is None
    # (softmax - one-hot) / pixels: each map learns from its own loss alone
    pixels = current.numel() / 2
    for maps, labels in zip(
        (current, auxiliary), pseudo_labels(current, auxiliary, residual), strict=True
    ):
        one_hot = torch.stack([1 - labels, labels], dim=1)
        torch.testing.assert_close(maps.grad, (maps.detach().softmax(1) - one_hot) / pixels)


def test_supervised_losses() -> None:
    logits = random_logits(1)
    masks = np.random.default_rng(1).integers(0, 2, (2, 2, 5, 7))
    found = supervised_losses(*logits, torch.from_numpy(masks))
    labels = (masks[:, 0], masks[:, 1], masks[:, 0] != masks[:, 1])
    for loss, maps, label in zip(found.values(), logits, labels, strict=True):
        plain = plain_cross_entropy(maps.detach().numpy(), label)
        assert loss.item() == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [(0, math.exp(-5)), (25, math.exp(-1.25)), (50, 1), (51, 1), (10**6, 1)],
)
def test_rampup(iteration: int, expected: float) -> None:
    assert rampup(iteration, 50) == pytest.approx(expected, rel=1e-12)
    assert rampup(2 * iteration, 100) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("maps", [1, 2])  # residual, both masks
def test_adversarial_losses_weigh_every_map_alike(maps: int) -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(2).double()
    source, target = (
        [torch.rand(2, 2, 64, 64, dtype=torch.float64) for _ in range(maps)] for _ in range(2)
    )
    on_source, on_target = (
        [discriminator(m).detach().numpy() for m in domain] for domain in (source, target)
    )
    found = fooling_loss(discriminator, target).item()
    plain = [plain_adversarial(logits, 0) for logits in on_target]
    assert found == pytest.approx(sum(plain) / maps, rel=1e-12)

    loss, accuracy = discriminator_loss(discriminator, source, target)
    plain = [plain_adversarial(logits, 0) / (2 * maps) for logits in on_source]
    plain += [plain_adversarial(logits, 1) / (2 * maps) for logits in on_target]
    assert loss.item() == pytest.approx(sum(plain), rel=1e-12)
    right = [(logits < 0).mean() for logits in on_source]
    right += [(logits >= 0).mean() for logits in on_target]
    assert accuracy.item() == pytest.approx(np.mean(right))


def test_discriminator_loss_leaves_the_maps_alone() -> None:
    discriminator = build_discriminator(2)
    maps = [torch.rand(1, 2, 32, 32, requires_grad=True) for _ in range(4)]
    discriminator_loss(discriminator, maps[:2], maps[2:])[0].backward()
    assert all(m.grad is None for m in maps)
    assert all(p.grad is not None for p in discriminator.parameters())


def networks() -> list[nn.Module]:
    torch.manual_seed(3)
    nets = Segmentor(2), build_discriminator(2), build_discriminator(2)
    return [net.double() for net in nets]


def learning(nets: list | None = None, **settings) -> Learning:
    settings = {"total_iters": 20, "rampup_iters": 4, "learning_rate": 1e-2} | settings
    return join(nets or networks(), config_of(**settings))


def batch(iteration: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Source pairs, their masks, target pairs."""
    images, masks = blobs(2 * iteration, SIZE)
    target, _ = blobs(1000 + 2 * iteration, SIZE)
    return tuple(torch.from_numpy(array)[None] for array in (images, masks, target))


def run(made: Learning, iterations: int) -> list[dict[str, float]]:
    """Reports of iterations that adapt."""
    reports = [made.steps.adapt(it, *batch(it)) for it in range(1, iterations + 1)]
    return [{name: value.item() for name, value in report.items()} for report in reports]


def segmentor(made: Learning) -> nn.Module:
    return made.learner.networks["segmentor"]


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-9, atol=1e-12)


def assert_other_weights(one: nn.Module, other: nn.Module) -> None:
    assert distance(one, other) > 1e-6


def test_fooling_trains_the_segmentor_alone() -> None:
    made = learning()
    logits = made.networks.segmentor(batch(1)[2])
    for name, discriminate, maps, _ in made.steps.adapt.alignments:
        with made.learner.frozen(f"disc_{name}"):
            fooling_loss(discriminate, probabilities(logits[maps])).backward(retain_graph=True)
        discriminator = made.learner.networks[f"disc_{name}"]
        assert all(p.grad is None for p in discriminator.parameters())
        assert all(p.requires_grad for p in discriminator.parameters())
    for name in ("seg_current", "seg_auxiliary", "residual_fine"):
        assert segmentor(made).get_submodule(name).head_logits.weight.grad.abs().max() > 0


def test_each_alignment_reaches_its_own_decoder() -> None:
    for index, trained, spared in (
        (0, "seg_current", "residual_fine"),
        (1, "residual_fine", "seg_current"),
    ):
        made = learning()
        _, discriminate, maps, _ = made.steps.adapt.alignments[index]
        logits = made.networks.segmentor(batch(1)[2])
        fooling_loss(discriminate, probabilities(logits[maps])).backward()
        assert segmentor(made).get_submodule(trained).head_logits.weight.grad is not None
        assert segmentor(made).get_submodule(spared).head_logits.weight.grad is None


@pytest.mark.parametrize("left_out", ["adv_spatial", "adv_temporal"])
def test_a_discriminator_of_weight_0_is_left_out_and_changes_nothing(left_out: str) -> None:
    weights = {"weight_cross": 0, "weight_adv_spatial": 1, "weight_adv_temporal": 1}
    one, tiny = (learning(**weights | {f"weight_{left_out}": w}) for w in (0, 1e-20))
    reports = run(one, 3), run(tiny, 3)
    for left, whole in zip(*reports, strict=True):
        assert left == pytest.approx({name: whole[name] for name in left}, rel=1e-9)
    assert_same_weights(segmentor(one), segmentor(tiny))
    gone = "seg" if left_out == "adv_spatial" else "residual"
    assert {name for name in reports[1][0] if name not in reports[0][0]} == {
        f"adv_target_{gone}",
        f"disc_{gone}",
        f"disc_accuracy_{gone}",
        f"grad_norm_disc_{gone}",
    }


def test_reported_losses_are_weighted() -> None:
    plain = run(learning(weight_cross=1, weight_adv_spatial=1, weight_adv_temporal=1), 1)[0]
    weights = {"weight_cross": 0.1, "weight_adv_spatial": 0.2, "weight_adv_temporal": 0.3}
    weighted = run(learning(**weights), 1)[0]
    for name, weight in zip(ADAPTATION, weights.values(), strict=True):
        assert weighted[name] == pytest.approx(weight * plain[name], rel=1e-12)
        assert plain[name] > 0


def test_consistency_follows_the_ramp_unless_it_is_off() -> None:
    ramped, flat = (learning(consistency_weight_rampup=on) for on in (True, False))
    for iteration in (1, 2, 4, 9):
        assert flat.steps.adapt.consistency_weight(iteration) == 0.1
        expected = 0.1 * math.exp(-5 * (1 - min(iteration, 4) / 4) ** 2)
        found = ramped.steps.adapt.consistency_weight(iteration)
        assert found == pytest.approx(expected, rel=1e-12)
    full, part = (
        made.steps.adapt(2, *batch(1))["consistency_target"].item() for made in (flat, ramped)
    )
    assert part == pytest.approx(full * math.exp(-1.25), rel=1e-12)


def test_plain_supervision_learns_as_adaptation_with_weights_of_zero() -> None:
    alone, tiny = learning(), learning(weight_cross=1e-30, **ALIGNMENT_OFF)
    before = copy.deepcopy(segmentor(alone))
    reports = [alone.steps.source(it, *batch(it)[:2]) for it in range(1, 5)]
    assert_other_weights(before, segmentor(alone))
    for one, other in zip(reports, run(tiny, 4), strict=True):
        del other["consistency_target"]
        assert {name: value.item() for name, value in one.items()} == pytest.approx(other, rel=1e-9)
    assert_same_weights(segmentor(alone), segmentor(tiny))
    assert_same_weights(alone.learner.networks["disc_seg"], networks()[1])  # untouched


def test_adaptation_changes_what_is_learned() -> None:
    supervised, adapted = learning(), learning(weight_cross=1)
    for iteration in (1, 2):
        supervised.steps.source(iteration, *batch(iteration)[:2])
    run(adapted, 2)
    assert_other_weights(segmentor(supervised), segmentor(adapted))


def test_source_consistency_adds_its_term() -> None:
    made = learning(cross_loss_source=True)
    images, masks, target = batch(1)
    logits = segmentor(made)(images)
    expected = 0.1 * math.exp(-1.25) * consistency_loss(*logits).item()
    report = made.steps.adapt(2, images, masks, target)
    assert report["consistency_source"].item() == pytest.approx(expected, rel=1e-12)
    assert "consistency_source" not in run(learning(), 1)[0]


def test_target_consistency_can_be_left_out() -> None:
    assert "consistency_target" not in run(learning(cross_loss_target=False), 1)[0]


def distance(before: nn.Module, after: nn.Module) -> float:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return math.sqrt(sum((a - b).square().sum().item() for a, b in pairs))


def test_gradients_are_clipped_for_each_network_by_itself() -> None:
    rates = dict.fromkeys(("learning_rate", "learning_rate_ms", "learning_rate_mt"), 1)
    for weight in (1, 1e4):
        made = learning(weight_adv_spatial=weight, weight_adv_temporal=weight, **rates)
        learner = made.learner
        before = copy.deepcopy(learner.networks)
        # Plain descent: the weights move by the rate times the clipped gradient.
        learner.optimizers = {
            name: torch.optim.SGD(network.parameters(), fused=True)
            for name, network in learner.networks.items()
        }
        report = run(made, 1)[0]
        for name, network in learner.networks.items():
            norm, rate = report[f"grad_norm_{name}"], learner.learning_rates[name]
            assert distance(before[name], network) == pytest.approx(rate * min(norm, 1), rel=1e-5)
        # The segmentor's large gradient does not shrink the discriminators'.
        assert report["grad_norm_segmentor"] > 1 > report["grad_norm_disc_seg"]


@pytest.mark.parametrize("skips_first", [False, True])
def test_sgd_of_the_segmentor_is_as_published(skips_first: bool) -> None:
    made = learning(opt_type="sgd")
    if skips_first:
        source, masks, target = batch(1)
        assert made.steps.adapt(1, source * float("nan"), masks, target)["skipped"] == 1
    velocity = [torch.zeros_like(p) for p in segmentor(made).parameters()]
    for iteration in (2, 3, 4):
        before = copy.deepcopy(list(segmentor(made).parameters()))
        made.steps.adapt(iteration, *batch(iteration))
        rate = 1e-2 * (1 - iteration / 20) ** 0.9
        parameters = list(segmentor(made).parameters())
        for n, (old, new) in enumerate(zip(before, parameters, strict=True)):
            velocity[n] = 0.9 * velocity[n] + new.grad + 0.0005 * old  # the gradient is clipped
            torch.testing.assert_close(new, old - rate * velocity[n], rtol=1e-12, atol=1e-14)
    assert isinstance(made.learner.optimizers["disc_seg"], torch.optim.Adam)


def test_learning_rates_fall_from_their_own_base() -> None:
    rates = {"learning_rate": 1e-3, "learning_rate_ms": 2e-3, "learning_rate_mt": 3e-3}
    learner = learning(**rates, total_iters=10).learner
    for iteration in (1, 5, 9):
        learner.start(iteration)
        decay = (1 - iteration / 10) ** 0.9
        expected = {"segmentor": 1e-3, "disc_seg": 2e-3, "disc_residual": 3e-3}
        assert learner.learning_rates == pytest.approx({k: v * decay for k, v in expected.items()})
    learner.start(10)
    assert set(learner.learning_rates.values()) == {0}


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_resumed_learner_is_the_same(optimiser: str) -> None:
    whole, first = learning(opt_type=optimiser), learning(opt_type=optimiser)
    run(whole, 2)
    run(first, 2)
    nets = [Segmentor(2).double(), *(build_discriminator(2).double() for _ in "ab")]
    second = learning(nets, opt_type=optimiser)
    second.learner.load_state_dict(copy.deepcopy(first.learner.state_dict()))
    for made in (whole, second):
        for iteration in (3, 4):
            made.steps.adapt(iteration, *batch(iteration))
    for name, network in whole.learner.networks.items():
        assert_same_weights(network, second.learner.networks[name])


def test_batches_are_means_over_their_pairs() -> None:
    network = segmentor(learning())
    (one, masks, _), (other, other_masks, _) = batch(1), batch(2)
    both = supervised_losses(*network(torch.cat([one, other])), torch.cat([masks, other_masks]))
    parts = [supervised_losses(*network(i), m) for i, m in ((one, masks), (other, other_masks))]
    for name, value in both.items():
        mean = (parts[0][name] + parts[1][name]).item() / 2
        assert value.item() == pytest.approx(mean, rel=1e-9)


def test_networks_depend_on_the_seed_and_not_on_the_weights_of_losses() -> None:
    def build(seed: int, **settings) -> Learning:
        torch.manual_seed(seed)
        return build_learning(config_of(**settings), torch.device("cpu"))

    assert_same_weights(segmentor(build(1)), segmentor(build(1, weight_cross=0, **ALIGNMENT_OFF)))
    assert_other_weights(segmentor(build(1)), segmentor(build(2)))
    assert build(1).steps.adapt
    assert build(1, weight_cross=0, **ALIGNMENT_OFF).steps.adapt is None
