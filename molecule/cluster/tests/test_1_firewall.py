"""Who reaches the hosts: the world what is declared, the cluster's hosts each other, and the operator always."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import bed
from conftest import GATEWAYS, INGRESS_PORT, PORT, WORKERS, Cluster

HOSTS = (bed.HEAD, *WORKERS)
# SSH, and what the scenario opens for its own tests; the gateways have their port.
DECLARED = {22, INGRESS_PORT}
# Ray's and the store's, whatever listens just now.
KNOWN = {6370, 6380, 6381, 6390, 8080, 8265, 8404, 8500, 9101, 10001, 52365, 52366, 52367, 30000, 44217, 44227}


def listening(host: str) -> set[int]:
    """TCP ports on which something listens beyond loopback."""
    lines = bed.on(host, "ss", "-Hltn").splitlines()
    sockets = [line.split()[3].rpartition(":") for line in lines]
    return {int(port) for address, _, port in sockets if not address.startswith(("127.", "[::1]"))}


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


def test_the_world_reaches_what_is_declared_and_nothing_else(cluster: Cluster) -> None:
    for host in HOSTS:
        ports = sorted(listening(host) | KNOWN)
        assert len(listening(host)) > 6, "Ray listens"
        declared = DECLARED & set(ports) | ({PORT} if host in GATEWAYS else set())
        assert reached(bed.address(host), ports) == declared, host


def test_the_clusters_hosts_reach_each_other(cluster: Cluster) -> None:
    for here, there, ports in (("worker_1", bed.HEAD, (6370, 6390)), (bed.HEAD, "worker_2", (6380, 8080))):
        for port in ports:
            bed.on(here, "timeout", "5", "bash", "-c", f"</dev/tcp/{bed.address(there)}/{port}")


def test_it_comes_back_when_nftables_is_restarted(cluster: Cluster) -> None:
    bed.on("worker_2", "systemctl", "restart", "nftables")
    assert "table inet modelserve" in bed.on("worker_2", "nft", "list", "tables")
    assert not is_open(bed.address("worker_2"), 6380) and is_open(bed.address("worker_2"), 22)
    bed.on("worker_2", "systemctl", "stop", "nftables")
    bed.on("worker_2", "systemctl", "start", "modelserve-firewall")


def test_rules_that_lock_ansible_out_are_taken_back(cluster: Cluster) -> None:
    before = bed.on("worker_2", "nft", "list", "table", "inet", "modelserve")
    wrong = '{"firewall_ssh_ports": [2222], "firewall_confirm_timeout": 10}'
    text = cluster.playbook("playbooks/hosts.yml", "--limit", "worker_2", "-e", wrong, check=False)
    assert "the new rules were taken back" in text and "firewall_ssh_ports" in text
    assert is_open(bed.address("worker_2"), 22)
    after = bed.on("worker_2", "nft", "list", "table", "inet", "modelserve")
    assert after.partition("counter")[0] == before.partition("counter")[0]
    cluster.wait_for(*WORKERS)
