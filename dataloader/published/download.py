"""Download official files with pooch: completely or not at all, without resuming."""

import shlex
import sys
from pathlib import Path

import pooch

from dataloader.published.catalogue import OfficialFile
from utils.errors import UserError

BLOCK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without an answer or data


def fetch(file: OfficialFile, folder: Path) -> None:
    """Download a file into a folder and verify its SHA-256 if known.

    Raises:
        UserError: the server refuses, the connection breaks, the file cannot be written, or the
            checksum differs.
    """
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(sys.stderr.isatty(), chunk_size=BLOCK, timeout=TIMEOUT)
    try:
        pooch.retrieve(file.url, file.sha256, file.name, folder, downloader=downloader)
    except (OSError, ValueError) as error:  # errors of requests are OSErrors
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file.url}: not downloaded ({reason[:300]}); try again, or download {file.name} "
            f"yourself ({file.page}) and give it with --from"
        ) from None


def curl_command(file: OfficialFile, folder: Path) -> str:
    """The command line that downloads a file into a folder, and resumes if run again."""
    place = str(folder / file.name)
    return shlex.join(["curl", "-L", "-C", "-", "-o", place, file.url])
