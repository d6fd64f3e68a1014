"""Labels of some sections: they are found by their names, and only these sections are scored."""

import csv
import json

import h5py
import pytest
from sklearn.metrics import f1_score

from dataloader.synthetic import write_sections
from tests.projects import SHAPE, Project
from utils.files import write_picture


@pytest.fixture
def folders(project: Project) -> Project:
    """A trained project; its source also as a folder of sections, with labels of section 2."""
    project.train()
    for name in ("source", "source_groundtruth"):
        with h5py.File(project.root / f"{name}.hdf") as file:
            volume = file["main"][:]
        if name == "source":
            write_sections(project.root / "sections", volume)
        else:
            (project.root / "some").mkdir()
            write_picture(project.root / "some/002.png", volume[2])
    return project


def infer(project: Project, *more: object):
    settings = ("DATA.data_dir_val=sections", "DATA.data_dir_val_label=some")
    options = [part for setting in settings for part in ("--set", setting)]
    return project.command("inference", *project.arguments(*options, *more))


def test_only_labelled_sections_are_scored(folders: Project) -> None:
    finished = infer(folders, "--instances")
    assert finished.code == 0, finished.err
    assert "75.00% of the labels' pixels are ignored" in finished.out
    assert "instances: not scored" in finished.out
    out = folders.root / "inference/tiny"
    with h5py.File(out / "preds.hdf") as file:
        probability = file["main"][:]
    with h5py.File(folders.root / "source_groundtruth.hdf") as file:
        label = file["main"][2] > 0
    assert probability.shape == SHAPE
    expected = f1_score(label.ravel(), (probability[2] >= 0.5).ravel())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["scores"]["F1"] == pytest.approx(expected, abs=1e-6)
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["F1"]) for row in rows] == [False, False, True, False]


def test_a_label_without_its_section_is_refused(folders: Project) -> None:
    (folders.root / "some/002.png").rename(folders.root / "some/2b.png")
    finished = infer(folders)
    assert finished.code == 2
    assert "2b.png: no section of" in finished.err
    assert "expected a name such as 000.png" in finished.err


def test_a_check_validates_a_labelled_section(folders: Project) -> None:
    settings = ("DATA.data_dir_val=sections", "DATA.data_dir_val_label=some", "TRAIN.if_valid=true")
    options = [part for setting in settings for part in ("--set", setting)]
    finished = folders.command("main", *folders.arguments(*options, "--check"))
    assert finished.code == 0, finished.err
    assert "nan" not in (folders.root / "logs/tiny-check/valid.txt").read_text().lower()
