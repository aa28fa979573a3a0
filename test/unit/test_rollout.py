"""Rollout: what Serve reports while it works, played by a real web server, leads to the right end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from modelserve.config.section import Section
from modelserve.deploy import rollout as rollout_module
from modelserve.deploy.plan import Change, Difference
from modelserve.deploy.rollout import Retiring, Rollout
from modelserve.serve.api import RayAPI
from modelserve.serve.application import Application
from modelserve.serve.status import ApplicationStatus
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site

APPLICATIONS = "/api/serve/applications/"
NODES = "/api/v0/nodes?limit=1000&detail=1&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
ECHO = Application.from_section(
    Section(name="Echo", backend="Echo", route="echo", gpu_cost=1), Path("/p"), [], Path("/e")
)
TARGET = {"Echo": ECHO}
CODE = Change("change", "Echo", (Difference("code", "a", "b", True),))
NOBODY = Retiring({}, frozenset(), list)
Play = Callable[..., None]


class Clock:
    """The rollout's clock: it goes on only while the rollout sleeps, so that no test depends on the machine's speed."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.ticks: list[Callable[[], None]] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        for tick in self.ticks:
            tick()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rollout_module, "time", made)
    return made


def details(states: dict[str, str], status: str = "DEPLOYING", message: str = "", trigger: str = "") -> dict[str, Any]:
    """Serve's details of the application with these replicas; those that start have no node yet."""
    replicas = [
        {"replica_id": name, "state": state, "node_id": None if state == "STARTING" else "0"}
        for name, state in states.items()
    ]
    deployment = {
        "status": "HEALTHY" if status == "RUNNING" else "UPDATING",
        "status_trigger": trigger,
        "message": message,
        "deployment_config": {"user_config": ECHO.user_config.to_serve()},
        "replicas": replicas,
    }
    return {"status": status, "message": "", "route_prefix": "/Echo", "deployments": {"Echo": deployment}}


@pytest.fixture
def play(site: Site, clock: Clock) -> Play:
    """Have the site show documents one after the other, each for some seconds; the last one stays.

    With ``submissions``, the first one stays until so many configurations were submitted, and for its seconds.
    """

    def show(document: dict[str, Any]) -> None:
        site.answers[APPLICATIONS] = (200, json.dumps({"applications": {"Echo": document}}).encode())

    def start(*documents: dict[str, Any], seconds: float = 0.7, submissions: int = 0) -> None:
        left = list(documents)
        due_s = None if submissions else clock.now_s + seconds
        show(left.pop(0))

        def tick() -> None:
            nonlocal due_s
            if due_s is None and sum(asked.method == "PUT" for asked in site.asked) >= submissions:
                due_s = clock.now_s + seconds
            if due_s is not None and left and clock.now_s >= due_s:
                show(left.pop(0))
                due_s += seconds

        clock.ticks.append(tick)

    return start


def free(site: Site, gpus: float) -> None:
    """Have Ray say how much of two GPUs is free."""
    node = {
        "node_id": "0",
        "node_ip": "10.0.0.1",
        "is_head_node": True,
        "state_message": None,
        "resources_total": {"GPU": 2.0, "CPU": 4.0},
        "labels": {"modelserve.node": "head"},
    }
    site.answers[NODES] = (200, json.dumps({"data": {"result": {"result": [node]}}}).encode())
    report = {"loadMetricsReport": {"usageByNode": {"0": {"GPU": [2.0 - gpus, 2.0], "CPU": [0.0, 4.0]}}}}
    site.answers["/api/cluster_status"] = (200, json.dumps({"data": {"clusterStatus": report}}).encode())


def rollout(site: Site, said: list[str], **settings: Any) -> Rollout:
    values = {
        "home": Path("/nonexistent"),
        "dashboard_url": site.url,
        "deploy_timeout_s": 6,
        "min_ready_seconds": 0.8,
        "scheduling_timeout_s": 0.8,
        **settings,
    }
    made = Settings.model_validate(values)
    return Rollout(made, RayAPI(made), said.append)


def update(site: Site, earlier: dict[str, str], allow_downtime: bool = False, **settings: Any) -> dict[str, str]:
    made = rollout(site, [], **settings)
    running = {"Echo": ApplicationStatus.model_validate(details(earlier, "RUNNING"))}
    return made.update([CODE], TARGET, running, NOBODY, allow_downtime)


def puts(site: Site) -> list[int]:
    """The ``max_surge_percent`` of each configuration that was put."""
    bodies = [json.loads(asked.body) for asked in site.asked if asked.method == "PUT"]
    return [body["applications"][0]["deployments"][0]["max_surge_percent"] for body in bodies]


def test_new_replicas_take_over_once_they_have_stayed(site: Site, play: Play, clock: Clock) -> None:
    play(
        details({"old": "RUNNING", "new": "STARTING"}),
        details({"old": "STOPPING", "new": "RUNNING"}),
    )
    assert update(site, {"old": "RUNNING"}) == {}
    assert clock.now_s > 0.7 + 0.4
    assert puts(site) == [100]


def test_a_crash_loop_fails_whatever_serve_calls_it(site: Site, play: Play) -> None:
    dead = {"status": "DEPLOY_FAILED", "message": "ActorDiedError: it died", "trigger": "HEALTH_CHECK_FAILED"}
    play(
        details({"old": "STOPPING", "a": "RUNNING"}),
        details({"old": "STOPPING", "b": "STARTING"}, **dead),
        details({"old": "STOPPING", "b": "RUNNING"}, **dead),
        details({"c": "STARTING"}, **dead),
        seconds=0.5,
    )
    failed = update(site, {"old": "RUNNING"}, min_ready_seconds=3)
    assert failed == {"Echo": "its replicas crash soon after they start: ActorDiedError: it died"}


def died(site: Site, reason: str) -> None:
    """Have Ray tell of a replica that died just now."""
    now_ms = int(time.time() * 1000)
    actor = {
        "name": "SERVE_REPLICA::Echo#Echo#b",
        "job_id": "01",
        "node_id": "0",
        "pid": 7,
        "death_cause": {"actor_died_error_context": {"error_message": reason, "reason": "WORKER_DIED"}},
    }
    worker = {"node_id": "0", "pid": 7, "worker_id": "w", "end_time_ms": now_ms}
    node = {"node_id": "0", "node_ip": "10.0.0.1", "is_head_node": True, "state": "ALIVE", "labels": {}}
    equal = "&filter_keys={}&filter_predicates=%3D&filter_values={}"
    dead = equal.format("state", "DEAD") + equal.format("class_name", "ServeReplica%3AEcho%3AEcho")
    for path, document in (
        ("actors?limit=10000&detail=1" + dead, actor),
        ("workers?limit=10000&detail=1" + equal.format("is_alive", "False"), worker),
        ("nodes?limit=1000&detail=1", node),
    ):
        site.answers[f"/api/v0/{path}"] = (200, json.dumps({"data": {"result": {"result": [document]}}}).encode())
    log = {"message": "opening the model\n", "filename": "backend.py"}
    file = "serve%2Freplica_Echo_Echo_b.log"
    site.answers[f"/api/v0/logs/file?node_id=0&filename={file}&lines=30"] = (200, json.dumps(log).encode())


def test_a_replica_that_dies_while_it_loads_fails_with_its_reason(site: Site, play: Play) -> None:
    died(site, "Worker exits with an exit code 4.")
    message = "The deployment failed to start 3 times in a row. Error:\nActorDiedError()"
    play(
        details({"old": "RUNNING", "b": "STARTING"}),
        details({"old": "RUNNING"}, status="DEPLOY_FAILED", message=message, trigger="REPLICA_STARTUP_FAILED"),
        seconds=0.5,
    )
    failed = update(site, {"old": "RUNNING"})
    assert failed == {"Echo": "ended itself with exit code 4; the last line of its log: opening the model"}


def test_a_crash_loop_fails_with_the_reason_of_the_last_crash(site: Site, play: Play) -> None:
    died(site, "Worker exits with an exit code 4.")
    play(
        details({"old": "STOPPING", "a": "RUNNING"}),
        details({"old": "STOPPING", "b": "STARTING"}),
        details({"old": "STOPPING", "b": "RUNNING"}),
        details({"c": "STARTING"}),
        seconds=0.5,
    )
    failed = update(site, {"old": "RUNNING"}, min_ready_seconds=3)
    assert failed["Echo"].startswith("its replicas crash soon after they start: ended itself with exit code 4")


def test_an_error_of_the_author_s_code_stays(site: Site, play: Play) -> None:
    died(site, "Worker exits with an exit code 4.")
    play(details({"old": "RUNNING"}, status="DEPLOY_FAILED", message="ValueError: no model", trigger=""))
    assert update(site, {"old": "RUNNING"}) == {"Echo": "ValueError: no model"}


def test_a_library_that_is_missing_comes_with_its_debian_package(site: Site, play: Play) -> None:
    error = "ImportError: libsndfile.so.1: cannot open shared object file: No such file or directory"
    play(*[details({"new": "STARTING"}, "DEPLOY_FAILED", f"Traceback ...\n{error}")] * 30)
    assert update(site, {})["Echo"].endswith("write libsndfile1 to algopkg/Echo/packages.txt, then run site.yml")


def test_one_crash_is_forgiven(site: Site, play: Play) -> None:
    play(
        details({"old": "STOPPING", "a": "RUNNING"}),
        details({"old": "STOPPING", "b": "STARTING"}),
        details({"b": "RUNNING"}, "RUNNING"),
        seconds=0.5,
    )
    assert update(site, {"old": "RUNNING"}) == {}


def test_without_capacity_what_is_missing_is_named(site: Site, play: Play) -> None:
    free(site, 0.5)
    play(details({"old": "RUNNING", "new": "STARTING"}))
    failed = update(site, {"old": "RUNNING"})
    assert failed["Echo"].startswith(
        "no capacity for a new replica: it needs 1 GPU; free are head 0.5 GPU. Add a worker"
    )
    assert puts(site) == [100]


def test_a_replica_that_ray_is_slow_to_place_is_waited_for(site: Site, play: Play) -> None:
    free(site, 1)
    play(
        details({"old": "RUNNING", "new": "STARTING"}),
        details({"old": "STOPPING", "new": "RUNNING"}),
        seconds=2,
    )
    assert update(site, {"old": "RUNNING"}) == {}


def test_with_downtime_allowed_the_old_ones_stop_first(site: Site, play: Play) -> None:
    free(site, 0)
    play(
        details({"old": "RUNNING", "new": "STARTING"}),
        details({"old": "STOPPING", "new": "STARTING"}),
        details({"new": "RUNNING"}, "RUNNING"),
        seconds=0.5,
        submissions=2,
    )
    assert update(site, {"old": "RUNNING"}, allow_downtime=True) == {}
    assert puts(site) == [100, 0, 100], "and from then on new ones come first again"


@pytest.mark.parametrize(("allow_downtime", "submitted"), [(True, [0, 100]), (False, [])])
def test_what_serve_was_given_already_is_finished(
    site: Site, play: Play, allow_downtime: bool, submitted: list[int]
) -> None:
    """An apply that was taken back or interrupted may leave new replicas that find no room beside the old ones."""
    free(site, 0)
    play(
        details({"old": "RUNNING", "new": "STARTING"}),
        details({"old": "STOPPING", "new": "STARTING"}),
        details({"new": "RUNNING"}, "RUNNING"),
        seconds=0.5,
        submissions=1,
    )
    failed = rollout(site, []).finish(TARGET, allow_downtime)
    assert puts(site) == submitted
    if allow_downtime:
        assert failed == {}
    else:
        assert "it needs 1 GPU" in failed["Echo"] and "--allow-downtime" in failed["Echo"]


def test_what_never_gets_there_is_given_up(site: Site, play: Play) -> None:
    play(details({"old": "RUNNING", "new": "PENDING_INITIALIZATION"}))
    failed = update(site, {"old": "RUNNING"}, deploy_timeout_s=1)
    assert failed == {"Echo": "not healthy after 1 s: 0 of 1 replicas running"}


def test_shares_of_several_gpus_are_no_whole_one(site: Site, play: Play) -> None:
    free(site, 1)  # a half on each of two
    play(details({"old": "RUNNING", "new": "STARTING"}))
    failed = update(site, {"old": "RUNNING"}, scheduling_timeout_s=0.4)
    assert "it needs 1 GPU; free are head 1 GPU, in parts of several GPUs" in failed["Echo"]


def names_put(site: Site) -> list[set[str]]:
    """The applications of each configuration that was put."""
    bodies = [json.loads(asked.body) for asked in site.asked if asked.method == "PUT"]
    return [{application["name"] for application in body["applications"]} for body in bodies]


@pytest.mark.parametrize(
    ("gpus", "removable_early", "allow_downtime", "submitted", "stopped"),
    [
        (1, True, False, [{"Echo", "Old"}], []),
        (0, True, False, [{"Echo"}], [["Old"]]),
        (0, False, True, [{"Echo", "Old"}, {"Echo"}], [["Old"]]),
        (0, False, False, [{"Echo", "Old"}], []),
    ],
    ids=["there is capacity", "its capacity is needed", "it is replaced, a gap is allowed", "no gap is"],
)
def test_a_retiring_application_stays_unless_its_capacity_is_needed(
    site: Site, play: Play, gpus: float, removable_early: bool, allow_downtime: bool, submitted: Any, stopped: Any
) -> None:
    free(site, gpus)
    unrouted: list[list[str]] = []
    old = replace(ECHO, name="Old")
    retiring = Retiring({"Old": old}, frozenset(["Old"] if removable_early else []), unrouted.append)
    started, running = details({"new": "STARTING"}), details({"new": "RUNNING"}, "RUNNING")
    play(started, running, seconds=0.6, submissions=1 if gpus or removable_early else 2)
    added = Change("add", "Echo", CODE.differences)
    failed = rollout(site, []).update([added], TARGET, {}, retiring, allow_downtime)
    assert bool(failed) is (submitted == [{"Echo", "Old"}] and not gpus)
    assert (names_put(site), unrouted) == (submitted, stopped)


def test_a_change_of_a_route_alone_tells_serve_nothing(site: Site) -> None:
    moved = Change("change", "Echo", (Difference("route", "/a", "/b", False),))
    assert rollout(site, []).update([moved], TARGET, {}, NOBODY, False) == {}
    assert site.asked == []
