"""Addresses with ports: IPv6 addresses have brackets, wherever an address is written."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from modelserve.catalog.app import listener
from modelserve.cluster.node import start_command
from modelserve.gateway.haproxy import url_of
from modelserve.util.endpoints import endpoint

ROOT = Path(__file__).resolve().parents[2]
# A variable that may hold any address, before a colon and a port.
WITHOUT_BRACKETS = re.compile(r"\{[\w.]*(?:address|head|host)\}:\{")
# These write addresses of this machine alone, or are the helper itself.
ALLOWED = {"util/endpoints.py", "catalog/app.py", "replica/local_server.py", "replica/ray_compat.py"}


@pytest.mark.parametrize(
    ("host", "text"), [("10.0.0.1", "10.0.0.1:80"), ("head.example", "head.example:80"), ("fd00::1", "[fd00::1]:80")]
)
def test_an_ipv6_address_has_brackets(host: str, text: str) -> None:
    assert endpoint(host, 80) == text


def test_a_gateway_s_url_and_ray_s_address_have_them() -> None:
    assert url_of("fd00::1", 666, tls=True) == "https://[fd00::1]:666"
    line = start_command("worker", Path("/opt/modelserve"), name="w", head_address="fd00::1", node_ip="fd00::2")
    assert "--address=[fd00::1]:6370" in line and "--node-ip-address=fd00::2" in line


def test_no_address_is_written_without_the_helper() -> None:
    package = ROOT / "files" / "modelserve"
    files = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    assert {name for name, text in files.items() if WITHOUT_BRACKETS.search(text)} <= ALLOWED


def test_the_image_s_url_has_brackets() -> None:
    text = (ROOT / "roles" / "image" / "tasks" / "pull.yml").read_text()
    assert "'[' ~ image_store_address ~ ']' if ':' in image_store_address" in text


@pytest.mark.parametrize(
    ("address", "reached"), [("127.0.0.1", ["127.0.0.1"]), ("0.0.0.0", ["127.0.0.1"]), ("::", ["127.0.0.1", "::1"])]
)
def test_the_catalog_is_reached_over_ipv4_on_ipv6_s_every_address(address: str, reached: list[str]) -> None:
    try:
        server = listener(address, 0)
    except OSError as error:
        pytest.skip(f"no {address} here: {error}")
    with server:
        for host in reached:
            socket.create_connection((host, server.getsockname()[1]), timeout=5).close()
