"""Status: an application is healthy when exactly the replicas of its target answer, and a failure has its cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modelserve.config.section import Section
from modelserve.errors import UserError
from modelserve.serve.application import Application
from modelserve.serve.status import (
    ApplicationStatus,
    Failed,
    Healthy,
    Waiting,
    at_target,
    cause,
    outcome_of,
    replicas_by_node,
    running_applications,
    status_text,
    statuses_of,
    target_replicas,
    unschedulable,
)


def app(package: str = "/pkg/2", replicas: int = 2, name: str = "Echo") -> Application:
    section = Section(name=name, backend="Echo", route="echo", replicas=replicas)
    return Application.from_section(section, Path(package), [], Path("/env/1"))


def details(
    config: Application,
    replicas: dict[str, str],
    status: str = "RUNNING",
    message: str = "",
    deployment: str = "HEALTHY",
    deployment_message: str = "",
    **options: Any,
) -> ApplicationStatus:
    """Serve's details of an application that runs ``config``: its replicas' states by id; more of its deployment."""
    document = config.to_serve()
    shown = {
        "status": status,
        "message": message,
        "route_prefix": config.prefix,
        "deployed_app_config": document,
        "deployments": {
            "Echo": {
                "status": deployment,
                "message": deployment_message,
                "deployment_config": {"user_config": document["deployments"][0]["user_config"]},
                "replicas": [
                    {"replica_id": name, "state": state.partition("@")[0], "node_id": state.partition("@")[2] or None}
                    for name, state in replicas.items()
                ],
                **options,
            }
        },
    }
    return ApplicationStatus.model_validate(shown)


@pytest.mark.parametrize(
    ("replicas", "before", "state"),
    [
        ({"a": "RUNNING", "b": "RUNNING"}, set(), Healthy),
        ({}, set(), Waiting),
        ({"a": "RUNNING"}, set(), Waiting),
        ({"a": "RUNNING", "b": "STARTING"}, set(), Waiting),
        # More than wanted: replicas that will be stopped still answer.
        ({"a": "RUNNING", "b": "RUNNING", "c": "RUNNING"}, set(), Waiting),
        ({"a": "RUNNING", "b": "RUNNING", "c": "STOPPING"}, set(), Healthy),
        # Replicas from before cannot be the wanted ones, however healthy.
        ({"a": "RUNNING", "b": "RUNNING"}, {"a", "b"}, Waiting),
        ({"a": "RUNNING", "b": "RUNNING", "old": "RUNNING"}, {"old"}, Waiting),
        ({"a": "RUNNING", "b": "RUNNING", "old": "STOPPING"}, {"old"}, Healthy),
        ({"a": "RUNNING", "b": "RUNNING", "c": "UPDATING"}, set(), Waiting),
    ],
)
def test_the_replicas_decide(replicas: dict[str, str], before: set[str], state: type) -> None:
    assert isinstance(outcome_of(details(app(), replicas), app(), before), state)


def scaling(low: int = 1, high: int = 5, **keys: Any) -> Application:
    section = Section(name="Echo", backend="Echo", route="echo", min_replicas=low, max_replicas=high, **keys)
    return Application.from_section(section, Path("/pkg/2"), [], Path("/env/1"))


def scaled(config: Application, replicas: dict[str, str], target: int, deployment: str) -> ApplicationStatus:
    """Serve's details of an application it scales: it shows its own defaults beside what it was given."""
    (wanted,) = config.to_serve()["deployments"]
    shown = {"initial_replicas": None, **wanted["autoscaling_config"], "upscale_delay_s": 30.0}
    revision = {"user_config": wanted["user_config"], "autoscaling_config": shown}
    return details(config, replicas, deployment=deployment, target_num_replicas=target, deployment_config=revision)


@pytest.mark.parametrize(
    ("low", "keys", "replicas", "target", "deployment", "state"),
    [
        (2, {}, {"a": "RUNNING", "b": "RUNNING"}, 2, "HEALTHY", Healthy),
        (2, {}, {"a": "RUNNING", "b": "STARTING"}, 2, "UPDATING", Waiting),
        (2, {}, {"a": "RUNNING", "b": "RUNNING"}, 2, "UPDATING", Waiting),
        # What the load asks for beyond may never fit the cluster.
        (2, {}, {"a": "RUNNING", "b": "RUNNING", "c": "STARTING"}, 5, "UPSCALING", Healthy),
        (2, {}, {"a": "RUNNING", "c": "STARTING"}, 5, "UPSCALING", Waiting),
        (2, {}, {"a": "RUNNING", "b": "RUNNING", "c": "STOPPING"}, 2, "DOWNSCALING", Healthy),
        (1, {"replicas": 3}, {"a": "RUNNING", "b": "STARTING", "c": "STARTING"}, 3, "UPSCALING", Waiting),
        # Long after the deploy fewer than it started are enough.
        (1, {"replicas": 3}, {"a": "RUNNING"}, 1, "HEALTHY", Healthy),
        (0, {}, {"a": "STARTING"}, 1, "UPDATING", Waiting),
        (0, {}, {"a": "RUNNING"}, 1, "HEALTHY", Healthy),
        (0, {}, {}, 0, "HEALTHY", Healthy),
        (0, {}, {}, 0, "UPDATING", Waiting),
        (1, {}, {"a": "UPDATING"}, 1, "HEALTHY", Waiting),
    ],
)
def test_with_autoscaling_what_a_deploy_starts_has_to_run(
    low: int, keys: dict[str, Any], replicas: dict[str, str], target: int, deployment: str, state: type
) -> None:
    wanted = scaling(low, **keys)
    assert isinstance(outcome_of(scaled(wanted, replicas, target, deployment), wanted, set()), state)


def test_with_autoscaling_old_replicas_have_to_go() -> None:
    found = scaled(scaling(), {"a": "RUNNING", "old": "RUNNING"}, 1, "UPDATING")
    assert isinstance(outcome_of(found, scaling(), {"old"}), Waiting)


def test_another_scaling_is_aimed_at_when_serve_shows_it() -> None:
    fixed, found = details(app(), {}), scaled(scaling(), {}, 1, "HEALTHY")
    assert at_target(found, scaling())
    assert not at_target(found, scaling(high=6))
    assert not at_target(found, app())
    assert not at_target(fixed, scaling())


def test_the_target_is_the_section_s_number_or_what_the_load_asks_for() -> None:
    assert target_replicas(details(app(replicas=4), {}), app(replicas=4)) == 4
    assert target_replicas(scaled(scaling(), {}, 3, "HEALTHY"), scaling()) == 3
    assert target_replicas(ApplicationStatus(status="DEPLOYING"), None) == 1  # Serve does not say yet


def test_only_a_minimum_of_none_scales_to_zero() -> None:
    assert [one.scales_to_zero for one in (app(), scaling(), scaling(0))] == [False, False, True]


def test_a_change_in_place_is_waited_for_unless_old_replicas_drain() -> None:
    running = {"a": "RUNNING", "b": "RUNNING"}
    assert isinstance(outcome_of(details(app(), running, deployment="UPDATING"), app(), set()), Waiting)
    draining = {**running, "old": "STOPPING"}
    assert isinstance(outcome_of(details(app(), draining, deployment="UPDATING"), app(), {"old"}), Healthy)


@pytest.mark.parametrize(
    ("replicas", "text"), [({"a": "RUNNING"}, "1 of 2"), ({"a": "RUNNING", "old": "RUNNING"}, "1 of 2")]
)
def test_progress_says_how_many_of_the_wanted_replicas_run(replicas: dict[str, str], text: str) -> None:
    assert text in outcome_of(details(app(), replicas), app(), {"old"}).text


def test_what_serve_does_not_know_yet_is_waited_for() -> None:
    assert isinstance(outcome_of(None, app(), set()), Waiting)


@pytest.mark.parametrize("other", [{"package": "/pkg/1"}, {"name": "Old"}], ids=["code", "prefix"])
def test_replicas_of_another_configuration_do_not_count(other: dict[str, Any]) -> None:
    running = details(app(**other), {"a": "RUNNING", "b": "RUNNING"})
    assert isinstance(outcome_of(running, app(), set()), Waiting)


def test_while_old_replicas_drain_the_application_is_healthy() -> None:
    running = details(app(), {"a": "RUNNING", "b": "RUNNING", "old": "STOPPING"}, status="DEPLOYING")
    assert isinstance(outcome_of(running, app(), {"old"}), Healthy)


# A replica that died with its node makes an application unhealthy for a moment: that has to last.
@pytest.mark.parametrize(("status", "threshold"), [("DEPLOY_FAILED", 1), ("UNHEALTHY", 80)])
def test_a_failure_names_the_replica_s_own_error(status: str, threshold: int) -> None:
    message = (
        "The deployment failed to start 3 times in a row. See the logs.\nError: worker died\nTraceback (most recent "
        'call last):\n  File "/store/backend.py", line 7, in _model_init\n    raise ValueError("no weights")\n'
        "ValueError: no weights"
    )
    running = details(app(), {}, status, "deployments ['Echo'] are unhealthy", deployment_message=message)
    assert outcome_of(running, app(), set()) == Failed("ValueError: no weights", threshold)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Traceback (most recent call last):\n  File x\nImportError: no torch\n", "ImportError: no torch"),
        ("Traceback:\\n  File x\\nmine.OddException: odd\\n", "mine.OddException: odd"),
        ("no resources for the replica", "no resources for the replica"),
        ("first\nlast\n", "last"),
        ("", "no reason given"),
    ],
)
def test_the_cause_is_one_line(message: str, line: str) -> None:
    assert cause(message) == line


def test_the_configuration_is_aimed_at_when_serve_shows_its_identity() -> None:
    assert at_target(details(app(), {}), app())
    assert not at_target(details(app("/pkg/1"), {}), app())
    assert not at_target(None, app())
    assert not at_target(ApplicationStatus(status="DEPLOYING"), app())


def test_replica_ids_are_those_of_every_state() -> None:
    status = details(app(), {"a": "RUNNING", "b": "STOPPING"})
    assert (status.replica_ids(), status.replica_ids("RUNNING")) == ({"a", "b"}, {"a"})


@pytest.mark.parametrize(
    ("status", "replicas", "shown"),
    [
        ("RUNNING", {"a": "RUNNING", "b": "RUNNING"}, "RUNNING"),
        ("DEPLOYING", {"a": "RUNNING", "b": "RUNNING", "old": "STOPPING"}, "RUNNING"),
        ("DEPLOYING", {"a": "RUNNING", "b": "STARTING"}, "DEPLOYING"),
        ("DELETING", {"a": "STOPPING"}, "STOPPING"),
        ("DEPLOY_FAILED", {}, "DEPLOY_FAILED"),
    ],
)
def test_replicas_that_drain_do_not_hide_those_that_run(status: str, replicas: dict[str, str], shown: str) -> None:
    assert status_text(details(app(), replicas, status)) == shown


def test_a_replica_that_fails_after_its_start_gets_time_to_be_replaced() -> None:
    target = app()
    states, message = {"a": "RUNNING"}, "ActorDiedError: it died"
    at_start = outcome_of(details(target, states, "DEPLOY_FAILED", message), target, set())
    trigger = {"status_trigger": "HEALTH_CHECK_FAILED"}
    later = outcome_of(details(target, states, "DEPLOY_FAILED", message, **trigger), target, set())
    assert (at_start, later) == (Failed(message, 1), Failed(message, 80))


def test_a_replica_is_unschedulable_while_it_waits_and_none_is_about_to_free_its_resources() -> None:
    starting = details(app(), {"old": "RUNNING@0", "new": "STARTING"}, "DEPLOYING")
    others = details(app(name="Other"), {"x": "RUNNING@0"})
    assert unschedulable("Echo", {"Echo": starting, "Other": others})
    assert not unschedulable("Other", {"Echo": starting, "Other": others})
    assert not unschedulable("Echo", {})
    assert not unschedulable("Echo", {"Echo": starting, "Other": details(app(name="Other"), {"x": "STOPPING@0"})})
    assert not unschedulable("Echo", {"Echo": details(app(), {"new": "STARTING@abc"}, "DEPLOYING")})


def test_a_replaced_replica_counts_though_serve_reports_a_failure_until_old_ones_have_drained() -> None:
    target = app(replicas=1)
    states = {"new": "RUNNING", "old": "STOPPING"}
    at_start = details(target, states, "DEPLOY_FAILED", "ActorDiedError")
    assert isinstance(outcome_of(at_start, target, set()), Failed), "one that could not start"
    later = details(target, states, "DEPLOY_FAILED", "ActorDiedError", status_trigger="HEALTH_CHECK_FAILED")
    assert isinstance(outcome_of(later, target, set()), Healthy)
    assert isinstance(outcome_of(later, target, {"new"}), Failed), "the new one is not there yet"


def test_a_change_of_running_replicas_is_done_when_serve_says_so_and_not_while_others_drain() -> None:
    draining = details(app(), {"a": "RUNNING", "b": "RUNNING", "old": "STOPPING"}, deployment="UPDATING")
    waiting = outcome_of(draining, app(), set(), reconfigures=True)
    assert isinstance(waiting, Waiting) and "once replaced replicas have finished" in waiting.text
    done = details(app(), {"a": "RUNNING", "b": "RUNNING"})
    assert isinstance(outcome_of(done, app(), set(), reconfigures=True), Healthy)


def test_a_change_in_place_beside_draining_replicas_needs_more_observations() -> None:
    states = {"a": "RUNNING", "b": "RUNNING", "old": "STOPPING"}
    assert outcome_of(details(app(), states), app(), set()) == Healthy("2 of 2 replicas running", 8)
    assert outcome_of(details(app(), states), app(), {"old"}) == Healthy("2 of 2 replicas running", 2)


def test_replicas_are_counted_on_their_nodes_unless_they_stop() -> None:
    echo = details(app(), {"a": "RUNNING@0", "b": "STARTING@1", "c": "STOPPING@1", "d": "STARTING"})
    assert replicas_by_node({"Echo": echo, "Net": details(app(), {"e": "RUNNING@1"})}) == {
        "0": ["Echo"],
        "1": ["Echo", "Net"],
    }


def test_what_serve_deletes_does_not_run() -> None:
    gone = details(app(), {}, "DELETING")
    new = ApplicationStatus(status="DEPLOYING")
    assert running_applications({"Echo": details(app(), {}), "Gone": gone, "New": new}) == {"Echo": app()}


def test_an_application_that_is_not_modelserve_s_stops_an_apply_before_it_is_removed() -> None:
    foreign = ApplicationStatus(status="RUNNING", deployed_app_config={"name": "Foreign", "import_path": "a:b"})
    assert foreign.application is None
    assert status_text(foreign) == "RUNNING"
    with pytest.raises(UserError, match="Serve runs Foreign: not an application of modelserve"):
        running_applications({"Foreign": foreign})


def test_what_serve_leaves_out_while_it_builds_an_application_is_nothing() -> None:
    deployment = {"target_num_replicas": None, "deployment_config": {"user_config": None}}
    statuses = statuses_of({"applications": {"A": {"status": "DEPLOYING", "deployments": None}}})
    assert statuses["A"].replicas == ()
    assert not at_target(statuses["A"], app())
    building = ApplicationStatus.model_validate({"status": "DEPLOYING", "deployments": {"Echo": deployment}})
    assert building.target_num_replicas == 0
    assert not at_target(building, app())
    other = {"Echo": {"deployment_config": {"user_config": ["not ours"]}}}
    assert not at_target(ApplicationStatus.model_validate({"status": "RUNNING", "deployments": other}), app())
