"""Synthetic electron microscopy stacks: mitochondria, membranes, organelles and noise.

A volume is generated in two steps. The *tissue* is random 3-D geometry: mitochondria with cristae,
cells, vesicles and similar organelles that drift and change size from section to section. A
`Microscope` then turns the tissue into grey values. With the same seed, two microscopes image the
same tissue with the same labels, and the difference between the images is the domain gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from utils.files import write_picture


@dataclass(frozen=True)
class Microscope:
    """Parameters that turn tissue into grey values.

    Grey levels and amplitudes are on a scale from 0 (black) to 1 (white); lengths are in pixels.
    """

    cytoplasm: float  # grey level of the cell interior
    cell_variation: float  # standard deviation of the grey level between cells
    membrane: float  # grey level of cell membranes, reticulum and vesicle walls
    matrix: float  # grey level of the mitochondrial matrix
    rim: float  # grey level of the mitochondrial double membrane
    cristae: float  # grey step from matrix to crista; negative is darker, positive is lighter
    dense_body: float  # grey level of lysosome-like bodies
    endosome: float  # grey level of the lumen of endosomes
    texture: float  # standard deviation of the tissue texture
    texture_scale: float  # grain of that texture, px
    blur: float  # Gaussian sigma of the point spread, px
    gamma: float  # exponent of the detector response; above 1 darkens the mid-tones
    gaussian_noise: float  # standard deviation of the read-out noise
    shot_noise: float  # standard deviation of the signal-dependent noise at white
    shading: float  # standard deviation of the slow brightness drift across a section
    curtain: float  # standard deviation of vertical milling streaks


# Serial-section TEM: crisp, strongly stained membranes, dark striped mitochondria.
SOURCE_MICROSCOPE = Microscope(
    cytoplasm=0.74,
    cell_variation=0.035,
    membrane=0.16,
    matrix=0.47,
    rim=0.20,
    cristae=-0.20,
    dense_body=0.14,
    endosome=0.84,
    texture=0.055,
    texture_scale=1.2,
    blur=0.6,
    gamma=1.0,
    gaussian_noise=0.02,
    shot_noise=0.02,
    shading=0.02,
    curtain=0.0,
)

# FIB-SEM: soft and grainy; mitochondria hardly darker than the cell, with faint cristae.
TARGET_MICROSCOPE = Microscope(
    cytoplasm=0.62,
    cell_variation=0.03,
    membrane=0.25,
    matrix=0.50,
    rim=0.33,
    cristae=-0.03,
    dense_body=0.32,
    endosome=0.72,
    texture=0.09,
    texture_scale=1.5,
    blur=1.3,
    gamma=1.35,
    gaussian_noise=0.05,
    shot_noise=0.05,
    shading=0.01,
    curtain=0.012,
)

_SECTION_STEP = 3.0  # px; section spacing for cells and vesicles
_CLEARANCE = 9.0  # px; smallest gap between two organelles, wide enough for a membrane
_MARGIN = 5.0  # px; gap between an organelle and the border of its cell
_FOREGROUND = (0.10, 0.13)  # range of the target mitochondria fraction of a volume
_FOREGROUND_LIMIT = 0.142  # mitochondria that would exceed this fraction are not placed


@dataclass(frozen=True)
class _Body:
    """A bent, tapering tube whose cross-section drifts and turns with z (lengths in px).

    All numbers are Python floats, as NumPy scalars would turn float32 arrays into float64.
    """

    kind: str  # "mitochondrion", "dense" or "endosome"
    centre: tuple[float, float, float]  # (z, y, x)
    drift: tuple[float, float]  # (y, x) px per section
    half_z: float  # sections from the centre to the tip
    angle: float  # of the long axis, radians
    turn: float  # radians per section
    half_length: float
    half_width: float
    bend: float  # curvature of the axis, 1/px
    stripe_angle: float  # of the cristae against the long axis, radians
    stripe_period: float

    def distance(self, grid: _Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the signed distance (negative inside) and the coordinates along and across."""
        dz = grid.z - self.centre[0]
        y = grid.y - self.centre[1] - self.drift[0] * dz
        x = grid.x - self.centre[2] - self.drift[1] * dz
        angle = self.angle + self.turn * dz
        along = np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        across -= self.bend * along**2
        # A cubic taper keeps the size nearly constant and ends the tube within a few sections.
        taper = np.clip(1 - np.abs(dz / self.half_z) ** 3, -1, 1)
        straight = (self.half_length - self.half_width) * np.maximum(taper, 0)
        beads = 1 + 0.12 * np.cos(along / (0.9 * self.half_width) + 7 * self.angle)
        tip = np.maximum(np.abs(along) - straight, 0)
        return np.hypot(tip, across) - self.half_width * taper * beads, along, across


@dataclass(frozen=True)
class _Grid:
    """Voxel coordinates, warped in-plane so that outlines are irregular."""

    z: np.ndarray  # (Z, 1, 1)
    y: np.ndarray  # (Z, H, W)
    x: np.ndarray  # (Z, H, W)

    def every(self, step: int) -> _Grid:
        return _Grid(self.z, self.y[:, ::step, ::step], self.x[:, ::step, ::step])


@dataclass(frozen=True)
class _Tissue:
    """Geometry of a volume; float32 (Z, H, W). Distances are in px and negative inside."""

    mitochondrion: np.ndarray  # distance
    dense: np.ndarray  # distance
    endosome: np.ndarray  # distance
    cristae: np.ndarray  # 0 matrix to 1 crista
    membrane: np.ndarray  # 0 to 1
    vesicle: np.ndarray  # -1 lumen to 1 wall
    tone: np.ndarray  # relative brightness of the cell, unit variance


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], scale: float, scale_z: float
) -> np.ndarray:
    """Return unit-variance noise with a grain of `scale` px and `scale_z` sections."""
    depth, height, width = shape
    step = max(1.0, scale / 1.5)  # filtered on a coarse grid, as wide filters are slow
    pad = 4  # upsampling repeats the border, so the border is cropped
    coarse = (int(height / step) + 2 * pad, int(width / step) + 2 * pad)
    noise = rng.standard_normal((depth, *coarse), dtype=np.float32)
    sigma = scale / step
    noise = ndimage.gaussian_filter(noise, (scale_z, sigma, sigma), mode="wrap")
    size = (round(coarse[1] * step), round(coarse[0] * step))
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    field = np.stack([cv2.resize(s, size, interpolation=cv2.INTER_CUBIC) for s in noise])
    return field[:, top : top + height, left : left + width] / noise.std()


def _make_grid(rng: np.random.Generator, shape: tuple[int, int, int]) -> _Grid:
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    for axis in (y, x):
        axis += 3.5 * _smooth_noise(rng, shape, 16, 4) + 0.7 * _smooth_noise(rng, shape, 5, 2)
    return _Grid(z[:, :1, :1], y, x)


def _draw_body(rng: np.random.Generator, kind: str, shape: tuple[int, int, int]) -> _Body:
    size = np.array(shape)
    if kind == "mitochondrion":
        half_width = rng.uniform(7, 17)
        half_length = min(half_width * rng.uniform(1.1, 3.6), 45.0)
        half_z = rng.uniform(9, 28)
    else:
        half_width = rng.uniform(6, 13)
        half_length = half_width * rng.uniform(1.0, 1.25)
        half_z = rng.uniform(4, 9)
    # Centres may be outside, so that organelles are also cut by the faces of the volume.
    overhang = np.array([0.5 * half_z, half_width, half_width])
    across = rng.random() < 0.65  # cristae mostly cross the long axis, as plates
    return _Body(
        kind=kind,
        centre=tuple(rng.uniform(-overhang, size - 1 + overhang).tolist()),
        drift=tuple(rng.normal(0, 0.5, 2).tolist()),
        half_z=half_z,
        angle=rng.uniform(0, np.pi),
        turn=rng.normal(0, 0.012),
        half_length=half_length,
        half_width=half_width,
        bend=rng.normal(0, 0.12) / half_length,
        stripe_angle=rng.normal(0, 0.25) + (0 if across else np.pi / 2),
        stripe_period=rng.uniform(6.5, 9),
    )


def _place_bodies(
    rng: np.random.Generator, grid: _Grid, shape: tuple[int, int, int]
) -> list[_Body]:
    """Place separate organelles until the mitochondria fraction is reached."""
    coarse = grid.every(4)  # distances are smooth, so a sixteenth of the pixels is enough
    nearest = np.full(coarse.y.shape, np.inf, np.float32)
    bodies: list[_Body] = []

    def place(kind: str, room: float) -> float:
        body = _draw_body(rng, kind, shape)
        distance, _, _ = body.distance(coarse)
        fraction = float((distance < 0).mean())
        if not 0 < fraction <= room or (distance + nearest).min() < _CLEARANCE:
            return 0.0
        bodies.append(body)
        np.minimum(nearest, distance, out=nearest)
        return fraction

    wanted, fraction = rng.uniform(*_FOREGROUND), 0.0
    for _ in range(400):
        if fraction >= wanted:
            break
        fraction += place("mitochondrion", _FOREGROUND_LIMIT - fraction)
    for kind in ("dense", "endosome"):
        for _ in range(max(4, round(14 * nearest[0].size / 64**2))):
            place(kind, 1.0)
    return bodies


def _draw_cells(
    rng: np.random.Generator, grid: _Grid, distances: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Tessellate the volume; return the distance to the nearest cell border and the cell tone.

    Organelles and random points are the sites of a Voronoi tessellation, so no border runs through
    an organelle.
    """
    depth, height, width = grid.y.shape
    first = np.full(grid.y.shape, np.inf, np.float32)
    second, tone = first.copy(), np.zeros_like(first)

    def add(distance: np.ndarray) -> None:
        closer = distance < first
        np.minimum(second, np.where(closer, first, distance), out=second)
        np.minimum(first, distance, out=first)
        tone[closer] = rng.standard_normal()

    for distance in distances:
        add(distance - _MARGIN)
    organelles = first + _MARGIN
    for _ in range(round(55 * height * width / 256**2)):
        z, y, x = rng.uniform((0, 0, 0), (depth, height, width)).tolist()
        drift_y, drift_x = rng.normal(0, 0.8, 2).tolist()
        dz = grid.z - z
        distance = np.sqrt(
            (grid.y - y - drift_y * dz) ** 2
            + (grid.x - x - drift_x * dz) ** 2
            + (0.5 * _SECTION_STEP * dz) ** 2
        ) - rng.uniform(0, 14)
        if (distance - organelles)[organelles < 3].min(initial=np.inf) > 3 - _MARGIN:
            add(distance)
    return (second - first) / 2, tone


def _stain(border: np.ndarray) -> np.ndarray:
    """Return the membrane weight in 0..1; an obliquely cut membrane is wide but faint."""
    slope = np.hypot(*np.gradient(border, axis=(1, 2)))
    slope = np.stack([cv2.dilate(s, np.ones((3, 3))) for s in slope])  # it is 0 on the border
    return np.exp(-((border / 1.5) ** 2)) * np.clip(slope, 0.3, 1)


def _draw_vesicles(rng: np.random.Generator, free: np.ndarray) -> np.ndarray:
    """Draw clusters of small spheres where `free` (bool, Z, H, W) is true: wall 1, lumen -1."""
    depth, height, width = free.shape
    vesicles = np.zeros(free.shape, np.float32)
    reach = 5
    spots = np.argwhere(free)
    for _ in range(round(0.9 * depth * height * width / 256**2) if len(spots) else 0):
        centre = spots[rng.integers(len(spots))]
        dense_core = rng.random() < 0.2
        for z, y, x in rng.normal(centre, (1.5, 8, 8), (rng.integers(10, 40), 3)):
            row, col = round(y), round(x)
            inside = reach <= row < height - reach and reach <= col < width - reach
            if not inside or not free[int(np.clip(z, 0, depth - 1)), row, col]:
                continue
            radius = rng.uniform(2.0, 3.2)
            window = np.s_[row - reach : row + reach + 1, col - reach : col + reach + 1]
            dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
            in_plane = np.hypot(dy + row - y, dx + col - x)
            for section in range(max(0, int(z) - 1), min(depth, int(z) + 3)):
                distance = np.hypot(in_plane, _SECTION_STEP * (section - z) * 0.6) - radius
                wall = np.exp(-((distance / 0.8) ** 2))
                lumen = np.clip(0.3 - distance, 0, 1) * (-0.4 if dense_core else 0.8)
                stamp = wall - lumen * (1 - wall)
                target = vesicles[section][window]
                np.copyto(target, stamp, where=np.abs(stamp) > np.abs(target))
    return vesicles


def _draw_organelles(
    rng: np.random.Generator, grid: _Grid, bodies: list[_Body]
) -> tuple[list[np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Return the distance to each body and to the nearest one of each kind, and the cristae."""
    shape = grid.y.shape
    nearest = {
        kind: np.full(shape, 1e3, np.float32) for kind in ("mitochondrion", "dense", "endosome")
    }
    cristae = np.zeros(shape, np.float32)
    waves = _smooth_noise(rng, shape, 7, 2)
    gaps = np.clip(_smooth_noise(rng, shape, 5, 2) + 1.3, 0, 1)  # cristae end inside the matrix
    distances = []
    for body in bodies:
        distance, along, across = body.distance(grid)
        distances.append(distance.astype(np.float32))
        np.minimum(nearest[body.kind], distance, out=nearest[body.kind])
        if body.kind == "mitochondrion":
            inside = distance < -2
            phase = np.cos(body.stripe_angle) * along + np.sin(body.stripe_angle) * across
            phase = phase[inside] / body.stripe_period + 0.22 * waves[inside]
            stripe = np.clip(1.3 * np.cos(2 * np.pi * phase) - 0.1, 0, 1)
            cristae[inside] = stripe * np.clip(-distance[inside] - 2, 0, 1) * gaps[inside]
    return distances, nearest, cristae


def _make_tissue(seed: int, shape: tuple[int, int, int]) -> _Tissue:
    rng = np.random.default_rng([seed, 0])
    grid = _make_grid(rng, shape)
    bodies = _place_bodies(rng, grid, shape)
    distances, nearest, cristae = _draw_organelles(rng, grid, bodies)
    border, tone = _draw_cells(rng, grid, distances)
    organelle = np.minimum.reduce(list(nearest.values()))
    free = (organelle > 5) & (border > 4)
    # Endoplasmic reticulum: short pieces of the zero level of a smooth field.
    sheet = np.exp(-((_smooth_noise(rng, shape, 8, 2) / 0.13) ** 2))
    sheet *= np.clip(2 * _smooth_noise(rng, shape, 14, 3) - 1.6, 0, 0.7) * (organelle > 3)
    membrane = _stain(border) * np.clip(organelle - 0.5, 0, 1)
    return _Tissue(
        mitochondrion=nearest["mitochondrion"],
        dense=nearest["dense"],
        endosome=nearest["endosome"],
        cristae=cristae,
        membrane=np.maximum(membrane, sheet),
        vesicle=_draw_vesicles(rng, free),
        tone=tone,
    )


def _acquire(tissue: _Tissue, microscope: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Image the tissue; return uint8 (Z, H, W)."""
    m, shape = microscope, tissue.tone.shape

    def blend(image: np.ndarray, grey: float | np.ndarray, weight: np.ndarray) -> np.ndarray:
        return image + weight * (grey - image)

    def filled(distance: np.ndarray) -> np.ndarray:
        return np.clip(0.5 - distance, 0, 1)

    def wall(distance: np.ndarray, width: float) -> np.ndarray:
        return np.exp(-((distance / width) ** 2))

    image = m.cytoplasm + m.cell_variation * tissue.tone
    image = blend(image, m.membrane, 0.8 * np.maximum(tissue.vesicle, 0))
    image = blend(image, 1.1 * m.cytoplasm, np.maximum(-tissue.vesicle, 0))
    image = blend(image, m.membrane, tissue.membrane)
    image = blend(image, m.matrix + m.cristae * tissue.cristae, filled(tissue.mitochondrion))
    image = blend(image, m.rim, wall(tissue.mitochondrion + 1, 1.5))
    mottle = 0.06 * _smooth_noise(rng, shape, 2.5, 1)
    image = blend(image, m.dense_body + mottle, filled(tissue.dense))
    image = blend(image, m.endosome + mottle, filled(tissue.endosome))
    image = blend(image, m.membrane, 0.8 * wall(tissue.endosome, 1.2))
    image += m.texture * _smooth_noise(rng, shape, m.texture_scale, 0.5)
    image = ndimage.gaussian_filter(image, (0, m.blur, m.blur))
    image += m.shading * _smooth_noise(rng, shape, 60, 2)
    image += m.curtain * _smooth_noise(rng, (shape[0], 1, shape[2]), 1.5, 0)
    image = np.clip(image, 0, 1) ** m.gamma
    image += m.gaussian_noise * rng.standard_normal(shape, dtype=np.float32)
    image += m.shot_noise * np.sqrt(np.clip(image, 0, 1)) * rng.standard_normal(shape, np.float32)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def make_volume(
    seed: int,
    shape: tuple[int, int, int] = (16, 256, 256),
    microscope: Microscope = SOURCE_MICROSCOPE,
) -> tuple[np.ndarray, np.ndarray]:
    """Generate a stack of sections with its mitochondria labels.

    Args:
        seed: non-negative; determines the tissue and the noise. The tissue does not depend on the
            microscope.
        shape: (Z, H, W): sections, rows and columns; H and W at least 64.
        microscope: images the tissue.

    Returns:
        images, uint8 (Z, H, W) in 0..255, and labels, uint8 (Z, H, W), 255 inside mitochondria
        (outer membrane included) and 0 elsewhere. Mitochondria fill about 8 to 15 % of a volume.
    """
    tissue = _make_tissue(seed, shape)
    images = _acquire(tissue, microscope, np.random.default_rng([seed, 1]))
    return images, np.where(tissue.mitochondrion < 0, 255, 0).astype(np.uint8)


def write_sections(folder: Path, volume: np.ndarray) -> None:
    """Write a volume, uint8 (Z, H, W), as 8-bit grey `000.png`, `001.png`, ... in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, section in enumerate(volume):
        write_picture(folder / f"{index:03d}.png", section)
