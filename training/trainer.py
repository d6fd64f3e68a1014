"""A training run from its config to its last checkpoint."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from dataloader.histogram_matching import grey_transfer
from dataloader.inspection import inspect_images, inspect_labels
from dataloader.loader import on_device
from dataloader.pairs import (
    Look,
    PairDataset,
    check_crop_fits,
    check_same_shape,
    pair_loader,
)
from dataloader.roles import at_common_size, open_images, open_labels, pixel_size
from dataloader.volume import Volume
from loss.consistency import pseudo_labels
from loss.supervised import inter_section_residual
from model.checkpoint import (
    AVERAGE,
    BEST,
    CHOSEN_AVERAGE,
    CHOSEN_BEST,
    CHOSEN_LAST,
    LAST,
    MODEL,
    PREVIOUS_STATE,
    TRAINING_STATE,
    Checkpoint,
    check_finite,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_whole,
)
from prediction.pictures import training_picture
from prediction.predictor import NetworkPredictor
from training.adaptation import AdaptationStep
from training.monitor import TargetWatch, foreground
from training.nonfinite import NonFiniteWatch
from training.resuming import changes
from training.rounds import TargetLabels, round_starts
from training.run_folder import RunFolder, RunLog
from training.validation import Validation
from utils.config.schema import Config
from utils.errors import UserError, warn
from utils.files import write_picture
from utils.paths import Workspace, shown
from utils.runtime.distributed import Group
from utils.runtime.signals import Interrupted, StopRequested, StopSignal, awaited_signals

SOURCE, TARGET = 0, 1  # domains, in the seeds of their draws
NO_BATCH = {"images": None}  # of a volume from which nothing is learned

CHECK_SETTINGS = {
    "total_iters": 2,
    "display_freq": 1,
    "show_freq": 2,
    "save_freq": 2,
    "resume": False,
}
CHECK_PAIRS = 1  # of sections in a check's validation
CHECK_CROP_ON_CPU = 256  # pixels; an iteration on 512 takes the published network 15 s there


class Training:
    """Everything a run owns; ``run`` is the loop.

    Args:
        config: of the run.
        workspace: data root and output folder.
        run: name of the run's folders.
        device: to train on.
        check: validate on a few sections only, and on a CPU take smaller crops.
        group: the processes that share each batch; the first alone writes.

    Raises:
        UserError: a volume is missing or unfit.
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
        self.group = group or Group()
        if config.TRAIN.batch_size % self.group.size:
            raise UserError(
                f"TRAIN.batch_size: found {config.TRAIN.batch_size}, expected a multiple of the "
                f"{self.group.size} processes that share it"
            )
        config = config.model_copy(update={"DATA": at_common_size(workspace, config.DATA)})
        self.config, self.device = config, device
        self.crop = config.DATA.crop
        if check and device.type == "cpu":
            self.crop = min(self.crop, CHECK_CROP_ON_CPU)
        self.folder = RunFolder(workspace, config, run)
        torch.manual_seed(config.TRAIN.random_seed)
        self.step = AdaptationStep.build(
            config.TRAIN, config.MODEL.width, device, config.BEYOND, self.group
        )
        self.source = self._dataset(workspace, "source")
        self.target = self._dataset(workspace, "target")
        self.source.look = self._source_look()
        self.validation = self._validation(workspace, CHECK_PAIRS if check else None)
        self.nonfinite = self._nonfinite_watch()
        self.target_watch = TargetWatch(
            self.target,
            self.source.labels,
            config.TRAIN.total_iters,
            source_images=self.source.images,
        )
        self.target_labels: TargetLabels | None = None
        if config.BEYOND.rounds:
            limit = CHECK_PAIRS if check else None
            target = self.target.images
            self.target_labels = TargetLabels(config, target, self.folder.models, limit)
        self.start = 0
        self.score: float | None = None  # of the last validation
        self.best: Checkpoint | None = None
        self.unvalidated = False  # whether the run was stopped in a validation
        self.log_state: dict = {}
        self.warnings: list[str] = []  # of what is resumed
        if config.TRAIN.resume:
            self._resume(workspace)

    def run(self, log: RunLog | None) -> None:
        """Train to the last iteration; only the first process has a log.

        Raises:
            Interrupted: by SIGINT or SIGTERM; the state is saved.
        """
        train, iteration = self.config.TRAIN, self.start
        if self.start and self.group.leads:
            self.restore(log)
        with awaited_signals() as stop:
            try:
                if self.unvalidated and self.group.leads:
                    self.finish(log, iteration, stop)
                batches = self.batches(log, stop)
                for iteration, (source, target) in enumerate(batches, start=self.start + 1):
                    report = self.step(
                        iteration,
                        source["images"],
                        source.get("masks"),
                        target["images"],
                        target.get("masks"),
                        target.get("ignored"),
                    )
                    if self.group.leads:
                        log.add(iteration, report, self.step.learning_rates)
                        self.watch(log, iteration, report)
                        if self._due(iteration, train.show_freq):
                            self.show(log, iteration, source, target)
                        self.finish(log, iteration, stop)
                    if iteration < train.total_iters:  # else all is done anyway
                        stop.check(self.group.any)
            except StopRequested:
                if self.group.leads:
                    self.save(iteration, log)
                raise Interrupted(
                    f"interrupted at iteration {iteration} of {train.total_iters}, all is saved; "
                    "the same command with --resume goes on",
                    stop.received or signal.SIGTERM,
                ) from None

    def watch(self, log: RunLog, iteration: int, report: dict[str, Tensor]) -> None:
        """Look for what is not finite, where the device is waited for anyway."""
        self.nonfinite.add(iteration, report)
        train = self.config.TRAIN
        waits = (train.display_freq, train.show_freq, train.valid_freq, train.save_freq)
        if self.device.type == "cpu" or any(self._due(iteration, n) for n in waits):
            self.nonfinite.settle(log.info)

    def finish(self, log: RunLog, iteration: int, stop: StopSignal) -> None:
        """Validate and save where it is time to."""
        train = self.config.TRAIN
        if self._due(iteration, train.valid_freq, first=True):
            self.unvalidated = True  # until it is done, should the run be stopped meanwhile
            if self.validation:
                self.validate(log, iteration, stop)
            self.look_at_target(log, iteration)
            self.unvalidated = False
        if self._due(iteration, train.save_freq):
            self.save(iteration, log)

    def batches(
        self, log: RunLog | None, stop: StopSignal
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Source and target batches on the device, one for each iteration left.

        Where the target is labelled in rounds, it is so when the batch after that is asked for.
        """
        total, step = self.config.TRAIN.total_iters, self.step
        starts = round_starts(step.begin, total, self.config.BEYOND.rounds)
        for first, last in itertools.pairwise([0, *starts, total]):
            if last <= self.start:
                continue
            if first in starts:
                self.label_target(first, log, stop)
            first = max(first, self.start)
            source, target = (
                self._loaded(data, first, last) for data in (self.source, self.target)
            )
            alone = self.target.labels is not None and not self.config.BEYOND.keep_source
            nothing = itertools.repeat(NO_BATCH)
            yield from zip(
                nothing if alone else source, target if step.adapt else nothing, strict=False
            )

    def _loaded(self, dataset: PairDataset, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        """Batches of the iterations after ``first`` up to ``last``."""
        train = self.config.TRAIN
        loader = pair_loader(
            dataset,
            train.batch_size,
            train.num_workers,
            pin=self.device.type == "cuda",
            first=first * train.batch_size,
            end=last * train.batch_size,
            rank=self.group.rank,
            ranks=self.group.size,
        )
        return on_device(loader, self.device)

    def label_target(self, iteration: int, log: RunLog | None, stop: StopSignal) -> None:
        """Make, or find, the pseudo labels of the round that begins after an iteration.

        Raises:
            UserError: they are gone, and the network that made them as well.
        """
        labels = self.target_labels
        if self.group.leads:
            if iteration < self.start and not labels.file(iteration).exists():
                raise UserError(
                    f"{labels.file(iteration)}: missing, and the run is at iteration {self.start} "
                    "already; expected the labels that it learned from; begin it anew (--overwrite)"
                )
            network = self.step.average.network
            predict = NetworkPredictor(network, self.device, self.step.precision)
            alone = self.group.size == 1  # others could not be told to stop while they wait
            labels.make(iteration, predict, stop.check if alone else lambda: None)
        self.group.wait()
        masks = labels.open(iteration)
        found = foreground(masks, self.target.images)
        expected = self.target_watch.source_foreground
        limit = self.config.BEYOND.guard
        sound = not limit or labels.partial or expected / limit < found < expected * limit
        self.target.labels = masks if sound else None
        self.target.cuts = labels.plane_pairs(self.target, masks) if sound else ()
        if self.group.leads:
            end = "; not used (BEYOND.guard)" if not sound else ""
            if sound and not self.config.BEYOND.keep_source:
                end = "; from here on it alone is learned from"
            log.info(
                f"target labelled after {iteration}: {found:.2%} of its pixels, {expected:.2%} in "
                f"the source's labels{end}"
            )

    def validate(self, log: RunLog, iteration: int, stop: StopSignal) -> None:
        """Score the validation volume; keep the checkpoint if it is the best so far."""
        predict = NetworkPredictor(self.step.segmentor, self.device, self.step.precision)
        scores = self.validation(predict, stop.check)
        log.validation(iteration, scores)
        self.score = next(iter(scores.values()))
        if self.best is None or self.score > self.best.valid_result:
            self.best = _kept(self._checkpoint(iteration, CHOSEN_BEST))
            save_checkpoint(self.folder.models / BEST, self.best)

    def look_at_target(self, log: RunLog, iteration: int) -> None:
        """Measure the predictions of the target without labels; warn if they collapse."""
        with torch.compiler.set_stance("force_eager"):
            measures = self.target_watch.measure(self.step.segment, self.device)
        log.target(iteration, measures._asdict())
        warning = self.target_watch.judge(iteration, measures)
        if warning:
            log.info(f"warning at {iteration}: {warning}")

    def save(self, iteration: int, log: RunLog) -> None:
        """Write the last checkpoint and what it takes to go on from it.

        The training state is the last to be written and holds all that the other files do:
        whatever a kill leaves of those, ``restore`` mends.
        """
        self.nonfinite.settle(log.info)
        log.flush()  # what is logged up to here is not logged again
        self._save_weights(iteration)
        if self.config.TRAIN.keep_checkpoints:
            self._save_weights(iteration, f"-{iteration:06d}")
        state = {
            "config": self.config.model_dump(mode="json"),
            "iteration": iteration,
            "score": self.score,
            "best": self.best and self.best._asdict(),
            "unvalidated": self.unvalidated,
            "log": log.state_dict(),
            "nonfinite": self.nonfinite.state_dict(),
            "collapsed": self.target_watch.collapsed,
            **self.step.state_dict(),
        }
        save_whole(self.folder.models / TRAINING_STATE, state, previous=PREVIOUS_STATE)

    def restore(self, log: RunLog) -> None:
        """Make the log and the checkpoints what they were when the state was written."""
        log.load_state_dict(self.log_state)
        for warning in self.warnings:
            log.info(f"warning: {warning}")
        folder = self.folder.models
        self._save_weights(self.start)
        if self.best:
            save_checkpoint(folder / BEST, self.best)
        else:
            (folder / BEST).unlink(missing_ok=True)
        for path in folder.glob("*-*.ckpt"):
            number = path.stem.rpartition("-")[2]
            if number.isdecimal() and int(number) > self.start:
                path.unlink()

    def _save_weights(self, iteration: int, suffix: str = "") -> None:
        """Write ``last.ckpt`` and ``average.ckpt``, with a suffix to their stems.

        Without one ``model.ckpt`` as well: what ``TRAIN.choose_by`` names.
        """
        last = self._checkpoint(iteration, CHOSEN_LAST)
        average = self._checkpoint(iteration, CHOSEN_AVERAGE, self.step.average.network)
        written = {LAST: last, AVERAGE: average}
        if not suffix:
            written[MODEL] = last if self.config.TRAIN.choose_by == "last" else average
        for name, checkpoint in written.items():
            path = self.folder.models / name
            save_checkpoint(path.with_stem(path.stem + suffix), checkpoint)

    @torch.no_grad()
    def show(
        self,
        log: RunLog,
        iteration: int,
        source: dict[str, Tensor],
        target: dict[str, Tensor],
    ) -> None:
        """Pictures of the first source pair with its labels, target pair with pseudo labels."""
        for domain, batch in (("source", source), ("target", target)):
            if batch["images"] is None:
                continue
            pair = batch["images"][:1]
            with torch.compiler.set_stance("force_eager"):  # not worth another compilation
                logits = self.step.segment(pair)
            if batch.get("masks") is not None:
                masks = batch["masks"][:1]
                truth = (masks[0, 0], masks[0, 1], inter_section_residual(masks)[0])
            else:
                truth = (*(p[0] for p in pseudo_labels(*logits)), logits.residual[0].argmax(0))
            picture = training_picture(pair[0], truth, logits)
            log.image(domain, picture, iteration)
            write_picture(self.folder.logs / f"{domain}.png", picture)

    def _due(self, iteration: int, frequency: int, first: bool = False) -> bool:
        if not frequency:
            return False
        total = self.config.TRAIN.total_iters
        at_first = first and iteration == 1 and total > frequency
        return iteration % frequency == 0 or iteration == total or at_first

    def _dataset(self, workspace: Workspace, domain: str) -> PairDataset:
        data, train = self.config.DATA, self.config.TRAIN
        is_source = domain == "source"
        images = open_images(workspace, data, domain)
        labels = open_labels(workspace, data, "source") if is_source else None
        check_crop_fits(images, data.crop)  # also where this run's crops are smaller
        if labels is not None:
            check_same_shape(images, labels)
        findings = {images: inspect_images(images).warnings()}
        if labels is not None:
            findings[labels] = inspect_labels(images, labels).warnings()
        for volume, lines in findings.items():
            for line in lines:
                warn(f"{shown(volume.path)}: {line}")
        return PairDataset(
            images,
            labels,
            data.source_stride if is_source else data.target_stride,
            self.crop,
            seed=(train.random_seed, SOURCE if is_source else TARGET),
            length=train.total_iters * train.batch_size,
        )

    def _source_look(self) -> Look:
        """How the source is shown, that the network may read the target."""
        beyond, volumes = self.config.BEYOND, (self.source.images, self.target.images)
        return Look(beyond.random_source, grey_transfer(*volumes) if beyond.match_greys else None)

    def _validation(self, workspace: Workspace, limit: int | None) -> Validation | None:
        """None where validation is off or there are no labels."""
        data = self.config.DATA
        if not self.config.TRAIN.if_valid:
            return None
        labels = open_labels(workspace, data, "val", working=False)
        if labels is None:
            return None
        return Validation(self.config, open_images(workspace, data, "val"), labels, limit)

    def _nonfinite_watch(self) -> NonFiniteWatch:
        train = self.config.TRAIN
        domains = {"source": self.source} | ({"target": self.target} if self.step.adapt else {})
        return NonFiniteWatch(train.on_nan, domains, train.batch_size, self.folder.logs)

    def _resume(self, workspace: Workspace) -> None:
        train = self.config.TRAIN
        run = train.model_name or self.folder.name
        state, path, warning = load_state(workspace.models(train.save_path, run))
        self.warnings += [warning] if warning else []
        try:
            self._compare_config(state.get("config", {}), path, same_run=run == self.folder.name)
            for network in state["networks"].values():
                check_finite(path, network)
            self.step.load_state_dict(state)
            self.start, self.log_state = int(state["iteration"]), dict(state["log"])
            self.score, self.unvalidated = state["score"], bool(state["unvalidated"])
            self.best = self._best_of(state, path.with_name(BEST))
            self.nonfinite.load_state_dict(state.get("nonfinite", {}))
            self.target_watch.collapsed = state.get("collapsed", False)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{path}: not the state of such a run ({reason})") from None
        if self.start >= train.total_iters and not self.unvalidated:
            raise UserError(
                f"{path}: the run is done, at iteration {self.start} of TRAIN.total_iters "
                f"{train.total_iters}"
            )

    def _compare_config(self, earlier: dict, path: Path, same_run: bool) -> None:
        """Refuse to go on as another run in the folder of this one; raises UserError."""
        fixed, warned = changes(earlier, self.config)
        if fixed and same_run:
            raise UserError(
                f"{path}: the run was begun with another config ({'; '.join(fixed)}); give that "
                "config, or --run-name NAME for a new run"
            )
        self.warnings += [
            f"{change}; from here on it is not the run that was begun"
            for change in (*fixed, *warned)
        ]

    @staticmethod
    def _best_of(state: dict, path: Path) -> Checkpoint | None:
        """The best checkpoint of a state; before states held it, of its own file."""
        if "best" in state:
            best = state["best"]  # earlier states have fields that are gone
            return best and Checkpoint(**{key: best[key] for key in Checkpoint._fields})
        return load_checkpoint(path) if state.get("best_score") is not None else None

    def _checkpoint(
        self, iteration: int, rule: str, network: nn.Module | None = None
    ) -> Checkpoint:
        """The segmentor, or another network, as it is now; its weights go on changing."""
        weights = (self.step.segmentor if network is None else network).state_dict()
        pixel_size = self.config.DATA.pixel_size_working
        return Checkpoint(weights, iteration, self.score, rule, pixel_size)


def _kept(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with weights that no longer change, on the CPU."""
    weights = {name: value.cpu().clone() for name, value in checkpoint.weights.items()}
    return checkpoint._replace(weights=weights)


def describe(training: Training) -> list[str]:
    """What a run is about to do, a line each."""
    config, lines = training.config, []
    for role, dataset in (("source", training.source), ("target", training.target)):
        lines.append(f"{role}: {_shape(dataset.images)}, stride {dataset.stride}")
    sizes = {
        "source": pixel_size(config.DATA, "source", training.source.images),
        "target": pixel_size(config.DATA, "target", training.target.images),
    }
    if any(sizes.values()):
        known = ", ".join(f"{k} {f'{v:g} nm' if v else 'unknown'}" for k, v in sizes.items())
        working = config.DATA.pixel_size_working
        end = f"resampled to {working:g} nm" if working else "not resampled"
        lines.append(f"pixel size: {known}; {end}")
    if training.validation:
        lines.append(f"validation: {_shape(training.validation.volume)}")
    elif config.TRAIN.if_valid:
        lines.append("validation: none, no labels to score against (DATA.data_dir_val_label)")
    else:
        lines.append("validation: none (TRAIN.if_valid)")
    if training.target_labels:
        train, beyond = config.TRAIN, config.BEYOND
        starts = round_starts(training.step.begin, train.total_iters, beyond.rounds)
        lines.append(
            f"rounds: the target is labelled after iterations {', '.join(map(str, starts))}"
        )
    if training.crop != config.DATA.crop:
        lines.append(
            f"crops of {training.crop} pixels, as this is a check; {config.DATA.crop} else"
        )
    if not training.step.adapt:
        lines.append("source only: the consistency and adversarial weights are all 0")
    return lines


def _shape(volume: Volume) -> str:
    sections, height, width = volume.shape
    return f"{shown(volume.path)}, {sections} sections of {height} x {width}"
