"""Writing files."""

from pathlib import Path

import cv2
import numpy as np


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write an RGB or grey uint8 picture as PNG.

    Raises:
        OSError: it could not be written.
    """
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"{path}: could not be written")
