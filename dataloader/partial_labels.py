"""Labels of some sections of a volume."""

from pathlib import Path

import numpy as np

from dataloader.volume import DerivedVolume, MaskVolume, Volume
from utils.errors import UserError
from utils.ignore import IGNORE


class PartialLabels(DerivedVolume):
    """Masks of 0, 1 and 255 for all sections of a volume, 255 where a section has no labels.

    Args:
        masks: of the labelled sections.
        shape: of the volume, (sections, height, width).
        places: of the labelled sections in ``masks``, by their index in the volume.
    """

    def __init__(self, masks: Volume, shape: tuple[int, int, int], places: dict[int, int]) -> None:
        super().__init__(masks, shape)
        self.places = places

    def section(self, index: int) -> np.ndarray:
        return self.crop(index, 0, 0, *self.shape[1:])

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        if index in self.places:
            return self.volume.crop(self.places[index], y, x, height, width)
        rows, columns = (range(side) for side in self.shape[1:])
        shape = len(rows[y : y + height]), len(columns[x : x + width])
        return np.full(shape, IGNORE, np.uint8)


def places_by_name(masks: Volume, images: Volume) -> dict[int, int]:
    """Place in a folder of masks of each of the images' sections that it holds.

    Raises:
        UserError: a mask has the name of no section.
    """
    sections = {Path(name).stem: index for index, name in enumerate(images.names)}
    places = {}
    for place, name in enumerate(masks.names):
        if (stem := Path(name).stem) not in sections:
            raise UserError(
                f"{masks.path}/{name}: no section of {images.where} has this name; expected a name "
                f"such as {images.names[0]}"
            )
        places[sections[stem]] = place
    return places


def labels_to_score(masks: MaskVolume, images: Volume) -> Volume:
    """The labels of a volume: as they are, or of the sections that a smaller folder names.

    Args:
        masks, images: on the same grid.

    Raises:
        UserError: a mask has the name of no section.
    """
    few = len(masks) < len(images) and masks.shape[1:] == images.shape[1:]
    if not (few and masks.kind == images.kind == "folder"):
        return masks
    return PartialLabels(masks, images.shape, places_by_name(masks, images))
