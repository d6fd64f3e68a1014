"""Read and check the sections in the official files of a published data set."""

import re
import zipfile
from collections.abc import Iterable
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dataloader.formats.folder import check_grey
from dataloader.published.catalogue import SectionFiles
from dataloader.published.sources import ImageFile, Source
from utils.errors import UserError

STACK = -1
MODES = {  # Pillow modes, for messages
    "1": "1-bit",
    "L": "8-bit",
    "I;16": "16-bit",
    "I;16L": "16-bit",
    "I;16B": "16-bit",
    "I": "32-bit",
    "F": "floating-point",
}
ALLOWED = {"image": ["8-bit"]}  # by kind
ALLOWED["mask"] = ALLOWED["instances"] = ["1-bit", "8-bit", "16-bit", "32-bit"]


class PublishedSections:
    """Sections of an official file, read as needed.

    Args:
        wanted: which sections.
        shape: (sections, height, width).
        source: where they are.
        files: by section number; the only file of a stack by ``STACK``.

    Raises:
        UserError: sections are missing, or there are too many.
    """

    def __init__(
        self,
        wanted: SectionFiles,
        shape: tuple[int, int, int],
        source: Source,
        files: dict[int, ImageFile],
    ) -> None:
        self.wanted, self.shape, self.source, self.files = wanted, shape, source, files
        self.numbers = range(wanted.first, wanted.first + shape[0])
        if STACK not in files:
            self._check_numbers()

    def _check_numbers(self) -> None:
        some = next(iter(self.files.values()))
        lacking = [number for number in self.numbers if number not in self.files]
        if lacking:
            found = len(self.numbers) - len(lacking)
            raise UserError(
                f"{some}: found {found} sections, expected {len(self.numbers)} "
                f"({self.numbers[0]} to {self.numbers[-1]}); section {lacking[0]} is missing"
            )
        if max(self.files) >= self.wanted.total:
            raise UserError(
                f"{some}: found sections up to number {max(self.files)}, expected "
                f"{self.wanted.total} (0 to {self.wanted.total - 1}); this is a padded or another "
                "version, which the labels do not fit"
            )

    @property
    def single_file(self) -> Path | None:
        """The archive or stack with all sections; None if each section is a file."""
        return self.source.archive or self.files.get(STACK)

    def where(self, index: int) -> str:
        """Path of a section, for messages."""
        number = self.numbers[index]
        return (
            f"{self.files[STACK]}, page {number}"
            if STACK in self.files
            else str(self.files[number])
        )

    def read(self, index: int) -> np.ndarray:
        """A section (H, W) uint8: an image unchanged, a mask as 0 and 1.

        Args:
            index: counted from 0 at the first section to use.

        Raises:
            UserError: the section is damaged, or has an unexpected size or kind.
        """
        where, number = self.where(index), self.numbers[index]
        try:
            if STACK in self.files:
                image = self._stack
                image.seek(number)
            else:
                image = _open(self.files[number])
            self._check(image, where)
            section = np.array(image)
        except UserError:
            raise
        except Exception as error:  # Pillow and zipfile raise many types for a broken file
            reason = (str(error) or type(error).__name__).splitlines()[0][:120]
            if isinstance(error, UnidentifiedImageError):
                reason = "neither PNG nor TIFF"
            raise UserError(
                f"{where}: not a readable image ({reason}); if it is damaged, download it again"
            ) from None
        return section if self.wanted.kind == "image" else self._mask(section, where)

    @cached_property
    def _stack(self) -> Image.Image:
        stack, total = _open(self.files[STACK]), self.wanted.total
        pages = getattr(stack, "n_frames", 1)  # PNG has none
        if pages != total:
            raise UserError(f"{self.files[STACK]}: found {pages} pages, expected {total} sections")
        return stack

    def _check(self, image: Image.Image, where: str) -> None:
        """Check size and kind before the image is decoded; raises UserError."""
        check_grey(where, image)
        height, width = self.shape[1:]
        if image.size != (width, height):
            raise UserError(
                f"{where}: found {image.height} x {image.width} pixels, expected {height} x {width}"
            )
        found, allowed = MODES.get(image.mode, image.mode), ALLOWED[self.wanted.kind]
        if found not in allowed:
            raise UserError(f"{where}: found {found} grey, expected {' or '.join(allowed)}")

    def _mask(self, section: np.ndarray, where: str) -> np.ndarray:
        """A mask of 0 and 1. Instance numbers above 0 are foreground; -1 is background."""
        grey = self.wanted.kind == "mask" and section.dtype == np.uint8
        highest = section.max()
        if grey and 1 < highest < 128:
            raise UserError(
                f"{where}: found mask values up to {highest}, expected 0 and 255 or 0 and 1"
            )
        half = 127 if grey and highest > 1 else 0
        return (section > half).astype(np.uint8)


def matching(wanted: SectionFiles, source: Source) -> dict[int, ImageFile]:
    """The matching files of a source by section number; a stack by ``STACK``.

    Raises:
        UserError: the source has a section twice.
    """
    pattern = re.compile(rf"(?:^|/){wanted.pattern}$", re.IGNORECASE)
    files: dict[int, ImageFile] = {}
    for file in source.files:
        name = file.at if isinstance(file, zipfile.Path) else file.as_posix()
        if found := pattern.search(name):
            number = int(found[1]) if pattern.groups else STACK
            if number in files:
                raise UserError(
                    f"{files[number]}: the same section as {file}; expected one of them"
                )
            files[number] = file
    return files


def find_sections(
    wanted: SectionFiles, shape: tuple[int, int, int], sources: Iterable[Source]
) -> PublishedSections | None:
    """The sections in the first source that has any of them; None if no source has.

    Raises:
        UserError: that source lacks some of them, or has one twice.
    """
    for source in sources:
        if files := matching(wanted, source):
            return PublishedSections(wanted, shape, source, files)
    return None


def _open(file: ImageFile) -> Image.Image:
    """Open an image without decoding its pixels."""
    content = file.read_bytes()
    image = Image.open(BytesIO(content), formats=("PNG", "TIFF"))
    if image.format == "PNG":
        image.verify()  # decoding ignores wrong checksums; verify() closes the image
        image = Image.open(BytesIO(content))
    return image
