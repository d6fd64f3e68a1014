"""Files from the web: resumed where they were cut off, begun anew where they have changed."""

import http.client
import json
import re
import shutil
import time
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from utils.errors import UserError, writing_to
from utils.progress import progress

BLOCK = 1 << 20  # bytes
PASSING = (408, 425, 429)  # client errors that a later attempt may not meet; 5xx besides
NETWORK_ERRORS = (OSError, http.client.HTTPException)


class Patience(NamedTuple):
    """How a troubled download is treated.

    Attributes:
        attempts: without any progress before it is given up.
        pause: seconds between the first two; each later pause is twice as long.
        timeout: seconds without an answer or data.
    """

    attempts: int = 5
    pause: float = 2.0
    timeout: float = 60.0


class Version(NamedTuple):
    """By what a server tells one version of a file from another; None: not said.

    Attributes:
        etag: the entity tag.
        modified: ``Last-Modified`` as written.
        length: bytes of the whole file.
    """

    etag: str | None
    modified: str | None
    length: int | None

    @property
    def condition(self) -> str | None:
        """For ``If-Range``, which weak tags are not allowed in (RFC 9110, 13.1.5)."""
        strong = self.etag and not self.etag.startswith("W/")
        return self.etag if strong else self.modified

    def agrees(self, other: "Version") -> bool:
        """Whether nothing tells the two apart; a part may come with fewer headers than a whole."""
        pairs = zip(self, other, strict=True)
        return all(mine == its for mine, its in pairs if None not in (mine, its))


class _Interrupted(Exception):
    """A connection that failed or ended too soon; the message says how."""


def fetch(
    url: str,
    path: Path,
    say: Callable[[str], None] = print,
    patience: Patience = Patience(),  # noqa: B008 - immutable
) -> None:
    """Download a file; what an earlier, broken download left of the same version is kept.

    Until it is whole the file is ``NAME.part``, its version in ``NAME.part.json``. It is resumed
    (RFC 9110, 14.2) if entity tag, date and length are as they were, else begun anew.

    Raises:
        UserError: the server refuses, the network fails for good, or there is no place on the disc.
    """
    download = _Download(url, path, patience.timeout)
    failures, furthest = 0, download.have
    while not download.whole:
        try:
            download.receive()
        except _Interrupted as error:
            failures = 0 if download.have > furthest else failures + 1
            furthest = max(furthest, download.have)
            if failures >= patience.attempts:
                raise UserError(
                    f"{url}: {error}; given up after {failures} attempts, the same command resumes "
                    f"at {download.have:,} bytes"
                ) from None
            say(f"{path.name}: {error}; trying again from {download.have:,} bytes")
            time.sleep(patience.pause * 2 ** max(0, failures - 1))
    with writing_to(path):
        download.part.replace(path)
        download.notes.unlink(missing_ok=True)


class _Download:
    """The part of a file that is here, and the version it is of."""

    def __init__(self, url: str, path: Path, timeout: float) -> None:
        self.url, self.path, self.timeout = url, path, timeout
        self.part = path.with_name(path.name + ".part")
        self.notes = path.with_name(path.name + ".part.json")
        self.ended = False  # a server that told no length has sent its last byte
        try:
            kept = json.loads(self.notes.read_text(encoding="utf-8"))
            self.version = Version(**kept["version"]) if kept["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            self.version = None

    @property
    def have(self) -> int:
        """Bytes that can be kept."""
        if self.version is None or self.version.length is None or not self.part.is_file():
            return 0
        size = self.part.stat().st_size
        return size if size <= self.version.length else 0

    @property
    def whole(self) -> bool:
        """Whether every byte is here."""
        return self.ended or (
            self.version is not None
            and self.part.is_file()
            and self.part.stat().st_size == self.version.length
        )

    def receive(self) -> None:
        """Ask for what lacks and take what comes; raises _Interrupted where that was not all."""
        have = self.have
        headers = {"User-Agent": "prepare_data", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.version.condition:
                headers["If-Range"] = self.version.condition
        try:
            with urlopen(Request(self.url, headers=headers), timeout=self.timeout) as response:
                self._take(response, have)
        except HTTPError as error:
            with error:
                self._refused(error, have)
        except NETWORK_ERRORS as error:
            raise _Interrupted(_reason(error)) from None

    def _take(self, response: http.client.HTTPResponse, have: int) -> None:
        kind = response.headers.get_content_type()
        if kind == "text/html":
            raise UserError(f"{self.url}: answered with a web page, expected {self.path.name}")
        start, version = _described(response.status, response.headers)
        if start and not (start == have and version.agrees(self.version)):
            self._begin_anew(None)  # it has changed meanwhile, and the server overlooked If-Range
            raise _Interrupted("the file has changed on the server")
        if start == 0:
            self._begin_anew(version)
        lacking = None if version.length is None else version.length - start
        free = shutil.disk_usage(self.path.parent).free
        if lacking is not None and lacking > free:
            raise UserError(
                f"{self.path.parent}: {free:,} bytes free, {lacking:,} needed for {self.path.name}"
            )
        with (
            writing_to(self.part),
            self.part.open("ab") as file,
            progress(None, version.length, "B", start) as bar,
        ):
            while block := _read(response):
                file.write(block)
                bar.update(len(block))
        if version.length is None:
            self.ended = True
        elif not self.whole:
            raise _Interrupted(f"the connection ended at {self.have:,} of {version.length:,} bytes")

    def _begin_anew(self, version: Version | None) -> None:
        with writing_to(self.part):
            self.part.unlink(missing_ok=True)  # before its notes say it is of this version
            self.version = version
            if version is not None:
                content = {"url": self.url, "version": version._asdict()}
                self.notes.write_text(json.dumps(content), encoding="utf-8")

    def _refused(self, error: HTTPError, have: int) -> None:
        if error.code == 416 and have:  # shorter than what is here
            self._begin_anew(None)
            raise _Interrupted("the file has changed on the server")
        answer = f"the server answered {error.code} ({error.reason})"
        if error.code >= 500 or error.code in PASSING:
            raise _Interrupted(answer)
        raise UserError(
            f"{self.url}: {answer}; the address may be out of date: get {self.path.name} by hand "
            "and give it with --from"
        )


def _described(status: int, headers: Message) -> tuple[int, Version]:
    """Where an answer starts in its file, and the file's version."""
    start, length = 0, headers.get("Content-Length")
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", "").strip())
        if not found:
            raise _Interrupted("the server sent a part without saying which")
        start, length = int(found[1]), found[2]
    known = length is not None and length.isdecimal()
    return start, Version(
        headers.get("ETag"), headers.get("Last-Modified"), int(length) if known else None
    )


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next bytes; errors of the network apart from those of the disc."""
    try:
        return response.read1(BLOCK)
    except NETWORK_ERRORS as error:
        raise _Interrupted(f"the connection broke ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """An error of the network in one short line."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]
