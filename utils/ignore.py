"""Pixels that do not count: in no loss, no score, no statistic of labels."""

import numpy as np

IGNORE = 255  # their value in masks of 0 and 1


def ignoring(mask: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    """A mask (H, W) of which the pixels ``where`` (H, W), bool, do not count; None: as it is."""
    return mask if where is None else np.where(where, np.uint8(IGNORE), mask)


def foreground_share(mask: np.ndarray) -> float:
    """Share of 1 among the pixels of a mask that count; 0 where none does."""
    return np.count_nonzero(mask == 1) / max(1, np.count_nonzero(mask != IGNORE))


def ignored_share(mask: np.ndarray) -> float:
    """Share of the pixels of a mask that do not count."""
    return np.count_nonzero(mask == IGNORE) / mask.size
