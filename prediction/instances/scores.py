"""Scores of mitochondria as objects, against labels that number them."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prediction.instances.table import runs

RECALLS = np.arange(101)  # per cent


class InstanceScores(NamedTuple):
    """Average precision at an IoU of 0.5 and of 0.75, in [0, 1]."""

    AP50: float
    AP75: float

    def __str__(self) -> str:
        return ", ".join(f"{name}={value:.4f}" for name, value in self._asdict().items())


THRESHOLDS = InstanceScores(AP50=0.5, AP75=0.75)


class InstanceScorer:
    """Average precision of instances by their 3-D IoU, from sections added one by one.

    The definition is that of AP-75, with which the MitoEM challenge began (Wei et al., MitoEM
    dataset, MICCAI 2020; github.com/ygCoconut/mAP_3Dvolume): COCO's evaluation with volumes in
    place of areas, a single class, no limit of size or number.

    - Predictions are ranked by confidence, here the mean probability over the instance; equal ones
      by their numbers.
    - In this order, each takes the labelled instance of the greatest IoU among those not yet
      taken; it is a true positive if that IoU reaches the threshold, else a false one. (The
      challenge's code does not mark labels as taken. Above an IoU of 0.5 this is the same.)
    - Precision at a recall is the greatest precision at this recall or any higher one; 0 where the
      recall is not reached.
    - Average precision is its mean over the recalls 0, 0.01, ..., 1.

    The challenge now ranks by the accuracy at an IoU of 0.75; ``notes`` has the counts.

    Only the voxels that each pair of a predicted and a labelled instance shares are kept.

    Attributes:
        notes: after ``result``, counts for the user.
    """

    def __init__(self) -> None:
        self.predicted: Counter[int] = Counter()  # voxels, by number; as all of these
        self.labelled: Counter[int] = Counter()
        self.shared: Counter[tuple[int, int]] = Counter()
        self.notes = ""

    def add(
        self, predicted: np.ndarray, labelled: np.ndarray, ignored: np.ndarray | None = None
    ) -> None:
        """Add a section: numbers of instances (H, W), 0 is background.

        Pixels ``ignored`` (H, W), bool, are of no instance.
        """
        if ignored is not None:
            predicted, labelled = (np.where(ignored, 0, n) for n in (predicted, labelled))
        starts, lengths = runs(predicted, labelled)
        one, other = predicted.ravel()[starts], labelled.ravel()[starts]
        inside = (one > 0) | (other > 0)
        ones, one = np.unique(one[inside], return_inverse=True)
        others, other = np.unique(other[inside], return_inverse=True)
        pairs, index = np.unique(one * len(others) + other, return_inverse=True)
        voxels = np.zeros(len(pairs), np.int64)
        np.add.at(voxels, index, lengths[inside])
        first, second = np.divmod(pairs, max(1, len(others)))
        for a, b, count in zip(
            ones[first].tolist(), others[second].tolist(), voxels.tolist(), strict=True
        ):
            if a > 0:
                self.predicted[a] += count
            if b > 0:
                self.labelled[b] += count
            if a > 0 and b > 0:
                self.shared[a, b] += count

    def result(self, confidences: Sequence[float]) -> InstanceScores:
        """Scores of all sections added.

        Args:
            confidences: of the predicted instances 1, 2, ...

        Raises:
            ValueError: nothing is labelled; average precision is not defined then.
        """
        if not self.labelled:
            raise ValueError("no labelled instance")
        hits = [self._hits(confidences, threshold) for threshold in THRESHOLDS]
        found = ", ".join(
            f"{np.count_nonzero(hit)} at IoU {threshold}"
            for hit, threshold in zip(hits, THRESHOLDS, strict=True)
        )
        self.notes = (
            f"instances: {len(self.predicted)} predicted, {len(self.labelled)} labelled; "
            f"matched: {found}"
        )
        return InstanceScores(*(interpolated_precision(hit, len(self.labelled)) for hit in hits))

    def _hits(self, confidences: Sequence[float], threshold: float) -> np.ndarray:
        """Whether each prediction is a true positive, in the order of confidence."""
        near: dict[int, list[tuple[float, int]]] = {}
        for (a, b), shared in self.shared.items():
            iou = shared / (self.predicted[a] + self.labelled[b] - shared)
            if iou >= threshold:
                near.setdefault(a, []).append((-iou, b))
        ranked = sorted(self.predicted, key=lambda a: (-confidences[a - 1], a))
        taken = set()
        hits = np.zeros(len(ranked), bool)
        for rank, a in enumerate(ranked):
            for _, b in sorted(near.get(a, [])):
                if b not in taken:
                    taken.add(b)
                    hits[rank] = True
                    break
        return hits


def interpolated_precision(hits: np.ndarray, positives: int) -> float:
    """Mean over the recalls 0, 0.01, ..., 1 of the greatest precision at that recall or higher.

    Args:
        hits: whether each prediction is a true positive, the most confident first.
        positives: number of what is to be found, > 0.
    """
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # in whole numbers: 17 of 20 are 85 %, whatever the fractions are rounded to
    reached = np.searchsorted(100 * true, RECALLS * positives)
    return float(np.append(best, 0.0)[reached].mean())
