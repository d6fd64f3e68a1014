"""Training pairs: two sections of a volume, cropped and augmented alike."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from dataloader.augment import AUGMENTED_FRACTION, PairAugmentation
from dataloader.class_randomisation import randomise_class
from dataloader.domain_randomisation import randomise_domain
from dataloader.volume import Volume, normalise
from utils.errors import UserError
from utils.ignore import IGNORE, ignoring

TILE_MARGIN = 100  # pixels around a crop of a tiled volume: tissue for rotations to bring in
Transfer = Callable[[np.ndarray], np.ndarray]  # of an image (H, W), float32 in [0, 1]
# Appended to a sample's seed: each purpose has its own random numbers.
PLAIN, APPEARANCE, OWNER, RETRY, CLASS = 1, 2, 3, 4, 5
MOSTLY_BLANK = 0.5  # a crop with a larger blank fraction is drawn again
TRIES = 32  # draws at most; then the least blank one is used


class Area(NamedTuple):
    """A rectangle of a section, in pixels."""

    y: int
    x: int
    height: int
    width: int


class Sampling(NamedTuple):
    """How pairs are drawn from a volume.

    Attributes:
        stride: sections between the current and the auxiliary one.
        crop: side of the crops, pixels.
        seed: numbers that seed every sample, together with the sample's own number.
        length: number of samples.
        augmented: fraction of the samples that are augmented.
    """

    stride: int
    crop: int
    seed: tuple[int, ...]
    length: int
    augmented: float = AUGMENTED_FRACTION


class Draw(NamedTuple):
    """The random choices behind one sample.

    Attributes:
        pair: indices of the current and the auxiliary section.
        area: the part of both sections that is read, then augmented if ``augmented``.
        around: the part that an augmentation would see. It contains ``area``.
        seed: of the augmentation.
        augmented: whether the sample is augmented.
    """

    pair: tuple[int, int]
    area: Area
    around: Area
    seed: int
    augmented: bool


class Appearance(NamedTuple):
    """Changes of a volume's samples besides the augmentation.

    Attributes:
        random: apply domain randomisation (``dataloader.domain_randomisation``); requires labels.
        transfer: applied to each section, such as histogram matching; None: nothing.
        random_class: change the mitochondria alone (``dataloader.class_randomisation``); requires
            labels.
    """

    random: bool = False
    transfer: Transfer | None = None
    random_class: bool = False


UNCHANGED = Appearance()


class PairDataset(Dataset):
    """Pairs (k, k + stride) of a volume, k uniform, as augmented crops.

    Sample n is drawn from (seed, n). It does not depend on the number of workers, and no two
    samples share their random numbers. Crops that are mostly blank (``dataloader.blank``) are
    drawn again.

    Args:
        images: the sections.
        labels: their masks of 0, 1 and 255 (``utils.ignore``); None: unlabelled. Training never
            reads labels of the target; it may use pseudo labels.
        sampling: how pairs are drawn.
        appearance: changes of the samples besides the augmentation.

    Attributes:
        others: datasets of the same length, such as other volumes, or the same one along other
            slicing axes. Each sample comes from this dataset or one of those, with equal
            probability.

    Raises:
        UserError: the volume has too few sections or they are smaller than the crop, or the labels
            have another shape.
    """

    def __init__(
        self,
        images: Volume,
        labels: Volume | None,
        sampling: Sampling,
        appearance: Appearance = UNCHANGED,
    ) -> None:
        if len(images) <= sampling.stride:
            raise UserError(
                f"{images.where}: found {len(images)} sections, expected more than the stride of "
                f"{sampling.stride} between the two of a pair"
            )
        check_crop_fits(images, sampling.crop)
        if labels is not None:
            check_same_shape(images, labels)
        self.images, self.labels = images, labels
        self.sampling, self.appearance = sampling, appearance
        # Asked once: all samples of a batch must have the same keys.
        self.blank = images.may_be_blank
        self.others: tuple[PairDataset, ...] = ()
        crop_at = "centre" if images.tiled else "random"
        self.augment = PairAugmentation(sampling.crop, crop_at, sampling.augmented)

    def labelled(self, labels: Volume, others: tuple["PairDataset", ...] = ()) -> "PairDataset":
        """A copy of the dataset with labels, which shares its samples with others."""
        pairs = copy.copy(self)
        pairs.labels, pairs.others = labels, others
        return pairs

    @property
    def members(self) -> tuple["PairDataset", ...]:
        """This dataset and those that it shares its samples with."""
        return (self, *self.others)

    @property
    def fork_safe(self) -> bool:
        """Whether a forked process can read all volumes."""
        volumes = [v for pairs in self.members for v in (pairs.images, pairs.labels)]
        return all(volume.fork_safe for volume in volumes if volume is not None)

    def __len__(self) -> int:
        return self.sampling.length

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Sample ``number``.

        Returns:
            ``images`` (2, crop, crop) float32 in [0, 1]. With labels also ``masks``
            (2, crop, crop) uint8: 0, 1 and 255 for ignored pixels. Without labels, if the volume
            may have blank areas, also ``ignored`` (2, crop, crop) bool.
        """
        if (pairs := self._owner(number)) is not self:
            return pairs[number]
        draw = self._draw(number)
        images, masks = self._images(draw), self._masks(draw)
        if draw.augmented:
            images, masks = self.augment(images, masks, draw.seed)
        if self.appearance.random_class:
            rng = np.random.default_rng((*self.sampling.seed, number, CLASS))
            images = randomise_class(images, masks, rng)
        if self.appearance.random:
            rng = np.random.default_rng((*self.sampling.seed, number, APPEARANCE))
            images, masks = randomise_domain(images, masks, rng)
        if masks is None:
            return {"images": images}
        if self.labels is None:
            return {"images": images, "ignored": masks == IGNORE}
        return {"images": images, "masks": masks}

    def plain(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Crops of a pair without augmentation, independent of sample ``number``.

        Returns:
            Images (2, crop, crop) float32 in [0, 1], and bool (2, crop, crop), True where pixels
            are ignored.
        """
        draw = self._least_blank((*self.sampling.seed, number, PLAIN), self._plain_draw)
        images, masks = self._images(draw), self._masks(draw)
        return images, np.zeros(images.shape, bool) if masks is None else masks == IGNORE

    def describe(self, number: int) -> str:
        """Where sample ``number`` comes from: volume, sections, rows and columns."""
        if (pairs := self._owner(number)) is not self:
            return pairs.describe(number)
        draw, names = self._draw(number), self.images.names
        current, auxiliary = (f"{k} ({names[k]})" for k in draw.pair)
        y, x, height, width = draw.area
        return (
            f"{self.images.where}, sections {current} and {auxiliary}, rows {y} to "
            f"{y + height - 1}, columns {x} to {x + width - 1}"
            f"{', augmented' if draw.augmented else ''}"
        )

    def _owner(self, number: int) -> "PairDataset":
        """The dataset that sample ``number`` comes from."""
        if not self.others:
            return self
        rng = np.random.default_rng((*self.sampling.seed, number, OWNER))
        return self.members[rng.integers(len(self.members))]

    def _draw(self, number: int) -> Draw:
        """The random choices behind sample ``number``."""
        return self._least_blank((*self.sampling.seed, number), self._sample_draw)

    def _least_blank(
        self, seed: tuple[int, ...], make: Callable[[np.random.Generator], Draw]
    ) -> Draw:
        """The first draw that is not mostly blank, or the least blank of ``TRIES`` draws."""
        best, least = make(np.random.default_rng(seed)), 0.0
        if self.blank:
            least = self._blank_share(best)
        for attempt in range(1, TRIES):
            if least <= MOSTLY_BLANK:
                break
            draw = make(np.random.default_rng((*seed, RETRY, attempt)))
            if (share := self._blank_share(draw)) < least:
                best, least = draw, share
        return best

    def _blank_share(self, draw: Draw) -> float:
        """Blank fraction of the sample that a draw gives: the larger of its two sections'."""
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
        pair, crop = self._pair(rng), self.sampling.crop
        y, x = (int(rng.integers(side - crop + 1)) for side in self.images.shape[1:])
        area = Area(y, x, crop, crop)
        return Draw(pair, area, area, 0, False)

    def _sample_draw(self, rng: np.random.Generator) -> Draw:
        pair, crop = self._pair(rng), self.sampling.crop
        area = around = self._area(rng)
        seed = int(rng.integers(2**32))
        window = self.augment.plain_window((area.height, area.width), seed)
        if window is not None:  # read only what is kept
            rows, columns = window
            area = Area(area.y + rows.start, area.x + columns.start, crop, crop)
        return Draw(pair, area, around, seed, window is None)

    def _pair(self, rng: np.random.Generator) -> tuple[int, int]:
        first = int(rng.integers(len(self.images) - self.sampling.stride))
        return first, first + self.sampling.stride

    def _area(self, rng: np.random.Generator) -> Area:
        """The part that the augmentation sees: a whole section, or a square of a tiled one."""
        height, width = self.images.shape[1:]
        if not self.images.tiled:
            return Area(0, 0, height, width)
        side = min(self.sampling.crop + 2 * TILE_MARGIN, height, width)
        y, x = (int(rng.integers(length - side + 1)) for length in (height, width))
        return Area(y, x, side, side)

    def _images(self, draw: Draw) -> np.ndarray:
        """The area of both sections, (2, height, width)."""
        return np.stack([self._image(k, draw.area, draw.around) for k in draw.pair])

    def _masks(self, draw: Draw) -> np.ndarray | None:
        """The masks of the area, background where there are no labels.

        None without labels if no pixel is ignored.
        """
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
        """A part of a section, float32 in [0, 1].

        Scaled as published: by the range of the whole section, or in a tiled volume by the range
        of ``around``.
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
    """Raise UserError if the sections are smaller than the crop."""
    height, width = images.shape[1:]
    if min(height, width) < crop:
        raise UserError(
            f"{images.where}: sections of {height} x {width} pixels are smaller than the crop of "
            f"{crop}; set DATA.input_size"
        )


def check_same_shape(images: Volume, labels: Volume) -> None:
    """Raise UserError if the labels do not have the shape of the images."""
    if images.shape != labels.shape:
        raise UserError(
            f"{labels.where}: labels of shape {labels.shape} do not fit {images.where} of shape "
            f"{images.shape} (sections, height, width)"
        )
