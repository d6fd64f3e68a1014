"""The probability from which a pixel counts as mitochondria."""

from pathlib import Path

import h5py
import numpy as np

from dataloader.formats.hdf5 import HDF5_DATASET
from dataloader.volume import DerivedVolume, Volume
from prediction.metrics import THRESHOLD

EXPECTED_F1 = "expected_f1"
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
