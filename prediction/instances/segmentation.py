"""Mitochondria as objects: from a probability volume on disk to numbered instances.

A component is a set of voxels of probability >= 0.5 that are connected by their faces. Small
components are removed, and those with a narrow neck are split there. Only a slab of sections or one
component is in memory at a time: components are labelled slab by slab and joined across slabs, the
labels are kept in a scratch file, and each component is split within its bounding box. The result
does not depend on the slabs.

Faces (6-connectivity) rather than edges or corners: a mitochondrion is at least a hundred
nanometres thick, which is many voxels in a section, so its consecutive sections overlap. Voxels
that meet only in an edge or a corner more likely belong to two neighbours.
"""

import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h5py
import numpy as np
from scipy import ndimage
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dataloader.formats.voxel_size import VoxelSize
from prediction.instances.table import Box, Mitochondrion, measure, spacing
from prediction.metrics import THRESHOLD
from utils.optional import wanted
from utils.progress import progress

CONNECTIVITY = 6
FACES = ndimage.generate_binary_structure(3, 1)
PURPOSE = "for --instances"
SCRATCH_DATASET = "labels"
SCRATCH_CHUNK = 64  # pixels; the side of the tiles in which a section is stored


@dataclass(frozen=True)
class InstanceSettings:
    """What counts as one mitochondrion.

    Attributes:
        part: split components at narrow necks.
        neck: a component is split where the radius of a neck is less than this fraction of the
            radius of the smaller body that it joins; radii are distances to the background. Chosen
            on the labels of Lucchi/training (docs/performance.md).
        min_volume_um3: smaller components are removed, and no component is split into smaller ones.
            The smallest mitochondria measured in nerve tissue, those of axons, have about 0.003
            um^3 (10^-2.5, V1 of the mouse), with a mean of 0.05 (PMC10357692, table 4). A third of
            the smallest allows for those cut by the border.
        min_voxels: the same where the voxel size is unknown; 0.001 um^3 at 30 x 8 x 8 nm.
        measured: measure the objects; otherwise ``table`` is empty.
        slab_voxels: labelled at a time, in whole sections; 12 bytes of memory each.
        largest_parted: largest bounding box, in voxels, of a component that is split; about 90
            bytes of memory each.
    """

    part: bool = True
    neck: float = 0.3
    min_volume_um3: float = 0.001
    min_voxels: int = 500
    measured: bool = True
    slab_voxels: int = 2**26
    largest_parted: int = 2**24

    def smallest(self, voxel_size: VoxelSize | None) -> int:
        """Minimum number of voxels of an instance."""
        if voxel_size is None:
            return max(1, self.min_voxels)
        # rounding may put the quotient of an exact multiple slightly above it
        return max(1, math.ceil(self.min_volume_um3 / math.prod(spacing(voxel_size)) - 1e-9))


class Instances:
    """The mitochondria of a volume, numbered from 1 in the order of their first voxels.

    All is computed on construction; labels are then read from the scratch file. Use it as a
    context, or ``close`` it: that deletes the scratch file.

    Args:
        probability: of mitochondria, (H, W) float, by section. Each is read twice.
        shape: (sections, H, W).
        voxel_size: None where it is not known; all is then measured in voxels.
        settings: what counts as one mitochondrion.
        scratch: an existing folder for the scratch file, a few per cent of the size of the
            probabilities; None: the system's.

    Attributes:
        shape: as given.
        voxel_size: as given.
        table: one row per mitochondrion; row ``n - 1`` is of number ``n``.
        notes: what was left out, for the user.

    Raises:
        UserError: an optional package is missing.
        OSError: the scratch file cannot be written.
    """

    def __init__(
        self,
        probability: Callable[[int], np.ndarray],
        shape: tuple[int, int, int],
        voxel_size: VoxelSize | None = None,
        settings: InstanceSettings | None = None,
        scratch: Path | None = None,
    ) -> None:
        wanted("cc3d", PURPOSE)
        wanted("skimage", PURPOSE)
        self.shape, self.voxel_size = shape, voxel_size
        self.settings = settings or InstanceSettings()
        self.smallest = self.settings.smallest(voxel_size)
        self._removed = self._too_large = self._parted = 0
        self._folder = tempfile.TemporaryDirectory(prefix=".instances-", dir=scratch)
        self._file = h5py.File(Path(self._folder.name) / "labels.hdf", "w")
        try:
            self._labels = self._file.create_dataset(
                SCRATCH_DATASET,
                shape,
                np.uint32,
                chunks=(1, min(shape[1], SCRATCH_CHUNK), min(shape[2], SCRATCH_CHUNK)),
                compression="lzf",
            )
            components = self._find(probability)
            if self.settings.part:
                self._part(components)
            count = int(self._of_label.max())
            self._numbers = np.zeros(count + 1, np.uint32)
            self.table: list[Mitochondrion] = []
            if self.settings.measured:
                self.table = measure(
                    self._numbering(), count, probability, self.crop, shape, voxel_size
                )
            else:
                deque(self._numbering(), maxlen=0)  # numbers them
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the scratch file; the table stays."""
        self._file.close()
        self._folder.cleanup()

    @property
    def notes(self) -> str:
        """What was found, parted, removed and left whole, in one line."""
        least = f"{self.smallest} voxels"
        if self.voxel_size is not None:
            least = f"{self.settings.min_volume_um3:g} um^3 ({least})"
        notes = f"mitochondria: {len(self.table)}"
        if self.settings.part:
            notes += f", components parted: {self._parted}"
        notes += f", removed as smaller than {least}: {self._removed}"
        if self._too_large:
            notes += (
                ", too large to be parted (bounding boxes of more than "
                f"{self.settings.largest_parted / 1e6:.3g} million voxels): {self._too_large}"
            )
        return notes

    def section(self, index: int) -> np.ndarray:
        """The instances of a section (H, W) uint32; 0 is background."""
        return self._numbers[self._of_label[self._labels[index]]]

    def sections(self) -> Iterator[tuple[int, np.ndarray]]:
        """Index and instances of one section after another."""
        for index in range(self.shape[0]):
            yield index, self.section(index)

    def crop(self, box: Box) -> np.ndarray:
        """The instances within a box, uint32."""
        return self._numbers[self._of_label[self._labels[box]]]

    def _find(self, probability: Callable[[int], np.ndarray]) -> dict[int, tuple[int, Box]]:
        """Label the components in the scratch file, and look up which labels are of which.

        Returns:
            Voxels and bounding box of each component by its number. ``_of_label`` tells the
            component of each label, 0 for what is removed.
        """
        sections, height, width = self.shape
        depth = max(1, self.settings.slab_voxels // (height * width))
        voxels, boxes, joined = [np.zeros(1, np.int64)], [np.zeros((1, 6), np.int64)], []
        last, labels = None, 0
        slabs = range(0, sections, depth)
        for start in progress(slabs, len(slabs), "slab"):
            stop = min(start + depth, sections)
            mask = np.stack([probability(index) >= THRESHOLD for index in range(start, stop)])
            closed = start == 0, stop == sections
            slab, counts, bounds, removed = label_slab(mask, self.smallest, closed, labels)
            self._removed += removed
            bounds[:, :2] += start
            voxels.append(counts)
            boxes.append(bounds)
            labels += len(counts)
            if last is not None:
                both = (last > 0) & (slab[0] > 0)
                joined.append(np.unique(np.stack([last[both], slab[0][both]]), axis=1))
            last = slab[-1].copy()
            for index in range(start, stop):
                self._labels[index] = slab[index - start]
            del mask, slab  # before the next ones are made
        pairs = np.concatenate(joined, axis=1) if joined else np.zeros((2, 0), np.int64)
        graph = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(labels + 1, labels + 1))
        count, component = connected_components(graph, directed=False)
        total, bounds = merged(component, count, np.concatenate(voxels), np.concatenate(boxes))
        kept = total >= self.smallest
        self._removed += int(np.count_nonzero(~kept)) - 1  # label 0 is a component of its own
        numbers = np.cumsum(kept) * kept
        self._of_label = numbers[component].astype(np.uint32)
        slices = (tuple(slice(*map(int, side)) for side in b.reshape(3, 2)) for b in bounds[kept])
        return dict(enumerate(zip(total[kept].tolist(), slices, strict=True), 1))

    def _part(self, components: dict[int, tuple[int, Box]]) -> None:
        """Part what hangs together by necks: give the parts labels of their own."""
        distances = spacing(self.voxel_size)
        new_labels = [self._of_label]
        labels, instances = len(self._of_label), len(components)
        for number, (voxels, box) in progress(components.items(), len(components), "component"):
            if voxels < 2 * self.smallest:
                continue
            if math.prod(side.stop - side.start for side in box) > self.settings.largest_parted:
                self._too_large += 1
                continue
            crop = self._labels[box]
            # labels of parts are at home in other components
            known = np.where(crop < len(self._of_label), crop, 0)
            mask = self._of_label[known] == number
            # beyond the volume's border a mitochondrion goes on, so far as one can know
            ends = [
                (int(side.start > 0), int(side.stop < length))
                for side, length in zip(box, self.shape, strict=True)
            ]
            parts = part(np.pad(mask, ends), distances, self.settings.neck, self.smallest)
            if parts is None:
                continue
            inside = tuple(slice(a, a + n) for (a, _), n in zip(ends, mask.shape, strict=True))
            count = int(parts.max())
            self._labels[box] = np.where(mask, parts[inside] + (labels - 1), crop)
            # the first part keeps the component's number
            new_labels.append(np.array([number, *range(instances + 1, instances + count)]))
            labels, instances = labels + count, instances + count - 1
            self._parted += 1
        self._of_label = np.concatenate(new_labels).astype(np.uint32)

    def _numbering(self) -> Iterator[tuple[int, np.ndarray]]:
        """The sections, numbering the instances as they come."""
        known = 0
        for index in progress(range(self.shape[0]), self.shape[0], "section"):
            instances = self._of_label[self._labels[index]]
            inside = instances[instances > 0]
            inside = inside[self._numbers[inside] == 0]
            new, first = np.unique(inside, return_index=True)
            new = new[np.argsort(first)]
            self._numbers[new] = np.arange(known + 1, known + 1 + len(new))
            known += len(new)
            yield index, self._numbers[instances]


def mask_components(
    mask: Callable[[int], np.ndarray], shape: tuple[int, int, int], scratch: Path | None = None
) -> Instances:
    """The 6-connected components of a binary mask, of any size, as objects without a table.

    Args:
        mask: (H, W) bool or 0 and 1, by section.
        shape: (sections, H, W).
        scratch: as for ``Instances``.
    """
    settings = InstanceSettings(part=False, min_voxels=1, measured=False)
    return Instances(mask, shape, settings=settings, scratch=scratch)


def label_slab(
    mask: np.ndarray, smallest: int, closed: tuple[bool, bool], labelled: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The components of some sections, without those that are surely too small.

    Args:
        mask: (Z, H, W) bool.
        smallest: least voxels of a component.
        closed: whether the volume ends before the first section, and after the last; what reaches
            a border that is none of the volume's is kept, however small.
        labelled: number of the labels given before.

    Returns:
        Labels (Z, H, W) uint32 from ``labelled + 1`` on, 0 outside; voxels (N,) and bounding boxes
        (N, 6) int64, from z0 and z1 to x1, the ends not included; the number of components removed.
    """
    cc3d = wanted("cc3d", PURPOSE)
    labels = cc3d.connected_components(mask, connectivity=CONNECTIVITY, out_dtype=np.uint32)
    statistics = cc3d.statistics(labels, no_slice_conversion=True)
    voxels = statistics["voxel_counts"].astype(np.int64)
    boxes = statistics["bounding_boxes"].astype(np.int64)
    boxes[:, 1::2] += 1
    kept = voxels >= smallest
    kept |= (boxes[:, 0] == 0) & (not closed[0])
    kept |= (boxes[:, 1] == len(mask)) & (not closed[1])
    kept[0] = False  # background
    removed = len(kept) - 1 - int(np.count_nonzero(kept))
    lookup = ((np.cumsum(kept) + labelled) * kept).astype(np.uint32)
    for section in labels:
        section[:] = lookup[section]
    return labels, voxels[kept], boxes[kept], removed


def merged(
    component: np.ndarray, count: int, voxels: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (count,) and boxes (count, 6) of components from those of their labels."""
    total = np.zeros(count, np.int64)
    np.add.at(total, component, voxels)
    bounds = np.zeros((count, 6), np.int64)
    bounds[:, ::2] = np.iinfo(np.int64).max
    np.minimum.at(bounds[:, ::2], component, boxes[:, ::2])
    np.maximum.at(bounds[:, 1::2], component, boxes[:, 1::2])
    return total, bounds


def part(
    mask: np.ndarray, distances: tuple[float, float, float], neck: float, smallest: int
) -> np.ndarray | None:
    """Part a component at its narrow necks, by a watershed of the distance to the background.

    The watershed starts from every maximum of the distance d, bumps as well. Then basins are
    joined over their highest saddles first, unless both are bodies of their own: of ``smallest``
    voxels at least, and the saddle's distance below ``neck * d`` and below d by one and a half of
    the largest side of a voxel, d being the lower one's maximum. (The latter is more than a step
    from one section to the next can feign.) What is left are the maxima of a dynamic, or height,
    of at least h (h-maxima) with an h that grows with d, and their basins.

    Args:
        mask: (Z, H, W) bool, a component; what is beyond counts as unknown, not as background.
        distances: sides of a voxel (z, y, x).
        neck: share of the smaller body's radius.
        smallest: least voxels of a part.

    Returns:
        Parts (Z, H, W) int32 from 1, 0 outside of the mask; None if there is one alone.
    """
    if mask.all():  # no background to be distant from
        return None
    morphology = wanted("skimage.morphology", PURPOSE)
    segmentation = wanted("skimage.segmentation", PURPOSE)
    distance = ndimage.distance_transform_edt(mask, sampling=distances).astype(np.float32)
    maxima = morphology.local_maxima(distance, connectivity=1) & mask
    seeds, count = ndimage.label(maxima, FACES)
    if count == 1:
        return None
    basins = segmentation.watershed(-distance, seeds, mask=mask)
    voxels = np.bincount(basins.ravel(), minlength=count + 1).tolist()
    peaks = np.zeros(count + 1, np.float32)
    peaks[seeds[maxima]] = distance[maxima]
    peaks = peaks.tolist()
    margin = 1.5 * max(distances)
    bodies = DisjointSet(range(1, count + 1))
    for one, other, saddle in zip(*saddles(basins, distance), strict=True):
        low, high = sorted((bodies[one], bodies[other]), key=peaks.__getitem__)
        narrow = saddle < min(neck * peaks[low], peaks[low] - margin)
        if low == high or (narrow and min(voxels[low], voxels[high]) >= smallest):
            continue
        bodies.merge(low, high)
        body = bodies[low]
        voxels[body], peaks[body] = voxels[low] + voxels[high], peaks[high]
    if bodies.n_subsets == 1:
        return None
    body_of = [0, *(bodies[basin] for basin in range(1, count + 1))]
    _, parts = np.unique(body_of, return_inverse=True)
    return parts.astype(np.int32)[basins]


def saddles(basins: np.ndarray, distance: np.ndarray) -> tuple[list[int], list[int], list[float]]:
    """Where basins meet: pairs of numbers, and the highest distance at which one is left for the
    other, highest first.

    Args:
        basins: (Z, H, W) of numbers from 1; 0 is background.
        distance: (Z, H, W).
    """
    keys, heights = [], []
    size = int(basins.max()) + 1
    for axis in range(3):
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        one, other = basins[behind], basins[ahead]
        meet = (one != other) & (one > 0) & (other > 0)
        one, other = one[meet].astype(np.int64), other[meet].astype(np.int64)
        keys.append(np.minimum(one, other) * size + np.maximum(one, other))
        heights.append(np.minimum(distance[behind][meet], distance[ahead][meet]))
    keys, heights = np.concatenate(keys), np.concatenate(heights)
    order = np.lexsort((keys, -heights))
    _, first = np.unique(keys[order], return_index=True)
    chosen = order[np.sort(first)]
    one, other = np.divmod(keys[chosen], size)
    return one.tolist(), other.tolist(), heights[chosen].tolist()
