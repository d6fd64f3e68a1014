"""Training pairs: two sections of a volume, cropped and augmented alike."""

import atexit
import signal
from collections.abc import Callable
from functools import cache
from multiprocessing import active_children
from typing import NamedTuple

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from dataloader.augment import PairAugmentation
from dataloader.views import draw_blocks, hide, other_microscope, strong_view
from dataloader.volume import Volume, normalise
from utils.errors import UserError

TILE_MARGIN = 100  # pixels round a crop of a tiled volume, so that a rotation has content to bring
Transfer = Callable[[np.ndarray], np.ndarray]  # of an image (H, W), float32 in [0, 1]
PLAIN, LOOK, CUT = 1, 2, 3  # tell the draws of plain pairs, of views and of cuts from those of
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


class Views(NamedTuple):
    """How samples look besides, see ``dataloader.views``.

    Attributes:
        strong: samples have ``views`` too, of noise, blur and holes.
        hidden_fraction: of blocks that ``views`` do not show.
        complementary: "shared" or "independent": two views, each shows the blocks that the other
            hides; the same of both sections, or others.
        random: ``images`` are as other microscopes might show them.
        transfers: what is done to each section, one after the other, to look like another volume.
        strides: pairs are from half the stride to twice the stride apart, in either order.
        margin: pixels round ``views`` that ``images`` show besides.
    """

    strong: bool = False
    hidden_fraction: float = 0.0
    complementary: str = "no"
    random: bool = False
    transfers: tuple[Transfer, ...] = ()
    strides: bool = False
    margin: int = 0

    @property
    def any(self) -> bool:
        """Whether samples have ``views``."""
        return bool(
            self.strong or self.hidden_fraction or self.margin or self.complementary != "no"
        )


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
        views: how samples look besides.

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
        views: Views | None = None,
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
        self.views = views or Views()
        self.cuts: tuple[PairDataset, ...] = ()
        self.augment = PairAugmentation(crop, "centre" if images.tiled else "random")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Sample ``number``.

        Returns:
            ``images`` (2, crop, crop) float32 in [0, 1]; with labels also ``masks``
            (2, crop, crop) uint8 of 0 and 1; with views also ``views``, (1, 2, side, side) as
            ``images``, or (2, 2, side, side) where they are complementary; ``side`` is ``crop``
            less the views' margins.
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
        look = np.random.default_rng((*self.seed, number, LOOK))
        if self.views.random:
            images, masks = other_microscope(images, masks, look)
        sample = {"images": images} | ({} if masks is None else {"masks": masks})
        if self.views.any:
            sample["views"] = self._views(images, look)
        return sample

    def _views(self, images: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Views (1 or 2, 2, side, side) of a pair (2, crop, crop)."""
        views = self.views
        inner = slice(views.margin, self.crop - views.margin)
        images = images[:, inner, inner]
        shape = images.shape[1:]
        if views.strong:
            images = [strong_view(image, draw) for image in images]
        twins = views.complementary != "no"
        fraction = 0.5 if twins else views.hidden_fraction
        hidden = [draw_blocks(shape, fraction, draw) for _ in range(2)]
        if views.complementary == "shared":
            hidden[1] = hidden[0]
        looks = [hidden, [~mask for mask in hidden]] if twins else [hidden]
        return np.stack([np.stack(list(map(hide, images, masks))) for masks in looks])

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
        pair = self._pair(draw)
        area = around = self._area(draw)
        seed = int(draw.integers(2**32))
        window = self.augment.plain_window((area.height, area.width), seed)
        if window is not None:  # read no more than what is kept
            rows, columns = window
            area = Area(area.y + rows.start, area.x + columns.start, self.crop, self.crop)
        return Draw(pair, area, around, seed, window is None)

    def _pair(self, draw: np.random.Generator) -> tuple[int, int]:
        """Current and auxiliary section."""
        stride, sections = self.stride, len(self.images)
        if self.views.strides:
            most = min(2 * stride, sections - 1)
            stride = int(draw.integers((stride + 1) // 2, most + 1))
        first = int(draw.integers(sections - stride))
        turned = self.views.strides and draw.integers(2)
        return (first + stride, first) if turned else (first, first + stride)

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
        for transfer in self.views.transfers:
            image = transfer(image)
        return image


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
