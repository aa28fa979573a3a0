"""What several test files share: a small web server on this machine, and how Hypothesis runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hypothesis
import pytest

# The same examples on every run, and no failure because a machine is slow.
hypothesis.settings.register_profile("unit", deadline=None, derandomize=True)
hypothesis.settings.load_profile("unit")


@dataclass(frozen=True)
class Asked:
    """A request the site got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """A web server on 127.0.0.1: ``answers`` holds a status and a body per path, ``asked`` what was asked."""

    port: int
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            here.asked.append(Asked(self.command, self.path, dict(self.headers), body))
            status, content = here.answers.get(self.path, (404, b"not here"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_OPTIONS = answer

        def log_message(self, *_: object) -> None:
            """Keep pytest's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Site(server.server_port)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens: it was given to a server that has ended."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return server.server_port
