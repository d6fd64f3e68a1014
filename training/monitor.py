"""Monitors the predictions on the target, without labels, to notice a collapse early."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dataloader.pairs import PairDataset
from dataloader.volume import Volume
from loss.consistency import pseudo_labels
from model.segmentor import PairLogits
from utils.ignore import foreground_share, ignoring

PAIRS = 8  # crops of the target that are measured, the same each time
LABELLED_SECTIONS = 8  # sections of the source whose foreground is the reference
# A collapse is a foreground outside these limits, given as factors of the source's foreground and
# as fractions. The published volumes hold 5 to 10 % mitochondria, so tissue alone differs by less.
LEAST_OF_SOURCE, MOST_OF_SOURCE = 0.1, 5.0
LEAST, MOST = 0.001, 0.9
TRUSTED_FROM = 0.05  # of the run; before that, networks find nothing or everything


class TargetMeasures(NamedTuple):
    """Means over the pixels of the predicted masks of target pairs that are not ignored.

    Attributes:
        foreground: fraction of mitochondria in the argmax masks.
        entropy: of the softmax, in bits, from 0 (certain) to 1.
        agreement: fraction of pixels at which the mask of a section equals its pseudo label, the
            mask of the other section XOR the residual; it is the same for both sections.
    """

    foreground: float
    entropy: float
    agreement: float


class TargetMonitor:
    """Measures the predictions on a few fixed crops of the target and detects a collapse.

    Args:
        target: pairs of the target; they are not augmented here.
        source_foreground: fraction of mitochondria in the labels of the source.
        total_iters: of the run.
        warmup_iters: on the source alone, which cause no collapse.
        pairs: number of crops.
    """

    def __init__(
        self,
        target: PairDataset,
        source_foreground: float,
        total_iters: int,
        warmup_iters: int = 0,
        pairs: int = PAIRS,
    ) -> None:
        self.target, self.pairs = target, pairs
        self.first = max(2, TRUSTED_FROM * total_iters, warmup_iters)  # iteration that is checked
        self.source_foreground = source_foreground
        self.collapsed = False  # and has been warned of

    @torch.no_grad()
    def measure(
        self, segment: Callable[[Tensor], PairLogits], device: torch.device
    ) -> TargetMeasures:
        """Measure a network that takes pairs (B, 2, H, W)."""
        sums = torch.zeros(3, device=device)
        for number in range(self.pairs):
            pair, ignored = self.target.plain(number)
            logits = segment(torch.from_numpy(pair)[None].to(device))
            sums += _measures(logits, torch.from_numpy(ignored)[None].to(device))
        return TargetMeasures(*(sums / self.pairs).tolist())

    def check(self, iteration: int, measures: TargetMeasures) -> str | None:
        """A warning if a collapse begins at this iteration, else None."""
        if iteration < self.first:
            return None
        low = max(LEAST, LEAST_OF_SOURCE * self.source_foreground)
        high = min(MOST, MOST_OF_SOURCE * self.source_foreground or MOST)
        before, self.collapsed = self.collapsed, not low <= measures.foreground <= high
        if before or not self.collapsed:
            return None
        kind = "nearly nothing" if measures.foreground < low else "mitochondria nearly everywhere"
        return (
            f"the network finds {kind} on the target: {measures.foreground:.2%} of its pixels, "
            f"{self.source_foreground:.2%} in the source's labels; see target.txt. If it lasts, "
            "lower the adversarial or consistency weights that are above 0"
        )


def foreground(labels: Volume, images: Volume | None = None) -> float:
    """Fraction of mitochondria in a few evenly spaced sections of masks.

    Blank areas of the images are ignored.
    """
    count = min(LABELLED_SECTIONS, len(labels))
    chosen = [round((n + 0.5) * len(labels) / count - 0.5) for n in range(count)]
    blanks = [None if images is None else images.blank(index) for index in chosen]
    masks = [ignoring(labels.section(n), blank) for n, blank in zip(chosen, blanks, strict=True)]
    return sum(map(foreground_share, masks)) / count


def _measures(logits: PairLogits, ignored: Tensor) -> Tensor:
    """The values of ``TargetMeasures`` for one batch, (3,)."""
    counted = ~ignored.transpose(0, 1)  # (2, B, H, W), as all below
    masks = torch.stack([logits.current.argmax(1), logits.auxiliary.argmax(1)])
    logs = torch.stack([logits.current, logits.auxiliary]).float().log_softmax(2)
    entropy = -(logs.exp() * logs).sum(2) / math.log(2)
    agreement = torch.stack(pseudo_labels(*logits)) == masks
    both = counted.all(0).expand_as(counted)  # a pseudo label depends on both sections
    measured = ((masks, counted), (entropy, counted), (agreement, both))
    return torch.stack([values[where].float().mean() for values, where in measured]).nan_to_num()
