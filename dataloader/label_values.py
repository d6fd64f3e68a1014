"""What the values of labels mean: background, mitochondria, and what is to be ignored."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from utils.ignore import IGNORE

CLASSES = 8  # no more values than that may be classes instead of instance numbers
SIDE = 1024  # pixels of a section's sides that are looked at, evenly spaced


class LabelMeaning(NamedTuple):
    """How label values are read.

    Attributes:
        threshold: 8-bit values above it are mitochondria; in other types all values but 0 are.
        ignore: values of pixels that count neither as mitochondria nor as background.
        kind: "instances" if the mitochondria have more than one value, else "mask".
        values: those of mitochondria that were seen, not more than a few of many.
        notes: what a person should know, a line each.
    """

    threshold: int
    ignore: tuple[int | float, ...]
    kind: Literal["mask", "instances"]
    values: tuple[int | float, ...]
    notes: tuple[str, ...]

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Labels of any type as uint8: 0 background, 1 mitochondria, 255 ignored."""
        above = labels > self.threshold if labels.dtype == np.uint8 else labels != 0
        mask = above.astype(np.uint8)
        for value in self.ignore:
            mask[labels == np.array(value, labels.dtype)] = IGNORE
        return mask


def label_meaning(sections: Iterable[np.ndarray], threshold: int) -> LabelMeaning:
    """Tell from some sections of labels what their values mean.

    Ignored are

    - -1, and the largest 64-bit number, which is -1 in the unsigned type;
    - the largest number of 16 or 32 bits beside other numbers;
    - 255 beside 0 and 1, and in 8 bits beside 0, 1, 2 ... n with a gap up to 255.

    All other values but 0 are mitochondria: of one value, or numbered.

    Args:
        sections: a sample, each (H, W), of one type.
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
        notes.append(f"label {' and '.join(map(_text, seen))} is taken as ignored")
    if kind == "instances" and len(values) <= CLASSES:
        names = ", ".join(map(_text, values))
        notes.append(f"labels {names} are merged: as classes or instances, all are mitochondria")
    if found and 0 not in found and len(values) > 1:
        notes.append(
            f"no label is 0, the background; all from {_text(values[0])} on are mitochondria"
        )
    return LabelMeaning(threshold, ignore, kind, values, tuple(notes))


def _ignored(dtype: np.dtype, found: set[int | float], noisy: bool) -> tuple[int | float, ...]:
    """The values to ignore in labels of a type.

    Args:
        dtype: the type.
        found: the values of a sample.
        noisy: the low values are the noise of a mask of 0 and 255.
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
    # 255 may be where nobody has looked; 1 without a 0 is the black of a lossy file
    masks = below == {1} and background and dtype not in (bool, np.int8)
    classes = dtype == np.uint8 and 255 in found and numbered and 0 < len(below) < 128
    if masks or (classes and not noisy):
        ignored.append(255)
    return tuple(ignored)


def _values(section: np.ndarray) -> list[int | float]:
    """The values of a section, of evenly spaced pixels where it is large."""
    steps = (slice(None, None, max(1, side // SIDE)) for side in section.shape)
    part = section[tuple(steps)]
    if part.dtype == np.uint8:
        return np.flatnonzero(np.bincount(part.ravel(), minlength=256)).tolist()
    return np.unique(part).tolist()


def _text(value: float) -> str:
    """A number with all its digits where it is a whole one."""
    return str(int(value)) if value == int(value) else f"{value:g}"
