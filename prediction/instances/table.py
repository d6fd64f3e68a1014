"""What mitochondria measure: one row for each."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from dataloader.formats.voxel_size import VoxelSize
from prediction.instances.runs import drawn, in_box, placed
from utils.optional import wanted

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


def object_of(
    runs: np.ndarray, shape: tuple[int, int, int], sides: tuple[float, float, float], likely: float
) -> Mitochondrion:
    """Measure an object; its number is left at 0.

    Args:
        runs: of the object, in the volume (``prediction.instances.runs``).
        shape: of the volume.
        sides: of a voxel (z, y, x).
        likely: sum of the probabilities.
    """
    length = runs["length"].astype(np.int64)
    voxels = int(length.sum())
    places = np.stack(placed(runs, shape))
    low, high = places.min(axis=1), places.max(axis=1) + 1
    high[2] = (places[2] + length).max()
    box = tuple(slice(*side) for side in zip(low.tolist(), high.tolist(), strict=True))
    first, second = moments(places - low[:, None], length)
    sides = np.array(sides)

    def inside(part: Box) -> np.ndarray:
        own = in_box(runs, shape, part)
        size = tuple(side.stop - side.start for side in part)
        return drawn(own, np.ones(len(own), bool), math.prod(size)).reshape(size)

    return Mitochondrion(
        0,
        voxels,
        float(voxels * sides.prod()),
        surface_area(inside, box, tuple(sides)),
        *(((first + low * voxels) / voxels + 0.5) * sides).tolist(),
        *(low * sides).tolist(),
        *(high * sides).tolist(),
        int(low[0]),
        int(high[0]) - 1,
        int(high[0] - low[0]),  # connected by faces, so there is no gap
        elongation(first / voxels, second / voxels, sides),
        bool(((low == 0) | (high == shape)).any()),
        likely / voxels,
    )


def moments(places: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of z, y, x (3,) and of their products (3, 3) over the voxels of runs, as points.

    Args:
        places: of the first voxels, (3, N) int64.
        length: (N,) int64.
    """
    # of x over a run: n voxels from x on
    added = length * (length - 1) // 2
    squares = (length - 1) * length * (2 * length - 1) // 6
    x = places[2]
    first = places @ length
    first[2] += added.sum()
    second = (places * length) @ places.T
    second[:, 2] += places @ added
    second[2] = second[:, 2]
    second[2, 2] = (length * x * x + 2 * x * added + squares).sum()
    return first, second


def elongation(mean: np.ndarray, square: np.ndarray, sides: np.ndarray) -> float:
    """Length over breadth, see ``Mitochondrion``; >= 1.

    Args:
        mean: of z, y, x, (3,).
        square: of their products, (3, 3).
        sides: of a voxel.
    """
    covariance = (square - np.outer(mean, mean) + np.eye(3) / 12) * np.outer(sides, sides)
    _, middle, largest = np.linalg.eigvalsh(covariance)  # rising
    return math.sqrt(largest / middle)


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
