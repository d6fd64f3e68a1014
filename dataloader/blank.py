"""Blank areas: the constant borders and corners that alignment leaves in a section.

A blank area is a large connected region of one grey value, apart from compression noise. It covers
a corner and a quarter of a side's length of the border, or half of a side without a corner. Tissue
has no such region: resin and the lumen of vessels vary by more than the noise allowed here, from
pixel to pixel or from one end to the other, and saturated spots are smaller.
"""

import cv2
import numpy as np

NOISE = 7  # of 256 grey levels; largest range within a square of a blank area (JPEG artefacts)
LOW_CONTRAST = 1 / 16  # of a section's grey range; upper limit of the noise in dim sections
SQUARE = 9  # pixels; a blank area consists of constant squares of this side (JPEG blocks have 8)
RUN = 1 / 4  # of the shorter side; shortest run along the border of an area with a corner
SIDE_RUN = 1 / 2  # of the shorter side; shortest run of an area without a corner
EVEN = 1 / 7  # of the noise; an area with a smaller standard deviation counts as constant
UNEVEN = 2  # largest variance of an area, in mean square differences of neighbours; grain: 1/2
PIECE = 1 / 500  # of a section; smaller pieces enclosed by a blank area are writing, not tissue
GROWTH = 1.5  # an area grows to adjacent pixels within this multiple of its own noise
SAMPLE = 20_000  # pixels from which an area's own noise is estimated
EDGE = 1  # pixels of tissue beside a blank area that interpolation has mixed with it

_SQUARE = np.ones((SQUARE, SQUARE), np.uint8)
_INNER = (slice(SQUARE, -SQUARE),) * 2
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_EDGE = np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)


def blank_mask(section: np.ndarray) -> np.ndarray | None:
    """Where a section (H, W) is blank, bool (H, W); None if nowhere.

    The interior is examined only if the border has a constant run.
    """
    noise = _noise(section)
    if noise is None:
        return np.ones(section.shape, bool)
    lines = [section[0], section[-1], section[:, 0], section[:, -1]]
    if not _has_constant_run(lines, noise, section.shape):
        return None
    area = _constant_areas(section, noise)
    if not area.any():
        return None
    _, parts = cv2.connectedComponents(1 - area, connectivity=4)
    small = np.bincount(parts.ravel()) < PIECE * section.size
    small[0] = True  # the blank area itself
    return small[parts]


def border_is_blank(lines: list[np.ndarray], shape: tuple[int, int]) -> bool:
    """Whether an 8-bit section (H, W) may have blank areas, judged by its four outermost lines."""
    return _has_constant_run(lines, NOISE, shape)


def fill_blank(section: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """Fill the blank area of a section by reflecting the nearest tissue.

    Filled pixels are reflected in turn until nothing is blank. Statistics of the filled section are
    close to those of its tissue.

    Args:
        section: (H, W), any dtype.
        blank: (H, W) bool. A section that is entirely blank is returned unchanged.
    """
    if blank.all():
        return section
    left = blank.astype(np.uint8)
    mixed = cv2.dilate(left, _EDGE)
    left, filled = (left if mixed.all() else mixed), section.copy()
    while left.any():
        pixels, nearest = _nearest_tissue(left)
        y, x = 2 * nearest - pixels
        inside = (y >= 0) & (y < left.shape[0]) & (x >= 0) & (x < left.shape[1])
        inside[inside] = left[y[inside], x[inside]] == 0
        if not inside.any():  # the tissue is a line of pixels
            (y, x), inside[:] = nearest, True
        at = tuple(pixels[:, inside])
        filled[at] = filled[y[inside], x[inside]]
        left[at] = 0
    return filled


def _nearest_tissue(left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels (2, n) where ``left`` (H, W) is 1, and for each the nearest pixel that is 0."""
    # OpenCV numbers the zeros and labels every other pixel with the number of the nearest zero
    _, numbers = cv2.distanceTransformWithLabels(
        left, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    numbers, width = numbers.ravel(), left.shape[1]
    rim = np.flatnonzero(cv2.dilate(left, _EDGE) > left)
    place = np.zeros(left.size + 1, np.int64)
    place[numbers[rim]] = rim
    pixels = np.flatnonzero(left)
    nearest = place[numbers[pixels]]
    return np.stack(np.divmod(pixels, width)), np.stack(np.divmod(nearest, width))


def _noise(section: np.ndarray) -> float | None:
    """Grey levels by which a blank area of a section may vary; None: the section is blank."""
    low, high = float(section.min()), float(section.max())
    if section.dtype.itemsize == 1:
        return min(NOISE, LOW_CONTRAST * (high - low)) if high - low > NOISE else None
    if low == high:
        return None
    low, high = np.percentile(section[::8, ::8].astype(np.float64), (1, 99))  # without hot pixels
    return NOISE / 255 * float(high - low)


def _least_run(shape: tuple[int, int], share: float) -> int:
    return max(1, round(share * min(shape)))


def _has_constant_run(lines: list[np.ndarray], noise: float, shape: tuple[int, int]) -> bool:
    """Whether a line has a constant run as long as that of an area with a corner."""
    run = _least_run(shape, RUN / 2)  # the other half may be on the adjacent side
    for line in lines:
        windows = np.lib.stride_tricks.sliding_window_view(line.astype(np.float64), run)
        if (windows.max(1) - windows.min(1) <= noise).any():
            return True
    return False


def _constant_areas(section: np.ndarray, noise: float) -> np.ndarray:
    """The blank areas, uint8 (H, W) of 0 and 1."""
    grey = section if section.dtype == np.uint8 else section.astype(np.float32)
    # continued beyond the border, so that wedges along it are found to their tips
    grey = cv2.copyMakeBorder(grey, *[SQUARE] * 4, cv2.BORDER_REPLICATE)
    flat = cv2.dilate(grey, _SQUARE) - cv2.erode(grey, _SQUARE) <= noise
    _, parts = cv2.connectedComponents(flat.astype(np.uint8), connectivity=4)
    outermost = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    inner = np.bincount(parts[_INNER].ravel(), minlength=parts.max() + 1)
    areas = np.zeros(section.shape, np.uint8)
    for part in np.unique(outermost[outermost > 0]):
        if inner[part] >= _least_run(section.shape, RUN):
            area = cv2.dilate((parts == part).astype(np.uint8), _SQUARE)[_INNER]
            if _takes_enough(area) and _is_even(section, area, noise):
                areas |= _grown(section, area)
    return areas


def _takes_enough(area: np.ndarray) -> bool:
    """Whether an area, uint8 (H, W) of 0 and 1, covers enough of the border."""
    taken = int(sum(line.sum() for line in (area[0], area[-1], area[1:-1, 0], area[1:-1, -1])))
    ends = slice(None, SQUARE), slice(-SQUARE, None)
    cornered = any(area[y, x].any() for y in ends for x in ends)
    return taken >= _least_run(area.shape, RUN if cornered else SIDE_RUN)


def _is_even(section: np.ndarray, area: np.ndarray, noise: float) -> bool:
    """Whether an area is constant or has noise without drift.

    Uses von Neumann's ratio: the mean square difference of neighbours is twice the variance if the
    pixels are independent, and much less if grey values drift, as they do in smooth tissue.
    """
    inside = area > 0
    values = section.astype(np.float32)
    steps = (values[:, 1:] - values[:, :-1])[inside[:, 1:] & inside[:, :-1]]
    least = (noise * EVEN) ** 2
    return float(values[inside].var()) <= max(least, UNEVEN * float(np.square(steps).mean()))


def _grown(section: np.ndarray, area: np.ndarray) -> np.ndarray:
    """The area with adjacent pixels, up to one JPEG block away, that match its noise."""
    values = section[area > 0]
    values = values[:: len(values) // SAMPLE + 1].astype(np.float64)
    level = float(np.median(values))
    spread = GROWTH * float(np.percentile(np.abs(values - level), 99.8))
    near = ((section >= level - spread) & (section <= level + spread)).astype(np.uint8)
    for _ in range(SQUARE - 1):
        area = area | cv2.min(cv2.dilate(area, _CROSS), near)
    return area
