"""What several test files share: a small web server, a head's store and packages, and how Hypothesis runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from modelserve.serve.contract import AppArgs
from modelserve.settings import Settings
from modelserve.store import rsync_server, sync

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
    """A port on which nothing listens."""
    return unused_port()


@pytest.fixture
def free_port() -> int:
    """Another one."""
    return unused_port()


def unused_port() -> int:
    """Return a port on which nothing listens."""
    # It was given to a server that has ended.
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return server.server_port


class StoreServer:
    """The daemon that serves a head's store on a free port of this machine: the one ``store_server.run`` becomes."""

    def __init__(self, home: Path, runtime: Path, port: int) -> None:
        self.home = home
        self.store = home / "store"
        self.port = port
        self.log = runtime / "log"
        self._runtime = runtime
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"rsync://{rsync_server.USER}@127.0.0.1:{self.port}/{rsync_server.MODULE}"

    def start(self) -> None:
        """Serve; returns when the daemon accepts connections."""

        def become(file: str, arguments: list[str]) -> None:
            with self.log.open("ab") as log:
                command = [*arguments, "--address=127.0.0.1"]
                self._process = subprocess.Popen(command, executable=shutil.which(file), stderr=log)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "execvp", become)
            patch.setattr(rsync_server, "PORT", self.port)
            patch.setattr(rsync_server, "RUNTIME", self._runtime)
            rsync_server.run(Settings(home=self.home))
        assert self._process is not None
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            assert self._process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # asked to end, it waits for nothing for 0.4 s
            self._process.wait()
            self._process = None


@pytest.fixture
def store_server_of_head(tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreServer]:
    """A head's home with a token, its store served, and workers in this process that ask there."""
    if shutil.which("rsync") is None:
        pytest.skip("no rsync here; the cluster scenario runs the real one")
    home, runtime = tmp_path / "head", tmp_path / "run"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "ray_token").write_text("0123abcd\n")
    (home / "store").mkdir()
    runtime.mkdir()
    monkeypatch.setattr(sync, "PORT", closed_port)
    server = StoreServer(home, runtime, closed_port)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ray_version(tmp_path: Path) -> Path:
    """A directory for PYTHONPATH that makes Ray look installed, for who only asks its version."""
    directory = tmp_path / "ray_version"
    information = directory / "ray-2.60.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.60.0\n")
    return directory


Make = Callable[..., AppArgs]


@pytest.fixture
def fresh_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A replica's Python serves one package; here several are loaded one after the other."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("algopkg", "helper", "backend"):
            del sys.modules[name]


@pytest.fixture
def make(tmp_path: Path, fresh_python: None) -> Make:
    """Write a package, under the name the store gives it, and say how it is served."""

    def package(files: dict[str, str] | str, backend: str = "Echo", **args: Any) -> AppArgs:
        root = tmp_path / "Echo-0123456789ab"
        for name, text in ({"backend.py": files} if isinstance(files, str) else files).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return AppArgs(name="Echo", package=str(root), backend=backend, **args)

    return package


@pytest.fixture
def without_capabilities() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as this user without capabilities: so do modelserve's containers, those of root too."""
    drop: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv here to drop root's capabilities")
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **variables}
        return subprocess.run([*drop, *command], env=environment, capture_output=True, text=True, check=False)

    return run
