"""Predictions joined over depth: what is a mitochondrion here is one 20 nm below as well.

    q_i = mean of p_j,   |j - i| <= (n - 1) / 2,   n the odd number nearest to t / spacing

of the probabilities p of single sections, with t the depth, and fewer at the volume's ends. The 50
nm of an ssTEM section, in which source labels are drawn, are ten sections of a FIB-SEM volume, each
predicted by itself with mistakes of its own. Where sections are far apart, n is 1: nothing changes.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from dataloader.roles import Role, section_spacing
from dataloader.volume import Volume
from utils.config.schema import Config
from utils.errors import UserError


def sections_in(thickness: float, spacing: float) -> int:
    """The odd number of sections ``spacing`` apart that is nearest to a thickness, both in nm.

    Of two that are as near it is the smaller, so that the mean is over no more than the thickness:
    9 where 50 nm are 10 sections.
    """
    sections = round(thickness / spacing, 6)  # 4.2 / 0.7 is 6.000000000000001
    return max(1, 2 * math.ceil(sections / 2) - 1)


def choose_count(config: Config, volume: Volume, role: Role) -> int:
    """How many sections ``TEST.depth`` is; 1 without it.

    Raises:
        UserError: nobody knows how far apart they are.
    """
    depth = config.TEST.depth
    if depth is None:
        return 1
    spacing = section_spacing(config.DATA, role, volume.original)
    if spacing is None:
        raise UserError(
            f"TEST.depth: found {depth:g} nm, but how far apart the sections of {volume.path} are "
            "is unknown; set DATA.section_spacing_target, or TEST.depth to null"
        )
    return sections_in(depth, spacing)


def over_depth(
    read: Callable[[int], np.ndarray], sections: int, count: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The mean of each section and its neighbours.

    Args:
        read: a section's probability (H, W) float32; called once for each, in order.
        sections: how many there are.
        count: an odd number of sections, whose mean one is; so many are held.

    Yields:
        (index, mean (H, W) float32), in order.
    """
    half = count // 2
    near: dict[int, np.ndarray] = {}
    for index in range(sections):
        wanted = range(max(0, index - half), min(sections, index + half + 1))
        near.pop(wanted.start - 1, None)
        for k in wanted:
            if k not in near:
                near[k] = read(k)
        total = np.zeros_like(near[index])
        for k in wanted:
            total += near[k]
        yield index, total / np.float32(len(wanted))
