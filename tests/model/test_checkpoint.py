"""Checkpoints: the published format, both ways, and files that are not to be trusted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import (
    CHOSEN_BEST,
    CHOSEN_LAST,
    CHOSEN_UNKNOWN,
    Checkpoint,
    load_checkpoint,
    load_file,
    save_checkpoint,
    save_whole,
    segmentor_from,
)
from model.published import from_published, published_key, to_published
from model.segmentor import Segmentor
from tests.helpers import Malicious
from utils.errors import UserError

WIDTH = 4


@pytest.fixture(scope="module")
def segmentor() -> Segmentor:
    torch.manual_seed(0)
    return Segmentor(WIDTH)


@pytest.fixture
def published(segmentor: Segmentor) -> dict:
    """The content of a file as the authors' code saves it."""
    return {
        "model_weights": to_published(segmentor.state_dict()),
        "current_iter": 151500,
        "valid_result": np.float64(0.823),
    }


def same_network(one: Segmentor, other: Segmentor) -> bool:
    pair = torch.rand(1, 2, 32, 32)
    return all(torch.equal(a, b) for a, b in zip(one(pair), other(pair), strict=True))


def test_round_trip(segmentor: Segmentor, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    save_checkpoint(path, Checkpoint(segmentor.state_dict(), 500, 0.58, CHOSEN_BEST, 8.0))
    loaded = load_checkpoint(path)
    assert loaded[1:] == (500, 0.58, CHOSEN_BEST, 8.0)
    assert same_network(segmentor_from(loaded, path), segmentor)
    save_checkpoint(path, Checkpoint(segmentor.state_dict(), 1))
    assert load_checkpoint(path)[1:] == (1, None, CHOSEN_LAST, None)


def test_saved_files_are_in_the_published_format(segmentor: Segmentor, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.ckpt", Checkpoint(segmentor.state_dict(), 500, 0.58))
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert {"model_weights", "current_iter", "valid_result"} <= set(content)
    assert content["current_iter"] == 500
    weights = content["model_weights"]
    assert weights["inc.conv.conv.0.weight"].shape == (WIDTH, 1, 3, 3)
    assert weights["up1_diff.conv.conv.3.bias"].shape == (4 * WIDTH,)
    assert weights["out_diff.conv.3.weight"].shape == (2, WIDTH // 2, 3, 3)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("score", [np.float64(0.823), np.float32(0.823), 0.823, None])
def test_published_files_load(segmentor, published, tmp_path, prefix, score) -> None:
    path = tmp_path / "model.ckpt"
    weights = {prefix + key: value for key, value in published["model_weights"].items()}
    torch.save(published | {"model_weights": weights, "valid_result": score}, path)
    loaded = load_checkpoint(path)
    assert loaded.iteration == 151500
    assert loaded.valid_result == (None if score is None else pytest.approx(0.823))
    assert loaded.chosen_by == CHOSEN_UNKNOWN
    assert same_network(segmentor_from(loaded, path), segmentor)


def test_older_serialisation_loads(segmentor, published, tmp_path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(published, path, _use_new_zipfile_serialization=False)
    assert same_network(segmentor_from(load_checkpoint(path), path), segmentor)


def test_files_of_before_load_with_what_is_gone(segmentor, published, tmp_path, capsys) -> None:
    path = tmp_path / "model.ckpt"
    for thickness, warnings in ((None, 0), (50.0, 1)):
        torch.save(published | {"pixel_size": 8.0, "section_thickness": thickness}, path)
        loaded = load_checkpoint(path)
        assert loaded.pixel_size == 8
        assert same_network(segmentor_from(loaded, path), segmentor)
        err = capsys.readouterr().err
        assert err.count("trained on sections averaged over 50 nm") == err.count("\n") == warnings


@pytest.mark.parametrize("width", [2, 8])
def test_width_is_read_from_the_file(width: int, tmp_path: Path) -> None:
    path, segmentor = tmp_path / "model.ckpt", Segmentor(width)
    save_checkpoint(path, Checkpoint(segmentor.state_dict(), 1))
    loaded = segmentor_from(load_checkpoint(path), path)
    assert loaded.section_full.conv1.out_channels == width
    assert not loaded.training
    assert same_network(loaded, segmentor)


def test_names_map_one_to_one_and_back(segmentor: Segmentor) -> None:
    state = segmentor.state_dict()
    names = {key: published_key(key) for key in state}
    assert len(set(names.values())) == len(state)
    assert not set(names) & set(names.values())
    back = from_published(to_published(state), list(state))
    assert all(back[key] is state[key] for key in state)
    for odd in ("inc.conv.conv.0.weight", "section_full.conv3.weight", "section_full.conv1.scale"):
        with pytest.raises(KeyError):
            published_key(odd)


@pytest.mark.parametrize("key", ["valid_result", "model_weights", "current_iter"])
def test_nothing_in_a_file_is_executed(published, tmp_path, key) -> None:
    path, trace = tmp_path / "model.ckpt", tmp_path / "trace"
    torch.save(published | {key: Malicious(trace)}, path)
    with pytest.raises(UserError, match=r"model\.ckpt: not a readable checkpoint"):
        load_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the file would have run
    assert trace.exists()


def test_broken_files_are_named(published, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    with pytest.raises(UserError, match=r"model\.ckpt: no such checkpoint"):
        load_checkpoint(path)
    torch.save(published, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.ckpt: not a readable checkpoint"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"state_dict": {}}, {"model_weights": [1]}, {"model_weights": {}}]
)
def test_other_content_is_named(content, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"model\.ckpt: "):
        load_checkpoint(path)


def test_other_networks_are_named(published, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    weights = published["model_weights"]
    more = weights | {"extra.weight": torch.zeros(1)}
    fewer = {key: value for key, value in weights.items() if key != "up1.up.bias"}
    for state in (more, fewer, {"fc.weight": torch.zeros(1)}):
        torch.save(published | {"model_weights": state}, path)
        with pytest.raises(UserError, match="weights of another network"):
            load_checkpoint(path)
    reshaped = weights | {"up1.up.bias": torch.zeros(3)}
    torch.save(published | {"model_weights": reshaped}, path)
    with pytest.raises(UserError, match="weights of another network"):
        segmentor_from(load_checkpoint(path), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(published, tmp_path: Path, value: float) -> None:
    path = tmp_path / "model.ckpt"
    weights = published["model_weights"] | {"up1.up.bias": torch.full((16,), value)}
    torch.save(published | {"model_weights": weights}, path)
    with pytest.raises(UserError, match=r"not finite, such as seg_coarse\.up_eighth\.up\.bias"):
        load_checkpoint(path)


def test_interrupted_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    save_whole(path, {"number": 1})

    class Interrupting:
        def __reduce__(self) -> tuple:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_whole(path, {"number": 2, "large": torch.zeros(1000), "last": Interrupting()})
    assert load_file(path) == {"number": 1}
    save_whole(path, {"number": 3})
    assert load_file(path) == {"number": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]
