"""A network whose only way out is a real forward proxy: a namespace with a veth pair and no route, and tinyproxy."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

IP = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
TINYPROXY = shutil.which("tinyproxy", path=f"{os.environ['PATH']}:/usr/sbin")
USER, PASSWORD = "site", "open7sesame9proxy"


@dataclass(frozen=True)
class Network:
    """A namespace from which the proxy is reached, and nothing else.

    Attributes:
        name: the namespace's.
        outside: the address of the proxy's end. Names are resolved by the proxy: the namespace reaches no DNS server.
        inside: the address of the namespace's end.
        port: the proxy's.
        log: the proxy's log of requests.
    """

    name: str
    outside: str
    inside: str
    port: int
    log: Path

    @property
    def url(self) -> str:
        """The proxy's URL, with its password."""
        return f"http://{USER}:{PASSWORD}@{self.outside}:{self.port}"

    def run(self, command: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace with more environment variables."""
        assert IP is not None
        return subprocess.run(
            [IP, "netns", "exec", self.name, *command],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def requests(self) -> list[str]:
        """Return the first lines of the requests that the proxy had, and forget them."""
        lines = [line.split("): ", 1)[1] for line in self.log.read_text().splitlines() if "Request (" in line]
        self.log.write_text("")
        return lines


def free_port(address: str) -> int:
    """Return a TCP port that is free on an address."""
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


def _ip(*words: str, check: bool = True) -> None:
    assert IP is not None
    subprocess.run([IP, *words], check=check, capture_output=True)


@contextmanager
def network(directory: Path) -> Iterator[Network]:
    """Make the network and start the proxy; remove both at the end. Needs root, ``ip`` and tinyproxy.

    Args:
        directory: gets the proxy's configuration and log.
    """
    name = f"msp{secrets.token_hex(4)}"  # an interface's name has 15 characters at most
    third = secrets.randbelow(256)
    outside, inside = f"198.18.{third}.1", f"198.18.{third}.2"  # RFC 2544: addresses for tests
    try:
        _ip("netns", "add", name)
        _ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        _ip("addr", "add", f"{outside}/30", "dev", f"{name}a")
        _ip("link", "set", f"{name}a", "up")
        _ip("-n", name, "addr", "add", f"{inside}/30", "dev", f"{name}b")
        _ip("-n", name, "link", "set", f"{name}b", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        with _tinyproxy(directory, outside) as (port, log):
            yield Network(name, outside, inside, port, log)
    finally:
        _ip("link", "del", f"{name}a", check=False)
        _ip("netns", "del", name, check=False)


@contextmanager
def _tinyproxy(directory: Path, address: str) -> Iterator[tuple[int, Path]]:
    assert TINYPROXY is not None
    port, log = free_port(address), directory / "proxy.log"
    log.touch()
    upstream = urlsplit(os.environ.get("https_proxy") or os.environ.get("http_proxy") or "").netloc
    configuration = directory / "tinyproxy.conf"
    configuration.write_text(
        f'Port {port}\nListen {address}\nTimeout 60\nMaxClients 50\nLogFile "{log}"\nLogLevel Connect\n'
        f"BasicAuth {USER} {PASSWORD}\n" + (f"Upstream http {upstream}\n" if upstream else "")
    )
    process = subprocess.Popen([TINYPROXY, "-d", "-c", str(configuration)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((address, port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
        yield port, log
    finally:
        process.terminate()
        process.wait(10)
