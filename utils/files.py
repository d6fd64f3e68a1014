"""Writing and deleting files."""

import os
import shutil
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


def part_of(path: Path) -> Path:
    """Where something is written before it is whole."""
    return path.with_name(path.name + ".part")


def discard(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disc."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
