"""What goes beyond the paper: self-training with a teacher, other views, flips."""

import copy
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from dataloader.histogram_matching import grey_transfer
from dataloader.pairs import PairDataset, Views
from dataloader.spectrum import amplitudes, spectrum_transfer
from dataloader.views import draw_blocks, hide, other_microscope, strong_view
from loss.consistency import consistency_loss, pseudo_labels
from loss.foreground_guard import ForegroundGuard
from loss.pasting import labels_of_pasted, paste
from loss.prototypes import prototype_loss
from loss.self_training import (
    PseudoLabels,
    residual_labels,
    self_training_loss,
    soft_pseudo_labels,
    surest,
    xor_probability,
)
from model.segmentor import Segmentor
from prediction.predictor import FlippedPredictor, NetworkPredictor
from tests.test_properties import Sections
from training.adaptation import AdaptationStep
from training.averaging import WeightAverage, choose_decay
from utils.config.schema import BeyondSettings, TrainSettings
from utils.runtime.distributed import Group

CPU = torch.device("cpu")


def logits(seed: int, scale: float = 1.0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(2, 2, 8, 9, generator=draw) for _ in range(3)]


def test_soft_labels_pixel_by_pixel() -> None:
    current, auxiliary, residual = logits(0)
    found = soft_pseudo_labels(current, auxiliary, residual)
    p = [1 / (1 + np.exp((m[:, 0] - m[:, 1]).double().numpy())) for m in (current, auxiliary)]
    r = 1 / (1 + np.exp((residual[:, 0] - residual[:, 1]).double().numpy()))
    for own, other, (labels, weights) in zip(p, p[::-1], found, strict=True):
        for place in np.ndindex(own.shape):
            q = other[place] * (1 - r[place]) + r[place] * (1 - other[place])
            assert labels[place] == int((own[place] + q) / 2 >= 0.5)
            assert weights[place] == pytest.approx(1 - abs(own[place] - q), abs=1e-6)


def test_sure_maps_give_the_published_pseudo_labels() -> None:
    sure = logits(1, scale=1e4)
    hard = pseudo_labels(*sure)
    masks = [m.argmax(1) for m in sure[:2]]
    for (labels, weights), expected, own in zip(
        soft_pseudo_labels(*sure), hard, masks, strict=True
    ):
        agree = own == expected
        assert torch.equal(labels[agree], expected[agree])
        torch.testing.assert_close(
            weights, agree.float(), rtol=0, atol=1e-3
        )  # what disagrees does not count
    assert xor_probability(torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])).tolist() == [
        0, 1, 1, 0,
    ]  # fmt: skip


def test_loss_is_a_weighted_cross_entropy() -> None:
    current, auxiliary, _ = logits(2)
    ones = torch.ones(2, 8, 9)
    labels = torch.randint(0, 2, (2, 2, 8, 9), generator=torch.Generator().manual_seed(0))
    hard = [PseudoLabels(label, ones) for label in labels]
    expected = sum(
        torch.nn.functional.cross_entropy(m, label)
        for m, label in zip((current, auxiliary), labels, strict=True)
    )
    assert self_training_loss(current, auxiliary, hard) == pytest.approx(float(expected))
    half = [PseudoLabels(label, ones / 2) for label in labels]
    assert self_training_loss(current, auxiliary, half) == pytest.approx(float(expected) / 2)


def test_the_surest_of_each_class() -> None:
    certainty = torch.arange(20.0).reshape(1, 4, 5)
    masks = torch.zeros(1, 4, 5, dtype=torch.bool)
    masks[0, 0] = True
    kept = surest(certainty, masks, 0.8)
    assert kept[0, 0].tolist() == [0, 1, 1, 1, 1]
    assert kept[0, 1:].flatten().tolist() == [0] * 3 + [1] * 12
    assert surest(certainty, masks & False, 1.0).all()


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


def step_of(**beyond) -> AdaptationStep:
    torch.manual_seed(0)
    settings = TrainSettings(
        total_iters=10,
        weight_adv_spatial=0,
        weight_adv_temporal=0,
        consistency_weight_rampup=False,
        precision="float32",
    )
    return AdaptationStep.build(settings, 2, CPU, BeyondSettings(**beyond))


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    source, target, view = (torch.rand(1, 2, 32, 32, generator=draw) for _ in range(3))
    masks = torch.randint(0, 2, (1, 2, 32, 32), generator=draw)
    return {"source": source, "masks": masks, "target": target, "views": view[:, None]}


def test_the_teacher_labels_the_plain_section_and_the_student_sees_the_view() -> None:
    step, data = step_of(teacher=True, strong_view=True), batch()
    with torch.no_grad():
        for value in step.average.network.parameters():
            value.mul_(1.1)
        teacher, student = copy.deepcopy(step.average.network), copy.deepcopy(step.segmentor)
        labels = soft_pseudo_labels(*teacher(data["target"]))
        seen = student(data["views"][:, 0])
    expected = 0.1 * self_training_loss(seen.current, seen.auxiliary, labels)
    report = step(1, **data)
    assert report["consistency_target"] == pytest.approx(float(expected), rel=1e-4)
    assert "disc_seg" not in report  # no discriminators where nothing is to fool them
    moved = [  # half way to the student after the first iteration
        (a - 0.5 * (t + s)).abs().max() < 1e-5
        for a, t, s in zip(
            step.average.network.parameters(),
            teacher.parameters(),
            step.segmentor.parameters(),
            strict=True,
        )
    ]
    assert all(moved)


@pytest.mark.parametrize(
    "beyond",
    [
        {"teacher": True, "strong_view": True},
        {"soft_xor": True},
        {"rounds": 1, "begin": 0.1, "prototypes": 0.1},
    ],
    ids=lambda beyond: next(iter(beyond)),
)
def test_compiled_networks_learn_the_same(beyond: dict) -> None:
    reports = []
    for compile in (lambda network: network, partial(torch.compile, backend="eager")):
        step, data = step_of(**beyond), batch()
        step.run_segmentor = compile(step.run_segmentor)
        step.run_teacher = compile(step.run_teacher)
        if "rounds" in beyond:
            data |= {"target_masks": data["masks"]}
            del data["views"]
        reports.append({name: float(value) for name, value in step(2, **data).items()})
    assert reports[0]["consistency_target"] > 0
    assert reports[0] == pytest.approx(reports[1], rel=1e-4)


def test_off_is_the_published_loss() -> None:
    step, data = step_of(), batch()
    with torch.no_grad():
        expected = 0.1 * consistency_loss(*step.segmentor(data["target"]))
    del data["views"]
    assert step(1, **data)["consistency_target"] == pytest.approx(float(expected), rel=1e-4)


def test_views_differ_between_sections_and_repeat_with_their_draw() -> None:
    section = np.random.default_rng(0).random((64, 64), np.float32)
    for seed in range(20):
        one = strong_view(section, np.random.default_rng(seed))
        again = strong_view(section, np.random.default_rng(seed))
        np.testing.assert_array_equal(one, again)
        assert one.dtype == np.float32
        assert 0 <= one.min() <= one.max() <= 1
    hidden = hide(section, draw_blocks(section.shape, 0.7, np.random.default_rng(1)))
    share = (hidden == section.mean().astype(np.float32)).mean()
    assert 0.6 < share < 0.8
    assert np.isin(hidden[hidden != np.float32(section.mean())], section).all()
    assert not draw_blocks(section.shape, 0.0, np.random.default_rng(1)).any()


def test_other_microscopes_show_the_same_tissue() -> None:
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, 20:40, 24:44], masks[1, 20:40, 30:44] = 1, 1
    images = 0.3 + 0.4 * masks.astype(np.float32)
    areas = []
    for seed in range(40):
        seen, moved = other_microscope(images, masks, np.random.default_rng(seed))
        assert seen.shape == images.shape
        assert set(np.unique(moved)) <= {0, 1}
        inside, outside = seen[moved == 1].mean(), seen[moved == 0].mean()
        assert inside > outside  # brighter, as it was
        areas.append(moved[0].sum() / masks[0].sum())
    assert min(areas) < 0.7
    assert max(areas) > 1.4


def test_samples_have_views_of_their_own() -> None:
    array = np.random.default_rng(0).random((4, 40, 40), np.float32)
    plain = PairDataset(Sections(array), None, 1, 32, (5, 1), 6)
    viewed = PairDataset(Sections(array), None, 1, 32, (5, 1), 6, Views(True, 0.3))
    for number in range(6):
        one, other = plain[number], viewed[number]
        np.testing.assert_array_equal(one["images"], other["images"])
        assert "views" not in one
        assert other["views"].shape == (1, 2, 32, 32)
        assert not np.array_equal(other["views"][0], other["images"])
        np.testing.assert_array_equal(viewed[number]["views"], other["views"])


def test_the_source_alone_is_learned_before_the_begin() -> None:
    torch.manual_seed(0)
    settings = TrainSettings(total_iters=10, rampup_iters=4, precision="float32")
    step = AdaptationStep.build(settings, 2, CPU, BeyondSettings(begin=0.3))
    data, before = batch(), copy.deepcopy(step.disc_seg.state_dict())
    del data["views"]
    for iteration in range(1, 4):
        assert "consistency_target" not in step(iteration, **data)
    torch.testing.assert_close(step.disc_seg.state_dict(), before, rtol=0, atol=0)
    assert step(4, **data).keys() >= {"consistency_target", "disc_seg", "grad_norm_disc_seg"}
    weights = [step.consistency_weight(iteration) for iteration in (3, 5, 7)]
    assert weights == pytest.approx([0.1 * np.exp(-5 * (1 - t) ** 2) for t in (0, 0.5, 1)])


@pytest.mark.parametrize("kind", ["shared", "independent"])
def test_complementary_views_show_what_the_other_hides(kind: str) -> None:
    array = np.random.default_rng(0).random((4, 40, 40), np.float32)
    dataset = PairDataset(Sections(array), None, 1, 32, (5, 1), 6, Views(complementary=kind))
    same = []
    for number in range(6):
        sample = dataset[number]
        shown = sample["views"] == sample["images"]
        assert shown.shape == (2, 2, 32, 32)
        assert (shown[0] ^ shown[1]).all()
        assert 0.3 < shown[0].mean() < 0.7
        same.append((shown[:, 0] == shown[:, 1]).all())
    assert all(same) if kind == "shared" else not any(same)


def test_twins_learn_of_both_views_and_to_agree() -> None:
    step, data = step_of(soft_xor=True, complementary="shared"), batch()
    other = torch.rand(1, 1, 2, 32, 32, generator=torch.Generator().manual_seed(9))
    data["views"] = torch.cat([data["views"], other], dim=1)
    with torch.no_grad():
        labels = soft_pseudo_labels(*step.segmentor(data["target"]))
        one, two = (step.segmentor(view) for view in data["views"].unbind(1))
        learned = [self_training_loss(m.current, m.auxiliary, labels) for m in (one, two)]
        apart = [
            (a.softmax(1) - b.softmax(1))[:, 1].square().mean()
            for a, b in ((one.current, two.current), (one.auxiliary, two.auxiliary))
        ]
    expected = 0.1 * (sum(learned) / 2 + sum(apart))
    assert step(1, **data)["consistency_target"] == pytest.approx(float(expected), rel=1e-4)


def test_pasted_mitochondria_come_with_their_rim_and_their_labels() -> None:
    masks = torch.zeros(1, 2, 20, 20, dtype=torch.int64)
    masks[0, 0, 8:12, 8:12], masks[0, 1, 8:12, 10:14] = 1, 1
    source, target = torch.ones(1, 2, 20, 20), torch.zeros(2, 2, 20, 20)
    seen, here = paste(source, masks, target)
    assert here.sum((-1, -2)).tolist() == [[100, 100]] * 2  # 4 + 2 x 3 a side
    torch.testing.assert_close(seen, here.float())
    ones = torch.ones(1, 20, 20)
    labels = (PseudoLabels(ones.long(), ones / 2), PseudoLabels(ones.long(), ones / 2))
    labels = labels_of_pasted(labels, masks, here[:1])
    for k, found in enumerate(labels):
        torch.testing.assert_close(found.labels[here[:1, k]], masks[:, k][here[:1, k]])
        assert (found.labels[~here[:1, k]] == 1).all()
        torch.testing.assert_close(found.weights, 0.5 + 0.5 * here[:1, k])
    apart = residual_labels(labels)
    assert torch.equal(apart.labels, labels[0].labels ^ labels[1].labels)
    assert apart.weights[0, 0, 0] == 0.5
    assert apart.weights[0, 10, 10] == 1


def test_a_step_pastes_and_teaches_the_residual() -> None:
    step, data = step_of(teacher=True, paste=True, residual_labels=True), batch()
    del data["views"]
    masks = torch.zeros_like(data["masks"])
    masks[..., 10:16, 10:16] = 1
    masks[:, 1, 16:18, 10:16] = 1
    data["masks"] = masks
    with torch.no_grad():
        labels = soft_pseudo_labels(*step.segmentor(data["target"]))
        seen, here = paste(data["source"], masks, data["target"])
        labels = labels_of_pasted(labels, masks, here)
        found = step.segmentor(seen)
        expected = self_training_loss(found.current, found.auxiliary, labels)
        weights, truth = residual_labels(labels).weights, labels[0].labels ^ labels[1].labels
        plain = torch.nn.functional.cross_entropy(found.residual, truth, reduction="none")
        expected = 0.1 * (expected + (weights * plain).mean())
    assert step(1, **data)["consistency_target"] == pytest.approx(float(expected), rel=1e-4)


def test_the_guard_stops_self_training_while_too_little_or_too_much_is_found() -> None:
    guard = ForegroundGuard(3.0, CPU, Group())
    masks = torch.zeros(1, 2, 10, 10, dtype=torch.int64)
    masks[..., :1, :] = 1  # a tenth
    nothing, everything = torch.zeros_like(masks), torch.ones_like(masks)
    assert guard(masks, masks) == 1
    trusted = [float(guard(masks, nothing)) for _ in range(120)]
    assert trusted[0] == 1
    lost = trusted.index(0)
    assert 0.1 * 0.98**lost == pytest.approx(0.1 / 3, rel=0.05)  # the running mean
    assert not any(trusted[lost:])
    assert any(guard(masks, masks) for _ in range(60))  # it recovers
    assert any(guard(masks, everything) == 0 for _ in range(60))
    assert ForegroundGuard(0.0, CPU, Group())(masks, nothing) == 1


def test_the_guard_goes_on_where_the_state_was_saved() -> None:
    step, data = step_of(soft_xor=True, guard=2.0), batch()
    del data["views"]
    step(1, **data)
    again = step_of(soft_xor=True, guard=2.0)
    again.load_state_dict(copy.deepcopy(step.state_dict()))
    assert again.guard.means.all()
    torch.testing.assert_close(again.guard.means, step.guard.means)


def test_greys_become_those_of_the_other_volume() -> None:
    draw = np.random.default_rng(0)
    tissue = np.sort(draw.random((6, 50, 50)), axis=-1)
    other = draw.permuted(tissue.reshape(6, -1), axis=1).reshape(tissue.shape)
    source, target = Sections(tissue**2), Sections(np.sqrt(other))
    greys = grey_transfer(source, target)
    changed = np.stack([greys(source.scaled(k)) for k in range(6)])
    wanted = np.stack([target.scaled(k) for k in range(6)])
    assert (
        np.abs(np.quantile(changed, [0.05, 0.5, 0.9]) - np.quantile(wanted, [0.05, 0.5, 0.9])).max()
        < 0.01
    )
    assert changed.dtype == np.float32
    assert (np.diff(changed, axis=-1) >= 0).all()  # what was darker stays so
    views = Views(transfers=(greys,))
    plain, moved = (
        PairDataset(source, None, 1, 32, (5, 1), 6, views)[3]["images"] for views in (None, views)
    )
    assert (moved > plain).mean() > 0.9


def test_the_source_becomes_as_sharp_as_the_target() -> None:
    draw = np.random.default_rng(0)
    rough = draw.random((4, 192, 192), np.float32)
    sharp = [cv2.GaussianBlur(section, (0, 0), 0.8) for section in rough[:2]]
    blurred = [cv2.GaussianBlur(section, (0, 0), 1.6) for section in rough[2:]]
    source, target = Sections(np.stack(sharp)), Sections(np.stack(blurred))
    transfer = spectrum_transfer(source, target)
    changed = np.stack([transfer(source.scaled(k)) for k in range(2)])
    before, after, wanted = (
        amplitudes(volume)[1:12] for volume in (source, Sections(changed), target)
    )
    wanted = wanted / wanted[0]  # brightness aside, as sections are scaled to [0, 1]
    apart = [np.abs(found / found[0] - wanted).mean() for found in (before, after)]
    assert apart[1] < 0.5 * apart[0]
    greys = grey_transfer(source, target, transfer)
    both = Views(transfers=(transfer, greys))
    pair = PairDataset(source, None, 1, 192, (5, 1), 3, both)[0]["images"]
    assert np.quantile(pair, 0.5) == pytest.approx(np.quantile(target.scaled(0), 0.5), abs=0.03)


def test_strides_are_drawn_from_half_to_twice_either_way() -> None:
    array = np.random.default_rng(0).random((30, 40, 40), np.float32)
    dataset = PairDataset(Sections(array), None, 10, 32, (5, 1), 200, Views(strides=True))
    pairs = [dataset._draw(number).pair for number in range(200)]
    ahead = set(range(5, 21))
    assert {b - a for a, b in pairs} == ahead | {-n for n in ahead}
    assert {x for pair in pairs for x in pair} == set(range(30))


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


def test_a_section_is_joined_with_what_the_other_says() -> None:
    torch.manual_seed(0)
    network = Segmentor(width=2).eval()
    pair = torch.rand(2, 1, 32, 48)
    predict = NetworkPredictor(network, CPU, fuse_residual=True)
    found = predict.decode(*(predict.encode(section) for section in pair))
    with torch.no_grad():
        p, q, r = (maps.softmax(1)[:, 1] for maps in network(pair.transpose(0, 1)))
    expected = [(a + b * (1 - r) + r * (1 - b)) / 2 for a, b in ((p, q), (q, p))]
    torch.testing.assert_close(found, torch.stack(expected, dim=1))


def test_the_teacher_sees_what_is_round_the_students_crop() -> None:
    array = np.random.default_rng(0).random((4, 80, 80), np.float32)
    sample = PairDataset(Sections(array), None, 1, 64, (5, 1), 6, Views(margin=16))[1]
    assert sample["images"].shape == (2, 64, 64)
    np.testing.assert_array_equal(sample["views"][0], sample["images"][:, 16:48, 16:48])

    step = step_of(teacher=True, context=16)
    target, view = (torch.from_numpy(sample[name])[None] for name in ("images", "views"))
    with torch.no_grad():
        known = step.average.network(target)
        labels = soft_pseudo_labels(*(maps[..., 16:48, 16:48] for maps in known))
        seen = step.segmentor(view[:, 0])
    expected = 0.1 * self_training_loss(seen.current, seen.auxiliary, labels)
    data = batch() | {"target": target, "views": view}
    assert step(1, **data)["consistency_target"] == pytest.approx(float(expected), rel=1e-4)


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


def test_prototypes_are_the_classes_means() -> None:
    draw = torch.Generator().manual_seed(4)
    features = [torch.randn(2, 2, 3, 5, 6, generator=draw).double() for _ in range(2)]
    masks = [torch.randint(0, 2, (2, 2, 5, 6), generator=draw) for _ in range(2)]
    means = [
        [f.movedim(2, -1).numpy()[m.numpy() == k].mean(0) for k in (0, 1)]
        for f, m in zip(features, masks, strict=True)
    ]
    expected = sum(
        1 - one @ other / np.sqrt((one @ one) * (other @ other))
        for one, other in zip(*means, strict=True)
    )
    found = prototype_loss(features[0], masks[0], features[1], masks[1])
    assert found == pytest.approx(expected)
    empty = prototype_loss(features[0], masks[0] * 0, features[0], masks[0] * 0)
    assert empty == pytest.approx(0, abs=1e-6)  # no mitochondria: background alone counts
    lone = prototype_loss(features[0], masks[0] * 0, features[1], masks[1])
    assert lone <= 2


def test_prototypes_are_of_the_features_behind_the_masks() -> None:
    options = {"rounds": 1, "begin": 0.1, "prototypes": 0.5}
    step, data = step_of(**options), batch()
    del data["views"]
    labels = 1 - data["masks"]
    with torch.no_grad():
        both = [
            step.segmentor(pair, with_features=True) for pair in (data["source"], data["target"])
        ]
        heads = [d.head_logits for d in (step.segmentor.seg_current, step.segmentor.seg_auxiliary)]
        for logits, features in both:
            for k, head in enumerate(heads):
                torch.testing.assert_close(head(features[:, k]), logits[k])
        apart = prototype_loss(both[0][1], data["masks"], both[1][1], labels)
    report = step(2, **data, target_masks=labels)
    assert report["prototypes"] == pytest.approx(0.5 * float(apart), rel=1e-4)
    assert "prototypes" not in step(1, **data)  # nothing is labelled yet
