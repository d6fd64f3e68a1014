"""Histogram matching: map the grey values of one volume to those of another.

A grey value g of the source becomes T(g) with F_target(T(g)) = F_source(g), where F is the
cumulative histogram (Gonzalez and Woods, *Digital Image Processing*). Franco-Barranco et al., *Deep
learning based domain adaptation for mitochondria segmentation on EM volumes*, 2022, match each
section separately. Here one map serves the whole volume, so that a section with little tissue is
not made to look like one with more. The map is computed from sections scaled to [0, 1].
"""

from typing import NamedTuple

import numpy as np

from dataloader.volume import Volume, evenly_spaced

RANKS = 257
SAMPLED_SECTIONS = 32  # evenly spaced sections


class HistogramMatching(NamedTuple):
    """Map from grey values of the source to those of equal rank in the target.

    Attributes:
        source, target: grey values in [0, 1] at equal ranks, ascending.
    """

    source: np.ndarray
    target: np.ndarray

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Map an image of the source, float32 in [0, 1]; same shape and dtype."""
        return np.interp(image, self.source, self.target).astype(np.float32)


def match_histograms(source: Volume, target: Volume) -> HistogramMatching:
    """The map from source to target, from up to 32 sections of each."""
    return HistogramMatching(grey_quantiles(source), grey_quantiles(target))


def grey_quantiles(volume: Volume) -> np.ndarray:
    """Grey values at ``RANKS`` evenly spaced quantiles, float64, ascending: mean over sections."""
    indices = evenly_spaced(len(volume), SAMPLED_SECTIONS)
    ranks = np.linspace(0, 1, RANKS)
    return np.mean([np.quantile(volume.scaled(k), ranks) for k in indices], axis=0)
