"""Scores of instances against labelled ones: average precision by 3-D overlap."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

THRESHOLDS = (0.5, 0.75)  # of the overlap


class InstanceScores(NamedTuple):
    """Average precision at an overlap (IoU) of 0.5 and of 0.75, in [0, 1]."""

    AP50: float
    AP75: float

    def __str__(self) -> str:
        return f"AP50={self.AP50:.4f}, AP75={self.AP75:.4f}"


class Overlaps:
    """Voxels of predicted and of labelled instances, and of what they share, by section."""

    def __init__(self) -> None:
        self.predicted: Counter[int] = Counter()
        self.labelled: Counter[int] = Counter()
        self.shared: Counter[tuple[int, int]] = Counter()

    def add(self, predicted: np.ndarray, labelled: np.ndarray) -> None:
        """Take in a section: instances (H, W) of both, 0 is background."""
        inside = (predicted > 0) | (labelled != 0)
        pairs = np.stack([predicted[inside].astype(np.int64), labelled[inside].astype(np.int64)])
        unique, counts = np.unique(pairs, axis=1, return_counts=True)
        for p, t, n in zip(*unique.tolist(), counts.tolist(), strict=True):
            self.predicted[p] += n
            self.labelled[t] += n
            self.shared[p, t] += n

    def result(self, confidence: dict[int, float]) -> InstanceScores:
        """The scores; ``confidence`` is of every predicted instance."""
        overlap: dict[int, list[tuple[float, int]]] = {}
        for (p, t), n in self.shared.items():
            if p and t:
                union = self.predicted[p] + self.labelled[t] - n
                overlap.setdefault(p, []).append((n / union, t))
        truths = sum(1 for t in self.labelled if t)
        order = sorted(confidence, key=lambda p: (-confidence[p], p))
        return InstanceScores(
            *(average_precision(order, overlap, truths, threshold) for threshold in THRESHOLDS)
        )


def average_precision(
    order: Iterable[int],
    overlap: dict[int, list[tuple[float, int]]],
    truths: int,
    threshold: float,
) -> float:
    """Area under the interpolated curve of precision over recall.

    Predicted instances are gone through by falling confidence; each takes the labelled one, not
    taken yet, of which it covers most, if their IoU is ``threshold`` or more. Precision at a recall
    is the highest at that recall or above. The MitoEM challenge scores so at 0.75, after COCO
    (Lin et al. 2014), which samples the curve at 101 recalls; here it is exact.

    Args:
        order: predicted instances, the surest first.
        overlap: (IoU, labelled instance) of those each touches.
        truths: number of labelled instances.
        threshold: of the IoU.

    Returns:
        A number in [0, 1]; without labelled instances 1 if none is predicted, else 0.
    """
    order = list(order)
    if not truths:
        return float(not order)
    taken: set[int] = set()
    hits = []
    for p in order:
        free = [(iou, t) for iou, t in overlap.get(p, []) if t not in taken and iou >= threshold]
        hits.append(bool(free))
        if free:
            taken.add(max(free)[1])
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[np.array(hits, bool)].sum() / truths)
