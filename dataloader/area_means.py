"""Area resampling: each new pixel is the mean of the area that it covers.

    new_i = sum over j of w_ij old_j,   w_ij = length of [i s, (i + 1) s] within [j, j + 1], over s

along both axes, where s is the number of old pixels per new pixel. The results equal those of
OpenCV's INTER_AREA. OpenCV resamples whole images only. Here, a part of the result can be computed
from the part of the image that it covers, and is bit-identical to that part of the whole result.
"""

from functools import lru_cache

import cv2
import numpy as np
from scipy.sparse import csr_array

NEGLIGIBLE = 1e-3  # of a pixel: OpenCV ignores smaller overlaps


class AreaMeans:
    """Downsamples images of one shape, or parts of them.

    Args:
        shape: (height, width) of the images.
        smaller: (height, width) of the results; neither side may be longer than before.
    """

    def __init__(self, shape: tuple[int, int], smaller: tuple[int, int]) -> None:
        self.shape, self.smaller = tuple(shape), tuple(smaller)
        scales = [_scale(*sides) for sides in zip(shape, smaller, strict=True)]
        even = all(abs(scale - round(scale)) < np.finfo(float).eps for scale in scales)
        self.blocks = [round(scale) for scale in scales] if even else None

    def source(self, y: int, x: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The part of an image (y, x, height, width) that a part of the result covers."""
        rows = _weights(self.shape[0], self.smaller[0])[y : y + height].indices
        columns = _weights(self.shape[1], self.smaller[1])[x : x + width].indices
        top, left = int(rows.min()), int(columns.min())
        return top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left

    def __call__(self, part: np.ndarray, y: int, x: int, height: int, width: int) -> np.ndarray:
        """The part (height, width) of the result whose corner is at (y, x).

        Args:
            part: the part of the image given by ``source``.
        """
        part = resizable(part)
        if self.blocks and not (part.dtype == np.float32 and self.blocks == [2, 2]):
            return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        # OpenCV sums blocks of 2 x 2 float32 pixels in another order at the end of a row
        exact = np.float64 if part.dtype == np.float64 else np.float32
        top, left, *_ = self.source(y, x, height, width)
        down = _part(_weights(self.shape[0], self.smaller[0]), y, height, top, part.shape[0])
        across = _part(_weights(self.shape[1], self.smaller[1]), x, width, left, part.shape[1])
        rows = cv2.transpose(across.astype(exact) @ cv2.transpose(part.astype(exact)))
        means = down.astype(exact) @ rows
        return (np.rint(means) if part.dtype.kind in "ui" else means).astype(part.dtype)


def resizable(image: np.ndarray) -> np.ndarray:
    """The image in a type that OpenCV can resize: others become float32 or float64."""
    if image.dtype.kind in "iub" and image.dtype not in (np.uint8, np.uint16, np.int16):
        return image.astype(np.float64 if image.dtype.itemsize > 2 else np.float32)
    return image.astype(np.float32) if image.dtype == np.float16 else image


def _scale(old: int, new: int) -> float:
    """Old pixels per new pixel, rounded as OpenCV does."""
    return 1 / (new / old)


@lru_cache(maxsize=32)
def _weights(old: int, new: int) -> csr_array:
    """Weight of each old pixel in each new one along one axis, (new, old) float32."""
    scale = _scale(old, new)
    start = np.arange(new) * scale
    end, cell = start + scale, np.minimum(scale, old - start)
    last = np.minimum(np.floor(end).astype(int), old - 1)
    first = np.minimum(np.ceil(start).astype(int), last)
    left, right = first - start, np.minimum(np.minimum(end - last, 1), cell)
    columns = first[:, None] + np.arange(-1, int(scale) + 2)
    covered = ((columns >= first[:, None]) & (columns < last[:, None])).astype(float)
    covered += np.where(columns == first[:, None] - 1, np.maximum(left, 0)[:, None], 0)
    covered += np.where(columns == last[:, None], right[:, None], 0)
    rows, places = np.nonzero(covered > NEGLIGIBLE)
    weights = (covered / cell[:, None])[rows, places].astype(np.float32)
    return csr_array((weights, (rows, columns[rows, places])), shape=(new, old))


def _part(weights: csr_array, start: int, count: int, source: int, length: int) -> csr_array:
    """The weights of ``count`` new pixels for the ``length`` old pixels from ``source`` on."""
    return weights[start : start + count][:, source : source + length]
