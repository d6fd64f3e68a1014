"""Files inside archives and folders, read one by one; nothing is ever unpacked to the disc."""

import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from utils.errors import UserError

LARGEST_MEMBER = 4 << 30  # bytes; no single file of a published data set comes near
BROKEN = (  # what zipfile and tarfile raise at damaged archives
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
)


class Members(ABC):
    """Files by name, in an archive or loose.

    Attributes:
        path: the archive; None: loose files.
        names: of the plain files, ``/`` between folders.
    """

    path: Path | None = None
    names: list[str]

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file, as its archive or file system says."""

    @abstractmethod
    def _open(self, name: str) -> BinaryIO:
        """A file's content, to read and to seek in."""

    def open(self, name: str, limit: int) -> BinaryIO:
        """A file's content, to read and to seek in; an archive's is in memory.

        Args:
            name: one of ``names``.
            limit: the most bytes it can plausibly have.

        Raises:
            UserError: it is larger, or damaged.
        """
        try:
            size = self.size(name)
            if size <= limit:
                return self._open(name)
        except BROKEN as error:
            raise UserError(
                f"{self.where(name)}: damaged ({_reason(error)}); get the file anew"
            ) from None
        raise UserError(
            f"{self.where(name)}: has {size:,} bytes, expected {limit:,} at most; "
            "not read, it may be a decompression bomb"
        )

    def where(self, name: str) -> str:
        """A file's place, for messages."""
        return f"{self.path.name}: {name}" if self.path else name

    def close(self) -> None:  # noqa: B027 - loose files are not kept open
        """Let go of the archive."""


class LooseFiles(Members):
    """Plain files on the disc, named by their whole paths."""

    def __init__(self, files: Iterable[Path]) -> None:
        paths = {file.resolve(): file.absolute() for file in files}.values()
        self.names = [path.as_posix() for path in paths if _wanted(path.name)]

    def size(self, name: str) -> int:
        return Path(name).stat().st_size

    def _open(self, name: str) -> BinaryIO:
        return Path(name).open("rb")


class ZipMembers(Members):
    """The files of a zip archive; raises UserError at a damaged or a dangerous one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except BROKEN as error:
            raise not_readable(path, error) from None
        self.names = []
        for entry in self.archive.infolist():
            mode = entry.external_attr >> 16  # of Unix, 0 where another system packed
            kind = (
                None if stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or device"
            )
            if entry.flag_bits & 0x1:
                kind = "an encrypted file"
            check_member(path, entry.filename, kind, entry.file_size)
            if not entry.is_dir() and _wanted(entry.filename):
                self.names.append(entry.filename)

    def size(self, name: str) -> int:
        return self.archive.getinfo(name).file_size

    def _open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.archive.read(name))  # of the size declared, its CRC checked

    def close(self) -> None:
        self.archive.close()


class TarMembers(Members):
    """The files of a tar archive, compressed or not; raises UserError as ``ZipMembers``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, tarfile.TarInfo] = {}
        try:
            self.archive = tarfile.open(path)  # noqa: SIM115 - closed by close()
            for member in self.archive:  # checked before its content is skipped
                kind = None if member.isfile() or member.isdir() else "a link or device"
                check_member(path, member.name, kind, member.size)
                if member.isfile() and _wanted(member.name):
                    self.members[member.name] = member
            self._read_end()
        except BROKEN as error:
            raise not_readable(path, error) from None
        self.names = list(self.members)

    def _read_end(self) -> None:
        """Demand the end, which tarfile does without; a compressed archive checks its sum there."""
        rest = self.archive.fileobj
        rest.seek(self.archive.offset)
        if rest.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the end is missing")
        while rest.read(1 << 20):
            pass

    def size(self, name: str) -> int:
        return self.members[name].size

    def _open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.archive.extractfile(self.members[name]).read())

    def close(self) -> None:
        self.archive.close()


def open_archive(path: Path) -> Members:
    """The files of a zip or a tar archive, told apart by their content.

    Raises:
        UserError: neither; truncated or damaged; with members that are encrypted, links, devices,
            absurdly large or outside the archive's own folder.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise not_readable(path, error) from None
    return ZipMembers(path) if start[:2] == b"PK" else TarMembers(path)


def check_member(archive: Path, name: str, kind: str | None, size: int) -> None:
    """Refuse a member of an archive that no honest one has; raises UserError.

    Args:
        archive: for the message.
        name: of the member.
        kind: what it is, where that alone condemns it.
        size: bytes it claims to have.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if kind is None and (".." in parts or parts[:1] == ("/",) or re.match(r"[A-Za-z]:", name)):
        kind = "a path that leads out of the archive"
    if kind is None and size > LARGEST_MEMBER:
        kind = f"a file of {size:,} bytes"
    if kind is not None:
        raise UserError(f"{archive}: holds {name!r}, {kind}; refused, get the official archive")


def files_in(folder: Path) -> list[Path]:
    """Every plain file below a folder, in a settled order."""
    found = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        found += [path for name in sorted(files) if (path := Path(place, name)).is_file()]
    return found


def not_readable(path: Path, error: Exception) -> UserError:
    """The error of an archive that cannot be read."""
    return UserError(
        f"{path}: not a readable zip or tar archive ({_reason(error)}); truncated or damaged? "
        "Get the file anew"
    )


def _wanted(name: str) -> bool:
    """Not one of the shadows that macOS packs beside each file."""
    path = PurePosixPath(name)
    return "__MACOSX" not in path.parts and not path.name.startswith("._")


def _reason(error: Exception) -> str:
    """An error's text in one short line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]
