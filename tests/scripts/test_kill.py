"""Runs that are killed again and again end as one that is not; `make kill` does it 100 times."""

import filecmp
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections
from tests.killing import Kill, draw_kill, run
from tests.plain_inference import SLICES, options

KILLS = int(os.environ.get("KILLS", "5"))
SEED = int(os.environ.get("KILL_SEED", "1"))
ITERATIONS = 8
FILES, SAVES = 90, 14  # openings of files, and checkpoints, in a whole run: about
TEXT_FILES = ("loss.txt", "loss_adv.txt", "valid.txt", "target.txt")
CONFIG = {
    "NAME": "tiny",
    "MODEL": {"width": 2},
    "TRAIN": {
        "total_iters": ITERATIONS,
        "learning_rate": 1e-2,
        "display_freq": 3,
        "show_freq": 4,
        "valid_freq": 3,
        "save_freq": 2,
        "keep_checkpoints": True,
        "num_workers": 0,
        "precision": "float32",
        "if_cuda": False,
        "random_seed": 2,
    },
    "DATA": {
        "data_dir_img": "source",
        "data_dir_label": "source_groundtruth",
        "data_dir_target": "target",
        "input_size": 32,
        "data_dir_val": "target",
        "data_dir_val_label": "target_groundtruth",
    },
    "TEST": {"padded_size": 48, "precision": "float32"},
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("kill")
    for seed, (name, microscope) in enumerate(
        {"source": SOURCE_MICROSCOPE, "target": TARGET_MICROSCOPE}.items()
    ):
        images, labels = make_volume(seed, (3, 48, 48), microscope)
        write_sections(root / name, images)
        write_sections(root / f"{name}_groundtruth", labels)
    config = root / "tiny.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    return ["-c", str(config), "--data", str(root), "--device", "cpu"]


def content(folder: Path) -> dict:
    """All that a run leaves, by name: lines, weights, states, points of curves."""
    found = {name: (folder / "logs/tiny" / name).read_text() for name in TEXT_FILES}
    for path in (folder / "models/tiny").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        found |= {f"{path.name}/{key}": value for key, value in leaves(state, "")}
    events = EventAccumulator(str(folder / "logs/tiny")).Reload()
    for tag in events.Tags()["scalars"]:
        found[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def leaves(value: object, key: str):
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, f"{key}/{name}")
    else:
        yield key, value.tolist() if isinstance(value, torch.Tensor) else value


def different(one: dict, other: dict) -> set[str]:
    # what was asked for on the command line
    keys = {key for key in one.keys() | other.keys() if not key.endswith("/config/TRAIN/resume")}
    return {key for key in keys if one.get(key) != other.get(key)}


def test_a_run_killed_at_any_moment_ends_as_an_uninterrupted_one(arguments, tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    run("main", ["--help"], whole)  # starts the server that others are forked from
    begin = time.perf_counter()
    assert run("main", [*arguments, "--out", str(whole)], whole) == 0, (
        whole / "output"
    ).read_text()
    seconds, expected = time.perf_counter() - begin, content(whole)
    draw, kills, runs, resumed = random.Random(SEED), Counter(), 0, 0
    states = [
        killed / "models/tiny" / name
        for name in ("training_state.ckpt", "training_state.previous.ckpt")
    ]
    going_on = False
    while sum(kills.values()) < KILLS or going_on:
        if not going_on:
            option = "--overwrite"
        else:
            option = "--resume" if any(state.exists() for state in states) else "--overwrite"
        kill = draw_kill(draw, seconds, FILES, SAVES) if sum(kills.values()) < KILLS else None
        code = run("main", [*arguments, "--out", str(killed), option], killed, kill)
        output = (killed / "output").read_text()
        resumed += option == "--resume"
        if code == -9:
            kills[kill.kind] += 1
            going_on = True
            continue
        assert code == 0 or "the run is finished" in output, output
        assert not different(content(killed), expected)
        going_on, runs = False, runs + 1
    print(f"{sum(kills.values())} kills {dict(kills)}, {resumed} resumptions, {runs} runs ended")


def predict(arguments: list[str], models: Path, out: Path, kill: Kill | None = None) -> str:
    """What a prediction says; nothing if it was killed, which comes too late for short ones."""
    out.mkdir(exist_ok=True)
    more = ["--set", f"TRAIN.save_path={models / 'models'}", "--out", str(out)]
    code = run("inference", [*arguments, *more], out, kill)
    assert code in ((0, -9) if kill else (0,)), (out / "output").read_text()
    return "" if code else (out / "output").read_text()


@pytest.mark.parametrize("joined", [False, True])
def test_a_prediction_that_is_killed_goes_on_to_the_same_files(
    arguments, tmp_path, joined: bool
) -> None:
    if joined:
        arguments = [*arguments, *options(SLICES)]
    models, draw = tmp_path / "models", random.Random(SEED)
    models.mkdir()
    assert run("main", [*arguments, "--out", str(models)], models) == 0
    predict(arguments, models, tmp_path / "whole")
    expected = sorted(path for path in (tmp_path / "whole/inference").rglob("*") if path.is_file())
    killed, goings_on = 0, 0
    for number in range(max(3, KILLS // 2)):
        out = tmp_path / f"killed{number}"
        for _ in range(2):
            killed += not predict(arguments, models, out, Kill("file", draw.randint(30, 60)))
        said = predict(arguments, models, out)
        goings_on += "are predicted already" in said
        for path in expected:
            other = out / path.relative_to(tmp_path / "whole")
            if path.name not in ("summary.json", ".lock"):  # which hold time and process
                assert filecmp.cmp(path, other, shallow=False), path
        left = {path.name for path in (out / "inference/tiny").iterdir()}
        assert left == {path.name for path in (tmp_path / "whole/inference/tiny").iterdir()}
    assert goings_on  # something was left to go on from
    print(f"{killed} predictions killed, {goings_on} went on with sections that were there")
