"""Scores the validation volume during training."""

from collections.abc import Callable

from dataloader.pairs import check_same_shape
from dataloader.part import top_left
from dataloader.partial_labels import PartialLabels, labels_to_score
from dataloader.volume import Volume
from prediction.metrics import Counts, DiceScores
from prediction.predictor import PairPredictor, Task
from prediction.volume import choose_pairs, choose_windows, predict_on_grid, square_side
from prediction.windows import round_up, whole_section
from utils.config.schema import Config
from utils.ignore import ignoring


class Validation:
    """Scores the argmax masks of a labelled volume; both masks of a section are joined by OR.

    As published: a folder of sections gives dice and Jaccard, averaged over sections; an HDF5
    volume gives F1 of all pixels in the top-left square of each section, whose side is
    ``DATA.input_size_test`` on the volume's own grid. Where some sections alone have labels, only
    their pairs are predicted.

    Args:
        config: of the run.
        volume: sections at the working pixel size.
        labels: masks on their own grid.
        limit: number of pairs to score, for a quick check; None: all.

    Raises:
        UserError: the labels, the padded size or the square do not fit the volume.
    """

    def __init__(
        self, config: Config, volume: Volume, labels: Volume, limit: int | None = None
    ) -> None:
        labels = labels_to_score(labels, volume.original)
        check_same_shape(volume.original, labels)
        self.own_blank = volume.own_blank  # of whole sections
        self.pooled = volume.tiled
        if self.pooled:
            side = square_side(config.DATA)
            scale = volume.shape[1] / volume.original.shape[1]
            volume = top_left(volume, round(side * scale))
            labels = top_left(labels, side)
            padded = tuple(round_up(side) for side in volume.shape[1:])
            self.windows = whole_section(volume.shape[1:], padded)
        else:
            self.windows = choose_windows(config, volume)
        self.volume, self.labels = volume, labels
        pairs = choose_pairs(config, volume)
        if isinstance(labels, PartialLabels):
            pairs = [pair for pair in pairs if labels.places.keys() & set(pair)]
        self.pairs = pairs[:limit]

    def __call__(
        self, predict: PairPredictor, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """The scores, named as in valid.txt; the first one selects the best checkpoint.

        Args:
            predict: the network.
            check: called before each section; may raise.
        """
        predictions = predict_on_grid(
            predict,
            Task(self.volume, self.pairs, self.windows),
            self.labels.shape[1:],
            combine="mean" if len(self.windows.corners) > 1 else "max",
        )
        sections, pooled = DiceScores(), Counts(0, 0, 0, 0)
        for index, probability in predictions:
            check()
            label, blank = self.labels.section(index), self.own_blank(index)
            height, width = label.shape
            label = ignoring(label, None if blank is None else blank[:height, :width])
            mask = probability > 0.5
            sections.add(mask, label)
            pooled += Counts.of(mask, label)
        if self.pooled:
            return {"F1": pooled.f1}
        return sections.result()._asdict()
