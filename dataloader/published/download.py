"""The official files from the web, by pooch: whole or not at all, not resumed."""

import shlex
import sys
from pathlib import Path

import pooch

from dataloader.published.catalogue import OfficialFile
from utils.errors import UserError

BLOCK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without an answer or data


def fetch(file: OfficialFile, folder: Path) -> None:
    """Download a file into a folder and compare its SHA-256 where that is known.

    Raises:
        UserError: the server refuses, the connection breaks, it cannot be written, or it is another
            file.
    """
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(sys.stderr.isatty(), chunk_size=BLOCK, timeout=TIMEOUT)
    try:
        pooch.retrieve(file.url, file.sha256, file.name, folder, downloader=downloader)
    except (OSError, ValueError) as error:  # those of requests are OSErrors
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file.url}: not downloaded ({reason[:300]}); try again, or get {file.name} by hand "
            f"({file.page}) and give it with --from"
        ) from None


def curl_command(file: OfficialFile, folder: Path) -> str:
    """The command line that downloads a file into a folder and, given again, goes on with it."""
    place = str(folder / file.name)
    return shlex.join(["curl", "-L", "-C", "-", "-o", place, file.url])
