"""inference.py: predictions, scores, tables and pictures."""

import csv
import json
import os
import re

import cv2
import h5py
import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn import metrics as sk

from dataloader.formats.opening import open_volume
from model.checkpoint import BEST, CHOSEN_AVERAGE, MODEL, load_checkpoint, segmentor_from
from prediction.predictor import NetworkPredictor
from tests.plain_inference import predicted
from tests.scripts.tiny_project import (
    NUMBER,
    SCORES_LINE,
    SECTIONS,
    SHAPE,
    SIDE,
    Project,
    labels,
    numbers,
    sklearn_scores,
    write_config,
)


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
        r"upper bound of F1 \(threshold chosen with these labels\): 0\.\d{4} at 0(\.\d+)?",
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
    text = (trained.out / "inference/tiny/scores.txt").read_text()
    scores, notes, best, origin = text.splitlines()
    assert re.fullmatch(SCORES_LINE, scores)
    assert scores in trained.inference_output
    expected = np.mean([sklearn_scores(*pair) for pair in zip(probability, label, strict=True)], 0)
    assert numbers(scores) == pytest.approx(expected, abs=1e-4)
    assert notes in trained.inference_output
    assert notes.startswith("map: per section, averaged over sections; sections: ")
    assert best in trained.inference_output
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


def test_objects_are_scored_against_components_of_binary_labels(
    command, data, trained, tmp_path
) -> None:
    (tmp_path / "models").symlink_to(trained.out / "models")
    project = Project(command, data, tmp_path)
    with h5py.File(tmp_path / "block.h5", "w") as file:  # one component of at least 1,000 voxels
        file["main"] = np.zeros(SHAPE, np.uint8)
        file["main"][:, 2:34, 2:34] = 255
        file["main"][0, 40:42, 40:42] = 255
    write_config(project.config, DATA={"data_dir_val_label": str(tmp_path / "block.h5")})
    output = project.run("inference", "--instances")
    assert "binary labels: objects are scored against their 6-connected components" in output
    assert ", 1 labelled; matched:" in output
    scores = json.loads((tmp_path / "inference/tiny/summary.json").read_text())["instance_scores"]
    assert 0 <= scores["PQ50"] <= scores["F1_50"] <= 1


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
    assert set(scores) == {"AP50", "AP75", "F1_50", "F1_75", "PQ50", "PQ75"}
    assert "binary labels" not in output
    probability = open_volume(folder / "probability.ome.zarr")
    np.testing.assert_array_equal(probability.section(1), project.predictions()[1])


def test_results_are_added_to_a_finished_prediction(command, data, trained, tmp_path) -> None:
    (tmp_path / "models").symlink_to(trained.out / "models")
    project = Project(command, data, tmp_path)
    folder, kept = tmp_path / "inference/tiny", "not predicted again"
    assert kept not in project.run("inference")

    def identity() -> tuple[int, int]:
        status = (folder / "preds.hdf").stat()
        return status.st_ino, status.st_mtime_ns

    before = identity()
    output = project.run("inference", "--instances", "-sw", "--format", "tiff", "-mm", "dice")
    assert output.count(kept) == 1
    assert identity() == before
    assert "dice=" in output
    for name in ("objects.csv", "instances.ome.tif", "masks.ome.tif", "seg_img/000.png"):
        assert (folder / name).is_file()
    assert (folder / "masks").exists()  # of the first call
    assert kept not in project.run("inference", "--repredict")
    repredicted = identity()
    assert repredicted != before
    with h5py.File(folder / "preds.hdf", "r+") as file:  # cut off in mid-file
        size = file.id.get_filesize()
    os.truncate(folder / "preds.hdf", size // 2)
    assert kept not in project.run("inference")
    np.testing.assert_array_equal(project.predictions(), trained.predictions())


def test_without_a_compiler_sections_are_predicted_uncompiled(
    command, data, trained, tmp_path
) -> None:
    (tmp_path / "models").symlink_to(trained.out / "models")
    project = Project(command, data, tmp_path)
    write_config(project.config, TEST={"compile": True})
    torch.compiler.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++")}):
        finished = project("inference")
    assert finished.code == 0, finished.err
    assert finished.err.count("warning: TEST.compile: compilation does not work") == 1
    np.testing.assert_array_equal(project.predictions(), trained.predictions())
    write_config(project.config, TEST={"compile": False})
    assert "not predicted again" in project.run("inference")


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
    pooled = project.run("inference", "-mm", "map_3d").splitlines()[-6]
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


def test_inference_without_a_checkpoint(project: Project) -> None:
    finished = project("inference", "-mn", "none")
    assert finished.code == 2
    assert re.fullmatch(r"error: .*models/none/model\.ckpt: no such checkpoint.*\n", finished.err)
    assert not (project.out / "inference").exists()
