"""Who reaches the hosts: the world what is declared, the cluster's hosts each other, and the operator always."""

from __future__ import annotations

import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import bed
import pytest
from conftest import GATEWAYS, PORT, WORKERS, Cluster
from modelserve.ports import HEAD_PORTS, PORTS, SERVICE_PORTS

HOSTS = (bed.HEAD, *WORKERS)
# SSH. A host that only a bastion reaches has none for the world, but a service that is to stay reachable.
DECLARED = {"worker_1": {9100}}
SSH_PORTS = {"worker_1": 2222}
NEW_PORT = 7777
REACH = """
import socket, sys
for port in sys.argv[2:]:
    try:
        socket.create_connection((sys.argv[1], int(port)), 3).close()
        print(port)
    except OSError:
        pass
"""
# Ray's and the store's, whatever listens just now.
KNOWN = {6370, 6380, 6381, 6390, 8080, 8000, 8265, 10001, 52365, 52366, 52367, 30000, 44217, 44227}
# Ray's processes, one port each.
RAY_PROCESSES = range(PORTS["min-worker-port"], PORTS["max-worker-port"] + 1)
# HTTP, and calls between Serve's own processes.
REPLICAS = range(30000, 32000)
REPLICA = "ray::ServeRepli"
# The catalog too, where the head has the only gateway.
LOOPBACK_ALONE = {HEAD_PORTS["dashboard-port"]}
# Serve's proxy, and the metrics of Ray's head.
SSH, ON_HEAD = 22, {8000, 44217, 44227}
DOCKERS_NAMES = "127.0.0.11"  # how a bed's host asks for names: of the bed, not of the host


class Listening(NamedTuple):
    """A listening TCP socket."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    process: str

    @property
    def loopback(self) -> bool:
        mapped = getattr(self.address, "ipv4_mapped", None)
        return bool((mapped or self.address).is_loopback)


def sockets(host: str) -> list[Listening]:
    """What listens on a host, in its containers too: they share its network."""
    found = []
    for line in bed.on(host, "ss", "-Hltnp").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        address = address.strip("[]").partition("%")[0]
        process = re.search(r'users:\(\("([^"]*)"', line)
        there = ipaddress.ip_address({"*": "::"}.get(address, address))
        if str(there) != DOCKERS_NAMES:
            found.append(Listening(there, int(port), process[1] if process else ""))
    return found


def fixed(host: str) -> set[int]:
    """The ports that a host is declared to have, each of them."""
    ranges = {"min-worker-port", "max-worker-port"}
    ports = {SSH_PORTS.get(host, SSH), *DECLARED.get(host, ())}
    ports |= {port for name, port in PORTS.items() if name not in ranges}
    if host in GATEWAYS:
        ports.add(PORT)
    if host == bed.HEAD:
        ports |= {*HEAD_PORTS.values(), *SERVICE_PORTS.values(), *ON_HEAD}
    return ports


def undeclared(host: str, found: list[Listening]) -> list[Listening]:
    """What listens though it is not declared, or beyond loopback though it is declared for loopback alone."""

    def declared(one: Listening) -> bool:
        if one.process == "containerd" and one.loopback:  # any port: how Docker attaches to containers
            return True
        if one.port in fixed(host):
            return one.loopback or one.port not in LOOPBACK_ALONE
        if one.port in REPLICAS:
            return one.process == REPLICA
        return one.port in RAY_PROCESSES and one.process.startswith(("ray::", "ray-dashboard"))

    return [one for one in found if not declared(one)]


def listening(host: str) -> set[int]:
    """TCP ports on which something listens beyond loopback."""
    return {one.port for one in sockets(host) if not one.loopback}


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 2).close()
    except OSError:
        return False
    return True


def reached(address: str, ports: list[int]) -> set[int]:
    """Those of the ports that can be connected to from here."""
    with ThreadPoolExecutor(32) as pool:
        found = pool.map(lambda port: is_open(address, port), ports)
        return {port for port, there in zip(ports, found, strict=True) if there}


@pytest.mark.essential
def test_the_world_reaches_what_is_declared_and_nothing_else(cluster: Cluster) -> None:
    for host in HOSTS:
        ports = sorted(listening(host) | KNOWN)
        assert len(listening(host)) > 6, "Ray listens"
        declared = DECLARED.get(host, {SSH}) | ({PORT} if host in GATEWAYS else set())
        assert reached(bed.address(host), ports) == declared, host


@pytest.mark.essential
def test_on_a_host_listens_what_is_declared_and_nothing_else(cluster: Cluster) -> None:
    for host in HOSTS:
        found = sockets(host)
        assert not undeclared(host, found), host
        missing = fixed(host) - {one.port for one in found}
        assert not missing, f"{host}: declared, but nothing listens"
    listener = f"import socket, time; s = socket.create_server(('0.0.0.0', {NEW_PORT})); time.sleep(60)"
    bed.on("worker_1", "sh", "-c", f'python3 -c "{listener}" >/dev/null 2>&1 & echo $! >/tmp/listener')
    try:
        cluster.wait_until("a new port", lambda: NEW_PORT in listening("worker_1"), 10)
        assert [one.port for one in undeclared("worker_1", sockets("worker_1"))] == [NEW_PORT]
    finally:
        bed.on("worker_1", "sh", "-c", "kill $(cat /tmp/listener); rm /tmp/listener")


def test_from_host_to_host_loopback_s_ports_are_closed_and_the_others_open(cluster: Cluster) -> None:
    # Replicas come and go; of what stays, each port is open or is not.
    steady = fixed(bed.HEAD)
    for here, there in (("worker_1", bed.HEAD), (bed.HEAD, "worker_2"), ("worker_2", "worker_1")):
        reach = bed.on(here, "python3", "-c", REACH, bed.address(there), *map(str, sorted(steady)))
        assert set(map(int, reach.split())) == listening(there) & steady, (here, there)


def test_the_clusters_hosts_reach_each_other(cluster: Cluster) -> None:
    for here, there, ports in (("worker_1", bed.HEAD, (6370, 6390)), (bed.HEAD, "worker_2", (6380, 8080))):
        for port in ports:
            bed.on(here, "timeout", "5", "bash", "-c", f"</dev/tcp/{bed.address(there)}/{port}")


def test_it_comes_back_when_nftables_is_restarted(cluster: Cluster) -> None:
    bed.on("worker_2", "systemctl", "restart", "nftables")
    # systemd starts ours once nftables has started, and the command returns in between.
    tables = ("nft", "list", "tables")
    cluster.wait_until("our table", lambda: "table inet modelserve" in bed.on("worker_2", *tables), 20)
    assert not is_open(bed.address("worker_2"), 6380) and is_open(bed.address("worker_2"), 22)
    bed.on("worker_2", "systemctl", "stop", "nftables")
    bed.on("worker_2", "systemctl", "start", "modelserve-firewall")


def test_rules_that_lock_ansible_out_are_taken_back(cluster: Cluster) -> None:
    before = bed.on("worker_2", "nft", "list", "table", "inet", "modelserve")
    wrong = '{"firewall_ssh_ports": [2222], "firewall_confirm_timeout": 10}'
    text = cluster.playbook("playbooks/hosts.yml", "--limit", "worker_2", "-e", wrong, check=False)
    assert "the new rules were rolled back" in text and "firewall_ssh_ports" in text
    assert is_open(bed.address("worker_2"), 22)
    after = bed.on("worker_2", "nft", "list", "table", "inet", "modelserve")
    assert after.partition("counter")[0] == before.partition("counter")[0]
    cluster.wait_for(*WORKERS)
