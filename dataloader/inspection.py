"""Check volumes for common mistakes before a long run."""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from dataloader.filled_volume import FilledVolume
from dataloader.part import central
from dataloader.volume import MaskVolume, Volume, normalise, resample
from utils.errors import UserError
from utils.ignore import IGNORE, foreground_share

SAMPLE, RUN = 256, 4  # sections sampled from a long volume, in runs of neighbours
START_SAMPLE = 16  # the same at the start of training, for speed
REMOTE_PART = (64, 1024, 1024)  # at an address: sections, height and width that are examined
THUMBNAIL = 128  # pixels; size at which neighbouring sections are compared
ALIGNED_SAMPLE, ALIGNED_SIDE = 16, 768  # sections, and pixels of each, to compare with labels
REACH = 10  # pixels from a mask boundary
SHIFTS = (-2, -1, 1, 2)  # sections by which labels are shifted against images
SHIFT_ERRORS = 4  # standard errors by which shifted labels must fit better to be reported
FLIP_GAIN = 1.5  # factor by which mirrored labels must fit better to be reported
FEW, MANY = 0.005, 0.5  # plausible range of the foreground fraction


class ImagesFound(NamedTuple):
    """Findings about the sampled sections of a volume.

    Attributes:
        low, high: minimum and maximum grey value.
        blank: indices of entirely blank sections.
        repeated: indices of sections equal to the one before.
        misplaced: indices of sections that resemble others more than their neighbours.
        likeness: median correlation of sections 1, 2, 3 ... apart.
        blank_share: fraction of the pixels in blank areas (``dataloader.blank``), blank sections
            included.
        partly_blank: number of sections with blank areas that are not entirely blank.
        part: shape of the part in the middle that was examined; None: it was the whole volume.
    """

    low: float
    high: float
    blank: list[int]
    repeated: list[int]
    misplaced: list[int]
    likeness: list[float]
    blank_share: float = 0.0
    partly_blank: int = 0
    part: tuple[int, int, int] | None = None

    def warnings(self) -> list[str]:
        """One line for each finding."""
        found = {
            "one grey value throughout": self.blank,
            "the same as the section before": self.repeated,
            "seems to be out of order": self.misplaced,
        }
        lines = [f"{_sections(which)}: {what}" for what, which in found.items() if which]
        if self.partly_blank:
            lines.append(
                f"{self.blank_share:.2%} of the pixels examined are blank (constant areas at the "
                f"border of {self.partly_blank} sections): they are filled with adjacent tissue, "
                "and excluded from losses and scores"
            )
        return lines + ([examined_only(self.part)] if self.part else [])


class LabelsFound(NamedTuple):
    """Findings about the sampled sections of labels.

    Attributes:
        fraction: foreground fraction.
        empty: indices of sections without foreground.
        shift: sections by which the labels fit the images better when shifted; 0: none.
        flipped: whether the labels fit better when mirrored or rotated by 180 degrees.
    """

    fraction: float
    empty: list[int]
    shift: int
    flipped: bool

    def warnings(self) -> list[str]:
        """One line for each finding."""
        lines = []
        if self.empty:
            lines.append(f"{_sections(self.empty)}: no mitochondria in the labels")
        if not FEW <= self.fraction <= MANY:
            lines.append(
                f"{self.fraction:.2%} of the labels are mitochondria, expected {FEW:.1%} to "
                f"{MANY:.0%}; are they marked by another value?"
            )
        if self.shift:
            lines.append(
                f"the labels seem to be shifted: they fit the images {self.shift:+d} sections on "
                "better"
            )
        if self.flipped:
            lines.append("the labels seem to be flipped or rotated against the images")
        return lines


def examined(volume: Volume) -> Volume:
    """The volume, or of one at an address the middle, so that only this is read."""
    shape = tuple(map(min, volume.shape, REMOTE_PART))
    if not volume.remote or shape == volume.shape:
        return volume
    if isinstance(volume, FilledVolume | MaskVolume):  # blank areas are those of the part
        return type(volume)(central(volume.volume, shape))
    return central(volume, shape)


def examined_only(shape: tuple[int, int, int]) -> str:
    """A line on what ``examined`` gives."""
    sections, height, width = shape
    return (
        f"it lies at an address, so only the middle was examined: {sections} sections of "
        f"{height} x {width} pixels"
    )


def inspect_images(volume: Volume, sample: int = SAMPLE) -> ImagesFound:
    """Examine the sections of a volume, or a sample of a long one. Each is read once.

    Of a volume at an address, the middle is examined (``examined``).

    Args:
        volume: blank areas are found if it was opened with ``fill``.
        sample: sections to read at most, in runs of neighbours.

    Raises:
        UserError: a section cannot be read, or has NaN or infinite values.
    """
    whole, volume = volume, examined(volume)
    first = (len(whole) - len(volume)) // 2
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
            previous = None  # it shows a neighbouring section
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
    blank, repeated, misplaced = (
        [first + index for index in found] for found in (blank, repeated, misplaced)
    )
    part = None if volume is whole else volume.shape
    return ImagesFound(
        min(lows), max(highs), blank, repeated, misplaced, likeness, share, partly, part
    )


def inspect_labels(images: Volume, labels: Volume, sample: int = SAMPLE) -> LabelsFound:
    """Compare masks with their sections.

    If they match, the mean grey value changes sharply across mask boundaries. Its steps are
    compared with those that shifted or mirrored labels give.

    Args:
        images: the sections.
        labels: masks of 0, 1 and ``IGNORE``.
        sample: sections to read at most.

    Raises:
        UserError: all labels are background, or all are mitochondria.
    """
    fractions = _fractions(labels, sample)
    usable = [index for index, part in fractions.items() if part]
    chosen = usable[:: max(1, len(usable) // ALIGNED_SAMPLE)]
    contrast = _Contrasts(images, labels)
    fit = {index: contrast(index) for index in chosen}
    mirrored = [np.mean([contrast(index, flip=flip) for index in chosen]) for flip in (0, 1, -1)]
    return LabelsFound(
        float(np.mean(list(fractions.values()))),
        [index for index, part in fractions.items() if not part],
        _better_shift(contrast, fit, len(images)),
        max(mirrored) > FLIP_GAIN * np.mean(list(fit.values())),
    )


def _fractions(labels: Volume, sample: int) -> dict[int, float]:
    """Foreground fractions of a sample of sections, or of all if the sample lacks a class."""
    for indices in (sampled(len(labels), sample), range(len(labels))):
        fractions = {index: foreground_share(labels.section(index)) for index in indices}
        if 0 < sum(fractions.values()) < len(fractions):
            return fractions
    raise UserError(
        f"{labels.where}: all labels are {'mitochondria' if fractions[0] else 'background'}, "
        "expected both"
    )


def _better_shift(contrast: "_Contrasts", fit: dict[int, float], sections: int) -> int:
    """The shift at which the labels fit significantly better; 0 if there is none."""
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
    """Indices of all sections, or of ``sample`` in evenly spaced runs of neighbours."""
    if sections <= sample:
        return list(range(sections))
    starts = np.linspace(0, sections - RUN, sample // RUN).astype(int)
    return sorted({int(start) + step for start in starts for step in range(RUN)})


def _order(thumbnails: dict[int, np.ndarray]) -> tuple[list[int], list[float]]:
    """Indices of sections out of order, and the correlation of sections 1, 2, 3 ... apart."""

    def correlation(one: int, other: int) -> float:
        a, b = (thumbnails[index] - thumbnails[index].mean() for index in (one, other))
        scale = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / scale) if scale else 0.0

    def apart(distance: int) -> dict[int, float]:
        return {k: correlation(k, k + distance) for k in thumbnails if k + distance in thumbnails}

    reach = [list(apart(distance).values()) for distance in range(1, 21)]
    likeness = [float(np.median(values)) for values in reach if values]
    if len(likeness) < 3 or likeness[0] - likeness[1] < 0.005:
        return [], likeness  # too few sections, or they do not change
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
    """Mean step of the grey value across mask boundaries, in the middle of a section.

    Each section is read once.
    """

    def __init__(self, images: Volume, labels: Volume) -> None:
        self.image = cache(lambda index, flip: normalise(_middle(images, index, flip)))
        self.label = cache(lambda index: _middle(labels, index))

    def __call__(self, index: int, shift: int = 0, flip: int | None = None) -> float:
        """The contrast of one section.

        Args:
            index: of the labels.
            shift: the image is that of section ``index + shift``.
            flip: mirror the image along y (0), x (1) or both (-1).
        """
        label, image = self.label(index), self.image(index + shift, flip)
        mask = (label == 1).astype(np.uint8)
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        distance -= cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
        near = (np.abs(distance) < REACH) & (label != IGNORE)
        bins = np.floor(distance[near]).astype(np.int32) + REACH
        counts = np.bincount(bins, minlength=2 * REACH)
        profile = np.bincount(bins, image[near], 2 * REACH)[counts > 0] / counts[counts > 0]
        return float(np.abs(np.diff(profile)).mean()) if len(profile) > 1 else 0.0


def _middle(volume: Volume, index: int, flip: int | None = None) -> np.ndarray:
    """The middle of a section, optionally mirrored along y (0), x (1) or both (-1)."""
    starts = []
    for length, mirrored in zip(volume.shape[1:], (flip in (0, -1), flip in (1, -1)), strict=True):
        spare = max(0, length - ALIGNED_SIDE)
        starts.append(spare - spare // 2 if mirrored else spare // 2)
    part = volume.crop(index, *starts, ALIGNED_SIDE, ALIGNED_SIDE)
    return np.ascontiguousarray(part if flip is None else cv2.flip(part, flip))


def _sections(which: list[int]) -> str:
    """Indices as text, such as "sections 3, 4, 9 and 12 more"."""
    named = ", ".join(map(str, which[:5]))
    more = f" and {len(which) - 5} more" if len(which) > 5 else ""
    return f"section{'s' if len(which) > 1 else ''} {named}{more} (counted from 0)"
