"""Predicting a config's validation volume, and scoring it during training."""

from collections.abc import Callable, Container, Iterator
from typing import Literal

import numpy as np

from dataloader.pairs import check_same_shape
from dataloader.volume import CroppedVolume, Volume, resample
from utils.config import Config
from utils.errors import UserError
from utils.metrics import Counts, DiceScores
from utils.prediction import PairPredictor, predict_volume, section_pairs
from utils.windows import Windows, round_up, tiles, whole_section

VALIDATION_SQUARE = 1024  # pixels; of each section of a tiled volume


def choose_windows(
    config: Config, volume: Volume, padded_size: tuple[int, int] | None = None
) -> Windows:
    """The windows a config asks for: by default a folder's sections whole, HDF5 in tiles.

    Args:
        config: ``TEST`` asks.
        volume: to cut into windows.
        padded_size: of whole sections; None: ``TEST.padded_size``.

    Raises:
        UserError: the padded size is smaller than the sections.
    """
    test, shape = config.TEST, volume.shape[1:]
    kind = test.windows
    if kind == "auto":
        kind = "tile" if volume.tiled else "section"
    if kind == "tile":
        return tiles(shape, test.tile, test.tile_step, test.tile_pad)
    try:
        return whole_section(shape, padded_size or test.padded_size)
    except ValueError as error:
        raise UserError(f"TEST.padded_size: {error}") from None


def choose_pairs(config: Config, volume: Volume) -> list[tuple[int, int]]:
    """The pairs of a volume at the target's stride; raises UserError where there is none."""
    try:
        return section_pairs(len(volume), config.DATA.target_stride)
    except ValueError as error:
        raise UserError(f"DATA.target_stride: {volume.path}: {error}") from None


def predict_on_grid(
    predict: PairPredictor,
    volume: Volume,
    pairs: list[tuple[int, int]],
    windows: Windows,
    shape: tuple[int, int],
    batch_size: int = 1,
    combine: Literal["mean", "max"] = "mean",
    sections: Container[int] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """``predict_volume``, brought back from the working grid to sections of ``shape``."""
    predicted = predict_volume(predict, volume, pairs, windows, batch_size, combine, sections)
    for index, probability in predicted:
        yield index, np.clip(resample(probability, shape), 0, 1)


class Validation:
    """Scores the argmax masks of a labelled volume, OR-ed where a section is seen twice.

    A folder's sections give dice and Jaccard averaged over sections; of an HDF5 volume the
    top-left 1024 square of each section gives F1 pooled over the volume. As published.

    Args:
        config: of the run.
        volume: sections at the working pixel size.
        labels: masks on their own grid.
        limit: number of pairs to score, for a quick look; None: all.
    """

    def __init__(
        self, config: Config, volume: Volume, labels: Volume, limit: int | None = None
    ) -> None:
        check_same_shape(volume.original, labels)
        self.pooled = volume.tiled
        if self.pooled:
            scale = volume.shape[1] / volume.original.shape[1]
            volume = CroppedVolume(volume, round(VALIDATION_SQUARE * scale))
            labels = CroppedVolume(labels, VALIDATION_SQUARE)
            padded = tuple(round_up(side) for side in volume.shape[1:])
            self.windows = whole_section(volume.shape[1:], padded)
        else:
            self.windows = choose_windows(config, volume)
        self.volume, self.labels = volume, labels
        self.pairs = choose_pairs(config, volume)[:limit]

    def __call__(
        self, predict: PairPredictor, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Scores by the names of valid.txt; the first is the one by which the best is chosen.

        Args:
            predict: the network.
            check: called before each section is scored; may raise.
        """
        predictions = predict_on_grid(
            predict,
            self.volume,
            self.pairs,
            self.windows,
            self.labels.shape[1:],
            combine="mean" if len(self.windows.corners) > 1 else "max",
        )
        sections, pooled = DiceScores(), Counts(0, 0, 0, 0)
        for index, probability in predictions:
            check()
            mask, label = probability > 0.5, self.labels.section(index)
            sections.add(mask, label)
            pooled += Counts.of(mask, label)
        if self.pooled:
            return {"F1": pooled.f1}
        return sections.result()._asdict()
