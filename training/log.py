"""The log of a training run."""

import logging
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.event_file import EventFile
from training.run_folder import RunFolder
from utils.config.schema import Config
from utils.progress import progress

Columns = dict[str, tuple[str, ...]]
# Columns of loss.txt and loss_adv.txt, each with its losses; an iteration has one of them.
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


class ReportMeans:
    """Means of the scalars that iterations report, each over the iterations that report it.

    Skipped iterations do not count. Sums stay on the device, so that ``add`` does not wait for it.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}  # number of iterations in each sum

    def add(self, report: dict[str, Tensor]) -> None:
        """Add the scalars of an iteration."""
        values = torch.stack([value.float() for value in report.values()])
        skipped = report["skipped"].float()
        kept = dict(zip(report, torch.where(skipped > 0, 0, values).unbind(), strict=True))
        for name, value in (kept | {"skipped": skipped}).items():
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + (1 - skipped)

    def take(self, device: torch.device) -> dict[str, float]:
        """The means of all scalars and of the columns of the text files, and start again.

        ``skipped`` is not a mean but the number of skipped iterations.
        """
        held = {name: (name,) for name in self.sums} | SUPERVISED_COLUMNS | ADAPTATION_COLUMNS
        held = {key: [n for n in names if n in self.sums] for key, names in held.items()}
        held = {key: names for key, names in held.items() if names}
        sums, counts = (
            torch.stack([sum(part[n].to(device) for n in names) for names in held.values()])
            for part in (self.sums, self.counts)
        )
        means = dict(zip(held, (sums / counts).tolist(), strict=True))
        means["skipped"] = float(self.sums["skipped"])
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict:
        """The sums and their counts."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        """Restore what ``state_dict`` returned; an empty dict changes nothing."""
        self.sums = state.get("sums", self.sums)
        # early states have one count for all
        count = state.get("count", 0) - self.sums.get("skipped", torch.zeros(()))
        self.counts = state.get("counts", dict.fromkeys(self.sums, count))


class RunLog:
    """Writes losses and scores to text files (in the published format), TensorBoard and terminal.

    Args:
        folder: of the run.
        config: of the run.
        start: number of finished iterations; what the files hold of later ones is removed.
        quiet: show only warnings in the terminal.
    """

    def __init__(
        self, folder: RunFolder, config: Config, start: int = 0, quiet: bool = False
    ) -> None:
        self.folder = folder.logs
        self.total = config.TRAIN.total_iters
        self.display_freq = config.TRAIN.display_freq
        self.means = ReportMeans()
        for file in TEXT_FILES:
            drop_lines_after(self.folder / file, start)
        self.events = EventFile(self.folder, start)
        self.events.add_text("cfg", "    " + config.to_yaml().replace("\n", "\n    "))
        self.logger = _text_logger(self.folder / "train.log", quiet)
        self.bar = progress(None, self.total, "it", start)
        self.begin = time.perf_counter()
        self.done = 0

    def info(self, line: str) -> None:
        """Write a line to train.log and to the terminal."""
        with tqdm.external_write_mode():
            self.logger.info(line)

    def warning(self, line: str) -> None:
        """The same for what also a quiet log shows."""
        with tqdm.external_write_mode():
            self.logger.warning(line)

    def add(self, iteration: int, report: dict[str, Tensor], rates: dict[str, float]) -> None:
        """Add the report of an iteration; every ``display_freq`` iterations, write the means.

        Args:
            iteration: counted from 1.
            report: scalars by name, ``skipped`` among them.
            rates: learning rates by network.
        """
        self.means.add(report)
        self.done += 1
        self.bar.update()
        if iteration % self.display_freq == 0 or iteration == self.total:
            names = list(self.means.sums)
            means = self.means.take(report["skipped"].device)
            for name in names:
                group = "disc" if name.startswith("disc_accuracy") else "terms"
                self.events.add_scalar(f"{group}/{name}", means[name], iteration)
            self._write(iteration, means, rates)

    def _write(self, step: int, means: dict[str, float], rates: dict[str, float]) -> None:
        line = self._write_losses("loss.txt", "loss_supervised", step, means, SUPERVISED_COLUMNS)
        line_adv = self._write_losses("loss_adv.txt", "loss_adv", step, means, ADAPTATION_COLUMNS)
        for name, rate in rates.items():
            self.events.add_scalar(f"learning_rate/{name}", rate, step)
        self.events.flush()  # for TensorBoard
        adapts = any(column in means for column in ADAPTATION_COLUMNS)
        shown = f", adapt {line_adv.split(', ')[1]}" if adapts else ""
        self.bar.set_postfix_str(line.split(", ")[1] + shown)
        elapsed = tqdm.format_interval(time.perf_counter() - self.begin)
        line += f", lr={rates['segmentor']:.3e}, elapsed={elapsed}"
        if adapts:
            line += f"\n    adaptation: {line_adv.split(', ', 1)[1]}"
        # the terminal shows the bar
        self.logger.log(logging.INFO if self.bar.disable else logging.DEBUG, line)

    def _write_losses(
        self, file: str, tag: str, step: int, means: dict[str, float], columns: Columns
    ) -> str:
        """Write a line such as ``step=100, loss=0.836106, loss_cpred=...``; loss is their sum."""
        values = {column: means.get(column, 0.0) for column in columns}
        values = {"loss": sum(values.values()), **values}
        line = f"step={step}, " + ", ".join(f"{key}={value:.6f}" for key, value in values.items())
        self._append(file, line)
        self.events.add_scalar(tag, values["loss"], step)
        return line

    def validation(self, iteration: int, scores: dict[str, float]) -> None:
        """Write a line of valid.txt, such as ``model-500, dice=0.580416, jac=0.411523``."""
        text = self._write_scores("valid", iteration, scores)
        self.info(f"validation at {iteration}: {text}")

    def target(self, iteration: int, measures: dict[str, float]) -> None:
        """Write a line of target.txt, such as ``model-500, foreground=0.051234, entropy=...``."""
        self._write_scores("target", iteration, measures)

    def _write_scores(self, name: str, iteration: int, values: dict[str, float]) -> str:
        text = ", ".join(f"{key}={value:.6f}" for key, value in values.items())
        self._append(f"{name}.txt", f"model-{iteration}, {text}")
        for key, value in values.items():
            self.events.add_scalar(f"{name}/{key}", value, iteration)
        return text

    def image(self, tag: str, picture: np.ndarray, iteration: int) -> None:
        """Write a picture (H, W, 3) uint8, RGB."""
        self.events.add_picture(tag, picture, iteration)
        self.events.flush()

    def state_dict(self) -> dict:
        """What was added since the last line."""
        return self.means.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore what ``state_dict`` returned; an empty dict changes nothing."""
        self.means.load_state_dict(state)

    @property
    def speed(self) -> float:
        """Iterations per second since the start, including validations and checkpoints."""
        return self.done / (time.perf_counter() - self.begin)

    def flush(self) -> None:
        """Write everything to the disc, so that it survives a crash of the machine."""
        self.events.flush()
        for file in TEXT_FILES:
            if (self.folder / file).is_file():
                with (self.folder / file).open("rb") as stream:
                    os.fsync(stream.fileno())

    def close(self) -> None:
        """Close the progress bar and the files."""
        self.bar.close()
        self.events.close()
        for handler in list(self.logger.handlers):
            handler.close()
            self.logger.removeHandler(handler)

    def _append(self, file: str, line: str) -> None:
        with (self.folder / file).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def drop_lines_after(path: Path, iteration: int) -> None:
    """Remove the lines that an interrupted run wrote after the state it resumes from."""
    if not path.is_file():
        return
    kept = 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n") or _iteration(line.decode(errors="replace")) > iteration:
                break
            kept += len(line)
        file.truncate(kept)  # in place: a kill leaves either version, never a part


def _iteration(line: str) -> int:
    """The iteration that a line of a log belongs to; 0 if none.

    The target is labelled after the state of an iteration is saved, so that line belongs to the
    next iteration.
    """
    found = re.search(r"(?:step=|model-|\b\w+ at )(\d+)", line)
    after = re.search(r"\blabelled after (\d+)", line)
    return int(found[1]) if found else int(after[1]) + 1 if after else 0


def _text_logger(path: Path, quiet: bool) -> logging.Logger:
    """Writes all lines to a file, and to the terminal those from INFO or, if quiet, WARNING on."""
    logger = logging.getLogger(str(path))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    to_file = _FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(to_file)
    to_terminal = _TerminalHandler(sys.stdout)
    to_terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(to_terminal)
    return logger


class _FileHandler(logging.FileHandler):
    """Raises if the log cannot be written, where logging only prints a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class _TerminalHandler(logging.StreamHandler):
    """Ignores a terminal or pipe that was closed; the run continues."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass
