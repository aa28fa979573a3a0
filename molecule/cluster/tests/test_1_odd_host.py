"""A worker that is not as plain as the others works as they do, and what it had before goes on."""

from __future__ import annotations

import urllib.request

import bed
import pytest
from conftest import Cluster
from traits import DOCKER_ROOT, SERVICE_PORT, SSH_PORT

ODD = "worker_1"


def metrics() -> str:
    """What the site's own service on the odd host answers the world."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{bed.address(ODD)}:{SERVICE_PORT}/", timeout=5) as response:
        return str(response.read().decode())


@pytest.mark.essential
def test_a_worker_behind_a_bastion_with_another_docker_is_a_worker(cluster: Cluster) -> None:
    straight = bed.ssh(ODD, "true", jump=False)
    assert straight.returncode == 255 and f"port {SSH_PORT}" in straight.stderr, "only the bastion reaches it"
    sudo = bed.ssh(ODD, "sudo", "-n", "true")
    assert sudo.returncode == 1 and "a password is required" in sudo.stderr
    docker = bed.on(ODD, "docker", "info", "--format", "{{.DockerRootDir}} {{.DriverStatus}}")
    assert docker.startswith(DOCKER_ROOT) and "io.containerd.snapshotter" in docker
    assert cluster.state(ODD) == "UP"


@pytest.mark.essential
def test_a_service_of_the_site_stays_reachable_and_preflight_says_how(cluster: Cluster) -> None:
    assert metrics() == "metrics of the site\n"
    row = f"service python3 on {SERVICE_PORT}/tcp the firewall closes it to all but the cluster's hosts."
    setting = f"To keep it open: firewall_open_ports: [{SERVICE_PORT}] CLOSED"
    text = cluster.playbook("playbooks/preflight.yml", "--limit", ODD, "-e", '{"firewall_open_ports": []}')
    assert f"{row} {setting}" in text
