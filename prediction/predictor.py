"""From a volume to the mitochondria probability of each of its sections."""

from collections.abc import Callable, Collection, Container, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataloader.volume import Volume
from model.segmentor import SectionFeatures, Segmentor
from prediction.windows import Windows
from utils.runtime.device import can_compile, computing_in, widened
from utils.runtime.threads import prefetch


class PairPredictor(Protocol):
    """Predicts pairs of sections in two steps, so that a section of two pairs is encoded once."""

    def encode(self, sections: Tensor) -> Any:
        """Features of windows of one section, (windows, h, w) in [0, 1]."""

    def decode(self, current: Any, auxiliary: Any) -> Tensor:
        """From the features of both sections to their probabilities, (windows, 2, h, w)."""


class NetworkPredictor:
    """Softmax, channel 1, of both sections' maps.

    Args:
        segmentor: on ``device``.
        device: to compute on.
        precision: of the convolutions; the softmax is in float32.
    """

    def __init__(
        self,
        segmentor: Segmentor,
        device: torch.device,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.segmentor, self.device, self.precision = segmentor, device, precision
        self.plain = segmentor.encode_sections, segmentor.decode_pair
        self.compiled: dict[tuple[int, ...], tuple[Callable, Callable]] = {}

    def compile_for(self, shapes: Collection[tuple[int, int, int]]) -> None:
        """Compile the network for windows of these shapes, (windows, h, w), at their first use.

        Probabilities differ from those of the plain network by rounding. If compilation does not
        work, a warning says so.
        """
        if shapes and can_compile(self.device, "TEST.compile"):
            encode, decode = (torch.compile(function, dynamic=False) for function in self.plain)
            self.compiled = dict.fromkeys(shapes, (encode, decode))

    @torch.inference_mode()
    def encode(self, sections: Tensor) -> SectionFeatures:
        encode, _ = self.compiled.get(tuple(sections.shape), self.plain)
        with computing_in(self.precision, self.device):
            return encode(sections[:, None].to(self.device))

    @torch.inference_mode()
    def decode(self, current: SectionFeatures, auxiliary: SectionFeatures) -> Tensor:
        windows, _, height, width = current.full.shape
        _, decode = self.compiled.get((windows, height, width), self.plain)
        with computing_in(self.precision, self.device):
            logits = decode(current, auxiliary, with_residual=False)
        # (B, 2 sections, 2, H, W)
        maps = torch.stack([widened(logits.current), widened(logits.auxiliary)], dim=1)
        return maps.softmax(2)[:, :, 1]


class FlippedPredictor:
    """Mean over the eight flips and rotations of square windows; four of others.

    Args:
        predict: the predictor.
    """

    def __init__(self, predict: PairPredictor) -> None:
        self.predict = predict

    def encode(self, sections: Tensor) -> list[tuple[bool, list[int], Any]]:
        turns = (False, True) if sections.shape[-1] == sections.shape[-2] else (False,)
        views = [(turned, axes) for turned in turns for axes in ([], [-1], [-2], [-1, -2])]
        return [
            (turned, axes, self.predict.encode(_turned(sections, turned).flip(axes).contiguous()))
            for turned, axes in views
        ]

    def decode(self, current: list, auxiliary: list) -> Tensor:
        total = 0.0
        for (turned, axes, one), (*_, other) in zip(current, auxiliary, strict=True):
            total = total + _turned(self.predict.decode(one, other).flip(axes), turned)
        return total / len(current)


def _turned(windows: Tensor, turned: bool) -> Tensor:
    return windows.transpose(-1, -2) if turned else windows


def section_pairs(sections: int, stride: int) -> list[tuple[int, int]]:
    """The pairs (current, auxiliary) that cover every section of a volume.

    These are all (i, i + stride), as published. In a volume shorter than two strides this leaves
    out the middle sections, which are paired with the last one. A single section is paired with
    itself. The order is in chains, 0, stride, 2 stride ..., then 1, 1 + stride ...: the auxiliary
    section of a pair is the current one of the next, so that two sections at most are held.

    Raises:
        ValueError: no pair, the stride reaches over the volume's end.
    """
    if sections == 1:
        return [(0, 0)]
    if sections <= stride:
        raise ValueError(f"found {sections} sections, expected more than the stride of {stride}")
    chains = [range(start, sections - stride, stride) for start in range(stride)]
    pairs = [(i, i + stride) for chain in chains for i in chain]
    return pairs + [(i, sections - 1) for i in range(sections - stride, stride)]


class Task(NamedTuple):
    """What to predict.

    Attributes:
        volume: the sections.
        pairs: (current, auxiliary) indices, see ``section_pairs``.
        windows: see ``prediction.windows``.
        batch_size: windows predicted at a time. A section's features are kept for its second pair
            if all its windows fit into one batch.
    """

    volume: Volume
    pairs: list[tuple[int, int]]
    windows: Windows
    batch_size: int = 1


def predict_volume(
    predict: PairPredictor,
    task: Task,
    combine: Literal["mean", "max"] = "mean",
    sections: Container[int] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict sections from all the pairs they are in.

    If the pairs are in the order of ``section_pairs``, two sections are held and two read ahead.

    Args:
        predict: the network, see ``NetworkPredictor``.
        task: sections, pairs and windows.
        combine: how to combine a section's predictions from several pairs: their mean (inference)
            or their maximum, which above 0.5 is the OR of the argmax masks (validation; whole
            sections only).
        sections: indices to predict; None: all. A section's result is bit-identical whichever
            others are predicted.

    Yields:
        (index, probability (H, W) float32 in [0, 1]) of each section when its last pair is done.
    """
    volume, pairs, windows, batch_size = task
    if sections is not None:
        pairs = [pair for pair in pairs if any(index in sections for index in pair)]
    last_pair = {index: n for n, pair in enumerate(pairs) for index in pair}
    total_weight = torch.from_numpy(windows.total_weight())
    encoder = _Encoder(predict, Task(volume, pairs, windows, batch_size))
    sums: dict[int, Tensor] = {}
    seen: dict[int, int] = {}
    for n, pair in enumerate(pairs):
        for index, probability in zip(pair, _predict_pair(encoder, pair), strict=True):
            if sections is not None and index not in sections:
                continue
            seen[index] = seen.get(index, 0) + 1
            if index not in sums:
                sums[index] = probability.clone()  # not a view that keeps the pair's other half
            elif combine == "mean":
                sums[index] += probability
            else:
                sums[index] = torch.maximum(sums[index], probability)
        for index in [i for i in dict.fromkeys(pair) if i in sums and last_pair[i] == n]:
            weight = total_weight * (seen.pop(index) if combine == "mean" else 1)
            yield index, windows.unpad((sums.pop(index).cpu() / weight).numpy())


class _Encoder:
    """Holds padded sections and features of the last pair, which the next one may need.

    Sections are read ahead in the order in which the pairs need them.
    """

    def __init__(
        self,
        predict: PairPredictor,
        task: Task,
    ) -> None:
        volume, pairs, windows, batch_size = task
        self.predict, self.windows = predict, windows
        starts = range(0, len(windows.corners), batch_size)
        self.batches = [windows.corners[start : start + batch_size] for start in starts]
        self.padded: dict[int, Tensor] = {}
        self.features: dict[int, Any] = {}

        def read(index: int) -> Tensor:
            return torch.from_numpy(windows.pad(volume.scaled(index)))

        held = [(), *pairs]
        needed = (
            i for n, pair in enumerate(pairs) for i in dict.fromkeys(pair) if i not in held[n]
        )
        self.sections = prefetch(read, needed)

    def turn_to(self, pair: tuple[int, int]) -> None:
        """Hold the sections of this pair and no others."""
        for held in (self.padded, self.features):
            for index in set(held) - set(pair):
                del held[index]
        for index in pair:
            if index not in self.padded:
                self.padded[index] = next(self.sections)

    def __call__(self, index: int, batch: int) -> Any:
        """Features of a section's windows of one batch."""
        if len(self.batches) > 1:
            return self.predict.encode(self._crop(index, batch))
        if index not in self.features:
            self.features[index] = self.predict.encode(self._crop(index, batch))
        return self.features[index]

    def _crop(self, index: int, batch: int) -> Tensor:
        """A batch's windows of a section, (windows, h, w)."""
        height, width = self.windows.size
        padded = self.padded[index]
        return torch.stack([padded[y : y + height, x : x + width] for y, x in self.batches[batch]])


def _predict_pair(encoder: _Encoder, pair: tuple[int, int]) -> Tensor:
    """Weighted sums of the windows' probabilities on the padded sections, (2, H, W)."""
    encoder.turn_to(pair)
    windows, total = encoder.windows, None
    height, width = windows.size
    for number, corners in enumerate(encoder.batches):
        features = (encoder(index, number) for index in pair)
        probabilities = encoder.predict.decode(*features)
        if total is None:
            total = torch.zeros((2, *windows.padded_shape), device=probabilities.device)
            weight = torch.from_numpy(windows.weight).to(probabilities.device)
        for (y, x), probability in zip(corners, probabilities, strict=True):
            total[:, y : y + height, x : x + width] += probability * weight
    return total
