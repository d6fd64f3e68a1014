"""Saves the state of a run, and resumes from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from model.checkpoint import (
    BEST,
    PREVIOUS_STATE,
    TRAINING_STATE,
    check_finite,
    load_checkpoint,
    load_state,
    save_whole,
)
from training.log import RunLog
from training.resuming import changed_volumes, changes
from utils.config.schema import Config
from utils.errors import UserError
from utils.paths import Workspace

if TYPE_CHECKING:
    from training.trainer import Trainer


def save(trainer: Trainer, log: RunLog, iteration: int) -> None:
    """Write the checkpoints of a run and, last, its state; the previous state is kept.

    The state holds everything that the checkpoints and logs hold, so that ``restore_files`` repairs
    whatever a kill in between leaves.
    """
    trainer.nonfinite.settle(log.info)
    log.flush()  # what is logged up to here is not logged again
    trainer.checkpoints.write(iteration)
    if trainer.config.TRAIN.keep_checkpoints:
        trainer.checkpoints.write(iteration, f"-{iteration:06d}")
    state = {
        "config": trainer.config.model_dump(mode="json"),
        "volumes": trainer.fingerprints,
        "iteration": iteration,
        "unvalidated": trainer.unvalidated,
        "log": log.state_dict(),
        "nonfinite": trainer.nonfinite.state_dict(),
        "collapsed": trainer.monitor.collapsed,
        **trainer.checkpoints.state_dict(),
        **trainer.learner.state_dict(),
    }
    save_whole(trainer.folder.models / TRAINING_STATE, state, previous=PREVIOUS_STATE)


def resume(trainer: Trainer, workspace: Workspace) -> None:
    """Load the state of an interrupted run into a new trainer; writes nothing.

    Raises:
        UserError: there is no state, or it is damaged or of another run.
    """
    state, path, trainer.warnings = read_state(
        workspace, trainer.config, trainer.folder.name, trainer.fingerprints
    )
    with reporting_mismatch(path):
        trainer.learner.load_state_dict(state)
        trainer.checkpoints.load_state_dict(state)
        trainer.start, trainer.log_state = int(state["iteration"]), dict(state["log"])
        trainer.unvalidated = bool(state["unvalidated"])
        trainer.nonfinite.load_state_dict(state.get("nonfinite", {}))
        trainer.monitor.collapsed = state.get("collapsed", False)


def restore_files(trainer: Trainer, log: RunLog) -> None:
    """Restore the log and the checkpoints that belong to a resumed state."""
    log.load_state_dict(trainer.log_state)
    for warning in trainer.warnings:
        log.warning(f"warning: {warning}")
    trainer.checkpoints.restore(trainer.start)


def read_state(
    workspace: Workspace, config: Config, run: str, volumes: dict[str, str]
) -> tuple[dict, Path, list[str]]:
    """Read a saved state and compare it with the config and the files of the volumes.

    Args:
        workspace: has the output folder.
        config: of the run that resumes.
        run: its name; ``TRAIN.model_name`` may name another run to start from.
        volumes: fingerprints of the volumes, by the keys of the config.

    Returns:
        The state, its path, and warnings for the run's log.

    Raises:
        UserError: there is no state, it is damaged, the run is finished, or the config is that of
            another run.
    """
    train = config.TRAIN
    earlier = train.model_name or run
    state, path, warning = load_state(workspace.models(train.save_path, earlier))
    with reporting_mismatch(path):
        fixed, warned = changes(state.get("config", {}), config)
        warned += changed_volumes(state.get("volumes", {}), volumes)
        for network in state["networks"].values():
            check_finite(path, network)
        state.setdefault("best", _early_best(state, path))
        iteration = int(state["iteration"])
    if fixed and earlier == run:
        raise UserError(
            f"{path}: the run was started with another config ({'; '.join(fixed)}); use that "
            "config, or --run-name NAME for a new run"
        )
    if iteration >= train.total_iters and not state.get("unvalidated"):
        raise UserError(
            f"{path}: the run is finished: iteration {iteration} of TRAIN.total_iters "
            f"{train.total_iters}"
        )
    warnings = [warning] if warning else []
    warnings += [
        f"{change}; from here on the run differs from the one that was started"
        for change in (*fixed, *warned)
    ]
    return state, path, warnings


class Earlier(NamedTuple):
    """A run that was saved.

    Attributes:
        iteration: the last one that was saved.
        finished: whether it is that of the config's last iteration.
        changes: what differs now in its config and in the files of its volumes.
    """

    iteration: int
    finished: bool
    changes: list[str]


def earlier_run(folder: Path, config: Config, volumes: dict[str, str]) -> Earlier:
    """Compare a saved run with a config.

    Args:
        folder: ``models/<run>``.
        config: as it is now.
        volumes: fingerprints of the volumes, by the keys of the config.

    Raises:
        UserError: there is no saved state, or it is damaged.
    """
    state, path, _ = load_state(folder)
    with reporting_mismatch(path):
        fixed, warned = changes(state.get("config", {}), config)
        warned += changed_volumes(state.get("volumes", {}), volumes)
        iteration = int(state["iteration"])
        ended = iteration >= config.TRAIN.total_iters
        return Earlier(iteration, ended and not state.get("unvalidated"), fixed + warned)


def _early_best(state: dict, path: Path) -> dict | None:
    """The best checkpoint, which early states left in a file of its own."""
    if "best" in state or state.get("best_score") is None:
        return None
    return load_checkpoint(path.with_name(BEST))._asdict()


@contextmanager
def reporting_mismatch(path: Path) -> Iterator[None]:
    """Turn any error over the content of a state into a ``UserError``."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: not the state of such a run ({reason})") from None
