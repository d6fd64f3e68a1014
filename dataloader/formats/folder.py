"""A folder of sections as a volume."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from dataloader.volume import Volume
from utils.errors import UserError, warn

Image.MAX_IMAGE_PIXELS = None  # sections may be large
warnings.filterwarnings("ignore", module="PIL")  # a broken file is said in one line, below
SECTION_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
COLOUR_MODES = ("P", "PA")  # one band in the file, but an index of colours


class FolderVolume(Volume):
    """A folder of grey sections in the natural order of their names, read as needed.

    Args:
        path: the folder.
        names: file names of the sections to use; None: all.

    Raises:
        UserError: no sections, one that cannot be read, colour, or sizes that differ.
    """

    kind = "folder"

    def __init__(self, path: Path, names: list[str] | None = None) -> None:
        self.path = path
        self.files = [path / name for name in names] if names else section_files(path)
        if not self.files:
            raise UserError(f"{path}: no sections; expected {', '.join(SECTION_SUFFIXES)} files")
        if names is None:
            _warn_of_gaps(self.files)
        first = section_shape(self.files[0])
        for file in self.files[1:]:
            shape = section_shape(file)
            if shape != first:
                raise UserError(
                    f"{file}: found {shape[0]} x {shape[1]} pixels, expected "
                    f"{first[0]} x {first[1]} as {self.files[0].name}"
                )
        super().__init__((len(self.files), *first))

    @property
    def names(self) -> list[str]:
        return [file.name for file in self.files]

    @property
    def sources(self) -> list[Path]:
        return self.files

    def section(self, index: int) -> np.ndarray:
        return read_section(self.files[index])


def section_files(folder: Path) -> list[Path]:
    """The sections in a folder in natural order: 2.png before 10.png; hidden files are none."""
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SECTION_SUFFIXES and not file.name.startswith(".")
    ]
    return sorted(files, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which numbers in names count as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts]


def read_names(list_file: Path | None) -> list[str] | None:
    """Names of sections from a text file, in its order; None where there is no file."""
    if list_file is None or not list_file.is_file():
        return None
    try:
        lines = (line.strip() for line in list_file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise UserError(
            f"{list_file}: not UTF-8 text; expected section names, a line each"
        ) from None
    names = [Path(line).name for line in lines if line]
    if not names:
        raise UserError(f"{list_file}: empty; expected the names of sections, one a line")
    return names


def read_section(file: Path) -> np.ndarray:
    """One grey section (H, W) in the type of its file.

    Raises:
        UserError: missing, unreadable, or colour.
    """
    with _opened(file) as image:
        section = np.asarray(image)
    return section.astype(section.dtype.newbyteorder("="), copy=False)


def section_shape(file: Path) -> tuple[int, int]:
    """(H, W) of a grey section from its file's header; raises UserError as ``read_section``."""
    with _opened(file) as image:
        return image.height, image.width


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """A grey image; whatever goes wrong with it is the file's fault."""
    try:
        with Image.open(file) as image:
            check_grey(file, image)
            _check_single(file, image)
            yield image
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds for a broken file
        reason = "no such file" if isinstance(error, FileNotFoundError) else "broken or no image"
        raise UserError(f"{file}: {reason}; expected a grey section") from None


def check_grey(where: Path | str, image: Image.Image) -> None:
    """Demand one channel; raises UserError."""
    channels = 3 if image.mode in COLOUR_MODES else len(image.getbands())
    if channels != 1:
        raise UserError(
            f"{where}: found {channels} channels, expected one; convert it to grey "
            "(Fiji: Image > Type > 8-bit)"
        )


def _check_single(file: Path, image: Image.Image) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise UserError(
            f"{file}: found {pages} pages, expected one section a file; give the file itself as "
            "the volume"
        )


def _warn_of_gaps(files: list[Path]) -> None:
    """Say so if numbers are missing between those in the files' names."""
    numbers = [[part for kind, part in natural_key(file.stem) if kind == 0] for file in files]
    last = [number[-1] for number in numbers if number]
    if len(last) < len(files) or len({tuple(number[:-1]) for number in numbers}) > 1:
        return  # not numbered, or by more than one number
    present = set(last)
    missing = [number for number in range(min(last), max(last)) if number not in present]
    steps = {b - a for a, b in pairwise(last)}
    if missing and len(steps) > 1:  # 0, 10, 20 ... is a numbering without gaps
        warn(
            f"{files[0].parent}: {len(missing)} numbers are missing between {files[0].name} and "
            f"{files[-1].name}, the first is {missing[0]}; sections are taken as neighbours all "
            "the same"
        )
