"""Folders of sections, and single images as volumes of one section."""

import codecs
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path, PureWindowsPath

import numpy as np
import tifffile
from PIL import Image

from dataloader.formats.axes import COLOURS, GREY
from dataloader.formats.base import VolumeWriter, message_of
from dataloader.formats.natural_order import natural_order
from dataloader.formats.tiff import check_one_channel, displayed
from dataloader.volume import Volume
from utils.errors import UserError, warn
from utils.files import write_picture

Image.MAX_IMAGE_PIXELS = None  # sections may be large
warnings.filterwarnings("ignore", module="PIL")  # a broken file raises UserError below
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
SECTION_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
TIFF_STARTS = (b"II", b"MM")  # little and big endian
COLOUR_MODES = ("P", "PA")  # one band, which indexes a palette


class FolderVolume(Volume):
    """A folder of grey sections in natural order of their names, read as needed.

    Args:
        path: the folder.
        names: file names of the sections to use; None: all.

    Raises:
        UserError: there are no sections, one is unreadable or in colour, sizes differ, or two files
            have the same name.
    """

    kind = "folder"

    def __init__(self, path: Path, names: list[str] | None = None) -> None:
        self.path = path
        self.files = [path / name for name in names] if names else section_files(path)
        if not self.files:
            raise UserError(f"{path}: no sections; expected {', '.join(SECTION_SUFFIXES)} files")
        _refuse_twins(self.files)
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


class ImageVolume(FolderVolume):
    """A grey image as a volume of one section."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent, [path.name])
        self.path = path


class FolderWriter(VolumeWriter):
    """A folder of PNG sections; numbers beyond 16 bits become TIFF sections."""

    suffix = ""

    def open(self) -> None:
        self.part.mkdir(parents=True)

    def place(self) -> None:
        """Move the sections to their folder. Files with other names stay there."""
        if not self.path.exists():  # one rename for all
            self.part.replace(self.path)
            return
        for section in self.part.iterdir():
            section.replace(self.path / section.name)
        self.part.rmdir()

    def write(self, index: int, section: np.ndarray) -> None:
        name = self.part / self.spec.names[index]
        if section.dtype.itemsize > 2:
            tifffile.imwrite(name.with_suffix(".tif"), section, compression="zlib")
        else:
            write_picture(name, section)

    def close(self) -> None:
        pass


def section_files(folder: Path) -> list[Path]:
    """The sections in a folder in natural order: 2.png before 10.png. Hidden files are skipped."""
    names = [
        file.name
        for file in folder.iterdir()
        if file.suffix.lower() in SECTION_SUFFIXES and not file.name.startswith(".")
    ]
    return [folder / name for name in natural_order(names)]


def read_names(list_file: Path | None) -> list[str] | None:
    """Names of sections from a text file, in its order; None if there is no file."""
    if list_file is None or not list_file.is_file():
        return None
    content = list_file.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"{list_file}: not UTF-8 text; expected the names of sections, one per line"
        ) from None
    lines = (text_line.strip() for text_line in text.splitlines())
    names = [PureWindowsPath(named).name for named in lines if named]
    if not names:
        raise UserError(f"{list_file}: empty; expected the names of sections, one per line")
    return names


def read_section(file: Path) -> np.ndarray:
    """One grey section (H, W) in the dtype of its file, with values as a viewer displays them.

    Raises:
        UserError: the file is missing, unreadable or in colour.
    """
    if _is_tiff(file):
        with _page(file) as page:
            section = displayed(page, file)(page.asarray()).reshape(page.shape[:2])
    else:
        with _image(file) as image:
            section = np.asarray(image.convert("L") if image.mode == "P" else image)
    return np.ascontiguousarray(section, section.dtype.newbyteorder("="))


def section_shape(file: Path) -> tuple[int, int]:
    """(H, W) of a grey section from its header; raises UserError as ``read_section`` does."""
    if _is_tiff(file):
        with _page(file) as page:
            displayed(page, file)  # refuses colour palettes
            return page.imagelength, page.imagewidth
    with _image(file) as image:
        return image.height, image.width


def _is_tiff(file: Path) -> bool:
    """Whether a section is TIFF by its content, whatever its suffix."""
    with _user_errors(file), file.open("rb") as opened:
        return opened.read(2) in TIFF_STARTS


@contextmanager
def _user_errors(file: Path) -> Iterator[None]:
    """Turn any error while a section is read into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Pillow and tifffile raise many types for a broken file
        if "imagecodecs" in str(error):
            raise UserError(f"{file}: {message_of(error)}; pip install imagecodecs") from None
        reason = "no such file" if isinstance(error, FileNotFoundError) else "damaged or no image"
        raise UserError(f"{file}: {reason}; expected a grey section") from None


@contextmanager
def _page(file: Path) -> Iterator[tifffile.TiffPage]:
    """The only page of a TIFF section, open."""
    with _user_errors(file), tifffile.TiffFile(file) as opened:
        page = opened.pages[0]
        check_one_channel(page, file)
        _check_single(file, len(opened.pages))
        yield page


@contextmanager
def _image(file: Path) -> Iterator[Image.Image]:
    """A grey image of another format, open."""
    with _user_errors(file), Image.open(file) as image:
        if image.mode != "P":
            check_grey(file, image)
        elif not _grey_palette(image):
            raise UserError(f"{file}: {COLOURS}")
        _check_single(file, getattr(image, "n_frames", 1))
        yield image


def _grey_palette(image: Image.Image) -> bool:
    colours = np.reshape(image.getpalette("RGB") or [0, 1, 2], (-1, 3))
    return bool((colours == colours[:, :1]).all())


def check_grey(where: Path | str, image: Image.Image) -> None:
    """Raise UserError if an image has more than one channel."""
    channels = 3 if image.mode in COLOUR_MODES else len(image.getbands())
    if channels != 1:
        raise UserError(f"{where}: found {channels} channels, expected one; {GREY}")


def _check_single(file: Path, pages: int) -> None:
    if pages > 1:
        raise UserError(
            f"{file}: found {pages} pages, expected one section per file; use the file itself as "
            "the volume"
        )


def _refuse_twins(files: list[Path]) -> None:
    """Raise UserError if two files differ by their suffix only."""
    seen: dict[str, Path] = {}
    for file in files:
        if other := seen.get(file.stem):
            raise UserError(
                f"{file.parent}: found {other.name} and {file.name}, expected one file per "
                "section; remove one of them"
            )
        seen[file.stem] = file


def _warn_of_gaps(files: list[Path]) -> None:
    """Warn if numbers are missing in the sequence of file names."""
    keys = natural_order([file.name for file in files]).values()
    numbers = [[part for kind, part in key if kind == 0] for key in keys]
    last = [number[-1] for number in numbers if number]
    if len(last) < len(files) or len({tuple(number[:-1]) for number in numbers}) > 1:
        return  # not numbered, or several numbers vary
    if any(number % 1 for number in last):
        return
    last = [int(number) for number in last]
    present = set(last)
    missing = [number for number in range(min(last), max(last)) if number not in present]
    steps = {b - a for a, b in pairwise(last)}
    if missing and len(steps) > 1:  # 0, 10, 20 ... has no gaps
        warn(
            f"{files[0].parent}: {len(missing)} numbers are missing between {files[0].name} and "
            f"{files[-1].name}, the first is {missing[0]}; the sections on both sides of a gap are "
            "treated as neighbours"
        )
