"""Scores of a mitochondria probability map against labels.

Scores are averaged over sections (``SectionScores``, as in the published tables) or pooled over
the volume (``PooledScores``). Masks are probabilities of at least 0.5. Average precision is defined
as in scikit-learn. Pixels with label 255 (``utils.ignore``) are left out, and so are sections
without any other pixel.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import digamma

from utils.ignore import IGNORE

THRESHOLD = 0.5


class Scores(NamedTuple):
    """mAP, F1, MCC and IoU of the mitochondria class; in [0, 1], MCC in [-1, 1]."""

    mAP: float
    F1: float
    MCC: float
    IoU: float

    def __str__(self) -> str:
        return ", ".join(f"{name}={value:.4f}" for name, value in self._asdict().items())


class DiceJaccard(NamedTuple):
    """Dice and Jaccard index of masks, in [0, 1]."""

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
        """Compare two masks of 0 and 1 of the same shape, without ignored pixels."""
        mask, label = counted(mask, label)
        mask, label = mask.astype(bool), label.astype(bool)
        tp = int(np.count_nonzero(mask & label))
        fp = int(np.count_nonzero(mask)) - tp
        fn = int(np.count_nonzero(label)) - tp
        return cls(tp, fp, fn, mask.size - tp - fp - fn)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def nothing(self) -> bool:
        """Whether all pixels are ignored."""
        return not any(self)

    @property
    def empty(self) -> bool:
        """Whether neither the label nor the prediction has mitochondria."""
        return self.tp + self.fp + self.fn == 0

    @property
    def of_empty(self) -> float:
        """The value of every score if both masks are empty: 1, or NaN if all pixels are ignored."""
        return math.nan if self.nothing else 1.0

    @property
    def f1(self) -> float:
        """F1, which is the Dice coefficient: 2 TP / (2 TP + FP + FN); see ``of_empty``."""
        return self.of_empty if self.empty else 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """IoU (Jaccard): TP / (TP + FP + FN); see ``of_empty``."""
        return self.of_empty if self.empty else self.tp / (self.tp + self.fp + self.fn)

    @property
    def mcc(self) -> float:
        """Matthews correlation; see ``of_empty``.

        Otherwise, where it is undefined, 1 if all pixels are right and 0 if not.
        """
        tp, fp, fn, tn = self
        if self.empty:
            return self.of_empty
        scale = math.sqrt(tp + fp) * math.sqrt(tp + fn) * math.sqrt(tn + fp) * math.sqrt(tn + fn)
        return (tp * tn - fp * fn) / scale if scale else float(fp + fn == 0)


def counted(values: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and labels without ignored pixels: flat, or unchanged if none is ignored."""
    kept = label != IGNORE
    return (values, label) if kept.all() else (values[kept], label[kept])


def average_precision(probability: np.ndarray, label: np.ndarray) -> float:
    """Sum of (R_n - R_n-1) P_n over the thresholds n, scikit-learn's ``average_precision_score``.

    Args:
        probability: any shape; each distinct value is a threshold.
        label: 0 and 1, the same shape; 255 is ignored.

    Returns:
        A number in [0, 1]; NaN if no label is 1.
    """
    probability, label = counted(probability, label)
    scores = probability.ravel()
    positives = scores[label.ravel().astype(bool)]
    if not positives.size:
        return math.nan
    # Recall changes only at the scores of positives, so other thresholds contribute nothing.
    thresholds, counts = np.unique(positives, return_counts=True)
    true = np.cumsum(counts[::-1])[::-1]
    predicted = scores.size - np.searchsorted(np.sort(scores), thresholds, side="left")
    return float(np.sum(counts / positives.size * (true / predicted)))


def score(probability: np.ndarray, label: np.ndarray) -> Scores:
    """The four scores of one section or one volume.

    If the label has no mitochondria, average precision is 1 if none is predicted, else 0.
    """
    counts = Counts.of(probability >= THRESHOLD, label)
    return _scores(counts, average_precision(probability, label))


def _scores(counts: Counts, precision: float) -> Scores:
    if math.isnan(precision):
        precision = counts.of_empty if counts.empty else 0.0
    return Scores(precision, counts.f1, counts.mcc, counts.iou)


class Tally:
    """Counts sections: all, those without mitochondria, and those with none predicted."""

    def __init__(self) -> None:
        self.sections = self.without_mitochondria = self.without_prediction = 0

    def count(self, counts: Counts) -> None:
        """Add a section, unless all its pixels are ignored."""
        if counts.nothing:
            return
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
        """Add a section: probability (H, W) float, label (H, W) of 0, 1 and 255."""
        counts = Counts.of(probability >= THRESHOLD, label)
        self.scores.append(_scores(counts, average_precision(probability, label)))
        self.tally.count(counts)

    def result(self) -> Scores:
        """Mean over sections; those with ignored pixels only are left out. NaN if none is left."""
        kept = [scores for scores in self.scores if not math.isnan(scores.F1)]
        return Scores(*np.mean(kept or self.scores, axis=0).tolist())


class UpperBound(NamedTuple):
    """The best F1 that any threshold gives, and that threshold, chosen with these labels.

    It tells apart what is lost by the order of the pixels and by the threshold. It is not a score.
    """

    F1: float
    threshold: float

    def __str__(self) -> str:
        return (
            f"upper bound of F1 (threshold chosen with these labels): {self.F1:.4f} "
            f"at {self.threshold:g}"
        )


class BestThreshold:
    """Finds the threshold with the best F1; add sections one by one.

    Args:
        pooled: F1 of all voxels together; else the mean over the sections.
    """

    BINS = 1000

    def __init__(self, pooled: bool) -> None:
        self.pooled, self.sections = pooled, 0
        self.counts = np.zeros((2, self.BINS), np.int64)  # true, false positives by threshold
        self.f1 = np.zeros(self.BINS)  # sum over the sections, by threshold

    def add(self, probability: np.ndarray, label: np.ndarray) -> None:
        """Add a section: probability (H, W) float in [0, 1], label (H, W) of 0, 1 and 255."""
        probability, label = counted(probability, label)
        if not probability.size:
            return
        positive = label.astype(bool)
        counts = [
            np.histogram(probability[part], self.BINS, (0, 1))[0][::-1].cumsum()[::-1]
            for part in (positive, ~positive)
        ]
        self.sections += 1
        self.counts += counts
        self.f1 += _f1_by_threshold(*counts)

    def result(self) -> UpperBound | None:
        """The best of the thresholds 0, 1 / ``BINS``, ...; None without a labelled pixel."""
        if not self.sections:
            return None
        f1 = _f1_by_threshold(*self.counts) if self.pooled else self.f1 / self.sections
        best = int(np.argmax(f1))
        return UpperBound(float(f1[best]), best / self.BINS)


def _f1_by_threshold(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """F1 from the true and false positives at thresholds from 0; 1 where there is nothing."""
    both = true + false + true[0]  # at the threshold 0, all positives are found
    return np.where(both, 2 * true / np.maximum(both, 1), 1.0)


class PooledScores:
    """Scores pooled over all voxels, from histograms of the probabilities (64 MiB for any volume).

    The bins are 2^-22 wide; the last one holds probabilities of exactly 1, where networks saturate.
    Voxels in the same bin count as tied. ``mAP_bound`` bounds the error of the average precision
    that results.
    """

    BINS = 2**22

    def __init__(self) -> None:
        self.histograms = np.zeros((2, self.BINS + 1), np.int64)  # of background, mitochondria
        self.counts = Counts(0, 0, 0, 0)
        self.mAP_bound = 0.0
        self.tally = Tally()

    def add(self, probability: np.ndarray, label: np.ndarray) -> None:
        """Add a section: probability (H, W) float in [0, 1], label (H, W) of 0, 1 and 255."""
        probability, label = counted(probability, label)
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
    """Average precision if all scores in a bin count as tied, and a bound on its error.

    Take a bin of p positives and n negatives, with T positives and F negatives in the bins above.
    Tied, each positive has precision (T + p) / (T + p + F + n). In truth, precision is lowest if
    the positives lie below all negatives of the bin: (T + k) / (T + k + F + n) for the k-th. It is
    highest if they are tied and above them: (T + p) / (T + p + F). The lowest ones sum over k to
    p - f (digamma(T + p + f + 1) - digamma(T + f + 1)) with f = F + n. The bound is the larger
    difference of the tied sum from the lowest and the highest one.

    Args:
        negatives, positives: counts in bins of ascending score. Scores in the last bin are equal.

    Returns:
        Two numbers in [0, 1]; NaN without positives.
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
    binned = used > 0  # scores in the last bin, now the first, really are equal
    below, above = (float(np.sum(distance[binned])) for distance in (tied - least, most - tied))
    return float(np.sum(tied) / total), max(below, above, 0.0) / float(total)


class DiceScores:
    """Dice and Jaccard of masks, averaged over sections, as in validation during training."""

    def __init__(self) -> None:
        self.counts: list[Counts] = []
        self.tally = Tally()

    def add(self, mask: np.ndarray, label: np.ndarray) -> None:
        """Add a section: mask (H, W) of 0 and 1, label (H, W) of 0, 1 and 255."""
        counts = Counts.of(mask, label)
        self.tally.count(counts)
        if not counts.nothing:
            self.counts.append(counts)

    def result(self) -> DiceJaccard:
        """Mean Dice and Jaccard over sections; NaN if all pixels are ignored."""
        if not self.counts:
            return DiceJaccard(math.nan, math.nan)
        return DiceJaccard(
            float(np.mean([counts.f1 for counts in self.counts])),
            float(np.mean([counts.iou for counts in self.counts])),
        )
