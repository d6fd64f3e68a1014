"""Chooses the values of a config for two volumes."""

from typing import NamedTuple

import numpy as np

from dataloader.inspection import ImagesFound
from dataloader.roles import SAME_SIZE
from dataloader.volume import MaskVolume, Volume
from prediction.orthoplane import MAX_ANISOTROPY
from prediction.windows import MARGIN, round_up
from prediction.z_average import sections_in
from utils.errors import UserError

SMALL_PIXEL = 10.0  # nm; coarse, so that a small crop shows whole mitochondria
SMALLEST_CROP = 32  # pixels


class RunSize(NamedTuple):
    """Size of the network and length of the run."""

    width: int
    crop: int
    iterations: int
    batch: int
    rate: float
    workers: int

    @property
    def small(self) -> bool:
        """Whether it is for CPU cores."""
        return self.width < FULL.width


FULL = RunSize(width=64, crop=512, iterations=200_000, batch=1, rate=1e-4, workers=2)
SMALL = RunSize(width=16, crop=192, iterations=1500, batch=2, rate=1e-3, workers=0)
# Slices in three directions correct each other's labels. Without them the source is learned for
# longer before the target is labelled.
SMALL_ANISOTROPIC = SMALL._replace(iterations=2100)

Keys = dict[str, tuple[object, str]]  # keys of a config, each with its value and a comment
Proposal = dict[str, Keys]  # by section

# How the source is made to look, in BEYOND. A network learns from a randomised source more slowly,
# and then knows more of other microscopes and tissues (docs/beyond.md).
MATCHED: Keys = {"histogram_matching": (True, "source with the grey levels of the target")}
RANDOMISED: Keys = {
    "augmented_fraction": (1.0, "of the samples"),
    "domain_randomisation": (True, "grey values, noise and sharpness of the source at random"),
    "class_randomisation": (True, "... and how its mitochondria look"),
}


class SeveralSources(NamedTuple):
    """The value of ``DATA.sources``."""

    entries: list[Keys]


class VolumeFacts(NamedTuple):
    """What is known of a volume; sizes in nm, None where unknown.

    Attributes:
        images, labels: the volume.
        found: the inspection of the images.
        pixel: side of a square pixel of the same area.
        sides: height and width of a pixel.
        spacing: between sections.
    """

    images: Volume
    labels: MaskVolume | None
    found: ImagesFound
    pixel: float | None
    sides: tuple[float, float] | None
    spacing: float | None

    @property
    def square(self) -> bool:
        """Whether the pixels are square, as far as is known."""
        return self.sides is None or self.sides[0] == self.sides[1]

    def shape_at(self, working: float | None) -> list[int]:
        """(height, width) of the sections in square pixels of a size in nm; None: unchanged."""
        shape = self.images.shape[1:]
        if self.sides is None:
            return list(shape)
        scales = (side / (working or self.pixel) for side in self.sides)
        return [round(n * scale) for n, scale in zip(shape, scales, strict=True)]


def propose(sources: list[VolumeFacts], target: VolumeFacts, size: RunSize, plus: bool) -> Proposal:
    """The sections of a config for one or several sources and a target.

    Args:
        sources, target: the volumes.
        size: ``FULL``, ``SMALL`` (made longer for thick sections), or one of another length.
        plus: go beyond the published method, as the ``_plus`` configs do.

    Raises:
        UserError: the sections are too small.
    """
    working = choose_working_size([*sources, target], size.small)
    if plus and size is SMALL and not sliced_thrice(target, working):
        size = SMALL_ANISOTROPIC
    shapes = [volume.shape_at(working) for volume in (*sources, target)]
    crop = min(size.crop, *(side // 16 * 16 for shape in shapes for side in shape))
    if crop < SMALLEST_CROP:
        raise UserError(
            f"the smallest volume has sections of {min(map(min, shapes))} pixels"
            f"{f' at {working:g} nm' if working else ''}, expected {SMALLEST_CROP} or more"
        )
    width = "channels at full resolution; the published network has 64"
    config = {
        "MODEL": {"width": (size.width, width)},
        "TRAIN": _training(size, plus),
        "DATA": _data(sources, target, crop, working),
    }
    test = {}
    if not target.images.tiled:
        padded = [round_up(side + MARGIN) for side in shapes[-1]]
        test["padded_size"] = (padded, "whole sections are reflect-padded to this size")
    if plus:
        config["BEYOND"] = _beyond(target, working)
        spacings = [source.spacing for source in sources]
        if all(spacings) and target.spacing and sections_in(min(spacings), target.spacing) > 1:
            comment = "nm, spacing of the source's sections; predictions are averaged over it"
            test["z_average"] = (min(spacings), comment)
    return config | ({"TEST": test} if test else {})


def _training(size: RunSize, plus: bool) -> Keys:
    total, small = size.iterations, size.small
    falls = "(1 - iteration / total_iters)^0.9"
    frequencies = {
        "display_freq": (50 if small else 100, "iterations between lines in loss.txt"),
        "show_freq": (
            max(1, total // 10) if small else 500,
            "iterations between pictures in TensorBoard",
        ),
        "valid_freq": (max(1, total // 2) if small else 500, "iterations between validations"),
        "save_freq": (max(1, total // 10) if small else 500, "iterations between checkpoints"),
        "num_workers": (size.workers, "processes that load pairs, for each domain"),
    }
    length = {
        "total_iters": (total, "iterations"),
        "batch_size": (size.batch, "pairs of each domain in an iteration"),
    }
    if plus:
        losses = {
            "weight_adv_spatial": (0.0, "no discriminators"),
            "weight_adv_temporal": (0.0, "no discriminators"),
            "learning_rate": (size.rate, f"falls as {falls}"),
        }
    else:
        losses = {
            "rampup_iters": (total // 4, "the consistency weight rises over these iterations"),
            "weight_cross": (0.1, "consistency loss on the target"),
            "weight_adv_spatial": (0.001, "adversarial loss of the masks"),
            "weight_adv_temporal": (0.001, "adversarial loss of the inter-section residual"),
            "learning_rate": (size.rate, f"segmentor; all three fall as {falls}"),
            "learning_rate_ms": (size.rate, "discriminator of masks"),
            "learning_rate_mt": (size.rate, "discriminator of residuals"),
        }
    return length | losses | frequencies


def _data(
    sources: list[VolumeFacts], target: VolumeFacts, crop: int, working: float | None
) -> Keys:
    *strides, target_stride = choose_strides([*sources, target])
    entries = [_source(*each) for each in zip(sources, strides, strict=True)]
    if len(entries) == 1:
        keys = entries[0]
    else:
        keys = {"sources": (SeveralSources(entries), "pairs come from them equally often")}
    return keys | {
        "data_dir_target": (target.images.where, "target sections, unlabelled"),
        "target_stride": (target_stride, "distance of the two sections of a target pair"),
        "input_size": ([crop, crop], "training crop, pixels"),
        "data_dir_val": (target.images.where, "the volume to predict and to score"),
        "data_dir_val_label": (target.labels and target.labels.where, "its labels, if any"),
        "pixel_size_target": (target.pixel if target.square else None, "nm, in-plane"),
        "pixel_size_working": (working, "nm; all are resampled to it; null: not resampled"),
        "section_spacing_target": (target.spacing, "nm; for volumes and surfaces of objects"),
    }


def _source(source: VolumeFacts, stride: int) -> Keys:
    return {
        "data_dir_img": (source.images.where, "source sections"),
        "data_dir_label": (source.labels.where, "their labels"),
        "source_stride": (stride, "distance of the two sections of a source pair"),
        # of pixels that are not square, the file gives the size
        "pixel_size_source": (
            source.pixel if source.square else None,
            "nm, in-plane; null: read from the file",
        ),
    }


def sliced_thrice(target: VolumeFacts, working: float | None) -> bool:
    """Whether the target's voxels are isotropic enough for xz and yz slices.

    Args:
        target: the volume.
        working: the working pixel size, nm; None: the target's own.
    """
    pixel = working or target.pixel
    return bool(target.spacing and pixel and target.spacing <= MAX_ANISOTROPY * pixel)


def _beyond(target: VolumeFacts, working: float | None) -> Keys:
    """The options of the ``_plus`` configs."""
    prior = {"head_prior": (0.06, "initial probability of mitochondria")}
    rounds = {
        "rounds": (3, "number of times the target is labelled and trained on after that"),
        "foreground_ratio_limit": (
            3.0,
            "reject labels whose foreground differs from the source's by more than this",
        ),
    }
    if sliced_thrice(target, working):
        return {
            **prior,
            **MATCHED,
            "warmup_fraction": (0.4, "fraction of the run on the source alone"),
            **rounds,
            "orthoplane": (True, "label and train along all three axes"),
        }
    return {
        **prior,
        **RANDOMISED,
        "warmup_fraction": (0.7, "fraction of the run on the source alone"),
        "restart_rate": (0.5, "learning rate after that, as a fraction of the initial one"),
        **rounds,
        "label_threshold": ("edges", "labels end where the image has its strongest edges"),
    }


def choose_strides(volumes: list[VolumeFacts]) -> list[int]:
    """Strides at which the two sections of a pair are equally far apart in all volumes.

    If a spacing is unknown, strides at which the two sections are equally similar. The volume with
    the widest spacing has a stride of 1.
    """
    spacings = [volume.spacing for volume in volumes]
    if all(spacings):
        strides = [max(1, round(max(spacings) / spacing)) for spacing in spacings]
    else:
        likeness = [volume.found.likeness or [0.0] for volume in volumes]
        least = min(values[0] for values in likeness)
        strides = [int(np.argmin(np.abs(np.array(v) - least))) + 1 for v in likeness]
    limits = [max(1, (len(volume.images) - 1) // 2) for volume in volumes]
    return [min(pair) for pair in zip(strides, limits, strict=True)]


def choose_working_size(volumes: list[VolumeFacts], small: bool) -> float | None:
    """The pixel size, nm, that all volumes are resampled to; None: they are not resampled."""
    pixels = [volume.pixel for volume in volumes]
    if not all(pixels):
        return None
    coarsest = max(pixels)
    if small:
        return max(coarsest, SMALL_PIXEL)
    alike = coarsest - min(pixels) <= SAME_SIZE * coarsest
    return None if alike else coarsest
