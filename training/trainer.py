"""The training loop, and what happens between iterations.

training/setup.py builds the parts of a run; training/state.py saves and resumes it.
"""

import signal
from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from dataloader.loader import load_batches
from dataloader.pairs import PairDataset
from prediction.predictor import NetworkPredictor
from training.checkpoints import Checkpoints
from training.log import RunLog
from training.monitor import TargetMonitor, foreground
from training.nonfinite import NonFiniteMonitor
from training.preview import preview
from training.rounds import Phase, TargetLabels, phases
from training.run_folder import RunFolder
from training.setup import (
    build_learning,
    fingerprints,
    initial_weights,
    open_corrected,
    open_pairs,
    open_source,
    open_validation,
    settle,
    source_appearance,
)
from training.state import restore_files, resume, save
from training.steps import DaIscStep, SupervisedStep
from utils.config.schema import Config
from utils.files import write_picture
from utils.paths import Workspace
from utils.runtime.distributed import Group
from utils.runtime.signals import Interrupted, StopRequested, StopSignal, awaited_signals

CHECK_SETTINGS = {
    "total_iters": 2,
    "display_freq": 1,
    "show_freq": 2,
    "save_freq": 2,
    "resume": False,
}
CHECK_PAIRS = 1  # pairs of sections that a check validates and labels
CHECK_CROP_ON_CPU = 256  # pixels; with 512, an iteration of the published network takes 15 s

Batch = dict[str, dict[str, Tensor]]  # by domain: a batch of samples, see PairDataset


class Active(NamedTuple):
    """The step and the pairs of a phase."""

    step: DaIscStep | SupervisedStep
    pairs: dict[str, PairDataset]  # by domain


class Trainer:
    """Owns the parts of a run; ``run`` is the loop.

    Args:
        config: of the run.
        workspace: data root and output folder.
        run: name of the run's folders.
        device: to train on.
        check: validate on two sections only, and use smaller crops on a CPU.
        group: processes that share each batch; only the first one writes files.

    Raises:
        UserError: a volume is missing or invalid, or there is no state to resume from.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        run: str,
        device: torch.device,
        check: bool = False,
        group: Group | None = None,
    ) -> None:
        self.group, self.device = group or Group(), device
        self.config = config = settle(config, workspace, run, self.group)
        self.crop = config.DATA.crop
        if check and device.type == "cpu":
            self.crop = min(self.crop, CHECK_CROP_ON_CPU)
        self.folder = RunFolder(workspace, config, run)
        # whether it goes on in the folders of the run that it resumes
        self.continues = config.TRAIN.resume and config.TRAIN.model_name in (None, run)
        torch.manual_seed(config.TRAIN.random_seed)
        self.learner, self.networks, self.precision, self.steps = build_learning(
            config, device, self.group, initial_weights(config, workspace)
        )
        self.source = open_source(workspace, config, self.crop)
        self.target = open_pairs(workspace, config, "target", self.crop)
        self.corrected = open_corrected(workspace, config, self.target)
        for pairs in self.source.members:
            pairs.appearance = source_appearance(config, pairs, self.target)
        limit = CHECK_PAIRS if check else None
        self.validation = open_validation(workspace, config, limit)
        self.nonfinite = NonFiniteMonitor(
            config.TRAIN.on_nan, config.TRAIN.batch_size, self.folder.logs
        )
        expected = fmean(foreground(pairs.labels, pairs.images) for pairs in self.source.members)
        self.monitor = TargetMonitor(
            self.target, expected, config.TRAIN.total_iters, config.warmup_iters
        )
        self.target_labels: TargetLabels | None = None
        if config.BEYOND.rounds:
            self.target_labels = TargetLabels(
                config, self.target.images, expected, self.folder.models, limit
            )
        self.checkpoints = Checkpoints(self.folder.models, self.learner, config)
        sources = [(pairs.images, pairs.labels) for pairs in self.source.members]
        self.fingerprints = fingerprints(sources, self.target.images, self.validation)
        if self.corrected:
            self.fingerprints["DATA.corrections"] = self.corrected.labels.fingerprint()
        self.start = 0
        self.unvalidated = False  # True while the validation of the last iteration is unfinished
        self.log_state: dict = {}
        self.warnings: list[str] = []  # about the resumed state
        if config.TRAIN.resume:
            resume(self, workspace)

    def run(self, log: RunLog | None) -> None:
        """Train to the last iteration.

        Args:
            log: None in all processes but the first.

        Raises:
            Interrupted: by SIGINT or SIGTERM, after the state has been saved.
        """
        total, iteration = self.config.TRAIN.total_iters, self.start
        with awaited_signals() as stop:
            try:
                if self.start and log:
                    restore_files(self, log)
                    self.finish_validation(log, stop)
                batches = self.batches(log, stop)
                for iteration, (active, batch) in enumerate(batches, start=self.start + 1):
                    report = active.step(iteration, *tensors(batch))
                    if log:
                        log.add(iteration, report, self.learner.learning_rates)
                        self.check_finite(log, iteration, report, active.pairs)
                        self.show(log, iteration, batch)
                        self.validate(log, iteration, stop)
                        self.save_if_due(log, iteration)
                    if iteration < total:  # the last iteration needs no stop
                        stop.check(self.group.any_process)
            except StopRequested:
                if log:
                    save(self, log, iteration)
                raise Interrupted(
                    f"interrupted at iteration {iteration} of {total}; everything is saved, and "
                    "the same command with --resume continues",
                    stop.received or signal.SIGTERM,
                ) from None

    def batches(self, log: RunLog | None, stop: StopSignal) -> Iterator[tuple[Active, Batch]]:
        """A batch on the device for each remaining iteration, with the step that it goes to.

        The target is labelled when the first batch of a round is requested.
        """
        for phase in phases(self.config):
            if phase.last <= self.start:
                continue
            active = self.activate(phase, log, stop)
            iterations = range(max(phase.first, self.start), phase.last)
            loaded = [
                load_batches(pairs, iterations, self.config.TRAIN, self.device, self.group)
                for pairs in active.pairs.values()
            ]
            for parts in zip(*loaded, strict=True):
                yield active, dict(zip(active.pairs, parts, strict=True))

    def activate(self, phase: Phase, log: RunLog | None, stop: StopSignal) -> Active:
        """Set up a phase; a round uses the source if the labels of the target fail the check."""
        source = self.with_corrected(self.source)
        if phase.learns == "both":
            return Active(self.steps.adapt, {"source": source, "target": self.target})
        labelled = None
        if phase.learns == "target":
            labelled = self.label_target(phase.first, log, stop)
        if labelled is not None:
            return Active(self.steps.target, {"target": self.with_corrected(labelled)})
        return Active(self.steps.source, {"source": source})

    def with_corrected(self, pairs: PairDataset) -> PairDataset:
        """Labelled pairs, together with those of the target's corrected sections, if any."""
        if self.corrected is None:
            return pairs
        return pairs.labelled(pairs.labels, (*pairs.others, self.corrected))

    def label_target(
        self, iteration: int, log: RunLog | None, stop: StopSignal
    ) -> PairDataset | None:
        """Label the target for the round that starts after an iteration, or reuse its labels.

        Returns:
            The pairs of the target with these labels; None if the labels fail the check.

        Raises:
            UserError: a resumed run has lost labels that it was trained on.
        """
        labels = self.target_labels
        if log:
            labels.require(iteration, self.start)
            network = self.learner.average.network
            predict = NetworkPredictor(network, self.device, self.precision)
            alone = self.group.size == 1  # waiting processes cannot be told to stop
            if iteration >= self.start:  # else the run was trained on them already
                changed = labels.make(iteration, predict, stop.check if alone else lambda: None)
                if changed:
                    file = labels.file(iteration).name
                    log.info(f"{file}: made again ({', '.join(changed)} changed)")
        self.group.wait()
        masks = labels.open(iteration)
        found = labels.check(iteration, masks)
        if log and iteration >= self.start:  # else it is in the log already
            (log.info if found.sound else log.warning)(str(found))
        return labels.pairs(self.target, masks) if found.sound else None

    def check_finite(
        self, log: RunLog, iteration: int, report: dict[str, Tensor], pairs: dict[str, PairDataset]
    ) -> None:
        """Check for losses that are not finite, at iterations that wait for the device anyway."""
        self.nonfinite.add(iteration, report, pairs)
        train = self.config.TRAIN
        waits = (train.display_freq, train.show_freq, train.valid_freq, train.save_freq)
        if self.device.type == "cpu" or any(self.due(iteration, n) for n in waits):
            self.nonfinite.settle(log.info)

    def show(self, log: RunLog, iteration: int, batch: Batch) -> None:
        """Every ``show_freq`` iterations, write pictures of the first pair of each domain."""
        if not self.due(iteration, self.config.TRAIN.show_freq):
            return
        for domain, part in batch.items():
            picture = preview(self.networks.segmentor, part)
            log.image(domain, picture, iteration)
            write_picture(self.folder.logs / f"{domain}.png", picture)

    def validate(self, log: RunLog, iteration: int, stop: StopSignal) -> None:
        """Every ``valid_freq`` iterations and after the first, validate and check the target."""
        train = self.config.TRAIN
        first = iteration == 1 and train.total_iters > train.valid_freq
        if first or self.due(iteration, train.valid_freq):
            self.unvalidated = True  # a stop in between is saved as such
            if self.validation:
                self.score(log, iteration, stop)
            self.monitor_target(log, iteration)
            self.unvalidated = False

    def score(self, log: RunLog, iteration: int, stop: StopSignal) -> None:
        """Score the validation volume; save the weights if they are the best so far."""
        segmentor = self.learner.networks["segmentor"]
        predict = NetworkPredictor(segmentor, self.device, self.precision)
        scores = self.validation(predict, stop.check)
        log.validation(iteration, scores)
        self.checkpoints.offer(iteration, next(iter(scores.values())))

    def monitor_target(self, log: RunLog, iteration: int) -> None:
        """Measure the predictions on the target, without labels; warn if they collapse."""
        with torch.compiler.set_stance("force_eager"):
            measures = self.monitor.measure(self.networks.segmentor, self.device)
        log.target(iteration, measures._asdict())
        warning = self.monitor.check(iteration, measures)
        if warning:
            log.warning(f"warning at {iteration}: {warning}")

    def save_if_due(self, log: RunLog, iteration: int) -> None:
        """Save every ``save_freq`` iterations and after the last."""
        if self.due(iteration, self.config.TRAIN.save_freq):
            save(self, log, iteration)

    def finish_validation(self, log: RunLog, stop: StopSignal) -> None:
        """Repeat the validation that an interruption cut short."""
        if self.unvalidated:
            self.validate(log, self.start, stop)
            self.save_if_due(log, self.start)

    def due(self, iteration: int, frequency: int) -> bool:
        """True every ``frequency`` iterations and at the last; never if ``frequency`` is 0."""
        last = iteration == self.config.TRAIN.total_iters
        return frequency > 0 and (iteration % frequency == 0 or last)


def tensors(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, in the order of the arguments of a step."""
    keys = ("images", "masks", "ignored")
    return [part[key] for part in batch.values() for key in keys if key in part]
