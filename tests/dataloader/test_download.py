"""Downloads of published data: broken off, replaced, missing, too large."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dataloader.published.catalogue import OfficialFile
from tests.dataloader.published_files import (
    IMAGES,
    LABELS,
    MITO_IMAGES,
    MITO_LABELS,
    TRAINING,
    VNC_ZIP,
    Files,
    Tree,
    digest,
    mitoem_files,
    small,
    vnc_files,
    write,
    zipped,
)
from utils.errors import UserError


class FileServer:
    """A web server of ``files`` on this machine.

    Attributes:
        files: content by name.
        cut: bytes after which the next answer breaks off; None: it does not.
        asked: the names it was asked for.
    """

    def __init__(self) -> None:
        self.files: Files = {}
        self.cut: int | None = None
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path[1:]
                owner.asked.append(name)
                if name not in owner.files:
                    self.send_error(404)
                    return
                content = owner.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: owner.cut])
                owner.cut = None

            def log_message(self, *arguments) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def url(self, file: OfficialFile) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{file.name}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FileServer()
    yield server
    server.close()


def test_only_what_is_missing_is_downloaded(tree: Tree, server: FileServer) -> None:
    files = mitoem_files()
    server.files["EM30-R-im.zip"] = files.pop("EM30-R-im.zip")
    data = small("mitoem-r", url=server.url, large=lambda file: False)
    tree.prepare(data, write(tree.given, files), download=True)
    assert server.asked == ["EM30-R-im.zip"]
    tree.holds("Mito/rat/training.hdf", MITO_IMAGES[:TRAINING], MITO_LABELS[:TRAINING])
    assert [file.name for file in (tree.root / "downloads").iterdir()] == server.asked
    (tree.root / "Mito/rat/testing.hdf").unlink()
    tree.prepare(data, tree.given)  # what was downloaded is found again
    assert len(server.asked) == 1
    tree.no_leftovers()


def test_download_that_breaks_off_and_is_given_again(tree: Tree, server: FileServer) -> None:
    content = zipped(vnc_files())
    server.files[VNC_ZIP], server.cut = content, 5000
    data = small("vnc", url=server.url, sha256=lambda file: digest(content))
    tree.fails(f"{VNC_ZIP}: not downloaded .*try again", data, download=True)
    assert tree.files() == []
    tree.prepare(data, download=True)
    tree.holds("VNC3/training", IMAGES, LABELS)
    tree.no_leftovers()


def test_another_file_on_the_server(tree: Tree, server: FileServer) -> None:
    server.files[VNC_ZIP] = zipped(vnc_files())
    data = small("vnc", url=server.url, sha256=lambda file: "0" * 64)
    tree.fails("not downloaded .*does not match the known hash.*--from", data, download=True)
    assert tree.files() == []


def test_missing_on_the_server(tree: Tree, server: FileServer) -> None:
    tree.fails("404 Client Error: Not Found.*--from", small("vnc", url=server.url), download=True)


def test_large_file_is_left_to_curl(tree: Tree, server: FileServer) -> None:
    files = mitoem_files()
    server.files = dict(files)
    data = small("mitoem-r", url=server.url)
    place = tree.root / "downloads/EM30-R-im.zip"
    with pytest.raises(UserError, match="too large") as error:
        tree.prepare(data, download=True)
    address = server.url(data.volumes[0].image_files.file)
    assert str(error.value).endswith(f": curl -L -C - -o {place} {address}")
    assert server.asked == ["EM30-R-mito-train-val-v2.zip"]
    place.write_bytes(files["EM30-R-im.zip"])  # as curl would
    tree.prepare(data, download=True)
    tree.holds("Mito/rat/training.hdf", MITO_IMAGES[:TRAINING], MITO_LABELS[:TRAINING])
