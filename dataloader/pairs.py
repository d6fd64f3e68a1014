"""Training pairs: two sections of a volume, cropped and augmented alike."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from dataloader.augment import PairAugmentation
from dataloader.domain_randomisation import other_microscope
from dataloader.volume import Volume, normalise
from utils.errors import UserError

TILE_MARGIN = 100  # pixels round a crop of a tiled volume, so that a rotation has content to bring
Transfer = Callable[[np.ndarray], np.ndarray]  # of an image (H, W), float32 in [0, 1]
PLAIN, LOOK, CUT = 1, 2, 3  # tell the draws of plain pairs, of looks and of cuts from those of
# samples


class Area(NamedTuple):
    """A rectangle of a section, in pixels."""

    y: int
    x: int
    height: int
    width: int


class Draw(NamedTuple):
    """What a sample is made from.

    Attributes:
        pair: current and auxiliary section.
        area: the part of them that becomes the sample, by augmentation or as it is.
        around: the part that an augmentation would see; ``area`` is it or lies in it.
        seed: of the augmentation.
        augmented: whether there is one.
    """

    pair: tuple[int, int]
    area: Area
    around: Area
    seed: int
    augmented: bool


class Look(NamedTuple):
    """How samples of a volume look otherwise than the volume.

    Attributes:
        random: as other microscopes might show them (``dataloader.domain_randomisation``); of
            labelled volumes.
        transfer: what is done to each section to look like another volume.
    """

    random: bool = False
    transfer: Transfer | None = None


AS_IT_IS = Look()


class PairDataset(Dataset):
    """Pairs (k, k + stride) of a volume, k uniform, as augmented crops.

    Every draw of sample number n is made from (seed, n): samples repeat with the seed, whatever
    the number of workers, and no two workers or epochs draw alike.

    Args:
        images: the sections.
        labels: their masks, of 0 and 1, or None: the target's are never read in training, where
            they may be pseudo labels.
        stride: sections between current and auxiliary.
        crop: side of the crops, pixels.
        seed: what the draws are made from, several numbers.
        length: number of samples.
        look: how samples look.

    Attributes:
        cuts: pairs of the same tissue, cut otherwise, as long: each sample is of this dataset or
            of one of those, all as likely.

    Raises:
        UserError: a volume with too few sections or too small, or labels of another shape.
    """

    def __init__(
        self,
        images: Volume,
        labels: Volume | None,
        stride: int,
        crop: int,
        seed: tuple[int, ...],
        length: int,
        look: Look = AS_IT_IS,
    ) -> None:
        if len(images) <= stride:
            raise UserError(
                f"{images.path}: found {len(images)} sections, expected more than the stride of "
                f"{stride} between the two of a pair"
            )
        check_crop_fits(images, crop)
        if labels is not None:
            check_same_shape(images, labels)
        self.images, self.labels = images, labels
        self.stride, self.crop, self.seed, self.length = stride, crop, seed, length
        self.look = look
        self.cuts: tuple[PairDataset, ...] = ()
        self.augment = PairAugmentation(crop, "centre" if images.tiled else "random")

    def labelled(self, labels: Volume, cuts: tuple["PairDataset", ...] = ()) -> "PairDataset":
        """The same pairs with labels, and with pairs of the same tissue cut otherwise."""
        pairs = copy.copy(self)
        pairs.labels, pairs.cuts = labels, cuts
        return pairs

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Sample ``number``.

        Returns:
            ``images`` (2, crop, crop) float32 in [0, 1]; with labels also ``masks``
            (2, crop, crop) uint8 of 0 and 1.
        """
        if (cut := self._cut(number)) is not self:
            return cut[number]
        draw = self._draw(number)
        pair, area = draw.pair, draw.area
        images = np.stack([self._image(k, area, draw.around) for k in pair])
        masks = (
            np.stack([self.labels.crop(k, *area) for k in pair])
            if self.labels is not None
            else None
        )
        if draw.augmented:
            images, masks = self.augment(images, masks, draw.seed)
        if self.look.random:
            draw = np.random.default_rng((*self.seed, number, LOOK))
            images, masks = other_microscope(images, masks, draw)
        return {"images": images} | ({} if masks is None else {"masks": masks})

    def plain(self, number: int) -> np.ndarray:
        """Crops (2, crop, crop) of a pair as they are, drawn from (seed, number) but otherwise."""
        draw = np.random.default_rng((*self.seed, number, PLAIN))
        first = int(draw.integers(len(self.images) - self.stride))
        height, width = self.images.shape[1:]
        y, x = (int(draw.integers(length - self.crop + 1)) for length in (height, width))
        area = Area(y, x, self.crop, self.crop)
        return np.stack([self._image(k, area, area) for k in (first, first + self.stride)])

    def describe(self, number: int) -> str:
        """Where sample ``number`` comes from: volume, sections, rows and columns."""
        if (cut := self._cut(number)) is not self:
            return cut.describe(number)
        draw, names = self._draw(number), self.images.names
        current, auxiliary = (f"{k} ({names[k]})" for k in draw.pair)
        y, x, height, width = draw.area
        return (
            f"{self.images.path}, sections {current} and {auxiliary}, rows {y} to "
            f"{y + height - 1}, columns {x} to {x + width - 1}"
            f"{', augmented' if draw.augmented else ''}"
        )

    def _cut(self, number: int) -> "PairDataset":
        """Which dataset sample ``number`` is of."""
        if not self.cuts:
            return self
        draw = np.random.default_rng((*self.seed, number, CUT))
        return (self, *self.cuts)[draw.integers(1 + len(self.cuts))]

    def _draw(self, number: int) -> "Draw":
        """What sample ``number`` is made from."""
        draw = np.random.default_rng((*self.seed, number))
        first = int(draw.integers(len(self.images) - self.stride))
        area = around = self._area(draw)
        seed = int(draw.integers(2**32))
        window = self.augment.plain_window((area.height, area.width), seed)
        if window is not None:  # read no more than what is kept
            rows, columns = window
            area = Area(area.y + rows.start, area.x + columns.start, self.crop, self.crop)
        return Draw((first, first + self.stride), area, around, seed, window is None)

    def _area(self, draw: np.random.Generator) -> Area:
        """What the augmentation sees: a whole section, or a part of a tiled one."""
        height, width = self.images.shape[1:]
        if not self.images.tiled:
            return Area(0, 0, height, width)
        side = min(self.crop + 2 * TILE_MARGIN, height, width)
        y, x = (int(draw.integers(length - side + 1)) for length in (height, width))
        return Area(y, x, side, side)

    def _image(self, index: int, area: Area, around: Area) -> np.ndarray:
        """A part of a section, float32, scaled as published.

        By the range of the whole section; of a tiled volume by that of the part ``around`` it.
        """
        images = self.images
        if images.tiled:
            seen = images.crop(index, *around)
            y, x = area.y - around.y, area.x - around.x
            part = seen[y : y + area.height, x : x + area.width]
            image = normalise(part, images.range_of(index, seen))
        else:
            image = normalise(images.crop(index, *area), images.grey_range(index))
        return self.look.transfer(image) if self.look.transfer else image


def check_crop_fits(images: Volume, crop: int) -> None:
    """Demand sections of at least ``crop`` pixels a side; raises UserError."""
    height, width = images.shape[1:]
    if min(height, width) < crop:
        raise UserError(
            f"{images.path}: sections of {height} x {width} pixels are smaller than the crop of "
            f"{crop}; set DATA.input_size"
        )


def check_same_shape(images: Volume, labels: Volume) -> None:
    """Demand a mask for every section; raises UserError."""
    if images.shape != labels.shape:
        raise UserError(
            f"{labels.path}: labels of shape {labels.shape} do not fit {images.path} of shape "
            f"{images.shape} (sections, height, width)"
        )
