"""Masks as runs of pixels in rows: a hundredth of their voxels, and quick to connect.

Runs are arrays of ``RUN``, sorted by ``start``, that do not overlap. ``start`` is the index of the
first pixel in a flat array of sections, rows and pixels; a run never goes beyond its row.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

RUN = np.dtype([("start", np.int64), ("length", np.int32)])


def runs_of(mask: np.ndarray) -> np.ndarray:
    """The runs of a mask (..., W), bool."""
    width = mask.shape[-1]
    rows = mask.reshape(-1, width)
    edges = np.empty((len(rows), width + 1), bool)
    edges[:, 0], edges[:, -1] = rows[:, 0], rows[:, -1]
    np.not_equal(rows[:, 1:], rows[:, :-1], out=edges[:, 1:-1])
    ends = np.flatnonzero(edges)
    ends -= ends // (width + 1)
    return as_runs(ends[::2], ends[1::2] - ends[::2])


def equal_runs(*sections: np.ndarray) -> np.ndarray:
    """The runs along which each of several arrays (..., W) is constant; they cover everything."""
    width = sections[0].shape[-1]
    changes = np.zeros((sections[0].size // width, width), bool)
    changes[:, 0] = True
    for section in sections:
        rows = section.reshape(changes.shape)
        changes[:, 1:] |= rows[:, 1:] != rows[:, :-1]
    start = np.flatnonzero(changes)
    return as_runs(start, np.diff(start, append=changes.size))


def as_runs(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Runs from their first pixels and lengths, (N,) each."""
    runs = np.empty(len(start), RUN)
    runs["start"], runs["length"] = start, length
    return runs


def shifted(runs: np.ndarray, by: int) -> np.ndarray:
    """Runs moved by a number of pixels."""
    return as_runs(runs["start"] + by, runs["length"])


def along(runs: np.ndarray, values: np.ndarray, reduction: np.ufunc, **options) -> np.ndarray:
    """Reduce the values of an array along each run.

    Args:
        runs: in ``values``.
        values: of any shape.
        reduction: ``np.add`` or ``np.maximum``.
        options: of ``reduceat``, such as its dtype.
    """
    ends = np.stack([runs["start"], runs["start"] + runs["length"]], axis=1).ravel()
    if len(ends) and ends[-1] == values.size:
        ends = ends[:-1]
    return reduction.reduceat(values.ravel(), ends, **options)[::2]


def overlaps(runs: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which runs share pixels with which others: indices into both, (pairs,) each."""
    start, stop = others["start"], others["start"] + others["length"]
    low = np.searchsorted(stop, runs["start"], side="right")
    count = np.searchsorted(start, runs["start"] + runs["length"]) - low
    one = np.repeat(np.arange(len(runs)), count)
    return one, np.arange(len(one)) + np.repeat(low - np.cumsum(count) + count, count)


def connected(runs: np.ndarray, height: int, width: int) -> tuple[int, np.ndarray]:
    """The components of runs that touch by faces (6-connectivity).

    Returns:
        The number of components, and that of each run (N,), from 0.
    """
    if not len(runs):
        return 0, np.zeros(0, np.int32)
    below = np.flatnonzero(runs["start"] // width % height)  # not in the first row of a section
    one, other = overlaps(shifted(runs[below], -width), runs)
    behind = overlaps(shifted(runs, -height * width), runs)
    return joined(len(runs), np.append(below[one], behind[0]), np.append(other, behind[1]))


def joined(size: int, one: np.ndarray, other: np.ndarray) -> tuple[int, np.ndarray]:
    """The connected components of ``size`` nodes with edges between ``one`` and ``other``.

    Returns:
        The number of components, and that of each node, from 0.
    """
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
    return connected_components(graph, directed=False)


def drawn(runs: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """A flat array of the values' dtype, each value along its run, and 0 elsewhere.

    Args:
        runs: in the array.
        values: (N,).
        size: of the array.
    """
    ends = runs["start"] + runs["length"]
    lengths = np.zeros(2 * len(runs) + 1, np.int64)  # gap, run, gap, run, ..., gap
    lengths[1::2] = runs["length"]
    lengths[::2] = np.append(runs["start"], size) - np.insert(ends, 0, 0)
    filled = np.zeros(len(lengths), values.dtype)
    filled[1::2] = values
    return np.repeat(filled, lengths)


def between(runs: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The runs that start in a range of pixels."""
    return runs[slice(*np.searchsorted(runs["start"], (start, stop)))]


def placed(
    runs: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Section, row and column of the first pixel of runs in a volume, (N,) each."""
    return np.unravel_index(runs["start"], shape)


def in_box(runs: np.ndarray, shape: tuple[int, int, int], box: tuple[slice, ...]) -> np.ndarray:
    """Runs of a volume that lie in a box, as runs of the box; those beyond its sections left out.

    Args:
        runs: in the volume, none of them beyond the rows and columns of the box.
        shape: of the volume.
        box: sections, rows, columns.
    """
    section = shape[1] * shape[2]
    runs = between(runs, box[0].start * section, box[0].stop * section)
    z, y, x = (a - side.start for a, side in zip(placed(runs, shape), box, strict=True))
    height, width = (side.stop - side.start for side in box[1:])
    return as_runs((z * height + y) * width + x, runs["length"])


def out_of_box(runs: np.ndarray, shape: tuple[int, int, int], box: tuple[slice, ...]) -> np.ndarray:
    """Runs of a box as runs of the volume of a shape."""
    sides = tuple(side.stop - side.start for side in box)
    z, y, x = (a + side.start for a, side in zip(placed(runs, sides), box, strict=True))
    return as_runs((z * shape[1] + y) * shape[2] + x, runs["length"])
