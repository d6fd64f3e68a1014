"""Windows into which a section is cut for the network."""

from typing import NamedTuple

import numpy as np

from model.segmentor import Segmentor

SECTION_MARGIN = 48  # minimum padding on each side of a whole section, pixels
MARGIN = 48  # minimum padding of an orthogonal slice, both sides together, pixels
TILE_SIGMA = 0.2  # of the Gaussian weight of a tile, relative to half its side
TILE_FLOOR = 1e-6  # keeps the weight above 0 in a tile's corners


class Windows(NamedTuple):
    """Windows of sections of one shape.

    Attributes:
        padding: (top, bottom), (left, right), pixels of reflection padding.
        corners: (y, x) of each window in the padded section.
        size: (height, width) of a window.
        weight: (height, width) float32, of each pixel of a window in the average.
    """

    padding: tuple[tuple[int, int], tuple[int, int]]
    corners: list[tuple[int, int]]
    size: tuple[int, int]
    weight: np.ndarray

    def pad(self, section: np.ndarray) -> np.ndarray:
        """Reflect-pad a section (H, W); the padding may exceed its size."""
        return np.pad(section, self.padding, mode="reflect")

    def unpad(self, padded: np.ndarray) -> np.ndarray:
        """Remove the padding."""
        (top, bottom), (left, right) = self.padding
        return padded[top : padded.shape[0] - bottom, left : padded.shape[1] - right]

    @property
    def padded_shape(self) -> tuple[int, int]:
        """(height, width) of a padded section."""
        height = max(y for y, _ in self.corners) + self.size[0]
        return height, max(x for _, x in self.corners) + self.size[1]

    def total_weight(self) -> np.ndarray:
        """Sum of the weights of all windows on the padded section, float32."""
        total = np.zeros(self.padded_shape, np.float32)
        for y, x in self.corners:
            total[y : y + self.size[0], x : x + self.size[1]] += self.weight
        return total


def whole_section(shape: tuple[int, int], padded_size: tuple[int, int] | None = None) -> Windows:
    """One window over the whole section, centred and reflect-padded.

    Args:
        shape: (height, width) of the sections.
        padded_size: (height, width) of the window, multiples of 16; None: a square with at least
            48 pixels on both sides of the longer side, as published (1120 for 768 x 1024).

    Raises:
        ValueError: the padded size is smaller than the section.
    """
    if padded_size is None:
        padded_size = (round_up(max(shape) + 2 * SECTION_MARGIN),) * 2
    spare = [padded - side for padded, side in zip(padded_size, shape, strict=True)]
    if min(spare) < 0:
        raise ValueError(f"found {padded_size}, expected at least {shape}, the size of a section")
    padding = tuple((pixels // 2, pixels - pixels // 2) for pixels in spare)
    return Windows(padding, [(0, 0)], tuple(padded_size), np.ones(padded_size, np.float32))


def tiles(shape: tuple[int, int], tile: int, step: int, pad: int) -> Windows:
    """Overlapping square tiles over a section reflect-padded by ``pad`` on all sides.

    A pixel has the weight 1e-6 + exp(-d^2 / (2 x 0.2^2)), where d is its distance from the tile's
    centre relative to half the side. Source: Huang et al., MICCAI 2022. The last tile of a row or
    column ends with the padded section, even if that takes a shorter step.
    """
    padding, starts = [], []
    for side in shape:
        missing = max(0, tile - side - 2 * pad)
        padding.append((pad + missing // 2, pad + missing - missing // 2))
        last = side + 2 * pad + missing - tile
        starts.append([*range(0, last, step), last])
    axis = np.linspace(-1, 1, tile)
    distance2 = axis[:, None] ** 2 + axis[None, :] ** 2
    weight = TILE_FLOOR + np.exp(-distance2 / (2 * TILE_SIGMA**2))
    corners = [(y, x) for y in starts[0] for x in starts[1]]
    return Windows(tuple(padding), corners, (tile, tile), weight.astype(np.float32))


def round_up(side: int, multiple: int = Segmentor.SIZE_MULTIPLE) -> int:
    """The smallest multiple that is at least ``side``."""
    return -(-side // multiple) * multiple
