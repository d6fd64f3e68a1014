"""From windows back to a volume: every pixel comes back to its place, from every pair it is in."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from dataloader.volume import Volume, normalise
from model.segmentor import Segmentor
from prediction.predictor import NetworkPredictor, Task, predict_volume, section_pairs
from prediction.volume import choose_windows, predict_on_grid
from prediction.windows import Windows, tiles, whole_section
from tests.helpers import ArrayVolume, Plain, noise
from training.validation import Validation
from utils.config.schema import Config
from utils.errors import UserError


def scaled(array: np.ndarray) -> np.ndarray:
    return np.stack([normalise(section) for section in array])


def half(batch: torch.Tensor) -> torch.Tensor:
    return 0.5 * batch


def predicted(
    array: np.ndarray, windows: Windows, stride: int, predict=half, batch_size=1, **kwargs
):
    pairs = section_pairs(len(array), stride)
    task = Task(ArrayVolume(array), pairs, windows, batch_size)
    found = dict(predict_volume(Plain(predict), task, **kwargs))
    assert sorted(found) == list(range(len(array)))
    return np.stack([found[index] for index in range(len(array))])


def config(input_size_test: object = 1024, **test) -> Config:
    data = dict.fromkeys(("data_dir_img", "data_dir_label", "data_dir_target"), "x")
    data["input_size_test"] = input_size_test
    return Config(NAME="x", DATA=data, TEST=test)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("shape", "tile", "step", "pad"),
    [
        ((64, 64), 32, 16, 16),  # even steps
        ((64, 64), 32, 32, 0),  # no overlap, no padding
        ((50, 83), 32, 16, 8),  # steps that do not come out even
        ((33, 97), 32, 24, 5),
        ((20, 30), 64, 32, 4),  # tiles larger than the padded section
        ((20, 90), 48, 16, 0),  # larger in one direction
        ((7, 9), 64, 32, 0),  # larger than the section several times over
    ],
)
def test_tiles_put_every_pixel_back(shape, tile, step, pad, batch_size) -> None:
    array = noise(3, *shape)
    found = predicted(array, tiles(shape, tile, step, pad), 1, batch_size=batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 0.5 * scaled(array), rtol=0, atol=1e-6)


@pytest.mark.parametrize("padded", [None, (64, 80), (48, 80)])
@pytest.mark.parametrize(("sections", "stride"), [(6, 1), (6, 2), (5, 4), (7, 4), (3, 2)])
def test_whole_sections_come_back(sections, stride, padded) -> None:
    array = noise(sections, 48, 70)
    found = predicted(array, whole_section((48, 70), padded), stride)
    np.testing.assert_allclose(found, 0.5 * scaled(array), rtol=0, atol=1e-6)


def test_windows_see_sections_reflected_at_their_borders() -> None:
    array = noise(2, 40, 56)
    seen = []

    def keep(batch: torch.Tensor) -> torch.Tensor:
        seen.extend(batch.numpy())
        return batch

    predicted(array, whole_section((40, 56), (64, 64)), 1, keep)
    expected = np.pad(scaled(array), ((0, 0), (12, 12), (4, 4)), mode="reflect")
    np.testing.assert_array_equal(seen, [expected])

    seen.clear()
    predicted(array, tiles((40, 56), 32, 16, 8), 1, keep)
    padded = np.pad(scaled(array), ((0, 0), (8, 8), (8, 8)), mode="reflect")
    corners = [(y, x) for y in (0, 16, 24) for x in (0, 16, 32, 40)]
    np.testing.assert_array_equal(seen, [padded[:, y : y + 32, x : x + 32] for y, x in corners])


def test_whole_sections_are_padded_as_published() -> None:
    lucchi = whole_section((768, 1024))
    assert lucchi.size == (1120, 1120)
    assert lucchi.padding == ((176, 176), (48, 48))
    for shape in ((64, 64), (51, 90), (900, 300)):
        windows = whole_section(shape)
        assert windows.size[0] == windows.size[1] >= max(shape) + 96
        assert windows.size[0] % 16 == 0
    with pytest.raises(ValueError, match=r"found \(64, 64\), expected at least \(64, 65\)"):
        whole_section((64, 65), (64, 64))


def test_published_tiles_of_a_mitoem_section() -> None:
    windows = tiles((4096, 4096), 1024, 512, 256)
    assert windows.padding == ((256, 256), (256, 256))
    starts = range(0, 4608 - 1024 + 1, 512)
    assert windows.corners == [(y, x) for y in starts for x in starts]


@pytest.mark.parametrize("tile", [16, 32])
def test_weight_of_a_tile(tile: int) -> None:
    weight = tiles((tile, tile), tile, tile, 0).weight
    centre = (tile - 1) / 2
    for y in range(tile):
        for x in range(tile):
            distance2 = ((y - centre) ** 2 + (x - centre) ** 2) / centre**2
            expected = 1e-6 + np.exp(-distance2 / (2 * 0.2**2))
            assert weight[y, x] == pytest.approx(expected, rel=1e-5)


def test_overlapping_tiles_are_averaged_by_their_weights() -> None:
    shape, tile, step = (32, 48), 32, 16
    windows = tiles(shape, tile, step, 0)
    assert windows.corners == [(0, 0), (0, 16)]
    number = iter([0.2, 0.8])

    def numbered(batch: torch.Tensor) -> torch.Tensor:
        return torch.full_like(batch, next(number))

    found = predicted(noise(2, *shape), windows, 1, numbered)
    w = windows.weight.astype(float)
    expected = np.concatenate(
        [
            np.full((32, 16), 0.2),
            (0.2 * w[:, 16:] + 0.8 * w[:, :16]) / (w[:, 16:] + w[:, :16]),
            np.full((32, 16), 0.8),
        ],
        axis=1,
    )
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-5)


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_sections_seen_twice_are_joined(combine: str) -> None:
    array = noise(5, 32, 32)

    def by_role(batch: torch.Tensor) -> torch.Tensor:
        """The section's values as current, 1 minus half of them as auxiliary."""
        return torch.stack([batch[:, 0], 1 - 0.5 * batch[:, 1]], dim=1)

    found = predicted(array, whole_section((32, 32), (32, 32)), 2, by_role, combine=combine)
    as_current, as_auxiliary = scaled(array), 1 - 0.5 * scaled(array)
    both = np.stack([as_current, as_auxiliary])
    twice = both.mean(0) if combine == "mean" else both.max(0)
    expected = [as_current[0], as_current[1], twice[2], as_auxiliary[3], as_auxiliary[4]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    if combine == "max":
        np.testing.assert_array_equal(found[2] > 0.5, (both[:, 2] > 0.5).any(0))


@pytest.mark.parametrize("sections", range(2, 15))
def test_pairs_show_every_section(sections: int) -> None:
    for stride in range(1, sections):
        pairs = section_pairs(sections, stride)
        published = [(i, i + stride) for i in range(sections) if i + stride < sections]
        assert sorted(pairs[: len(published)]) == published
        left_out = set(range(sections)) - {i for pair in published for i in pair}
        assert [current for current, _ in pairs[len(published) :]] == sorted(left_out)
        assert all(current < auxiliary < sections for current, auxiliary in pairs)
        assert not left_out or sections < 2 * stride


@pytest.mark.parametrize("stride", [3, 4])
def test_too_large_a_stride_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"found 3 sections, expected more than .* {stride}"):
        section_pairs(3, stride)


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_few_sections_are_held_and_each_is_read_and_encoded_once(stride: int) -> None:
    volume = ArrayVolume(noise(12, 16, 16))
    predict = Plain(half)
    windows = whole_section((16, 16), (16, 16))
    done = []
    for index, _ in predict_volume(predict, Task(volume, section_pairs(12, stride), windows)):
        done.append(index)
        assert len(set(volume.read) - set(done)) <= 4  # one held, three read ahead
    assert sorted(volume.read) == sorted(done) == list(range(12))
    assert predict.encoded == 12


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_a_single_section_is_a_pair_with_itself(combine: str) -> None:
    assert section_pairs(1, 1) == section_pairs(1, 5) == [(0, 0)]
    array = noise(1, 16, 16)
    volume, predict = ArrayVolume(array), Plain(half)
    windows = whole_section((16, 16), (16, 16))
    (found,) = predict_volume(predict, Task(volume, [(0, 0)], windows), combine)
    assert found[0] == 0
    one, other = predicted(np.repeat(array, 2, 0), windows, 1, combine=combine)
    np.testing.assert_allclose(found[1], one, rtol=0, atol=1e-6)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert (volume.read, predict.encoded) == ([0], 1)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_features_are_kept_while_memory_allows(stride: int) -> None:
    """Five sections of four tiles (16 x 16 float32), in batches of one or three."""
    windows, pairs = tiles((32, 32), 16, 16, 0), section_pairs(5, stride)
    again = sum(any(i in before for i in pair) for before, pair in pairwise(pairs))
    tile, found = 16 * 16 * 4, []
    for batch_size, memory, kept in (
        (1, None, 4),
        (1, 2 * tile, 2),
        (1, 0, 0),
        (3, None, 4),
        (3, 3 * tile, 3),
        (3, 3 * tile - 1, 1),  # the last batch is a single tile
    ):
        predict, volume = Plain(half), ArrayVolume(noise(5, 32, 32))
        task = Task(volume, pairs, windows, batch_size, memory)
        found.append(dict(predict_volume(predict, task)))
        assert predict.encoded == 2 * 4 * len(pairs) - kept * again
        assert len(volume.read) == 5
    for other in found[1:]:
        for index, probability in found[0].items():
            np.testing.assert_array_equal(other[index], probability)


def test_predictions_return_to_the_sections_own_grid() -> None:
    array = np.repeat(np.repeat(noise(3, 16, 16), 2, 1), 2, 2)
    windows = whole_section((32, 32), (32, 32))
    pairs = section_pairs(3, 1)
    task = Task(ArrayVolume(array), pairs, windows)
    same = dict(predict_on_grid(Plain(half), task, (32, 32)))
    np.testing.assert_allclose(same[1], 0.5 * normalise(array[1]), atol=1e-6)
    finer = dict(predict_on_grid(Plain(half), task, (48, 64)))
    assert finer[0].shape == (48, 64)
    coarser = dict(predict_on_grid(Plain(half), task, (16, 16)))
    np.testing.assert_allclose(coarser[2], 0.5 * normalise(array[2])[::2, ::2], atol=1e-6)


def test_network_predictor_is_the_softmax_of_both_sections() -> None:
    torch.manual_seed(0)
    segmentor = Segmentor(width=2)
    pair = torch.rand(2, 2, 32, 48)
    predict = NetworkPredictor(segmentor, torch.device("cpu"))
    found = predict.decode(*(predict.encode(pair[:, role]) for role in (0, 1)))
    logits = segmentor(pair)
    for role, maps in enumerate((logits.current, logits.auxiliary)):
        odds = torch.exp(maps[:, 0] - maps[:, 1])
        torch.testing.assert_close(found[:, role], (1 / (1 + odds)).detach())


def test_windows_follow_the_data_unless_the_config_decides() -> None:
    folder, tiled = (ArrayVolume(noise(2, 64, 64), tiled) for tiled in (False, True))
    small = {"tile": 32, "tile_step": 16, "tile_pad": 16}
    assert choose_windows(config(**small), folder).size == (160, 160)
    assert choose_windows(config(**small), tiled).size == (32, 32)
    assert choose_windows(config(**small, windows="tile"), folder).size == (32, 32)
    assert choose_windows(config(windows="section", padded_size=96), tiled).size == (96, 96)
    with pytest.raises(UserError, match=r"TEST\.padded_size: found \(48, 48\)"):
        choose_windows(config(padded_size=48), folder)


def test_tiles_are_of_input_size_test_unless_told_otherwise() -> None:
    folder, tiled = ArrayVolume(noise(2, 64, 64)), ArrayVolume(noise(2, 1100, 1100), tiled=True)

    def tiling(volume: Volume = tiled, **settings) -> tuple:
        windows = choose_windows(config(**settings), volume)
        starts = sorted({x for _, x in windows.corners})
        return windows.size[0], starts[1] - starts[0], windows.padding[0]

    assert tiling() == (1024, 512, (256, 256))
    assert tiling(input_size_test=32) == (32, 16, (256, 256))
    assert tiling(input_size_test=[64, 64]) == (64, 32, (256, 256))
    assert tiling(input_size_test=32, tile=64) == (64, 32, (256, 256))
    assert tiling(input_size_test=64, tile_step=48) == (64, 48, (256, 256))
    for size in ([64, 32], 40, 16):
        with pytest.raises(UserError, match=r"DATA\.input_size_test: found .*expected a square of"):
            tiling(input_size_test=size)
        assert choose_windows(config(input_size_test=size), folder).size == (160, 160)
        tiling(input_size_test=size, tile=32)


def masks_like(array: np.ndarray) -> np.ndarray:
    """Masks that agree with the brighter half of a section in part."""
    return (scaled(array) > 0.6).astype(np.uint8)


def test_validation_of_a_folder_is_dice_and_jaccard_of_the_or() -> None:
    array = noise(4, 40, 48)
    labels = masks_like(array)

    def by_role(batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([batch[:, 0], 1 - batch[:, 1]], dim=1)

    found = Validation(config(), ArrayVolume(array), ArrayVolume(labels))(Plain(by_role))
    values, dice, jaccard = scaled(array), [], []
    for index in range(4):
        as_current = values[index] > 0.5 if index < 3 else np.zeros((40, 48), bool)
        as_auxiliary = 1 - values[index] > 0.5 if index > 0 else np.zeros((40, 48), bool)
        mask, truth = as_current | as_auxiliary, labels[index] > 0
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
        jaccard.append((mask & truth).sum() / (mask | truth).sum())
    assert found == pytest.approx({"dice": np.mean(dice), "jac": np.mean(jaccard)})


def test_validation_of_a_tiled_volume_is_f1_of_its_top_left_square() -> None:
    square = 48
    array = noise(2, 40, square + 30)
    labels = masks_like(array)
    # What is right of the square is neither seen nor scored.
    labels[:, :, square:] = 1
    array[:, 0, 60], array[:, 0, 61] = 0, 255
    array[:, :, :square] = array[:, :, :square] // 2 + 20  # so that its own range is another
    volumes = ArrayVolume(array, True), ArrayVolume(labels, True)
    validation = Validation(config(input_size_test=square), *volumes)
    found = validation(Plain(lambda pairs: pairs))
    mask = scaled(array[:, :, :square]) > 0.5
    truth = labels[:, :, :square] > 0
    assert found == {"F1": pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))}


@pytest.mark.parametrize("shape", [(5, 40, 48), (4, 40, 47), (3, 40, 47)])
def test_validation_needs_a_label_for_every_pixel(shape: tuple) -> None:
    with pytest.raises(UserError, match="do not fit"):
        Validation(config(), ArrayVolume(noise(4, 40, 48)), ArrayVolume(noise(*shape)))
