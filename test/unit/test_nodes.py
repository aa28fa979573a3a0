"""The cluster's nodes: which are there, whether one can go, and that it goes only when nothing runs on it any more."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from modelserve.cli.tables import nodes_table
from modelserve.cluster import nodes
from modelserve.cluster.nodes import Nodes
from modelserve.config.section import Section
from modelserve.errors import UserError
from modelserve.ports import HEAD_PORTS
from modelserve.serve.api import GPU_LABEL, MIG, NAME_LABEL
from modelserve.serve.application import Application
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site

NODES = "/api/v0/nodes?limit=1000&detail=1&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
APPLICATIONS = "/api/serve/applications/"


@dataclass
class Cluster:
    """Documents of Ray's and Serve's API, as Ray 2.60 writes them, of a cluster that a test puts together."""

    site: Site
    home: Path
    up: list[dict[str, Any]] = field(default_factory=list)
    served: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    when_said: Callable[[], None] = lambda: None

    def add_node(self, name: str, *, gpus: float = 0, cpus: float = 8, label: bool = True, message: str = "") -> None:
        number = len(self.up)
        resources = {"CPU": cpus, "memory": 1e10, f"node:10.0.0.{number}": 1.0, **({"GPU": gpus} if gpus else {})}
        self.up.append(
            {
                "node_id": f"{number:056x}",
                "node_ip": f"10.0.0.{number}",
                "node_name": f"10.0.0.{number}",
                "is_head_node": name == "head",
                "state": "ALIVE",
                "state_message": message or None,
                "resources_total": resources,
                "labels": {"ray.io/node-id": f"{number:056x}", **({NAME_LABEL: name} if label else {})},
            }
        )
        self.show()

    def node_id(self, name: str) -> str:
        return next(node["node_id"] for node in self.up if node["labels"].get(NAME_LABEL) == name)

    def serve(self, name: str, *places: str, gpus: float = 0, cpus: float = 1) -> None:
        """Have an application served, a replica at each of ``places``: a node's name, and maybe ``:STATE``."""
        section = Section(name=name, backend=name, route=name.lower(), gpu_cost=gpus, cpu_cost=cpus)
        config = Application.from_section(section, Path("/pkg/1"), [], Path("/env/1")).to_serve()
        shown = []
        for number, (place, _, state) in enumerate(place.partition(":") for place in places):
            node = self.node_id(place) if place else None
            state = state or "RUNNING"
            shown.append({"replica_id": f"{name}{number}", "state": state, "node_id": node, "actor_id": "a", "pid": 1})
        self.served[name] = {
            "status": "RUNNING",
            "route_prefix": config["route_prefix"],
            "deployed_app_config": config,
            "deployments": {name: {"status": "HEALTHY", "replicas": shown}},
        }
        self.show()

    def show(self) -> None:
        rows = {"total": len(self.up), "num_after_truncation": len(self.up), "result": self.up}
        document = {"result": True, "msg": "", "data": {"result": rows}}
        self.site.answers[NODES] = (200, json.dumps(document).encode())
        self.site.answers[APPLICATIONS] = (200, json.dumps({"applications": self.served}).encode())

    def nodes(self, **workers: str) -> Nodes:
        settings = Settings(home=self.home, dashboard_url=self.site.url, workers=workers)

        def progress(line: str) -> None:
            self.said.append(line)
            self.when_said()

        return Nodes(settings, progress)


@pytest.fixture
def cluster(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster with nothing but a head."""
    monkeypatch.setattr(nodes, "POLL_S", 0.01)
    here = Cluster(site, tmp_path)
    here.add_node("head")
    return here


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Stands for Ray's command; returns the lines with which it was called so far."""
    calls = tmp_path / "calls"
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "ray").write_text(f'#!/bin/sh\necho "$*" >> {calls}\n')
    (directory / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return lambda: calls.read_text().splitlines() if calls.exists() else []


def test_a_node_with_mig_instances_is_marked(cluster: Cluster) -> None:
    cluster.add_node("worker_1", gpus=7)
    cluster.up[-1]["labels"][GPU_LABEL] = MIG
    cluster.show()
    table = cluster.nodes(worker_1="10.0.0.1", worker_2="10.0.0.2").table()
    assert [row["mig"] for row in table] == [False, True, False]
    (line,) = [line for line in nodes_table(table).splitlines() if "worker_1" in line]
    assert line.split()[3:5] == ["7", "(MIG)"]


def test_nodes_are_up_down_draining_or_unknown(cluster: Cluster) -> None:
    cluster.add_node("worker_2", gpus=2)
    cluster.add_node("worker_3", message="DRAIN_NODE_REASON_PREEMPTION: DRAINING")
    cluster.add_node("of_yesterday")
    cluster.add_node("by_hand", label=False)
    cluster.serve("Echo", "head", "worker_2", "worker_2", "worker_2:STOPPING", ":STARTING")
    cluster.serve("Net", "worker_2:STARTING", "worker_3")
    table = cluster.nodes(worker_1="10.0.0.9", worker_2="10.0.0.1", worker_3="10.0.0.2").table()
    assert [(row["name"], row["address"], row["state"], row["gpus"]) for row in table] == [
        ("head", "10.0.0.0", "UP", 0),
        ("worker_1", "10.0.0.9", "DOWN", 0),
        ("worker_2", "10.0.0.1", "UP", 2),
        ("worker_3", "10.0.0.2", "DRAINING", 0),
        # Not in the inventory, but there.
        ("10.0.0.4", "10.0.0.4", "UP", 0),
        ("of_yesterday", "10.0.0.3", "UP", 0),
    ]
    assert [(row["replicas"], row["algorithms"]) for row in table[:4]] == [
        (1, ["Echo"]),
        (0, []),
        (3, ["Echo", "Net"]),
        (1, ["Net"]),
    ]


def test_a_head_that_does_not_answer_has_no_table(closed_port: int) -> None:
    with pytest.raises(UserError, match="does not answer"):
        Nodes(Settings(dashboard_url=f"http://127.0.0.1:{closed_port}"), print).table()


def test_a_drained_worker_has_no_replicas_left(cluster: Cluster, ray: Callable[[], list[str]]) -> None:
    cluster.add_node("worker_1")
    cluster.serve("Echo", "worker_1", "worker_1", "head")
    cluster.serve("Net", "worker_1")

    def move_on() -> None:
        # As Serve does: the successor runs first, then the replica stops.
        assert len(ray()) == 1
        left = cluster.said[-1]
        if ": 3 replicas" in left:
            cluster.serve("Echo", "head", "worker_1", "head")
            cluster.serve("Net", "head", "worker_1:STOPPING")
        elif ": 1 replicas" in left:
            cluster.serve("Echo", "head", "worker_1:STOPPING", "head")

    cluster.when_said = move_on
    assert cluster.nodes(worker_1="10.0.0.1").drain("worker_1", timeout_s=20)
    assert cluster.said == [
        "worker_1: 3 replicas to move (Echo, Net)",
        "worker_1: 1 replicas to move (Echo)",
    ]
    (call,) = ray()
    words = call.split()
    assert words[0] == "drain-node"
    assert {f"--node-id={cluster.node_id('worker_1')}", f"--address=127.0.0.1:{HEAD_PORTS['port']}"} <= set(words)


def test_a_worker_without_replicas_is_drained_at_once(cluster: Cluster, ray: Callable[[], list[str]]) -> None:
    cluster.add_node("worker_1")
    cluster.serve("Echo", "head")
    assert cluster.nodes(worker_1="10.0.0.1").drain("worker_1", timeout_s=0)
    assert len(ray()) == 1
    assert cluster.said == []


def refused(cluster: Cluster, name: str, ray: Callable[[], list[str]], timeout_s: float = 20) -> str:
    calls = len(ray())
    with pytest.raises(UserError) as caught:
        cluster.nodes(worker_1="10.0.0.1", worker_2="10.0.0.2").drain(name, timeout_s)
    assert timeout_s == 0 or len(ray()) == calls  # nothing was begun
    return str(caught.value)


def test_a_worker_whose_replicas_have_no_room_elsewhere_is_left_alone(
    cluster: Cluster, ray: Callable[[], list[str]]
) -> None:
    cluster.add_node("worker_1", gpus=1)
    cluster.add_node("worker_2", gpus=1)
    cluster.serve("Echo", "worker_1", "worker_2", gpus=0.6)
    said = refused(cluster, "worker_1", ray)
    assert "worker_1 cannot be drained: a replica of Echo needs 0.6 GPU and 1 CPU" in said
    assert "Nothing was changed" in said
    # With less taken there, it can go.
    cluster.serve("Echo", "worker_1", "worker_2", gpus=0.4)
    cluster.when_said = lambda: cluster.serve("Echo", "worker_2", "worker_2", gpus=0.4)
    assert cluster.nodes().drain("worker_1", timeout_s=20)


def test_a_worker_that_is_being_drained_is_no_room_for_anothers_replicas(
    cluster: Cluster, ray: Callable[[], list[str]]
) -> None:
    cluster.add_node("worker_1", gpus=1)
    cluster.add_node("worker_2", gpus=1, message="DRAIN_NODE_REASON_PREEMPTION: DRAINING")
    cluster.serve("Echo", "worker_1", gpus=1)
    assert "worker_1 cannot be drained" in refused(cluster, "worker_1", ray)


@pytest.mark.usefixtures("ray")
def test_an_application_that_is_not_modelserve_s_counts_without_needs(cluster: Cluster) -> None:
    cluster.add_node("worker_1", gpus=1)
    cluster.serve("Echo", "worker_1")
    cluster.served["Echo"]["deployed_app_config"] = None
    cluster.show()
    cluster.when_said = lambda: cluster.serve("Echo", "head")
    assert cluster.nodes(worker_1="10.0.0.1").drain("worker_1", timeout_s=20)


def test_replicas_that_do_not_get_away_in_time_stop_a_removal(cluster: Cluster, ray: Callable[[], list[str]]) -> None:
    cluster.add_node("worker_1")
    cluster.serve("Echo", "worker_1")
    said = refused(cluster, "worker_1", ray, timeout_s=0)
    assert "worker_1: 1 replicas are still there after 0 s" in said
    assert "modelserve_force" in said


def test_who_insists_loses_what_cannot_move(cluster: Cluster, ray: Callable[[], list[str]]) -> None:
    cluster.add_node("worker_1", gpus=1)
    cluster.serve("Echo", "worker_1", gpus=1)
    assert cluster.nodes(worker_1="10.0.0.1").drain("worker_1", timeout_s=0, force=True)
    assert len(ray()) == 1


def test_a_worker_that_is_off_has_nothing_to_drain(cluster: Cluster, ray: Callable[[], list[str]]) -> None:
    assert not cluster.nodes(worker_1="10.0.0.1").drain("worker_1", timeout_s=0)
    assert ray() == []


def test_what_is_no_worker_is_not_drained(cluster: Cluster, ray: Callable[[], list[str]]) -> None:
    assert "no worker worker_7; the workers are: worker_1, worker_2" in refused(cluster, "worker_7", ray)
    assert "the head cannot be drained" in refused(cluster, "head", ray)


def test_what_ray_says_against_it_is_said(cluster: Cluster, tmp_path: Path, ray: Callable[[], list[str]]) -> None:
    cluster.add_node("worker_1")
    (tmp_path / "bin" / "ray").write_text("#!/bin/sh\necho starting >&2\necho 'the node is idle no more' >&2\nexit 1\n")
    assert refused(cluster, "worker_1", ray).endswith("the node is idle no more")


def test_a_worker_that_is_forgotten_is_on_no_list(tmp_path: Path) -> None:
    lists = [tmp_path / "workers.json", tmp_path / "gateways.json", tmp_path / "store" / "workers.json"]
    (tmp_path / "store").mkdir()
    for file in lists:
        file.write_text('{"worker_1": "10.0.0.11", "worker_2": "10.0.0.12"}')
    Nodes(Settings(home=tmp_path), print).forget("worker_2")
    assert [json.loads(file.read_text()) for file in lists] == [{"worker_1": "10.0.0.11"}] * 3
