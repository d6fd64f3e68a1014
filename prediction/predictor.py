"""From a volume to the mitochondria probability of each of its sections."""

from collections import deque
from collections.abc import Callable, Collection, Container, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataloader.loader import Batch, on_device
from dataloader.volume import Volume
from model.segmentor import SectionFeatures, Segmentor
from prediction.windows import Windows
from utils.runtime.device import can_compile, computing_in, widened
from utils.runtime.memory import free_memory
from utils.runtime.threads import prefetch


class PairPredictor(Protocol):
    """Predicts pairs of sections in two steps, so that a section of two pairs is encoded once."""

    device: torch.device  # of the windows that it encodes

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
        self.predict, self.device = predict, predict.device

    def encode(self, sections: Tensor) -> list[tuple[bool, list[int], Any]]:
        return [
            (turned, axes, self.predict.encode(_turned(sections, turned).flip(axes).contiguous()))
            for turned, axes in views(*sections.shape[-2:])
        ]

    def decode(self, current: list, auxiliary: list) -> Tensor:
        total = 0.0
        for (turned, axes, one), (*_, other) in zip(current, auxiliary, strict=True):
            total = total + _turned(self.predict.decode(one, other).flip(axes), turned)
        return total / len(current)


def views(height: int, width: int) -> list[tuple[bool, list[int]]]:
    """Whether a window is transposed, and the axes that it is flipped along, for each view."""
    turns = (False, True) if height == width else (False,)
    return [(turned, axes) for turned in turns for axes in ([], [-1], [-2], [-1, -2])]


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
        batch_size: windows predicted at a time.
        memory: bytes for features of a section that are kept for its second pair; the others are
            computed twice. None: a quarter of the device's free memory.
    """

    volume: Volume
    pairs: list[tuple[int, int]]
    windows: Windows
    batch_size: int = 1
    memory: int | None = None


def predict_volume(
    predict: PairPredictor,
    task: Task,
    combine: Literal["mean", "max"] = "mean",
    sections: Container[int] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict sections from all the pairs they are in.

    If the pairs are in the order of ``section_pairs``, two sections are held and two read ahead,
    three on CUDA.

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
    windows, weight = task.windows, torch.from_numpy(task.windows.total_weight())
    for index, total, pairs in _on_host(_sums(predict, task, combine, sections), predict.device):
        count = pairs if combine == "mean" else 1
        yield index, windows.unpad((total / (weight * count)).numpy())


Sums = Iterator[tuple[int, Tensor, int]]  # index, sums (H, W) over windows and pairs, pairs


def _sums(
    predict: PairPredictor, task: Task, combine: str, sections: Container[int] | None
) -> Sums:
    """The combined predictions of padded sections, on the device, when their last pair is done."""
    if sections is not None:
        pairs = [pair for pair in task.pairs if any(index in sections for index in pair)]
        task = task._replace(pairs=pairs)
    last_pair = {index: n for n, pair in enumerate(task.pairs) for index in pair}
    encoder = _Encoder(predict, task)
    sums: dict[int, Tensor] = {}
    seen: dict[int, int] = {}
    for n, pair in enumerate(task.pairs):
        for index, probability in zip(pair, _predict_pair(encoder, n), strict=True):
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
            yield index, sums.pop(index), seen.pop(index)


def _on_host(sums: Sums, device: torch.device) -> Sums:
    """Sums in the host's memory; on CUDA each one is copied while the next pair is computed."""
    if device.type != "cuda":
        yield from ((index, total.cpu(), pairs) for index, total, pairs in sums)
        return
    copying: deque[tuple[torch.cuda.Event, tuple[int, Tensor, int]]] = deque()
    for index, total, pairs in sums:
        copied = total.to("cpu", non_blocking=True)  # to pinned memory
        event = torch.cuda.current_stream(device).record_event()
        copying.append((event, (index, copied, pairs)))
        if len(copying) > 1:
            yield _arrived(*copying.popleft())
    while copying:
        yield _arrived(*copying.popleft())


def _arrived(event: torch.cuda.Event, result: tuple[int, Tensor, int]) -> tuple[int, Tensor, int]:
    event.synchronize()
    return result


class _Encoder:
    """Holds the padded sections of a pair, and features that the next pair needs.

    Sections are read ahead, and copied to the device, in the order in which the pairs need them.
    """

    def __init__(self, predict: PairPredictor, task: Task) -> None:
        volume, pairs, windows, batch_size, memory = task
        self.predict, self.pairs, self.windows = predict, pairs, windows
        starts = range(0, len(windows.corners), batch_size)
        self.batches = [windows.corners[start : start + batch_size] for start in starts]
        self.weight = torch.from_numpy(windows.weight).to(predict.device)
        self.padded: dict[int, Tensor] = {}
        self.kept: dict[tuple[int, int], Any] = {}  # features, by section and batch
        self.room = (free_memory(predict.device) or 0) // 4 if memory is None else memory
        pinned = predict.device.type == "cuda"

        def read(index: int) -> Batch:  # without self: a cycle would keep the thread of prefetch
            padded = torch.from_numpy(windows.pad(volume.scaled(index)))
            return {"section": padded.pin_memory() if pinned else padded}

        held = [(), *pairs]
        needed = (
            i for n, pair in enumerate(pairs) for i in dict.fromkeys(pair) if i not in held[n]
        )
        self.sections = on_device(prefetch(read, needed), predict.device)

    def turn_to(self, number: int) -> None:
        """Hold the sections of this pair and no others."""
        pair = self.pairs[number]
        for index in set(self.padded) - set(pair):
            del self.padded[index]
        for index in pair:
            if index not in self.padded:
                self.padded[index] = next(self.sections)["section"]

    def features(self, number: int, batch: int) -> list[Any]:
        """Features of one batch of windows of both sections of a pair."""
        pair, found = self.pairs[number], {}
        following = self.pairs[number + 1] if number + 1 < len(self.pairs) else ()
        for index in dict.fromkeys(pair):
            found[index] = self._take(index, batch)
            size = _size(found[index])
            if index in following and size <= self.room:
                self.kept[index, batch] = found[index]
                self.room -= size
        return [found[index] for index in pair]

    def _take(self, index: int, batch: int) -> Any:
        """Features of one batch of windows of a section, (windows, h, w)."""
        if (index, batch) in self.kept:
            features = self.kept.pop((index, batch))
            self.room += _size(features)
            return features
        height, width = self.windows.size
        padded, corners = self.padded[index], self.batches[batch]
        return self.predict.encode(
            torch.stack([padded[y : y + height, x : x + width] for y, x in corners])
        )


def _size(features: Any) -> int:
    """Bytes of the tensors in features."""
    if isinstance(features, Tensor):
        return features.nbytes
    return sum(map(_size, features)) if isinstance(features, (tuple, list)) else 0


def _predict_pair(encoder: _Encoder, number: int) -> Tensor:
    """Weighted sums of the windows' probabilities on the padded sections, (2, H, W)."""
    encoder.turn_to(number)
    windows, weight = encoder.windows, encoder.weight
    height, width = windows.size
    total = torch.zeros((2, *windows.padded_shape), device=weight.device)
    for batch, corners in enumerate(encoder.batches):
        probabilities = encoder.predict.decode(*encoder.features(number, batch))
        for (y, x), probability in zip(corners, probabilities, strict=True):
            total[:, y : y + height, x : x + width] += probability * weight
    return total
