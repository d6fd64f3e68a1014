"""Grow the sure cores of mitochondria into the less sure voxels around them."""

import numpy as np

from prediction.instances.necks import PURPOSE
from utils.optional import wanted


def grown(probability: np.ndarray, cores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share a mask among the cores in it, the voxels of the highest probability first.

    A watershed of the probability: of two cores, each takes what it is joined to by the higher
    probabilities.

    Args:
        probability: (Z, H, W) float.
        cores: (Z, H, W) int32 from 1, in the mask; 0 elsewhere.
        mask: (Z, H, W) bool; each of its 6-connected components has a core.

    Returns:
        (Z, H, W) int32, the number of a core all over the mask, 0 elsewhere. Each is 6-connected if
        its core is.
    """
    segmentation = wanted("skimage.segmentation", PURPOSE)
    return segmentation.watershed(-probability, cores, mask=mask).astype(np.int32, copy=False)
