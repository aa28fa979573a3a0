"""Updates, rollbacks and splits on a cluster of hosts, under a steady load: nobody notices."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import bed
import pytest
from conftest import GATEWAYS, HOME, PROJECT, WORKERS, Cluster

# A second beyond the usual latency is the aim; these hosts share two cores with the load and with each other.
STALL_S = 5
SPLIT = """
[algopkg.NewExample]
backend = algo_backend
model = example_words.json
gpu_cost = 0.25
route = extract
weight = 20
"""


@pytest.fixture
def project(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The project, to be changed by a test; put back when the test has ended, and deployed if that is not served."""
    saved = tmp_path / "project"
    shutil.copytree(PROJECT, saved)
    conf = cluster.latest_release()["conf"]
    yield PROJECT
    shutil.rmtree(PROJECT)
    shutil.copytree(saved, PROJECT)
    if cluster.latest_release()["conf"] != conf:
        cluster.playbook("playbooks/deploy.yml")
        cluster.wait_for(*WORKERS)


@pytest.mark.essential
def test_an_update_and_a_rollback_lose_no_request(cluster: Cluster, project: Path) -> None:
    before = cluster.replicas()
    first = cluster.latest_release()["number"]
    listing = f"ls -i {HOME}/store/env {HOME}/store/model | grep -v :"
    there = {worker: set(bed.on(worker, "sh", "-c", listing).split()) for worker in WORKERS}
    with cluster.load() as load:
        # Code and number of replicas of one, the GPU share of the other; and all of it back.
        cluster.edit("algopkg/AlgoExample/backend.py", "^class ", "UPDATED = True\n\n\nclass ")
        cluster.edit("conf.ini", r"replicas = 2(?=\ngpu_cost = 0.5\nroute = extract)", "replicas = 1")
        cluster.edit("conf.ini", r"gpu_cost = 0.5(?=\nroute = embed)", "gpu_cost = 0.25")
        text = cluster.playbook("playbooks/deploy.yml")
        assert "worker_1: has it, fetched 1" in text and "worker_2: has it, fetched 1" in text
        changed = cluster.replicas()
        text = cluster.playbook("playbooks/rollback.yml", "-e", f"release={first}")
        assert "building" not in text
        back = cluster.replicas()
    assert len(load.answers) > 100 and not load.failed(), load.kinds()
    assert load.longest() < STALL_S
    assert len(changed) == len(before) - 1 and not changed.keys() & before.keys()
    assert len(back) == len(before) and back.keys() & cluster.replicas().keys()
    for worker in WORKERS:
        # The very same files: environments and models were left alone.
        assert there[worker] <= set(bed.on(worker, "sh", "-c", listing).split())
        assert bed.on(worker, "sh", "-c", f"grep -l UPDATED {HOME}/store/pkg/AlgoExample-*/backend.py").strip()


def test_a_failed_update_loses_no_request(cluster: Cluster, project: Path) -> None:
    before = cluster.replicas()
    with cluster.load() as load:
        cluster.edit("algopkg/AlgoExample/backend.py", "^import ", "import no_such_module\nimport ")
        text = cluster.playbook("playbooks/deploy.yml", check=False)
    assert "AlgoExample failed to start: ModuleNotFoundError: No module named 'no_such_module'" in text
    assert load.answers and not load.failed(), load.kinds()
    assert cluster.replicas() == before


def test_an_update_while_the_sync_agents_hang_loses_no_request(cluster: Cluster, project: Path) -> None:
    def agents(command: str) -> None:
        for gateway in GATEWAYS:
            bed.on(gateway, "docker", command, "modelserve_gateway_sync")

    def hang() -> None:
        before = set(cluster.replicas())
        cluster.wait_until("a new replica", lambda: bool(set(cluster.replicas()) - before), 120)
        agents("pause")
        time.sleep(5)
        agents("unpause")

    with cluster.load() as load, cluster.load("worker_2") as second:
        cluster.edit("algopkg/AlgoExample/backend.py", "^class ", "HUNG = True\n\n\nclass ")
        thread = threading.Thread(target=hang)
        thread.start()
        cluster.playbook("playbooks/deploy.yml")
        thread.join()
        cluster.edit("algopkg/AlgoExample/backend.py", "^HUNG = True\n\n\n", "")
        cluster.playbook("playbooks/deploy.yml")
    for gateway in (load, second):
        assert gateway.answers and not gateway.failed(), gateway.kinds()


def test_a_split_over_the_cluster(cluster: Cluster, project: Path) -> None:
    shutil.copytree(project / "algopkg/AlgoExample", project / "algopkg/NewExample")
    (project / "conf.ini").write_text((project / "conf.ini").read_text() + SPLIT)
    with cluster.load() as load:
        cluster.playbook("playbooks/deploy.yml")
        shares = who_answers(cluster)
        assert 0.1 < shares["NewExample"] < 0.3 and set(shares) == {"NewExample", "AlgoExample"}, shares
        cluster.edit("conf.ini", "weight = 20", "weight = 0")
        cluster.playbook("playbooks/deploy.yml")
        assert who_answers(cluster) == {"AlgoExample": 1}
    assert not load.failed(), load.kinds()


def who_answers(cluster: Cluster, asked: int = 300) -> dict[str, float]:
    """The share of the route's requests that each algorithm answers, as measured."""
    counts: Counter[str] = Counter()
    for _ in range(asked):
        with cluster.open("extract", {"text": "good"}) as response:
            counts[response.headers["X-Modelserve-Algorithm"]] += 1
    return {name: count / asked for name, count in counts.items()}
