"""Pseudo labels of the whole target, made in rounds."""

from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dataloader.roles import open_images
from model.checkpoint import MODEL, TRAINING_STATE, load_checkpoint, segmentor_from
from prediction.predictor import NetworkPredictor
from tests.plain_inference import CUBES, options, predicted
from tests.settings import config_of
from tests.test_faults import Project
from training.rounds import Phase, phases
from training.run_folder import RunLog
from training.setup import build_learning
from training.trainer import Trainer
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, Workspace

ROUNDS = (
    *("--set", "TRAIN.weight_adv_spatial=0", "--set", "TRAIN.weight_adv_temporal=0"),
    *("--set", "BEYOND.rounds=2", "--set", "BEYOND.begin=0.34", "--set", "TEST.windows=section"),
    *("--set", "TRAIN.keep_checkpoints=true", "--set", "TEST.padded_size=[96,96]"),
)


@pytest.fixture
def project(command, tmp_path: Path) -> Project:
    return Project(command, tmp_path)


def test_rounds_are_spread_from_the_begin_on() -> None:
    def starts(begin: float, total: int, rounds: int) -> list[Phase]:
        beyond = {"begin": begin, "rounds": rounds}
        off = {"weight_adv_spatial": 0, "weight_adv_temporal": 0}
        return phases(config_of(total_iters=total, beyond=beyond, **off))

    alone = Phase(0, 600, "source")
    labelled = [Phase(first, last, "target") for first, last in pairwise((600, 900, 1200, 1500))]
    assert starts(0.4, 1500, 3) == [alone, *labelled]
    assert starts(0.4, 1500, 1) == [alone, Phase(600, 1500, "target")]
    assert starts(0.5, 2, 3) == [Phase(0, 1, "source"), Phase(1, 2, "target")]


def test_without_rounds_both_domains_are_learned_from() -> None:
    assert phases(config_of(total_iters=10)) == [Phase(0, 10, "both")]
    begun = [Phase(0, 3, "source"), Phase(3, 10, "both")]
    assert phases(config_of(total_iters=10, beyond={"begin": 0.3})) == begun
    off = {"weight_cross": 0, "weight_adv_spatial": 0, "weight_adv_temporal": 0}
    assert phases(config_of(total_iters=10, **off)) == [Phase(0, 10, "source")]


def test_a_labelled_target_is_learned_from_as_the_source_is() -> None:
    torch.manual_seed(0)
    images, masks = torch.rand(1, 2, 32, 32), torch.randint(0, 2, (1, 2, 32, 32))
    reports = []
    for domain in ("source", "target"):
        torch.manual_seed(0)
        step = getattr(build_learning(config_of(), torch.device("cpu")).steps, domain)
        losses = {name: float(value) for name, value in step(1, images, masks).items()}
        reports.append({name.replace(domain, "any"): value for name, value in losses.items()})
    assert reports[0] == reports[1]
    assert reports[0]["seg_any_residual"] > 0


DEPTH = ("TEST.depth=30", "DATA.section_spacing_target=10")
PLANES = (*CUBES, "BEYOND.orthoplane=true")


@pytest.mark.parametrize("sets", [(), DEPTH, PLANES], ids=["sections", "depth", "planes"])
def test_labels_are_what_inference_finds(project: Project, sets: tuple[str, ...]) -> None:
    output = project.train(*ROUNDS, *options(sets))
    assert output.count("target labelled after") == 2
    folder = project.models
    assert {path.name for path in folder.glob("*.hdf")} == {
        "target_labels-000002.hdf",
        "target_labels-000004.hdf",
    }
    config = load_config(str(project.root / "tiny.yaml"), list(ROUNDS[1::2]), CONFIG_DIR).config
    volume = open_images(Workspace(project.root, project.root), config.DATA, "target")
    path = folder / "average-000004.ckpt"
    predict = NetworkPredictor(segmentor_from(load_checkpoint(path), path), torch.device("cpu"))
    sections = np.stack([volume.section(k) for k in range(4)])
    expected = predicted(predict, sections, 1, (96, 96))
    if sets == DEPTH:
        expected = np.stack([expected[max(0, k - 1) : k + 2].mean(0) for k in range(4)])
    if sets == PLANES:
        xz = predicted(predict, sections.transpose(1, 0, 2), 1, (64, 96)).transpose(1, 0, 2)
        yz = predicted(predict, sections.transpose(2, 0, 1), 1, (64, 96)).transpose(1, 2, 0)
        expected = (expected + xz + yz) / 3
    with h5py.File(folder / "target_labels-000004.hdf") as file:
        masks = file["main"][()]
    sure = np.abs(expected - 0.5) > 1e-5
    np.testing.assert_array_equal(masks[sure], (expected >= 0.5)[sure])
    assert sure.mean() > 0.99


@pytest.mark.parametrize(
    ("sets", "labels"),
    [((), "000012"), (PLANES, "000005")],
    ids=["sections", "planes"],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    command, tmp_path: Path, sets: tuple[str, ...], labels: str
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = (Project(command, tmp_path / name) for name in ("whole", "killed"))
    length = ("TRAIN.total_iters=20", "BEYOND.begin=0.25", "TRAIN.save_freq=3")
    arguments = (*ROUNDS, *options((*sets, *length)))
    whole.train(*arguments)
    with killed.start(*arguments) as process:
        while not (killed.models / f"target_labels-{labels}.hdf").exists():
            assert process.poll() is None, process.stderr.read()
    killed.train(*arguments, "--resume")
    one, other = (load_checkpoint(p.models / MODEL).weights for p in (whole, killed))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_lost_labels_are_not_made_by_another_network(project: Project) -> None:
    options = (*ROUNDS, "--set", "TRAIN.save_freq=5")
    project.train(*options)
    (project.models / "target_labels-000004.hdf").unlink()
    (project.models / TRAINING_STATE).unlink()  # that before it is of iteration 5
    message = project.fail(*options, "--resume")
    assert "target_labels-000004.hdf: missing, and the run is at iteration 5 already" in message


def test_labels_that_find_nothing_are_not_used(project: Project) -> None:
    output = project.train(*ROUNDS, "--set", "BEYOND.guard=1.0001")
    assert output.count("not used (BEYOND.guard)") == 2
    assert "loss=0.000000" not in (project.logs / "loss.txt").read_text()  # of the source


@pytest.mark.parametrize(("guard", "cuts"), [("0", 2), ("1.0001", 0)])
def test_planes_are_learned_from_while_labels_are_sound(
    project: Project, guard: str, cuts: int
) -> None:
    sets = [*ROUNDS[1::2], *PLANES, f"BEYOND.guard={guard}"]
    config = load_config(str(project.root / "tiny.yaml"), sets, CONFIG_DIR).config
    workspace = Workspace(project.root, project.root)
    trainer = Trainer(config, workspace, "tiny", torch.device("cpu"))
    trainer.folder.create(config, overwrite=False, keep=False)
    trainer.run(RunLog(trainer.folder, config))
    labels = trainer.target_labels
    masks = labels.open(4)
    judgement = labels.judge(4, masks, trainer.monitor.source_foreground)
    assert judgement.sound == (cuts > 0)
    assert len(labels.pairs(trainer.target, masks).cuts) == 2


def test_weight_cross_does_not_weigh_the_labels_of_rounds(project: Project) -> None:
    project.train(*ROUNDS, "--set", "TRAIN.weight_cross=0")
    alone = load_checkpoint(project.models / MODEL).weights
    project.train(*ROUNDS, "--set", "TRAIN.weight_cross=0.5", "--overwrite")
    for name, value in load_checkpoint(project.models / MODEL).weights.items():
        assert torch.equal(value, alone[name]), name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("BEYOND.begin=0", "rounds: found begin 0"),
        ("BEYOND.orthoplane=true BEYOND.rounds=0", "orthoplane: found true, expected rounds"),
        ("BEYOND.guard=3 BEYOND.rounds=0", "guard: found 3, expected rounds with it"),
        ("TRAIN.weight_adv_spatial=0.1", "TRAIN.weight_adv_spatial: found BEYOND.rounds besides"),
    ],
)
def test_what_does_not_go_with_rounds(project: Project, setting: str, message: str) -> None:
    sets = [part for override in setting.split() for part in ("--set", override)]
    assert message in project.fail(*ROUNDS, *sets)
