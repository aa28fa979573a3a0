"""The cluster as site.yml made it, and what a deploy brings to its workers."""

from __future__ import annotations

import json
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import bed
import pytest
from conftest import GATEWAYS, HOME, PORT, PROJECT, WORKERS, Cluster


@pytest.mark.essential
def test_replicas_are_spread_over_the_workers_and_share_gpus(cluster: Cluster) -> None:
    nodes = cluster.nodes()
    assert {name: row["state"] for name, row in nodes.items()} == dict.fromkeys(["head", *WORKERS], "UP")
    # Four replicas of half a GPU, and none on the head, which has no GPU.
    assert {name: (row["gpus"], row["replicas"]) for name, row in nodes.items()} == {
        "head": (0, 0),
        "worker_1": (2, 2),
        "worker_2": (2, 2),
    }


@pytest.mark.essential
def test_the_gateways_answer_from_all_workers(cluster: Cluster) -> None:
    for gateway in GATEWAYS:
        said = {cluster.ask("extract", {"text": "good"}, gateway)["info"] for _ in range(60)}
        assert said == {"Result from worker-1", "Result from worker-2"}


@pytest.mark.essential
def test_ray_wants_the_token(cluster: Cluster) -> None:
    python = "import urllib.request as u; u.urlopen('http://127.0.0.1:8265/api/jobs/')"
    assert "401" in bed.run("docker", "exec", bed.container(bed.HEAD), "sh", "-c", f'python3 -c "{python}" 2>&1; true')
    with pytest.raises(urllib.error.URLError):  # and the dashboard is not to be reached from outside at all
        urllib.request.urlopen(f"http://{bed.address(bed.HEAD)}:8265/", timeout=5)


@pytest.mark.essential
def test_the_store_wants_the_token_and_gives_no_write(cluster: Cluster) -> None:
    url = f"rsync://modelserve@{bed.address(bed.HEAD)}:6390/store/"
    assert "auth failed" in bed.on("worker_1", "sh", "-c", f"RSYNC_PASSWORD=wrong rsync {url} 2>&1; true")
    write = f"RSYNC_PASSWORD=$(cat {HOME}/secrets/ray_token) rsync /etc/hostname {url} 2>&1; true"
    assert "read only" in bed.on("worker_1", "sh", "-c", write)


@pytest.mark.essential
def test_a_second_site_changes_nothing(cluster: Cluster) -> None:
    hosts = (bed.HEAD, *WORKERS)
    before = [cluster.containers(host) for host in hosts], cluster.replicas()
    text = cluster.playbook("site.yml")
    recap = text.partition("PLAY RECAP")[2]
    assert recap.count("changed=0") == len(hosts)
    assert ([cluster.containers(host) for host in hosts], cluster.replicas()) == before


def test_check_mode_finds_nothing_to_change(cluster: Cluster) -> None:
    text = cluster.playbook("site.yml", "--check")
    assert text.partition("PLAY RECAP")[2].count("changed=0") == len((bed.HEAD, *WORKERS))


def test_two_replicas_share_a_gpu(cluster: Cluster) -> None:
    # Eight halves on four GPUs.
    cluster.edit("conf.ini", r"replicas = 2(?=\ngpu_cost = 0.5\nroute = extract)", "replicas = 6")
    cluster.playbook("playbooks/deploy.yml")
    assert {name: row["replicas"] for name, row in cluster.nodes().items()} == {"head": 0, "worker_1": 4, "worker_2": 4}
    cluster.edit("conf.ini", "replicas = 6", "replicas = 2")
    cluster.playbook("playbooks/deploy.yml")
    cluster.wait_for(*WORKERS)


def test_an_environment_is_built_once_and_shares_files_with_the_one_before(cluster: Cluster) -> None:
    requirements = PROJECT / "algopkg/TextEmbedding/requirements.txt"
    requirements.write_text(requirements.read_text() + "tabulate==0.9.0\n")
    text = cluster.playbook("playbooks/deploy.yml")
    assert text.count("building") == 1
    newest = "$(ls -td " + HOME + "/store/env/TextEmbedding-* | head -1)"
    for host in (bed.HEAD, *WORKERS):
        assert "0.9.0" in bed.on(host, "sh", "-c", f"ls {newest}/lib/python3*/site-packages | grep tabulate-")
        links = bed.on(host, "sh", "-c", f"stat -c %h {newest}/lib/python3*/site-packages/ray/__init__.py")
        assert int(links) > 1, f"{host} has a copy of its own"


def test_a_worker_that_was_off_during_a_deploy_catches_up_before_it_joins(cluster: Cluster) -> None:
    bed.on("worker_2", "docker", "kill", "modelserve_worker_2")
    cluster.wait_until("worker_2 down", lambda: cluster.state("worker_2") == "DOWN")
    cluster.edit("conf.ini", "replicas = 2", "replicas = 1")
    try:
        cluster.edit("algopkg/AlgoExample/backend.py", "^class ", "NEW = True\n\n\nclass ")
        cluster.playbook("playbooks/deploy.yml")
    finally:
        cluster.edit("conf.ini", "replicas = 1", "replicas = 2")
    bed.on("worker_2", "docker", "start", "modelserve_worker_2")
    cluster.wait_until("worker_2 up", lambda: cluster.state("worker_2") == "UP")
    log = bed.on("worker_2", "sh", "-c", "docker logs --since 60s modelserve_worker_2 2>&1")
    assert log.index("fetching pkg/AlgoExample-") < log.index("ray start")
    cluster.playbook("playbooks/deploy.yml")
    cluster.wait_for(*WORKERS)


def test_a_worker_whose_disk_is_full_says_so_and_goes_on_when_there_is_space(cluster: Cluster) -> None:
    store = f"{HOME}/store"
    bed.on("worker_2", "docker", "stop", "--time", "1", "modelserve_worker_2")
    bed.on("worker_2", "mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", store)
    try:
        bed.on("worker_2", "docker", "start", "modelserve_worker_2")
        health = ["docker", "exec", "modelserve_worker_2", "modelserve", "node", "health", "--role", "worker"]
        full = "no space left for env/"
        cluster.wait_until(
            "the reason", lambda: full in bed.on("worker_2", "sh", "-c", " ".join(health) + " 2>&1; true")
        )
        cluster.wait_until("worker_2 down", lambda: cluster.state("worker_2") == "DOWN")
        log = bed.on("worker_2", "sh", "-c", "docker logs --since 60s modelserve_worker_2 2>&1").splitlines()
        assert sum(full in line for line in log) == 1, "one clear line, not one per attempt"
        bed.on("worker_2", "mount", "-o", "remount,size=3g", store)
        cluster.wait_for(*WORKERS)
    finally:
        bed.on("worker_2", "docker", "stop", "--time", "1", "modelserve_worker_2")
        bed.on("worker_2", "umount", store)
        bed.on("worker_2", "docker", "start", "modelserve_worker_2")
    cluster.wait_for(*WORKERS)


def test_a_deploy_that_does_not_fit_a_workers_disk_changes_nothing(cluster: Cluster) -> None:
    cluster.wait_for(*WORKERS)
    before = cluster.replicas()
    packages = f"{HOME}/store/pkg"
    source = "algopkg/AlgoExample"
    big = PROJECT / source / "big.bin"
    try:
        pid = bed.on("worker_1", "docker", "inspect", "-f", "{{.State.Pid}}", "modelserve_worker_1").strip()
        bed.on("worker_1", "nsenter", "-t", pid, "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", packages)
        big.write_bytes(bytes(8 << 20))
        text = cluster.playbook("playbooks/deploy.yml", check=False)
        assert "worker_1: no space left for pkg/AlgoExample-" in text
        assert cluster.replicas() == before
        bed.on("worker_1", "nsenter", "-t", pid, "-m", "umount", packages)
    finally:
        big.unlink()
    cluster.playbook("playbooks/deploy.yml")
    assert cluster.replicas() == before


def test_diagnose_has_all_hosts(cluster: Cluster, archive: tuple[str, Path]) -> None:
    text, made = archive
    assert str(made) in text and made.stat().st_mode & 0o777 == 0o600
    with tarfile.open(made) as files:
        names = files.getnames()
    for host in (bed.HEAD, *WORKERS):
        assert any(f"/{host}/" in f"/{name}" for name in names), f"{host} is not in {names[:20]}"
    status = [name for name in names if "status" in name and bed.HEAD in name]
    assert status, json.dumps(names[:40])


@pytest.mark.essential
def test_status_shows_nodes_and_algorithms(cluster: Cluster) -> None:
    text = cluster.playbook("playbooks/status.yml")
    assert "worker_2 172.31.78.12 UP 2 " in text and f"https://127.0.0.1:{PORT}/extract" in text
