"""States of runs: whole, broken, of earlier revisions, and what a resumed run makes of them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dataloader.formats.opening import open_volume
from model.checkpoint import (
    AVERAGE,
    BEST,
    LAST,
    MODEL,
    PREVIOUS_STATE,
    TRAINING_STATE,
    load_checkpoint,
    load_file,
    load_state,
    save_whole,
)
from tests.helpers import Malicious
from tests.projects import RESUME, SHAPE, Project
from tests.settings import config_of
from training.setup import build_learning
from utils.errors import UserError

# Checkpoints


def test_any_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path, draw = tmp_path / "state.ckpt", np.random.default_rng(0)
    content = {"weights": torch.randn(200), "iteration": 7, "names": ["a", "b"]}
    save_whole(path, content)
    whole, noticed = path.read_bytes(), 0
    for bit in draw.integers(8 * len(whole), size=300):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(broken)
        try:
            found = load_file(path)
        except UserError as error:
            assert "\n" not in str(error)
            noticed += 1
        else:
            assert torch.equal(found.pop("weights"), content["weights"])
            assert found == {"iteration": 7, "names": ["a", "b"]}
    assert noticed > 100


def test_the_state_before_is_kept_and_read_where_the_newest_is_broken(tmp_path: Path) -> None:
    path = tmp_path / TRAINING_STATE
    for number in (1, 2, 3):
        save_whole(path, {"number": number}, previous=PREVIOUS_STATE)
    assert load_state(tmp_path) == ({"number": 3}, path, None)
    assert load_file(tmp_path / PREVIOUS_STATE) == {"number": 2}
    path.write_bytes(path.read_bytes()[:-30])
    content, found, warning = load_state(tmp_path)
    assert (content, found.name) == ({"number": 2}, PREVIOUS_STATE)
    assert "training_state.ckpt: not a readable checkpoint" in warning
    assert warning.endswith("continuing from training_state.previous.ckpt")
    path.unlink()  # killed between the two renamings
    assert load_state(tmp_path)[0] == {"number": 2}
    (tmp_path / PREVIOUS_STATE).write_bytes(b"")
    with pytest.raises(UserError, match=r"training_state\.ckpt: no such checkpoint"):
        load_state(tmp_path)


def test_resume_falls_back_with_one_warning_and_ends_the_same(resumable: Project) -> None:
    whole = load_file(resumable.models / TRAINING_STATE)
    data = bytearray((resumable.models / TRAINING_STATE).read_bytes())
    data[len(data) // 2] ^= 1
    (resumable.models / TRAINING_STATE).write_bytes(data)
    (resumable.models / MODEL).write_bytes(b"broken too")
    output = resumable.train("--resume", "--set", "TRAIN.total_iters=4")
    assert output.count("warning: ") == 1
    assert "continuing from training_state.previous.ckpt" in output
    again = load_file(resumable.models / TRAINING_STATE)
    assert again["iteration"] == 4
    for name, value in whole["networks"]["segmentor"].items():
        assert torch.equal(again["networks"]["segmentor"][name], value)
    assert load_checkpoint(resumable.models / LAST).iteration == 4


def test_files_beside_the_state_are_restored_from_it(resumable: Project) -> None:
    """As a kill between the writing of the last checkpoint and of the state leaves them."""
    expected = load_checkpoint(resumable.models / LAST)
    later = load_file(resumable.models / LAST) | {"current_iter": 5}
    for name in (LAST, "best_on_target_labels.ckpt", "model-000005.ckpt", "model-000002.ckpt"):
        torch.save(later, resumable.models / name)
    (resumable.root / "target.hdf").write_bytes(b"")
    resumable.fail(*RESUME)  # writes nothing
    assert load_checkpoint(resumable.models / LAST).iteration == 5
    (resumable.root / "target.hdf").unlink()
    (resumable.root / "target.hdf").symlink_to(resumable.root / "source.hdf")
    resumable.train(*RESUME, "--set", "TRAIN.save_freq=100", "--set", "TRAIN.total_iters=5")
    assert not (resumable.models / "best_on_target_labels.ckpt").exists()
    assert not (resumable.models / "model-000005.ckpt").exists()
    assert (resumable.models / "model-000002.ckpt").exists()
    assert expected.iteration == 4


def other_width() -> dict:
    return build_learning(config_of(4), torch.device("cpu")).learner.state_dict()


def with_nan(state: dict) -> dict:
    state["networks"]["disc_seg"]["0.bias"][0] = float("nan")
    return state


BROKEN_STATES = {
    "malicious": (lambda state, trace: state | {"score": Malicious(trace)}, "not a readable check"),
    "other width": (lambda state, _: state | other_width(), "not the state of such a run .*size"),
    "nan": (lambda state, _: with_nan(state), "weights are not finite, such as 0.bias"),
    "no networks": (lambda state, _: {"iteration": 3}, "not the state of such a run"),
    "a list": (lambda state, _: [state], "not the state of such a run"),
    "weights a list": (lambda state, _: state | {"networks": [1]}, "not the state of such a run"),
    "iteration a text": (
        lambda state, _: state | {"iteration": "x"},
        "not the state of such a run",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_STATES.values(), ids=BROKEN_STATES)
def test_states_are_data_and_broken_ones_are_named(resumable, change, message) -> None:
    path, trace = resumable.models / TRAINING_STATE, resumable.root / "trace"
    (resumable.models / PREVIOUS_STATE).unlink()
    torch.save(change(load_file(path), trace), path)
    before = path.read_bytes()
    error = resumable.fail(*RESUME)
    assert "training_state.ckpt: " in error
    assert re.search(message, error), error
    assert not trace.exists()
    assert path.read_bytes() == before


BROKEN_MODELS = {
    "iteration": (
        {"current_iter": "many"},
        "not a checkpoint; current_iter, ",
    ),
    "score": ({"valid_result": []}, "not a checkpoint; current_iter, "),
    "weights": ({"model_weights": {"a": 1}}, "not a checkpoint; expected a dict"),
    "keys": ({"model_weights": {1: torch.zeros(1)}}, "not a checkpoint; expected a dict"),
    "malicious": (None, "not a readable checkpoint"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_MODELS.values(), ids=BROKEN_MODELS)
def test_broken_models_are_named_by_inference(resumable, change, message) -> None:
    path, trace = resumable.models / MODEL, resumable.root / "trace"
    change = {"valid_result": Malicious(trace)} if change is None else change
    torch.save(load_file(path) | change, path)
    values = ("--set", "DATA.data_dir_val=target.hdf")
    finished = resumable.command("inference", *resumable.arguments("-mn", "tiny", *values))
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert f"model.ckpt: {message}" in finished.err
    assert not trace.exists()


# Config on resuming


def test_another_run_is_not_resumed_in_this_ones_folder(resumable: Project) -> None:
    before = (resumable.models / TRAINING_STATE).read_bytes()
    error = resumable.fail(*RESUME, "--set", "TRAIN.batch_size=2", "--set", "TRAIN.random_seed=1")
    assert "TRAIN.batch_size: was 1, is 2; TRAIN.random_seed: was 555, is 1" in error
    assert "MODEL.width: was 2, is 4" in resumable.fail(*RESUME, "--set", "MODEL.width=4")
    sgd = ("--set", "TRAIN.opt_type=sgd")
    assert "TRAIN.opt_type: was adam, is sgd" in resumable.fail(*RESUME, *sgd)
    other = ("--run-name", "other", "--set", "TRAIN.model_name=tiny")
    assert "of another optimiser" in resumable.fail(*RESUME, *sgd, *other)
    assert (resumable.models / TRAINING_STATE).read_bytes() == before


def test_changes_of_the_schedule_are_warned_of_and_others_pass(resumable: Project) -> None:
    free = ("TRAIN.num_workers=1", "TRAIN.display_freq=1", "TRAIN.on_nan=skip", "TEST.tile_pad=64")
    more = [part for key in (*free, "TRAIN.weight_cross=0.2") for part in ("--set", key)]
    output = resumable.train(*RESUME, *more)
    assert output.count("warning: ") == 2
    assert "warning: TRAIN.total_iters: was 4, is 6; " in output
    assert "warning: TRAIN.weight_cross: was 0.1, is 0.2; " in output


@pytest.mark.parametrize("name", ["source", "source_groundtruth", "target"])
def test_volumes_that_have_changed_are_warned_of(resumable: Project, name: str) -> None:
    path = resumable.root / f"{name}.hdf"
    volume = open_volume(path, keep=False)
    sections = np.stack([volume.section(k) for k in range(SHAPE[0])])
    volume.close()
    resumable.write(path.name, sections[::-1])  # as many bytes
    key = {"source": "img", "source_groundtruth": "label", "target": "target"}[name]
    output = resumable.train(*RESUME)
    assert output.count("warning: ") == 2  # and TRAIN.total_iters
    assert f"warning: DATA.data_dir_{key}: its files have changed (names, sizes or " in output


def test_states_of_before_these_fields_resume(resumable: Project) -> None:
    path = resumable.models / TRAINING_STATE
    state = load_file(path)
    for key in ("config", "best", "nonfinite", "collapsed", "volumes"):
        del state[key]
    state["log"]["sums"].pop("skipped", None)
    state["log"] = {"sums": state["log"]["sums"], "count": 0}
    torch.save(state | {"best_score": None}, path)
    assert "warning: " not in resumable.train(*RESUME)


def test_states_with_options_that_are_gone_resume(resumable: Project) -> None:
    path = resumable.models / TRAINING_STATE
    state = load_file(path)
    weights = state["networks"]["segmentor"]
    best = {"weights": weights, "iteration": 3, "valid_result": 0.5, "chosen_by": "best"}
    state["best"] = best | {"pixel_size": None, "section_thickness": None}
    state |= {"guard": torch.zeros(2), "choice": {"cost": 0.5, "checkpoint": None}}
    state["config"]["BEYOND"] |= {"teacher": True, "paste": False, "complementary": "no"}
    state["config"]["TRAIN"]["choose_by"] = "entropy"
    torch.save(state, path)
    output = resumable.train(*RESUME)
    assert "warning: BEYOND.teacher: was True, is gone since the revision after 88888e3; " in output
    assert "warning: TRAIN.choose_by: was entropy, is average; " in output
    assert output.count("warning: ") == 3  # and TRAIN.total_iters
    assert load_checkpoint(resumable.models / BEST).iteration == 3
    torch.save(state | {"config": state["config"] | {"DATA": {"section_thickness": 50.0}}}, path)
    error = resumable.fail(*RESUME)
    assert "DATA.section_thickness: was 50.0, is gone since the revision after 88888e3" in error


@pytest.mark.parametrize(
    ("rule", "file", "said"),
    [("last", LAST, "last"), ("average", AVERAGE, "average of the weights over the last iter")],
)
def test_the_model_is_what_was_asked_for(project: Project, rule, file, said: str) -> None:
    output = project.train("--set", f"TRAIN.choose_by={rule}")
    model, chosen, other = (
        load_checkpoint(project.models / name)
        for name in (MODEL, file, AVERAGE if file == LAST else LAST)
    )
    assert model.chosen_by.startswith(said)
    assert f"model.ckpt ({model.chosen_by})\n" in output
    key = "section_full.conv1.weight"
    assert torch.equal(model.weights[key], chosen.weights[key])
    assert not torch.equal(model.weights[key], other.weights[key])
