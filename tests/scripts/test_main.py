"""main.py: what a run leaves, how it is checked and repeated, and mistakes in one line."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataloader.synthetic import make_volume, write_sections
from model.checkpoint import BEST, LAST, load_checkpoint
from tests.scripts.tiny_project import (
    ADAPTATION_LINE,
    ITERATIONS,
    LOSS_LINE,
    NUMBER,
    SECTIONS,
    SHAPE,
    SIDE,
    SOURCE_ONLY,
    Project,
    numbers,
    write_config,
)
from training.trainer import Trainer
from utils.config.load import load_config
from utils.paths import ROOT, Workspace


def test_loss_files_are_as_published(trained: Project) -> None:
    for file, pattern in (("loss.txt", LOSS_LINE), ("loss_adv.txt", ADAPTATION_LINE)):
        lines = trained.lines(file)
        assert [int(numbers(line)[0]) for line in lines] == [2, 4, 6]
        for line in lines:
            assert re.fullmatch(pattern, line)
            _, total, *parts = numbers(line)
            assert total == pytest.approx(sum(parts), abs=3e-6)


def test_valid_file_is_as_published(trained: Project) -> None:
    lines = trained.lines("valid.txt")
    assert [line.split(",")[0] for line in lines] == ["model-1", "model-3", "model-6"]
    assert all(re.fullmatch(rf"model-\d+, dice={NUMBER}, jac={NUMBER}", line) for line in lines)


def test_run_folder_holds_config_revision_and_log(trained: Project) -> None:
    folder = trained.out / "logs/tiny"
    resolved = yaml.safe_load((folder / "resolved.yaml").read_text())
    assert resolved["TRAIN"]["total_iters"] == ITERATIONS
    assert resolved["TRAIN"]["weight_cross"] == 0.1
    assert len(trained.lines("git_revision.txt")) == 1
    log = (folder / "train.log").read_text()
    for line in ("cfg_file: tiny.yaml", "device: cpu", "validation at 6: dice="):
        assert line in log
        assert line in trained.training_output
    assert re.search(r"target: .*png/target, 5 sections of 64 x 64, stride 2", log)
    rates = re.findall(
        r"step=\d+, loss=.*, lr=(\d\.\d{3}e-\d\d|0\.000e\+00), elapsed=\d\d:\d\d\n +adaptation", log
    )
    expected = [1e-2 * (1 - it / ITERATIONS) ** 0.9 for it in (2, 4, 6)]
    assert [float(rate) for rate in rates] == pytest.approx(expected, rel=1e-3)


def test_tensorboard_holds_the_published_scalars(trained: Project) -> None:
    events = EventAccumulator(str(trained.out / "logs/tiny"))
    events.Reload()
    tags = events.Tags()
    assert {"loss_supervised", "loss_adv", "valid/dice", "valid/jac"} <= set(tags["scalars"])
    assert {"source", "target"} <= set(tags["images"])
    assert any(tag.startswith("cfg") for tag in tags["tensors"])
    losses = events.Scalars("loss_supervised")
    assert [event.step for event in losses] == [2, 4, 6]
    expected = [numbers(line)[1] for line in trained.lines("loss.txt")]
    assert [event.value for event in losses] == pytest.approx(expected, abs=1e-6)
    dice = [numbers(line)[0] for line in trained.lines("valid.txt")]
    assert [event.value for event in events.Scalars("valid/dice")] == pytest.approx(dice, abs=1e-6)


def test_training_pictures(trained: Project) -> None:
    for domain in ("source", "target"):
        picture = cv2.imread(str(trained.out / f"logs/tiny/{domain}.png"))
        assert picture.shape[:2] == (3 * 32 + 2 * 4, 3 * 32 + 2 * 4)


def test_checkpoints_say_how_they_were_chosen(trained: Project) -> None:
    last, best = (load_checkpoint(trained.out / "models/tiny" / name) for name in (LAST, BEST))
    dice = {
        int(line.split(",")[0].removeprefix("model-")): numbers(line)[0]
        for line in trained.lines("valid.txt")
    }
    assert (last.iteration, last.chosen_by) == (ITERATIONS, "last")
    assert last.valid_result == pytest.approx(dice[ITERATIONS], abs=1e-6)
    assert "best-on-target-labels" in best.chosen_by
    assert best.valid_result == pytest.approx(max(dice.values()), abs=1e-6)
    assert dice[best.iteration] == max(dice.values())
    assert best.iteration < last.iteration


def test_hdf5_training_validates_by_f1(trained_hdf5: Project) -> None:
    lines = trained_hdf5.lines("valid.txt")
    assert len(lines) == 3
    assert all(re.fullmatch(rf"model-\d+, F1={NUMBER}", line) for line in lines)
    events = EventAccumulator(str(trained_hdf5.out / "logs/tiny"))
    events.Reload()
    assert "valid/F1" in events.Tags()["scalars"]
    assert all(re.fullmatch(LOSS_LINE, line) for line in trained_hdf5.lines("loss.txt"))


def test_a_run_is_not_overwritten_unasked(project: Project) -> None:
    quick = ("--set", "TRAIN.total_iters=1")
    project.run("main", *quick)
    before = (project.out / "models/tiny" / LAST).read_bytes()
    finished = project("main", *quick, "--set", "TRAIN.random_seed=1")
    assert finished.code == 2
    assert re.fullmatch(r"error: .*logs/tiny: holds an earlier run; .*\n", finished.err)
    assert (project.out / "models/tiny" / LAST).read_bytes() == before

    project.run("main", *quick, "--run-name", "other")
    assert len(project.lines("loss.txt", "other")) == 1
    assert (project.out / "models/tiny" / LAST).read_bytes() == before

    (project.out / "logs/tiny/stale").touch()
    project.run("main", *quick, "--set", "TRAIN.random_seed=1", "--overwrite")
    assert not (project.out / "logs/tiny/stale").exists()
    assert len(project.lines("loss.txt")) == 1
    assert (project.out / "models/tiny" / LAST).read_bytes() != before
    assert (project.out / "logs/other/loss.txt").exists()


@pytest.mark.parametrize("name", [".", "..", "a/..", "../.."])
def test_overwrite_never_leaves_the_runs_own_folder(project: Project, name: str) -> None:
    project.out = project.out / "deep/out"  # nothing above the test's own folder is at stake
    others = [
        project.out / "logs/a/file",
        project.out / "models/a/file",
        project.out.parent / "file",
    ]
    for file in others:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    finished = project("main", "--run-name", name, "--overwrite")
    assert all(file.exists() for file in others)
    assert finished.code == 2
    assert finished.err.count("\n") == 1


def test_without_labels_of_the_target(project: Project) -> None:
    write_config(project.config, DATA={"data_dir_val_label": "png/nowhere"})
    output = project.run("main")
    assert output.count("no labels") == 1
    assert not (project.out / "logs/tiny/valid.txt").exists()
    assert not (project.out / "models/tiny" / BEST).exists()
    output = project.run("inference", "-sw")
    assert output.count("No labels (png/nowhere): not scored") == 1
    assert "mAP" not in output
    assert output.endswith("Done\n")
    assert project.predictions().shape == SHAPE
    assert not (project.out / "inference/tiny/scores.txt").exists()
    assert len(list((project.out / "inference/tiny/seg_img").iterdir())) == SECTIONS


def test_training_never_reads_the_targets_labels(project: Project, trained: Project) -> None:
    write_config(project.config, DATA={"data_dir_target_label": "png/nowhere"})
    project.run("main", "--set", "TRAIN.if_valid=false")
    assert project.lines("loss.txt") == trained.lines("loss.txt")
    assert not (project.out / "logs/tiny/valid.txt").exists()


def test_source_only(project: Project) -> None:
    output = project.run("main", *SOURCE_ONLY, "--set", "TRAIN.show_freq=0")
    assert not list((project.out / "logs/tiny").glob("*.png"))
    assert output.count("source only: the consistency and adversarial weights are all 0") == 1
    for line in project.lines("loss_adv.txt"):
        assert numbers(line)[1:] == [0, 0, 0, 0]
    project.run("inference")
    assert project.predictions().shape == SHAPE


def test_check_does_a_little_of_everything_in_folders_of_its_own(project: Project) -> None:
    for _ in range(2):  # and may be repeated
        output = project.run("main", "--check")
    assert output.endswith("Done\n")
    assert [int(numbers(line)[0]) for line in project.lines("loss.txt", "tiny-check")] == [1, 2]
    assert len(project.lines("valid.txt", "tiny-check")) == 1
    assert (project.out / "logs/tiny-check/target.png").exists()
    assert load_checkpoint(project.out / "models/tiny-check" / LAST).iteration == 2
    assert not (project.out / "logs/tiny").exists()


def test_check_on_a_cpu_takes_smaller_crops(command, tmp_path: Path) -> None:
    images, labels = make_volume(0, (3, 288, 288))
    for name in ("source", "target", "val"):
        write_sections(tmp_path / "data/png" / name, images)
        write_sections(tmp_path / f"data/png/{name}_groundtruth", labels)
    project = Project(command, tmp_path / "data", tmp_path)
    write_config(project.config, DATA={"input_size": 288}, TEST={"padded_size": 288})
    output = project.run("main", "--check")
    assert output.count("crops: 256 pixels in this check, 288 in a full run") == 1


def test_check_demands_that_the_run_s_crops_fit(project: Project) -> None:
    finished = project("main", "--check", "--set", "DATA.input_size=272")
    assert finished.code == 2
    assert "are smaller than the crop of 272; set DATA.input_size" in finished.err


def test_training_repeats_with_its_seed(project: Project, trained: Project) -> None:
    project.run("main", "--set", "TRAIN.num_workers=2")
    for file in ("loss.txt", "loss_adv.txt", "valid.txt"):
        assert project.lines(file) == trained.lines(file)
    for name, value in project.weights().items():
        assert torch.equal(value, trained.weights()[name])
    project.run("main", "--run-name", "other", "--set", "TRAIN.random_seed=556")
    for one, other in zip(
        project.lines("loss.txt", "other"), trained.lines("loss.txt"), strict=True
    ):
        assert one != other


def test_draws_follow_the_seed_and_the_domain(project: Project) -> None:
    write_config(project.config, DATA={"data_dir_target": "png/source", "source_stride": 2})
    draws = set()
    for seed in (2, 3):
        config = load_config(str(project.config), [f"TRAIN.random_seed={seed}"], Path()).config
        workspace = Workspace(project.data, project.out)
        trainer = Trainer(config, workspace, "run", torch.device("cpu"))
        for dataset in (trainer.source, trainer.target):
            assert len(dataset) == ITERATIONS
            draws |= {dataset[n]["images"].tobytes() for n in range(ITERATIONS)}
    assert len(draws) == 4 * ITERATIONS


@pytest.mark.parametrize("key", ["data_dir_label", "data_dir_val_label"])
def test_labels_of_another_shape_are_refused(project: Project, key: str) -> None:
    write_sections(project.out / "wider", np.zeros((SECTIONS, SIDE, SIDE + 16), np.uint8))
    finished = project("main", "--set", f"DATA.{key}={project.out / 'wider'}")
    assert finished.code == 2
    assert "do not fit" in finished.err
    assert not (project.out / "logs").exists()


USER_ERRORS = {
    "unknown key": (
        ["--set", "TRAIN.total_iter=1"],
        "TRAIN.total_iter: unknown key; .*total_iters",
    ),
    "wrong value": (["--set", "TRAIN.total_iters=-1"], "TRAIN.total_iters: found -1"),
    "source missing": (["--set", "DATA.data_dir_img=gone"], "DATA.data_dir_img: .*gone: not found"),
    "labels missing": (
        ["--set", "DATA.data_dir_label=gone"],
        "DATA.data_dir_label: .*gone: not found",
    ),
    "target missing": (["--set", "DATA.data_dir_target=gone"], "DATA.data_dir_target: .*not found"),
    "stride": (["--set", "DATA.target_stride=5"], "found 5 sections, expected more .* stride of 5"),
    "crop": (["--set", "DATA.input_size=128"], "smaller than the crop of 128"),
    "padding": (["--set", "TEST.padded_size=32"], r"TEST\.padded_size: found \(32, 32\)"),
    "data root": (["--data", "/nowhere"], "--data /nowhere: no such folder"),
    "config": (["-c", "vnc2luchi"], "-c vnc2luchi: no such config; .*vnc2lucchi1"),
}


@pytest.mark.parametrize(("arguments", "message"), USER_ERRORS.values(), ids=USER_ERRORS)
def test_mistakes_end_in_one_line_and_write_nothing(project, arguments, message) -> None:
    finished = project("main", *arguments)
    assert finished.code == 2
    assert re.fullmatch(f"error: .*{message}.*\n", finished.err)
    assert [path.name for path in project.out.iterdir()] == ["tiny.yaml"]


def test_missing_gpu_is_a_mistake(project: Project) -> None:
    for script in ("main", "inference"):
        finished = project(script, "--device", "cuda")
        assert finished.code == 2
        assert finished.err.startswith("error: --device cuda: not available on this machine")
    assert not (project.out / "logs").exists()


def test_commands_start_from_the_root_and_from_scripts(tmp_path: Path) -> None:
    starts = [(ROOT, "scripts/main.py"), (ROOT / "scripts", "inference_mito.py")]
    processes = [
        subprocess.Popen(
            [sys.executable, script, "-c", "nowhere", "--data", tmp_path],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder, script in starts
    ]
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 2
        assert out == ""
        assert re.fullmatch(r"error: -c nowhere: no such config; .*\n", err)
