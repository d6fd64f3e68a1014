"""Detect changed files without reading them."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.errors import UserError


def fingerprint(sources: Iterable[Path]) -> str:
    """SHA-256 of the name, size and modification time (ns) of each file, in order.

    Args:
        sources: files and folders; a folder stands for all files below it. Names are relative to
            the parent of each source, so a volume keeps its fingerprint when it is moved.

    Raises:
        UserError: a file no longer exists or cannot be read.
    """
    digest = hashlib.sha256()
    for source in sources:
        try:
            inside = _content(source) if source.is_dir() else [(source.name, source.stat())]
            for name, status in inside:
                line = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
                digest.update(line.encode(errors="surrogateescape"))
        except OSError as error:
            raise UserError(
                f"{error.filename or source}: cannot be read ({error.strerror})"
            ) from None
    return digest.hexdigest()


def _content(folder: Path | str, above: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Relative names and ``os.stat`` results of all files below a folder, sorted by name."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{above}{entry.name}"
            if entry.is_dir():
                yield from _content(entry.path, f"{name}/")
            else:
                yield name, entry.stat()
