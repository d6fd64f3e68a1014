"""What is usually wrong with volumes, looked for before hours are spent on them."""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from dataloader.volume import Volume, normalise, resample
from utils.errors import UserError
from utils.ignore import IGNORE, foreground_share

SAMPLE, RUN = 256, 4  # sections that are looked at of a long volume, in runs of neighbours
START_SAMPLE = 16  # the same at the start of a training, which is to begin soon
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


def inspect_images(volume: Volume, sample: int = SAMPLE) -> ImagesFound:
    """Look at a volume's sections; of a long one at ``sample``, in runs of neighbours.

    Each is read once.

    Blank areas are found in volumes that are opened to be filled.

    Raises:
        UserError: a section that cannot be read, or holds NaN or infinite values.
    """
    blank, repeated, thumbnails, ranges = [], [], {}, {}
    shares: list[float] = []
    previous = None
    for index in sampled(len(volume), sample):
        section = volume.scaled(index)
        ranges[index] = low, high = volume.grey_range(index)
        area = volume.blank(index)
        shares.append(float(low == high) if area is None else float(area.mean()))
        if shares[-1] == 1:
            blank.append(index)
            previous = None  # what it shows is no section of its own
            continue
        if ranges.get(index - 1) == (low, high) and np.array_equal(previous, section):
            repeated.append(index)
        side = [min(THUMBNAIL, length) for length in section.shape]
        thumbnails[index] = resample(section, tuple(side)).ravel()
        previous = section
    lows, highs = zip(*ranges.values(), strict=True)
    misplaced, likeness = _order(thumbnails)
    partly = sum(0 < share < 1 for share in shares)
    share = float(np.mean(shares))
    return ImagesFound(min(lows), max(highs), blank, repeated, misplaced, likeness, share, partly)


def inspect_labels(images: Volume, labels: Volume, sample: int = SAMPLE) -> LabelsFound:
    """Compare masks of 0 and 1 with their sections; of a long volume ``sample`` are looked at.

    Where they belong together, the mean grey value changes sharply across the masks' boundaries;
    it is compared with what labels some sections on, or mirrored ones, would give.

    Raises:
        UserError: all of the labels are background, or all foreground.
    """
    fractions = _fractions(labels, sample)
    usable = [index for index, part in fractions.items() if part]
    chosen = usable[:: max(1, len(usable) // ALIGNED_SAMPLE)]
    contrast = _Contrasts(images, labels)
    fit = {index: contrast(index) for index in chosen}
    turned = [np.mean([contrast(index, turn=turn) for index in chosen]) for turn in (0, 1, -1)]
    return LabelsFound(
        float(np.mean(list(fractions.values()))),
        [index for index, part in fractions.items() if not part],
        _better_shift(contrast, fit, len(images)),
        max(turned) > FLIP_GAIN * np.mean(list(fit.values())),
    )


def _fractions(labels: Volume, sample: int) -> dict[int, float]:
    """The foreground of sections that are looked at: of all, if those of a sample lack a class."""
    for indices in (sampled(len(labels), sample), range(len(labels))):
        fractions = {index: foreground_share(labels.section(index)) for index in indices}
        if 0 < sum(fractions.values()) < len(fractions):
            return fractions
    raise UserError(
        f"{labels.path}: all is {'mitochondria' if fractions[0] else 'background'} in the labels, "
        "expected both"
    )


def _better_shift(contrast: "_Contrasts", fit: dict[int, float], sections: int) -> int:
    """The shift at which the labels fit better than as they are; 0 where none is surely better."""
    best, best_gain = 0, 0.0
    for shift in SHIFTS:
        gains = [
            contrast(index, shift) - fit[index] for index in fit if 0 <= index + shift < sections
        ]
        if len(gains) < 3:
            continue
        error = np.std(gains, ddof=1) / len(gains) ** 0.5
        if np.mean(gains) > max(best_gain, SHIFT_ERRORS * error):
            best, best_gain = shift, float(np.mean(gains))
    return best


def sampled(sections: int, sample: int = SAMPLE) -> list[int]:
    """Sections to look at: all, or ``sample`` in evenly spaced runs of neighbours."""
    if sections <= sample:
        return list(range(sections))
    starts = np.linspace(0, sections - RUN, sample // RUN).astype(int)
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


class _Contrasts:
    """Mean steps of the grey value from pixel to pixel across the boundaries of sections' masks.

    The middle of each section is looked at, and read once.
    """

    def __init__(self, images: Volume, labels: Volume) -> None:
        self.image = cache(lambda index, turn: normalise(_middle(images, index, turn)))
        self.label = cache(lambda index: _middle(labels, index))

    def __call__(self, index: int, shift: int = 0, turn: int | None = None) -> float:
        """The contrast of one section.

        Args:
            index: of the labels.
            shift: the image is the one so many sections on.
            turn: it is mirrored along y (0), x (1) or both (-1).
        """
        label, image = self.label(index), self.image(index + shift, turn)
        mask = (label == 1).astype(np.uint8)
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        distance -= cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
        near = (np.abs(distance) < REACH) & (label != IGNORE)
        bins = np.floor(distance[near]).astype(np.int32) + REACH
        counts = np.bincount(bins, minlength=2 * REACH)
        profile = np.bincount(bins, image[near], 2 * REACH)[counts > 0] / counts[counts > 0]
        return float(np.abs(np.diff(profile)).mean()) if len(profile) > 1 else 0.0


def _middle(volume: Volume, index: int, turn: int | None = None) -> np.ndarray:
    """The middle of a section; of one that is mirrored along y (0), x (1) or both (-1)."""
    starts = []
    for length, mirrored in zip(volume.shape[1:], (turn in (0, -1), turn in (1, -1)), strict=True):
        spare = max(0, length - ALIGNED_SIDE)
        starts.append(spare - spare // 2 if mirrored else spare // 2)
    part = volume.crop(index, *starts, ALIGNED_SIDE, ALIGNED_SIDE)
    return np.ascontiguousarray(part if turn is None else cv2.flip(part, turn))


def _sections(which: list[int]) -> str:
    """Numbers as "sections 3, 4, 9 and 12 more"."""
    named = ", ".join(map(str, which[:5]))
    more = f" and {len(which) - 5} more" if len(which) > 5 else ""
    return f"section{'s' if len(which) > 1 else ''} {named}{more} (counted from 0)"
