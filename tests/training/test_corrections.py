"""Corrected sections of the target, and weights to start from."""

import cv2
import h5py
import numpy as np
import pytest
import torch

from dataloader.synthetic import write_sections
from model.checkpoint import LAST, load_checkpoint
from tests.projects import SHAPE, Project
from training.trainer import Trainer
from utils.config.load import load_config
from utils.errors import UserError
from utils.ignore import IGNORE
from utils.paths import CONFIG_DIR, Workspace

CORRECTED = ("DATA.corrections=corrected",)


def trainer(project: Project, *overrides: str) -> Trainer:
    config = load_config(str(project.root / "tiny.yaml"), list(overrides), CONFIG_DIR).config
    return Trainer(config, Workspace(project.root, project.root), "tiny", torch.device("cpu"))


def labels(project: Project) -> np.ndarray:
    with h5py.File(project.root / "target_groundtruth.hdf") as file:
        return (file["main"][:] > 0).astype(np.uint8)


def write_section(project: Project, name: str, mask: np.ndarray) -> None:
    (project.root / "corrected").mkdir(exist_ok=True)
    assert cv2.imwrite(str(project.root / "corrected" / name), mask)


def corrected_half(project: Project) -> np.ndarray:
    """Section 1 corrected in its left half."""
    mask = np.full(SHAPE[1:], IGNORE, np.uint8)
    mask[:, :24] = labels(project)[1, :, :24]
    mask[0, :2] = 0, 1
    write_section(project, "0001.png", mask)
    return mask


def test_sections_of_a_folder_are_found_by_name(project: Project) -> None:
    mask = corrected_half(project)
    write_section(project, "0003.png", np.zeros(SHAPE[1:], np.uint8))  # blank: not corrected
    found = trainer(project, *CORRECTED).corrected.labels
    assert found.corrected == [1]
    np.testing.assert_array_equal(found.section(1), mask)
    for index in (0, 2, 3):
        assert (found.section(index) == IGNORE).all()
    assert found.crop(0, 40, 40, 16, 16).shape == (8, 8)


def test_a_stack_is_blank_where_nothing_is_corrected(project: Project) -> None:
    stack = np.zeros(SHAPE, np.uint8)
    stack[2] = labels(project)[2] * 255
    project.write("corrected.hdf", stack)
    found = trainer(project, *CORRECTED).corrected.labels
    assert found.corrected == [2]
    np.testing.assert_array_equal(found.section(2), stack[2] > 0)
    assert (found.section(1) == IGNORE).all()


def test_pairs_show_what_is_corrected(project: Project) -> None:
    corrected_half(project)
    with h5py.File(project.root / "target.hdf") as file:
        write_sections(project.root / "sections", file["main"][:])  # crops at random places
    (project.root / "corrected/0001.png").rename(project.root / "corrected/001.png")
    target = "DATA.data_dir_target=sections"
    run = trainer(project, *CORRECTED, target, "TRAIN.total_iters=100")
    pairs = run.with_corrected(run.source)
    places = [pairs.describe(number) for number in range(100)]
    ours = [number for number, place in enumerate(places) if "/sections, " in place]
    assert 0.35 < len(ours) / 100 < 0.65
    known = []
    for number in ours:
        assert "sections 1 (" in places[number] or "and 1 (" in places[number]
        masks = pairs[number]["masks"]
        assert masks.shape == (2, 32, 32)
        known.append((masks != IGNORE).mean((1, 2)))
        assert known[-1].min() == 0  # the other section
    assert np.mean([share.max() >= 0.5 for share in known]) > 0.9
    assert run.source.members == (run.source,)  # histograms and statistics are without them


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_run_learns_from_corrections(project: Project, rounds: int) -> None:
    corrected_half(project)
    adversarial = ("TRAIN.weight_adv_spatial", "TRAIN.weight_adv_temporal")
    keys = dict.fromkeys(adversarial, 0) if rounds else {}
    keys |= {"BEYOND.rounds": rounds, "BEYOND.warmup_fraction": 0.4}
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    weights = []
    for more in ((), ("--corrections", project.root / "corrected")):
        output = project.train(*sets, *more, "--overwrite")
        weights.append(load_checkpoint(project.models / LAST).weights)
    assert "corrected, sections 0001.png" in output
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])


def test_a_run_starts_from_a_checkpoint(project: Project) -> None:
    project.train()
    path = (project.models / LAST).rename(project.root / "start.ckpt")
    init = f"TRAIN.init_from={path}"
    run = trainer(project, init, "BEYOND.head_prior=0.01")
    started = run.learner.networks["segmentor"].state_dict()
    for name, value in load_checkpoint(path).weights.items():
        torch.testing.assert_close(started[name], value, rtol=0, atol=0)
    assert not run.learner.optimizers["segmentor"].state
    assert "initial weights: " in project.train("--overwrite", "--set", init)
    with pytest.raises(UserError, match=r"TRAIN.init_from: .*found a network of width 2, expected"):
        trainer(project, init, "MODEL.width=4")
    path.unlink()
    with pytest.raises(UserError, match=r"start\.ckpt: no such"):
        trainer(project, init)


def test_a_resumed_run_keeps_its_corrections(project: Project) -> None:
    corrected_half(project)
    project.train("--corrections", project.root / "corrected", "--set", "TRAIN.total_iters=4")
    said = project.train("--resume")
    assert "corrected, sections 0001.png" in said
    assert "DATA.corrections: was" not in said


def test_an_interrupted_run_does_not_start_again(project: Project) -> None:
    project.train("--set", "TRAIN.total_iters=4", "--set", "TRAIN.power=0")
    init = "TRAIN.init_from=gone.ckpt"
    run = trainer(project, init, "TRAIN.resume=true", "TRAIN.power=0")
    assert run.start == 4


@pytest.mark.parametrize(
    ("name", "mask", "said"),
    [
        ("0007.png", np.ones(SHAPE[1:], np.uint8), "has this name; expected a name such as"),
        ("0001.png", np.ones((20, 20), np.uint8), "sections of 20 x 20 pixels, expected 48 x 48"),
        ("0001.png", np.zeros(SHAPE[1:], np.uint8), "no section with mitochondria"),
    ],
)
def test_corrections_that_do_not_fit(
    project: Project, name: str, mask: np.ndarray, said: str
) -> None:
    write_section(project, name, mask)
    assert said in project.fail("--corrections", str(project.root / "corrected"))


def test_a_stack_of_other_length_is_refused(project: Project) -> None:
    project.write("short.hdf", np.ones((3, *SHAPE[1:]), np.uint8))
    said = project.fail("--corrections", str(project.root / "short.hdf"))
    assert "found 3 sections, expected 4" in said
    said = project.fail("--corrections", str(project.root / "nowhere"))
    assert "DATA.corrections: " in said
    assert "not found" in said


def test_corrections_beside_no_pair_are_refused(project: Project) -> None:
    write_section(project, "0001.png", np.ones(SHAPE[1:], np.uint8))
    said = project.fail(
        "--corrections", str(project.root / "corrected"), "--set", "DATA.target_stride=3"
    )
    assert "no corrected section is in a pair of two sections that are 3 apart" in said
