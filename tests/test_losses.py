"""Losses and one iteration of adaptation, against plain implementations."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from loss.adversarial import discriminator_loss, fooling_loss
from loss.consistency import consistency_loss, pseudo_labels, rampup
from loss.supervised import supervised_losses
from model.discriminator import build_discriminator
from model.segmentor import Segmentor
from tests.golden.formula import blobs
from training.adaptation import AdaptationStep
from utils.config.schema import TrainSettings

SIZE = 32
ZERO = {"weight_cross": 0, "weight_adv_spatial": 0, "weight_adv_temporal": 0}
ADAPTATION = ("consistency_target", "adv_target_seg", "adv_target_residual")


def random_logits(seed: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, 2, 5, 7)
    return tuple(
        torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(3)
    )


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


def make_step(adapt: bool = True, nets: list | None = None, **settings) -> AdaptationStep:
    settings = {"total_iters": 20, "rampup_iters": 4, "learning_rate": 1e-2} | settings
    return AdaptationStep(*(nets or networks()), TrainSettings(**settings), adapt=adapt)


def batch(iteration: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Source pairs, their masks, target pairs."""
    images, masks = blobs(2 * iteration, SIZE)
    target, _ = blobs(1000 + 2 * iteration, SIZE)
    return tuple(torch.from_numpy(array)[None] for array in (images, masks, target))


def run(step: AdaptationStep, iterations: int) -> list[dict[str, float]]:
    reports = [step(it, *batch(it)) for it in range(1, iterations + 1)]
    return [{name: value.item() for name, value in report.items()} for report in reports]


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-9, atol=1e-12)


def test_fooling_trains_the_segmentor_alone() -> None:
    step = make_step(weight_cross=0, weight_adv_spatial=1, weight_adv_temporal=1)
    losses = step.target_losses(1, step.segmentor(batch(1)[2]))
    (losses["adv_target_seg"] + losses["adv_target_residual"]).backward()
    for discriminator in (step.disc_seg, step.disc_residual):
        assert all(p.grad is None for p in discriminator.parameters())
        assert all(p.requires_grad for p in discriminator.parameters())
    for name in ("seg_current", "seg_auxiliary", "residual_fine"):
        assert step.segmentor.get_submodule(name).head_logits.weight.grad.abs().max() > 0


def test_each_fooling_loss_reaches_its_own_decoder() -> None:
    for key, trained, spared in (
        ("adv_target_seg", "seg_current", "residual_fine"),
        ("adv_target_residual", "residual_fine", "seg_current"),
    ):
        step = make_step()
        step.target_losses(1, step.segmentor(batch(1)[2]))[key].backward()
        assert step.segmentor.get_submodule(trained).head_logits.weight.grad is not None
        assert step.segmentor.get_submodule(spared).head_logits.weight.grad is None


@pytest.mark.parametrize("left_out", ["adv_spatial", "adv_temporal"])
def test_a_discriminator_of_weight_0_is_left_out_and_changes_nothing(left_out: str) -> None:
    weights = {"weight_cross": 0, "weight_adv_spatial": 1, "weight_adv_temporal": 1}
    one, tiny = (make_step(**weights | {f"weight_{left_out}": w}) for w in (0, 1e-20))
    reports = run(one, 3), run(tiny, 3)
    for left, whole in zip(*reports, strict=True):
        assert left == pytest.approx({name: whole[name] for name in left}, rel=1e-9)
    assert_same_weights(one.segmentor, tiny.segmentor)
    gone = "seg" if left_out == "adv_spatial" else "residual"
    assert {name for name in reports[1][0] if name not in reports[0][0]} == {
        f"adv_target_{gone}",
        f"disc_{gone}",
        f"disc_accuracy_{gone}",
        f"grad_norm_disc_{gone}",
    }


def test_reported_losses_are_weighted() -> None:
    plain = run(make_step(weight_cross=1, weight_adv_spatial=1, weight_adv_temporal=1), 1)[0]
    weights = {"weight_cross": 0.1, "weight_adv_spatial": 0.2, "weight_adv_temporal": 0.3}
    weighted = run(make_step(**weights), 1)[0]
    for name, weight in zip(ADAPTATION, weights.values(), strict=True):
        assert weighted[name] == pytest.approx(weight * plain[name], rel=1e-12)
        assert plain[name] > 0


def test_consistency_follows_the_ramp_unless_it_is_off() -> None:
    ramped, flat = (make_step(consistency_weight_rampup=on) for on in (True, False))
    for iteration in (1, 2, 4, 9):
        assert flat.consistency_weight(iteration) == 0.1
        expected = 0.1 * math.exp(-5 * (1 - min(iteration, 4) / 4) ** 2)
        assert ramped.consistency_weight(iteration) == pytest.approx(expected, rel=1e-12)
    logits = flat.segmentor(batch(1)[2])
    full = flat.target_losses(2, logits)["consistency_target"].item()
    part = ramped.target_losses(2, logits)["consistency_target"].item()
    assert part == pytest.approx(full * math.exp(-1.25), rel=1e-12)


def test_without_adaptation_the_segmentor_learns_as_with_weights_of_zero() -> None:
    alone, zero = make_step(adapt=False, **ZERO), make_step(**ZERO)
    before = copy.deepcopy(alone.segmentor)
    reports = run(alone, 4), run(zero, 4)
    assert_same_weights(alone.segmentor, zero.segmentor)
    assert not torch.equal(
        before.section_full.conv1.weight, alone.segmentor.section_full.conv1.weight
    )
    for one, other in zip(*reports, strict=True):
        assert one == pytest.approx({name: other[name] for name in one}, rel=1e-9)
    assert_same_weights(alone.disc_seg, networks()[1])  # untouched
    assert "disc_seg" not in reports[0][0]


def test_adaptation_changes_what_is_learned() -> None:
    supervised, adapted = make_step(**ZERO), make_step(weight_cross=1)
    for step in (supervised, adapted):
        run(step, 2)
    one, other = (step.segmentor.section_full.conv1.weight for step in (supervised, adapted))
    assert (one - other).abs().max() > 1e-6


def test_source_consistency_adds_its_term() -> None:
    plain, source = make_step(**ZERO), make_step(cross_loss_source=True)
    logits = source.segmentor(batch(1)[0])
    masks = batch(1)[1]
    assert "consistency_source" not in plain.source_losses(2, logits, masks)
    found = source.source_losses(2, logits, masks)["consistency_source"].item()
    expected = 0.1 * math.exp(-1.25) * consistency_loss(*logits).item()
    assert found == pytest.approx(expected, rel=1e-12)
    report = run(source, 1)[0]
    assert report["consistency_source"] > 0


def test_target_consistency_can_be_left_out() -> None:
    assert "consistency_target" not in run(make_step(cross_loss_target=False), 1)[0]


def distance(before: nn.Module, after: nn.Module) -> float:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return math.sqrt(sum((a - b).square().sum().item() for a, b in pairs))


def test_gradients_are_clipped_for_each_network_by_itself() -> None:
    rates = dict.fromkeys(("learning_rate", "learning_rate_ms", "learning_rate_mt"), 1)
    for weight in (1, 1e4):
        step = make_step(weight_adv_spatial=weight, weight_adv_temporal=weight, **rates)
        before = copy.deepcopy(step.networks)
        # Plain descent: the weights move by the rate times the clipped gradient.
        step.optimizers = {
            name: torch.optim.SGD(network.parameters(), fused=True)
            for name, network in step.networks.items()
        }
        report = run(step, 1)[0]
        for name, network in step.networks.items():
            norm, rate = report[f"grad_norm_{name}"], step.learning_rates[name]
            assert distance(before[name], network) == pytest.approx(rate * min(norm, 1), rel=1e-5)
        # The segmentor's large gradient does not shrink the discriminators'.
        assert report["grad_norm_segmentor"] > 1 > report["grad_norm_disc_seg"]


def test_learning_rates_fall_from_their_own_base() -> None:
    rates = {"learning_rate": 1e-3, "learning_rate_ms": 2e-3, "learning_rate_mt": 3e-3}
    step = make_step(**rates, total_iters=10)
    for iteration in (1, 5, 9):
        step.set_learning_rates(iteration)
        decay = (1 - iteration / 10) ** 0.9
        expected = {"segmentor": 1e-3, "disc_seg": 2e-3, "disc_residual": 3e-3}
        assert step.learning_rates == pytest.approx({k: v * decay for k, v in expected.items()})
    step.set_learning_rates(10)
    assert set(step.learning_rates.values()) == {0}


def test_state_goes_on_as_if_never_stopped() -> None:
    whole, first = make_step(), make_step()
    run(whole, 2)
    run(first, 2)
    second = make_step(
        nets=[Segmentor(2).double(), *(build_discriminator(2).double() for _ in "ab")]
    )
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in (whole, second):
        for iteration in (3, 4):
            step(iteration, *batch(iteration))
    for name, network in whole.networks.items():
        assert_same_weights(network, second.networks[name])


def test_batches_are_means_over_their_pairs() -> None:
    step = make_step()
    (source, masks, _), (more, more_masks, _) = batch(1), batch(2)
    logits = step.segmentor(torch.cat([source, more]))
    both = step.source_losses(1, logits, torch.cat([masks, more_masks]))
    parts = [
        step.source_losses(1, step.segmentor(s), m)
        for s, m in ((source, masks), (more, more_masks))
    ]
    for name, value in both.items():
        mean = (parts[0][name] + parts[1][name]).item() / 2
        assert value.item() == pytest.approx(mean, rel=1e-9)


def test_built_networks_depend_on_the_seed_and_follow_the_weights() -> None:
    def build(seed: int, **settings) -> AdaptationStep:
        torch.manual_seed(seed)
        return AdaptationStep.build(
            TrainSettings(**settings, precision="float32"), 2, torch.device("cpu")
        )

    assert_same_weights(build(1).segmentor, build(1, **ZERO).segmentor)
    with pytest.raises(AssertionError):
        assert_same_weights(build(1).segmentor, build(2).segmentor)
    assert build(1).adapt
    assert not build(1, **ZERO).adapt
