"""Random shapes, strides and tile sizes against plain ways of doing the same."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, matthews_corrcoef
from torch import Tensor

from dataloader.volume import resample
from prediction.metrics import Counts, PooledScores, SectionScores
from prediction.predictor import Task, predict_volume, section_pairs
from prediction.windows import Windows, tiles, whole_section
from tests.helpers import Sections

sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


class Mixing:
    """A made network: what it says of a pixel hangs on the other section and on the window."""

    device = torch.device("cpu")

    def encode(self, sections: Tensor) -> Tensor:
        return sections

    def decode(self, current: Tensor, auxiliary: Tensor) -> Tensor:
        place = torch.linspace(0, 1, current.shape[-1])
        first = 0.6 * current + 0.3 * auxiliary.flip(-1) + 0.1 * place
        second = 0.5 * auxiliary + 0.5 * current * place
        return torch.stack([first, second], dim=1)


def plainly(array: np.ndarray, pairs: list[tuple[int, int]], windows: Windows) -> np.ndarray:
    """Every window of every pair by itself, in float64, all sums in memory."""
    network, (height, width) = Mixing(), windows.size
    sums = np.zeros((len(array), *windows.padded_shape))
    weights = np.zeros_like(sums)
    for pair in pairs:
        padded = [np.pad(array[index], windows.padding, mode="reflect") for index in pair]
        for y, x in windows.corners:
            cut = np.s_[y : y + height, x : x + width]
            both = (torch.from_numpy(section[cut])[None].double() for section in padded)
            found = network.decode(*both)[0].numpy()
            for index, probability in zip(pair, found, strict=True):
                sums[index][cut] += probability * windows.weight
                weights[index][cut] += windows.weight
    (top, bottom), (left, right) = windows.padding
    inside = np.s_[:, top : sums.shape[1] - bottom, left : sums.shape[2] - right]
    return sums[inside] / weights[inside]


@given(
    seeds,
    st.tuples(st.integers(2, 9), st.integers(2, 30), st.integers(2, 30)),
    st.integers(1, 8),
    st.tuples(st.sampled_from([16, 32]), st.integers(1, 32), st.integers(0, 20)),
    st.integers(1, 5),
    st.data(),
)
def test_predictions_are_those_of_the_plain_way(
    seed, shape, stride, tiling, batch_size, data
) -> None:
    tile, step, pad = tiling
    array = np.random.default_rng(seed).random(shape, np.float32)
    pairs = section_pairs(shape[0], min(stride, shape[0] - 1))
    tiled = tiles(shape[1:], tile, min(step, tile), pad)
    windows = data.draw(st.sampled_from([tiled, whole_section(shape[1:], (48, 32))]))
    found = dict(predict_volume(Mixing(), Task(Sections(array), pairs, windows, batch_size)))
    assert sorted(found) == list(range(shape[0]))
    expected = plainly(array, pairs, windows)
    for index, probability in found.items():
        np.testing.assert_allclose(probability, expected[index], rtol=0, atol=2e-6)

    some = data.draw(st.sets(st.integers(0, shape[0] - 1)))
    again = dict(
        predict_volume(Mixing(), Task(Sections(array), pairs, windows, batch_size), sections=some)
    )
    assert set(again) == some
    for index, probability in again.items():  # to the bit
        np.testing.assert_array_equal(probability, found[index])


@given(sides, sides, st.integers(1, 3), st.integers(1, 3), st.integers(0, 60))
def test_padding_reflects_however_small_a_section_is(height, width, rows, columns, pad) -> None:
    array = np.arange(height * width, dtype=np.float32).reshape(height, width)
    windows = tiles((height, width), 16 * rows, 16 * columns if columns <= rows else 16, pad)
    padded = windows.pad(array)

    def reflected(place: int, side: int) -> int:
        period = max(1, 2 * (side - 1))
        place %= period
        return min(place, period - place)

    (top, _), (left, _) = windows.padding
    for y in (0, top, padded.shape[0] // 2, padded.shape[0] - 1):
        for x in (0, left, padded.shape[1] // 3, padded.shape[1] - 1):
            expected = array[reflected(y - top, height), reflected(x - left, width)]
            assert padded[y, x] == expected
    np.testing.assert_array_equal(windows.unpad(padded), array)
    assert all(y + windows.size[0] <= padded.shape[0] for y, _ in windows.corners)
    assert (windows.total_weight() > 0).all()


def area_means(side: int, new: int) -> np.ndarray:
    """(new, side): how much of each old pixel lies in each new one, rows summing to 1."""
    edges = np.linspace(0, side, new + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(side)
    overlap = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    return np.maximum(overlap, 0) * new / side


@given(seeds, st.integers(2, 60), st.integers(2, 60), st.floats(0.1, 0.99))
def test_shrinking_takes_the_mean_of_the_area(seed, height, width, scale) -> None:
    image = np.random.default_rng(seed).random((height, width), np.float32)
    shape = max(1, int(height * scale)), max(1, int(width * scale))
    found = resample(image, shape)
    expected = area_means(height, shape[0]) @ image @ area_means(width, shape[1]).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@given(st.integers(2, 200), st.integers(1, 199))
def test_pairs_are_a_stride_apart_and_show_all(sections: int, stride: int) -> None:
    if sections <= stride:
        with pytest.raises(ValueError, match="expected more than the stride"):
            section_pairs(sections, stride)
        return
    pairs = section_pairs(sections, stride)
    assert {index for pair in pairs for index in pair} == set(range(sections))
    assert len(set(pairs)) == len(pairs)
    assert all(b - a == stride or (b == sections - 1 and a + stride > b) for a, b in pairs)
    assert {(i, i + stride) for i in range(sections - stride)} <= set(pairs)


scores = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.75, 1.0])  # with ties


@given(
    arrays(np.float32, (3, 5, 6), elements=scores.map(np.float32)),
    arrays(np.uint8, (3, 5, 6), elements=st.integers(0, 1)),
)
def test_scores_are_sklearns(probability: np.ndarray, label: np.ndarray) -> None:
    sections, pooled = SectionScores(), PooledScores()
    for p, mask in zip(probability, label, strict=True):
        sections.add(p, mask)
        pooled.add(p, mask)
        found, predicted = sections.scores[-1], p >= 0.5
        if mask.any():
            assert found.mAP == pytest.approx(
                average_precision_score(mask.ravel(), p.ravel()), abs=1e-6
            )
        counts = Counts.of(predicted, mask)
        if mask.any() and predicted.any():
            truth, guess = mask.ravel(), predicted.ravel()
            assert counts.f1 == pytest.approx(f1_score(truth, guess))
            assert counts.iou == pytest.approx(jaccard_score(truth, guess))
            if not mask.all() and not predicted.all():
                assert counts.mcc == pytest.approx(matthews_corrcoef(truth, guess), abs=1e-9)
        assert all(np.isfinite(value) for value in found)
    if label.any():
        expected = average_precision_score(label.ravel(), probability.ravel())
        assert pooled.result().mAP == pytest.approx(expected, abs=pooled.mAP_bound + 1e-6)
