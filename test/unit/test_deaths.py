"""Deaths: from Ray's own documents to one line that says why a replica died, and nothing for one that was stopped.

The documents were captured on Ray 2.60; identifiers are shortened.
"""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from modelserve.errors import UserError
from modelserve.serve import death_records
from modelserve.serve.api import RayAPI
from modelserve.serve.death_records import CONTROLLER_LINES, ERROR_LINES, LOG_LINES, read_deaths
from modelserve.serve.deaths import KILLED, UNKNOWN, DeadReplica, Evidence, controller_reasons, dead_replicas, death_of
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site

DATA = Path(__file__).parent / "data"
RECORDS: dict[str, list[dict[str, Any]]] = json.loads((DATA / "deaths.json").read_text())
NODES = [{**node, "name": node["labels"]["modelserve.node"]} for node in RECORDS["nodes"]]
CONTROLLER = controller_reasons(map(json.dumps, RECORDS["controller"]))
ERRORS = tuple((DATA / "segmentation_fault.err").read_text().splitlines())
DEAD = {replica.replica_id: replica for replica in dead_replicas(RECORDS["actors"], RECORDS["workers"], NODES)}
CRASHED = DEAD["t19uh7w1"]


def logged(message: str, level: str = "INFO", filename: str = "backend.py", **more: str) -> str:
    return json.dumps(
        {"asctime": "2026-11-27 12:00:00,000", "levelname": level, "message": message, "filename": filename, **more}
    )


@pytest.mark.parametrize(
    ("replica_id", "errors", "node", "reason"),
    [
        ("lyy6y005", (), "head", "killed for memory: the node used 4.8 of 5.0 GiB, this replica 3.5 GiB"),
        ("5s1h5lwy", ERRORS, "head", "killed by signal 11 (segmentation fault) in act, backend.py line 36"),
        ("f8knqkaw", (), "head", "ended itself with exit code 4"),
        ("8tp3yqfq", (), "head", "failed to start: ValueError: the model's file is damaged"),
        ("mt56u80j", (), "head", "unhealthy: RuntimeError: CUDA is broken"),
        ("t19uh7w1", (), "worker_1", KILLED),
        ("vlnxh97l", (), "worker_1", "its node died"),
    ],
)
def test_a_reason_is_one_line(replica_id: str, errors: tuple[str, ...], node: str, reason: str) -> None:
    death = death_of(DEAD[replica_id], Evidence(CONTROLLER.get(replica_id, ""), (), errors))
    assert death is not None
    assert (death.reason, death.node) == (reason, node)
    assert 1795781000 < death.time < 1795783000


@pytest.mark.parametrize("replica_id", ["g4vrzhf9", "gze3yagy", "jzbjgliu", "8us29b01"])
def test_a_replica_that_was_stopped_did_not_die(replica_id: str) -> None:
    assert death_of(DEAD[replica_id], Evidence(CONTROLLER.get(replica_id, ""))) is None


def test_a_replica_that_never_had_a_process_did_not_die() -> None:
    assert not {"1apfz78d", "omi112ka"} & set(DEAD)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("UNEXPECTED_TERMINATION", "its node died"),
        ("EXPECTED_TERMINATION", "its node was stopped"),
        ("AUTOSCALER_DRAIN_PREEMPTED", "its node was stopped"),
    ],
)
def test_a_node_that_was_stopped_did_not_die(how: str, reason: str) -> None:
    context = {"error_message": "", "reason": "NODE_DIED", "node_death_info": {"reason": how}}
    actor = {**RECORDS["actors"][0], "death_cause": {"actor_died_error_context": context}}
    (replica,) = dead_replicas([actor], RECORDS["workers"], NODES)
    death = death_of(replica, Evidence())
    assert death is not None
    assert death.reason == reason


def test_actors_that_are_no_replicas_are_left_out() -> None:
    controller = {**RECORDS["actors"][0], "name": "SERVE_CONTROLLER_ACTOR"}
    nameless = {**RECORDS["actors"][0], "name": None}
    assert dead_replicas([controller, nameless], RECORDS["workers"], NODES) == []


@pytest.mark.parametrize(
    ("log", "reason", "last_line"),
    [
        ([logged("replica is unhealthy: uses 3 GiB", "ERROR")], "unhealthy: uses 3 GiB", ""),
        (
            [logged("opening\n"), logged("replica ends itself with exit code 3")],
            "ended itself with exit code 3",
            "opening",
        ),
        ([logged("cannot open the GPU\n"), logged("Started.", filename="replica.py")], KILLED, "cannot open the GPU"),
        ([logged("failed", "ERROR", exc_text="('Traceback\\n',)('ValueError: x\\n',)")], KILLED, "ValueError: x"),
        (["no document"], KILLED, "no document"),
    ],
)
def test_the_log_tells_what_ray_does_not(log: list[str], reason: str, last_line: str) -> None:
    death = death_of(CRASHED, Evidence("", tuple(log)))
    assert death is not None
    assert (death.reason, death.last_line) == (reason, last_line)


@pytest.mark.parametrize(("before_s", "by_kernel"), [(30, True), (600, False)])
def test_a_replica_that_the_kernel_killed_had_much_memory(before_s: int, by_kernel: bool) -> None:
    message = "the node's memory is nearly full: it uses 15.2 GiB of 16 GiB, this replica 9.1 GiB"
    written = json.dumps({"message": message, "timestamp_ns": int((CRASHED.time - before_s) * 1e9)})
    death = death_of(CRASHED, Evidence("", (written,)))
    assert death is not None
    memory = "the node used 15.2 GiB of 16 GiB, this replica 9.1 GiB"
    expected = f"killed by signal 9, by the kernel for memory most likely: {memory}"
    assert (death.reason, death.last_line) == (expected if by_kernel else KILLED, "")


def test_the_replica_s_own_reason_counts_more_than_serve_s() -> None:
    log = (logged("replica is unhealthy: CUDA error: an illegal memory access", "ERROR"),)
    death = death_of(DEAD["mt56u80j"], Evidence(CONTROLLER["mt56u80j"], log))
    assert death is not None
    assert death.reason == "unhealthy: CUDA error: an illegal memory access"


def test_a_replica_that_hangs_did_not_answer() -> None:
    replica = "Replica(id='mt56u80j', deployment='B', app='B')"
    lines = [
        f"Didn't receive health check response for replica {replica} after 30.0s, marking it unhealthy.",
        f"Replica {replica} failed health check, stopping it.",
    ]
    reasons = controller_reasons(map(logged, lines))
    assert reasons == {"mt56u80j": "unhealthy: it did not answer a health check within 30 s"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [("SIGBUS", "killed by signal 7 (bus error)"), ("SIGNEW", "killed by SIGNEW")],
)
def test_a_signal_without_python_s_report(name: str, reason: str) -> None:
    death = death_of(CRASHED, Evidence("", (), (f"*** {name} received at time=1 on cpu 0 ***",)))
    assert death is not None
    assert death.reason == reason


@pytest.fixture
def ray(site: Site) -> RayAPI:
    """Ray's API of the captured cluster; only the head's logs are there."""

    def states(kind: str, limit: int, filters: list[tuple[str, str]], documents: list[dict[str, Any]]) -> None:
        query = [("limit", str(limit)), ("detail", "1")]
        for key, value in filters:
            query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
        answer = json.dumps({"data": {"result": {"result": documents}}}).encode()
        site.answers[f"/api/v0/{kind}?{urllib.parse.urlencode(query)}"] = (200, answer)

    dead = ("state", "DEAD")
    states("actors", 10_000, [dead], RECORDS["actors"])
    of_one = [actor for actor in RECORDS["actors"] if actor["class_name"] == "ServeReplica:B:B"]
    states("actors", 10_000, [dead, ("class_name", "ServeReplica:B:B")], of_one)
    states("actors", 10_000, [dead, ("class_name", "ServeReplica:Face:Face")], [])
    states("workers", 10_000, [("is_alive", "False")], RECORDS["workers"])
    states("nodes", 1000, [], RECORDS["nodes"])
    head = next(node["node_id"] for node in NODES if node["is_head_node"])
    pattern = urllib.parse.urlencode({"node_id": head, "glob": "serve/controller_*.log*"})
    files = ["serve/controller_1.log", "serve/controller_build_B_2.log"]
    site.answers[f"/api/v0/logs?{pattern}"] = (200, json.dumps({"data": {"result": {"internal": files}}}).encode())

    def log(file: str, lines: int, text: str) -> None:
        query = urllib.parse.urlencode({"node_id": head, "filename": file, "lines": lines})
        site.answers[f"/api/v0/logs/file?{query}"] = (200, text.encode())

    log("serve/controller_1.log", CONTROLLER_LINES, "\n".join(map(json.dumps, RECORDS["controller"])))
    for replica in DEAD.values():
        log(replica.log_file, LOG_LINES, "")
        log(replica.error_file, ERROR_LINES, "\n".join(ERRORS) if replica.algorithm == "L1" else "")
    return RayAPI(Settings(home=Path("/nonexistent"), dashboard_url=site.url))


def test_deaths_are_read_from_ray_in_the_order_of_time(ray: RayAPI) -> None:
    deaths = read_deaths(ray)
    assert [death.time for death in deaths] == sorted(death.time for death in deaths)
    reasons = {death.replica_id: death.reason for death in deaths}
    assert reasons["5s1h5lwy"].startswith("killed by signal 11")
    assert reasons["mt56u80j"] == "unhealthy: RuntimeError: CUDA is broken"
    assert reasons["t19uh7w1"] == UNKNOWN, "its node is gone, and its log with it"
    assert reasons["ras4anmg"] == KILLED
    assert "g4vrzhf9" not in reasons


def test_of_a_long_crash_loop_the_last_logs_are_read(ray: RayAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(death_records, "MAX_REPLICAS", 2)
    reasons = {death.replica_id: death.reason for death in read_deaths(ray)}
    assert (reasons["5s1h5lwy"], reasons["ras4anmg"]) == (UNKNOWN, KILLED)


def test_deaths_are_read_of_one_algorithm_and_since_a_time(ray: RayAPI) -> None:
    (death,) = read_deaths(ray, "B")
    assert death.as_dict() == {
        "algorithm": "B",
        "replica_id": "mt56u80j",
        "node": "head",
        "time": "2026-11-27T12:24:00Z",
        "reason": "unhealthy: RuntimeError: CUDA is broken",
        "last_line": "",
    }
    assert read_deaths(ray, "B", death.time + 1) == []
    assert read_deaths(ray, "Face") == []


def test_a_ray_that_does_not_answer_is_an_error(site: Site) -> None:
    with pytest.raises(UserError):
        read_deaths(RayAPI(Settings(home=Path("/nonexistent"), dashboard_url=site.url)))


def test_a_death_without_a_time_is_the_first() -> None:
    dead = dead_replicas(RECORDS["actors"], [], [])
    assert {replica.time for replica in dead} == {0}
    assert all(isinstance(replica, DeadReplica) for replica in dead)
