"""Scores of predicted objects against labelled ones."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prediction.instances.runs import equal_runs

RECALLS = np.arange(101)  # per cent
MIN_COMPONENT = 1000  # voxels; smaller components of binary labels need not be found


class InstanceScores(NamedTuple):
    """Average precision, F1 and panoptic quality (PQ) at a 3-D IoU of 0.5 and 0.75, in [0, 1].

    With TP matches among P predicted and L labelled objects, F1 is ``2 TP / (P + L)`` and PQ is
    twice the sum of the matches' IoUs over ``P + L`` (Kirillov et al., CVPR 2019).
    """

    AP50: float
    AP75: float
    F1_50: float
    F1_75: float
    PQ50: float
    PQ75: float

    def __str__(self) -> str:
        return ", ".join(f"{name}={value:.4f}" for name, value in self._asdict().items())


THRESHOLDS = (0.5, 0.75)


class InstanceScorer:
    """Scores objects by their 3-D IoU, from sections added one by one.

    Average precision is AP-75 of the MitoEM challenge (Wei et al., MICCAI 2020;
    github.com/ygCoconut/mAP_3Dvolume): COCO's evaluation on volumes, with one class.

    - Predicted objects are ranked by confidence, the mean probability over the object; ties are
      ranked by number.
    - In this order, each takes the labelled object of the greatest IoU among those not yet taken.
      It is a true positive if that IoU reaches the threshold, else a false positive. (The
      challenge's code does not mark labels as taken. Above an IoU of 0.5 this is the same.)
    - The precision at a recall is the greatest precision at this recall or a higher one; 0 where
      the recall is not reached.
    - Average precision is the mean over the recalls 0, 0.01, ..., 1.

    F1 and PQ use the same matches.

    Args:
        smallest: labelled objects of fewer voxels need not be found. A predicted object that
            matches none of the others, and of which such objects cover half or more, is left out.

    Attributes:
        notes: after ``result``, counts for the user.
    """

    def __init__(self, smallest: int = 1) -> None:
        self.smallest = smallest
        self.predicted: Counter[int] = Counter()  # number -> voxels
        self.labelled: Counter[int] = Counter()
        self.shared: Counter[tuple[int, int]] = Counter()
        self.notes = ""

    def add(
        self, predicted: np.ndarray, labelled: np.ndarray, ignored: np.ndarray | None = None
    ) -> None:
        """Add a section: numbers of objects (H, W), 0 is background.

        Pixels ``ignored`` (H, W), bool, belong to no object.
        """
        if ignored is not None:
            predicted, labelled = (np.where(ignored, 0, n) for n in (predicted, labelled))
        runs = equal_runs(predicted, labelled)
        one, other = predicted.ravel()[runs["start"]], labelled.ravel()[runs["start"]]
        inside = (one > 0) | (other > 0)
        ones, one = np.unique(one[inside], return_inverse=True)
        others, other = np.unique(other[inside], return_inverse=True)
        pairs, index = np.unique(one * len(others) + other, return_inverse=True)
        voxels = np.zeros(len(pairs), np.int64)
        np.add.at(voxels, index, runs["length"][inside])
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
            confidences: of the predicted objects 1, 2, ...

        Raises:
            ValueError: there is no labelled object of at least ``smallest`` voxels.
        """
        wanted = self._wanted()
        if not wanted:
            raise ValueError("no labelled instance")
        excused = self._excused(wanted)
        precisions, f1, quality, found = [], [], [], []
        for threshold in THRESHOLDS:
            matches = self._matches(confidences, threshold, wanted)
            ious = np.array([iou for a, iou in matches if iou or a not in excused])
            hits = ious > 0
            objects = len(ious) + len(wanted)
            precisions.append(interpolated_precision(hits, len(wanted)))
            f1.append(2 * int(hits.sum()) / objects)
            quality.append(2 * float(ious.sum()) / objects)
            found.append(f"{hits.sum()} at IoU {threshold}")
        predicted = f"{len(ious)} predicted"  # at the last threshold
        if left_out := len(self.predicted) - len(ious):
            predicted += f" (and {left_out} on labels of under {self.smallest} voxels)"
        self.notes = f"instances: {predicted}, {len(wanted)} labelled; matched: {', '.join(found)}"
        return InstanceScores(*precisions, *f1, *quality)

    @property
    def has_labelled(self) -> bool:
        """Whether there is a labelled object of at least ``smallest`` voxels."""
        return bool(self._wanted())

    def _wanted(self) -> set[int]:
        """The labelled objects that should be found."""
        return {b for b, voxels in self.labelled.items() if voxels >= self.smallest}

    def _excused(self, wanted: set[int]) -> set[int]:
        """Predicted objects of which labelled ones that are too small cover half or more."""
        covered: Counter[int] = Counter()
        for (a, b), shared in self.shared.items():
            if b not in wanted:
                covered[a] += shared
        return {a for a, shared in covered.items() if 2 * shared >= self.predicted[a]}

    def _matches(
        self, confidences: Sequence[float], threshold: float, wanted: set[int]
    ) -> list[tuple[int, float]]:
        """Each predicted object and the IoU of its match (0: none), in the order of confidence."""
        near: dict[int, list[tuple[float, int]]] = {}
        for (a, b), shared in self.shared.items():
            iou = shared / (self.predicted[a] + self.labelled[b] - shared)
            if iou >= threshold and b in wanted:
                near.setdefault(a, []).append((-iou, b))
        taken, matches = set(), []
        for a in sorted(self.predicted, key=lambda a: (-confidences[a - 1], a)):
            free = [(-iou, b) for iou, b in sorted(near.get(a, [])) if b not in taken]
            iou, b = free[0] if free else (0.0, None)
            taken.add(b)
            matches.append((a, iou))
        return matches


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
