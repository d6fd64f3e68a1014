"""Pseudo labels of the whole target, made in rounds as a network improves.

A round labels every section as inference does: whole sections, each the mean of its predictions as
the current and as the auxiliary one of a pair, and of what ``TEST.depth`` and ``BEYOND.orthoplane``
join (prediction/orthoplane.py). What a network mixes of the other section into its masks, one way
in one role and the other way in the other, goes in that mean, and whole sections are predicted
better than crops. From there on these masks are learned from as any labels are, with
``BEYOND.orthoplane`` in xz and yz planes as well: three times as much is seen of the tissue, and a
mistake that looks alike in the sections that it was made in is noise across them.
Source: Zou et al., *Class-balanced self-training*, ECCV 2018 (rounds); Xie et al., *Noisy student*,
CVPR 2020.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import h5py
import numpy as np

from dataloader.formats.arrays import HDF5_DATASET
from dataloader.formats.opening import open_volume
from dataloader.orthogonal_slices import PaddedVolume, PlaneVolume, scratch_array
from dataloader.pairs import PairDataset
from dataloader.volume import Volume
from prediction.metrics import THRESHOLD
from prediction.orthoplane import Cut, choose_cuts, join
from prediction.predictor import PairPredictor, predict_volume
from training.monitor import foreground
from utils.config.schema import Config
from utils.errors import UserError, writing_to
from utils.progress import progress


class Phase(NamedTuple):
    """Iterations that learn in the same way.

    Attributes:
        first: the iteration after which it starts.
        last: its last iteration.
        learns: from the source, from both domains, or from the labelled target.
    """

    first: int
    last: int
    learns: Literal["source", "both", "target"]


def phases(config: Config) -> list[Phase]:
    """The phases of a run, in their order.

    As published there is one, which learns from both domains. ``BEYOND.begin`` puts one on the
    source alone before it, ``BEYOND.rounds`` replaces it by as many on the labelled target.
    """
    total, begin, rounds = config.TRAIN.total_iters, config.begin, config.BEYOND.rounds
    if rounds:
        starts = [*round_starts(begin, total, rounds), total]
        main = [Phase(first, last, "target") for first, last in pairwise(starts)]
    else:
        main = [Phase(begin, total, "both" if config.TRAIN.adapts else "source")]
    return ([Phase(0, begin, "source")] if begin else []) + main


def round_starts(begin: int, total: int, rounds: int) -> list[int]:
    """The iterations after which the target is labelled, evenly from ``begin`` on."""
    return sorted({begin + (total - begin) * n // rounds for n in range(rounds)})


class Judgement(NamedTuple):
    """Whether the labels of a round are fit to learn from.

    Attributes:
        iteration: after which the target was labelled.
        found: fraction of mitochondria in its labels.
        expected: the same in the source's labels.
        sound: whether the two are near enough (``BEYOND.guard``).
    """

    iteration: int
    found: float
    expected: float
    sound: bool

    def __str__(self) -> str:
        end = "from here on it alone is learned from" if self.sound else "not used (BEYOND.guard)"
        return (
            f"target labelled after {self.iteration}: {self.found:.2%} of its pixels, "
            f"{self.expected:.2%} in the source's labels; {end}"
        )


class TargetLabels:
    """Labels a target volume, in files of a run's folder.

    Args:
        config: says how a volume is predicted.
        target: its sections, at the working pixel size.
        folder: of the run; a round leaves ``target_labels-000600.hdf`` there.
        limit: number of pairs to predict, for a quick look, all else being background; None: all.

    Raises:
        UserError: ``TEST.padded_size`` or ``DATA.target_stride`` do not fit the target, or its
            voxels ``BEYOND.orthoplane``.
    """

    def __init__(
        self, config: Config, target: Volume, folder: Path, limit: int | None = None
    ) -> None:
        self.target, self.folder, self.partial = target, folder, limit is not None
        self.cuts = choose_cuts(config, target, "target", folder, limit)
        self.batch_size, self.limit = config.TEST.batch_size, config.BEYOND.guard

    def file(self, iteration: int) -> Path:
        """Where the labels made after an iteration are."""
        return self.folder / f"target_labels-{iteration:06d}.hdf"

    def make(self, iteration: int, predict: PairPredictor, check: Callable[[], None]) -> None:
        """Label the target, where that has not been done yet.

        Args:
            iteration: after which it is done.
            predict: the network.
            check: called before each section is written; may raise.
        """
        path = self.file(iteration)
        if path.exists():
            return
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
            predicted = [self._predict(cut, predict, check).__getitem__ for cut in self.cuts]
            for index, probability in join(self.cuts, predicted, self.folder, check):
                masks[index] = probability >= THRESHOLD
        part.replace(path)

    def _predict(self, cut: Cut, predict: PairPredictor, check: Callable[[], None]) -> np.ndarray:
        """The probability of a cut's sections; 0 of those that are in no pair."""
        found = scratch_array(cut.volume.shape, np.float32, self.folder)
        sections = predict_volume(predict, cut.volume, cut.pairs, cut.windows, self.batch_size)
        count = len({index for pair in cut.pairs for index in pair})
        for index, probability in progress(sections, count, f"{cut.name} section"):
            check()
            found[index] = probability
        return found

    def require(self, iteration: int, start: int) -> None:
        """Demand the labels of a round that a resumed run has learned from already.

        Args:
            iteration: after which they were made.
            start: the iteration that the run goes on from.

        Raises:
            UserError: they are gone; the network that made them is as well.
        """
        if iteration < start and not self.file(iteration).exists():
            raise UserError(
                f"{self.file(iteration)}: missing, and the run is at iteration {start} already; "
                "expected the labels that it learned from; begin it anew (--overwrite)"
            )

    def judge(self, iteration: int, masks: Volume, expected: float) -> Judgement:
        """Compare the labels of a round with the fraction of mitochondria to expect."""
        found = foreground(masks)
        near = not self.limit or expected / self.limit < found < expected * self.limit
        return Judgement(iteration, found, expected, near or self.partial)

    def pairs(self, target: PairDataset, masks: Volume) -> PairDataset:
        """The target's pairs with labels; with ``BEYOND.orthoplane`` its planes' as well.

        Args:
            target: the pairs without labels.
            masks: the labels of a round.
        """
        planes = tuple(self._pairs_of(cut, target, masks) for cut in self.cuts[1:])
        return target.labelled(masks, planes)

    def _pairs_of(self, cut: Cut, pairs: PairDataset, masks: Volume) -> PairDataset:
        labels = PlaneVolume(masks, cut.axis, cut.volume.shape[1], self.folder, masks=True)
        for planes in (cut.volume, labels):
            planes.laid_out()  # before there are workers
        return PairDataset(
            PaddedVolume(cut.volume, pairs.crop),
            PaddedVolume(labels, pairs.crop),
            cut.stride,
            pairs.crop,
            seed=(*pairs.seed, cut.axis),
            length=pairs.length,
        )

    def open(self, iteration: int) -> Volume:
        """The masks made after an iteration."""
        return open_volume(self.file(iteration), masks=True)
