"""Ignored pixels: excluded from losses, scores and statistics of labels."""

import numpy as np

IGNORE = 255  # value of ignored pixels in masks of 0 and 1


def ignoring(mask: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    """A mask (H, W) with the pixels ``where`` (H, W) bool ignored; None: unchanged."""
    return mask if where is None else np.where(where, np.uint8(IGNORE), mask)


def foreground_share(mask: np.ndarray) -> float:
    """Fraction of 1 among the pixels that are not ignored; 0 if all are ignored."""
    return np.count_nonzero(mask == 1) / max(1, np.count_nonzero(mask != IGNORE))


def ignored_share(mask: np.ndarray) -> float:
    """Fraction of ignored pixels in a mask."""
    return np.count_nonzero(mask == IGNORE) / mask.size
