"""From a volume to the mitochondria probability of each of its sections."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dataloader.volume import Volume, normalise
from utils.windows import Windows

# (windows, 2, h, w) pairs of sections in [0, 1] -> the same shape, probability of each section
PairPredictor = Callable[[Tensor], Tensor]


def section_pairs(sections: int, stride: int) -> list[tuple[int, int]]:
    """The pairs (current, auxiliary) that show every section of a volume at least once.

    All (i, i + stride), as published; where the volume is shorter than two strides, the sections
    of the middle, which those leave out, are paired with the last one.

    Raises:
        ValueError: no pair, the stride reaches over the volume's end.
    """
    if sections <= stride:
        raise ValueError(f"found {sections} sections, expected more than the stride of {stride}")
    pairs = [(i, i + stride) for i in range(sections - stride)]
    return pairs + [(i, sections - 1) for i in range(sections - stride, stride)]


def predict_volume(
    predict: PairPredictor,
    volume: Volume,
    pairs: list[tuple[int, int]],
    windows: Windows,
    batch_size: int = 1,
    combine: Literal["mean", "max"] = "mean",
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict sections from all the pairs they are in.

    Holds as many sections as lie between the two of a pair, not the volume.

    Args:
        predict: the network, see ``network_predictor``.
        volume: the sections.
        pairs: see ``section_pairs``.
        windows: see ``utils.windows``.
        batch_size: windows predicted at a time.
        combine: how a section's predictions from several pairs are joined: their mean (inference)
            or their maximum, which above 0.5 is the OR of the argmax masks (validation). The
            maximum is taken of whole sections only.

    Yields:
        (index, probability (H, W) float32 in [0, 1]) of each section when its last pair is done.
    """
    last_pair = {index: n for n, pair in enumerate(pairs) for index in pair}
    total_weight = torch.from_numpy(windows.total_weight())
    sums: dict[int, Tensor] = {}
    seen: dict[int, int] = {}
    for n, pair in enumerate(pairs):
        for index, probability in zip(
            pair, _predict_pair(predict, volume, pair, windows, batch_size), strict=True
        ):
            seen[index] = seen.get(index, 0) + 1
            if index not in sums:
                sums[index] = probability.clone()  # not a view that keeps the pair's other half
            elif combine == "mean":
                sums[index] += probability
            else:
                sums[index] = torch.maximum(sums[index], probability)
        for index in [i for i in pair if last_pair[i] == n]:
            weight = total_weight * (seen.pop(index) if combine == "mean" else 1)
            yield index, windows.unpad((sums.pop(index).cpu() / weight).numpy())


def _predict_pair(
    predict: PairPredictor,
    volume: Volume,
    pair: tuple[int, int],
    windows: Windows,
    batch_size: int,
) -> Tensor:
    """Weighted sums of the windows' probabilities on the padded sections, (2, H, W)."""
    sections = torch.from_numpy(
        np.stack([windows.pad(normalise(volume.section(index))) for index in pair])
    )
    height, width = windows.size
    total = None
    for start in range(0, len(windows.corners), batch_size):
        corners = windows.corners[start : start + batch_size]
        batch = torch.stack([sections[:, y : y + height, x : x + width] for y, x in corners])
        probabilities = predict(batch)
        if total is None:
            total = torch.zeros(sections.shape, device=probabilities.device)
            weight = torch.from_numpy(windows.weight).to(probabilities.device)
        for (y, x), probability in zip(corners, probabilities, strict=True):
            total[:, y : y + height, x : x + width] += probability * weight
    return total


def network_predictor(segmentor: torch.nn.Module, device: torch.device) -> PairPredictor:
    """Softmax, channel 1, of both sections' maps; the residual decoder is left out."""

    @torch.inference_mode()
    def predict(batch: Tensor) -> Tensor:
        logits = segmentor(batch.to(device), with_residual=False)
        maps = torch.stack([logits.current, logits.auxiliary], dim=1)  # (B, 2 sections, 2, H, W)
        return maps.softmax(2)[:, :, 1]

    return predict
