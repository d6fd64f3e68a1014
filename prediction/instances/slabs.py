"""The connected components of a volume of any size: found slab by slab, joined across slabs.

A slab is as many whole sections as hold a number of runs. The runs of its components are kept in
files, sorted by component, so that an object is read without its neighbours. Processes that share
a folder find the components of different slabs.

Components may be found at several thresholds at once, the levels, from the lowest. Each lies in one
component of the level below. Each level has a folder of its own.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prediction.instances.runs import along, connected, joined, overlaps, placed, runs_of, shifted

Shape = tuple[int, int, int]
SectionRuns = tuple[np.ndarray, np.ndarray]  # from ``section_runs``
OPEN_SLABS = 64


class Slab(NamedTuple):
    """The components of some sections, numbered from 0.

    Attributes:
        sections: the first of them, and the one behind the last.
        ends: where the runs of component k end in the file, and those of k + 1 begin, (N,).
        first: index of the first voxel of each component in the volume, (N,) int64.
        voxels: of each component, (N,) int64.
        boxes: bounding boxes (N, 6) int64, from z0 and z1 to x1, the ends not included.
        likely: sums of the probabilities, (N,) float64; exact up to 2^29 voxels.
        inside: component of the level below that holds each, in this slab (N,); at the lowest
            level itself.
        removed: number of components that were removed as too small.
    """

    sections: np.ndarray
    ends: np.ndarray
    first: np.ndarray
    voxels: np.ndarray
    boxes: np.ndarray
    likely: np.ndarray
    inside: np.ndarray
    removed: int

    @classmethod
    def read(cls, path: Path) -> "Slab":
        """What ``write_slab`` has written beside the runs."""
        with np.load(path) as arrays:
            return cls(**arrays)


def section_runs(probability: np.ndarray, threshold: float) -> SectionRuns:
    """The runs of a section (H, W) at or above a threshold, and the sum of values along each."""
    runs = runs_of(probability >= threshold)
    return runs, along(runs, probability, np.add, dtype=np.float64)


def level_folder(folder: Path, level: int) -> Path:
    """The folder of a level's slabs."""
    return folder / f"level-{level}"


def write_slabs(
    folder: Path,
    sections: Iterator[tuple[int, Sequence[SectionRuns]]],
    shape: Shape,
    smallest: int,
    slab_runs: int,
) -> None:
    """Find the components of consecutive sections and write them, slab by slab.

    Args:
        folder: of the levels' folders.
        sections: index and ``section_runs`` of each level, from the lowest threshold.
        shape: of the volume.
        smallest: least voxels of a component.
        slab_runs: runs of a slab, of all levels; one section may have more.
    """
    indices, found, count = [], [], 0
    for index, levels in sections:
        more = sum(len(runs) for runs, _ in levels)
        if indices and count + more > slab_runs:
            write_levels(folder, indices, found, shape, smallest)
            indices, found, count = [], [], 0
        indices.append(index)
        found.append(levels)
        count += more
    if indices:
        write_levels(folder, indices, found, shape, smallest)


def write_levels(
    folder: Path,
    indices: Sequence[int],
    found: Sequence[Sequence[SectionRuns]],
    shape: Shape,
    smallest: int,
) -> None:
    """``write_slab`` for each level of some sections."""
    below = None
    for level, sections in enumerate(zip(*found, strict=True)):
        below = write_slab(level_folder(folder, level), indices, sections, shape, smallest, below)


def write_slab(
    folder: Path,
    indices: Sequence[int],
    found: Sequence[SectionRuns],
    shape: Shape,
    smallest: int,
    below: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the components of some sections, and write those that are not surely too small.

    What reaches a border of the slab that is none of the volume's is kept, however small. So is
    then the component of the level below that holds it.

    Args:
        below: what this returned for the level below.

    Returns:
        The runs that are kept, sorted, and the component of each.
    """
    start, stop, area = indices[0], indices[-1] + 1, shape[1] * shape[2]
    runs = np.concatenate([runs for runs, _ in found])
    counts = [len(runs) for runs, _ in found]
    runs["start"] += np.repeat(np.arange(len(found)), counts) * area
    count, component = connected(runs, *shape[1:])
    runs["start"] += start * area
    order = np.argsort(component, kind="stable")
    runs, likely = runs[order], np.concatenate([likely for _, likely in found])[order]
    ends = np.cumsum(np.bincount(component, minlength=count))
    first = np.insert(ends, 0, 0)[:-1]
    voxels, boxes = np.zeros(0, np.int64), np.zeros((0, 6), np.int64)
    if count:
        voxels = np.add.reduceat(runs["length"], first, dtype=np.int64)
        boxes = bounding_boxes(runs, first, shape)
        likely = np.add.reduceat(likely, first)
    kept = voxels >= smallest
    kept |= (boxes[:, 0] == start) & (start > 0)
    kept |= (boxes[:, 1] == stop) & (stop < shape[0])
    lengths, starts = np.diff(ends, prepend=0), runs["start"][first[kept]]
    inside = np.arange(len(starts))
    if below is not None:
        inside = below[1][np.searchsorted(below[0]["start"], starts, side="right") - 1]
    slab = Slab(
        sections=np.array([start, stop]),
        ends=np.cumsum(lengths[kept]),
        first=starts,
        voxels=voxels[kept],
        boxes=boxes[kept],
        likely=likely[kept],
        inside=inside,
        removed=count - int(np.count_nonzero(kept)),
    )
    runs = runs[np.repeat(kept, lengths)]
    np.save(folder / f"{start}.npy", runs)
    np.savez(folder / f"{start}.npz", **slab._asdict())
    component = np.repeat(np.arange(np.count_nonzero(kept)), lengths[kept])
    order = np.argsort(runs["start"])
    runs, component = runs[order], component[order]
    write_seams(folder, (start, stop - 1), area, runs, component)
    return runs, component


def write_seams(
    folder: Path, sections: tuple[int, int], area: int, runs: np.ndarray, component: np.ndarray
) -> None:
    """Write the sorted runs of a slab's first and last section, and their components."""
    for z in set(sections):
        own = slice(*np.searchsorted(runs["start"], (z * area, (z + 1) * area)))
        np.savez(seam(folder, z), runs=runs[own], component=component[own])


def seam(folder: Path, section: int) -> Path:
    """The file with a slab's runs in its first or last section, and their components."""
    return folder / f"section-{section}.npz"


def bounding_boxes(runs: np.ndarray, first: np.ndarray, shape: Shape) -> np.ndarray:
    """Boxes (N, 6) of consecutive runs, as in ``Slab``; ``first`` (N,) tells where each begins."""
    z, y, x = placed(runs, shape)
    sides = []
    for low, high in ((z, z), (y, y), (x, x + runs["length"] - 1)):
        sides += [np.minimum.reduceat(low, first), np.maximum.reduceat(high, first) + 1]
    return np.stack(sides, axis=1)


class Components:
    """The components of a volume, numbered from 1, from the slabs in a folder.

    Args:
        folder: with the files of all slabs of a level.
        shape: of the volume.
        smallest: least voxels of a component.

    Attributes:
        of_label: component of each label (labels + 1,), 0: removed. Labels are the components of
            the slabs, numbered from 1 throughout the volume.
        first, voxels, boxes, likely: as in ``Slab``; that of component k at k - 1.
        box_sizes: voxels of each bounding box, likewise.
        removed: number of components that were too small.
    """

    def __init__(self, folder: Path, shape: Shape, smallest: int) -> None:
        self.folder, self.shape = folder, shape
        self._slab_file = lru_cache(OPEN_SLABS)(partial(np.load, mmap_mode="r"))
        starts = sorted(int(path.stem) for path in folder.glob("*.npy"))
        self.slabs = [Slab.read(folder / f"{start}.npz") for start in starts]
        counts = [len(slab.ends) for slab in self.slabs]
        self.base = np.cumsum([0, *counts])  # labels before each slab
        pairs = np.concatenate([np.zeros((2, 0), np.int64), *self._seams()], axis=1)
        size = int(self.base[-1])
        self._merge(*joined(size + 1, *pairs), smallest)

    def __len__(self) -> int:
        return len(self.voxels)

    def box(self, number: int) -> tuple[slice, slice, slice]:
        """The bounding box of a component."""
        sides = self.boxes[number - 1].reshape(3, 2).tolist()
        return tuple(slice(*side) for side in sides)

    def runs(self, number: int) -> np.ndarray:
        """The runs of a component in the volume."""
        own = self._labels_of[self._ends[number - 1] : self._ends[number]]
        slabs = np.searchsorted(self.base, own, side="left") - 1
        parts = [
            self._runs(slab, label - self.base[slab] - 1)
            for slab, label in zip(slabs.tolist(), own.tolist(), strict=True)
        ]
        runs = np.concatenate(parts)
        return runs[np.argsort(runs["start"])]

    def inside(self, below: "Components") -> np.ndarray:
        """The component of the level below that holds each of this level's (N,)."""
        labels = zip(self.slabs, below.base, strict=False)
        labels = np.concatenate([slab.inside + base + 1 for slab, base in labels])
        inside = np.zeros(len(self) + 1, np.int64)
        inside[self.of_label[1:]] = below.of_label[labels]
        return inside[1:]

    def slab_runs(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The runs of a slab, sorted, and the component of each."""
        runs, slab = np.array(self._slab_file(self._path(index))), self.slabs[index]
        lengths = np.diff(slab.ends, prepend=0)
        labels = np.arange(self.base[index], self.base[index + 1]) + 1
        component = np.repeat(self.of_label[labels], lengths)
        order = np.argsort(runs["start"])
        order = order[component[order] > 0]
        return runs[order], component[order]

    def slab_of(self, section: int) -> int:
        """The index of the slab that holds a section."""
        return bisect_right(self.slabs, section, key=lambda slab: slab.sections[0]) - 1

    def _merge(self, count: int, component: np.ndarray, smallest: int) -> None:
        """Merge the labels of each component; remove what is too small."""
        labels = component[1:]  # without the background
        voxels = np.bincount(labels, self._all("voxels"), count).astype(np.int64)
        kept = voxels >= smallest
        self.removed = sum(int(slab.removed) for slab in self.slabs)
        self.removed += count - 1 - int(np.count_nonzero(kept))
        numbers = np.cumsum(kept) * kept
        self.of_label = np.insert(numbers[labels], 0, 0)
        self.voxels = voxels[kept]
        self.likely = np.bincount(labels, self._all("likely"), count)[kept]
        first = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(first, labels, self._all("first"))
        boxes = np.zeros((count, 6), np.int64)
        boxes[:, ::2] = np.iinfo(np.int64).max
        own = self._all("boxes")
        np.minimum.at(boxes[:, ::2], labels, own[:, ::2])
        np.maximum.at(boxes[:, 1::2], labels, own[:, 1::2])
        self.first, self.boxes = first[kept], boxes[kept]
        self.box_sizes = np.prod(self.boxes[:, 1::2] - self.boxes[:, ::2], axis=1)
        self._labels_of = np.argsort(self.of_label, kind="stable")
        self._ends = np.cumsum(np.bincount(self.of_label, minlength=len(self.voxels) + 1))

    def _seams(self) -> Iterator[np.ndarray]:
        """Pairs of labels (2, pairs) that touch between a slab and the next one."""
        for index in range(1, len(self.slabs)):
            section = int(self.slabs[index].sections[0])
            with np.load(seam(self.folder, section - 1)) as file:
                behind, of_behind = file["runs"], file["component"] + self.base[index - 1] + 1
            with np.load(seam(self.folder, section)) as file:
                ahead, of_ahead = file["runs"], file["component"] + self.base[index] + 1
            one, other = overlaps(shifted(ahead, -self.shape[1] * self.shape[2]), behind)
            yield np.unique(np.stack([of_ahead[one], of_behind[other]]), axis=1)

    def _runs(self, slab: int, component: int) -> np.ndarray:
        ends = self.slabs[slab].ends
        begin = ends[component - 1] if component else 0
        return self._slab_file(self._path(slab))[begin : ends[component]]

    def _path(self, index: int) -> Path:
        return self.folder / f"{self.slabs[index].sections[0]}.npy"

    def _all(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(slab, name) for slab in self.slabs])
