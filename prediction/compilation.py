"""For which windows compiling the network takes less time than it saves."""

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Literal

import torch

from prediction.orthoplane import SlicingAxis
from prediction.predictor import NetworkPredictor, views

COMPILING = 60.0  # seconds for a shape; twice the CPU time that it takes
# Seconds saved on one CPU core per pair, pixel and channel at full resolution: the least measured
# by benchmarks/compilation.py (docs/performance.md)
SAVED = {torch.float32: 1.6e-9, torch.bfloat16: 7e-9}

Shape = tuple[int, int, int]  # windows, height, width


def shapes_to_compile(
    choice: Literal["auto"] | bool,
    axes: Sequence[SlicingAxis],
    network: NetworkPredictor,
    batch_size: int,
    processes: int = 1,
    flips: bool = False,
) -> list[Shape]:
    """Shapes of the batches for which the network is compiled.

    ``auto`` depends on the whole volume, not on the sections that are yet to be predicted, so that
    an interrupted prediction continues with the same code. It compiles on a CPU alone, as nothing
    was measured elsewhere.

    Args:
        choice: ``TEST.compile``.
        axes: what is predicted.
        network: which predicts it.
        batch_size: windows per batch.
        processes: that share the sections.
        flips: whether the predictions of all views of a window are averaged.
    """
    batches = _batches(axes, batch_size)
    if choice != "auto":
        return list(batches) if choice else []
    if network.device.type != "cpu":
        return []
    width = network.segmentor.section_full.conv1.out_channels
    saved = SAVED[network.precision] * width / torch.get_num_threads() / processes
    return [
        shape
        for shape, n in batches.items()
        if n * prod(shape) * saved * (len(views(*shape[1:])) if flips else 1) > COMPILING
    ]


def _batches(axes: Sequence[SlicingAxis], batch_size: int) -> Counter[Shape]:
    """How many pairs of batches there are of each shape."""
    counts: Counter[Shape] = Counter()
    for axis in axes:
        full, rest = divmod(len(axis.windows.corners), batch_size)
        for windows, batches in ((batch_size, full), (rest, 1)):
            if windows and batches:
                counts[(windows, *axis.windows.size)] += batches * len(axis.pairs)
    return counts
