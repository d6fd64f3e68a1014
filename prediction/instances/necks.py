"""Part a component at its narrow necks."""

import math

import numpy as np
from scipy import ndimage
from scipy.cluster.hierarchy import DisjointSet

from prediction.instances.runs import along, connected, runs_of
from utils.optional import wanted

PURPOSE = "for --instances"
FACES = ndimage.generate_binary_structure(3, 1)
WIDEST_TESTED = 0.5  # neck, above which the levels of ``may_part`` cost more than they save
MARGIN = 1.5  # of the largest side of a voxel, by which a neck is narrower than the body
ROUNDING = 1e-4  # of distances, relative; more than float32 makes


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
    if neck <= WIDEST_TESTED and not may_part(mask, distances, neck):
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
    margin = MARGIN * max(distances)
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


def may_part(mask: np.ndarray, distances: tuple[float, float, float], neck: float) -> bool:
    """Whether ``part`` may find a neck; False is certain, and costs a fifth of it.

    At the highest saddle s that parts two bodies, s < ``neck * d``, d being the lower one's
    maximum. Of levels that fall by the root of ``neck``, two lie above s and not above d. The
    voxels at or above the lower of them then have two components that reach the higher one. As d
    is more than a margin, levels that fall below ``neck`` times the margin need not be looked at.

    Args:
        mask, distances, neck: as for ``part``; ``neck`` < 1.
    """
    edt = wanted("edt", PURPOSE)
    distance = edt.edt(mask.view(np.uint8), anisotropy=distances, black_border=False)
    ratio = math.sqrt(neck * (1 + ROUNDING))
    level = float(distance.max()) * ratio
    least = neck * MARGIN * max(distances)
    while level > max(least, min(distances)):  # which all voxels of the mask have
        runs = runs_of(distance >= level)
        count, body = connected(runs, *mask.shape[1:])
        if count > 1:
            peaks = np.zeros(count, np.float32)
            np.maximum.at(peaks, body, along(runs, distance, np.maximum))
            if np.count_nonzero(peaks >= level / ratio * (1 - ROUNDING)) > 1:
                return True
        level *= ratio
    return False


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
