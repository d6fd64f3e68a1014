"""A web server of files on 127.0.0.1, which can be told to misbehave."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``files`` with ranges, ETag and length, and notes what it was asked for.

    Attributes:
        files: content by path, without the slash.
        etags: of some files; the others have none.
        cuts: at how many bytes the next answers break off.
        codes: with which the next answers refuse.
        ranges: whether it answers with parts.
        if_range: whether it looks at ``If-Range``.
        length: whether it tells lengths.
        kind: content type.
        silent: lets every question wait until the server is closed.
        asked: (path, Range or None) of each question.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.cuts: list[int] = []
        self.codes: list[int] = []
        self.ranges = self.if_range = self.length = True
        self.kind = "application/octet-stream"
        self.silent = False
        self.asked: list[tuple[str, str | None]] = []
        self.closing = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *arguments) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, asked = handler.path[1:], handler.headers.get("Range")
        self.asked.append((name, asked))
        if self.silent:
            self.closing.wait()
            return
        if self.codes:
            handler.send_error(self.codes.pop(0))
            return
        if name not in self.files:
            handler.send_error(404)
            return
        content, start = self.files[name], 0
        condition = handler.headers.get("If-Range")
        unchanged = not self.if_range or condition in (None, self.etags.get(name))
        if asked and self.ranges and unchanged:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                handler.send_error(416)
                return
            handler.send_response(206)
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", span)
        else:
            handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(len(content) - start))
        if name in self.etags:
            handler.send_header("ETag", self.etags[name])
        handler.send_header("Content-Type", self.kind)
        handler.end_headers()
        handler.wfile.write(content[start : self.cuts.pop(0) if self.cuts else None])
