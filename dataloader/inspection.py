"""What is usually wrong with volumes, looked for before hours are spent on them."""

from typing import NamedTuple

import cv2
import numpy as np

from dataloader.volume import Volume, normalise, resample
from utils.errors import UserError
from utils.ignore import IGNORE, foreground_share

SAMPLE, RUN = 256, 4  # sections that are looked at of a long volume, in runs of neighbours
THUMBNAIL = 128  # pixels, to compare neighbours by
ALIGNED_SAMPLE, ALIGNED_SIDE = 16, 768  # sections and pixels, to compare labels with images by
REACH = 10  # pixels from a boundary
SHIFTS = (-2, -1, 1, 2)  # of labels against images that are tried, sections
SHIFT_ERRORS = 4  # standard errors by which the labels must fit better there
FLIP_GAIN = 1.5  # how much better they must fit mirrored
FEW, MANY = 0.005, 0.5  # foreground fractions beyond which something may be wrong


class ImagesFound(NamedTuple):
    """What sections look like.

    Attributes:
        low, high: grey range of the sections looked at.
        blank: sections of one value.
        repeated: sections equal to the one before.
        blank_share: of the pixels, in blank areas (``dataloader.blank``), those sections included.
        partly_blank: sections with such areas, but those of one value.
        misplaced: sections more like others than like their neighbours.
        likeness: correlation of sections 1, 2, 3 ... apart.
    """

    low: float
    high: float
    blank: list[int]
    repeated: list[int]
    misplaced: list[int]
    likeness: list[float]
    blank_share: float = 0.0
    partly_blank: int = 0

    def warnings(self) -> list[str]:
        """What is odd, a line each."""
        found = {
            "one grey value throughout": self.blank,
            "the same as the section before": self.repeated,
            "out of order, by its looks": self.misplaced,
        }
        lines = [f"{_sections(which)}: {what}" for what, which in found.items() if which]
        if self.partly_blank:
            lines.append(
                f"{self.blank_share:.2%} of the pixels looked at are blank (constant areas at the "
                f"border, of {self.partly_blank} sections): they are filled with the tissue beside "
                "them, and are neither learned from nor scored"
            )
        return lines


class LabelsFound(NamedTuple):
    """What labels look like.

    Attributes:
        fraction: of foreground, in the sections looked at.
        empty: sections without foreground.
        shift: sections by which the labels fit the images better when moved; 0 where they fit.
        flipped: whether they fit better when mirrored or turned.
    """

    fraction: float
    empty: list[int]
    shift: int
    flipped: bool

    def warnings(self) -> list[str]:
        """What is odd, a line each."""
        lines = []
        if self.empty:
            lines.append(f"{_sections(self.empty)}: no mitochondria in the labels")
        if not FEW <= self.fraction <= MANY:
            lines.append(
                f"{self.fraction:.2%} of the labels are mitochondria, expected {FEW:.1%} to "
                f"{MANY:.0%}; does another value stand for them?"
            )
        if self.shift:
            lines.append(
                f"the labels look shifted: they fit the images {self.shift:+d} sections on better"
            )
        if self.flipped:
            lines.append("the labels look flipped or turned against the images")
        return lines


def inspect_images(volume: Volume) -> ImagesFound:
    """Look at a volume's sections; of a long one at 256, in runs of neighbours.

    Blank areas are found in volumes that are opened to be filled.

    Raises:
        UserError: a section that cannot be read, or holds NaN or infinite values.
    """
    blank, repeated, thumbnails, ranges = [], [], {}, []
    shares: list[float] = []
    previous = None
    for index in sampled(len(volume)):
        section = volume.section(index)
        low, high = volume.grey_range(index)
        ranges.append((low, high))
        area = volume.blank(index)
        shares.append(float(low == high) if area is None else float(area.mean()))
        if shares[-1] == 1:
            blank.append(index)
            previous = None
            continue
        if previous and previous[0] == index - 1 and np.array_equal(previous[1], section):
            repeated.append(index)
        side = [min(THUMBNAIL, length) for length in section.shape]
        thumbnails[index] = resample(normalise(section, (low, high)), tuple(side)).ravel()
        previous = index, section
    lows, highs = zip(*ranges, strict=True)
    misplaced, likeness = _order(thumbnails)
    partly = sum(0 < share < 1 for share in shares)
    share = float(np.mean(shares))
    return ImagesFound(min(lows), max(highs), blank, repeated, misplaced, likeness, share, partly)


def inspect_labels(images: Volume, labels: Volume) -> LabelsFound:
    """Compare masks of 0 and 1 with their sections.

    Where they belong together, the mean grey value changes sharply across the masks' boundaries;
    it is compared with what labels some sections on, or mirrored ones, would give.

    Raises:
        UserError: all of the labels are background, or all foreground.
    """
    fractions = {index: foreground_share(labels.section(index)) for index in sampled(len(labels))}
    fraction = float(np.mean(list(fractions.values())))
    if fraction in (0.0, 1.0):
        raise UserError(
            f"{labels.path}: all is {'mitochondria' if fraction else 'background'} in the labels, "
            "expected both"
        )
    usable = [index for index, part in fractions.items() if part]
    chosen = usable[:: max(1, len(usable) // ALIGNED_SAMPLE)]
    fit = [_boundary_contrast(images, labels, index) for index in chosen]
    turned = [
        np.mean([_boundary_contrast(images, labels, index, turn=turn) for index in chosen])
        for turn in (0, 1, -1)
    ]
    return LabelsFound(
        fraction,
        [index for index, part in fractions.items() if not part],
        _better_shift(images, labels, dict(zip(chosen, fit, strict=True))),
        max(turned) > FLIP_GAIN * np.mean(fit),
    )


def _better_shift(images: Volume, labels: Volume, fit: dict[int, float]) -> int:
    """The shift at which the labels fit better than as they are; 0 where none is surely better."""
    best, best_gain = 0, 0.0
    for shift in SHIFTS:
        gains = [
            _boundary_contrast(images, labels, index, shift) - fit[index]
            for index in fit
            if 0 <= index + shift < len(images)
        ]
        if len(gains) < 3:
            continue
        error = np.std(gains, ddof=1) / len(gains) ** 0.5
        if np.mean(gains) > max(best_gain, SHIFT_ERRORS * error):
            best, best_gain = shift, float(np.mean(gains))
    return best


def sampled(sections: int) -> list[int]:
    """Sections to look at: all, or evenly spaced runs of neighbours."""
    if sections <= SAMPLE:
        return list(range(sections))
    starts = np.linspace(0, sections - RUN, SAMPLE // RUN).astype(int)
    return sorted({int(start) + step for start in starts for step in range(RUN)})


def _order(thumbnails: dict[int, np.ndarray]) -> tuple[list[int], list[float]]:
    """Sections out of order, and how alike sections 1, 2, 3 ... apart are."""

    def alike(one: int, other: int) -> float:
        a, b = (thumbnails[index] - thumbnails[index].mean() for index in (one, other))
        scale = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / scale) if scale else 0.0

    def apart(distance: int) -> dict[int, float]:
        return {k: alike(k, k + distance) for k in thumbnails if k + distance in thumbnails}

    reach = [list(apart(distance).values()) for distance in range(1, 21)]
    likeness = [float(np.median(values)) for values in reach if values]
    if len(likeness) < 3 or likeness[0] - likeness[1] < 0.005:
        return [], likeness  # too few, or nothing changes from one section to the next
    step = likeness[0] - likeness[1]
    one, two = apart(1), apart(2)
    misplaced = set()
    for k in thumbnails:
        if k - 1 in two and k in one and two[k - 1] - max(one[k - 1], one[k]) > step:
            misplaced.add(k)
        if k - 1 in two and k in two and k + 1 in one:
            swapped = two[k - 1] + two[k] - one[k - 1] - one[k + 1]
            misplaced |= {k, k + 1} if swapped > step else set()
    return sorted(misplaced), likeness


def _boundary_contrast(
    images: Volume, labels: Volume, index: int, shift: int = 0, turn: int | None = None
) -> float:
    """Mean step of the grey value from pixel to pixel across the boundaries of a section's masks.

    Args:
        index: of the labels.
        shift: the image is the one so many sections on.
        turn: it is mirrored along y (0), x (1) or both (-1).
    """
    label = _middle(labels.section(index))
    mask = (label == 1).astype(np.uint8)
    section = images.section(index + shift)
    image = normalise(_middle(section if turn is None else cv2.flip(section, turn)))
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    distance -= cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    near = (np.abs(distance) < REACH) & (label != IGNORE)
    bins = np.floor(distance[near]).astype(np.int32) + REACH
    counts = np.bincount(bins, minlength=2 * REACH)
    profile = np.bincount(bins, image[near], 2 * REACH)[counts > 0] / counts[counts > 0]
    return float(np.abs(np.diff(profile)).mean()) if len(profile) > 1 else 0.0


def _middle(section: np.ndarray) -> np.ndarray:
    height, width = section.shape
    y, x = max(0, (height - ALIGNED_SIDE) // 2), max(0, (width - ALIGNED_SIDE) // 2)
    return np.ascontiguousarray(section[y : y + ALIGNED_SIDE, x : x + ALIGNED_SIDE])


def _sections(which: list[int]) -> str:
    """Numbers as "sections 3, 4, 9 and 12 more"."""
    named = ", ".join(map(str, which[:5]))
    more = f" and {len(which) - 5} more" if len(which) > 5 else ""
    return f"section{'s' if len(which) > 1 else ''} {named}{more} (counted from 0)"
