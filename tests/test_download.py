"""Downloads from a server on this machine: whole, cut off, changed, refused."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataloader.published.download import Patience, fetch
from tests.conftest import ROOT
from tests.file_server import FileServer
from utils.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
OTHER = np.random.default_rng(1).bytes(2_000_000)
QUICK = Patience(attempts=2, pause=0, timeout=20)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FileServer()
    server.files["a.zip"] = CONTENT
    server.etags["a.zip"] = '"first"'
    yield server
    server.close()


class Download:
    """A download of ``a.zip`` and what it said."""

    def __init__(self, server: FileServer, folder: Path) -> None:
        self.server, self.path = server, folder / "a.zip"
        self.said: list[str] = []

    def __call__(self, patience: Patience = QUICK) -> bytes:
        fetch(self.server.url("a.zip"), self.path, self.said.append, patience)
        assert [file.name for file in self.path.parent.iterdir()] == ["a.zip"]
        return self.path.read_bytes()

    def fails(self, match: str, patience: Patience = QUICK) -> None:
        with pytest.raises(UserError, match=match) as error:
            self(patience)
        assert "\n" not in str(error.value)
        assert not self.path.exists()

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.server.asked]


@pytest.fixture
def download(server, tmp_path) -> Download:
    return Download(server, tmp_path)


def test_whole(download: Download) -> None:
    assert download() == CONTENT
    assert download.ranges == [None]
    assert download.said == []


def test_cut_off_is_resumed_where_it_was(download: Download) -> None:
    download.server.cuts = [1_000_000, 2_500_000]
    assert download() == CONTENT
    assert download.ranges == [None, "bytes=1000000-", "bytes=2500000-"]
    assert "1,000,000 of 3,000,000" in download.said[0]


def test_given_up_download_goes_on_in_the_next_run(download: Download) -> None:
    download.server.cuts = [700_000, 700_000, 700_000]
    download.fails("resumes at 700,000 bytes")
    download.server.asked.clear()
    assert download() == CONTENT
    assert download.ranges == ["bytes=700000-"]


def test_progress_renews_the_patience(download: Download) -> None:
    download.server.cuts = [300_000 * n for n in range(1, 9)]  # more than its two attempts
    assert download() == CONTENT


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("length", [len(CONTENT), len(OTHER)])
def test_changed_file_is_begun_anew(download: Download, if_range: bool, length: int) -> None:
    download.server.cuts = [700_000] * 3
    download.fails("given up")
    download.server.if_range = if_range
    changed = (OTHER + OTHER)[:length]
    download.server.files["a.zip"] = changed
    download.server.etags["a.zip"] = '"second"'
    assert download() == changed


def test_length_alone_shows_a_change(download: Download) -> None:
    del download.server.etags["a.zip"]
    download.server.cuts = [700_000] * 3
    download.fails("given up")
    download.server.files["a.zip"] = OTHER
    assert download() == OTHER


def test_file_shorter_than_what_is_here_is_begun_anew(download: Download) -> None:
    download.server.if_range = False
    download.server.cuts = [700_000] * 3
    download.fails("given up")
    download.server.files["a.zip"] = OTHER[:5000]
    assert download() == OTHER[:5000]
    assert download.ranges[-2:] == ["bytes=700000-", None]


def test_server_without_ranges_sends_all_again(download: Download) -> None:
    download.server.ranges = False
    download.server.cuts = [700_000]
    assert download() == CONTENT


def test_server_that_only_ever_sends_the_start_is_given_up(download: Download) -> None:
    download.server.ranges = False
    download.server.cuts = [700_000] * 50
    download.fails("given up after 2 attempts")
    assert len(download.server.asked) < 5


def test_length_not_told(download: Download) -> None:
    download.server.length = False
    assert download() == CONTENT


def test_another_address_shares_nothing(download: Download) -> None:
    download.server.cuts = [700_000] * 3
    download.fails("given up")
    download.server.files["b.zip"] = OTHER
    fetch(download.server.url("b.zip"), download.path, patience=QUICK)
    assert download.path.read_bytes() == OTHER


def test_refusals(download: Download) -> None:
    download.server.codes = [404]
    download.fails(r"a\.zip: the server answered 404 \(Not Found\).*--from")
    assert len(download.server.asked) == 1  # no use in trying again
    download.server.codes = [500] * 2
    download.fails(r"500 \(Internal Server Error\); given up after 2 attempts")
    download.server.codes = [503]
    assert download() == CONTENT


def test_web_page_instead_of_the_file(download: Download) -> None:
    download.server.kind = "text/html; charset=utf-8"
    download.fails("answered with a web page")


def test_no_server(download: Download) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="refused; given up after 2 attempts"):
            fetch(f"http://127.0.0.1:{free.getsockname()[1]}/a", download.path, patience=QUICK)


def test_silent_server(download: Download) -> None:
    download.server.silent = True
    download.fails("no answer in time", Patience(attempts=1, timeout=0.2))


def test_no_room_on_the_disc(download: Download, monkeypatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    download.fails("1,000 bytes free, 3,000,000 needed")


KILLED = """
import http.client, os, signal, sys
from pathlib import Path
from dataloader.published.download import fetch

read1, left = http.client.HTTPResponse.read1, [3]

def dying(self, size):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return read1(self, size)

http.client.HTTPResponse.read1 = dying
fetch(sys.argv[1], Path(sys.argv[2]))
"""


def test_killed_download_is_resumed(download: Download) -> None:
    arguments = [download.server.url("a.zip"), download.path]
    process = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    assert not download.path.exists()
    kept = (download.path.parent / "a.zip.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    assert download() == CONTENT
    assert download.ranges == [None, f"bytes={kept}-"]
