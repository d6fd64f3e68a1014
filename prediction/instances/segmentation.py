"""Mitochondria as objects: from a probability volume on disk to numbered instances.

A component is a set of voxels of probability >= 0.5, or another threshold, that are connected by
their faces. Small components are removed, and those with a narrow neck are split there. Only the
runs of a slab, or a few components, are in memory at a time: the components are found slab by slab,
their runs are kept in scratch files, and each is split within its bounding box. The result does not
depend on the slabs, nor on the threads and processes that share the work.

Faces (6-connectivity) rather than edges or corners: a mitochondrion is at least a hundred
nanometres thick, which is many voxels in a section, so its consecutive sections overlap. Voxels
that meet only in an edge or a corner more likely belong to two neighbours.
"""

import math
import pickle
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from dataloader.formats.voxel_size import VoxelSize
from prediction.instances.necks import PURPOSE, part
from prediction.instances.runs import drawn, equal_runs, in_box, out_of_box, shifted
from prediction.instances.slabs import Components, section_runs, write_slabs
from prediction.instances.table import Box, Mitochondrion, object_of, spacing
from prediction.metrics import THRESHOLD
from prediction.outputs import SCRATCH
from utils.optional import wanted
from utils.progress import progress
from utils.runtime.distributed import Group
from utils.runtime.threads import Budget, cores, prefetch


@dataclass(frozen=True)
class InstanceSettings:
    """What counts as one mitochondrion.

    Attributes:
        threshold: probability from which a voxel is mitochondria.
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
        slab_runs: runs of pixels (``prediction.instances.runs``) labelled at a time, in whole
            sections; about 150 bytes of memory each.
        largest_parted: largest bounding box, in voxels, of a component that is split, and of those
            that are split at a time together; about 90 bytes of memory each.
    """

    threshold: float = THRESHOLD
    part: bool = True
    neck: float = 0.3
    min_volume_um3: float = 0.001
    min_voxels: int = 500
    measured: bool = True
    slab_runs: int = 2**22
    largest_parted: int = 2**24

    def smallest(self, voxel_size: VoxelSize | None) -> int:
        """Minimum number of voxels of an instance."""
        if voxel_size is None:
            return max(1, self.min_voxels)
        # rounding may put the quotient of an exact multiple slightly above it
        return max(1, math.ceil(self.min_volume_um3 / math.prod(spacing(voxel_size)) - 1e-9))


class Found(NamedTuple):
    """An object without its number.

    Attributes:
        component: that it is, or is part of.
        part: its number from 1 in the component; 0: it is the component.
        first: index of its first voxel in the volume.
        row: its measures; None where they are not wanted.
    """

    component: int
    part: int
    first: int
    row: Mitochondrion | None


class Instances:
    """The mitochondria of a volume, numbered from 1 in the order of their first voxels.

    All is computed on construction; labels are then read from the scratch files. Use it as a
    context, or ``close`` it: that deletes the scratch files.

    Of several processes each finds the components of its part of the sections, and then splits and
    measures its part of the components. Only the main one has the result.

    Args:
        probability: of mitochondria, float: called with a section's index it returns (H, W), with
            slices of sections, rows and columns a box. Each section is read once, and again the
            boxes of components that are split. Called in several threads.
        shape: (sections, H, W).
        voxel_size: None where it is not known; all is then measured in voxels.
        settings: what counts as one mitochondrion.
        scratch: an existing folder for the scratch files, a few per cent of the size of the
            probabilities; None: the system's. Shared by all processes.
        group: the processes.

    Attributes:
        shape: as given.
        voxel_size: as given.
        table: one row per mitochondrion; row ``n - 1`` is of number ``n``. Empty in all processes
            but the main one.
        notes: what was left out, for the user.

    Raises:
        UserError: an optional package is missing.
        OSError: a scratch file cannot be written.
        PeerLost: another process has ended.
    """

    def __init__(
        self,
        probability: Callable[[int | Box], np.ndarray],
        shape: tuple[int, int, int],
        voxel_size: VoxelSize | None = None,
        settings: InstanceSettings | None = None,
        scratch: Path | None = None,
        group: Group | None = None,
    ) -> None:
        wanted("edt", PURPOSE)
        wanted("skimage", PURPOSE)
        self.shape, self.voxel_size = shape, voxel_size
        self.settings = settings or InstanceSettings()
        self.smallest = self.settings.smallest(voxel_size)
        self._probability, self._group = probability, group or Group()
        number = self._group.agree(secrets.randbits(31))
        self._folder = Path(scratch or tempfile.gettempdir()) / f"{SCRATCH}{number}"
        self._budget = Budget(self.settings.largest_parted)
        try:
            self._find()
            self._components = Components(self._folder, shape, self.smallest)
            self._measure()
            self._number()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the scratch files; the table stays."""
        if self._group.is_main:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def notes(self) -> str:
        """What was found, parted, removed and left whole, in one line."""
        least = f"{self.smallest} voxels"
        if self.voxel_size is not None:
            least = f"{self.settings.min_volume_um3:g} um^3 ({least})"
        notes = f"mitochondria: {len(self.table)}"
        if self.settings.part:
            notes += f", components parted: {len(self._parted)}"
        notes += f", removed as smaller than {least}: {self._components.removed}"
        if too_large := int(np.count_nonzero(self._too_large())):
            notes += (
                ", too large to be parted (bounding boxes of more than "
                f"{self.settings.largest_parted / 1e6:.3g} million voxels): {too_large}"
            )
        return notes

    def section(self, index: int) -> np.ndarray:
        """The instances of a section (H, W) uint32; 0 is background."""
        slab = self._components.slab_of(index)
        if slab != self._open[0]:
            self._open = slab, *self._numbered(slab)
        _, runs, numbers = self._open
        size = self.shape[1] * self.shape[2]
        own = slice(*np.searchsorted(runs["start"], (index * size, (index + 1) * size)))
        section = drawn(shifted(runs[own], -index * size), numbers[own], size)
        return section.reshape(self.shape[1:])

    def sections(self) -> Iterator[tuple[int, np.ndarray]]:
        """Index and instances of one section after another."""
        for index in range(self.shape[0]):
            yield index, self.section(index)

    def _find(self) -> None:
        """Write the components of this process's sections."""
        if self._group.is_main:
            self._folder.mkdir()
        self._group.wait()
        own = self._group.share(range(self.shape[0]))
        threads = cores()

        def find(index: int) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
            return index, section_runs(self._probability(index), self.settings.threshold)

        found = prefetch(find, own, 2 * threads, threads)
        sections = progress(found, len(own), "section")
        write_slabs(self._folder, sections, self.shape, self.smallest, self.settings.slab_runs)
        self._group.wait()

    def _measure(self) -> None:
        """Split and measure this process's components, the largest first."""
        boxes = self._components.boxes
        order = np.argsort(-np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1), kind="stable")
        own = (order[self._group.rank :: self._group.size] + 1).tolist()
        threads = cores()
        found = prefetch(self._objects, own, 2 * threads, threads)
        objects = [one for several in progress(found, len(own), "object") for one in several]
        with (self._folder / f"{self._group.rank}.objects").open("wb") as file:
            pickle.dump(objects, file)
        self._group.wait()

    def _objects(self, number: int) -> list[Found]:
        """A component's parts, or the component."""
        components = self._components
        first, likely = int(components.first[number - 1]), float(components.likely[number - 1])
        if not (self.settings.part or self.settings.measured):
            return [Found(number, 0, first, None)]
        runs = components.runs(number)
        parts = self._parts(number, runs)
        if parts is None:
            return [Found(number, 0, first, self._row(runs, likely))]
        runs, of_run, likely = parts
        return [
            Found(number, k, int(own["start"][0]), self._row(own, float(likely[k])))
            for k in range(1, len(likely))
            for own in (runs[of_run == k],)
        ]

    def _row(self, runs: np.ndarray, likely: float) -> Mitochondrion | None:
        if not self.settings.measured:
            return None
        return object_of(runs, self.shape, spacing(self.voxel_size), likely)

    def _parts(
        self, number: int, runs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Runs of a component's parts, the part of each, and their sums of probabilities.

        None if it stays whole. Runs and parts are also written to a file.
        """
        voxels, box = self._components.voxels[number - 1], self._components.box(number)
        sides = tuple(side.stop - side.start for side in box)
        size = math.prod(sides)
        if not self.settings.part or voxels < 2 * self.smallest:
            return None
        if size > self.settings.largest_parted:
            return None
        # beyond the volume's border a mitochondrion goes on, so far as one can know
        ends = [
            (int(side.start > 0), int(side.stop < length))
            for side, length in zip(box, self.shape, strict=True)
        ]
        inside = tuple(slice(a, a + n) for (a, _), n in zip(ends, sides, strict=True))
        with self._budget.taken(size):
            mask = drawn(in_box(runs, self.shape, box), np.ones(len(runs), bool), size)
            mask = np.pad(mask.reshape(sides), ends)
            parts = part(mask, spacing(self.voxel_size), self.settings.neck, self.smallest)
            if parts is None:
                return None
            parts = parts[inside]
            likely = np.bincount(parts.ravel(), self._probability(box).ravel())
            runs = equal_runs(parts)
            of_run = parts.ravel()[runs["start"]]
        runs = out_of_box(runs[of_run > 0], self.shape, box)
        of_run = of_run[of_run > 0]
        np.savez(self._folder / f"{number}.parts", runs=runs, of_run=of_run)
        return runs, of_run, likely

    def _too_large(self) -> np.ndarray:
        """Which components are not split because of their size."""
        boxes = self._components.boxes
        size = np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
        splittable = self._components.voxels >= 2 * self.smallest
        return self.settings.part & splittable & (size > self.settings.largest_parted)

    def _number(self) -> None:
        """Number the objects of all processes."""
        self.table: list[Mitochondrion] = []
        self._open = -1, None, None
        self._parted: dict[int, np.ndarray] = {}  # component: number of each part
        self._numbers = np.zeros(len(self._components) + 1, np.uint32)  # of whole components
        if not self._group.is_main:
            return
        objects: list[Found] = []
        for rank in range(self._group.size):
            with (self._folder / f"{rank}.objects").open("rb") as file:
                objects += pickle.load(file)
        counts = np.bincount([one.component for one in objects], minlength=len(self._numbers))
        for n, one in enumerate(sorted(objects, key=lambda one: one.first), 1):
            if one.row is not None:
                self.table.append(one.row._replace(label=n))
            if one.part == 0:
                self._numbers[one.component] = n
                continue
            empty = np.zeros(counts[one.component] + 1, np.uint32)
            self._parted.setdefault(one.component, empty)[one.part] = n

    def _numbered(self, slab: int) -> tuple[np.ndarray, np.ndarray]:
        """The runs of a slab, sorted, and the number of each."""
        size = self.shape[1] * self.shape[2]
        start, stop = (z * size for z in self._components.slabs[slab].sections)
        runs, component = self._components.slab_runs(slab)
        whole = self._numbers[component] > 0
        all_runs, numbers = [runs[whole]], [self._numbers[component[whole]]]
        for number in np.unique(component[~whole]).tolist():
            with np.load(self._folder / f"{number}.parts.npz") as file:
                runs, of_run = file["runs"], file["of_run"]
            own = slice(*np.searchsorted(runs["start"], (start, stop)))
            all_runs.append(runs[own])
            numbers.append(self._parted[number][of_run[own]])
        runs, numbers = np.concatenate(all_runs), np.concatenate(numbers)
        order = np.argsort(runs["start"])
        return runs[order], numbers[order]


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
