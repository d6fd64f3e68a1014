"""Averages of predictions over neighbouring sections, which show the same mitochondria.

    q_i = mean of p_j,   |j - i| <= (n - 1) / 2,   n the odd number nearest to t / spacing

p are the probabilities of single sections, and t is the thickness ``TEST.z_average``. At the ends
of a volume fewer sections are averaged. Source labels drawn on an ssTEM section cover 50 nm, which
are ten sections of a FIB-SEM volume. These are predicted separately, and their errors differ. Where
sections are thicker than t, n is 1 and nothing changes.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from dataloader.roles import Role, section_spacing
from dataloader.volume import Volume
from utils.config.schema import Config
from utils.errors import UserError


def sections_in(thickness: float, spacing: float) -> int:
    """The odd number of sections nearest to a thickness.

    Of two that are equally near, the smaller is taken: 9 if 50 nm are 10 sections.

    Args:
        thickness: nm.
        spacing: of the sections, nm.
    """
    sections = round(thickness / spacing, 6)  # 4.2 / 0.7 is 6.000000000000001
    return max(1, 2 * math.ceil(sections / 2) - 1)


def averaged_sections(config: Config, volume: Volume, role: Role) -> int:
    """How many sections ``TEST.z_average`` spans; 1 without it.

    Raises:
        UserError: the section spacing is unknown.
    """
    thickness = config.TEST.z_average
    if thickness is None:
        return 1
    spacing = section_spacing(config.DATA, role, volume.original)
    if spacing is None:
        raise UserError(
            f"TEST.z_average: found {thickness:g} nm, but the section spacing of {volume.where} is "
            "unknown; set DATA.section_spacing_target, or TEST.z_average to null"
        )
    return sections_in(thickness, spacing)


def z_averaged(
    read: Callable[[int], np.ndarray], sections: int, count: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The mean of each section and its neighbours.

    Args:
        read: returns a section's probability (H, W) float32; called once for each, in order.
        sections: number of sections.
        count: odd number of sections to average over; as many are held in memory.

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
