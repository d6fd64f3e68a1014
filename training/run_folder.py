"""The folders of a training run, and what it writes into them."""

import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path

import torch
from filelock import BaseFileLock
from torch import Tensor
from tqdm import tqdm

from model.checkpoint import PREVIOUS_STATE, TRAINING_STATE
from training.event_file import EventFile
from utils.config.schema import Config
from utils.errors import UserError
from utils.paths import Workspace
from utils.progress import progress
from utils.revision import git_revision
from utils.runtime.lock import LOCK, lock_folder

Columns = dict[str, tuple[str, ...]]
# Columns of loss.txt and loss_adv.txt, and the losses they hold, of which an iteration has one.
SUPERVISED_COLUMNS = {
    "loss_cpred": ("seg_source_current", "seg_target_current"),
    "loss_apred": ("seg_source_auxiliary", "seg_target_auxiliary"),
    "loss_diff": ("seg_source_residual", "seg_target_residual"),
}
ADAPTATION_COLUMNS = {
    "loss_cross": ("consistency_target",),
    "loss_adv_spatial": ("adv_target_seg",),
    "loss_adv_temporal": ("adv_target_residual",),
}


TEXT_FILES = ("loss.txt", "loss_adv.txt", "valid.txt", "target.txt", "train.log")


class RunFolder:
    """Where a run leaves its logs and checkpoints.

    Attributes:
        logs: ``logs/<run>``: train.log, loss.txt, loss_adv.txt, valid.txt, target.txt, TensorBoard
            events, resolved.yaml, git_revision.txt.
        models: ``models/<run>``: the checkpoints.
    """

    def __init__(self, workspace: Workspace, config: Config, run: str) -> None:
        self.name = run
        self.logs = workspace.logs(run)
        self.models = workspace.models(config.TRAIN.save_path, run)
        self.locks: list[BaseFileLock] = []

    def create(self, config: Config, overwrite: bool, keep: bool) -> None:
        """Make the folders, lock them, and write the config and the git revision.

        Args:
            overwrite: an earlier run of this name is deleted.
            keep: it is continued.

        Raises:
            UserError: there is an earlier run and neither is asked for, another process is at
                work on it, or no right to write.
        """
        folders = (self.logs, self.models)
        earlier = [folder for folder in folders if folder.is_dir() and _content(folder)]
        if earlier and not (overwrite or keep):
            raise UserError(
                f"{earlier[0]}: holds an earlier run; give --run-name NAME to keep it, "
                "or --overwrite to replace it"
            )
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                self.locks.append(lock_folder(folder))
            if overwrite:
                self._empty()
            (self.logs / "resolved.yaml").write_text(config.to_yaml(), encoding="utf-8")
            (self.logs / "git_revision.txt").write_text(git_revision() + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be written ({error.strerror})") from None

    def _empty(self) -> None:
        """Delete an earlier run, its states first: what is left of it must not be resumed."""
        for name in (TRAINING_STATE, PREVIOUS_STATE):
            (self.models / name).unlink(missing_ok=True)
        for path in (*_content(self.models), *_content(self.logs)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def release(self) -> None:
        """Let other processes into the folders."""
        while self.locks:
            self.locks.pop().release()


def _content(folder: Path) -> list[Path]:
    """What a run left in its folder."""
    return [path for path in folder.iterdir() if path.name != LOCK]


class RunLog:
    """Losses and scores of a run: text files as published, TensorBoard, progress on the terminal.

    Losses stay on the device until a line is due, so that logging does not wait for it.

    Args:
        folder: of the run.
        config: of the run.
        start: iterations already done.
    """

    def __init__(self, folder: RunFolder, config: Config, start: int = 0) -> None:
        self.folder = folder.logs
        self.total = config.TRAIN.total_iters
        self.display_freq = config.TRAIN.display_freq
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}  # iterations in each sum
        for file in TEXT_FILES:
            drop_lines_after(self.folder / file, start)
        self.events = EventFile(self.folder, start)
        self.events.add_text("cfg", "    " + config.to_yaml().replace("\n", "\n    "))
        self.logger = _text_logger(self.folder / "train.log")
        self.bar = progress(None, self.total, "it", start)
        self.begin = time.perf_counter()
        self.done = 0

    def info(self, line: str) -> None:
        """A line in train.log and on the terminal."""
        with tqdm.external_write_mode():
            self.logger.info(line)

    def add(self, iteration: int, report: dict[str, Tensor], rates: dict[str, float]) -> None:
        """Take in the scalars of an iteration; every ``display_freq``-th, write their means.

        A scalar's mean is over the iterations that have it. Skipped ones do not enter the means.
        """
        values = torch.stack([value.float() for value in report.values()])
        skipped = report["skipped"].float()
        kept = dict(zip(report, torch.where(skipped > 0, 0, values).unbind(), strict=True))
        for name, value in (kept | {"skipped": skipped}).items():
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + (1 - skipped)
        self.done += 1
        self.bar.update()
        if iteration % self.display_freq == 0 or iteration == self.total:
            self._write(iteration, self._means(skipped.device), rates)
            self.sums, self.counts = {}, {}

    def _means(self, device: torch.device) -> dict[str, float]:
        """Means of the scalars and of the text files' columns; ``skipped`` is a number."""
        held = {name: (name,) for name in self.sums} | SUPERVISED_COLUMNS | ADAPTATION_COLUMNS
        held = {key: [n for n in names if n in self.sums] for key, names in held.items()}
        held = {key: names for key, names in held.items() if names}
        sums, counts = (
            torch.stack([sum(part[n].to(device) for n in names) for names in held.values()])
            for part in (self.sums, self.counts)
        )
        means = dict(zip(held, (sums / counts).tolist(), strict=True))
        return means | {"skipped": float(self.sums["skipped"])}

    def _write(self, step: int, means: dict[str, float], rates: dict[str, float]) -> None:
        line = self._write_losses("loss.txt", "loss_supervised", step, means, SUPERVISED_COLUMNS)
        line_adv = self._write_losses("loss_adv.txt", "loss_adv", step, means, ADAPTATION_COLUMNS)
        for name in self.sums:
            group = "disc" if name.startswith("disc_accuracy") else "terms"
            self.events.add_scalar(f"{group}/{name}", means[name], step)
        for name, rate in rates.items():
            self.events.add_scalar(f"learning_rate/{name}", rate, step)
        self.events.flush()  # for those who watch
        self.bar.set_postfix_str(f"{line.split(', ')[1]}, adapt {line_adv.split(', ')[1]}")
        elapsed = tqdm.format_interval(time.perf_counter() - self.begin)
        self.logger.log(
            logging.INFO if self.bar.disable else logging.DEBUG,  # the terminal has the bar
            f"{line}, lr={rates['segmentor']:.3e}, elapsed={elapsed}\n"
            f"    adaptation: {line_adv.split(', ', 1)[1]}",
        )

    def _write_losses(
        self, file: str, tag: str, step: int, means: dict[str, float], columns: Columns
    ) -> str:
        """A line as ``step=100, loss=0.836106, loss_cpred=...``, the loss being their sum."""
        values = {column: means.get(column, 0.0) for column in columns}
        values = {"loss": sum(values.values()), **values}
        line = f"step={step}, " + ", ".join(f"{key}={value:.6f}" for key, value in values.items())
        self._append(file, line)
        self.events.add_scalar(tag, values["loss"], step)
        return line

    def validation(self, iteration: int, scores: dict[str, float]) -> None:
        """A line of valid.txt, as ``model-500, dice=0.580416, jac=0.411523``."""
        text = ", ".join(f"{name}={value:.6f}" for name, value in scores.items())
        self._append("valid.txt", f"model-{iteration}, {text}")
        for name, value in scores.items():
            self.events.add_scalar(f"valid/{name}", value, iteration)
        self.info(f"validation at {iteration}: {text}")

    def target(self, iteration: int, measures: dict[str, float]) -> None:
        """A line of target.txt, as ``model-500, foreground=0.051234, entropy=...``."""
        text = ", ".join(f"{name}={value:.6f}" for name, value in measures.items())
        self._append("target.txt", f"model-{iteration}, {text}")
        for name, value in measures.items():
            self.events.add_scalar(f"target/{name}", value, iteration)

    def image(self, tag: str, picture, iteration: int) -> None:
        """A picture (H, W, 3) uint8, RGB."""
        self.events.add_picture(tag, picture, iteration)
        self.events.flush()

    def state_dict(self) -> dict:
        """What was taken in since the last line, to go on with a run."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        """Undo ``state_dict``; an empty dict changes nothing."""
        self.sums = state.get("sums", self.sums)
        count = state.get("count", 0) - self.sums.get("skipped", torch.zeros(()))  # before counts
        self.counts = state.get("counts", dict.fromkeys(self.sums, count))

    @property
    def speed(self) -> float:
        """Iterations per second so far, validations and checkpoints included."""
        return self.done / (time.perf_counter() - self.begin)

    def flush(self) -> None:
        """Bring all that is logged to the disc, in case that the machine stops too."""
        self.events.flush()
        for file in TEXT_FILES:
            if (self.folder / file).is_file():
                with (self.folder / file).open("rb") as stream:
                    os.fsync(stream.fileno())

    def close(self) -> None:
        """Finish the bar and the files."""
        self.bar.close()
        self.events.close()
        for handler in list(self.logger.handlers):
            handler.close()
            self.logger.removeHandler(handler)

    def _append(self, file: str, line: str) -> None:
        with (self.folder / file).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def drop_lines_after(path: Path, iteration: int) -> None:
    """Cut off what an interrupted run wrote after the checkpoint it is resumed from."""
    if not path.is_file():
        return
    kept = 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n") or _iteration(line.decode(errors="replace")) > iteration:
                break
            kept += len(line)
        file.truncate(kept)  # in place: a kill leaves the one or the other


def _iteration(line: str) -> int:
    """The iteration a line of a log is of; 0 if of none.

    What is done after an iteration, once its state is saved, is of the next.
    """
    found = re.search(r"(?:step=|model-|\b\w+ at )(\d+)", line)
    after = re.search(r"\blabelled after (\d+)", line)
    return int(found[1]) if found else int(after[1]) + 1 if after else 0


def _text_logger(path: Path) -> logging.Logger:
    """A logger of all lines to a file, and of those from INFO on to the terminal."""
    logger = logging.getLogger(str(path))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    to_file = _Strict(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(to_file)
    to_terminal = _Lenient(sys.stdout)
    to_terminal.setLevel(logging.INFO)
    logger.addHandler(to_terminal)
    return logger


class _Strict(logging.FileHandler):
    """A log that cannot be written is an error, not a traceback in passing."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class _Lenient(logging.StreamHandler):
    """A terminal or a pipe may go away; the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass
