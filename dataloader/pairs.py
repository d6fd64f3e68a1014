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
from utils.ignore import IGNORE, ignoring

TILE_MARGIN = 100  # pixels round a crop of a tiled volume, so that a rotation has content to bring
Transfer = Callable[[np.ndarray], np.ndarray]  # of an image (H, W), float32 in [0, 1]
# Added to a sample's seed, so that each purpose has random numbers of its own.
PLAIN, APPEARANCE, AXIS, RETRY = 1, 2, 3, 4
MOSTLY = 0.5  # a crop of which more is blank is drawn again
TRIES = 32  # so often at most; then the least blank one is taken


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


class Appearance(NamedTuple):
    """How samples of a volume look otherwise than the volume.

    Attributes:
        random: as other microscopes might show them (``dataloader.domain_randomisation``); of
            labelled volumes.
        transfer: what is done to each section to look like another volume.
    """

    random: bool = False
    transfer: Transfer | None = None


AS_IT_IS = Appearance()


class PairDataset(Dataset):
    """Pairs (k, k + stride) of a volume, k uniform, as augmented crops.

    Every draw of sample number n is made from (seed, n): samples repeat with the seed, whatever
    the number of workers, and no two workers or epochs draw alike. Crops that are mostly blank
    (``dataloader.blank``) are drawn again, from (seed, n) as well.

    Args:
        images: the sections.
        labels: their masks, of 0, 1 and 255 (``utils.ignore``), or None: the target's are never
            read in training, where they may be pseudo labels.
        stride: sections between current and auxiliary.
        crop: side of the crops, pixels.
        seed: what the draws are made from, several numbers.
        length: number of samples.
        appearance: how samples differ in appearance from the volume.

    Attributes:
        other_axes: equally long datasets of the same tissue along other slicing axes. Each sample
            comes from this dataset or one of those, with equal probability.

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
        appearance: Appearance = AS_IT_IS,
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
        self.appearance = appearance
        self.blank = images.may_be_blank  # as it is now, so that the samples of a batch are alike
        self.other_axes: tuple[PairDataset, ...] = ()
        self.augment = PairAugmentation(crop, "centre" if images.tiled else "random")

    def labelled(self, labels: Volume, other_axes: tuple["PairDataset", ...] = ()) -> "PairDataset":
        """The same pairs with labels, and with those of other slicing axes."""
        pairs = copy.copy(self)
        pairs.labels, pairs.other_axes = labels, other_axes
        return pairs

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Sample ``number``.

        Returns:
            ``images`` (2, crop, crop) float32 in [0, 1]; with labels also ``masks``
            (2, crop, crop) uint8 of 0 and 1, and 255 where pixels do not count; without labels,
            of a volume that may have blank areas, ``ignored`` (2, crop, crop) bool.
        """
        if (pairs := self._of_axis(number)) is not self:
            return pairs[number]
        draw = self._draw(number)
        images, masks = self._images(draw), self._masks(draw)
        if draw.augmented:
            images, masks = self.augment(images, masks, draw.seed)
        if self.appearance.random:
            rng = np.random.default_rng((*self.seed, number, APPEARANCE))
            images, masks = other_microscope(images, masks, rng)
        if masks is None:
            return {"images": images}
        if self.labels is None:
            return {"images": images, "ignored": masks == IGNORE}
        return {"images": images, "masks": masks}

    def plain(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Crops of a pair as they are, drawn from (seed, number) but otherwise.

        Returns:
            (2, crop, crop) float32 in [0, 1], and where they do not count, bool.
        """
        draw = self._least_blank((*self.seed, number, PLAIN), self._plain_draw)
        images, masks = self._images(draw), self._masks(draw)
        return images, np.zeros(images.shape, bool) if masks is None else masks == IGNORE

    def describe(self, number: int) -> str:
        """Where sample ``number`` comes from: volume, sections, rows and columns."""
        if (pairs := self._of_axis(number)) is not self:
            return pairs.describe(number)
        draw, names = self._draw(number), self.images.names
        current, auxiliary = (f"{k} ({names[k]})" for k in draw.pair)
        y, x, height, width = draw.area
        return (
            f"{self.images.path}, sections {current} and {auxiliary}, rows {y} to "
            f"{y + height - 1}, columns {x} to {x + width - 1}"
            f"{', augmented' if draw.augmented else ''}"
        )

    def _of_axis(self, number: int) -> "PairDataset":
        """Which dataset sample ``number`` is of."""
        if not self.other_axes:
            return self
        rng = np.random.default_rng((*self.seed, number, AXIS))
        return (self, *self.other_axes)[rng.integers(1 + len(self.other_axes))]

    def _draw(self, number: int) -> Draw:
        """What sample ``number`` is made from."""
        return self._least_blank((*self.seed, number), self._sample_draw)

    def _least_blank(
        self, seed: tuple[int, ...], make: Callable[[np.random.Generator], Draw]
    ) -> Draw:
        """The first of some draws that is not mostly blank, or else the least blank one."""
        best, least = make(np.random.default_rng(seed)), 0.0
        if self.blank:
            least = self._blank_share(best)
        for further in range(1, TRIES):
            if least <= MOSTLY:
                break
            draw = make(np.random.default_rng((*seed, RETRY, further)))
            if (share := self._blank_share(draw)) < least:
                best, least = draw, share
        return best

    def _blank_share(self, draw: Draw) -> float:
        """How much is blank of the sample that a draw gives: of the section of which more is."""
        parts = [self.images.blank_crop(k, *draw.area) for k in draw.pair]
        if all(part is None for part in parts):
            return 0.0
        shape = draw.area.height, draw.area.width
        blank = np.stack([np.zeros(shape) if part is None else part for part in parts])
        blank = blank.astype(np.uint8)
        if draw.augmented:
            _, blank = self.augment(blank.astype(np.float32), blank, draw.seed)
        return float(blank.mean((1, 2)).max())

    def _plain_draw(self, rng: np.random.Generator) -> Draw:
        first = int(rng.integers(len(self.images) - self.stride))
        height, width = self.images.shape[1:]
        y, x = (int(rng.integers(length - self.crop + 1)) for length in (height, width))
        area = Area(y, x, self.crop, self.crop)
        return Draw((first, first + self.stride), area, area, 0, False)

    def _sample_draw(self, rng: np.random.Generator) -> Draw:
        first = int(rng.integers(len(self.images) - self.stride))
        area = around = self._area(rng)
        seed = int(rng.integers(2**32))
        window = self.augment.plain_window((area.height, area.width), seed)
        if window is not None:  # read no more than what is kept
            rows, columns = window
            area = Area(area.y + rows.start, area.x + columns.start, self.crop, self.crop)
        return Draw((first, first + self.stride), area, around, seed, window is None)

    def _area(self, rng: np.random.Generator) -> Area:
        """What the augmentation sees: a whole section, or a part of a tiled one."""
        height, width = self.images.shape[1:]
        if not self.images.tiled:
            return Area(0, 0, height, width)
        side = min(self.crop + 2 * TILE_MARGIN, height, width)
        y, x = (int(rng.integers(length - side + 1)) for length in (height, width))
        return Area(y, x, side, side)

    def _images(self, draw: Draw) -> np.ndarray:
        """The part of both sections, (2, height, width)."""
        return np.stack([self._image(k, draw.area, draw.around) for k in draw.pair])

    def _masks(self, draw: Draw) -> np.ndarray | None:
        """Its masks, those of background where there are no labels; None: all of that counts."""
        if self.labels is None and not self.blank:
            return None
        area, masks = draw.area, []
        for k in draw.pair:
            if self.labels is None:
                mask = np.zeros((area.height, area.width), np.uint8)
            else:
                mask = self.labels.crop(k, *area)
            masks.append(ignoring(mask, self.images.blank_crop(k, *area) if self.blank else None))
        return np.stack(masks)

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
        return self.appearance.transfer(image) if self.appearance.transfer else image


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
