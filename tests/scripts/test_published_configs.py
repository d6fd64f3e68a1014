"""The published YAML files and command lines, on tiny volumes laid out as the published data."""

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections
from tests.published_yaml import published_yaml

pytestmark = pytest.mark.auto_precision

SECTIONS = {"VNC3": 12, "Lucchi": 12, "Mito": 3}  # more than the published stride of 10, of 1
SIDE = 64

# What tiny volumes need; all else is as published.
SMALL = (
    "MODEL.width=2",
    "TRAIN.total_iters=2",
    "TRAIN.display_freq=1",
    "TRAIN.num_workers=0",
    "DATA.input_size=32",
    "DATA.input_size_target=32",
    "DATA.input_size_test=128",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data tree as published, without the lists that came with it."""
    root = tmp_path / "data"
    folders = {"VNC3/training": SOURCE_MICROSCOPE} | dict.fromkeys(
        ("Lucchi/training", "Lucchi/testing"), TARGET_MICROSCOPE
    )
    files = {
        f"Mito/{animal}/{part}": microscope
        for animal, microscope in (("rat", SOURCE_MICROSCOPE), ("human", TARGET_MICROSCOPE))
        for part in ("training", "testing")
    }
    for seed, (place, microscope) in enumerate((folders | files).items()):
        shape = (SECTIONS[place.split("/")[0]], SIDE, SIDE)
        volumes = make_volume(seed, shape, microscope)
        for suffix, array in zip(("", "_groundtruth"), volumes, strict=True):
            if place in folders:
                write_sections(root / (place + suffix), array)
            else:
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                with h5py.File(root / f"{place}{suffix}.hdf", "w") as file:
                    file["main"] = array
    return root


@pytest.fixture
def run(command, data: Path, tmp_path: Path) -> Callable:
    """Run a command on a published config that is written to a file."""

    def run_command(script: str, name: str, *arguments: str, sets: tuple = SMALL):
        path = tmp_path / f"{name}.yaml"
        path.write_text(published_yaml(name))
        places = ("-c", path, "--data", data, "--out", tmp_path, "--device", "cpu")
        overrides = [part for value in sets for part in ("--set", value)]
        finished = command(script, *places, *overrides, *arguments)
        assert finished.code == 0, finished.err
        assert all(line.startswith("warning: ") for line in finished.err.splitlines())
        return finished

    run_command.out = tmp_path
    return run_command


@pytest.mark.parametrize("name", ["vnc2lucchi1", "vnc2lucchi2"])
def test_the_published_vnc_files_train_and_predict(run, name: str) -> None:
    warnings = run("main", name, "-m", "train").err
    assert "the key input_size_target is given twice, both times as 512\n" in warnings
    for list_name in ("VNC3/train.txt", "Lucchi/train.txt", "Lucchi/testing.txt"):
        assert f"{list_name}: no such list, all sections are used" in warnings
    assert warnings.count("\n") == 4
    output = run("inference", name, "--model_name", name, "-sw").out
    assert re.search(r"\nmAP=\d\.\d{4}, F1=\d\.\d{4}, MCC=-?\d\.\d{4}, IoU=\d\.\d{4}\n", output)
    assert len(list((run.out / "inference" / name / "seg_img").iterdir())) == 12


@pytest.mark.parametrize("name", ["mitor2h", "mitoh2r"])
def test_the_published_mitoem_files_train_and_predict(run, name: str) -> None:
    run("main_mito", name, "--mode", "train")
    assert re.search(r"model-2, F1=", (run.out / "logs" / name / "valid.txt").read_text())
    output = run("inference_mito", name, "-mn", name, "-sw").out
    target = "human" if name == "mitor2h" else "rat"
    lines = [
        rf"cfg_file: {name}\.yaml",
        rf"out_path: .*inference/{name}",
        r"checkpoint: .*",
        rf"Load .*Mito/{target}/testing\.hdf",
        r"raw shape: \(3, 64, 64\)",
        r"padded raw shape: \(3, 576, 576\)",
        r"iters: 128",  # of 128 pixels every 64 in 576: 8 x 8 tiles of 2 pairs
        rf"Load .*Mito/{target}/testing_groundtruth\.hdf",
        r"Begin inference\.\.\.",
        r"the number of sub-volume: 128",
        r"Prediction time \(s\): .*",
        r"pairs of windows per second: .*",
        r"Measure on mAP, F1, MCC, and IoU\.\.\.",
        r"mAP=\d\.\d{4}, F1=\d\.\d{4}, MCC=-?\d\.\d{4}, IoU=\d\.\d{4}",
        r"Measurement time \(s\): .*",
        r"map_2d: per section, .*",
        r"upper bound of F1 \(threshold chosen with these labels\): .*",
        r"Show\.\.\.",
        r"peak memory: .*",
        r"Done",
    ]
    assert re.fullmatch("\n".join(lines) + "\n", output)
    with h5py.File(run.out / "inference" / name / "preds.hdf") as file:
        assert file["main"].shape == (3, SIDE, SIDE)
        assert file["main"].dtype == np.float32


def test_a_published_file_is_resumed_as_its_model_name_is_empty(run) -> None:
    half = (*SMALL, "TRAIN.save_freq=1")
    run("main", "vnc2lucchi1", sets=half)
    run("main", "vnc2lucchi1", "--resume", sets=(*half, "TRAIN.total_iters=3"))
    losses = (run.out / "logs/vnc2lucchi1/loss.txt").read_text()
    assert re.findall(r"step=(\d+)", losses) == ["1", "2", "3"]


def test_the_published_number_of_workers_is_taken_whatever_the_cores(run, recwarn) -> None:
    sets = tuple(value for value in SMALL if not value.startswith("TRAIN.num_workers"))
    run("main", "vnc2lucchi1", sets=sets)
    assert not [str(w.message) for w in recwarn if "DataLoader" in str(w.message)]


@pytest.mark.parametrize("script", ["main", "main_mito"])
def test_another_mode_is_refused_in_one_line(command, data: Path, script: str) -> None:
    finished = command(script, "-m", "test", "-c", "vnc2lucchi1", "--data", data)
    assert finished.code == 2
    assert finished.err == "error: -m test: expected train; inference.py predicts and scores\n"


@pytest.mark.parametrize(
    ("script", "config"), [("inference", "vnc2lucchi1"), ("inference_mito", "mitor2h")]
)
def test_the_inference_commands_have_the_published_defaults(
    command, data: Path, tmp_path: Path, script: str, config: str
) -> None:
    finished = command(script, "--data", data, "--out", tmp_path)
    assert finished.out == f"cfg_file: {config}.yaml\n"
    assert re.fullmatch(
        rf"error: .*models/{config}/model\.ckpt: no such checkpoint; .*\n", finished.err
    )


def test_both_spellings_of_the_options_of_inference(run) -> None:
    run("main", "vnc2lucchi1")
    texts = []
    for options in (
        ("--model_name", "vnc2lucchi1", "--mode_map", "map_3d"),
        ("--model-name", "vnc2lucchi1", "--mode-map", "map_3d"),
        ("-mn", "vnc2lucchi1", "-mm", "map_3d"),
    ):
        assert "\nmap_3d: pooled over all voxels" in run("inference", "vnc2lucchi1", *options).out
        texts.append((run.out / "inference/vnc2lucchi1/scores.txt").read_text())
    assert len(set(texts)) == 1
