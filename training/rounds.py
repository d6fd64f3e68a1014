"""Self-training in rounds: the whole target is labelled as the network improves.

A round predicts the whole target as inference does. The probability of a section is the mean of its
predictions as the current and as the auxiliary section of a pair, further averaged by
``TEST.z_average`` and ``BEYOND.orthoplane`` (prediction/orthoplane.py). The other section of a pair
leaks into a mask; the mean over both roles cancels part of that. A label is 1 where the probability
reaches a threshold (``BEYOND.label_threshold``). The run then trains on these masks
as on any labels. With ``BEYOND.orthoplane`` it also trains on the xz and yz slices, where errors
made on xy sections appear as noise.

Source: Zou et al., *Class-balanced self-training*, ECCV 2018 (rounds); Xie et al., *Noisy student*,
CVPR 2020.
"""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np

from dataloader.formats.hdf5 import HDF5_DATASET
from dataloader.formats.opening import open_volume
from dataloader.orthogonal_slices import OrthogonalSlices, PaddedVolume, scratch_array
from dataloader.pairs import PairDataset, check_same_shape
from dataloader.volume import Volume
from prediction.fingerprint import differing, prediction_fingerprint
from prediction.metrics import THRESHOLD
from prediction.orthoplane import SlicingAxis, join, slicing_axes
from prediction.predictor import NetworkPredictor, PairPredictor, predict_volume
from prediction.threshold import ATTRIBUTE, EDGES, LOWEST, EdgeThreshold, read_threshold
from training.monitor import foreground
from utils.config.schema import Config
from utils.errors import UserError, writing_to
from utils.progress import progress

FINGERPRINT = "fingerprint"  # attribute of a label file: what the labels were made from


class Phase(NamedTuple):
    """Consecutive iterations with the same step.

    Attributes:
        first: the iteration after which the phase starts.
        last: the last iteration of the phase.
        learns: what it trains on: the source, both domains, or the labelled target.
    """

    first: int
    last: int
    learns: Literal["source", "both", "target"]


def phases(config: Config) -> list[Phase]:
    """The phases of a run, in order.

    The published method has one phase, on both domains. ``BEYOND.warmup_fraction`` adds a phase on
    the source before it. ``BEYOND.rounds`` replaces it by rounds on the labelled target.
    """
    total, warmup, rounds = config.TRAIN.total_iters, config.warmup_iters, config.BEYOND.rounds
    if rounds:
        starts = [*round_starts(warmup, total, rounds), total]
        main = [Phase(first, last, "target") for first, last in pairwise(starts)]
    else:
        main = [Phase(warmup, total, "both" if config.TRAIN.adapts else "source")]
    return ([Phase(0, warmup, "source")] if warmup else []) + main


def round_starts(warmup: int, total: int, rounds: int) -> list[int]:
    """The iterations after which the target is labelled, evenly spaced after the warm-up."""
    return sorted({warmup + (total - warmup) * n // rounds for n in range(rounds)})


class LabelCheck(NamedTuple):
    """The check of the labels of a round before they are used.

    Attributes:
        iteration: after which the target was labelled.
        threshold: probability from which a pixel is mitochondria in these labels.
        found: fraction of mitochondria in these labels.
        expected: fraction of mitochondria in the labels of the source.
        sound: whether their ratio is within ``BEYOND.foreground_ratio_limit``.
    """

    iteration: int
    threshold: float
    found: float
    expected: float
    sound: bool

    def __str__(self) -> str:
        end = (
            "training continues on the target alone"
            if self.sound
            else "not used (BEYOND.foreground_ratio_limit)"
        )
        return (
            f"target labelled after {self.iteration}: {self.found:.2%} of its pixels at a "
            f"threshold of {self.threshold:g}, {self.expected:.2%} in the source's labels; {end}"
        )


class TargetLabels:
    """Labels the target volume and stores the labels in the folder of the run.

    Args:
        config: how volumes are predicted.
        target: sections at the working pixel size.
        expected: fraction of mitochondria in the labels of the source.
        folder: of the run; a round writes a file such as ``target_labels-000600.hdf``.
        limit: number of pairs to predict, for a quick check (the rest is background); None: all.

    Raises:
        UserError: ``TEST.padded_size``, ``DATA.target_stride`` or ``BEYOND.orthoplane`` does not
            fit the target.
    """

    def __init__(
        self,
        config: Config,
        target: Volume,
        expected: float,
        folder: Path,
        limit: int | None = None,
    ) -> None:
        self.target, self.expected, self.folder = target, expected, folder
        self.partial = limit is not None
        self.axes = slicing_axes(config, target, "target", folder, limit)
        self.batch_size, self.limit = config.TEST.batch_size, config.BEYOND.foreground_ratio_limit
        total, rounds = config.TRAIN.total_iters, config.BEYOND.rounds
        self.starts = round_starts(config.warmup_iters, total, rounds)
        self.label_threshold = config.BEYOND.label_threshold
        self.sound: dict[int, bool] = {}  # checked labels, by the iteration

    def file(self, iteration: int) -> Path:
        """The file of the labels made after an iteration."""
        return self.folder / f"target_labels-{iteration:06d}.hdf"

    def threshold(self, iteration: int) -> float | EdgeThreshold:
        """The threshold of the labels made after an iteration, or the rule that chooses it.

        A network that has learned from the source alone is unsure of mitochondria that look
        different. Once it has learned from labels of the target, it is as sure as they are: lower
        thresholds would let the labels grow from round to round.
        """
        learned = any(self._used(start) for start in self.starts if start < iteration)
        if self.label_threshold == EDGES:
            return EdgeThreshold(self.target, THRESHOLD if learned else LOWEST)
        return THRESHOLD if learned else self.label_threshold

    def _used(self, iteration: int) -> bool:
        """Whether the labels made after an iteration passed the check."""
        if iteration not in self.sound and self.file(iteration).exists():  # of a resumed run
            self.check(iteration, self.open(iteration))
        return self.sound.get(iteration, True)

    def make(
        self, iteration: int, predict: NetworkPredictor, check: Callable[[], None]
    ) -> list[str]:
        """Label the target, unless the file already holds the labels of this network and volume.

        Args:
            iteration: after which the target is labelled.
            predict: the network.
            check: called before each section; may raise.

        Returns:
            If other labels were replaced, the names of what has changed since.
        """
        path, made_from = self.file(iteration), self._fingerprint(iteration, predict)
        changed = _changed(path, made_from)
        if path.exists() and not changed:
            return []
        part = path.with_name(path.name + ".part")
        height, width = self.target.shape[1:]
        with writing_to(self.folder), h5py.File(part, "w") as file:
            masks = file.create_dataset(
                HDF5_DATASET,
                self.target.shape,
                np.uint8,
                chunks=(1, min(height, 256), min(width, 256)),
                compression="gzip",
                compression_opts=1,
            )
            masks.attrs[FINGERPRINT] = json.dumps(made_from)
            predicted = [self._predict(axis, predict, check).__getitem__ for axis in self.axes]

            def sections() -> Iterator[tuple[int, np.ndarray]]:
                return self._without_blank(join(self.axes, predicted, self.folder, check))

            threshold = self.threshold(iteration)
            if isinstance(threshold, EdgeThreshold):
                for index, probability in sections():
                    threshold.add(index, probability)
                threshold = threshold.threshold
            for index, probability in sections():
                masks[index] = probability >= threshold
            masks.attrs[ATTRIBUTE] = threshold
        part.replace(path)
        return changed

    def _without_blank(
        self, sections: Iterator[tuple[int, np.ndarray]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        for index, probability in sections:
            blank = self.target.blank(index)
            yield index, probability if blank is None else np.where(blank, 0, probability)

    def _fingerprint(self, iteration: int, predict: NetworkPredictor) -> dict[str, Any]:
        """What the labels are made from, for all slicing axes."""
        fingerprint = {
            f"{axis.name} {name}": value
            for axis in self.axes
            for name, value in prediction_fingerprint(
                axis, predict, self.batch_size, count=axis.count
            ).items()
        }
        threshold = self.threshold(iteration)
        if isinstance(threshold, EdgeThreshold):
            fingerprint[EDGES] = threshold.lowest
        elif threshold != THRESHOLD:
            fingerprint["threshold"] = threshold
        return fingerprint

    def _predict(
        self, axis: SlicingAxis, predict: PairPredictor, check: Callable[[], None]
    ) -> np.ndarray:
        """The probabilities of the sections along an axis; 0 in sections that are in no pair."""
        found = scratch_array(axis.volume.shape, np.float32, self.folder)
        sections = predict_volume(predict, axis.task(self.batch_size))
        count = len({index for pair in axis.pairs for index in pair})
        for index, probability in progress(sections, count, f"{axis.name} section"):
            check()
            found[index] = probability
        return found

    def require(self, iteration: int, start: int) -> None:
        """Check that a resumed run still has the labels that it was trained on.

        Args:
            iteration: after which the labels were made.
            start: the iteration that the run resumes from.

        Raises:
            UserError: the labels are missing; they cannot be made again.
        """
        if iteration < start and not self.file(iteration).exists():
            raise UserError(
                f"{self.file(iteration)}: missing; expected the labels that the run was trained "
                f"on before iteration {start}; start the run again (--overwrite)"
            )

    def check(self, iteration: int, masks: Volume) -> LabelCheck:
        """Compare the fraction of mitochondria in the labels of a round with the expected one."""
        found, expected = foreground(masks, self.target), self.expected
        near = not self.limit or expected / self.limit < found < expected * self.limit
        self.sound[iteration] = near or self.partial
        threshold = read_threshold(self.file(iteration))
        return LabelCheck(iteration, threshold, found, expected, self.sound[iteration])

    def pairs(self, target: PairDataset, masks: Volume) -> PairDataset:
        """The labelled pairs of the target, with ``BEYOND.orthoplane`` also of its other slices.

        Args:
            target: pairs without labels.
            masks: labels of a round.
        """
        others = tuple(self._pairs_of(axis, target, masks) for axis in self.axes[1:])
        return target.labelled(masks, others)

    def _pairs_of(self, axis: SlicingAxis, pairs: PairDataset, masks: Volume) -> PairDataset:
        labels = OrthogonalSlices(masks, axis.dim, axis.volume.shape[1], self.folder, masks=True)
        for slices in (axis.volume, labels):
            slices.laid_out()  # before workers start
        sampling = pairs.sampling
        return PairDataset(
            PaddedVolume(axis.volume, sampling.crop),
            PaddedVolume(labels, sampling.crop),
            sampling._replace(stride=axis.stride, seed=(*sampling.seed, axis.dim)),
        )

    def open(self, iteration: int) -> Volume:
        """The masks made after an iteration; raises UserError if they do not fit the target."""
        masks = open_volume(self.file(iteration), masks=True)
        check_same_shape(self.target, masks)
        return masks


def _changed(path: Path, made_from: dict[str, Any]) -> list[str]:
    """Names of what has changed since the labels in a file were made; none without a file."""
    try:
        with h5py.File(path) as file:
            return differing(json.loads(file[HDF5_DATASET].attrs[FINGERPRINT]), made_from)
    except FileNotFoundError:
        return []
    except (OSError, KeyError, ValueError):
        return ["format"]
