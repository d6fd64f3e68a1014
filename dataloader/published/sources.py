"""Find the official files that the user has: images on disc and in zip archives."""

import zipfile
import zlib
from collections.abc import Container, Iterable
from pathlib import Path
from typing import NamedTuple

from dataloader.formats.folder import SECTION_SUFFIXES
from utils.errors import UserError

ImageFile = Path | zipfile.Path  # both are read by read_bytes()
BROKEN = (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Source(NamedTuple):
    """Image files that are searched together.

    Attributes:
        archive: the zip archive that holds them; None: files on disc.
        files: read from the archive without unpacking it.
    """

    archive: Path | None
    files: list[ImageFile]


def find_sources(given: Iterable[Path], downloads: Path, official: Container[str]) -> list[Source]:
    """One source for all image files, then one for each archive.

    Args:
        given: files, and folders to search for images and official files.
        downloads: folder of downloaded official files.
        official: names of official files.

    Raises:
        UserError: a given path does not exist, or is neither an image nor a zip archive.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += [f for f in sorted(path.rglob("*")) if f.name in official or _is_image(f)]
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"--from {path}: no such file or folder")
    if downloads.is_dir():
        found += [f for f in sorted(downloads.iterdir()) if f.name in official]
    files = {file.resolve(): file.absolute() for file in found if file.is_file()}.values()
    loose = Source(None, [file for file in files if _is_image(file)])
    return [loose, *(_open_archive(file) for file in files if not _is_image(file))]


def _open_archive(path: Path) -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise UserError(
            f"{path}: not a readable zip archive ({error}); download it again, or unpack it and "
            "give the folder with --from"
        ) from None
    return Source(path, [zipfile.Path(archive, name) for name in archive.namelist()])


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SECTION_SUFFIXES
