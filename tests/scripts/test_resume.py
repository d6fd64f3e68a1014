"""main.py --resume: a run that was interrupted ends as one that was not."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.checkpoint import BEST, LAST, load_checkpoint
from tests.scripts.tiny_project import ITERATIONS, Project
from training.log import RunLog
from training.trainer import Trainer
from utils.config.load import load_config
from utils.paths import ROOT, Workspace
from utils.runtime.signals import Interrupted, StopSignal


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
        r"interrupted at iteration \d of 6; everything is saved, and the same command with "
        r"--resume continues\n",
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
    assert "the run is finished: iteration 6 of TRAIN.total_iters 6" in finished.err


def test_resume_is_no_restart(project: Project) -> None:
    for option in ("--overwrite", "--check"):
        finished = project("main", "--resume", option)
        assert finished.code == 2
        assert finished.err.startswith("error: --resume: cannot be combined with --")


def test_resume_without_an_earlier_run(project: Project) -> None:
    finished = project("main", "--set", "TRAIN.resume=true")
    assert finished.code == 2
    assert re.fullmatch(r"error: .*/training_state\.ckpt: no such checkpoint.*\n", finished.err)
