"""Pictures of sections, masks and residuals."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dataloader.volume import normalise
from utils.ignore import IGNORE

if TYPE_CHECKING:
    from torch import Tensor  # slow to import, and only needed for type hints

RED, GREEN = (255, 0, 0), (0, 255, 0)  # RGB
GAP = 4  # white pixels between panels


def grey(image: np.ndarray) -> np.ndarray:
    """A section or map (H, W) -> (H, W, 3) uint8, minimum to maximum scaled to 0 to 255."""
    return np.repeat((normalise(image) * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def as_stored(section: np.ndarray) -> np.ndarray:
    """A section (H, W) -> (H, W, 3) uint8: 8-bit sections unchanged, others as ``grey``."""
    if section.dtype == np.uint8:
        return np.repeat(section[..., None], 3, axis=2)
    return grey(section)


def mask_picture(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) of 0 and 1, or a probability, -> (H, W, 3) uint8; NaN is black."""
    shades = np.clip(np.nan_to_num(mask), 0, 1) * 255
    return np.repeat(shades.astype(np.uint8)[..., None], 3, axis=2)


def contours(
    section: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray | None = None,
    thickness: int = 2,
) -> np.ndarray:
    """A section with the outer contours of the label in red and of the prediction in green.

    Args:
        section: (H, W) in any range, or a picture (H, W, 3) uint8.
        prediction, label: (H, W) of 0 and 1; other values count as 0.
        thickness: of the lines, pixels.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    picture = section.copy() if section.ndim == 3 else grey(section)
    for mask, colour in ((label, RED), (prediction, GREEN)):
        if mask is not None:
            lines, _ = cv2.findContours(
                np.ascontiguousarray(mask == 1, np.uint8),
                cv2.RETR_EXTERNAL,
                cv2.CHAIN_APPROX_NONE,
            )
            cv2.drawContours(picture, lines, -1, colour, thickness)
    return picture


def instance_colour(number: int) -> tuple[int, int, int]:
    """The RGB colour of an instance; successive numbers have clearly different colours.

    Hues advance by the golden ratio, and full, pale and dark colours alternate.
    """
    saturation, value = ((1.0, 1.0), (0.55, 1.0), (1.0, 0.7))[number % 3]
    colour = colorsys.hsv_to_rgb(number * 0.6180339887 % 1, saturation, value)
    return tuple(round(channel * 255) for channel in colour)


def instances_picture(section: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A section with each instance tinted in its colour and outlined in full colour.

    Args:
        section: (H, W) in any range.
        labels: (H, W) numbers of instances; 0 is background.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    picture = grey(section)
    numbers, index = np.unique(labels, return_inverse=True)
    colours = np.array([instance_colour(int(number)) for number in numbers], np.uint8)
    painted = colours[index.reshape(labels.shape)]
    inside = labels > 0
    picture[inside] = (picture[inside] * 0.55 + painted[inside] * 0.45).round().astype(np.uint8)
    edge = np.zeros(labels.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[one] != labels[other]
        edge[one] |= differ
        edge[other] |= differ
    picture[edge & inside] = painted[edge & inside]
    return picture


def side_by_side(panels: list[np.ndarray]) -> np.ndarray:
    """Panels (H, W, 3) of equal height in a row, separated by white lines."""
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def stacked(rows: list[np.ndarray]) -> np.ndarray:
    """Rows (H, W, 3) of equal width in a column, separated by white lines."""
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)][:-1], axis=0)


def training_picture(pair: Tensor, truth: tuple[Tensor, Tensor, Tensor], logits) -> np.ndarray:
    """Input, label and prediction of one pair.

    Rows: current, auxiliary, residual. Columns: section (for the residual, the difference of the
    two), label or pseudo label, predicted probability.

    Args:
        pair: (2, H, W) in [0, 1].
        truth: masks of current, auxiliary and residual, (H, W) of 0 and 1; 255 (ignored) is grey.
        logits: ``PairLogits`` of this pair, (1, 2, H, W) each.

    Returns:
        RGB (height, width, 3) uint8.
    """
    current, auxiliary = pair.float().cpu().numpy()
    seen = [current, auxiliary, np.abs(current - auxiliary)]
    masks = [mask.cpu().numpy() for mask in truth]
    masks = [np.where(mask == IGNORE, 0.5, mask) for mask in masks]
    said = [maps[0].float().softmax(0)[1].cpu().numpy() for maps in logits]
    return stacked(
        [
            side_by_side([grey(image), mask_picture(mask), mask_picture(probability)])
            for image, mask, probability in zip(seen, masks, said, strict=True)
        ]
    )
