"""How a section is cut into windows for the network, and put together again."""

from typing import NamedTuple

import numpy as np

from model.segmentor import Segmentor

SECTION_MARGIN = 48  # least padding round a whole section, pixels; gives 1120 for Lucchi's 1024
MARGIN = 48  # least padding of a whole section in all, pixels, where padding is to cost little
TILE_SIGMA = 0.2  # of the tiles' Gaussian weight, the half side being 1
TILE_FLOOR = 1e-6  # keeps the weight above 0 in a tile's corners


class Windows(NamedTuple):
    """A cutting of sections of one shape.

    Attributes:
        padding: pixels added (top, bottom), (left, right), by reflection.
        corners: (y, x) of each window in the padded section.
        size: (height, width) of a window.
        weight: (height, width) float32, how much each pixel of a window counts.
    """

    padding: tuple[tuple[int, int], tuple[int, int]]
    corners: list[tuple[int, int]]
    size: tuple[int, int]
    weight: np.ndarray

    def pad(self, section: np.ndarray) -> np.ndarray:
        """Reflect-pad a section (H, W), however small it is."""
        return np.pad(section, self.padding, mode="reflect")

    def unpad(self, padded: np.ndarray) -> np.ndarray:
        """Cut the padding off again."""
        (top, bottom), (left, right) = self.padding
        return padded[top : padded.shape[0] - bottom, left : padded.shape[1] - right]

    @property
    def padded_shape(self) -> tuple[int, int]:
        """(height, width) of a padded section."""
        height = max(y for y, _ in self.corners) + self.size[0]
        return height, max(x for _, x in self.corners) + self.size[1]

    def total_weight(self) -> np.ndarray:
        """Summed weight of all windows on the padded section, float32."""
        total = np.zeros(self.padded_shape, np.float32)
        for y, x in self.corners:
            total[y : y + self.size[0], x : x + self.size[1]] += self.weight
        return total


def whole_section(shape: tuple[int, int], padded_size: tuple[int, int] | None = None) -> Windows:
    """One window over the whole section, reflect-padded and centred.

    Args:
        shape: (height, width) of the sections.
        padded_size: of the window, multiples of 16; None for a square with a margin of 48 pixels
            or more round the longer side, as published (1120 for 768 x 1024).

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

    A tile's pixel counts 1e-6 + exp(-d^2 / (2 x 0.2^2)), d its distance from the tile's centre
    with the half side as 1. Source: Huang et al., MICCAI 2022. Where the steps do not come out
    even, the last tile of a row or column ends with the padded section.
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
    """The next multiple, for sizes the network can read."""
    return -(-side // multiple) * multiple
