"""Odd hosts that work: an old Python, a password instead of a key, two networks, IPv6."""

from __future__ import annotations

import socket

import bed
import pytest
from conftest import Cluster

V6 = f"[{bed.values('worker_2')['address6']}]"
WORKERS = ("worker_1", "worker_2")
RAY_PORT = 6380  # of each node


def test_the_hosts_are_odd(cluster: Cluster) -> None:
    assert bed.on("worker_1", "python3", "--version").startswith("Python 3.9.")
    assert not bed.on("worker_1", "sh", "-c", "cat /home/ops/.ssh/authorized_keys 2>/dev/null; true")
    assert bed.inventory_variables("worker_1")["ansible_host"] == bed.address("worker_1", bed.ADMIN_SUBNET)


@pytest.mark.parametrize("host", WORKERS)
def test_a_worker_joins_with_its_address_and_serves(cluster: Cluster, host: str) -> None:
    node = cluster.nodes()[host]
    assert (node["state"], node["address"], node["replicas"]) == ("UP", bed.address(host), 1)


@pytest.mark.parametrize("address", [bed.address(bed.HEAD), V6], ids=["the head's", "IPv6"])
def test_a_gateway_answers(cluster: Cluster, address: str) -> None:
    assert cluster.ask(address)["status"] == 1


def test_the_world_reaches_no_port_of_ray_on_any_address(cluster: Cluster) -> None:
    for address in (bed.address("worker_1", bed.ADMIN_SUBNET), V6.strip("[]"), bed.address("worker_2")):
        socket.create_connection((address, 22), 3).close()
        with pytest.raises(TimeoutError):
            socket.create_connection((address, RAY_PORT), 3)


def test_a_second_run_changes_nothing(cluster: Cluster) -> None:
    recap = cluster.playbook("site.yml").partition("PLAY RECAP")[2]
    assert recap.count("changed=0") == 3, recap
