"""From somebody's volumes to a config for them."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import yaml

from dataloader.formats.opening import open_volume
from dataloader.inspection import ImagesFound, inspect_images, inspect_labels
from dataloader.pairs import check_same_shape
from dataloader.roles import SAME_SIZE
from dataloader.volume import MaskVolume, Volume, resample
from prediction.orthoplane import MAX_ANISOTROPY
from prediction.pictures import contours, side_by_side, stacked
from prediction.windows import MARGIN, round_up
from prediction.z_average import sections_in
from utils.config.load import load_config
from utils.errors import UserError, warn, writing_to
from utils.files import write_picture
from utils.paths import CONFIG_DIR, shown

FULL = {"width": 64, "crop": 512, "iterations": 200_000, "batch": 1, "rate": 1e-4, "workers": 2}
SMALL = {"width": 16, "crop": 192, "iterations": 1500, "batch": 2, "rate": 1e-3, "workers": 0}
SMALL_PIXEL = 10.0  # nm; coarser, so that a small crop shows whole mitochondria
THUMBNAILS, THUMBNAIL = 4, 256  # of each volume, pixels
COMMENT_COLUMN = 36
MANY_VALUES = 0.3  # share of all 8-bit values that only grey sections hold
ANISOTROPIC = 15  # spacing of sections over pixel size, from which neighbours have little in common


class Answers(NamedTuple):
    """What the user said; see the command's options."""

    source: list[str]
    target: str
    target_labels: str | None
    output: Path
    pixel_size_source: float | None
    section_spacing_source: float | None
    pixel_size_target: float | None
    section_spacing_target: float | None
    size: Literal["auto", "full", "small"]
    plus: bool
    overwrite: bool


class Looked(NamedTuple):
    """A volume that was looked at; sizes in nm, None where nobody knows.

    ``pixel`` is that of square pixels; ``sides`` are the volume's own along (y, x).
    """

    images: Volume
    labels: MaskVolume | None
    found: ImagesFound
    pixel: float | None
    sides: tuple[float, float] | None
    spacing: float | None

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of its sections."""
        return self.images.shape[1:]

    @property
    def stated_pixel(self) -> float | None:
        """What the config says: nothing of pixels that are not square, which the file tells."""
        square = self.sides is None or self.sides[0] == self.sides[1]
        return self.pixel if square else None

    def working_shape(self, working: float | None) -> list[int]:
        """(height, width) of its sections in square pixels of a size, nm; None: their own."""
        if self.sides is None:
            return list(self.shape)
        scales = (side / (working or self.pixel) for side in self.sides)
        return [round(n * scale) for n, scale in zip(self.shape, scales, strict=True)]


def new_config(answers: Answers) -> None:
    """Look at the volumes, say what was found, write the config and a sheet of thumbnails.

    Raises:
        UserError: a volume is unreadable or unfit, or the file is there already.
    """
    output = answers.output.with_suffix(answers.output.suffix or ".yaml")
    if output.exists() and not answers.overwrite:
        raise UserError(f"{output}: is there already; --overwrite replaces it")
    for name in ("pixel_size_source", "pixel_size_target",
                 "section_spacing_source", "section_spacing_target"):  # fmt: skip
        value = getattr(answers, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(
                f"--{name.replace('_', '-')}: found {value}, expected nanometres above 0"
            )
    source = _look("source", answers.source[0], answers.source[1], answers.pixel_size_source,
                   answers.section_spacing_source)  # fmt: skip
    target = _look("target", answers.target, answers.target_labels, answers.pixel_size_target,
                   answers.section_spacing_target)  # fmt: skip
    small = answers.size == "small" or (answers.size == "auto" and not torch.cuda.is_available())
    heading = f"Written by new_config.py, for {'CPU cores' if small else 'a GPU'}."
    config = _choose(output.stem, source, target, SMALL if small else FULL)
    if answers.plus:
        _go_beyond(config, source, target)
    sheet = output.with_name(f"{output.stem}.png")
    with writing_to(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_picture(sheet, stacked([_thumbnails(volume) for volume in (source, target)]))
        output.write_text(_yaml(config, heading), encoding="utf-8")
    load_config(str(output), [], CONFIG_DIR)  # it must be one that runs
    print(f"thumbnails: {shown(sheet)} (source above, target below; labels in red)")
    print(f"config: {shown(output)}")
    print(f"try it: python scripts/main.py -c {shown(output)} --check")


def _look(
    role: str, raw: str, labels: str | None, pixel: float | None, spacing: float | None
) -> Looked:
    """Open a volume, print what it is, warn of what is odd."""
    images = open_volume(Path(raw).resolve(), keep=False, fill=True)
    found = inspect_images(images)
    own = images.voxel_size
    sides = (pixel, pixel) if pixel else (own.y, own.x) if own and own.in_plane else None
    pixel = pixel or (own.in_plane if own else None)
    spacing = spacing or (own.z if own else None)
    sections, height, width = images.shape
    grey = f"{found.low:g} to {found.high:g}"
    print(f"{role}: {shown(images.path)} ({images.kind})")
    print(f"  {sections} sections of {height} x {width}, {images.section(0).dtype}, grey {grey}")
    square = sides is None or sides[0] == sides[1]
    shape = "" if square else f" (of {sides[0]:g} x {sides[1]:g} nm)"
    print(f"  pixel: {_nm(pixel)}{shape}; spacing of sections: {_nm(spacing)}")
    warnings = found.warnings()
    if spacing and pixel and spacing > ANISOTROPIC * pixel:
        warnings.append(
            f"sections are {spacing / pixel:.0f} pixels apart: neighbours may have little in common"
        )
    masks = None
    if labels is not None:
        whole = open_volume(Path(labels).resolve(), keep=False)
        check_same_shape(images, whole)
        if _values(whole) > MANY_VALUES > _values(images):
            raise UserError(f"{raw} and {labels}: look swapped; give RAW first, then LABELS")
        masks = MaskVolume(whole)
        compared = inspect_labels(images, masks)
        print(f"  labels: {shown(whole.path)}, {compared.fraction:.1%} mitochondria")
        warnings += compared.warnings()
    for line in warnings:
        warn(f"{shown(images.path)}: {line}")
    return Looked(images, masks, found, pixel, sides, spacing)


def _nm(size: float | None) -> str:
    return f"{size:g} nm" if size else "unknown (options give it)"


def _values(volume: Volume) -> float:
    """Share of 256 grey values that a section's middle holds."""
    section = volume.section(len(volume) // 2)
    return len(np.unique(section)) / 256


def choose_strides(source: Looked, target: Looked) -> tuple[int, int]:
    """Sections between the two of a pair, so that pairs of both volumes are equally far apart.

    By the spacing of sections, where it is known; else so that the two sections are equally alike.
    The volume of the wider spacing keeps the stride of 1.
    """
    if source.spacing and target.spacing:
        wide = max(source.spacing, target.spacing)
        strides = [max(1, round(wide / volume.spacing)) for volume in (source, target)]
    else:
        likeness = [volume.found.likeness or [0.0] for volume in (source, target)]
        least = min(values[0] for values in likeness)
        strides = [int(np.argmin(np.abs(np.array(v) - least))) + 1 for v in likeness]
    limits = [max(1, (len(volume.images) - 1) // 2) for volume in (source, target)]
    return min(strides[0], limits[0]), min(strides[1], limits[1])


def choose_working_size(source: Looked, target: Looked, small: bool) -> float | None:
    """The pixel size both are brought to, nm; None: they stay as they are."""
    if not (source.pixel and target.pixel):
        return None
    coarser = max(source.pixel, target.pixel)
    if small:
        return max(coarser, SMALL_PIXEL)
    alike = abs(source.pixel - target.pixel) <= SAME_SIZE * coarser
    return None if alike else coarser


def _choose(name: str, source: Looked, target: Looked, run: dict) -> dict[str, dict]:
    """The config's sections: their keys, each with its value and a comment."""
    small, total = run is SMALL, run["iterations"]
    working = choose_working_size(source, target, small)
    shapes = [volume.working_shape(working) for volume in (source, target)]
    crop = min(run["crop"], *(side // 16 * 16 for shape in shapes for side in shape))
    if crop < 32:
        raise UserError(
            f"the smaller volume has sections of {min(map(min, shapes))} pixels"
            f"{f' at {working:g} nm' if working else ''}, expected 32 or more"
        )
    source_stride, target_stride = choose_strides(source, target)
    train = {
        "total_iters": (total, "iterations"),
        "batch_size": (run["batch"], "pairs of each domain in an iteration"),
        "rampup_iters": (total // 4, "the consistency weight rises over these iterations"),
        "weight_cross": (0.1, "of the consistency loss on the target"),
        "weight_adv_spatial": (0.001, "adversarial, masks"),
        "weight_adv_temporal": (0.001, "adversarial, inter-section residual"),
        "learning_rate": (run["rate"], "segmentor; all three fall as (1 - it / total_iters)^0.9"),
        "learning_rate_ms": (run["rate"], "discriminator of masks"),
        "learning_rate_mt": (run["rate"], "discriminator of residuals"),
        "display_freq": (50 if small else 100, "iterations between lines in loss.txt"),
        "show_freq": (total // 10 if small else 500, "between pictures in TensorBoard"),
        "valid_freq": (total // 2 if small else 500, "between validations"),
        "save_freq": (total // 10 if small else 500, "between checkpoints"),
        "num_workers": (run["workers"], "processes that load pairs, for each domain"),
    }
    data = {
        "data_dir_img": (source.images.where, "source sections"),
        "data_dir_label": (source.labels.where, "their labels"),
        "source_stride": (source_stride, "sections between the two of a source pair"),
        "data_dir_target": (target.images.where, "target sections, unlabelled"),
        "target_stride": (target_stride, "sections between the two of a target pair"),
        "input_size": ([crop, crop], "training crop, pixels"),
        "data_dir_val": (target.images.where, "the volume that is predicted, and scored"),
        "data_dir_val_label": (target.labels and target.labels.where, "its labels, if it has any"),
        "pixel_size_source": (source.stated_pixel, "nm, in-plane; null: as the file says"),
        "pixel_size_target": (target.stated_pixel, "nm"),
        "pixel_size_working": (working, "nm, both are resampled to it; null: as they are"),
        "section_spacing_target": (target.spacing, "nm, for volumes and surfaces"),
    }
    config = {
        "NAME": name,
        "MODEL": {"width": (run["width"], "channels at full size; the published network has 64")},
        "TRAIN": train,
        "DATA": data,
    }
    if not target.images.tiled:
        padded = [round_up(side + MARGIN) for side in shapes[1]]
        comment = "whole sections are reflect-padded to it"
        config["TEST"] = {"padded_size": (padded, comment)}
    return config


def _go_beyond(config: dict[str, dict], source: Looked, target: Looked) -> None:
    """Change a config to what the shipped plus configs do."""
    for key in ("rampup_iters", "learning_rate_ms", "learning_rate_mt"):
        del config["TRAIN"][key]
    config["TRAIN"] |= {
        "weight_adv_spatial": (0.0, "no discriminators"),
        "weight_adv_temporal": (0.0, "no discriminators"),
        "learning_rate": (
            config["TRAIN"]["learning_rate"][0],
            "falls as (1 - it / total_iters)^0.9",
        ),
    }
    config["BEYOND"] = {
        "head_prior": (0.06, "probability at which the network begins"),
        "histogram_matching": (True, "the source in the target's grey levels"),
        "warmup_fraction": (0.4, "fraction of the run in which the source alone is learned"),
        "rounds": (3, "times the target is labelled from then on, and learned from"),
        "foreground_ratio_limit": (
            3.0,
            "labels count while their foreground is this near to the source's",
        ),
    }
    if source.spacing and target.spacing and sections_in(source.spacing, target.spacing) > 1:
        comment = "nm, of the source's sections: predictions are means over so much"
        config.setdefault("TEST", {})["z_average"] = (source.spacing, comment)
    pixel = config["DATA"]["pixel_size_working"][0] or target.pixel
    if target.spacing and pixel and target.spacing <= MAX_ANISOTROPY * pixel:
        config["BEYOND"]["orthoplane"] = (True, "labelled, and learned from, along all three axes")


def _yaml(config: dict, heading: str) -> str:
    """A config with a comment behind every value."""
    lines = [f"# {heading}"]
    for section, keys in config.items():
        if not isinstance(keys, dict):
            lines += [f"{section}: {_scalar(keys)}"]
            continue
        lines += ["", f"{section}:"]
        for key, (value, comment) in keys.items():
            lines.append(f"  {key}: {_scalar(value)}".ljust(COMMENT_COLUMN) + f"  # {comment}")
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    """A value as YAML in one line, quoted where it must be."""
    text = yaml.safe_dump(value, width=10_000, allow_unicode=True, default_flow_style=True)
    return text.splitlines()[0]


def _thumbnails(volume: Looked) -> np.ndarray:
    """Evenly spaced sections of a volume in a row, with the labels' contours."""
    places = np.linspace(0, len(volume.images) - 1, THUMBNAILS).round().astype(int)
    panels = []
    for index in map(int, places):
        image = resample(volume.images.scaled(index), (THUMBNAIL, THUMBNAIL))
        mask = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
        label = None
        if volume.labels is not None:
            soft = (volume.labels.section(index) == 1).astype(np.float32)
            label = (resample(soft, (THUMBNAIL, THUMBNAIL)) >= 0.5).astype(np.uint8)
        panels.append(contours(image, mask, label, thickness=1))
    return side_by_side(panels)
