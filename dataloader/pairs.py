"""Training pairs: two sections of a volume, cropped and augmented alike."""

import atexit
import signal
from collections.abc import Callable, Iterable
from functools import cache
from multiprocessing import active_children
from typing import NamedTuple

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from dataloader.augment import PairAugmentation
from dataloader.domain_randomisation import other_microscope
from dataloader.volume import Volume, normalise
from utils.errors import UserError
from utils.ignore import IGNORE

TILE_MARGIN = 100  # pixels round a crop of a tiled volume, so that a rotation has content to bring
Transfer = Callable[[np.ndarray], np.ndarray]  # of an image (H, W), float32 in [0, 1]
# They tell the draws of plain pairs, of looks, of cuts and of further tries from those of samples.
PLAIN, LOOK, CUT, TRY = 1, 2, 3, 4
MOSTLY = 0.5  # a crop of which more is blank is drawn again
TRIES = 16  # at most; then the least blank one is taken


class Area(NamedTuple):
    """A rectangle of a section, in pixels."""

    y: int
    x: int
    height: int
    width: int


class Draw(NamedTuple):
    """What a sample is made from: two sections, the part of them that is read, what becomes of it.

    ``seed`` is the augmentation's, where there is one.
    """

    pair: tuple[int, int]
    area: Area
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
        self.blank = images.may_be_blank  # as of now, for all samples of a batch are alike
        self.cuts: tuple[PairDataset, ...] = ()
        self.augment = PairAugmentation(crop, "centre" if images.tiled else "random")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Sample ``number``.

        Returns:
            ``images`` (2, crop, crop) float32 in [0, 1]; with labels also ``masks``
            (2, crop, crop) uint8 of 0 and 1, and 255 where pixels do not count; without labels,
            of a volume that may have blank areas, ``ignored`` (2, crop, crop) bool.
        """
        if (cut := self._cut(number)) is not self:
            return cut[number]
        draw = self._draw(number)
        images, masks = self._read(draw.pair, draw.area)
        if draw.augmented:
            images, masks = self.augment(images, masks, draw.seed)
        if self.look.random:
            draw = np.random.default_rng((*self.seed, number, LOOK))
            images, masks = other_microscope(images, masks, draw)
        return self._sample(images, masks)

    def plain(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Crops (2, crop, crop) of a pair as they are, drawn from (seed, number) but otherwise.

        Beside them, bool of the same shape, where they do not count.
        """
        draws = (
            self._plain_draw(np.random.default_rng((*self.seed, number, PLAIN, *further)))
            for further in self._tries()
        )
        draw = self._least_blank(draws)
        images, masks = self._read(draw.pair, draw.area)
        return images, np.zeros(images.shape, bool) if masks is None else masks == IGNORE

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

    def _draw(self, number: int) -> Draw:
        """What sample ``number`` is made from."""
        draws = (
            self._sample_draw(np.random.default_rng((*self.seed, number, *further)))
            for further in self._tries()
        )
        return self._least_blank(draws)

    def _tries(self) -> list[tuple[int, ...]]:
        """What the seeds of a sample's tries end with."""
        return [(), *((TRY, n) for n in range(1, TRIES) if self.blank)]

    def _least_blank(self, draws: Iterable[Draw]) -> Draw:
        """The first one that is not mostly blank, or else the least blank one."""
        best, least = None, 2.0
        for draw in draws:
            share = self._blank_share(draw) if self.blank else 0.0
            if share < least:
                best, least = draw, share
            if least <= MOSTLY:
                break
        return best

    def _blank_share(self, draw: Draw) -> float:
        """How much is blank of the sample that a draw gives, of the section of which more is."""
        parts = [self.images.blank_crop(k, *draw.area) for k in draw.pair]
        if all(part is None for part in parts):
            return 0.0
        blank = np.zeros((2, draw.area.height, draw.area.width), np.uint8)
        for part, found in zip(blank, parts, strict=True):
            part[:] = 0 if found is None else found
        if draw.augmented:
            _, blank = self.augment(blank.astype(np.float32), blank, draw.seed)
        return float(blank.mean((1, 2)).max())

    def _plain_draw(self, draw: np.random.Generator) -> Draw:
        first = int(draw.integers(len(self.images) - self.stride))
        height, width = self.images.shape[1:]
        y, x = (int(draw.integers(length - self.crop + 1)) for length in (height, width))
        return Draw((first, first + self.stride), Area(y, x, self.crop, self.crop), 0, False)

    def _sample_draw(self, draw: np.random.Generator) -> Draw:
        first = int(draw.integers(len(self.images) - self.stride))
        area = self._area(draw)
        seed = int(draw.integers(2**32))
        window = self.augment.plain_window((area.height, area.width), seed)
        if window is not None:  # read no more than what is kept
            rows, columns = window
            area = Area(area.y + rows.start, area.x + columns.start, self.crop, self.crop)
        return Draw((first, first + self.stride), area, seed, window is None)

    def _area(self, draw: np.random.Generator) -> Area:
        """What the augmentation sees: a whole section, or a part of a tiled one."""
        height, width = self.images.shape[1:]
        if not self.images.tiled:
            return Area(0, 0, height, width)
        side = min(self.crop + 2 * TILE_MARGIN, height, width)
        y, x = (int(draw.integers(length - side + 1)) for length in (height, width))
        return Area(y, x, side, side)

    def _read(self, pair: tuple[int, int], area: Area) -> tuple[np.ndarray, np.ndarray | None]:
        """A part of two sections and, of what counts, their masks; None: there are none."""
        images = np.stack([self._image(k, area) for k in pair])
        if self.labels is None and not self.blank:
            return images, None
        masks = np.zeros((2, area.height, area.width), np.uint8)
        for mask, index in zip(masks, pair, strict=True):
            if self.labels is not None:
                mask[:] = self.labels.crop(index, *area)
            blank = self.images.blank_crop(index, *area) if self.blank else None
            if blank is not None:
                mask[blank] = IGNORE
        return images, masks

    def _sample(self, images: np.ndarray, masks: np.ndarray | None) -> dict[str, np.ndarray]:
        if masks is None:
            return {"images": images}
        if self.labels is None:
            return {"images": images, "ignored": masks == IGNORE}
        return {"images": images, "masks": masks}

    def _image(self, index: int, area: Area) -> np.ndarray:
        image = normalise(self.images.crop(index, *area), self.images.grey_range(index))
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


def pair_loader(
    dataset: PairDataset,
    batch_size: int,
    workers: int,
    pin: bool,
    first: int = 0,
    end: int | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader:
    """Batches of a dataset in the order of its sample numbers.

    Args:
        dataset: the pairs.
        batch_size: pairs in a batch; a multiple of ``ranks``.
        workers: processes that load.
        pin: load into pinned memory.
        first: number of the first sample.
        end: number of the first sample that is not wanted any more; None: all are.
        rank: of this process.
        ranks: processes among which each batch is split.
    """
    if workers:
        _end_workers_at_exit()
    share = batch_size // ranks
    starts = range(first + rank * share, len(dataset) if end is None else end, batch_size)
    return DataLoader(
        dataset,
        batch_sampler=[range(start, start + share) for start in starts],
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_start_worker,
    )


@cache
def _end_workers_at_exit() -> None:
    """Python would ask with SIGTERM, which they do not hear, and wait for ever for a stuck one."""
    atexit.register(_end_workers)


def _end_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes their death for a fault
    for process in active_children():
        process.kill()


def _start_worker(worker: int) -> None:
    """One OpenCV thread: workers share the cores. A signal to all is for the main process."""
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
