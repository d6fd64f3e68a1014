"""Pseudo labels of the whole target, made in rounds."""

import copy
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dataloader.roles import open_images
from loss.supervised import supervised_losses
from model.checkpoint import MODEL, TRAINING_STATE, load_checkpoint, segmentor_from
from prediction.predictor import NetworkPredictor
from tests.plain_inference import CUBES, options, predicted
from tests.test_beyond import batch, step_of
from tests.test_faults import Project
from training.rounds import round_starts
from training.run_folder import RunLog
from training.trainer import Training
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
    assert round_starts(600, 1500, 3) == [600, 900, 1200]
    assert round_starts(600, 1500, 1) == [600]
    assert round_starts(600, 1500, 0) == []
    assert round_starts(1, 2, 3) == [1]


def test_a_labelled_target_is_learned_from_as_the_source_is() -> None:
    step, data = step_of(rounds=1, begin=0.1), batch()
    masks = torch.randint(0, 2, (1, 2, 32, 32), generator=torch.Generator().manual_seed(9))
    before = copy.deepcopy(step.segmentor)
    with torch.no_grad():
        target = sum(supervised_losses(*before(data["target"]), masks).values())
        source = sum(supervised_losses(*before(data["source"]), data["masks"]).values())

    def learned(iteration: int, **changes) -> tuple[float, float]:
        step.segmentor.load_state_dict(before.state_dict())
        report = step(iteration, **(data | {"target_masks": masks} | changes))
        parts = sum(value for name, value in report.items() if name.startswith("seg_source"))
        return float(parts), float(report.get("consistency_target", 0))

    assert learned(2) == pytest.approx((float(source), 0.1 * float(target)), rel=1e-4)
    alone = learned(2, source=None, masks=None)
    assert alone == pytest.approx((0, 0.1 * float(target)), rel=1e-4)
    assert learned(1) == pytest.approx((float(source), 0), rel=1e-4)  # before the begin
    unlabelled = learned(2, target_masks=None)  # what was found was not sound
    assert unlabelled == pytest.approx((float(source), 0), rel=1e-4)


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
    [((), "000005"), (("BEYOND.keep_source=false",), "000012"), (PLANES, "000005")],
    ids=["source kept", "source left", "planes"],
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
    training = Training(config, workspace, "tiny", torch.device("cpu"))
    training.folder.create(config, overwrite=False, keep=False)
    training.run(RunLog(training.folder, config))
    assert len(training.target.cuts) == cuts


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("BEYOND.begin=0", "rounds: found begin 0"),
        ("BEYOND.orthoplane=true BEYOND.rounds=0", "orthoplane: found true, expected rounds"),
        ("BEYOND.guard=3 BEYOND.rounds=0", "guard: found 3, expected rounds with it"),
        ("TRAIN.weight_cross=0", "TRAIN.weight_cross: found 0 and BEYOND.rounds 2, expected"),
        (
            "TRAIN.cross_loss_target=false",
            "TRAIN.cross_loss_target: found false and BEYOND.rounds 2, expected",
        ),
        ("TRAIN.weight_adv_spatial=0.1", "TRAIN.weight_adv_spatial: found BEYOND.rounds besides"),
    ],
)
def test_what_does_not_go_with_rounds(project: Project, setting: str, message: str) -> None:
    sets = [part for override in setting.split() for part in ("--set", override)]
    assert message in project.fail(*ROUNDS, *sets)
