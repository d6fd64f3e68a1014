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
from pathlib import Path

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
from utils.config.schema import Config
from utils.errors import writing_to
from utils.progress import progress


def round_starts(begin: int, total: int, rounds: int) -> list[int]:
    """The iterations after which the target is labelled, evenly from ``begin`` on."""
    return sorted({begin + (total - begin) * n // rounds for n in range(rounds)})


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
        self.batch_size = config.TEST.batch_size

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
                blank = self.target.blank(index)
                masks[index] = (probability >= THRESHOLD) & (True if blank is None else ~blank)
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

    def plane_pairs(self, pairs: PairDataset, masks: Volume) -> tuple[PairDataset, ...]:
        """Pairs of the labelled target's planes, with ``BEYOND.orthoplane``; else none.

        Args:
            pairs: of its sections; those of the planes are like them.
            masks: its labels.
        """
        return tuple(self._pairs_of(cut, pairs, masks) for cut in self.cuts[1:])

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
