"""What mitochondria measure: one row for each."""

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from dataloader.formats.voxel_size import VoxelSize
from utils.optional import wanted
from utils.progress import progress

Box = tuple[slice, slice, slice]

SMOOTHING = 0.7  # voxels along the coarsest axis, the standard deviation
BLOCK_VOXELS = 2**24  # of an object's bounding box whose surface is computed at a time


class Mitochondrion(NamedTuple):
    """One instance. Lengths are in um, or in voxels where the voxel size is unknown.

    Positions are measured from the corner of the volume: the centre of the first voxel is at half a
    voxel.

    Attributes:
        label: its number.
        voxels: number of voxels.
        volume: voxels times the volume of one voxel.
        surface: surface area, closed at the border of the volume (``surface_area``).
        centroid_z, centroid_y, centroid_x: centre of its voxels.
        box_z0, box_y0, box_x0, box_z1, box_y1, box_x1: bounding box.
        first_section, last_section: indices from 0.
        sections: number of sections that show it.
        elongation: square root of the ratio of the largest to the middle principal moment, which is
            length over breadth; 1 for balls and discs. The middle moment keeps an object that is
            flat, because it is in few sections, from counting as long. Voxels count with their own
            extent, so that it is defined for a single voxel.
        touches_border: whether it touches any side of the volume.
        mean_probability: over its voxels.
    """

    label: int
    voxels: int
    volume: float
    surface: float
    centroid_z: float
    centroid_y: float
    centroid_x: float
    box_z0: float
    box_y0: float
    box_x0: float
    box_z1: float
    box_y1: float
    box_x1: float
    first_section: int
    last_section: int
    sections: int
    elongation: float
    touches_border: bool
    mean_probability: float


def spacing(voxel_size: VoxelSize | None) -> tuple[float, float, float]:
    """Sides of a voxel (z, y, x) in um; 1 where they are unknown."""
    return (1.0, 1.0, 1.0) if voxel_size is None else tuple(side / 1e3 for side in voxel_size)


def runs(*sections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of pixels in rows along which each of several sections (H, W) is constant.

    Returns:
        Flat indices of their first pixels, and their lengths.
    """
    changes = np.zeros(sections[0].shape, bool)
    changes[:, 0] = True
    for section in sections:
        changes[:, 1:] |= section[:, 1:] != section[:, :-1]
    starts = np.flatnonzero(changes)
    return starts, np.diff(starts, append=changes.size)


class Sums:
    """Sums over the voxels of instances 1 to N, section by section; number n at index n.

    Attributes:
        voxels, sections, probability: (N + 1,).
        first: sums of z, y and x, (N + 1, 3).
        second: sums of their products, (N + 1, 3, 3), voxels counting as points.
        low, high: least and largest z, y and x, (N + 1, 3).
    """

    def __init__(self, count: int) -> None:
        self.voxels = np.zeros(count + 1, np.int64)
        self.sections = np.zeros(count + 1, np.int64)
        self.probability = np.zeros(count + 1)
        self.first = np.zeros((count + 1, 3))
        self.second = np.zeros((count + 1, 3, 3))
        self.low = np.full((count + 1, 3), np.iinfo(np.int64).max)
        self.high = np.full((count + 1, 3), -1)

    def add(self, z: int, numbers: np.ndarray, probability: np.ndarray) -> None:
        """Add a section: instances and probabilities, (H, W) each."""
        starts, lengths = runs(numbers)
        likely = np.add.reduceat(probability.ravel(), starts, dtype=np.float64)
        n = numbers.ravel()[starts]
        inside = n > 0
        present, index = np.unique(n[inside], return_inverse=True)
        starts, lengths, likely = starts[inside], lengths[inside], likely[inside]
        y, x = np.divmod(starts, numbers.shape[1])
        sum_x = lengths * x + lengths * (lengths - 1) // 2
        sum_xx = (
            lengths * x * x
            + x * lengths * (lengths - 1)
            + (lengths - 1) * lengths * (2 * lengths - 1) // 6
        )

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(index, values, len(present))

        voxels, sum_y, sum_x, sum_yx = map(total, (lengths, lengths * y, sum_x, sum_x * y))
        self.voxels[present] += voxels.astype(np.int64)
        self.sections[present] += 1
        self.probability[present] += total(likely)
        self.first[present] += np.stack([z * voxels, sum_y, sum_x], axis=1)
        products = [
            [z * z * voxels, z * sum_y, z * sum_x],
            [z * sum_y, total(lengths * y * y), sum_yx],
            [z * sum_x, sum_yx, total(sum_xx)],
        ]
        self.second[present] += np.moveaxis(np.array(products), 2, 0)
        least = np.stack([np.full_like(y, z), y, x], axis=1)
        np.minimum.at(self.low, n[inside], least)
        np.maximum.at(self.high, n[inside], least + np.outer(lengths - 1, [0, 0, 1]))


def measure(
    sections: Iterable[tuple[int, np.ndarray]],
    count: int,
    probability: Callable[[int], np.ndarray],
    crop: Callable[[Box], np.ndarray],
    shape: tuple[int, int, int],
    voxel_size: VoxelSize | None,
) -> list[Mitochondrion]:
    """Measure the instances of a volume.

    Args:
        sections: index and instances (H, W) of each.
        count: number of instances, 1 to ``count``, each with a voxel at least.
        probability: (H, W) float, by section.
        crop: the instances within a box; called when all sections are through.
        shape: of the volume.
        voxel_size: None where it is not known.
    """
    sums = Sums(count)
    for z, numbers in sections:
        sums.add(z, numbers, probability(z))
    sides = np.array(spacing(voxel_size))
    voxels = np.maximum(sums.voxels, 1)[:, None]
    centroids = (sums.first / voxels + 0.5) * sides
    lengths = elongations(sums, sides)
    touching = ((sums.low == 0) | (sums.high == np.array(shape) - 1)).any(axis=1)
    table = []
    for n in progress(range(1, count + 1), count, "mitochondrion"):
        low, high = sums.low[n], sums.high[n] + 1
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        table.append(
            Mitochondrion(
                n,
                int(sums.voxels[n]),
                float(sums.voxels[n] * sides.prod()),
                surface_area(lambda part, n=n: crop(part) == n, box, tuple(sides)),
                *centroids[n].tolist(),
                *(low * sides).tolist(),
                *(high * sides).tolist(),
                int(low[0]),
                int(high[0]) - 1,
                int(sums.sections[n]),
                float(lengths[n]),
                bool(touching[n]),
                float(sums.probability[n] / sums.voxels[n]),
            )
        )
    return table


def elongations(sums: Sums, sides: np.ndarray) -> np.ndarray:
    """Length over breadth of each instance (N + 1,), see ``Mitochondrion``; >= 1."""
    voxels = np.maximum(sums.voxels, 1)[:, None, None]
    means = sums.first[:, :, None] / voxels
    points = sums.second / voxels - means * means.transpose(0, 2, 1)
    covariance = (points + np.eye(3) / 12) * np.outer(sides, sides)
    moments = np.linalg.eigvalsh(covariance)  # rising
    return np.sqrt(moments[:, 2] / moments[:, 1])


def surface_area(
    inside: Callable[[Box], np.ndarray],
    box: Box,
    sides: tuple[float, float, float],
    block_voxels: int = BLOCK_VOXELS,
) -> float:
    """Area of an object's surface: of the marching cubes' mesh (Lewiner) at half of its mask.

    The mask is smoothed by a Gaussian first: on the steps of a mask as it is, the mesh is 9 % too
    large for a ball of cubic voxels of whatever size, and 15 to 25 % where sections are thicker
    than pixels. Its standard deviation is 0.7 voxels along the coarsest axis and, along others, as
    many more as the square root of the ratio of their sides. Ellipsoids of 10 voxels' radius and
    more are then right to 1 % in cubic voxels and to 4 % at 30 x 8 x 8 or 50 x 4.6 x 4.6 nm; a ball
    of 5 cubic voxels' radius is 5 % too small. What is too thin to leave anything is measured as
    it is. Beyond the box there is nothing: surfaces are closed at the volume's border.

    Args:
        inside: mask within a box, (Z, H, W) bool.
        box: bounding box of the object, which may be large: it is gone through in blocks, and the
            result is the sum.
        sides: of a voxel (z, y, x).
        block_voxels: of the box, at a time.
    """
    smoothing = [SMOOTHING * math.sqrt(max(sides) / side) for side in sides]
    smooth = _mesh_area(inside, box, sides, block_voxels, smoothing)
    return smooth or _mesh_area(inside, box, sides, block_voxels, [0.0, 0.0, 0.0])


def _mesh_area(
    inside: Callable[[Box], np.ndarray],
    box: Box,
    sides: tuple[float, float, float],
    block_voxels: int,
    smoothing: list[float],
) -> float:
    measures = wanted("skimage.measure", "for --instances")
    z, y, x = box
    height, width = y.stop - y.start + 2, x.stop - x.start + 2  # a margin of one around
    step = max(1, block_voxels // (height * width))
    reach = [math.ceil(2.5 * deviation) for deviation in smoothing]
    area = 0.0
    for start in range(z.start - 1, z.stop, step):  # cubes between the sections start ... stop
        stop = min(start + step, z.stop)
        first, last = start - reach[0], stop + reach[0]
        block = np.zeros((last - first + 1, height, width), np.float32)
        low, high = max(first, z.start), min(last + 1, z.stop)
        block[low - first : high - first, 1:-1, 1:-1] = inside((slice(low, high), y, x))
        if any(smoothing):
            block = ndimage.gaussian_filter(block, smoothing, mode="constant", radius=reach)
        block = block[reach[0] : stop - first + 1]
        if block.min() < 0.5 < block.max():
            vertices, faces, _, _ = measures.marching_cubes(block, 0.5, spacing=sides)
            area += float(measures.mesh_surface_area(vertices, faces))
    return area


def columns(voxel_size: VoxelSize | None) -> list[str]:
    """Names of the table's columns, with their units."""
    unit = "vox" if voxel_size is None else "um"
    units = {"volume": f"_{unit}3", "surface": f"_{unit}2"}
    lengths = ("centroid", "box")
    return [
        name + units.get(name, f"_{unit}" if name.startswith(lengths) else "")
        for name in Mitochondrion._fields
    ]


def write_table(path: Path, table: list[Mitochondrion], voxel_size: VoxelSize | None) -> None:
    """Write one row per mitochondrion as CSV, whole or not at all.

    Args:
        path: of the file.
        table: of ``measure``.
        voxel_size: it was measured with; None: the columns are named by voxels, not um.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns(voxel_size))
        writer.writerows([cell(value) for value in row] for row in table)
    part.replace(path)


def cell(value: float) -> str:
    """A number as text: whole ones whole, truths as 0 and 1, others to seven digits."""
    return f"{value:.7g}" if isinstance(value, float) else str(int(value))
