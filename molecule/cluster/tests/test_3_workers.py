"""Workers come and go, hosts are restarted in turn, and in the end nothing is left."""

from __future__ import annotations

import re
import time

import bed
import pytest
from conftest import HOME, Cluster

WORKERS = ("worker_1", "worker_2")


@pytest.fixture(scope="module")
def third(cluster: Cluster) -> str:
    """A third worker's line in the inventory, and the fresh host."""
    bed.add("worker_3")
    bed.KNOWN_HOSTS.write_text(bed.KNOWN_HOSTS.read_text() + bed.known_hosts_line("worker_3"))
    line = bed.DIRECTORY / "third.yml"  # goes with the bed, whatever becomes of this run
    line.write_text(f"workers:\n  hosts:\n    worker_3: {{ansible_host: {bed.address('worker_3')}}}\n")
    return str(line)


def test_check_mode_leaves_a_fresh_host_alone(cluster: Cluster, third: str) -> None:
    text = cluster.playbook("site.yml", "-i", third, "--limit", "worker_3", "--check")
    assert "failed=0" in text.partition("PLAY RECAP")[2]
    assert not bed.on("worker_3", "sh", "-c", "command -v docker; ls -d /opt/modelserve; true").strip()


@pytest.mark.essential
def test_a_worker_is_added_and_the_others_are_left_alone(cluster: Cluster, third: str) -> None:
    hosts = (bed.HEAD, *WORKERS)
    before = [cluster.containers(host) for host in hosts], cluster.replicas()
    started = time.monotonic()
    with cluster.load() as load:
        text = cluster.playbook("site.yml", "-i", third, "--limit", "worker_3")
        seconds = time.monotonic() - started
        cluster.wait_until("worker_3 up", lambda: cluster.nodes().get("worker_3", {}).get("state") == "UP")
    print(f"\na worker added, from a fresh host to serving: {seconds:.0f} s")
    recap = text.partition("PLAY RECAP")[2]
    assert re.findall(r"(\w+)\s+: ok=", recap) == ["worker_3"], "no task ran on behalf of another host"
    assert ([cluster.containers(host) for host in hosts], cluster.replicas()) == before
    assert not load.failed()
    installed = bed.on("worker_3", "dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n")
    assert "docker.io installed" in installed
    assert not {"needrestart installed", "apparmor installed"} & set(installed.splitlines()), "nobody asked for these"


def test_hosts_are_restarted_one_at_a_time_without_a_lost_request(cluster: Cluster, third: str) -> None:
    before = {host: cluster.containers(host) for host in WORKERS}
    with cluster.load() as load:
        cluster.playbook("playbooks/restart.yml", "-i", third, "--limit", "worker_1:worker_2")
    assert not load.failed(), load.kinds()
    assert {host: cluster.containers(host) for host in WORKERS} == before
    uptime = ["ps", "-C", "raylet", "-o", "etimes="]
    ages = [int(bed.on(host, *uptime)) for host in WORKERS]
    assert max(ages) < 300 and abs(ages[0] - ages[1]) > 5, f"both restarted, not at once: {ages}"


def test_the_head_is_restarted_while_workers_answer(cluster: Cluster, third: str) -> None:
    with cluster.load() as load:
        cluster.playbook("playbooks/restart.yml", "-i", third, "--limit", bed.HEAD)
    print(f"\nthe head restarted: {len(load.answers)} requests, {len(load.failed())} failed {load.kinds()}")
    assert len(load.failed()) <= 4, load.kinds()


def test_a_worker_is_removed_without_a_lost_request(cluster: Cluster, third: str) -> None:
    others = {host: cluster.containers(host) for host in (bed.HEAD, "worker_1", "worker_3")}
    with cluster.load() as load:
        cluster.playbook("playbooks/remove_worker.yml", "-i", third, "-e", "worker=worker_2")
    assert not load.failed(), load.kinds()
    cluster.wait_until("worker_2 gone", lambda: set(cluster.nodes()) == {"head", "worker_1", "worker_3"})
    assert cluster.on_workers() == 4
    assert not cluster.containers("worker_2") and "modelserve" not in bed.on("worker_2", "docker", "images")
    assert bed.on("worker_2", "sh", "-c", f"ls {HOME} 2>&1; true").startswith("ls: cannot access")
    assert {host: cluster.containers(host) for host in others} == others


def test_a_worker_that_is_off_is_removed(cluster: Cluster, third: str) -> None:
    bed.power_off("worker_3")
    cluster.wait_until("worker_3 down", lambda: cluster.state("worker_3") == "DOWN")
    text = cluster.playbook("playbooks/remove_worker.yml", "-i", third, "-e", "worker=worker_3")
    assert "worker_3 is off: there is nothing to drain" in text
    assert "worker_3 is off: nothing is removed there" in " ".join(text.split())
    assert "worker_3" not in bed.on(bed.HEAD, "cat", f"{HOME}/store/workers.json")
    cluster.wait_until("worker_3 gone", lambda: set(cluster.nodes()) == {"head", "worker_1"})
    cluster.wait_for("worker_1")


def test_a_worker_that_cannot_be_drained_stays(cluster: Cluster, third: str) -> None:
    before = cluster.containers("worker_1"), cluster.replicas()
    text = cluster.playbook("playbooks/remove_worker.yml", "-i", third, "-e", "worker=worker_1", check=False)
    assert "worker_1 cannot be drained: a replica of" in text and "needs 0.5 GPU" in text
    assert "Nothing was changed" in text and "modelserve_force=true" in text
    assert (cluster.containers("worker_1"), cluster.replicas()) == before


def test_an_unknown_worker_is_named(cluster: Cluster) -> None:
    text = cluster.playbook("playbooks/remove_worker.yml", "-e", "worker=worker_9", check=False)
    assert "Say which worker: -e worker=NAME, one of worker_1, worker_2" in text


@pytest.mark.essential
def test_reset_leaves_nothing_of_modelserve_and_all_else(cluster: Cluster) -> None:
    image = bed.on(bed.HEAD, "docker", "inspect", "-f", "{{.Config.Image}}", "modelserve_head").strip()
    foreign = ["docker", "run", "--detach", "--name", "foreign", "--entrypoint", "sleep", image, "1000"]
    bed.on(bed.HEAD, *foreign)
    bed.on(bed.HEAD, "sh", "-c", "touch /opt/foreign")
    cluster.playbook("playbooks/down.yml")
    assert set(cluster.containers(bed.HEAD)) == {"foreign"}
    text = cluster.playbook("playbooks/purge.yml", check=False)
    assert f"Nothing was removed. To go on: -e confirm={bed.HEAD}" in text
    assert "modelserve" in bed.on(bed.HEAD, "ls", "/opt")
    cluster.playbook("playbooks/purge.yml", "-e", f"confirm={bed.HEAD}")
    assert set(cluster.containers(bed.HEAD)) == {"foreign"} and not cluster.containers("worker_1")
    for host in (bed.HEAD, "worker_1"):
        assert "modelserve" not in bed.on(host, "ls", "/opt")
    assert "foreign" in bed.on(bed.HEAD, "ls", "/opt")
    assert "modelserve" not in bed.on("worker_1", "docker", "images")
