"""Odd hosts that work: an old Python, a password instead of a key, two networks, IPv6."""

from __future__ import annotations

import bed
import pytest
from conftest import Cluster

V6 = bed.values("worker_2")["address6"]
V6_IN_URL = f"[{V6}]"


def test_the_hosts_are_odd(cluster: Cluster) -> None:
    assert bed.on("worker_1", "python3", "--version").startswith("Python 3.9.")
    assert not bed.on("worker_1", "sh", "-c", "cat /home/ops/.ssh/authorized_keys 2>/dev/null; true")
    assert bed.inventory_variables("worker_1")["ansible_host"] == bed.address("worker_1", bed.ADMIN_SUBNET)


@pytest.mark.parametrize(("host", "address"), [("worker_1", bed.address("worker_1")), ("worker_2", V6)])
def test_a_worker_joins_with_its_address_and_serves(cluster: Cluster, host: str, address: str) -> None:
    node = cluster.nodes()[host]
    assert (node["state"], node["address"], node["replicas"]) == ("UP", address, 1)


@pytest.mark.parametrize("address", [bed.address(bed.HEAD), V6_IN_URL], ids=["the head's", "IPv6"])
def test_a_gateway_answers(cluster: Cluster, address: str) -> None:
    assert cluster.ask(address)["status"] == 1


def test_the_cluster_is_closed_to_the_world_on_all_addresses(cluster: Cluster) -> None:
    for host in ("worker_1", "worker_2"):
        table = bed.on(host, "nft", "list", "table", "inet", "modelserve")
        assert V6 in table and bed.address("worker_1") in table
        assert bed.address("worker_1", bed.ADMIN_SUBNET) not in table, "the network of Ansible is not the cluster's"


def test_a_second_run_changes_nothing(cluster: Cluster) -> None:
    recap = cluster.playbook("site.yml").partition("PLAY RECAP")[2]
    assert recap.count("changed=0") == 3, recap
