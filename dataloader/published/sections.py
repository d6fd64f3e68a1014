"""The sections in a published data set's official files, read and checked one by one."""

import re
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from dataloader.formats.folder import check_grey
from dataloader.published.archives import Members
from dataloader.published.catalogue import SectionFiles
from utils.errors import UserError

WIDEST_PIXEL = 8  # bytes
HEADERS = 1 << 20  # bytes that a file may have besides its pixels, for each section
STACK = -1
MODES = {  # of Pillow, and what they hold
    "1": "1-bit",
    "L": "8-bit",
    "I;16": "16-bit",
    "I;16L": "16-bit",
    "I;16B": "16-bit",
    "I": "32-bit",
    "F": "floating-point",
}


class PublishedSections:
    """The wanted sections of an official file, read as needed.

    Args:
        wanted: which they are.
        members: the archive or the loose files that hold them.
        files: their names by their numbers; of a stack its only name by ``STACK``.
        shape: (sections, height, width).

    Raises:
        UserError: some are missing, or there are more than there should be.
    """

    def __init__(
        self,
        wanted: SectionFiles,
        members: Members,
        files: dict[int, str],
        shape: tuple[int, int, int],
    ) -> None:
        self.wanted, self.members, self.files, self.shape = wanted, members, files, shape
        self.stack: Image.Image | None = None
        self.stack_file: BinaryIO | None = None
        if not self.is_stack:
            self._check_numbers()

    def _check_numbers(self) -> None:
        some = self.members.where(next(iter(self.files.values())))
        lacking = [number for number in self.numbers if number not in self.files]
        if lacking:
            found = len(self.numbers) - len(lacking)
            raise UserError(
                f"{some}: one of {found} sections, expected {len(self.numbers)} "
                f"({self.numbers[0]} to {self.numbers[-1]}); section {lacking[0]} is missing"
            )
        if max(self.files) >= self.wanted.total:
            raise UserError(
                f"{some}: one of sections up to number {max(self.files)}, expected "
                f"{self.wanted.total} (0 to {self.wanted.total - 1}); a padded or another version, "
                "which the labels do not fit"
            )

    @property
    def is_stack(self) -> bool:
        """Whether all sections are in one TIFF."""
        return STACK in self.files

    @property
    def numbers(self) -> range:
        """The official numbers of the wanted sections."""
        return range(self.wanted.first, self.wanted.first + self.shape[0])

    @property
    def used(self) -> list[str]:
        """Names of the files that are read."""
        return [self.files[STACK]] if self.is_stack else [self.files[n] for n in self.numbers]

    def read(self, index: int) -> np.ndarray:
        """A section (H, W) uint8: an image as it is, a mask as 0 and 1.

        Args:
            index: counts from 0 at the first wanted.

        Raises:
            UserError: damaged, or of another size or kind than it should be.
        """
        where = self.where(index)
        if self.is_stack:
            return self._section(self._page(self.numbers[index], where), where)
        with self.members.open(self.files[self.numbers[index]], self._limit(1)) as file:
            image = _opened(file, where)
            if image.format == "PNG":
                _verify(image, where)  # decoding alone overlooks wrong check sums
                image = _opened(file, where)
            return self._section(image, where)

    def where(self, index: int) -> str:
        """A section's place, for messages."""
        number = self.numbers[index]
        if self.is_stack:
            return f"{self.members.where(self.files[STACK])}, page {number}"
        return self.members.where(self.files[number])

    def close(self) -> None:
        """Let go of a stack."""
        if self.stack_file is not None:
            self.stack_file.close()
        self.stack = self.stack_file = None

    def _page(self, number: int, where: str) -> Image.Image:
        try:
            if self.stack is None:
                self.stack = self._open_stack()
            self.stack.seek(number)
        except UserError:
            raise
        except Exception as error:
            raise _unreadable(where, error) from None
        return self.stack

    def _open_stack(self) -> Image.Image:
        total, where = self.wanted.total, self.members.where(self.files[STACK])
        self.stack_file = self.members.open(self.files[STACK], self._limit(total))
        stack = _opened(self.stack_file, where)
        pages = getattr(stack, "n_frames", 1)  # PNG has none
        if pages != total:
            raise UserError(f"{where}: found {pages} pages, expected {total} sections")
        return stack

    def _limit(self, sections: int) -> int:
        return sections * (self.shape[1] * self.shape[2] * WIDEST_PIXEL + HEADERS)

    def _section(self, image: Image.Image, where: str) -> np.ndarray:
        check_grey(where, image)
        height, width = self.shape[1:]
        if image.size != (width, height):  # before anything is decoded
            raise UserError(
                f"{where}: found {image.height} x {image.width} pixels, expected {height} x {width}"
            )
        allowed = (
            ["8-bit"] if self.wanted.kind == "image" else ["1-bit", "8-bit", "16-bit", "32-bit"]
        )
        found = MODES.get(image.mode, image.mode)
        if found not in allowed:
            raise UserError(f"{where}: found {found} grey, expected {' or '.join(allowed)}")
        try:
            section = np.array(image)
        except Exception as error:
            raise _unreadable(where, error) from None
        if self.wanted.kind == "instances":
            return (section > 0).astype(np.uint8)
        if self.wanted.kind == "mask":
            highest = section.max()
            if section.dtype == np.uint8 and 1 < highest < 128:
                raise UserError(
                    f"{where}: found mask values up to {highest}, expected 0 and 255 or 0 and 1"
                )
            half = 127 if section.dtype == np.uint8 and highest > 1 else 0
            return (section > half).astype(np.uint8)
        return section


def find_sections(
    wanted: SectionFiles, shape: tuple[int, int, int], sources: Iterable[Members]
) -> PublishedSections | None:
    """The wanted sections in the first source that has any of them; None: in none.

    Raises:
        UserError: that source lacks some, or has one twice.
    """
    pattern = re.compile(rf"(?:^|/){wanted.pattern}$", re.IGNORECASE)
    for members in sources:
        files: dict[int, str] = {}
        for name in members.names:
            if not (found := pattern.search(name)):
                continue
            number = int(found[1]) if pattern.groups else STACK
            if number in files:
                raise UserError(
                    f"{members.where(files[number])}: the same as {name}; expected one of them"
                )
            files[number] = name
        if files:
            return PublishedSections(wanted, members, files, shape)
    return None


def _opened(file: BinaryIO, where: str) -> Image.Image:
    """An image of which only the header is read."""
    try:
        file.seek(0)
        return Image.open(file, formats=("PNG", "TIFF"))
    except UnidentifiedImageError:
        raise _unreadable(where, "neither PNG nor TIFF") from None
    except Exception as error:
        raise _unreadable(where, error) from None


def _verify(image: Image.Image, where: str) -> None:
    """Compare the check sums; the image cannot be read any more then."""
    try:
        image.verify()
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise _unreadable(where, error) from None


def _unreadable(where: str, error: Exception | str) -> UserError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    return UserError(f"{where}: not a readable image ({reason}); damaged? Get it anew")
