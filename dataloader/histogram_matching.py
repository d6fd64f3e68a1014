"""The grey levels of one volume brought to those of another (histogram matching).

A grey g of the source becomes T(g), the grey of the same rank in the target: F_target(T(g)) =
F_source(g), F the share of pixels that are as dark or darker; Gonzalez and Woods, *Digital Image
Processing*. Franco-Barranco et al., *Deep learning based domain adaptation for mitochondria
segmentation on EM volumes*, 2022, do so section by section; here it is one map for a volume, from
sections each scaled to [0, 1], so that a section with little tissue stays one.
"""

from typing import NamedTuple

import numpy as np

from dataloader.volume import Volume

RANKS = 257
SAMPLED_SECTIONS = 32  # evenly spaced sections


class HistogramMatching(NamedTuple):
    """Greys of equal rank in two volumes, each rising, in [0, 1]: call it with an image."""

    source: np.ndarray
    target: np.ndarray

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """An image of the source, float32 in [0, 1], in the target's greys."""
        return np.interp(image, self.source, self.target).astype(np.float32)


def match_histograms(source: Volume, target: Volume) -> HistogramMatching:
    """What makes the source as bright as the target; reads some sections of both."""
    return HistogramMatching(grey_quantiles(source), grey_quantiles(target))


def grey_quantiles(volume: Volume) -> np.ndarray:
    """The greys at ``RANKS`` evenly spaced ranks of a volume, darkest to brightest, float64."""
    places = np.linspace(0, len(volume) - 1, min(SAMPLED_SECTIONS, len(volume))).round().astype(int)
    ranks = np.linspace(0, 1, RANKS)
    return np.mean([np.quantile(volume.scaled(int(k)), ranks) for k in places], axis=0)
