"""How the target is predicted, without its labels: a collapse shows long before it is scored."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dataloader.pairs import PairDataset
from dataloader.volume import Volume
from loss.consistency import pseudo_labels
from model.segmentor import PairLogits

PAIRS = 8  # crops of the target that are looked at, the same each time
LABELLED_SECTIONS = 8  # of the source, whose foreground is the measure
# A collapse: outside of these, the least and most of two. Tissue differs between volumes by
# less: the published ones hold 5 to 10 % mitochondria.
LEAST_OF_SOURCE, MOST_OF_SOURCE = 0.1, 5.0
LEAST, MOST = 0.001, 0.9
TRUSTED_FROM = 0.05  # of a run's iterations; before, every network finds nothing or everything


class TargetMeasures(NamedTuple):
    """Means over all pixels of the masks that a network predicts of target pairs.

    Attributes:
        foreground: fraction of mitochondria in the argmax masks.
        entropy: of the softmax, in bits: 0 where it is sure, 1 where it tosses a coin.
        agreement: fraction in which a section's mask is the one that the other section's mask
            and the residual give by XOR; the same for both sections of a pair.
    """

    foreground: float
    entropy: float
    agreement: float


class TargetWatch:
    """Measures a few fixed crops of the target, and notices when nothing or all is found.

    Args:
        target: whose pairs are looked at, not augmented.
        source_labels: the source's masks.
        total_iters: of the run.
        pairs: number of crops that are looked at.
    """

    def __init__(
        self,
        target: PairDataset,
        source_labels: Volume,
        total_iters: int,
        pairs: int = PAIRS,
    ) -> None:
        self.target, self.total_iters, self.pairs = target, total_iters, pairs
        self.source_foreground = foreground(source_labels)
        self.collapsed = False  # and has been warned of

    @torch.no_grad()
    def measure(
        self, segment: Callable[[Tensor], PairLogits], device: torch.device
    ) -> TargetMeasures:
        """``TargetMeasures`` by a network that takes pairs (B, 2, H, W)."""
        sums = torch.zeros(3, device=device)
        for number in range(self.pairs):
            pair = torch.from_numpy(self.target.plain(number))[None].to(device)
            sums += _measures(segment(pair))
        return TargetMeasures(*(sums / self.pairs).tolist())

    def judge(self, iteration: int, measures: TargetMeasures) -> str | None:
        """A warning when a collapse begins; None while all is well, or while it lasts."""
        if iteration < max(2, TRUSTED_FROM * self.total_iters):
            return None
        low = max(LEAST, LEAST_OF_SOURCE * self.source_foreground)
        high = min(MOST, MOST_OF_SOURCE * self.source_foreground or MOST)
        before, self.collapsed = self.collapsed, not low <= measures.foreground <= high
        if before or not self.collapsed:
            return None
        kind = "nearly nothing" if measures.foreground < low else "mitochondria nearly everywhere"
        return (
            f"the network finds {kind} on the target: {measures.foreground:.2%} of its pixels, "
            f"{self.source_foreground:.2%} in the source's labels; see target.txt, and lower the "
            "adversarial or consistency weights if it lasts"
        )


def foreground(labels: Volume) -> float:
    """Fraction of mitochondria in a few evenly spaced sections of masks of 0 and 1."""
    count = min(LABELLED_SECTIONS, len(labels))
    chosen = [round((n + 0.5) * len(labels) / count - 0.5) for n in range(count)]
    return sum(float(labels.section(index).mean()) for index in chosen) / count


def _measures(logits: PairLogits) -> Tensor:
    """``TargetMeasures`` of one batch, (3,)."""
    masks = torch.stack([logits.current.argmax(1), logits.auxiliary.argmax(1)])
    logs = torch.stack([logits.current, logits.auxiliary]).float().log_softmax(2)
    entropy = -(logs.exp() * logs).sum(2) / math.log(2)
    agreement = torch.stack(pseudo_labels(*logits)) == masks
    return torch.stack([values.float().mean() for values in (masks, entropy, agreement)])
