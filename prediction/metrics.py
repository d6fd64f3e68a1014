"""Scores of a mitochondria probability map against labels.

Per section (``SectionScores``, the published tables) or pooled over the volume (``PooledScores``),
with the threshold 0.5 (>=) for all but the average precision, which is sklearn's definition.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import digamma

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
        return f"dice={self.dice:.6f}, jac={self.jac:.6f}"


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
    return _scores(counts, average_precision(probability, label))


def _scores(counts: Counts, precision: float) -> Scores:
    if math.isnan(precision):
        precision = float(counts.empty)
    return Scores(precision, counts.f1, counts.mcc, counts.iou)


class Tally:
    """Counts the sections scored, those with nothing to find and those where nothing was found."""

    def __init__(self) -> None:
        self.sections = self.without_mitochondria = self.without_prediction = 0

    def count(self, counts: Counts) -> None:
        """Take in a section."""
        self.sections += 1
        self.without_mitochondria += counts.tp + counts.fn == 0
        self.without_prediction += counts.tp + counts.fp == 0

    def __str__(self) -> str:
        return (
            f"sections: {self.sections}, without mitochondria: {self.without_mitochondria}, "
            f"with none predicted: {self.without_prediction}"
        )


class SectionScores:
    """Scores averaged over sections; add them one by one."""

    def __init__(self) -> None:
        self.scores: list[Scores] = []
        self.tally = Tally()

    def add(self, probability: np.ndarray, label: np.ndarray) -> None:
        """Add a section: probability (H, W) float, label (H, W) of 0 and 1."""
        counts = Counts.of(probability >= THRESHOLD, label)
        self.scores.append(_scores(counts, average_precision(probability, label)))
        self.tally.count(counts)

    def result(self) -> Scores:
        """Mean over the sections added."""
        return Scores(*np.mean(self.scores, axis=0).tolist())


class PooledScores:
    """Scores of all voxels at once, from histograms of the probabilities: 64 MiB for any volume.

    The bins are 2^-22 wide, the last one holds those of exactly 1, where networks saturate. All
    voxels of a bin count as tied. ``mAP_bound`` is the most by which the average precision can be
    wrong for that.
    """

    BINS = 2**22

    def __init__(self) -> None:
        self.histograms = np.zeros((2, self.BINS + 1), np.int64)  # of background, mitochondria
        self.counts = Counts(0, 0, 0, 0)
        self.mAP_bound = 0.0
        self.tally = Tally()

    def add(self, probability: np.ndarray, label: np.ndarray) -> None:
        """Add a section: probability (H, W) float in [0, 1], label (H, W) of 0 and 1."""
        bins = (probability * self.BINS).astype(np.int32)
        positive = label.astype(bool)
        for histogram, part in zip(self.histograms, (~positive, positive), strict=True):
            histogram += np.bincount(bins[part], minlength=self.BINS + 1)
        counts = Counts.of(probability >= THRESHOLD, positive)
        self.counts += counts
        self.tally.count(counts)

    def result(self) -> Scores:
        """Scores over all voxels added."""
        precision, self.mAP_bound = binned_average_precision(*self.histograms)
        return _scores(self.counts, precision)


def binned_average_precision(negatives: np.ndarray, positives: np.ndarray) -> tuple[float, float]:
    """Average precision where all scores of a bin count as tied, and a bound of its error.

    In a bin of p positives and n negatives above which there are T positives and F negatives, the
    k-th positive has a precision of at least (T + k) / (T + k + F + n), each one below all the
    negatives, and at most (T + p) / (T + p + F), all tied above them; if all of the bin are tied,
    each has (T + p) / (T + p + F + n). The least sums over k to
    p - f (digamma(T + p + f + 1) - digamma(T + f + 1)) with f = F + n. The bound is the distance
    from the tied value to the sum of the least or of the most.

    Args:
        negatives, positives: counts in bins of rising score; those of the last bin are tied.

    Returns:
        Two numbers in [0, 1]; NaN without a positive.
    """
    total = positives.sum()
    if not total:
        return math.nan, math.nan
    negatives, positives = negatives[::-1], positives[::-1]
    true, false = np.cumsum(positives), np.cumsum(negatives)
    used = np.flatnonzero(positives)
    p, t, f, n = (counts[used] for counts in (positives, true, false, negatives))
    tied = p * t / (t + f)
    least = p - f * (digamma(t + f + 1.0) - digamma(t - p + f + 1.0))
    most = p * t / (t + f - n)
    binned = used > 0  # those of the last bin are tied indeed
    below, above = (float(np.sum(distance[binned])) for distance in (tied - least, most - tied))
    return float(np.sum(tied) / total), max(below, above, 0.0) / float(total)


class DiceScores:
    """Dice and Jaccard of masks averaged over sections, as the validation reports them."""

    def __init__(self) -> None:
        self.counts: list[Counts] = []
        self.tally = Tally()

    def add(self, mask: np.ndarray, label: np.ndarray) -> None:
        """Add a section: mask and label (H, W) of 0 and 1."""
        self.counts.append(Counts.of(mask, label))
        self.tally.count(self.counts[-1])

    def result(self) -> DiceJaccard:
        """Mean dice and mean Jaccard over the sections added."""
        return DiceJaccard(
            float(np.mean([counts.f1 for counts in self.counts])),
            float(np.mean([counts.iou for counts in self.counts])),
        )
