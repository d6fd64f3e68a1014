"""Writes a config for a user's volumes, and pictures to check them by."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import yaml

from dataloader.formats.opening import open_volume
from dataloader.inspection import examined, inspect_images, inspect_labels
from dataloader.pairs import check_same_shape
from dataloader.part import central
from dataloader.roles import SAME_SIZE
from dataloader.volume import MaskVolume, Volume, evenly_spaced, resample
from prediction.pictures import contours, side_by_side, stacked
from training.propose_config import FULL, SMALL, Proposal, SeveralSources, VolumeFacts, propose
from utils.cli import check_sizes
from utils.config.load import load_config
from utils.errors import UserError, warn, writing_to
from utils.files import write_picture
from utils.paths import CONFIG_DIR, absolute, shown

THUMBNAILS, THUMBNAIL = 4, 256  # number for each volume; side, pixels
COMMENT_COLUMN = 36
MANY_VALUES = 0.3  # fraction of the 256 grey values that images exceed and labels do not
ANISOTROPIC = 15  # spacing over pixel size at which neighbouring sections may have little in common
SIZES = (
    "pixel_size_source",
    "section_spacing_source",
    "pixel_size_target",
    "section_spacing_target",
)


class Answers(NamedTuple):
    """The options of the command; sizes in nm, those of sources in the order of the sources."""

    source: list[list[str]]  # RAW and LABELS of each
    target: str
    target_labels: str | None
    output: Path
    pixel_size_source: list[float] | None
    section_spacing_source: list[float] | None
    pixel_size_target: float | None
    section_spacing_target: float | None
    size: Literal["auto", "full", "small"]
    plus: bool
    overwrite: bool


def new_config(answers: Answers) -> None:
    """Inspect the volumes, print what they are, write the config and a sheet of thumbnails.

    Raises:
        UserError: a volume is unreadable or invalid, or the config exists already.
    """
    output = answers.output.with_suffix(answers.output.suffix or ".yaml")
    _check_answers(answers, output)
    unknown = [None] * len(answers.source)
    sources = [
        inspect("source", *paths, pixel, spacing)
        for paths, pixel, spacing in zip(
            answers.source,
            answers.pixel_size_source or unknown,
            answers.section_spacing_source or unknown,
            strict=True,
        )
    ]
    target = inspect(
        "target",
        answers.target,
        answers.target_labels,
        answers.pixel_size_target,
        answers.section_spacing_target,
    )
    small = answers.size == "small" or (answers.size == "auto" and not torch.cuda.is_available())
    config = propose(sources, target, SMALL if small else FULL, answers.plus)
    heading = f"Written by new_config.py, for {'CPU cores' if small else 'a GPU'}."
    sheet = output.with_name(f"{output.stem}.png")
    with writing_to(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_picture(sheet, stacked([_thumbnails(volume) for volume in (*sources, target)]))
        output.write_text(config_text(output.stem, config, heading), encoding="utf-8")
    load_config(str(output), [], CONFIG_DIR)  # raises UserError if it is not valid
    print(f"thumbnails: {shown(sheet)} (source above, target below; labels in red)")
    print(f"config: {shown(output)}")
    print(f"try it: python scripts/main.py -c {shown(output)} --check")


def _check_answers(answers: Answers, output: Path) -> None:
    if output.exists() and not answers.overwrite:
        raise UserError(f"{output}: exists already; --overwrite replaces it")
    for name in SIZES:
        option = f"--{name.replace('_', '-')}"
        check_sizes(option, getattr(answers, name), len(answers.source))


def inspect(
    role: str, raw: str, labels: str | None, pixel: float | None, spacing: float | None
) -> VolumeFacts:
    """Open a volume, print what it is, warn of likely mistakes.

    Args:
        role: ``source`` or ``target``, for the lines.
        raw, labels: paths.
        pixel, spacing: nm; None: as the file says.

    Raises:
        UserError: a volume is unreadable or invalid.
    """
    images = open_volume(absolute(raw), keep=False, fill=True)
    found = inspect_images(images)
    own = images.voxel_size
    sides = (pixel, pixel) if pixel else (own.y, own.x) if own and own.in_plane else None
    pixel = pixel or (own.in_plane if own else None)
    spacing = spacing or (own.z if own else None)
    masks = _open_labels(images, raw, labels)
    facts = VolumeFacts(images, masks, found, pixel, sides, spacing)
    for line in _description(role, facts):
        print(line)
    warnings = found.warnings()
    warnings += _contradictions(images, pixel, spacing)
    if images.voxel_size_note:
        warnings.append(images.voxel_size_note)
    if spacing and pixel and spacing > ANISOTROPIC * pixel:
        warnings.append(
            f"sections are {spacing / pixel:.0f} pixels apart: neighbours may have little in common"
        )
    if masks:
        compared = inspect_labels(images, masks)
        print(f"  labels: {shown(masks.path)}, {compared.fraction:.1%} mitochondria")
        warnings += compared.warnings()
    for line in warnings:
        warn(f"{shown(images.path)}: {line}")
    return facts


def _open_labels(images: Volume, raw: str, labels: str | None) -> MaskVolume | None:
    if labels is None:
        return None
    volume = open_volume(absolute(labels), keep=False)
    check_same_shape(images, volume)
    if _values(volume) > MANY_VALUES > _values(images):
        raise UserError(f"{raw} and {labels}: look swapped; give RAW first, then LABELS")
    return MaskVolume(volume)


def _values(volume: Volume) -> float:
    """Fraction of 256 grey values that occur in the middle section."""
    return len(np.unique(volume.section(len(volume) // 2))) / 256


def _description(role: str, facts: VolumeFacts) -> list[str]:
    images, sides = facts.images, facts.sides
    sections, height, width = images.shape
    number = "1 section" if sections == 1 else f"{sections} sections"
    kind = "image" if images.kind == "folder" and images.path.is_file() else images.kind
    grey = f"{facts.found.low:g} to {facts.found.high:g}"
    shape = "" if facts.square else f" (of {sides[0]:g} x {sides[1]:g} nm)"
    spacing = f"; spacing of sections: {_nm(facts.spacing)}" if sections > 1 else ""
    origin = _origin(images, facts.pixel, facts.spacing)
    return [
        f"{role}: {shown(images.path)} ({kind})",
        f"  {number} of {height} x {width}, {images.dtype}, grey {grey}",
        f"  pixel: {_nm(facts.pixel)}{shape}{spacing}{origin}",
    ]


def _origin(images: Volume, pixel: float | None, spacing: float | None) -> str:
    """Where sizes are from, such as " (OME metadata)"; empty if nothing is known."""
    own = images.voxel_size
    if own and (own.in_plane, own.z) == (pixel, spacing):
        return f" ({images.voxel_size_from})"
    return " (as given)" if pixel or spacing else ""


def _contradictions(images: Volume, pixel: float | None, spacing: float | None) -> list[str]:
    """Lines where the sizes in use are not those of the file."""
    own = images.voxel_size
    pairs = (("pixels", pixel, own and own.in_plane), ("spacing", spacing, own and own.z))
    return [
        f"{name} of {used:g} nm are given, but the {images.voxel_size_from} says {found:g} nm"
        for name, used, found in pairs
        if used and found and abs(used - found) > SAME_SIZE * found
    ]


def _nm(size: float | None) -> str:
    return f"{size:g} nm" if size else "unknown (see the options)"


def config_text(name: str, config: Proposal, heading: str) -> str:
    """The text of a config, with a comment after every value that has one."""
    lines = [f"# {heading}", f"NAME: {_scalar(name)}"]
    for section, keys in config.items():
        lines += ["", f"{section}:"]
        for key, (value, comment) in keys.items():
            if isinstance(value, SeveralSources):
                lines.append(f"  {key}:".ljust(COMMENT_COLUMN) + f"  # {comment}")
                for entry in value.entries:
                    first, *others = (_line(*item) for item in entry.items())
                    lines += [f"    - {first}", *(f"      {line}" for line in others)]
            else:
                lines.append(f"  {_line(key, (value, comment))}")
    return "\n".join(lines) + "\n"


def _line(key: str, item: tuple[object, str]) -> str:
    value, comment = item
    line = f"{key}: {_scalar(value)}"
    return f"{line.ljust(COMMENT_COLUMN - 2)}  # {comment}" if comment else line


def _scalar(value: object) -> str:
    """A value as YAML on one line, quoted if necessary."""
    text = yaml.safe_dump(value, width=10_000, allow_unicode=True, default_flow_style=True)
    return text.splitlines()[0]


def _thumbnails(volume: VolumeFacts) -> np.ndarray:
    """A row of evenly spaced sections with the contours of the labels."""
    panels, images, labels = [], examined(volume.images), volume.labels
    if labels is not None and images is not volume.images:
        labels = central(labels, images.shape)
    for index in evenly_spaced(len(images), THUMBNAILS):
        image = resample(images.scaled(index), (THUMBNAIL, THUMBNAIL))
        mask = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
        label = None
        if labels is not None:
            soft = (labels.section(index) == 1).astype(np.float32)
            label = (resample(soft, (THUMBNAIL, THUMBNAIL)) >= 0.5).astype(np.uint8)
        panels.append(contours(image, mask, label, thickness=1))
    return side_by_side(panels)
