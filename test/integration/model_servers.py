"""Servers that models come from, on 127.0.0.1: what the client of Hugging Face's hub asks for, and a registry."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

# Of htpasswd: the user "me" with the password "geheim".
LOGIN = "me:$2b$12$AuY7Wriyy8k3Vc0gfaZyeuB35S26lcwRPrxSIV4KMSx7kejhZ5w3q\n"


@dataclass
class Hub:
    """A hub with one private repository, ``org/net``, of one commit on the branch ``main``.

    Attributes:
        files: its files.
        token: what clients must have.
        breaks: after how many bytes the connections of the next downloads end.
        ranges: the ranges that downloads asked for.
    """

    files: dict[str, bytes]
    token: str = "hf_test"
    commit: str = "a" * 40
    breaks: list[int] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        revisions = ("main", hub.commit)
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.answer(401, {"error": "Invalid credentials"}, {"X-Error-Code": "RepoNotFound"})
        elif path in [f"/api/models/org/net/revision/{revision}" for revision in revisions]:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in hub.files.items()]
            self.answer(200, {"id": "org/net", "sha": hub.commit, "siblings": siblings})
        elif path.startswith("/api/models/org/net/revision/"):
            self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/api/models/org/net/tree/{hub.commit}"):
            self.answer(200, [self.entry(name, content) for name, content in hub.files.items()])
        elif path.startswith(f"/org/net/resolve/{hub.commit}/"):
            self.send_file(hub.files[path.removeprefix(f"/org/net/resolve/{hub.commit}/")])
        else:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    @staticmethod
    def entry(name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def answer(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def send_file(self, content: bytes) -> None:
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0] or 0)
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.hub.ranges.append(asked)
            end = start + self.hub.breaks.pop(0) if self.hub.breaks else len(content)
            self.wfile.write(content[start:end])
            self.close_connection = end < len(content)

    def log_message(self, *_: object) -> None:
        """Keep pytest's output clean."""


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    handler = type("Handler", (_HubHandler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def registry_program(directory: Path) -> str:
    """Return Debian's docker-registry, unpacked where it is not installed: its package would start a service."""
    if installed := shutil.which("docker-registry"):
        return installed
    if not shutil.which("apt-get"):
        pytest.skip("no docker-registry here")
    subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
    subprocess.run(["apt-get", "download", "docker-registry"], check=True, capture_output=True, cwd=directory)
    (package,) = directory.glob("*.deb")
    subprocess.run(["dpkg", "-x", package, directory], check=True)
    return str(directory / "usr" / "bin" / "docker-registry")


@contextmanager
def registry(directory: Path, port: int, login: str = "") -> Iterator[str]:
    """Run a registry, which asks for a login where there is one, and yield its address."""
    config: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if login:
        (directory / "htpasswd").write_text(login)
        config["auth"] = {"htpasswd": {"realm": "models", "path": str(directory / "htpasswd")}}
    (directory / "config.yml").write_text(json.dumps(config))
    program = registry_program(directory)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", directory / "config.yml"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
