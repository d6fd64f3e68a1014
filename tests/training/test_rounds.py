"""Pseudo labels of the whole target, made in rounds."""

import os
import signal
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dataloader.roles import open_images
from dataloader.synthetic import TARGET_MICROSCOPE, make_volume
from model.checkpoint import MODEL, TRAINING_STATE, load_checkpoint, segmentor_from
from prediction.predictor import NetworkPredictor
from prediction.threshold import EdgeThreshold
from tests.helpers import ArrayVolume, noise
from tests.plain_inference import CUBES, options, predicted
from tests.projects import Project
from tests.settings import config_of
from training.log import RunLog, drop_lines_after
from training.rounds import Phase, TargetLabels, phases
from training.setup import build_learning
from training.trainer import Trainer
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, Workspace
from utils.runtime.signals import Interrupted

ROUNDS = (
    *("--set", "TRAIN.weight_adv_spatial=0", "--set", "TRAIN.weight_adv_temporal=0"),
    *(
        "--set",
        "BEYOND.rounds=2",
        "--set",
        "BEYOND.warmup_fraction=0.34",
        "--set",
        "TEST.windows=section",
    ),
    *("--set", "TRAIN.keep_checkpoints=true", "--set", "TEST.padded_size=[96,96]"),
)


def test_rounds_are_spread_from_the_begin_on() -> None:
    def starts(warmup: float, total: int, rounds: int) -> list[Phase]:
        beyond = {"warmup_fraction": warmup, "rounds": rounds}
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
    assert phases(config_of(total_iters=10, beyond={"warmup_fraction": 0.3})) == begun
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


Z_AVERAGE = ("TEST.z_average=30", "DATA.section_spacing_target=10")
LOW = ("BEYOND.label_threshold=0.4",)
EDGES = ("BEYOND.label_threshold=edges",)
SLICES = (*CUBES, "BEYOND.orthoplane=true")


@pytest.mark.parametrize(
    "sets",
    [(), LOW, EDGES, Z_AVERAGE, SLICES],
    ids=["sections", "threshold", "edges", "z_average", "slices"],
)
def test_labels_are_what_inference_finds(project: Project, sets: tuple[str, ...]) -> None:
    output = project.train(*ROUNDS, *options(sets))
    assert output.count("target labelled after") == 2
    folder = project.models
    files = {2: "target_labels-000002.hdf", 4: "target_labels-000004.hdf"}
    assert {path.name for path in folder.glob("*.hdf")} == set(files.values())
    # a number is of the first round alone
    rounds = {LOW: {2: 0.4, 4: 0.5}, EDGES: {2: None, 4: None}}.get(sets, {4: 0.5})
    for iteration, threshold in rounds.items():
        check_labels(project, sets, iteration, threshold)


def check_labels(
    project: Project, sets: tuple[str, ...], iteration: int, threshold: float | None
) -> None:
    """Compare the labels made after an iteration with a plain implementation of inference.

    Without a threshold, that of the strongest edges is expected.
    """
    folder = project.models
    config = load_config(str(project.root / "tiny.yaml"), list(ROUNDS[1::2]), CONFIG_DIR).config
    volume = open_images(Workspace(project.root, project.root), config.DATA, "target")
    path = folder / f"average-{iteration:06d}.ckpt"
    predict = NetworkPredictor(segmentor_from(load_checkpoint(path), path), torch.device("cpu"))
    sections = np.stack([volume.section(k) for k in range(4)])
    expected = predicted(predict, sections, 1, (96, 96))
    if sets == Z_AVERAGE:
        expected = np.stack([expected[max(0, k - 1) : k + 2].mean(0) for k in range(4)])
    if sets == SLICES:
        xz = predicted(predict, sections.transpose(1, 0, 2), 1, (64, 96)).transpose(1, 0, 2)
        yz = predicted(predict, sections.transpose(2, 0, 1), 1, (64, 96)).transpose(1, 2, 0)
        expected = (expected + xz + yz) / 3
    masks = labels_of(project, iteration)
    if threshold is None:
        edges = EdgeThreshold(volume, lowest=0.5 if iteration > 2 else 0.15)
        for index, probability in enumerate(expected):
            edges.add(index, probability)
        threshold = edges.threshold
    said = f"after {iteration}: {masks.mean():.2%} of its pixels at a threshold of {threshold:g}, "
    assert said in (project.logs / "train.log").read_text()
    sure = np.abs(expected - threshold) > 1e-5
    np.testing.assert_array_equal(masks[sure], (expected >= threshold)[sure])
    assert sure.mean() > 0.99
    assert 0.01 < masks.mean() < 0.99


def test_edges_choose_low_thresholds_until_labels_were_learned_from(tmp_path: Path) -> None:
    beyond = {"rounds": 2, "warmup_fraction": 0.34, "label_threshold": "edges"}
    off = {"weight_adv_spatial": 0, "weight_adv_temporal": 0}
    config = config_of(total_iters=6, beyond=beyond, **off)
    labels = TargetLabels(config, ArrayVolume(noise(4, 48, 48)), 0.1, tmp_path)
    assert [labels.threshold(start).lowest for start in (2, 4)] == [0.15, 0.5]
    labels.sound[2] = False  # these were not learned from
    assert labels.threshold(4).lowest == 0.15


def labels_of(project: Project, iteration: int) -> np.ndarray:
    """The labels of the target made after an iteration."""
    with h5py.File(project.models / f"target_labels-{iteration:06d}.hdf") as file:
        return file["main"][()]


@pytest.mark.parametrize(
    ("sets", "labels"),
    [((), "000012"), (SLICES, "000005")],
    ids=["sections", "slices"],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    command, tmp_path: Path, sets: tuple[str, ...], labels: str
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = (Project(command, tmp_path / name) for name in ("whole", "killed"))
    length = ("TRAIN.total_iters=20", "BEYOND.warmup_fraction=0.25", "TRAIN.save_freq=3")
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
    assert (
        "labels-000004.hdf: missing; expected the labels that the run was trained on before"
        in message
    )


def interrupted(project: Project, *arguments: str) -> None:
    """A run that is stopped in its third iteration, after the first round."""
    config = load_config(str(project.root / "tiny.yaml"), list(arguments[1::2]), CONFIG_DIR).config
    workspace = Workspace(project.root, project.root)
    trainer = Trainer(config, workspace, "tiny", torch.device("cpu"))
    trainer.folder.create(config, overwrite=False, keep=False)
    log, watch = RunLog(trainer.folder, config), trainer.monitor_target

    def watch_stopped(log: RunLog, iteration: int) -> None:
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        watch(log, iteration)

    trainer.monitor_target = watch_stopped
    with pytest.raises(Interrupted):
        trainer.run(log)
    log.close()
    trainer.folder.release()


def overwrite_target(project: Project, sections: int = 4) -> None:
    project.write("target.hdf", make_volume(5, (sections, 48, 48), TARGET_MICROSCOPE)[0])


def test_each_labelling_is_logged_once(project: Project) -> None:
    interrupted(project, *ROUNDS)
    project.train(*ROUNDS, "--resume")
    log = (project.logs / "train.log").read_text()
    for iteration in (2, 4):
        assert log.count(f"target labelled after {iteration}: ") == 1


def test_a_labelling_after_the_state_is_logged_again(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    lines = "step=2, loss=1\ntarget labelled after 2: 5.00% of its pixels\nstep=4, loss=1\n"
    for start, kept in ((2, 1), (3, 2), (4, 3)):
        log.write_text(lines)
        drop_lines_after(log, start)
        assert log.read_text().count("\n") == kept


def test_labels_of_another_target_are_made_anew(project: Project) -> None:
    interrupted(project, *ROUNDS)
    state = (project.models / TRAINING_STATE).read_bytes()
    project.train(*ROUNDS, "--resume")
    path = project.models / "target_labels-000004.hdf"
    found = []
    for lost in (False, True):  # the machine stopped after the second round, before it was saved
        (project.models / TRAINING_STATE).write_bytes(state)
        before = path.stat().st_mtime_ns
        assert "made again" not in project.train(*ROUNDS, "--resume")
        assert path.stat().st_mtime_ns == before
        (project.models / TRAINING_STATE).write_bytes(state)
        overwrite_target(project)
        if lost:
            path.unlink()
        output = project.train(*ROUNDS, "--resume")
        assert "warning: DATA.data_dir_target: its files have changed" in output
        said = "target_labels-000004.hdf: made again (xy weights, xy files changed)"
        assert (said in output) is not lost
        with h5py.File(path) as file:
            found.append(file["main"][()])
    np.testing.assert_array_equal(*found)


def test_labels_of_a_target_of_another_shape_are_refused(project: Project) -> None:
    interrupted(project, *ROUNDS)
    overwrite_target(project, sections=5)
    message = project.fail(*ROUNDS, "--resume")
    assert "target_labels-000002.hdf:main: labels of shape (4, 48, 48) do not fit" in message


def test_labels_that_find_nothing_are_not_used(project: Project) -> None:
    arguments = (*ROUNDS, *options(("BEYOND.foreground_ratio_limit=1.0001", *LOW)))
    interrupted(project, *arguments)
    project.train(*arguments, "--resume")
    resumed = labels_of(project, 4)
    output = project.train(*arguments, "--overwrite")
    assert output.count("not used (BEYOND.foreground_ratio_limit)") == 2
    assert "loss=0.000000" not in (project.logs / "loss.txt").read_text()  # of the source
    # the network has still learned from no labels of the target
    check_labels(project, LOW, iteration=4, threshold=0.4)
    np.testing.assert_array_equal(labels_of(project, 4), resumed)


@pytest.mark.parametrize(("limit", "others"), [("0", 2), ("1.0001", 0)])
def test_slices_are_learned_from_while_labels_are_sound(
    project: Project, limit: str, others: int
) -> None:
    sets = [*ROUNDS[1::2], *SLICES, f"BEYOND.foreground_ratio_limit={limit}"]
    config = load_config(str(project.root / "tiny.yaml"), sets, CONFIG_DIR).config
    workspace = Workspace(project.root, project.root)
    trainer = Trainer(config, workspace, "tiny", torch.device("cpu"))
    trainer.folder.create(config, overwrite=False, keep=False)
    trainer.run(RunLog(trainer.folder, config))
    labels = trainer.target_labels
    masks = labels.open(4)
    check = labels.check(4, masks)
    assert check.sound == (others > 0)
    assert len(labels.pairs(trainer.target, masks).others) == 2


def test_weight_cross_does_not_weigh_the_labels_of_rounds(project: Project) -> None:
    project.train(*ROUNDS, "--set", "TRAIN.weight_cross=0")
    alone = load_checkpoint(project.models / MODEL).weights
    project.train(*ROUNDS, "--set", "TRAIN.weight_cross=0.5", "--overwrite")
    for name, value in load_checkpoint(project.models / MODEL).weights.items():
        assert torch.equal(value, alone[name]), name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("BEYOND.warmup_fraction=0", "rounds: found warmup_fraction 0"),
        ("BEYOND.orthoplane=true BEYOND.rounds=0", "orthoplane: found true without rounds"),
        (
            "BEYOND.foreground_ratio_limit=3 BEYOND.rounds=0",
            "foreground_ratio_limit: found 3 without rounds",
        ),
        ("BEYOND.label_threshold=0.3 BEYOND.rounds=0", "label_threshold: found 0.3 without rounds"),
        ("BEYOND.label_threshold=1", "BEYOND.label_threshold"),
        (
            "BEYOND.restart_rate=0.5 BEYOND.rounds=0 BEYOND.warmup_fraction=0",
            "restart_rate: found 0.5 without warmup_fraction",
        ),
        ("TRAIN.weight_adv_spatial=0.1", "TRAIN.weight_adv_spatial: BEYOND.rounds requires 0"),
    ],
)
def test_what_does_not_go_with_rounds(project: Project, setting: str, message: str) -> None:
    sets = [part for override in setting.split() for part in ("--set", override)]
    assert message in project.fail(*ROUNDS, *sets)
