"""Scores against sklearn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from prediction.metrics import (
    BestThreshold,
    Counts,
    DiceScores,
    PooledScores,
    SectionScores,
    average_precision,
    binned_average_precision,
    score,
)
from utils.ignore import IGNORE


def random_section(seed: int, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probability and label that agree somewhat; ``levels`` > 0 gives ties."""
    draw = np.random.default_rng(seed)
    label = draw.random((37, 53)) < 0.2
    probability = np.clip(0.3 * label + 0.7 * draw.random(label.shape), 0, 1)
    if levels:
        probability = np.round(probability * levels) / levels
    return probability.astype(np.float32), label.astype(np.uint8)


@pytest.mark.parametrize("levels", [0, 2, 10, 255])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_sklearns(seed: int, levels: int) -> None:
    probability, label = random_section(seed, levels)
    truth, mask = label.ravel(), probability.ravel() >= 0.5
    assert score(probability, label) == pytest.approx(
        (
            sk.average_precision_score(truth, probability.ravel()),
            sk.f1_score(truth, mask),
            sk.matthews_corrcoef(truth, mask),
            sk.jaccard_score(truth, mask),
        ),
        abs=1e-9,
    )


def test_constant_probability_is_one_threshold() -> None:
    label = np.array([1, 0, 0, 1, 0])
    assert average_precision(np.full(5, 0.7), label) == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("predicted", "present", "expected"),
    [(False, False, (1, 1, 1, 1)), (True, False, (0, 0, 0, 0)), (False, True, (0.25, 0, 0, 0))],
)
def test_sections_without_mitochondria_have_a_score(
    predicted: bool, present: bool, expected: tuple
) -> None:
    label = np.zeros((4, 4), np.uint8)
    label[:1] = present
    probability = np.zeros((4, 4), np.float32)
    probability[2:] = 0.9 * predicted
    assert score(probability, label) == pytest.approx(expected)


def test_perfect_full_section_correlates_fully() -> None:
    ones = np.ones((3, 3), np.uint8)
    assert score(ones.astype(float), ones) == (1, 1, 1, 1)


def test_averages_over_sections_and_pools_over_voxels() -> None:
    sections, pooled = SectionScores(), PooledScores()
    parts = [random_section(seed, 10) for seed in range(3)] + [
        (np.zeros((37, 53), np.float32), np.zeros((37, 53), np.uint8))
    ]
    for probability, label in parts:
        sections.add(probability, label)
        pooled.add(probability, label)
    np.testing.assert_allclose(sections.result(), np.mean([score(*part) for part in parts], 0))
    probability, label = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert pooled.result() == pytest.approx(score(probability, label), abs=1e-12)
    for tally in (sections.tally, pooled.tally):
        assert str(tally) == "sections: 4, without mitochondria: 1, with none predicted: 1"


def pooled_scores(*sections: tuple[np.ndarray, np.ndarray]) -> PooledScores:
    pooled = PooledScores()
    for probability, label in sections:
        pooled.add(probability, label)
    return pooled


@pytest.mark.parametrize("levels", [0, 2, 255])
def test_pooled_precision_is_sklearns(levels: int) -> None:
    parts = [random_section(seed, levels) for seed in range(4)]
    probability, label = (np.concatenate(arrays).ravel() for arrays in zip(*parts, strict=True))
    pooled = pooled_scores(*parts)
    expected = sk.average_precision_score(label, probability)
    assert pooled.result().mAP == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spread", [1e-6, 1e-5, 1e-4])  # a few bins of 2.4e-7, or many
def test_error_of_the_pooled_precision_keeps_to_its_bound(spread: float) -> None:
    draw = np.random.default_rng(5)
    label = draw.random((64, 64)) < 0.3
    probability = (0.5 + spread * (draw.random(label.shape) + 0.3 * label)).astype(np.float32)
    pooled = pooled_scores((probability, label))
    expected = sk.average_precision_score(label.ravel(), probability.ravel())
    error = abs(pooled.result().mAP - expected)
    assert 1e-9 < error <= pooled.mAP_bound
    assert pooled.mAP_bound < 1e-6 / spread


def test_bound_holds_where_a_bin_has_mitochondria_alone() -> None:
    label = np.array([[0, 1, 1, 1]])
    probability = np.array([[0.75, 0.5000001, 0.5, 0]], np.float32)  # the two share a bin
    pooled = pooled_scores((probability, label))
    expected = sk.average_precision_score(label.ravel(), probability.ravel())
    error = pooled.result().mAP - expected
    assert 0.05 < error <= pooled.mAP_bound + 1e-12 < 0.06


def test_bound_is_of_the_best_and_the_worst_order() -> None:
    draw, found = np.random.default_rng(8), []
    negatives, positives = np.array([2, 0, 3, 1]), np.array([1, 4, 2, 2])
    tied, bound = binned_average_precision(negatives, positives)
    groups = [np.repeat([0, 1], pair) for pair in zip(negatives, positives, strict=True)]
    labels = np.concatenate(groups)
    for _ in range(2000):
        within = [draw.integers(0, 6, len(group)) / 10 for group in groups[:-1]]
        within.append(np.zeros(len(groups[-1])))  # tied
        scores = np.concatenate([index + part for index, part in enumerate(within)])
        found.append(abs(sk.average_precision_score(labels, scores) - tied))
    assert 0.8 * bound < max(found) <= bound


def test_saturated_probabilities_are_exact() -> None:
    draw = np.random.default_rng(6)
    label = draw.random((64, 64)) < 0.3
    nearly = np.nextafter(np.float32(1), np.float32(0))  # would share a bin of any width
    probability = np.where(draw.random(label.shape) < 0.6 + 0.2 * label, 1, nearly)
    pooled = pooled_scores((probability.astype(np.float32), label))
    expected = sk.average_precision_score(label.ravel(), probability.ravel())
    assert pooled.result().mAP == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scorer", [SectionScores, PooledScores, DiceScores])
def test_sections_with_nothing_in_them_are_counted(scorer: type) -> None:
    empty, full = np.zeros((4, 4)), np.ones((4, 4))
    scores = scorer()
    for probability, label in ((empty, full), (empty, empty), (full, empty), (full, full)):
        scores.add(probability, label)
    assert str(scores.tally) == "sections: 4, without mitochondria: 2, with none predicted: 2"


def test_the_bound_is_the_best_and_the_worst_order_of_a_bin() -> None:
    negatives, positives = np.array([3, 2, 0]), np.array([2, 4, 1])
    tied, bound = binned_average_precision(negatives, positives)
    assert tied == pytest.approx((1 + 4 * 5 / 7 + 2 * 7 / 12) / 7)
    worst = (1 + sum((1 + k) / (1 + k + 2) for k in range(1, 5)) + 6 / 11 + 7 / 12) / 7
    best = (1 + 4 + 2 * 7 / 9) / 7  # the two tied, above all three
    assert bound == pytest.approx(max(best - tied, tied - worst))


def test_dice_and_jaccard_average_over_sections() -> None:
    scores = DiceScores()
    label = np.array([[1, 1, 0, 0]])
    scores.add(np.array([[1, 0, 1, 0]]), label)
    scores.add(label, label)
    assert scores.result() == pytest.approx(((0.5 + 1) / 2, (1 / 3 + 1) / 2))


def test_counts_add() -> None:
    one = Counts(1, 2, 3, 4)
    assert one + one == Counts(2, 4, 6, 8)


def test_scores_print_as_published() -> None:
    probability, label = random_section(0)
    assert str(score(probability, label)).startswith("mAP=0.")
    assert str(score(label.astype(float), label)) == "mAP=1.0000, F1=1.0000, MCC=1.0000, IoU=1.0000"


@pytest.mark.parametrize("pooled", [False, True])
def test_the_upper_bound_is_the_best_of_all_thresholds(pooled: bool) -> None:
    sections = [random_section(seed) for seed in range(3)]
    sections[1][1][:5] = IGNORE
    found = BestThreshold(pooled)
    for section in sections:
        found.add(*section)

    def f1(threshold: float) -> float:
        masks = [(p >= threshold)[y != IGNORE] for p, y in sections]
        truths = [y[y != IGNORE] for _, y in sections]
        if pooled:
            masks, truths = [np.concatenate(masks)], [np.concatenate(truths)]
        pairs = [(truth > 0, mask) for truth, mask in zip(truths, masks, strict=True)]
        return float(np.mean([2 * (t & m).sum() / (t.sum() + m.sum()) for t, m in pairs]))

    best, threshold = found.result()
    assert best == pytest.approx(max(f1(t) for t in np.arange(1000) / 1000), abs=1e-9)
    assert best == pytest.approx(f1(threshold), abs=1e-9)


def test_there_is_no_upper_bound_where_all_is_ignored() -> None:
    found = BestThreshold(pooled=False)
    found.add(np.zeros((4, 4), np.float32), np.full((4, 4), IGNORE, np.uint8))
    assert found.result() is None
