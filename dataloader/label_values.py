"""Interpret label values: background, mitochondria or ignored."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from utils.ignore import IGNORE

CLASSES = 8  # so few different values may be classes instead of instance numbers
SIDE = 1024  # about so many pixels are sampled along each side of a section


class LabelMeaning(NamedTuple):
    """How label values are interpreted.

    Attributes:
        threshold: 8-bit values above it are mitochondria; in other dtypes all values but 0 are.
        ignore: values of ignored pixels.
        kind: "instances" if the mitochondria have more than one value, else "mask".
        values: values of mitochondria in the sample, ascending.
        notes: what the user should know, one line each.
    """

    threshold: int
    ignore: tuple[int | float, ...]
    kind: Literal["mask", "instances"]
    values: tuple[int | float, ...]
    notes: tuple[str, ...]

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Labels of any dtype as uint8: 0 background, 1 mitochondria, 255 ignored."""
        above = labels > self.threshold if labels.dtype == np.uint8 else labels != 0
        mask = above.astype(np.uint8)
        for value in self.ignore:
            mask[labels == np.array(value, labels.dtype)] = IGNORE
        return mask


def label_meaning(sections: Iterable[np.ndarray], threshold: int) -> LabelMeaning:
    """Interpret label values from some sections.

    These values are ignored:

    - -1, and the largest unsigned 64-bit number, which is the same bits;
    - the largest unsigned 16- or 32-bit number, if there are other numbers;
    - 255 beside 0 and 1, and in 8 bits beside 0, 1, 2 ... n with a gap below 255.

    All other values except 0 are mitochondria: a mask of one value, or instance numbers.

    Args:
        sections: a sample, each (H, W), all of one dtype.
        threshold: of 8-bit labels, see ``dataloader.volume.label_threshold``.
    """
    found: set[int | float] = set()
    dtype = np.dtype(np.uint8)
    for section in sections:
        dtype = section.dtype
        found |= set(_values(section))
    ignore = _ignored(dtype, found, noisy=threshold > 0)
    if ignore:
        threshold = 0
    values = tuple(sorted(value for value in found - {0, *ignore} if value == value))
    kind = "instances" if len(values) > 1 and not threshold else "mask"
    notes = []
    if seen := [value for value in ignore if value in found]:
        notes.append(f"label {' and '.join(map(_text, seen))} is ignored")
    if kind == "instances" and len(values) <= CLASSES:
        names = ", ".join(map(_text, values))
        notes.append(f"labels {names} are merged: all of them count as mitochondria")
    if found and 0 not in found and len(values) > 1:
        notes.append(
            f"no label is 0 (background); all from {_text(values[0])} on count as mitochondria"
        )
    return LabelMeaning(threshold, ignore, kind, values, tuple(notes))


def _ignored(dtype: np.dtype, found: set[int | float], noisy: bool) -> tuple[int | float, ...]:
    """Values to ignore.

    Args:
        dtype: of the labels.
        found: the values in a sample.
        noisy: whether the labels are a 0/255 mask whose low values are noise.
    """
    ignored: list[int | float] = []
    background, found = 0 in found, found - {0}
    if dtype.kind in "if" and not (dtype == np.int8 and found == {-1}):  # 255 of a mask as int8
        ignored.append(-1)
    if dtype.kind == "u" and dtype.itemsize > 1:
        largest = int(np.iinfo(dtype).max)
        others = found - {largest}
        plain = dtype.itemsize == 2 and not (others and max(others) <= largest // 2)
        if dtype.itemsize == 8 or (others and not plain):
            ignored.append(largest)
    below = found - {255, *ignored}
    numbered = below == set(range(1, len(below) + 1))  # 1, 2, 3 ... without gaps
    # 255 beside 0 and 1 marks unlabelled pixels; 1 without a 0 is the black of a lossy file
    masks = below == {1} and background and dtype not in (bool, np.int8)
    classes = dtype == np.uint8 and 255 in found and numbered and 0 < len(below) < 128
    if masks or (classes and not noisy):
        ignored.append(255)
    return tuple(ignored)


def _values(section: np.ndarray) -> list[int | float]:
    """The values in a section; a large one is sampled at evenly spaced pixels."""
    steps = (slice(None, None, max(1, side // SIDE)) for side in section.shape)
    part = section[tuple(steps)]
    if part.dtype == np.uint8:
        return np.flatnonzero(np.bincount(part.ravel(), minlength=256)).tolist()
    return np.unique(part).tolist()


def _text(value: float) -> str:
    """A number; with all its digits if it is an integer."""
    return str(int(value)) if value == int(value) else f"{value:g}"
