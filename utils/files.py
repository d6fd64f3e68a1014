"""Writing and deleting files."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture, (H, W, 3) RGB or (H, W) grey, uint8, as PNG.

    Raises:
        OSError: the file could not be written.
    """
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"{path}: could not be written")


def part_of(path: Path) -> Path:
    """The temporary path of a file until it is complete."""
    return path.with_name(path.name + ".part")


def discard(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on disc."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
