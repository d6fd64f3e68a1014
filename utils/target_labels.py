"""Pseudo labels of the whole target, made in rounds as a network improves.

A round labels every section as inference does: whole sections, each the mean of its predictions as
the current and as the auxiliary one of a pair, and of those of its neighbours where ``TEST.depth``
says so. What a network mixes of the other section into its masks, one way in one role and the other
way in the other, goes in that mean, and whole sections are predicted better than crops. From there
on these masks are learned from as any labels are.
Source: Zou et al., *Class-balanced self-training*, ECCV 2018 (rounds); Xie et al., *Noisy student*,
CVPR 2020.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from dataloader.formats import HDF5_DATASET
from dataloader.opening import open_volume
from dataloader.volume import Volume
from utils.config import Config
from utils.depth import choose_count, over_depth
from utils.errors import writing_to
from utils.evaluation import choose_pairs, choose_windows
from utils.metrics import THRESHOLD
from utils.prediction import PairPredictor, predict_volume
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
        UserError: ``TEST.padded_size`` or ``DATA.target_stride`` do not fit the target.
    """

    def __init__(
        self, config: Config, target: Volume, folder: Path, limit: int | None = None
    ) -> None:
        self.target, self.folder, self.partial = target, folder, limit is not None
        self.windows = choose_windows(config, target)
        self.pairs = choose_pairs(config, target)[:limit]
        self.count = choose_count(config, target, "target")
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
        sections = predict_volume(predict, self.target, self.pairs, self.windows, self.batch_size)
        count = len({index for pair in self.pairs for index in pair})
        with writing_to(self.folder), h5py.File(part, "w") as file:
            masks = file.create_dataset(
                HDF5_DATASET,
                self.target.shape,
                np.uint8,
                chunks=(1, min(height, 256), min(width, 256)),
                compression="gzip",
                compression_opts=1,
            )
            for index, probability in self._joined(progress(sections, count, "labelling"), check):
                masks[index] = probability >= THRESHOLD
        part.replace(path)

    def _joined(
        self, sections: Iterable[tuple[int, np.ndarray]], check: Callable[[], None]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The sections' probabilities, each with its neighbours' as inference joins them."""
        if self.count == 1:
            for index, probability in sections:
                check()
                yield index, probability
            return
        with tempfile.TemporaryFile(dir=self.folder) as scratch:
            single = np.memmap(scratch, np.float32, shape=self.target.shape)
            for index, probability in sections:
                check()
                single[index] = probability
            yield from over_depth(single.__getitem__, len(single), self.count)

    def open(self, iteration: int) -> Volume:
        """The masks made after an iteration."""
        return open_volume(self.file(iteration), masks=True)
