"""The windows, pairs and grid in which a config has a volume predicted."""

from collections.abc import Container, Iterator
from typing import Literal

import numpy as np

from dataloader.volume import Volume, resample
from model.segmentor import Segmentor
from prediction.predictor import PairPredictor, Task, predict_volume, section_pairs
from prediction.windows import Windows, tiles, whole_section
from utils.config.schema import Config, DataSettings
from utils.errors import UserError


def choose_windows(
    config: Config, volume: Volume, padded_size: tuple[int, int] | None = None
) -> Windows:
    """The windows that a config asks for; by default whole sections of a folder, tiles otherwise.

    Args:
        config: ``TEST``.
        volume: to be predicted.
        padded_size: of whole sections; None: ``TEST.padded_size``.

    Raises:
        UserError: the padded size is smaller than the sections, or ``DATA.input_size_test``, the
            default of ``TEST.tile``, is not a possible tile.
    """
    test, shape = config.TEST, volume.shape[1:]
    kind = test.windows
    if kind == "auto":
        kind = "tile" if volume.tiled else "section"
    if kind == "tile":
        if test.tile is None:
            square_side(config.DATA, multiple=Segmentor.SIZE_MULTIPLE, least=32)
        return tiles(shape, config.tile, config.tile_step, test.tile_pad)
    try:
        return whole_section(shape, padded_size or test.padded_size)
    except ValueError as error:
        raise UserError(f"TEST.padded_size: {error}") from None


def square_side(data: DataSettings, multiple: int = 1, least: int = 1) -> int:
    """``DATA.input_size_test`` as the side of a square, pixels; raises UserError if it is none.

    Checked only when a tiled volume is used, because published configs of other volumes set it too.
    """
    height, width = data.input_size_test
    if height != width or height % multiple or height < least:
        end = f" of a multiple of {multiple} from {least} on" if multiple > 1 else ""
        raise UserError(
            f"DATA.input_size_test: found {data.input_size_test}, expected a square{end}"
        )
    return height


def choose_pairs(config: Config, volume: Volume) -> list[tuple[int, int]]:
    """The pairs of a volume at the target's stride; raises UserError where there is none."""
    try:
        return section_pairs(len(volume), config.DATA.target_stride)
    except ValueError as error:
        raise UserError(f"DATA.target_stride: {volume.where}: {error}") from None


def predict_on_grid(
    predict: PairPredictor,
    task: Task,
    shape: tuple[int, int],
    combine: Literal["mean", "max"] = "mean",
    sections: Container[int] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """``predict_volume``, resampled from the working grid to sections of ``shape``."""
    for index, probability in predict_volume(predict, task, combine, sections):
        yield index, np.clip(resample(probability, shape), 0, 1)
