"""Volumes in chunks, as tensorstore and the programs of their owners write them; a web server."""

import json
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from dataloader.formats.voxel_size import VoxelSize

SHAPE = (6, 40, 48)
SIZE = VoxelSize(30.0, 4.0, 4.0)  # nm
CHUNK = (2, 16, 16)
V = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
OFFSET = (100, 200, 7)  # x, y, z of the first voxel of a precomputed volume
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", "preshift_bits": 1,
    "minishard_bits": 1, "shard_bits": 2, "data_encoding": "gzip",
    "minishard_index_encoding": "gzip",
}  # fmt: skip


def n5(folder: Path, array: np.ndarray = V, compression: str = "gzip", **attributes: Any) -> Path:
    """A data set; its axes are those of the array in reverse, as other programs of N5 list them."""
    chunk = [*CHUNK[::-1], *[1] * (array.ndim - 3)]
    metadata = {
        "dimensions": list(array.T.shape), "blockSize": chunk, "dataType": str(array.dtype),
        "compression": {"type": compression},
    }  # fmt: skip
    _written({"driver": "n5", "metadata": metadata}, folder)[...] = array.T
    put(folder / "attributes.json", **attributes)
    return folder


def put(file: Path, **values: Any) -> None:
    """Add values to a file of JSON, which may be new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(earlier | values))


def open_organelle(container: Path) -> Path:
    """``em/raw`` of a container, in two levels, with the metadata of OpenOrganelle."""
    put(container / "attributes.json", n5="2.0.0")
    group, levels = container / "em" / "raw", []
    for level, step in enumerate((1, 2)):
        scale = [30.0, 4.0 * step, 4.0 * step]
        transform = {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "scale": scale,
                     "translate": [0.0] * 3}  # fmt: skip
        pixel = {"dimensions": scale[::-1], "unit": "nm"}
        array = V[:, ::step, ::step]
        n5(group / f"s{level}", array, transform=transform, pixelResolution=pixel)
        levels.append({"path": f"s{level}", "transform": transform})
    put(
        group / "attributes.json", axes=["x", "y", "z"], units=["nm"] * 3,
        scales=[[1, 1, 1], [2, 2, 1]], pixelResolution={"dimensions": [4.0, 4.0, 30.0],
        "unit": "nm"}, multiscales=[{"name": "raw", "datasets": levels}],
    )  # fmt: skip
    return container


def precomputed(
    folder: Path, array: np.ndarray = V, encoding: str = "raw", sharded: bool = False,
    channels: int = 1,
) -> Path:  # fmt: skip
    """A volume of two scales, the coarser one first."""
    kind = "segmentation" if array.dtype == np.uint64 else "image"
    whole = {"type": kind, "data_type": str(array.dtype), "num_channels": channels}
    for step in (2, 1):
        part = array[:, ::step, ::step].T
        scale = {
            "key": f"{4 * step}_{4 * step}_30", "resolution": [4 * step, 4 * step, 30],
            "size": list(part.shape), "voxel_offset": list(OFFSET), "chunk_size": CHUNK[::-1],
            "encoding": encoding,
        }  # fmt: skip
        if encoding == "compressed_segmentation":
            scale["compressed_segmentation_block_size"] = [8, 8, 8]
        if sharded:
            scale["sharding"] = SHARDING
        spec = {"driver": "neuroglancer_precomputed", "multiscale_metadata": whole}
        written = _written(spec | {"scale_metadata": scale}, folder)
        written[...] = np.repeat(part[..., None], channels, axis=-1)
    return folder


def _written(spec: dict[str, Any], folder: Path) -> Any:
    store = {"driver": "file", "path": f"{folder}/"}
    return tensorstore.open(spec | {"kvstore": store}, create=True, open=True).result()


class Server:
    """A web server on this machine.

    Attributes:
        requests: how often each path was asked for.
        failures: how often a path is still to fail, and with which code.
    """

    def __init__(self, folder: Path) -> None:
        self.requests: Counter[str] = Counter()
        self.failures: dict[str, tuple[int, int]] = {}
        handler = partial(_Handler, self, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def at(self, path: str) -> Path:
        """The address of a path, as commands and configs have it."""
        return Path(f"{self.address}/{path}")

    def close(self) -> None:
        """No longer answer."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *args: Any, **options: Any) -> None:
        self.told = server
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        self.told.requests[self.path] += 1
        times, code = self.told.failures.get(self.path, (0, 0))
        if times:
            self.told.failures[self.path] = (times - 1, code)
            self.send_error(code)
        elif span := self.headers.get("Range"):
            self._send_span(Path(self.translate_path(self.path)), span)
        else:
            super().do_GET()

    def _send_span(self, file: Path, span: str) -> None:
        """A part of a file, which SimpleHTTPRequestHandler does not send."""
        if not file.is_file():
            self.send_error(404)
            return
        whole = file.read_bytes()
        first, _, last = span.removeprefix("bytes=").partition("-")
        start = int(first) if first else len(whole) - int(last)
        end = int(last) + 1 if first and last else len(whole)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(whole)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(whole[start:end])

    def end_headers(self) -> None:
        self.send_header("ETag", '"as written"')  # S3 has one for each object
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
