"""A host with a life of its own: it is refused, or asked about, with the way out; and keeps what it has."""

from __future__ import annotations

from collections.abc import Iterator

import bed
import pytest
import traits
from conftest import Cluster, wait_until

ODD = "worker_3"
HOME = "/opt/modelserve"
CLUSTER = (bed.HEAD, "worker_1", "worker_2")


@pytest.fixture(scope="module")
def third(cluster: Cluster) -> Iterator[tuple[str, ...]]:
    """A host with somebody's files, a service and ufw; and Ansible's options that add it to the inventory."""
    bed.add(ODD, ("foreign-directory", "service", "ufw"))
    bed.KNOWN_HOSTS.write_text(bed.KNOWN_HOSTS.read_text() + bed.known_hosts_line(ODD))
    line = bed.DIRECTORY / "third.yml"
    line.write_text(f"workers:\n  hosts:\n    {ODD}: {{ansible_host: {bed.address(ODD)}}}\n")
    yield ("-i", str(line), "--limit", ODD)
    bed.remove(ODD)


def listing() -> str:
    """What lies in the directory, with owners and modes."""
    return bed.on(ODD, "find", HOME, "-printf", "%p %U %m %s\n")


def test_somebodys_directory_is_refused_and_left_alone(cluster: Cluster, third: tuple[str, ...]) -> None:
    before = listing()
    text = cluster.playbook("site.yml", *third, check=False)
    assert (
        f"{ODD}: data directory: found {HOME}, which holds files of others. Set modelserve_home to a directory" in text
    )
    assert "changed=0" in text.partition("PLAY RECAP")[2]
    assert listing() == before and f"{HOME}/photos/1.jpg {traits.OWNER} 600" in before
    assert not bed.on(ODD, "sh", "-c", "command -v docker; true")


def test_preflight_names_ufw_and_what_the_firewall_will_close(cluster: Cluster, third: tuple[str, ...]) -> None:
    bed.on(ODD, "mv", HOME, "/srv/photos")
    text = cluster.playbook("playbooks/preflight.yml", *third)
    assert "other firewall ufw is active: it must let in the cluster's hosts" in text
    assert "(docs/firewall.md) ACTIVE" in text
    assert f"service python3 on {traits.SERVICE_PORT}/tcp the firewall closes it" in text
    assert f"firewall_open_ports: [{traits.SERVICE_PORT}] CLOSED" in text


def test_it_joins_beside_ufw_as_the_docs_say(cluster: Cluster, third: tuple[str, ...]) -> None:
    for address in map(bed.node_address, CLUSTER):
        bed.on(ODD, "ufw", "allow", "from", address)
    cluster.playbook("site.yml", *third)
    wait_until(f"{ODD} up", lambda: cluster.is_up(ODD))
    assert "Status: active" in bed.on(ODD, "ufw", "status")
    assert bed.on(ODD, "systemctl", "is-active", "site-metrics").strip() == "active"


def test_it_goes_on_beside_firewalld(cluster: Cluster, third: tuple[str, ...]) -> None:
    bed.on(ODD, "ufw", "disable")
    for command in traits.TRAITS["firewalld"].commands:
        bed.on(ODD, "sh", "-c", command)
    text = cluster.playbook("playbooks/preflight.yml", *third)
    assert "other firewall firewalld is active: it must let in the cluster's hosts" in text
    for address in map(bed.node_address, CLUSTER):
        bed.on(ODD, "firewall-cmd", "--permanent", "--zone=trusted", f"--add-source={address}")
    bed.on(ODD, "firewall-cmd", "--reload")
    bed.on(ODD, "docker", "restart", "modelserve_worker_3")
    wait_until(f"{ODD} up", lambda: cluster.is_up(ODD))
