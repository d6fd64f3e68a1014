"""Several labelled sources: pairs come from all of them, each at the working pixel size."""

import copy

import numpy as np
import pytest
import torch
import yaml

from dataloader.synthetic import TARGET_MICROSCOPE, make_volume
from tests.projects import CONFIG, SHAPE, Project
from training.trainer import Trainer
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, Workspace

SINGLE = ("data_dir_img", "data_dir_label")


@pytest.fixture
def two_sources(project: Project) -> Project:
    """A project with two sources; the second has half the pixel size and is dark."""
    shape = (SHAPE[0] + 2, 2 * SHAPE[1], 2 * SHAPE[2])
    images, labels = make_volume(5, shape, TARGET_MICROSCOPE)
    project.write("fine.hdf", (255 * (images / 255) ** 3).astype(np.uint8))
    project.write("fine_groundtruth.hdf", labels)
    return project


def write_config(project: Project, sources: list[dict], **data) -> None:
    config = copy.deepcopy(CONFIG)
    for key in SINGLE:
        del config["DATA"][key]
    config["DATA"] |= {"sources": sources, **data}
    (project.root / "tiny.yaml").write_text(yaml.safe_dump(config))


def source(name: str, **more) -> dict:
    return {"data_dir_img": f"{name}.hdf", "data_dir_label": f"{name}_groundtruth.hdf", **more}


def trainer(project: Project, *overrides: str) -> Trainer:
    config = load_config(str(project.root / "tiny.yaml"), list(overrides), CONFIG_DIR).config
    return Trainer(config, Workspace(project.root, project.root), "tiny", torch.device("cpu"))


def both(project: Project) -> Trainer:
    write_config(
        project,
        [
            source("source", pixel_size_source=10),
            source("fine", pixel_size_source=5, source_stride=2),
        ],
        pixel_size_target=10,
    )
    return trainer(project, "TRAIN.total_iters=200", "BEYOND.histogram_matching=true")


def test_pairs_come_from_all_sources_equally_often(two_sources: Project) -> None:
    pairs = both(two_sources).source
    places = [pairs.describe(number) for number in range(200)]
    share = np.mean(["fine.hdf" in place for place in places])
    assert 0.4 < share < 0.6
    fine = next(place for place in places if "fine.hdf:main, sections 1 " in place)
    assert "and 3 " in fine  # its own stride


def test_sources_share_the_working_pixel_size(two_sources: Project) -> None:
    run = both(two_sources)
    assert run.config.DATA.pixel_size_working == 10
    assert [pairs.images.shape for pairs in run.source.members] == [SHAPE, (6, *SHAPE[1:])]
    assert [pairs.labels.shape for pairs in run.source.members] == [SHAPE, (6, *SHAPE[1:])]


def test_each_source_is_matched_to_the_target(two_sources: Project) -> None:
    run = both(two_sources)
    target = np.concatenate([run.target.plain(n)[0].ravel() for n in range(30)])
    for pairs in run.source.members:
        matched = np.concatenate([pairs.plain(n)[0].ravel() for n in range(30)])
        parts = [0.1, 0.5, 0.9]
        expected = pytest.approx(np.quantile(target, parts), abs=0.06)
        assert np.quantile(matched, parts) == expected


def test_the_foreground_of_the_source_is_the_mean_of_all(two_sources: Project) -> None:
    run = both(two_sources)
    shares = [
        np.mean([pairs.labels.section(k) for k in range(len(pairs.labels))])
        for pairs in run.source.members
    ]
    assert run.monitor.source_foreground == pytest.approx(np.mean(shares), rel=1e-6)


def test_a_run_with_two_sources(two_sources: Project) -> None:
    write_config(two_sources, [source("source"), source("fine")])
    out = two_sources.train()
    assert "source 1: " in out
    assert "fine.hdf, 6 sections of 96 x 96, stride 1" in out
    saved = yaml.safe_load((two_sources.logs / "resolved.yaml").read_text())
    assert saved["DATA"]["data_dir_img"] == "source.hdf"
    assert [entry["data_dir_img"] for entry in saved["DATA"]["sources"]] == [
        "source.hdf",
        "fine.hdf",
    ]
    two_sources.train("--resume", "--set", "TRAIN.total_iters=8")
    error = two_sources.fail(
        *("--resume", "--set", "TRAIN.total_iters=9"),
        *("--set", "DATA.sources=[{data_dir_img: fine.hdf, data_dir_label: fine_groundtruth.hdf}]"),
    )
    assert "DATA.sources" in error


def test_one_entry_equals_the_single_keys(two_sources: Project) -> None:
    single = trainer(two_sources).source
    write_config(two_sources, [source("source")])
    listed = trainer(two_sources).source
    for number in range(5):
        for key, value in single[number].items():
            np.testing.assert_array_equal(listed[number][key], value)


@pytest.mark.parametrize(
    ("sources", "data", "message"),
    [
        ([source("source")], {"data_dir_img": "fine.hdf"}, "DATA.data_dir_img: found fine.hdf"),
        ([source("source")], {"source_stride": 2}, "DATA.source_stride: found 2 besides sources"),
        ([{"data_dir_img": "source.hdf"}], {}, "DATA.sources.data_dir_label: missing"),
        ([source("source", stride=2)], {}, "nearest is DATA.sources.source_stride"),
        ([source("absent")], {}, "absent.hdf"),
        ([source("source"), source("absent")], {}, "absent.hdf"),
        ("source.hdf", {}, "DATA.sources"),
    ],
)
def test_mistakes(two_sources: Project, sources, data: dict, message: str) -> None:
    write_config(two_sources, sources, **data)
    assert message in two_sources.fail()
