"""A web server that a download can break off from, and go on with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Download:
    """What a client asked for."""

    range: str
    if_range: str
    authorization: str


@dataclass
class ModelSite:
    """One file on 127.0.0.1, at ``/net``; ``/moved`` leads there by another name of the host.

    Attributes:
        content: the file.
        etag: its validator; empty: the server has none.
        ranges: whether the server understands ranges.
        breaks: after how many bytes of the next answers the connection ends.
        login: the value that ``Authorization`` must have.
        downloads: what was asked for.
    """

    content: bytes
    port: int = 0
    etag: str = '"1"'
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    login: str = ""
    downloads: list[Download] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/net"

    @property
    def moved(self) -> str:
        return f"http://localhost:{self.port}/moved"


@contextmanager
def served(site: ModelSite) -> Iterator[ModelSite]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            header = {name.lower(): value for name, value in self.headers.items()}
            login = header.get("authorization", "")
            if self.path == "/moved":
                site.downloads.append(Download("", "", login))
                self.send_response(302)
                self.send_header("Location", site.url)
                self.end_headers()
                return
            site.downloads.append(Download(header.get("range", ""), header.get("if-range", ""), login))
            if login != site.login:
                self.send_error(401)
                return
            self.send_file(site.downloads[-1])

        def send_file(self, asked: Download) -> None:
            start = int(asked.range.removeprefix("bytes=").rstrip("-") or 0)
            if not site.ranges or (asked.if_range and asked.if_range != site.etag):
                start = 0
            if start >= len(site.content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(site.content) - start))
            self.end_headers()
            end = start + site.breaks.pop(0) if site.breaks else len(site.content)
            self.wfile.write(site.content[start:end])

        def log_message(self, *_: object) -> None:
            """Keep pytest's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
