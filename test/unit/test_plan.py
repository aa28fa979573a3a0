"""Plans: what an apply changes is what differs between conf.ini and what is served, each difference named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve.config.routes import Served, Share
from modelserve.config.section import METHODS, Section
from modelserve.deploy.plan import compare
from modelserve.serve.application import Application

# The gateway as it is in most of these: it knows no algorithm, so that none moves.
HERE = Served(port=666)


def app(
    package: str = "/store/pkg/Echo-1",
    models: tuple[str, ...] = ("/store/model/1/a",),
    environment: str = "/store/env/Echo-1",
    **keys: Any,
) -> Application:
    section = Section(**{"name": "Echo", "backend": "Echo", "route": "echo", "user_config": 1, **keys})
    return Application.from_section(section, Path(package), map(Path, models), Path(environment))


def behind(route: str, weight: int = 1) -> Served:
    return Served(port=666, routes={route: (Share(name="Echo", prefix="/Echo", weight=weight),)})


def test_what_is_served_already_is_no_change() -> None:
    plan = compare({"Echo": app()}, {"Echo": app()}, HERE, HERE)
    assert not plan
    assert plan.unchanged == ("Echo",)


def test_defaults_that_serve_adds_are_no_change() -> None:
    running = app().to_serve()
    running["external_scaler_enabled"] = False
    running["deployments"][0] |= {"graceful_shutdown_wait_loop_s": 2, "logging_config": None}
    assert not compare({"Echo": app()}, {"Echo": Application.from_serve(running)}, HERE, HERE)


def test_a_plan_adds_removes_and_leaves_alone() -> None:
    plan = compare({"New": app(), "Same": app()}, {"Same": app(), "Old": app()}, HERE, HERE)
    assert {(change.action, change.name) for change in plan.changes} == {("add", "New"), ("remove", "Old")}
    assert plan.unchanged == ("Same",)
    assert plan


def test_an_algorithm_that_is_added_needs_replicas_and_one_removed_does_not() -> None:
    removed, added = compare({"New": app()}, {"Old": app()}, HERE, HERE).changes
    assert (added.name, added.needs_new_replicas) == ("New", True)
    assert (removed.name, removed.needs_new_replicas) == ("Old", False)


@pytest.mark.parametrize(
    ("change", "what", "new_replicas"),
    [
        ({"package": "/store/pkg/Echo-2"}, "code", True),
        ({"backend": "Other"}, "class", True),
        ({"models": ("/store/model/2/a",)}, "model", True),
        ({"models": ()}, "model", True),
        ({"method": ("POST",)}, "method", True),
        ({"environment": "/store/env/Echo-2"}, "environment", True),
        ({"gpu_cost": 1}, "resources", True),
        ({"cpu_cost": 2}, "resources", True),
        ({"replicas": 2}, "replicas", False),
        ({"user_config": {"top": 3}}, "user_config", False),
        ({"user_config": None}, "user_config", True),
        ({"warmup": {"text": "hello"}}, "warmup", False),
        ({"memory": 2**30}, "resources", True),
        ({"labels": {"modelserve.node": "worker_1"}}, "resources", True),
        ({"env": {"A": "b", "C": "d"}}, "env", True),
        ({"max_replicas": 4}, "replicas", False),
        ({"max_replicas": 4, "min_replicas": 0, "replicas": 2}, "replicas", False),
        ({"max_ongoing_requests": 8}, "max_ongoing_requests", False),
        ({"max_queued_requests": 8}, "max_queued_requests", False),
        ({"request_timeout": 8, "drain_timeout": 600}, "request_timeout", False),
        ({"drain_timeout": 8}, "drain_timeout", False),
        ({"retry_unanswered": True}, "retry_unanswered", False),
        ({"update": "recreate"}, "update", False),
    ],
)
def test_each_difference_is_named(change: dict[str, Any], what: str, new_replicas: bool) -> None:
    (found,) = compare({"Echo": app(**change)}, {"Echo": app()}, HERE, HERE).changes
    assert found.action == "change"
    assert [(one.what, one.new_replicas) for one in found.differences] == [(what, new_replicas)]
    assert found.needs_new_replicas is new_replicas
    (back,) = compare({"Echo": app()}, {"Echo": app(**change)}, HERE, HERE).changes
    assert [(one.what, one.old, one.new) for one in back.differences] == [
        (one.what, one.new, one.old) for one in found.differences
    ]


def test_batches_need_replicas_that_gather_them() -> None:
    for wanted, running in ((app(batch_size=4), app()), (app(), app(batch_size=4))):
        (change,) = compare({"Echo": wanted}, {"Echo": running}, HERE, HERE).changes
        assert {one.what for one in change.differences} == {"batch_size", "batch_wait"}
        assert change.needs_new_replicas


def test_a_memory_limit_needs_replicas_that_watch_it() -> None:
    (change,) = compare({"Echo": app(memory_limit=2**31)}, {"Echo": app()}, HERE, HERE).changes
    assert [(difference.what, difference.new) for difference in change.differences] == [("memory_limit", 2**31)]
    assert change.needs_new_replicas


def test_the_document_has_no_value_of_an_environment_variable() -> None:
    secret = app(env={"HUB_TOKEN": "hush"})
    other = app(env={"HUB_TOKEN": "hush too"})
    for wanted, running in (
        (secret, {}),
        (secret, {"Echo": app()}),
        (app(), {"Echo": secret}),
        (other, {"Echo": secret}),
    ):
        plan = compare({"Echo": wanted}, running, HERE, HERE)
        assert "env" in {one.what for one in plan.changes[0].differences}
        assert "hush" not in json.dumps(plan.as_dict())
    (document,) = compare({"Echo": secret}, {"Echo": app()}, HERE, HERE).as_dict()["changes"][0]["differences"]
    assert document == {"what": "env", "old": None, "new": "(hidden)", "new_replicas": True}


def test_differences_are_named_together() -> None:
    changed = app(package="/store/pkg/Echo-2", replicas=4)
    old, new = behind("echo"), behind("other", weight=10)
    (change,) = compare({"Echo": changed}, {"Echo": app()}, new, old).changes
    assert {one.what for one in change.differences} == {"code", "replicas", "route", "weight"}
    assert change.needs_new_replicas
    assert change.concerns_serve


def test_another_route_or_share_is_not_serve_s_affair() -> None:
    plan = compare({"Echo": app()}, {"Echo": app()}, behind("other", weight=10), behind("echo"))
    assert plan.summary() == ["~ Echo (route, weight)"]
    (change,) = plan.changes
    assert [(one.old, one.new) for one in change.differences] == [("/echo", "/other"), (1, 10)]
    assert not change.needs_new_replicas
    assert not change.concerns_serve
    assert not compare({"Echo": app()}, {"Echo": app()}, behind("echo"), behind("echo"))
    assert compare({"Echo": app()}, {"Echo": app()}, behind("echo"), HERE), "a gateway that lost its routes"


@pytest.mark.parametrize(("running_port", "changed"), [(666, False), (667, True), (None, True)])
def test_another_port_is_a_change_of_its_own(running_port: int | None, changed: bool) -> None:
    answered = None if running_port is None else Served(port=running_port)
    plan = compare({"Echo": app()}, {"Echo": app()}, HERE, answered)
    assert bool(plan) is changed
    assert plan.changes == ()
    assert plan.port == ((running_port, 666) if changed else None)


def test_a_plan_is_a_json_document() -> None:
    plan = compare({"Echo": app(replicas=2), "New": app()}, {"Echo": app(), "Old": app()}, HERE, None)
    document = json.loads(json.dumps(plan.as_dict()))
    assert document["changed"] is True
    assert document["port"] == {"old": None, "new": 666}
    changes = {change["name"]: change for change in document["changes"]}
    assert {name: change["action"] for name, change in changes.items()} == {
        "Echo": "change",
        "New": "add",
        "Old": "remove",
    }
    assert changes["Echo"]["differences"] == [{"what": "replicas", "old": 1, "new": 2, "new_replicas": False}]


NAMES = st.sampled_from(["A", "B", "C", "D"])
APPS = st.dictionaries(
    NAMES,
    st.builds(
        app,
        package=st.sampled_from(["/store/pkg/1", "/store/pkg/2"]),
        models=st.lists(st.sampled_from(["/m/1/a", "/m/2/b"])).map(tuple),
        replicas=st.integers(1, 3),
        gpu_cost=st.sampled_from([0, 0.5, 1]),
        method=st.lists(st.sampled_from(METHODS), min_size=1).map(tuple),
        warmup=st.none() | st.dictionaries(st.text(), st.integers(), max_size=2),
        user_config=st.none() | st.lists(st.integers(), max_size=2),
        max_replicas=st.none() | st.integers(3, 5),
        max_queued_requests=st.none() | st.integers(1, 2),
        request_timeout=st.none() | st.integers(1, 2),
        batch_size=st.integers(1, 2),
        memory=st.integers(0, 1),
        env=st.dictionaries(st.sampled_from("AB"), st.sampled_from("xy")),
        update=st.sampled_from(["rolling", "recreate"]),
    ),
)


@given(APPS)
def test_nothing_differs_from_itself(apps: dict[str, Any]) -> None:
    running = {name: Application.from_serve(json.loads(json.dumps(made.to_serve()))) for name, made in apps.items()}
    assert not compare(apps, running, HERE, HERE)


@given(APPS, APPS)
def test_every_algorithm_is_in_a_plan_once(wanted: dict[str, Any], running: dict[str, Any]) -> None:
    plan = compare(wanted, running, HERE, HERE)
    names = [change.name for change in plan.changes] + list(plan.unchanged)
    assert sorted(names) == sorted(wanted.keys() | running.keys())
    assert all(wanted[name] == running[name] for name in plan.unchanged)
