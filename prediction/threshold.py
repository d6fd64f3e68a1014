"""The probability from which a pixel counts as mitochondria."""

from pathlib import Path

import cv2
import h5py
import numpy as np

from dataloader.formats.hdf5 import HDF5_DATASET
from dataloader.volume import DerivedVolume, Volume, resample
from prediction.metrics import THRESHOLD

EXPECTED_F1, EDGES = "expected_f1", "edges"  # choose a threshold without labels
LOWEST, HIGHEST = 0.15, 0.85  # of the thresholds that ``EdgeThreshold`` chooses among
EDGE_SCALE, OUTLINE_SCALE = 3.0, 2.0  # sigma of the smoothing of image and probability, pixels
BINS = 1000  # of the histogram of probabilities
ATTRIBUTE = "threshold"  # of ``preds.hdf``


class ExpectedF1:
    """Finds the threshold of the largest expected F1. It needs no labels.

    If the probabilities p are right, the pixels with p >= t hold sum(p >= t) p mitochondria pixels,
    so that

        E[F1](t) = 2 sum_{p >= t} p / (#{p >= t} + sum p).

    It is largest at t = F1 / 2: 0.5 where the network is sure of everything, lower where it is not,
    as on a volume unlike those it has learned from.

    Source: Lipton et al., *Optimal thresholding of classifiers to maximize F1 measure*, ECML 2014.
    """

    chosen = "where the expected F1 is largest"

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)

    def add(self, index: int, probability: np.ndarray) -> None:
        """Add a section (H, W) with probabilities in [0, 1]; the index has no meaning here."""
        self.counts += np.histogram(probability, BINS, (0, 1))[0]

    @property
    def threshold(self) -> float:
        """The threshold, a multiple of 1 / ``BINS``; ``THRESHOLD`` without mitochondria."""
        mass = self.counts * (np.arange(BINS) + 0.5) / BINS
        found, right = self.counts[::-1].cumsum()[::-1], mass[::-1].cumsum()[::-1]
        if not mass[1:].any():
            return THRESHOLD
        return int(np.argmax(2 * right / (found + mass.sum()))) / BINS


class EdgeThreshold:
    """Finds the threshold at which the outlines of the masks follow the strongest edges.

    The mean change of grey value I across the outlines {p = t} is, by the coarea formula,

        E(t) = sum_{p near t} grad I . grad p / sum_{p near t} |grad p|,

    which needs no labels. The threshold is the t with the largest |E(t)|: an outline outside of a
    mitochondrion, or across its inside, misses the edge. If |E| is largest at the lowest t, it says
    nothing, as all kinds of edges lie where the network finds next to nothing.

    Source: Federer, *Geometric measure theory*, 1969, 3.2.11 (coarea formula); Kimmel and
    Bruckstein, *Regularized Laplacian zero crossings as optimal edge integrators*, IJCV 2003
    (outlines of the largest alignment with grad I).

    Args:
        volume: the sections at the working pixel size.
        lowest: the lowest threshold to consider, at most ``THRESHOLD``.
    """

    chosen = "where the outlines follow the strongest edges"

    def __init__(self, volume: Volume, lowest: float = LOWEST) -> None:
        self.volume, self.lowest = volume, lowest
        self.change, self.length = np.zeros(BINS), np.zeros(BINS)

    def add(self, index: int, probability: np.ndarray) -> None:
        """Add a section (H, W) with probabilities in [0, 1], at any pixel size."""
        image = cv2.GaussianBlur(self.volume.scaled(index), (0, 0), EDGE_SCALE)
        probability = resample(probability.astype(np.float32), image.shape)
        probability = cv2.GaussianBlur(probability, (0, 0), OUTLINE_SCALE).clip(0, 1)
        (image_y, image_x), (y, x) = np.gradient(image), np.gradient(probability)
        length = np.hypot(y, x)
        if (blank := self.volume.blank(index)) is not None:
            reach = int(4 * EDGE_SCALE) + 1  # of the smoothing and the gradient, pixels
            side = 2 * reach + 1
            length[cv2.dilate(blank.astype(np.uint8), np.ones((side, side), np.uint8)) > 0] = 0
        change = np.where(length > 0, image_y * y + image_x * x, 0)
        self.change += np.histogram(probability, BINS, (0, 1), weights=change)[0]
        self.length += np.histogram(probability, BINS, (0, 1), weights=length)[0]

    @property
    def threshold(self) -> float:
        """The threshold, a multiple of 1 / ``BINS``; ``THRESHOLD`` where |E| says nothing."""
        near = np.ones(BINS // 10)
        change = np.abs(np.convolve(self.change, near, "same"))
        length = np.convolve(self.length, near, "same")
        strength = np.divide(change, length, out=np.zeros(BINS), where=length > 0)
        low = int(BINS * self.lowest)
        best = int(np.argmax(strength[low : int(BINS * HIGHEST) + 1]))
        return (low + best) / BINS if best else THRESHOLD


def threshold_rule(setting: float | str, volume: Volume) -> ExpectedF1 | EdgeThreshold | None:
    """The rule that a setting such as ``TEST.threshold`` names; None for a number.

    Args:
        setting: a number in (0, 1), ``EXPECTED_F1`` or ``EDGES``.
        volume: the sections at the working pixel size.
    """
    if setting == EXPECTED_F1:
        return ExpectedF1()
    return EdgeThreshold(volume) if setting == EDGES else None


class Thresholded(DerivedVolume):
    """Masks of 0 and 1 where a volume of probabilities reaches a threshold."""

    def __init__(self, volume: Volume, threshold: float) -> None:
        super().__init__(volume, volume.shape)
        self.threshold = threshold

    def section(self, index: int) -> np.ndarray:
        return (self.volume.section(index) >= self.threshold).astype(np.uint8)

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        crop = self.volume.crop(index, y, x, height, width)
        return (crop >= self.threshold).astype(np.uint8)


def read_threshold(predictions: Path) -> float:
    """The threshold of the masks beside a finished ``preds.hdf``."""
    with h5py.File(predictions) as file:
        return float(file[HDF5_DATASET].attrs.get(ATTRIBUTE, THRESHOLD))


def write_threshold(predictions: Path, threshold: float) -> None:
    """Record the threshold of the masks in a finished ``preds.hdf``."""
    with h5py.File(predictions, "r+") as file:
        file[HDF5_DATASET].attrs[ATTRIBUTE] = threshold
