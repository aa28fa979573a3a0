"""The network of a host, as preflight reads it: addresses, services, Docker's bridges, firewalls, and who answers."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 172.17.0.1
        /32 host LOCAL
     |-- 172.17.255.255
        /32 link BROADCAST
     |-- 10.0.0.5
        /32 host LOCAL
Local:
     |-- 10.0.0.5
        /32 host LOCAL
"""
INET6 = """00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000005 02 40 00 80     eth0
fe800000000000000000000000000005 02 40 20 80     eth0
"""
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
SOCKETS = {
    # 0.0.0.0:5432, 127.0.0.1:631, 0.0.0.0:8080 (Docker's), 10.0.0.5:22 with a client
    "tcp": [
        ("00000000:1538", "0A", 11),
        ("0100007F:0277", "0A", 12),
        ("00000000:1F90", "0A", 13),
        ("0500000A:0016", "01", 14),
    ],
    # [::]:5432, [::1]:25, [::ffff:127.0.0.1]:26, [::]:6380 (modelserve's)
    "tcp6": [
        ("00000000000000000000000000000000:1538", "0A", 15),
        ("00000000000000000000000001000000:0019", "0A", 16),
        ("0000000000000000FFFF00000100007F:001A", "0A", 17),
        ("00000000000000000000000000000000:18EC", "0A", 18),
    ],
    # 0.0.0.0:161, 0.0.0.0:68 (DHCP), 0.0.0.0:40000 (a client's)
    "udp": [("00000000:00A1", "07", 19), ("00000000:0044", "07", 20), ("00000000:9C40", "07", 21)],
}
PROCESSES = {
    # pid: name, cgroup, inodes
    71: ("postgres", "0::/system.slice/postgresql.service", [11, 15, 12]),
    72: ("docker-proxy", "0::/system.slice/docker.service", [13]),
    73: ("raylet", "0::/system.slice/docker-0123abcd.scope", [18]),
    74: ("snmpd", "0::/system.slice/snmpd.service", [19]),
}


@pytest.fixture(scope="module")
def network() -> ModuleType:
    path = ROOT / "plugins" / "module_utils" / "modelserve_network.py"
    spec = importlib.util.spec_from_file_location("modelserve_network", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def proc(network: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "fib_trie").write_text(TRIE)
    (tmp_path / "net" / "if_inet6").write_text(INET6)
    for table, rows in SOCKETS.items():
        lines = [f"   0: {local} 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 1" for local, state, inode in rows]
        (tmp_path / "net" / table).write_text("\n".join([HEADER, *lines]) + "\n")
    for pid, (name, group, inodes) in PROCESSES.items():
        directory = tmp_path / str(pid)
        (directory / "fd").mkdir(parents=True)
        (directory / "comm").write_text(f"{name}\n")
        (directory / "cgroup").write_text(f"{group}\n")
        for inode in inodes:
            (directory / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")
    monkeypatch.setattr(network, "PROC", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("proc")
def test_the_addresses_are_those_that_others_may_reach(network: ModuleType) -> None:
    assert network.addresses() == ["10.0.0.5", "172.17.0.1", "fd00::5"]
    assert network.is_on_host("10.0.0.5") and network.is_on_host("FD00:0::5")
    assert not any(map(network.is_on_host, ("10.0.0.6", "127.0.0.1", "gpu-1", "")))


def test_this_machine_s_own_address_is_on_it(network: ModuleType) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no route here")
        assert network.is_on_host(probe.getsockname()[0])


@pytest.mark.usefixtures("proc")
def test_services_are_what_others_reach_and_modelserve_does_not_run(network: ModuleType) -> None:
    assert network.services(["0123abcd"]) == [
        {"protocol": "udp", "port": 161, "by": "snmpd"},
        {"protocol": "tcp", "port": 5432, "by": "postgres"},
    ]


def test_a_socket_without_a_process_is_the_kernel_s(network: ModuleType, proc: Path) -> None:
    (proc / "net" / "tcp").write_text(f"{HEADER}\n   0: 00000000:0801 00000000:0000 0A 0:0 00:0 0 0 0 99 1\n")  # NFS
    assert {"protocol": "tcp", "port": 2049, "by": "the kernel"} in network.services([])


class Docker:
    """Stands for Docker's client."""

    def __init__(self, networks: dict[str, str]) -> None:
        self.networks = networks
        self.calls = 0

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        self.calls += 1
        if command[2] == "ls":
            return 0, "\n".join(self.networks), ""
        return 0, "\n".join(f"{number} {name}" for number, name in self.networks.items()), ""


def test_only_docker_s_own_bridges_are_docker_s(network: ModuleType) -> None:
    docker = Docker({"0123456789abcdef": "", "fedcba9876543210": "site0"})
    names = ["br-0123456789ab", "br-lan", "docker0", "site0", "virbr0"]
    assert network.docker_bridges(names, docker, "/usr/bin/docker") == ["br-0123456789ab", "docker0", "site0"]


def test_a_host_with_docker_s_default_bridge_alone_costs_no_command(network: ModuleType) -> None:
    docker = Docker({})
    assert network.docker_bridges(["docker0"], docker, "/usr/bin/docker") == ["docker0"]
    assert network.docker_bridges(["br-lan", "docker0"], docker, None) == ["docker0"]
    assert docker.calls == 0


@pytest.mark.parametrize(
    ("enabled", "code", "active"), [("yes", 0, ["ufw", "firewalld"]), ("no", 252, []), ("yes", 252, ["ufw"])]
)
def test_other_firewalls_that_are_active_are_named(
    network: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str, code: int, active: list[str]
) -> None:
    (tmp_path / "ufw.conf").write_text(f"# on at boot\nENABLED={enabled}\nLOGLEVEL=low\n")
    monkeypatch.setattr(network, "UFW_CONFIGURATION", str(tmp_path / "ufw.conf"))
    assert network.firewalls(lambda _: (code, "", ""), lambda name: f"/usr/sbin/{name}") == active
    assert network.firewalls(lambda _: (code, "", ""), lambda _: None) == []


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_host_that_accepts_or_refuses_a_connection_answers(
    network: ModuleType, listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)  # no ping
    assert network.unreachable([{"name": "a", "address": "127.0.0.1", "port": listener}]) == []
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        peer = {"name": "b", "address": "127.0.0.1", "port": closed.getsockname()[1]}
        assert network.unreachable([peer]) == []


def test_hosts_that_do_not_answer_are_named(network: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(address: tuple[str, int], timeout: float) -> None:
        raise TimeoutError if address[0] == "192.0.2.1" else ConnectionRefusedError

    monkeypatch.setattr(network.socket, "create_connection", connect)
    monkeypatch.setenv("PATH", os.devnull)
    peers = [
        {"name": name, "address": address, "port": "22"} for name, address in (("a", "192.0.2.1"), ("b", "192.0.2.2"))
    ]
    assert network.unreachable(peers) == ["a"]
    assert network.unreachable([]) == []
