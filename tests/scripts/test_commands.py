"""The commands from end to end, on tiny synthetic volumes."""

import copy
import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
import yaml
from scipy import ndimage
from sklearn import metrics as sk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataloader.formats.opening import open_volume
from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections
from model.checkpoint import (
    BEST,
    CHOSEN_AVERAGE,
    LAST,
    MODEL,
    load_checkpoint,
    segmentor_from,
)
from prediction.predictor import NetworkPredictor
from tests.plain_inference import predicted
from training.run_folder import RunLog
from training.trainer import Trainer
from utils.config.load import load_config
from utils.paths import ROOT, Workspace
from utils.runtime.signals import Interrupted, StopSignal

SECTIONS, SIDE, ITERATIONS = 5, 64, 6
SHAPE = (SECTIONS, SIDE, SIDE)

NUMBER = r"\d+\.\d{6}"
LOSS_LINE = (
    rf"step=\d+, loss={NUMBER}, loss_cpred={NUMBER}, loss_apred={NUMBER}, loss_diff={NUMBER}"
)
ADAPTATION_LINE = (
    rf"step=\d+, loss={NUMBER}, loss_cross={NUMBER}, "
    rf"loss_adv_spatial={NUMBER}, loss_adv_temporal={NUMBER}"
)
SCORES_LINE = r"mAP=\d\.\d{4}, F1=\d\.\d{4}, MCC=-?\d\.\d{4}, IoU=\d\.\d{4}"

CONFIG = {
    "NAME": "tiny",
    "MODEL": {"width": 2},
    "TRAIN": {
        "total_iters": ITERATIONS,
        "rampup_iters": 3,
        "learning_rate": 1e-2,
        "display_freq": 2,
        "show_freq": 3,
        "valid_freq": 3,
        "save_freq": 3,
        "num_workers": 0,
        "precision": "float32",
        "if_cuda": False,
        "random_seed": 2,  # its validation scores fall, so that the best is not the last
    },
    "DATA": {
        "data_dir_img": "../data/png/source",
        "data_dir_label": "../data/png/source_groundtruth",
        "data_dir_target": "../data/png/target",
        "target_stride": 2,
        "input_size": 32,
        "data_dir_val": "../data/png/val",
        "data_dir_val_label": "../data/png/val_groundtruth",
    },
    "TEST": {
        "padded_size": 80,
        "tile": 32,
        "tile_step": 16,
        "tile_pad": 16,
        "precision": "float32",
    },
}
SOURCE_ONLY = [
    part
    for key in ("weight_cross", "weight_adv_spatial", "weight_adv_temporal")
    for part in ("--set", f"TRAIN.{key}=0")
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data tree: three labelled synthetic volumes as folders of PNG and as HDF5 files."""
    root = tmp_path_factory.mktemp("data")
    (root / "hdf").mkdir()
    microscopes = {
        "source": SOURCE_MICROSCOPE,
        "target": TARGET_MICROSCOPE,
        "val": TARGET_MICROSCOPE,
    }
    for seed, (name, microscope) in enumerate(microscopes.items()):
        volumes = dict(zip(("", "_groundtruth"), make_volume(seed, SHAPE, microscope), strict=True))
        for suffix, volume in volumes.items():
            write_sections(root / "png" / (name + suffix), volume)
            with h5py.File(root / "hdf" / f"{name}{suffix}.hdf", "w") as file:
                file["main"] = volume
    return root


def write_config(path: Path, **changes: dict) -> Path:
    """The tiny config with keys of its sections changed."""
    values = copy.deepcopy(CONFIG)
    for section, keys in changes.items():
        values[section] |= keys
    path.write_text(yaml.safe_dump(values))
    return path


class Project:
    """A config, a data root and an output folder to run commands with."""

    def __init__(self, command: Callable, data: Path, out: Path) -> None:
        self.command, self.data, self.out = command, data, out
        self.config = write_config(out / "tiny.yaml")

    def __call__(self, script: str, *arguments: object):
        places = ("-c", self.config, "--data", self.data, "--out", self.out, "--device", "cpu")
        return self.command(script, *places, *arguments)

    def run(self, script: str, *arguments: object) -> str:
        """Run a command that must succeed; its output."""
        finished = self(script, *arguments)
        assert finished.code == 0, finished.err
        assert finished.err == ""
        return finished.out

    def lines(self, file: str, run: str = "tiny") -> list[str]:
        return (self.out / "logs" / run / file).read_text().splitlines()

    def predictions(self, run: str = "tiny") -> np.ndarray:
        with h5py.File(self.out / "inference" / run / "preds.hdf") as file:
            return file["main"][:]

    def weights(self, run: str = "tiny", file: str = LAST) -> dict[str, torch.Tensor]:
        return load_checkpoint(self.out / "models" / run / file).weights


@pytest.fixture
def project(command, data, tmp_path) -> Project:
    return Project(command, data, tmp_path)


@pytest.fixture(scope="module")
def trained(command, data, tmp_path_factory) -> Project:
    """A project whose model is trained and has predicted."""
    project = Project(command, data, tmp_path_factory.mktemp("trained"))
    project.training_output = project.run("main")
    project.inference_output = project.run("inference", "-mn", "tiny", "-sw")
    return project


@pytest.fixture(scope="module")
def trained_hdf5(command, data, tmp_path_factory) -> Project:
    """The same on HDF5 volumes, by the names of the MitoEM commands."""
    project = Project(command, data, tmp_path_factory.mktemp("hdf5"))
    keys = [key for key in CONFIG["DATA"] if key.startswith("data_dir")]
    paths = {key: CONFIG["DATA"][key].replace("png", "hdf") for key in keys}
    write_config(project.config, DATA=paths | {"data_dir_val": "hdf/val.hdf", "target_stride": 1})
    project.training_output = project.run("main_mito")
    project.inference_output = project.run("inference_mito", "-sw")
    return project


def labels(data: Path) -> np.ndarray:
    with h5py.File(data / "hdf/val_groundtruth.hdf") as file:
        return file["main"][:] // 255


def sklearn_scores(probability: np.ndarray, label: np.ndarray) -> list[float]:
    truth, values = label.ravel(), probability.ravel()
    mask = values >= 0.5
    return [
        sk.average_precision_score(truth, values),
        sk.f1_score(truth, mask, zero_division=0),
        sk.matthews_corrcoef(truth, mask),
        sk.jaccard_score(truth, mask, zero_division=0),
    ]


def numbers(line: str) -> list[float]:
    return [float(value) for value in re.findall(r"=(-?[\d.]+)", line)]


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


def test_inference_prints_as_published(trained: Project) -> None:
    patterns = [
        r"cfg_file: tiny\.yaml",
        r"out_path: .*inference/tiny",
        r"checkpoint: .*models/tiny/model\.ckpt, iteration 6, chosen by: "
        + re.escape(f"{CHOSEN_AVERAGE}, precision: float32"),
        r"Begin inference\.\.\.",
        r"Prediction time \(s\): \d+\.\d+",
        r"pairs of windows per second: \d+\.\d+",
        r"Measure on mAP, F1, MCC, and IoU\.\.\.",
        SCORES_LINE,
        r"Measurement time \(s\): \d+\.\d+",
        r"map: per section, .*; sections: \d+, without mitochondria: \d+, with none predicted: \d+",
        r"Show\.\.\.",
        r"peak memory: \d+\.\d GB",
        r"Done",
    ]
    lines = trained.inference_output.splitlines()
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line)


def test_scores_are_sklearns_of_the_predictions(trained: Project) -> None:
    probability, label = trained.predictions(), labels(trained.data)
    assert probability.shape == SHAPE
    assert probability.dtype == np.float32
    assert 0 <= probability.min() < probability.max() <= 1
    scores, notes, origin = (trained.out / "inference/tiny/scores.txt").read_text().splitlines()
    assert re.fullmatch(SCORES_LINE, scores)
    assert scores in trained.inference_output
    expected = np.mean([sklearn_scores(*pair) for pair in zip(probability, label, strict=True)], 0)
    assert numbers(scores) == pytest.approx(expected, abs=1e-4)
    assert notes in trained.inference_output
    assert notes.startswith("map: per section, averaged over sections; sections: ")
    assert origin == f"checkpoint=model.ckpt, iteration=6, chosen by: {CHOSEN_AVERAGE}"


def test_pictures_and_masks_of_sections(trained: Project) -> None:
    folder, probability = trained.out / "inference/tiny", trained.predictions()
    names = [f"{index:03d}.png" for index in range(SECTIONS)]
    for kind in ("masks", "seg_img"):
        assert sorted(path.name for path in (folder / kind).iterdir()) == names
    red = 0
    for index, name in enumerate(names):
        mask = cv2.imread(str(folder / "masks" / name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, (probability[index] >= 0.5) * 255)
        picture = cv2.imread(str(folder / "seg_img" / name), cv2.IMREAD_UNCHANGED)
        assert picture.shape == (SIDE, SIDE, 3)
        section = cv2.imread(str(trained.data / "png/val" / name), cv2.IMREAD_UNCHANGED)
        plain = np.ptp(picture, axis=-1) == 0  # no contour there
        np.testing.assert_array_equal(picture[plain][:, 0], section[plain])
        red += np.all(picture == (0, 0, 255), axis=-1).sum()  # OpenCV reads BGR
        if mask.any():
            assert np.all(picture == (0, 255, 0), axis=-1).any()
    assert red


def test_tables_and_summary_of_an_inference(trained: Project) -> None:
    folder, probability = trained.out / "inference/tiny", trained.predictions()
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert [row["name"] for row in rows] == [f"{index:03d}.png" for index in range(SECTIONS)]
    for row, section, label in zip(rows, probability, labels(trained.data), strict=True):
        expected = sklearn_scores(section, label)
        found = [float(row[name]) for name in ("mAP", "F1", "MCC", "IoU")]
        assert found == pytest.approx(expected, abs=1e-4)
        assert float(row["foreground_predicted"]) == pytest.approx(
            (section >= 0.5).mean(), abs=1e-6
        )
        assert float(row["foreground_label"]) == pytest.approx(label.mean(), abs=1e-6)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["chosen_by"] == CHOSEN_AVERAGE
    assert summary["volume"]["shape"] == list(SHAPE)
    assert summary["volume"]["voxel_size_nm"] is None
    assert summary["scores"]["F1"] == pytest.approx(
        np.mean([float(row["F1"]) for row in rows]), abs=1e-5
    )
    grey = cv2.imread(str(folder / "probability/002.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(grey / 255, probability[2], atol=0.5 / 255 + 1e-6)


def test_objects_in_another_format(command, data, trained, tmp_path) -> None:
    (tmp_path / "models").symlink_to(trained.out / "models")
    project = Project(command, data, tmp_path)
    sizes = {"pixel_size_target": 10, "section_spacing_target": 40}
    numbered = np.stack([ndimage.label(section)[0] for section in labels(data)]).astype(np.uint16)
    numbered[numbered > 0] += 10 * np.nonzero(numbered)[0].astype(np.uint16)  # more than classes
    with h5py.File(tmp_path / "numbered.h5", "w") as file:
        file["main"] = numbered
    sizes["data_dir_val_label"] = str(tmp_path / "numbered.h5")
    write_config(project.config, DATA=sizes)
    output = project.run("inference", "--instances", "--format", "ome-zarr")
    folder = tmp_path / "inference/tiny"
    instances = open_volume(folder / "instances.ome.zarr")
    masks = open_volume(folder / "masks.ome.zarr", masks=True)
    assert instances.voxel_size == masks.voxel_size == (40, 10, 10)
    rows = list(csv.DictReader((folder / "objects.csv").open()))
    counts = np.bincount(np.concatenate([instances.section(i).ravel() for i in range(SECTIONS)]))
    assert [int(row["voxels"]) for row in rows] == counts[1:].tolist()
    for row in rows:
        assert float(row["volume_um3"]) == pytest.approx(int(row["voxels"]) * 4e-6)
    assert re.search(r"AP50=\d\.\d{4}, AP75=", output)
    assert re.search(SCORES_LINE, output)  # the same labels are masks as well
    scores = json.loads((folder / "summary.json").read_text())["instance_scores"]
    assert set(scores) == {"AP50", "AP75"}
    probability = open_volume(folder / "probability.ome.zarr")
    np.testing.assert_array_equal(probability.section(1), project.predictions()[1])


def test_view_without_napari_says_what_to_install(project: Project) -> None:
    finished = project("inference", "--view")
    assert finished.code == 2
    assert finished.err == 'error: --view: napari is not installed; pip install "napari[all]"\n'


def test_predictions_are_joined_over_depth(command, data, trained, tmp_path) -> None:
    (tmp_path / "models").symlink_to(trained.out / "models")
    project = Project(command, data, tmp_path)
    write_config(project.config, DATA={"section_spacing_target": 10}, TEST={"z_average": 30})
    project.run("inference")
    single, joined = trained.predictions(), project.predictions()
    for index in range(SECTIONS):
        near = single[max(0, index - 1) : index + 2]
        np.testing.assert_allclose(joined[index], near.mean(0), rtol=1e-5)
    folder = tmp_path / "inference/tiny"
    mask = cv2.imread(str(folder / "masks/001.png"), cv2.IMREAD_UNCHANGED) > 0
    np.testing.assert_array_equal(mask, joined[1] >= 0.5)
    assert not list(folder.glob("*single*")) + list(folder.glob(".*single*"))
    write_config(project.config, TEST={"z_average": 30})
    finished = project("inference")
    assert finished.code == 2
    assert "set DATA.section_spacing_target" in finished.err


def test_predictions_are_averaged_over_slicing_axes(command, data, trained, tmp_path) -> None:
    (tmp_path / "models").symlink_to(trained.out / "models")
    project = Project(command, data, tmp_path)
    sizes = {"section_spacing_target": 10, "pixel_size_target": 10}
    write_config(project.config, DATA=sizes, TEST={"orthoplane": True})
    output = project.run("inference")
    path = tmp_path / "models/tiny" / MODEL
    predict = NetworkPredictor(segmentor_from(load_checkpoint(path), path), torch.device("cpu"))
    with h5py.File(data / "hdf/val.hdf") as file:
        sections = file["main"][()]
    xz = predicted(predict, sections.transpose(1, 0, 2), 2, (64, 112)).transpose(1, 0, 2)
    yz = predicted(predict, sections.transpose(2, 0, 1), 2, (64, 112)).transpose(1, 2, 0)
    parts = [trained.predictions(), xz, yz]
    np.testing.assert_allclose(project.predictions(), sum(parts) / 3, atol=1e-5)
    assert re.search(SCORES_LINE, output)
    assert [path.name for path in (tmp_path / "inference/tiny").glob("preds*")] == ["preds.hdf"]
    assert not list((tmp_path / "inference/tiny").glob(".preds*"))


def test_pooled_scores_dice_and_the_best_checkpoint(command, data, trained, tmp_path) -> None:
    probability, label = trained.predictions(), labels(data)
    (tmp_path / "models").symlink_to(trained.out / "models")
    project = Project(command, data, tmp_path)
    pooled = project.run("inference", "-mm", "map_3d").splitlines()[-5]
    assert numbers(pooled) == pytest.approx(sklearn_scores(probability, label), abs=1e-4)

    output = project.run("inference", "-mm", "dice").splitlines()
    assert "Measure on dice and Jaccard..." in output
    np.testing.assert_array_equal(project.predictions(), probability)
    masks, truths = (array.reshape(SECTIONS, -1) > 0 for array in (probability >= 0.5, label))
    found = [
        (sk.f1_score(truth, mask), sk.jaccard_score(truth, mask))
        for mask, truth in zip(masks, truths, strict=True)
    ]
    assert re.fullmatch(rf"dice={NUMBER}, jac={NUMBER}", output[-5])
    assert numbers(output[-5]) == pytest.approx(np.mean(found, axis=0), abs=1e-6)

    output = project.run("inference", "--checkpoint", BEST)
    assert "chosen by: best-on-target-labels" in output
    scores = (tmp_path / "inference/tiny/scores.txt").read_text()
    assert "chosen by: best-on-target-labels" in scores


def test_hdf5_training_validates_by_f1(trained_hdf5: Project) -> None:
    lines = trained_hdf5.lines("valid.txt")
    assert len(lines) == 3
    assert all(re.fullmatch(rf"model-\d+, F1={NUMBER}", line) for line in lines)
    events = EventAccumulator(str(trained_hdf5.out / "logs/tiny"))
    events.Reload()
    assert "valid/F1" in events.Tags()["scalars"]
    assert all(re.fullmatch(LOSS_LINE, line) for line in trained_hdf5.lines("loss.txt"))


def test_hdf5_inference_in_tiles(trained_hdf5: Project) -> None:
    output = trained_hdf5.inference_output
    lines = [
        r"Load .*hdf/val\.hdf",
        r"raw shape: \(5, 64, 64\)",
        r"padded raw shape: \(5, 96, 96\)",
        r"iters: 100",  # 5 x 5 tiles of 4 pairs
        r"Load .*hdf/val_groundtruth\.hdf",
        r"Begin inference\.\.\.",
        r"the number of sub-volume: 100",
        r"Prediction time \(s\): \d+\.\d+",
    ]
    assert re.search("^" + "\n".join(lines) + "$", output, re.M)
    probability, label = trained_hdf5.predictions(), labels(trained_hdf5.data)
    line = re.search(SCORES_LINE, output)[0]
    expected = np.mean([sklearn_scores(*pair) for pair in zip(probability, label, strict=True)], 0)
    assert numbers(line) == pytest.approx(expected, abs=1e-4)
    pictures = sorted((trained_hdf5.out / "inference/tiny/seg_img").iterdir())
    assert len(pictures) == SECTIONS
    for picture, section in zip(pictures, probability, strict=True):
        found = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, (section >= 0.5) * 255)


def test_both_names_of_a_command_do_the_same(command, data, trained_hdf5, tmp_path) -> None:
    project = Project(command, data, tmp_path)
    project.config.write_text(trained_hdf5.config.read_text())
    project.run("main")
    project.run("inference")
    assert project.lines("loss.txt") == trained_hdf5.lines("loss.txt")
    np.testing.assert_array_equal(project.predictions(), trained_hdf5.predictions())


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
    assert output.count("crops of 256 pixels, as this is a check; 288 else") == 1


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


def test_a_drawn_seed_is_logged_kept_and_repeats_the_run(project: Project) -> None:
    drawn = ("--set", "TRAIN.random_seed=-1")
    assert stopped(project, "step=2,", signal.SIGTERM, *drawn)[0] == 128 + signal.SIGTERM
    project.run("main", *drawn, "--resume")
    resolved = yaml.safe_load((project.out / "logs/tiny/resolved.yaml").read_text())
    seed = resolved["TRAIN"]["random_seed"]
    log = (project.out / "logs/tiny/train.log").read_text()
    assert re.findall(r"random seed: (-?\d+)", log) == [str(seed)] * 2

    project.run("main", "--run-name", "given", "--set", f"TRAIN.random_seed={seed}")
    assert project.lines("loss.txt", "given") == project.lines("loss.txt")
    for name, value in project.weights("given").items():
        assert torch.equal(value, project.weights()[name])
    project.run("main", "--run-name", "other", *drawn)
    other = yaml.safe_load((project.out / "logs/other/resolved.yaml").read_text())
    assert other["TRAIN"]["random_seed"] not in (seed, -1)


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


@pytest.fixture
def resumed(project: Project, monkeypatch) -> Project:
    """A run interrupted in its fifth iteration, then resumed from the third."""
    calls, step = [], torch.optim.Adam.step

    def interrupted_step(self, *args, **kwargs):
        calls.append(self)
        if len(calls) > 3 * 4:  # three networks
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", interrupted_step)
        assert project("main").code == 130
    assert load_checkpoint(project.out / "models/tiny" / LAST).iteration == 3
    project.run("main", "--set", "TRAIN.resume=true")
    return project


def assert_same_run(one: Project, other: Project) -> None:
    """Checkpoints, losses and scores are the same to the last bit, no line is twice or missing."""
    for file in (LAST, BEST):
        found, expected = (load_checkpoint(p.out / "models/tiny" / file) for p in (one, other))
        assert found[1:] == expected[1:]
        for name, value in found.weights.items():
            assert torch.equal(value, expected.weights[name]), name
    for file in ("loss.txt", "loss_adv.txt", "valid.txt"):
        assert one.lines(file) == other.lines(file)
    steps = [
        [event.step for event in EventAccumulator(str(p.out / "logs/tiny")).Reload().Scalars(tag)]
        for p in (one, other)
        for tag in ("loss_supervised", "valid/dice")
    ]
    assert steps[:2] == steps[2:]


def test_resumed_run_ends_as_an_uninterrupted_one(resumed: Project, trained: Project) -> None:
    assert_same_run(resumed, trained)
    log = "\n".join(line.partition(" ")[2] for line in resumed.lines("train.log"))
    steps = [int(step) for step in re.findall(r"step=(\d+)", log)]
    assert steps == [2, 4, 6]


def stopped(project: Project, line: str, number: int, *arguments: str) -> tuple[int, str]:
    """Start a training, send it a signal at a line of its output; exit code and errors."""
    command = [sys.executable, ROOT / "scripts/main.py", "-c", project.config]
    places = ["--data", project.data, "--out", project.out, "--device", "cpu"]
    process = subprocess.Popen(
        [*command, *places, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert any(output.startswith(line) for output in process.stdout)
        os.killpg(process.pid, number)  # its workers too, as a terminal and a cluster do
        process.stdout.read()
        return process.wait(), process.stderr.read()


def test_killed_runs_resume_exactly(project: Project, trained: Project) -> None:
    assert stopped(project, "step=4,", signal.SIGKILL)[0] == -signal.SIGKILL
    assert stopped(project, "step=4,", signal.SIGKILL, "--resume")[0] == -signal.SIGKILL
    (project.out / "models/tiny/training_state.ckpt.part").write_bytes(b"half a checkpoint")
    project.run("main", "--resume")
    assert_same_run(project, trained)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_run_that_can_go_on(project: Project, trained: Project, number: int) -> None:
    code, error = stopped(project, "step=2,", number, "--set", "TRAIN.num_workers=1")
    assert code == 128 + number
    assert re.fullmatch(
        r"interrupted at iteration \d of 6, all is saved; the same command with --resume goes on\n",
        error,
    )
    project.run("main", "--resume")
    assert_same_run(project, trained)


@pytest.mark.parametrize("signal_at", [3, ITERATIONS])
def test_a_run_stopped_in_its_validation_validates_when_it_goes_on(
    project: Project, trained: Project, signal_at: int
) -> None:
    config = load_config(str(project.config), [], Path()).config
    trainer = Trainer(config, Workspace(project.data, project.out), "tiny", torch.device("cpu"))
    trainer.folder.create(config, overwrite=False, keep=False)
    log = RunLog(trainer.folder, config)
    score = trainer.score

    def score_stopped(log: RunLog, iteration: int, stop: StopSignal) -> None:
        if iteration == signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        score(log, iteration, stop)

    trainer.score = score_stopped
    with pytest.raises(Interrupted, match=f"at iteration {signal_at} of 6") as caught:
        trainer.run(log)
    log.close()
    trainer.folder.release()
    assert caught.value.code == 143
    assert project.lines("valid.txt") == trained.lines("valid.txt")[: signal_at // 3]
    project.run("main", "--resume")
    assert_same_run(project, trained)


def test_a_finished_run_is_not_resumed(project: Project, trained: Project) -> None:
    (project.out / "models").symlink_to(trained.out / "models")
    finished = project("main", "--resume")
    assert finished.code == 2
    assert "the run is done, at iteration 6 of TRAIN.total_iters 6" in finished.err


def test_resume_is_no_restart(project: Project) -> None:
    for option in ("--overwrite", "--check"):
        finished = project("main", "--resume", option)
        assert finished.code == 2
        assert finished.err.startswith("error: --resume: goes on with a run")


def test_resume_without_an_earlier_run(project: Project) -> None:
    finished = project("main", "--set", "TRAIN.resume=true")
    assert finished.code == 2
    assert re.fullmatch(r"error: .*/training_state\.ckpt: no such checkpoint.*\n", finished.err)


def test_pixel_sizes(project: Project) -> None:
    sizes = {"pixel_size_source": 5, "pixel_size_target": 6, "pixel_size_working": 8}
    write_config(project.config, DATA=sizes)
    output = project.run("main")
    assert "pixel size: source 5 nm, target 6 nm; resampled to 8 nm" in output
    assert re.search(r"source: .*, 5 sections of 40 x 40", output)
    assert re.search(r"validation: .*, 5 sections of 48 x 48", output)
    line = re.search(SCORES_LINE, project.run("inference", "-sw"))[0]
    probability, label = project.predictions(), labels(project.data)
    assert probability.shape == SHAPE
    expected = np.mean([sklearn_scores(*pair) for pair in zip(probability, label, strict=True)], 0)
    assert numbers(line) == pytest.approx(expected, abs=1e-4)
    assert cv2.imread(str(project.out / "inference/tiny/seg_img/000.png")).shape == (SIDE, SIDE, 3)


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


def test_inference_without_a_checkpoint(project: Project) -> None:
    finished = project("inference", "-mn", "none")
    assert finished.code == 2
    assert re.fullmatch(r"error: .*models/none/model\.ckpt: no such checkpoint.*\n", finished.err)
    assert not (project.out / "inference").exists()


def test_missing_gpu_is_a_mistake(project: Project) -> None:
    for script in ("main", "inference"):
        finished = project(script, "--device", "cuda")
        assert finished.code == 2
        assert finished.err.startswith("error: --device cuda: this machine has none")
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
