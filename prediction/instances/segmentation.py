"""Mitochondria as objects: from a probability volume on disk to numbered instances.

A component is a set of voxels at or above a threshold that are connected by their faces. There are
two thresholds (hysteresis, as in Canny's edges). The components at the upper one, 0.5 for example,
are the cores: small cores are removed, and those with a narrow neck are split there. Each then
grows into the component at the lower threshold that holds it, which it shares with other cores
there. A component without a core is no object. So an object keeps its thin ends and the sections in
which it is less sure, but nothing becomes an object that is unsure throughout, and none meets
another over unsure voxels. An object of which the network is much less sure than of most others is
left out.

Only the runs of a slab, or a few components, are in memory at a time: the components are found slab
by slab, their runs are kept in scratch files, and each is split within its bounding box. The result
does not depend on the slabs, nor on the threads and processes that share the work.

Faces (6-connectivity) rather than edges or corners: a mitochondrion is at least a hundred
nanometres thick, which is many voxels in a section, so its consecutive sections overlap. Voxels
that meet only in an edge or a corner more likely belong to two neighbours.
"""

import math
import pickle
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from dataloader.formats.voxel_size import VoxelSize
from prediction.instances.growth import grown
from prediction.instances.necks import PURPOSE, part
from prediction.instances.runs import drawn, equal_runs, in_box, out_of_box, shifted
from prediction.instances.slabs import Components, level_folder, section_runs, write_slabs
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
        threshold: probability from which a voxel is mitochondria, and part of a core.
        grow: share of the threshold; cores grow into connected voxels of this probability. 1: they
            do not grow. Chosen on the labels of three volumes (docs/performance.md).
        part: split cores at narrow necks.
        neck: a core is split where the radius of a neck is less than this fraction of the
            radius of the smaller body that it joins; radii are distances to the background. Chosen
            on the labels of Lucchi/training (docs/performance.md).
        sure: the least mean probability of an object, as a share of the way from the lower
            threshold to the median of all objects. Relative to that, as a network is less sure of a
            volume that it was not adapted to. Chosen on the labels of four volumes
            (docs/performance.md).
        min_volume_um3: smaller cores are removed, and no core is split into smaller ones.
            The smallest mitochondria measured in nerve tissue, those of axons, have about 0.003
            um^3 (10^-2.5, V1 of the mouse), with a mean of 0.05 (PMC10357692, table 4). A third of
            the smallest allows for those cut by the border.
        min_voxels: the same where the voxel size is unknown; 0.001 um^3 at 30 x 8 x 8 nm.
        measured: measure the objects; otherwise ``table`` is empty, and ``sure`` has no effect.
        slab_runs: runs of pixels (``prediction.instances.runs``) labelled at a time, in whole
            sections, at both thresholds; about 150 bytes of memory each.
        largest_parted: largest bounding box, in voxels, of a component that is split, or shared
            among cores, and of those at a time together; about 90 bytes of memory each.
    """

    threshold: float = THRESHOLD
    grow: float = 0.8
    part: bool = True
    neck: float = 0.3
    sure: float = 0.6
    min_volume_um3: float = 0.001
    min_voxels: int = 500
    measured: bool = True
    slab_runs: int = 2**22
    largest_parted: int = 2**24

    @property
    def levels(self) -> list[float]:
        """The thresholds, from the lower one."""
        return [self.grow * self.threshold, self.threshold] if self.grow < 1 else [self.threshold]

    def smallest(self, voxel_size: VoxelSize | None) -> int:
        """Minimum number of voxels of an instance."""
        if voxel_size is None:
            return max(1, self.min_voxels)
        # rounding may put the quotient of an exact multiple slightly above it
        return max(1, math.ceil(self.min_volume_um3 / math.prod(spacing(voxel_size)) - 1e-9))


class Found(NamedTuple):
    """An object without its number.

    Attributes:
        component: at the lower threshold, that it is, or is part of.
        part: its number from 1 in the component; 0: it is the component.
        first: index of its first voxel in the volume.
        row: its measures; None where they are not wanted.
    """

    component: int
    part: int
    first: int
    row: Mitochondrion | None


class Parts(NamedTuple):
    """The parts of a component.

    Attributes:
        runs: of all parts in the volume, sorted.
        of_run: the part of each run, int32 from 1.
        likely: the sum of the probabilities of each part, from 0 (no part).
    """

    runs: np.ndarray
    of_run: np.ndarray
    likely: np.ndarray


def joined_parts(several: Iterable[Parts]) -> Parts:
    """The parts of several components, numbered on."""
    runs, of_run, likely = [], [], [0.0]
    for parts in several:
        runs.append(parts.runs)
        of_run.append(parts.of_run + np.int32(len(likely) - 1))
        likely += parts.likely[1:].tolist()
    runs, of_run = np.concatenate(runs), np.concatenate(of_run)
    order = np.argsort(runs["start"])
    return Parts(runs[order], of_run[order], np.array(likely))


class Instances:
    """The mitochondria of a volume, numbered from 1 in the order of their first voxels.

    All is computed on construction; labels are then read from the scratch files. Use it as a
    context, or ``close`` it: that deletes the scratch files.

    Of several processes each finds the components of its part of the sections, and then splits and
    measures its part of the components. Only the main one has the result.

    Args:
        probability: of mitochondria, float: called with a section's index it returns (H, W), with
            slices of sections, rows and columns a box. Each section is read once, and again the
            boxes of components that are split or shared. Called in several threads.
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
            self._components, self._cores = self._read_components()
            self._core_order, self._core_ends = self._held_cores()
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
        notes += f", removed as smaller than {least}: {self._cores.removed}"
        if self._unsure:
            notes += f", as of a mean probability under {self._least_mean:.3g}: {self._unsure}"
        if too_large := self._too_large():
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
            for level in range(len(self.settings.levels)):
                level_folder(self._folder, level).mkdir()
        self._group.wait()
        own = self._group.share(range(self.shape[0]))
        threads = cores()

        def find(index: int) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
            probability = self._probability(index)
            return index, [section_runs(probability, level) for level in self.settings.levels]

        found = prefetch(find, own, 2 * threads, threads)
        sections = progress(found, len(own), "section")
        write_slabs(self._folder, sections, self.shape, self.smallest, self.settings.slab_runs)
        self._group.wait()

    def _read_components(self) -> tuple[Components, Components]:
        """The components at the lower threshold, and the cores."""
        found = [
            Components(level_folder(self._folder, level), self.shape, self.smallest)
            for level in range(len(self.settings.levels))
        ]
        return found[0], found[-1]

    def _held_cores(self) -> tuple[np.ndarray, np.ndarray]:
        """The cores by component, and where those of each component end; from component 0."""
        inside = self._cores.inside(self._components)
        held = np.bincount(inside, minlength=len(self._components) + 1)
        return np.argsort(inside, kind="stable") + 1, np.cumsum(held)

    def _cores_in(self, number: int) -> list[int]:
        """The cores in a component."""
        return self._core_order[self._core_ends[number - 1] : self._core_ends[number]].tolist()

    def _measure(self) -> None:
        """Split and measure this process's components, the largest first."""
        order = np.argsort(-self._components.box_sizes, kind="stable") + 1
        order = order[np.diff(self._core_ends)[order - 1] > 0]
        own = order[self._group.rank :: self._group.size].tolist()
        threads = cores()
        found = prefetch(self._objects, own, 2 * threads, threads)
        objects = [one for several in progress(found, len(own), "object") for one in several]
        with (self._folder / f"{self._group.rank}.objects").open("wb") as file:
            pickle.dump(objects, file)
        self._group.wait()

    def _objects(self, number: int) -> list[Found]:
        """A component's parts, or the component."""
        components = self._components
        parts = self._parts(number)
        if parts is None:
            first, likely = int(components.first[number - 1]), components.likely[number - 1]
            runs = components.runs(number) if self.settings.measured else None
            return [Found(number, 0, first, self._row(runs, float(likely)))]
        runs, of_run, likely = parts
        np.savez(self._folder / f"{number}.parts", runs=runs, of_run=of_run)
        return [
            Found(number, k, int(own["start"][0]), self._row(own, float(likely[k])))
            for k in range(1, len(likely))
            for own in (runs[of_run == k],)
        ]

    def _row(self, runs: np.ndarray | None, likely: float) -> Mitochondrion | None:
        if runs is None or not self.settings.measured:
            return None
        return object_of(runs, self.shape, spacing(self.voxel_size), likely)

    def _parts(self, number: int) -> Parts | None:
        """The parts of a component, one for each core or part of it; None if it stays whole."""
        numbers = self._cores_in(number)
        split = [self._split(core) for core in numbers]
        if len(split) == 1 and (split[0] is None or self._cores is self._components):
            return split[0]
        cores = joined_parts(
            self._whole(core) if parts is None else parts
            for core, parts in zip(numbers, split, strict=True)
        )
        if self._components.box_sizes[number - 1] > self.settings.largest_parted:
            return cores
        return self._grown(number, cores)

    def _whole(self, core: int) -> Parts:
        """A core as its own only part."""
        runs = self._cores.runs(core)
        likely = np.array([0.0, self._cores.likely[core - 1]])
        return Parts(runs, np.ones(len(runs), np.int32), likely)

    def _grown(self, number: int, cores: Parts) -> Parts:
        """The cores in a component, grown to fill it."""
        box, size = self._components.box(number), int(self._components.box_sizes[number - 1])
        sides = tuple(side.stop - side.start for side in box)
        runs = in_box(self._components.runs(number), self.shape, box)
        seeds = in_box(cores.runs, self.shape, box)
        with self._budget.taken(size):
            mask = drawn(runs, np.ones(len(runs), bool), size).reshape(sides)
            seeds = drawn(seeds, cores.of_run, size).reshape(sides)
            probability = self._probability(box)
            return self._parts_of(grown(probability, seeds, mask), probability, box)

    def _split(self, core: int) -> Parts | None:
        """The parts of a core; None if it stays whole."""
        voxels, box = self._cores.voxels[core - 1], self._cores.box(core)
        sides, size = tuple(side.stop - side.start for side in box), self._cores.box_sizes[core - 1]
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
        runs = in_box(self._cores.runs(core), self.shape, box)
        with self._budget.taken(int(size)):
            mask = drawn(runs, np.ones(len(runs), bool), int(size))
            mask = np.pad(mask.reshape(sides), ends)
            parts = part(mask, spacing(self.voxel_size), self.settings.neck, self.smallest)
            if parts is None:
                return None
            return self._parts_of(parts[inside], self._probability(box), box)

    def _parts_of(self, numbers: np.ndarray, probability: np.ndarray, box: Box) -> Parts:
        """Parts from their numbers in a box."""
        likely = np.bincount(numbers.ravel(), probability.ravel())
        runs = equal_runs(numbers)
        of_run = numbers.ravel()[runs["start"]]
        return Parts(out_of_box(runs[of_run > 0], self.shape, box), of_run[of_run > 0], likely)

    def _too_large(self) -> int:
        """How many components are not split, or not shared among their parts, due to their size."""
        largest = self.settings.largest_parted
        whole = self._cores.box_sizes > largest
        whole &= self.settings.part & (self._cores.voxels >= 2 * self.smallest)
        too_large = set(self._cores.inside(self._components)[whole].tolist())
        return len(
            too_large | {n for n in self._parted if self._components.box_sizes[n - 1] > largest}
        )

    def _number(self) -> None:
        """Number the objects of all processes."""
        self.table: list[Mitochondrion] = []
        self._open = -1, None, None
        self._parted: dict[int, np.ndarray] = {}  # component: number of each part
        self._numbers = np.zeros(len(self._components) + 1, np.uint32)  # of whole components
        self._least_mean, self._unsure = 0.0, 0  # probability of an object; objects left out
        if not self._group.is_main:
            return
        objects: list[Found] = []
        for rank in range(self._group.size):
            with (self._folder / f"{rank}.objects").open("rb") as file:
                objects += pickle.load(file)
        counts = np.bincount([one.component for one in objects], minlength=len(self._numbers))
        kept = self._sure(objects)
        for n, one in enumerate(sorted(kept, key=lambda one: one.first), 1):
            if one.row is not None:
                self.table.append(one.row._replace(label=n))
            if one.part == 0:
                self._numbers[one.component] = n
                continue
            empty = np.zeros(counts[one.component] + 1, np.uint32)
            self._parted.setdefault(one.component, empty)[one.part] = n

    def _sure(self, objects: list[Found]) -> list[Found]:
        """The objects that the network is sure of on the whole; all that are not measured."""
        if not objects or not self.settings.measured:
            return objects
        lowest = self.settings.levels[0]
        median = np.median([one.row.mean_probability for one in objects])
        self._least_mean = lowest + self.settings.sure * (median - lowest)
        kept = [one for one in objects if one.row.mean_probability >= self._least_mean]
        self._unsure = len(objects) - len(kept)
        return kept

    def _numbered(self, slab: int) -> tuple[np.ndarray, np.ndarray]:
        """The runs of a slab, sorted, and the number of each."""
        size = self.shape[1] * self.shape[2]
        start, stop = (z * size for z in self._components.slabs[slab].sections)
        runs, component = self._components.slab_runs(slab)
        whole = self._numbers[component] > 0
        all_runs, numbers = [runs[whole]], [self._numbers[component[whole]]]
        for number in np.unique(component[~whole]).tolist():
            if number not in self._parted:  # without a core
                continue
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
    settings = InstanceSettings(grow=1, part=False, min_voxels=1, measured=False)
    return Instances(mask, shape, settings=settings, scratch=scratch)
