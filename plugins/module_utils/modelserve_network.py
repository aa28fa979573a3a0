"""The network of a host: its addresses, who listens on it, which hosts it reaches, and which firewalls it has."""

from __future__ import annotations

import base64
import glob
import ipaddress
import os
import socket
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PROC = "/proc"
SYS = "/sys"
UFW_CONFIGURATION = "/etc/ufw/ufw.conf"
CONNECT_TIMEOUT_S = 2
PROXY_TIMEOUT_S = 5
PROXY_REFUSALS = ([b"407"], [b"401"])  # tinyproxy answers 401
PROXY_PORTS = {"http": 80, "https": 443}
RAY_PORT = 6370
LISTEN, UNCONNECTED = "0A", "07"  # states of sockets, see include/net/tcp_states.h
FIRST_EPHEMERAL_PORT = 32768  # UDP sockets from here on are those of clients that wait for answers
LOOPBACK_V6 = "00000000000000000000000001000000"
DHCP_PORTS = (68, 546)  # the firewall lets their answers in
# Docker's published ports are forwarded before a packet reaches the firewall's table.
PUBLISHERS = ("docker-proxy", "rootlesskit")


def read_lines(path: str) -> list[str]:
    """Return a file's lines; none where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def addresses() -> list[str]:
    """Return the addresses of this host's interfaces, without those of loopback and of one link alone."""
    lines = read_lines(f"{PROC}/net/fib_trie")
    v4 = {before.split()[-1] for before, line in zip(lines, lines[1:]) if line.split()[:3] == ["/32", "host", "LOCAL"]}
    v6 = {str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in read_lines(f"{PROC}/net/if_inet6")}
    usable = [
        address for address in map(ipaddress.ip_address, v4 | v6) if not (address.is_loopback or address.is_link_local)
    ]
    return [str(address) for address in sorted(usable, key=lambda address: (address.version, int(address)))]


def is_on_host(address: str) -> bool:
    """Return whether an address is one of this host's, and reached by others."""
    try:
        return str(ipaddress.ip_address(address)) in addresses()
    except ValueError:  # a name
        return False


def bridges() -> list[str]:
    """Return the names of this host's bridges."""
    return sorted(path.split("/")[-2] for path in glob.glob(f"{SYS}/class/net/*/bridge"))


def docker_bridges(names: list[str], run: Callable[[list[str]], tuple[int, str, str]], client: str | None) -> list[str]:
    """Return those of a host's bridges that belong to Docker's networks.

    Args:
        names: the host's bridges.
        run: runs a command and returns its exit code, output and errors.
        client: Docker's client; None where there is none.
    """
    if client is None or not set(names) - {"docker0"}:
        return [name for name in names if name == "docker0"]
    code, out, _ = run([client, "network", "ls", "--quiet", "--no-trunc", "--filter", "driver=bridge"])
    if code != 0 or not out.split():
        return [name for name in names if name == "docker0"]
    template = '{{.Id}} {{index .Options "com.docker.network.bridge.name"}}'
    _, out, _ = run([client, "network", "inspect", "--format", template, *out.split()])
    own = {"docker0"}
    for line in out.splitlines():
        network, _, name = line.strip().partition(" ")
        own.add(name or "br-" + network[:12])
    return [name for name in names if name in own]


def is_loopback(hexadecimal: str) -> bool:
    """Return whether an address of ``/proc/net/tcp`` is reached from its own host alone."""
    mapped_or_v4 = len(hexadecimal) == 8 or hexadecimal.startswith("0000000000000000FFFF0000")
    return hexadecimal == LOOPBACK_V6 or (mapped_or_v4 and hexadecimal.endswith("7F"))


def open_sockets() -> dict[tuple[str, int], str]:
    """Return the inode of each socket that other hosts can reach, by protocol and port."""
    sockets = {}
    for table, state in (("tcp", LISTEN), ("tcp6", LISTEN), ("udp", UNCONNECTED), ("udp6", UNCONNECTED)):
        for line in read_lines(f"{PROC}/net/{table}")[1:]:
            fields = line.split()
            address, _, port = fields[1].rpartition(":")
            key = (table[:3], int(port, 16))
            if fields[3] != state or is_loopback(address):
                continue
            if key[0] == "udp" and (key[1] >= FIRST_EPHEMERAL_PORT or key[1] in DHCP_PORTS):
                continue
            sockets[key] = fields[9]
    return sockets


def owners(inodes: Iterable[str]) -> dict[str, int]:
    """Return the process that holds each socket, where it can be seen."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    processes: dict[str, int] = {}
    for path in glob.iglob(f"{PROC}/[0-9]*/fd/*"):
        try:
            inode = links.get(os.readlink(path))
        except OSError:
            continue
        if inode is not None:
            processes.setdefault(inode, int(path.split("/")[-3]))
    return processes


def services(own: Iterable[str]) -> list[dict[str, Any]]:
    """Return the services that other hosts can reach, without those of modelserve's containers.

    Args:
        own: ids of modelserve's containers.

    Returns:
        ``protocol``, ``port`` and ``by``, the program's name, of each.
    """
    sockets = open_sockets()
    processes = owners(sockets.values())
    found = []
    for (protocol, port), inode in sorted(sockets.items(), key=lambda item: (item[0][1], item[0][0])):
        process = processes.get(inode)
        group = "\n".join(read_lines(f"{PROC}/{process}/cgroup")) if process else ""
        name = "".join(read_lines(f"{PROC}/{process}/comm")[:1]) if process else "the kernel"
        if name not in PUBLISHERS and not any(container in group for container in own):
            found.append({"protocol": protocol, "port": port, "by": name})
    return found


def firewalls(run: Callable[[list[str]], tuple[int, str, str]], which: Callable[[str], str | None]) -> list[str]:
    """Return the names of other firewalls that are active: ``ufw``, ``firewalld``."""
    active = []
    if which("ufw") and "ENABLED=yes" in [line.strip() for line in read_lines(UFW_CONFIGURATION)]:
        active.append("ufw")
    command = which("firewall-cmd")
    if command and run([command, "--state"])[0] == 0:
        active.append("firewalld")
    return active


def answers(address: str, ports: Iterable[int]) -> bool:
    """Return whether a host answers: a connection that it refuses is an answer, too."""
    for port in ports:
        try:
            socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S).close()
        except ConnectionRefusedError:
            pass
        except OSError:
            continue
        return True
    ping = ["ping", "-c", "1", "-W", str(CONNECT_TIMEOUT_S), address]
    try:
        return subprocess.run(ping, capture_output=True, check=False, timeout=2 * CONNECT_TIMEOUT_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def unreachable(peers: list[dict[str, Any]]) -> list[str]:
    """Return the names of the hosts that do not answer this one.

    Args:
        peers: ``name``, ``address`` and ``port``, where its sshd listens, of each host.
    """
    if not peers:
        return []
    with ThreadPoolExecutor(len(peers)) as pool:
        states = list(pool.map(lambda peer: answers(peer["address"], (int(peer["port"]), RAY_PORT)), peers))
    return [peer["name"] for peer, state in zip(peers, states) if not state]


def proxy_problem(url: str) -> str:
    """Return why an HTTP proxy cannot be used; empty where it answers.

    It is asked for a connection to a name that nobody has. Every answer of HTTP will do but one: that it wants another
    user or password. A proxy that searches for the name longer than this waits is there.

    Args:
        url: the proxy's, with user and password where it has them. Neither is part of what is returned.
    """
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or PROXY_PORTS.get(parts.scheme, 80))
    try:
        connection = socket.create_connection(address, timeout=PROXY_TIMEOUT_S)
    except OSError as error:
        return f"does not answer: {error.strerror or error}"
    with connection:
        if parts.scheme == "https":  # TLS to the proxy itself, whose certificate the clients judge
            return ""
        try:
            connection.sendall(_probe(parts.username or "", parts.password or ""))
            answer = connection.recv(64)
        except socket.timeout:
            return ""
        except OSError as error:
            return f"does not answer: {error.strerror or error}"
    if not answer.startswith(b"HTTP/"):
        return "answers, but not as an HTTP proxy"
    return "wants another user or password" if answer.split()[1:2] in PROXY_REFUSALS else ""


def _probe(user: str, password: str) -> bytes:
    lines = ["CONNECT modelserve.invalid:443 HTTP/1.1", "Host: modelserve.invalid:443"]
    if user:
        pair = f"{unquote(user)}:{unquote(password)}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()
