"""Predict a config's validation volume with a checkpoint, score it, draw it."""

import csv
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from dataloader.formats.base import VolumeSpec, VolumeWriter
from dataloader.formats.hdf5 import HDF5_DATASET
from dataloader.formats.opening import open_volume
from dataloader.formats.registry import WRITERS
from dataloader.pairs import check_same_shape
from dataloader.roles import as_trained, open_images, open_labels, voxel_size
from dataloader.volume import Volume, resample
from model.checkpoint import Checkpoint, load_checkpoint, segmentor_from
from prediction.fingerprint import prediction_fingerprint
from prediction.instances.scores import MIN_COMPONENT, InstanceScorer
from prediction.instances.segmentation import Instances, mask_components
from prediction.instances.table import write_table
from prediction.measures import MEASURES
from prediction.metrics import (
    THRESHOLD,
    Counts,
    DiceJaccard,
    DiceScores,
    PooledScores,
    Scores,
    SectionScores,
)
from prediction.orthoplane import SlicingAxis, join, slicing_axes
from prediction.outputs import (
    INSTANCES,
    MASKS,
    OBJECTS,
    PICTURES,
    PREDICTIONS,
    PROBABILITY,
    SCORES,
    SECTIONS,
    SUMMARY,
    remove_earlier,
    single_predictions,
)
from prediction.pictures import as_stored, contours, mask_picture
from prediction.predictor import FlippedPredictor, NetworkPredictor
from prediction.report.report import write_report
from prediction.report.view import add_layers
from prediction.store import PredictionStore
from prediction.volume import predict_on_grid
from prediction.windows import Windows
from utils.config.schema import Config
from utils.errors import UserError, writing_to
from utils.files import write_picture
from utils.ignore import IGNORE, ignored_share, ignoring
from utils.paths import Workspace, shown
from utils.progress import progress
from utils.revision import git_revision
from utils.runtime.device import choose_precision
from utils.runtime.distributed import Group, PeerLost
from utils.runtime.lock import lock_folder
from utils.runtime.memory import peak_memory
from utils.runtime.signals import Interrupted, StopRequested, StopSignal, awaited_signals
from utils.runtime.threads import write_behind

SectionUser = Callable[[int, np.ndarray], None]  # index and probability (H, W)


class Inference:
    """One model on one volume.

    Args:
        config: names the volume, its labels and the windows.
        workspace: data root and output folder.
        model: name of the folder in ``models/`` that holds the checkpoint.
        checkpoint_file: in that folder.
        device: to predict on.
        say: receives the lines for the user.
        format: of masks, probabilities and instances, see ``dataloader.formats``; None: the
            volume's own.
        group: the processes among which the sections are shared; the first does all else.

    Raises:
        UserError: the checkpoint or the volume is missing or unfit.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        model: str,
        checkpoint_file: str,
        device: torch.device,
        say: Callable[[str], None] = print,
        format: str | None = None,
        group: Group | None = None,
    ) -> None:
        self.group = group or Group()
        self.config, self.say, self.model = config, say, model
        self.workspace = workspace
        self.checkpoint_path = workspace.models(config.TRAIN.save_path, model) / checkpoint_file
        self.checkpoint: Checkpoint = load_checkpoint(self.checkpoint_path)
        segmentor = segmentor_from(self.checkpoint, self.checkpoint_path)
        self.network = NetworkPredictor(
            segmentor.to(device, memory_format=torch.channels_last),
            device,
            choose_precision(config.TEST.precision, device),
        )
        self.device, self.precision = device, self.network.precision
        self.predictor = FlippedPredictor(self.network) if config.TEST.flips else self.network
        data = as_trained(config.DATA, self.checkpoint.pixel_size)
        self.volume: Volume = open_images(workspace, data, "val", keep=False)
        self.raw: Volume = self.volume.original  # on the target's own grid
        self.voxel_size = voxel_size(data, self.raw)
        self.labels = open_labels(workspace, data, "val", working=False, keep=False)
        if self.labels is not None:
            check_same_shape(self.raw, self.labels)
        self.out = workspace.inference(model)
        self.axes = slicing_axes(config, self.volume, "val", self.out)
        self.windows: Windows = self.axes[0].windows
        self.pairs = self.axes[0].pairs
        self.predictions = self.out / PREDICTIONS
        self.format = format or self.raw.kind
        self.notes = ""
        self.rows: dict[int, dict[str, float]] = {}  # of scores.csv, by section
        self.blank: dict[int, float] = {}  # share of each section
        self.summary: dict[str, Any] = {}
        self.instances: Path | None = None  # their volume, once they were looked for

    def probability(self, index: int) -> np.ndarray:
        """A section's mitochondria probability (H, W) float32, from ``preds.hdf``."""
        with h5py.File(self.predictions) as file:
            return file[HDF5_DATASET][index]

    def predict(self) -> None:
        """Write the probabilities to ``preds.hdf`` (``main``, float32), masks and probabilities.

        A section's predictions from several pairs are joined by their mean, as published. What an
        earlier start has predicted of the same volume by the same weights is kept.

        Raises:
            Interrupted: by SIGINT or SIGTERM; the same command goes on.
        """
        with writing_to(self.out), ExitStack() as stack:
            self.out.mkdir(parents=True, exist_ok=True)
            if self.group.is_main:
                stack.callback(lock_folder(self.out, instead="--out FOLDER").release)
                self._remove_earlier()
            stop = stack.enter_context(awaited_signals())
            try:
                derive = self._deriver(stack) if self.group.is_main else _nothing
                if self.joined:
                    self._predict_axes(derive, stop, stack)
                else:
                    self._predict_sections(derive, stop, stack)
            except StopRequested:
                raise Interrupted("interrupted; the same command goes on", stop.received) from None
            except PeerLost as error:
                raise UserError(f"{error}; the same command goes on") from None

    @property
    def joined(self) -> bool:
        """Whether predictions are means over axes or depth."""
        return len(self.axes) > 1 or self.axes[0].count > 1

    def _remove_earlier(self) -> None:
        axes = [single_predictions(self.out, axis.name) for axis in self.axes]
        remove_earlier(self.out, [self.predictions, *(axes if self.joined else ())])

    def _predict_sections(self, derive: SectionUser, stop: StopSignal, stack: ExitStack) -> None:
        """Predict the sections as they are."""
        (axis,) = self.axes
        made_from = self._fingerprint(axis)
        store = PredictionStore(
            self.predictions, self.raw.shape, self.voxel_size, made_from, self.group
        )
        stack.callback(store.close)
        self._fill(store, axis, derive, stop)
        if self.group.is_main:
            store.finish()

    def _predict_axes(self, derive: SectionUser, stop: StopSignal, stack: ExitStack) -> None:
        """Predict each axis's sections on the working grid, then join them to the volume's own."""
        fingerprints = [self._fingerprint(axis) for axis in self.axes]
        stores = []
        for axis, made_from in zip(self.axes, fingerprints, strict=True):
            path = single_predictions(self.out, axis.name)
            stores.append(PredictionStore(path, axis.volume.shape, None, made_from, self.group))
            stack.callback(stores[-1].close)
            self._fill(stores[-1], axis, _nothing, stop)
        if not self.group.is_main:
            return
        made_from = {"axes": fingerprints, "counts": [axis.count for axis in self.axes]}
        shape = self.raw.shape
        joined = PredictionStore(self.predictions, shape, self.voxel_size, made_from, Group())
        stack.callback(joined.close)
        reads = [store.read for store in stores]
        for index, probability in join(self.axes, reads, self.out, stop.check):
            probability = np.clip(resample(probability, shape[1:]), 0, 1)
            probability = self._without_blank(index, probability)
            joined.write(index, probability)
            derive(index, probability)
        joined.finish()
        for store in stores:
            store.discard()

    def _fill(
        self, store: PredictionStore, axis: SlicingAxis, derive: SectionUser, stop: StopSignal
    ) -> None:
        """Predict this process's part of what a store lacks; derive what follows from sections."""
        done, unit = store.done(), "section" if len(self.axes) == 1 else f"{axis.name} section"
        self.group.wait()  # else some would be done that others have just written
        if store.changed:
            self.say(
                f"{unit}s that an unfinished start predicted do not count "
                f"({', '.join(store.changed)} changed): predicting anew"
            )
        if done:
            self.say(f"{len(done)} of {len(axis.volume)} {unit}s are predicted already")
        for index in sorted(done):
            derive(index, store.read(index))
        order = dict.fromkeys(index for pair in axis.pairs for index in pair)
        own = self.group.share([index for index in order if index not in done])

        def keep(index: int, probability: np.ndarray) -> None:
            if store.path == self.predictions:  # not yet joined to others
                probability = self._without_blank(index, probability)
            store.write(index, probability)
            derive(index, probability)

        sections = predict_on_grid(
            self.predictor,
            axis.volume,
            axis.pairs,
            axis.windows,
            store.shape[1:],
            self.config.TEST.batch_size,
            sections=set(own),
        )
        with write_behind(keep) as write:
            for index, probability in progress(sections, len(own), unit):
                write(index, probability)
                stop.check()
        self.group.wait()
        if self.group.is_main:
            for index in sorted(set(order) - done - set(own)):  # of the other processes
                derive(index, store.read(index))

    def _without_blank(self, index: int, probability: np.ndarray) -> np.ndarray:
        """A section's probability, 0 where the section is blank."""
        blank = self.volume.own_blank(index)
        return probability if blank is None else np.where(blank, np.float32(0), probability)

    def _label(self, index: int) -> np.ndarray:
        """A section's mask of 0 and 1, 255 where pixels do not count: ignored or blank ones."""
        return ignoring(self.labels.section(index), self.volume.own_blank(index))

    def _fingerprint(self, axis: SlicingAxis) -> dict[str, Any]:
        """What a axis's predictions are made from."""
        test = self.config.TEST
        return prediction_fingerprint(
            axis,
            self.network,
            test.batch_size,
            flips=test.flips,
            voxel_size=self.voxel_size and [float(step) for step in self.voxel_size],
        )

    def _deriver(self, stack: ExitStack) -> SectionUser:
        """What writes a section's mask and, where ``preds.hdf`` is not enough, its probability."""
        masks, probabilities = stack.enter_context(self._writer(MASKS, np.uint8)), None
        if self.format != "hdf5":  # which preds.hdf is
            dtype = np.uint8 if self.format == "folder" else np.float32
            probabilities = stack.enter_context(self._writer(PROBABILITY, dtype))
        return partial(self._derive, masks, probabilities)

    def _writer(self, stem: str, dtype: type) -> VolumeWriter:
        """A writer of sections beside ``preds.hdf``."""
        names = [self.picture_name(index) for index in range(len(self.raw))]
        discrete = stem != PROBABILITY
        spec = VolumeSpec(self.raw.shape, dtype, self.voxel_size, names, discrete)
        return WRITERS[self.format](self.out, stem, spec)

    def _derive(
        self,
        masks: VolumeWriter,
        probabilities: VolumeWriter | None,
        index: int,
        probability: np.ndarray,
    ) -> None:
        mask = probability >= THRESHOLD
        masks.write(index, mask.astype(np.uint8) * 255)
        if probabilities is not None:
            grey = self.format == "folder"
            probabilities.write(
                index, np.rint(probability * 255).astype(np.uint8) if grey else probability
            )
        self.rows[index] = {"foreground_predicted": float(mask.mean())}
        blank = self.volume.own_blank(index)
        self.blank[index] = 0.0 if blank is None else float(blank.mean())

    def measure(self, measure: str) -> Scores | DiceJaccard:
        """Score ``preds.hdf``, write ``scores.txt``, leave what to know of the scores in ``notes``.

        Args:
            measure: ``map`` or ``map_2d`` per section, ``map_3d`` pooled, ``dice`` for dice and
                Jaccard of the masks. The validation in training scores other masks: those of single
                pairs, joined by OR.

        Returns:
            The scores; their text is as ``mAP=0.8948, F1=0.8129, MCC=0.8053, IoU=0.6865``.
        """
        kinds = {"map_3d": PooledScores, "dice": DiceScores}
        scores = kinds.get(measure, SectionScores)()
        ignored = 0.0
        for index in range(len(self.labels)):
            ignored += ignored_share(self.labels.section(index)) / len(self.labels)
            label = self._label(index)
            probability = self.probability(index)
            scores.add(probability >= THRESHOLD if measure == "dice" else probability, label)
            counts = Counts.of(probability >= THRESHOLD, label)
            own = scores.scores[-1].mAP if isinstance(scores, SectionScores) else math.nan
            self.rows[index] = {
                "mAP": own,
                "F1": counts.f1,
                "MCC": counts.mcc,
                "IoU": counts.iou,
                "foreground_predicted": (counts.tp + counts.fp) / max(1, sum(counts)),
                "foreground_label": (counts.tp + counts.fn) / max(1, sum(counts)),
            }
        result = scores.result()
        self.summary |= {"measure": measure, "scores": result._asdict()}
        self.notes = f"{measure}: {MEASURES[measure]}; {scores.tally}"
        if isinstance(scores, PooledScores):
            self.notes += f"; mAP exact to {scores.mAP_bound:.0e}"
        if ignored:
            self.notes += f"; {ignored:.2%} of the labels' pixels are ignored"
        if blank := self._blank_share():
            self.notes += f"; {blank:.2%} of the volume is blank, and not scored"
        origin = (
            f"checkpoint={self.checkpoint_path.name}, iteration={self.checkpoint.iteration}, "
            f"chosen by: {self.checkpoint.chosen_by}"
        )
        with writing_to(self.out):
            (self.out / SCORES).write_text(f"{result}\n{self.notes}\n{origin}\n", encoding="utf-8")
        return result

    def draw(self) -> None:
        """Write ``seg_img/``: a folder's sections with contours, an HDF5 volume's masks."""
        folder = self.out / PICTURES
        with writing_to(folder):
            folder.mkdir(exist_ok=True)
            for index in range(len(self.raw)):
                mask = self.probability(index) >= THRESHOLD
                picture = mask_picture(mask)[..., 0]
                if not self.raw.tiled:
                    label = None if self.labels is None else self.labels.section(index)
                    picture = contours(as_stored(self.raw.section(index)), mask, label)
                write_picture(folder / self.picture_name(index), picture)

    def view(self, viewer: Any) -> None:
        """Add what there is to a viewer of napari."""
        add_layers(viewer, self.raw, self.out, self.labels, self.instances, self.voxel_size)

    def report(self) -> None:
        """Write ``report.html``."""
        with writing_to(self.out):
            path = write_report(
                self.out,
                self.raw,
                self.labels,
                self.workspace.logs(self.model),
                self.config.DATA.target_stride,
                open_volume(self.instances, keep=False) if self.instances else None,
            )
        self.say(f"report: {shown(path)}")

    def picture_name(self, index: int) -> str:
        """The file name of a section's mask or picture."""
        return f"{Path(self.raw.names[index]).stem}.png"

    def find_instances(self) -> None:
        """Write the mitochondria as objects, ``objects.csv`` of their measures, and score them."""
        with writing_to(self.out), ExitStack() as stack:
            instances = stack.enter_context(
                Instances(self.probability, self.raw.shape, self.voxel_size, scratch=self.out)
            )
            dtype = np.uint16 if len(instances.table) < 2**16 else np.uint32
            writer = stack.enter_context(self._writer(INSTANCES, dtype))
            labels, scorer = self.instance_labels(stack), InstanceScorer()
            components = isinstance(labels, Instances)
            if components:
                scorer = InstanceScorer(MIN_COMPONENT)
            for index, section in instances.sections():
                writer.write(index, section.astype(dtype))
                if labels is not None:
                    scorer.add(section, labels.section(index), self._label(index) == IGNORE)
            write_table(self.out / OBJECTS, instances.table, self.voxel_size)
        self.instances = writer.path
        self.say(instances.notes)
        self.say(
            f"objects: {shown(self.out / OBJECTS)}, {shown(writer.path)}"
            + ("" if self.voxel_size else "; voxel size unknown, so all is in voxels")
        )
        if labels is None:
            self.say("instances: not scored, no labels")
            return
        if components:
            self.say(
                "the labels are binary: objects are scored against their 6-connected components "
                f"of at least {MIN_COMPONENT} voxels"
            )
        if not scorer.has_labelled:
            self.say("instances: not scored, the labels have no object of that size")
            return
        scores = scorer.result([row.mean_probability for row in instances.table])
        self.summary["instance_scores"] = scores._asdict()
        self.say(f"{scores} (3-D IoU of 0.5 and 0.75); {scorer.notes}")

    def instance_labels(self, stack: ExitStack) -> Volume | Instances | None:
        """Numbered labels, or the connected components of binary ones; None without labels."""
        if self.labels is None:
            return None
        if self.labels.meaning.kind == "instances":
            return self.labels.volume
        components = mask_components(
            lambda index: self._label(index) == 1, self.raw.shape, self.out
        )
        return stack.enter_context(components)

    def write_summary(self) -> None:
        """Write ``scores.csv``, a row for each section, and ``summary.json``, what was run."""
        names = self.raw.names
        rows = [
            {"section": index, "name": names[index]} | self.rows[index]
            for index in sorted(self.rows)
        ]
        volume = {
            "path": self.raw.where,
            "kind": self.raw.kind,
            "shape": self.raw.shape,
            "voxel_size_nm": self.voxel_size,
        }
        summary = {
            "name": self.model,
            "config": self.config.NAME,
            "command": sys.argv,
            "date": datetime.now().isoformat(timespec="seconds"),
            "revision": git_revision(),
            "torch": torch.__version__,
            "device": str(self.device),
            "precision": _name(self.precision),
            "checkpoint": str(self.checkpoint_path),
            "iteration": self.checkpoint.iteration,
            "chosen_by": self.checkpoint.chosen_by,
            "run": self.model,
            "volume": volume,
            "labels": self.labels and self.labels.where,
            "pairs": len(self.pairs),
            "measure": None,
            "scores": None,
            "notes": self.notes,
            "instance_scores": None,
        }
        with writing_to(self.out):
            with (self.out / SECTIONS).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
            text = json.dumps(summary | self.summary, indent=2, ensure_ascii=False)
            (self.out / SUMMARY).write_text(text + "\n", encoding="utf-8")

    def run(self, measure: str, show: bool, instances: bool = False) -> None:
        """Predict, score where there are labels, and do what else is asked; say so as published.

        Of several processes, all but the first only predict.
        """
        self.say(f"out_path: {shown(self.out)}")
        self.say(
            f"checkpoint: {shown(self.checkpoint_path)}, iteration {self.checkpoint.iteration}, "
            f"chosen by: {self.checkpoint.chosen_by}, precision: {_name(self.precision)}"
        )
        windows = len(self.windows.corners) * len(self.pairs)
        if self.raw.tiled:
            self._say_tiles(windows)
        self.say("Begin inference...")
        if self.raw.tiled:
            self.say(f"the number of sub-volume: {windows}")
        begin = time.perf_counter()
        self.predict()
        if not self.group.is_main:
            return
        seconds = time.perf_counter() - begin
        self.say(f"Prediction time (s): {seconds:.2f}")
        pairs = sum(len(axis.windows.corners) * len(axis.pairs) for axis in self.axes)
        self.say(f"pairs of windows per second: {pairs / seconds:.2f}")
        if blank := self._blank_share():
            self.say(
                f"blank areas: {blank:.2%} of the volume; seen as the tissue beside them, "
                "and of probability 0"
            )
        if self.labels is None:
            path = self.config.DATA.data_dir_val_label
            self.say(f"No labels ({path or 'DATA.data_dir_val_label is not set'}): not scored")
        else:
            names = "dice and Jaccard" if measure == "dice" else "mAP, F1, MCC, and IoU"
            self.say(f"Measure on {names}...")
            begin = time.perf_counter()
            self.say(str(self.measure(measure)))
            self.say(f"Measurement time (s): {time.perf_counter() - begin:.2f}")
            self.say(self.notes)
        self.summary |= {"seconds": round(seconds, 2), "blank": self._blank_share()}
        if instances:
            self.say("Finding mitochondria...")
            self.find_instances()
        if show:
            self.say("Show...")
            self.draw()
        self.write_summary()
        self.say(peak_memory(self.device))

    def _blank_share(self) -> float:
        """Share of the volume that is blank."""
        return sum(self.blank.values()) / len(self.raw)

    def _say_tiles(self, windows: int) -> None:
        (top, bottom), (left, right) = self.windows.padding
        sections, height, width = self.volume.shape
        self.say(f"Load {shown(self.raw.path)}")
        self.say(f"raw shape: {self.raw.shape}")
        self.say(f"padded raw shape: {(sections, height + top + bottom, width + left + right)}")
        self.say(f"iters: {windows}")
        if self.labels is not None:
            self.say(f"Load {shown(self.labels.path)}")


def _nothing(*_: object) -> None:
    """What processes but the first derive from a section."""


def _name(precision: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(precision).removeprefix("torch.")


def _cell(value: object) -> object:
    """A number of a table to six digits; nothing for what is not defined."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6f}"
