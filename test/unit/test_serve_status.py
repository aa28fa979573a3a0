"""Health: an application is healthy when exactly the wanted replicas answer, and a failure names its cause."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from modelserve.config.section import Section
from modelserve.serve.application import application
from modelserve.serve.status import (
    Outcome,
    aims_at,
    cause,
    may_rest,
    outcome_of,
    replica_ids,
    room_missing,
    status_of,
    target_of,
)

WAITING, HEALTHY, FAILED = Outcome.State.WAITING, Outcome.State.HEALTHY, Outcome.State.FAILED


def app(package: str = "/pkg/2", replicas: int = 2, name: str = "Echo") -> dict[str, Any]:
    section = Section(name=name, backend="Echo", route="echo", replicas=replicas)
    return application(section, Path(package), [], Path("/env/1"))


def details(
    config: dict[str, Any],
    replicas: dict[str, str],
    status: str = "RUNNING",
    message: str = "",
    deployment: str = "HEALTHY",
) -> dict[str, Any]:
    """Serve's details of an application that runs ``config``: its replicas' states by id."""
    return {
        "status": status,
        "message": message,
        "route_prefix": config["route_prefix"],
        "deployments": {
            "Echo": {
                "status": deployment,
                "message": "",
                "deployment_config": {"user_config": copy.deepcopy(config["deployments"][0]["user_config"])},
                "replicas": [{"replica_id": name, "state": state} for name, state in replicas.items()],
            }
        },
    }


@pytest.mark.parametrize(
    ("replicas", "before", "state"),
    [
        ({"a": "RUNNING", "b": "RUNNING"}, set(), HEALTHY),
        ({}, set(), WAITING),
        ({"a": "RUNNING"}, set(), WAITING),
        ({"a": "RUNNING", "b": "STARTING"}, set(), WAITING),
        # More than wanted: replicas that will be stopped still answer.
        ({"a": "RUNNING", "b": "RUNNING", "c": "RUNNING"}, set(), WAITING),
        ({"a": "RUNNING", "b": "RUNNING", "c": "STOPPING"}, set(), HEALTHY),
        # Replicas from before cannot be the wanted ones, however healthy.
        ({"a": "RUNNING", "b": "RUNNING"}, {"a", "b"}, WAITING),
        ({"a": "RUNNING", "b": "RUNNING", "old": "RUNNING"}, {"old"}, WAITING),
        ({"a": "RUNNING", "b": "RUNNING", "old": "STOPPING"}, {"old"}, HEALTHY),
        ({"a": "RUNNING", "b": "RUNNING", "c": "UPDATING"}, set(), WAITING),
    ],
)
def test_the_replicas_decide(replicas: dict[str, str], before: set[str], state: Outcome.State) -> None:
    assert outcome_of(details(app(), replicas), app(), before).state is state


def scaling(low: int = 1, high: int = 5, **keys: Any) -> dict[str, Any]:
    section = Section(name="Echo", backend="Echo", route="echo", min_replicas=low, max_replicas=high, **keys)
    return application(section, Path("/pkg/2"), [], Path("/env/1"))


def scaled(config: dict[str, Any], replicas: dict[str, str], target: int, deployment: str) -> dict[str, Any]:
    """Serve's details of an application it scales: it shows its own defaults beside what it was given."""
    found = details(config, replicas, deployment=deployment)
    found["deployments"]["Echo"]["target_num_replicas"] = target
    shown = {"initial_replicas": None, **config["deployments"][0]["autoscaling_config"], "upscale_delay_s": 30.0}
    found["deployments"]["Echo"]["deployment_config"]["autoscaling_config"] = shown
    return found


@pytest.mark.parametrize(
    ("low", "keys", "replicas", "target", "deployment", "state"),
    [
        (2, {}, {"a": "RUNNING", "b": "RUNNING"}, 2, "HEALTHY", HEALTHY),
        (2, {}, {"a": "RUNNING", "b": "STARTING"}, 2, "UPDATING", WAITING),
        (2, {}, {"a": "RUNNING", "b": "RUNNING"}, 2, "UPDATING", WAITING),
        # What the load asks for beyond may never fit the cluster.
        (2, {}, {"a": "RUNNING", "b": "RUNNING", "c": "STARTING"}, 5, "UPSCALING", HEALTHY),
        (2, {}, {"a": "RUNNING", "c": "STARTING"}, 5, "UPSCALING", WAITING),
        (2, {}, {"a": "RUNNING", "b": "RUNNING", "c": "STOPPING"}, 2, "DOWNSCALING", HEALTHY),
        (1, {"replicas": 3}, {"a": "RUNNING", "b": "STARTING", "c": "STARTING"}, 3, "UPSCALING", WAITING),
        # Long after the deploy fewer than it started are enough.
        (1, {"replicas": 3}, {"a": "RUNNING"}, 1, "HEALTHY", HEALTHY),
        (0, {}, {"a": "STARTING"}, 1, "UPDATING", WAITING),
        (0, {}, {"a": "RUNNING"}, 1, "HEALTHY", HEALTHY),
        (0, {}, {}, 0, "HEALTHY", HEALTHY),
        (0, {}, {}, 0, "UPDATING", WAITING),
        (1, {}, {"a": "UPDATING"}, 1, "HEALTHY", WAITING),
    ],
)
def test_with_autoscaling_what_a_deploy_starts_has_to_run(
    low: int, keys: dict[str, Any], replicas: dict[str, str], target: int, deployment: str, state: Outcome.State
) -> None:
    wanted = scaling(low, **keys)
    assert outcome_of(scaled(wanted, replicas, target, deployment), wanted, set()).state is state


def test_with_autoscaling_old_replicas_have_to_go() -> None:
    found = scaled(scaling(), {"a": "RUNNING", "old": "RUNNING"}, 1, "UPDATING")
    assert outcome_of(found, scaling(), {"old"}).state is WAITING


def test_another_scaling_is_aimed_at_when_serve_shows_it() -> None:
    fixed, found = details(app(), {}), scaled(scaling(), {}, 1, "HEALTHY")
    assert aims_at(found, scaling())
    assert not aims_at(found, scaling(high=6))
    assert not aims_at(found, app())
    assert not aims_at(fixed, scaling())


def test_the_target_is_the_section_s_number_or_what_the_load_asks_for() -> None:
    assert target_of(details(app(replicas=4), {}), app(replicas=4)) == 4
    assert target_of(scaled(scaling(), {}, 3, "HEALTHY"), scaling()) == 3
    assert target_of({}, {}) == 1  # Serve does not say yet


def test_only_what_scales_to_none_may_rest() -> None:
    assert [may_rest(one) for one in (app(), scaling(), scaling(0))] == [False, False, True]


def test_a_change_in_place_is_waited_for_unless_old_replicas_drain() -> None:
    running = {"a": "RUNNING", "b": "RUNNING"}
    assert outcome_of(details(app(), running, deployment="UPDATING"), app(), set()).state is WAITING
    draining = {**running, "old": "STOPPING"}
    assert outcome_of(details(app(), draining, deployment="UPDATING"), app(), {"old"}).state is HEALTHY


@pytest.mark.parametrize(
    ("replicas", "text"), [({"a": "RUNNING"}, "1 of 2"), ({"a": "RUNNING", "old": "RUNNING"}, "1 of 2")]
)
def test_progress_says_how_many_of_the_wanted_replicas_run(replicas: dict[str, str], text: str) -> None:
    assert text in outcome_of(details(app(), replicas), app(), {"old"}).text


def test_what_serve_does_not_know_yet_is_waited_for() -> None:
    assert outcome_of(None, app(), set()).state is WAITING


@pytest.mark.parametrize("other", [{"package": "/pkg/1"}, {"name": "Old"}], ids=["code", "prefix"])
def test_replicas_of_another_configuration_do_not_count(other: dict[str, Any]) -> None:
    running = details(app(**other), {"a": "RUNNING", "b": "RUNNING"})
    assert outcome_of(running, app(), set()).state is WAITING


def test_while_old_replicas_drain_the_application_is_healthy() -> None:
    running = details(app(), {"a": "RUNNING", "b": "RUNNING", "old": "STOPPING"}, status="DEPLOYING")
    assert outcome_of(running, app(), {"old"}).state is HEALTHY


# A replica that died with its node makes an application unhealthy for a moment: that has to last.
@pytest.mark.parametrize(("status", "sightings"), [("DEPLOY_FAILED", 1), ("UNHEALTHY", 80)])
def test_a_failure_names_the_replica_s_own_error(status: str, sightings: int) -> None:
    running = details(app(), {}, status, "deployments ['Echo'] are unhealthy")
    running["deployments"]["Echo"]["message"] = (
        "The deployment failed to start 3 times in a row. See the logs.\nError: worker died\nTraceback (most recent "
        'call last):\n  File "/store/backend.py", line 7, in _model_init\n    raise ValueError("no weights")\n'
        "ValueError: no weights"
    )
    assert outcome_of(running, app(), set()) == Outcome(FAILED, "ValueError: no weights", sightings)


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
    assert aims_at(details(app(), {}), app())
    assert not aims_at(details(app("/pkg/1"), {}), app())
    assert not aims_at(None, app())
    assert not aims_at({"deployments": {}}, app())


def test_replica_ids_are_those_of_every_state() -> None:
    assert replica_ids(details(app(), {"a": "RUNNING", "b": "STOPPING"})) == {"a", "b"}
    assert replica_ids(None) == set()


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
def test_what_drains_does_not_hide_what_runs(status: str, replicas: dict[str, str], shown: str) -> None:
    assert status_of({**details(app(), replicas, status), "deployed_app_config": app()}) == shown


def test_a_replica_that_ran_and_died_during_an_update_gets_time_to_be_replaced() -> None:
    wanted = app()
    found = details(wanted, {"a": "RUNNING"}, "DEPLOY_FAILED", "ActorDiedError: it died", "DEPLOY_FAILED")
    at_once = outcome_of(found, wanted, set())
    found["deployments"]["Echo"]["status_trigger"] = "HEALTH_CHECK_FAILED"
    later = outcome_of(found, wanted, set())
    assert at_once.state is later.state is FAILED
    assert at_once.sightings == 1 < later.sightings


def test_room_is_missing_when_a_replica_waits_and_none_is_about_to_give_its_own() -> None:
    wanted = app()
    starting = details(wanted, {"old": "RUNNING", "new": "STARTING"}, "DEPLOYING")
    others = details(app(name="Other"), {"x": "RUNNING"})
    assert room_missing("Echo", {"Echo": starting, "Other": others})
    assert not room_missing("Other", {"Echo": starting, "Other": others})
    assert not room_missing("Echo", {})
    others["deployments"]["Echo"]["replicas"][0]["state"] = "STOPPING"
    assert not room_missing("Echo", {"Echo": starting, "Other": others})
    others["deployments"]["Echo"]["replicas"].clear()
    starting["deployments"]["Echo"]["replicas"][1]["node_id"] = "abc"
    assert not room_missing("Echo", {"Echo": starting, "Other": others})


def test_a_replica_that_was_replaced_counts_though_serve_calls_it_failed_until_old_ones_have_drained() -> None:
    wanted = app(replicas=1)
    found = details(wanted, {"new": "RUNNING", "old": "STOPPING"}, "DEPLOY_FAILED", "ActorDiedError", "DEPLOY_FAILED")
    assert outcome_of(found, wanted, set()).state is FAILED, "one that could not start"
    found["deployments"]["Echo"]["status_trigger"] = "HEALTH_CHECK_FAILED"
    assert outcome_of(found, wanted, set()).state is HEALTHY
    assert outcome_of(found, wanted, {"new"}).state is FAILED, "the wanted one is not there yet"
