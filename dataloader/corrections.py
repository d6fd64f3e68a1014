"""Corrected masks of some sections of the target, and training pairs with them.

A section that is not corrected is absent, blank, or marked as ignored (``utils.ignore``); a part of
a section can be marked as ignored as well. None of these pixels counts in a loss.
"""

import numpy as np

from dataloader.pairs import Draw, PairDataset, Sampling
from dataloader.partial_labels import PartialLabels, places_by_name
from dataloader.volume import Volume
from utils.errors import UserError
from utils.ignore import IGNORE


class CorrectedSections(PartialLabels):
    """Masks of 0, 1 and 255 for all sections of the target, 255 where there is no correction.

    Args:
        masks: the corrected sections: those of the target in a folder, found by their names, or a
            stack of as many sections as the target has. At the working pixel size.
        target: the sections.
        folder: whether ``masks`` are a folder of sections.

    Attributes:
        corrected: indices of the sections with at least one pixel of mitochondria.

    Raises:
        UserError: the corrections do not fit the target, or none of them holds mitochondria.
    """

    def __init__(self, masks: Volume, target: Volume, folder: bool) -> None:
        if masks.shape[1:] != target.shape[1:]:
            raise UserError(
                f"{masks.where}: sections of {masks.shape[1]} x {masks.shape[2]} pixels, expected "
                f"{target.shape[1]} x {target.shape[2]} as in {target.where}"
            )
        places = places_by_name(masks, target) if folder else _in_order(masks, target)
        filled = {k: n for k, n in places.items() if np.any(masks.section(n) == 1)}
        super().__init__(masks, target.shape, filled)
        self.corrected = list(filled)
        if not self.corrected:
            raise UserError(f"{masks.where}: no section with mitochondria, so nothing is corrected")


def _in_order(masks: Volume, target: Volume) -> dict[int, int]:
    if len(masks) != len(target):
        raise UserError(
            f"{masks.where}: found {len(masks)} sections, expected {len(target)} as in "
            f"{target.where}, blank where nothing is corrected; or a folder with the corrected "
            "sections alone, named as those of the target"
        )
    return {index: index for index in range(len(target))}


class CorrectedPairs(PairDataset):
    """Pairs with at least one corrected section, in crops that show corrected pixels.

    A crop is drawn again if more than half of it is ignored in both sections.

    Args:
        images: the sections of the target.
        labels: their corrections.
        sampling: how pairs are drawn.

    Raises:
        UserError: as for ``PairDataset``, or no pair has a corrected section.
    """

    def __init__(self, images: Volume, labels: CorrectedSections, sampling: Sampling) -> None:
        super().__init__(images, labels, sampling)
        self.blank = True  # draw crops again
        firsts = range(len(images) - sampling.stride)
        known = set(labels.corrected)
        self.pairs = [(k, k + sampling.stride) for k in firsts if {k, k + sampling.stride} & known]
        if not self.pairs:
            raise UserError(
                f"{labels.where}: no corrected section is in a pair of two sections that are "
                f"{sampling.stride} apart (DATA.target_stride)"
            )

    def _pair(self, rng: np.random.Generator) -> tuple[int, int]:
        return self.pairs[rng.integers(len(self.pairs))]

    def _blank_share(self, draw: Draw) -> float:
        masks = self._masks(draw)
        if draw.augmented:
            _, masks = self.augment(np.zeros(masks.shape, np.float32), masks, draw.seed)
        return float((masks == IGNORE).mean((1, 2)).min())
