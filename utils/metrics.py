"""Scores of a mitochondria probability map against labels.

Per section (``SectionScores``, the published tables) or pooled over the volume (``PooledScores``),
with the threshold 0.5 (>=) for all but the average precision, which is sklearn's definition.
"""

import math
from typing import NamedTuple

import numpy as np

THRESHOLD = 0.5


class Scores(NamedTuple):
    """mAP, F1, MCC and IoU of the mitochondria class; all in [0, 1] but MCC in [-1, 1]."""

    mAP: float
    F1: float
    MCC: float
    IoU: float

    def __str__(self) -> str:
        return ", ".join(f"{name}={value:.4f}" for name, value in self._asdict().items())


class DiceJaccard(NamedTuple):
    """Dice and Jaccard of masks, in [0, 1]."""

    dice: float
    jac: float

    def __str__(self) -> str:
        return f"dice={self.dice:.4f}, jac={self.jac:.4f}"


class Counts(NamedTuple):
    """Pixels of a binary prediction: true/false positives, false/true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, mask: np.ndarray, label: np.ndarray) -> "Counts":
        """Count two masks of 0 and 1 of one shape."""
        mask, label = mask.astype(bool), label.astype(bool)
        tp = int(np.count_nonzero(mask & label))
        fp = int(np.count_nonzero(mask)) - tp
        fn = int(np.count_nonzero(label)) - tp
        return cls(tp, fp, fn, mask.size - tp - fp - fn)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def empty(self) -> bool:
        """Nothing there and nothing predicted."""
        return self.tp + self.fp + self.fn == 0

    @property
    def f1(self) -> float:
        """F1, which is the Dice coefficient: 2 TP / (2 TP + FP + FN); 1 where both are empty."""
        return 1.0 if self.empty else 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """IoU (Jaccard): TP / (TP + FP + FN); 1 where both are empty."""
        return 1.0 if self.empty else self.tp / (self.tp + self.fp + self.fn)

    @property
    def mcc(self) -> float:
        """Matthews correlation; 1 where both masks are empty, 0 where it is else undefined."""
        tp, fp, fn, tn = self
        if self.empty:
            return 1.0
        scale = math.sqrt(tp + fp) * math.sqrt(tp + fn) * math.sqrt(tn + fp) * math.sqrt(tn + fn)
        return (tp * tn - fp * fn) / scale if scale else float(fp + fn == 0)


def average_precision(probability: np.ndarray, label: np.ndarray) -> float:
    """Sum of (R_n - R_n-1) P_n over the distinct scores, sklearn's ``average_precision_score``.

    Args:
        probability: scores of any shape; equal scores count as one threshold.
        label: 0 and 1, the same shape.

    Returns:
        A number in [0, 1]; NaN without a positive, where it is not defined.
    """
    scores = probability.ravel()
    positives = scores[label.ravel().astype(bool)]
    if not positives.size:
        return math.nan
    # Recall changes at the scores of positives alone, so only these thresholds count.
    thresholds, counts = np.unique(positives, return_counts=True)
    true = np.cumsum(counts[::-1])[::-1]
    predicted = scores.size - np.searchsorted(np.sort(scores), thresholds, side="left")
    return float(np.sum(counts / positives.size * (true / predicted)))


def score(probability: np.ndarray, label: np.ndarray) -> Scores:
    """The four scores of one section or one volume.

    Without mitochondria in the label the average precision is 1 if none is predicted, else 0.
    """
    counts = Counts.of(probability >= THRESHOLD, label)
    precision = average_precision(probability, label)
    if math.isnan(precision):
        precision = float(counts.empty)
    return Scores(precision, counts.f1, counts.mcc, counts.iou)


class SectionScores:
    """Scores averaged over sections; add them one by one."""

    def __init__(self) -> None:
        self.scores: list[Scores] = []
        self.without_mitochondria = 0

    def add(self, probability: np.ndarray, label: np.ndarray) -> None:
        """Add a section: probability (H, W) float, label (H, W) of 0 and 1."""
        self.scores.append(score(probability, label))
        self.without_mitochondria += not label.any()

    def result(self) -> Scores:
        """Mean over the sections added."""
        return Scores(*np.mean(self.scores, axis=0).tolist())


class PooledScores:
    """Scores of all voxels at once; keeps them (5 bytes a voxel) until the result is asked for."""

    def __init__(self) -> None:
        self.probabilities: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.without_mitochondria = 0

    def add(self, probability: np.ndarray, label: np.ndarray) -> None:
        """Add a section: probability (H, W) float, label (H, W) of 0 and 1."""
        self.probabilities.append(probability.astype(np.float32).ravel())
        self.labels.append(label.astype(bool).ravel())
        self.without_mitochondria += not label.any()

    def result(self) -> Scores:
        """Scores over all voxels added."""
        return score(np.concatenate(self.probabilities), np.concatenate(self.labels))


class DiceScores:
    """Dice and Jaccard of masks averaged over sections, as the validation reports them."""

    def __init__(self) -> None:
        self.counts: list[Counts] = []
        self.without_mitochondria = 0

    def add(self, mask: np.ndarray, label: np.ndarray) -> None:
        """Add a section: mask and label (H, W) of 0 and 1."""
        self.counts.append(Counts.of(mask, label))
        self.without_mitochondria += not label.any()

    def result(self) -> DiceJaccard:
        """Mean dice and mean Jaccard over the sections added."""
        return DiceJaccard(
            float(np.mean([counts.f1 for counts in self.counts])),
            float(np.mean([counts.iou for counts in self.counts])),
        )
