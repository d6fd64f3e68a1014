"""Pictures of sections, masks and residuals."""

import cv2
import numpy as np
from torch import Tensor

from dataloader.volume import normalise

RED, GREEN = (255, 0, 0), (0, 255, 0)  # RGB
GAP = 4  # white pixels between panels


def grey(image: np.ndarray) -> np.ndarray:
    """A section or a map (H, W) in any range -> (H, W, 3) uint8, least to largest value."""
    return np.repeat((normalise(image) * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def suspect(image: np.ndarray) -> np.ndarray:
    """A section (H, W) as ``grey``, its pixels that are not finite in red."""
    finite = np.isfinite(image)
    picture = grey(np.where(finite, image, image[finite].min(initial=0)))
    picture[~finite] = RED
    return picture


def mask_picture(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) of 0 and 1, or a probability, -> (H, W, 3) uint8."""
    return np.repeat((np.clip(mask, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def contours(
    section: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray | None = None,
    thickness: int = 2,
) -> np.ndarray:
    """A section with the external contours of the label in red and of the prediction in green.

    Args:
        section: (H, W) in any range.
        prediction, label: (H, W) of 0 and 1.
        thickness: of the lines, pixels.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    picture = np.ascontiguousarray(grey(section))
    for mask, colour in ((label, RED), (prediction, GREEN)):
        if mask is not None:
            lines, _ = cv2.findContours(
                np.ascontiguousarray(mask, np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(picture, lines, -1, colour, thickness)
    return picture


def side_by_side(panels: list[np.ndarray]) -> np.ndarray:
    """Panels (H, W, 3) of one height in a row, parted by white lines."""
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def stacked(rows: list[np.ndarray]) -> np.ndarray:
    """Rows (H, W, 3) of one width below each other, parted by white lines."""
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)][:-1], axis=0)


def training_picture(pair: Tensor, truth: tuple[Tensor, Tensor, Tensor], logits) -> np.ndarray:
    """What the network sees, should say and says of one pair.

    Three rows: current, auxiliary, residual. Columns: section (for the residual the difference
    of the two), label or pseudo label, predicted probability.

    Args:
        pair: (2, H, W) in [0, 1].
        truth: masks of current, auxiliary and residual, (H, W) of 0 and 1 each.
        logits: ``PairLogits`` of this pair alone, (1, 2, H, W) each.

    Returns:
        RGB uint8.
    """
    current, auxiliary = pair.float().cpu().numpy()
    seen = [current, auxiliary, np.abs(current - auxiliary)]
    said = [maps[0].float().softmax(0)[1].cpu().numpy() for maps in logits]
    return stacked(
        [
            side_by_side([grey(image), mask_picture(mask.cpu().numpy()), mask_picture(probability)])
            for image, mask, probability in zip(seen, truth, said, strict=True)
        ]
    )


def write_picture(path, picture: np.ndarray) -> None:
    """Write an RGB or grey uint8 picture as PNG.

    Raises:
        OSError: it could not be written.
    """
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"{path}: could not be written")
