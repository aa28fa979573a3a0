"""The gateway: its configuration listens where it shall, and a refused one leaves the old in place."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from modelserve.errors import UserError
from modelserve.gateway import Gateway, render
from modelserve.routes import Served, Share
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site

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
SERVERS = ("10.0.0.1:8000", "10.0.0.2:8000")


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(home=tmp_path))


def test_every_address_is_listened_on_and_every_server_is_used() -> None:
    lines = [line.split() for line in render(SERVED, BIND, SERVERS).splitlines()]
    assert [line[1] for line in lines if line[:1] == ["bind"]] == ["127.0.0.1:666", "10.0.0.1:666"]
    servers = [line[2] for line in lines if line[:1] == ["server"] and line[1].startswith("ingress")]
    assert servers == list(SERVERS)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy here; the machine scenario runs the real one")
def test_haproxy_accepts_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(render(SERVED, ("127.0.0.1",), SERVERS))
    checked = subprocess.run(["haproxy", "-c", "-f", str(file)], capture_output=True, text=True)
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


def test_a_gateway_that_answers_is_healthy(gateway: Gateway, site: Site) -> None:
    site.answers["/healthz"] = (200, b"{}")
    gateway.configure(Served(port=site.port))
    gateway.health()
    assert [asked.path for asked in site.asked] == ["/healthz"]


def test_a_gateway_that_listens_everywhere_is_asked_here(tmp_path: Path, site: Site) -> None:
    site.answers["/healthz"] = (200, b"{}")
    gateway = Gateway(Settings(home=tmp_path, gateway_bind=("0.0.0.0",)))
    gateway.configure(Served(port=site.port))
    gateway.health()
    assert site.asked


def test_a_gateway_without_an_ingress_is_not_healthy(gateway: Gateway, site: Site) -> None:
    site.answers["/healthz"] = (503, b"{}")
    gateway.configure(Served(port=site.port))
    with pytest.raises(UserError, match="503"):
        gateway.health()


def test_a_gateway_that_does_not_answer_is_not_healthy(gateway: Gateway, closed_port: int) -> None:
    gateway.configure(Served(port=closed_port))
    with pytest.raises(UserError, match="does not answer"):
        gateway.health()


def test_a_gateway_without_a_configuration_is_not_healthy(gateway: Gateway) -> None:
    with pytest.raises(UserError):
        gateway.health()
