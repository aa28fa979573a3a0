"""Probes: what an application needs to be healthy or to have failed, snapshot by snapshot, without a clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelserve.config.section import Section
from modelserve.deploy.probes import KEPT_THRESHOLD, OVERDUE_FACTOR, ApplicationProbe, SchedulingTimer, Thresholds
from modelserve.serve.application import Application
from modelserve.serve.status import ApplicationStatus, Failed, Healthy, Outcome, Waiting

FAILED_AFTER_START = {"status": "DEPLOY_FAILED", "trigger": "HEALTH_CHECK_FAILED"}


def app(package: str = "2") -> Application:
    section = Section(name="Echo", backend="Echo", route="echo")
    return Application.from_section(section, Path(f"/pkg/Echo-{package}"), [], Path("/env/1"))


def snapshot(
    states: dict[str, str], status: str = "RUNNING", trigger: str = "", revision: str = "2"
) -> ApplicationStatus:
    """An application with these replicas' states by id, at a revision of its code."""
    deployment = {
        "status": "HEALTHY" if status == "RUNNING" else "UPDATING",
        "status_trigger": trigger,
        "message": "ValueError: no weights" if status == "DEPLOY_FAILED" else "",
        "deployment_config": {"user_config": app(revision).user_config.to_serve()},
        "replicas": [{"replica_id": replica, "state": state} for replica, state in states.items()],
    }
    document = {"status": status, "route_prefix": "/Echo", "deployments": {"Echo": deployment}}
    return ApplicationStatus.model_validate(document)


OLD = snapshot({"old": "RUNNING"}, revision="1")


def probe(min_ready: int = 1, new_replicas: bool = True, once: bool = False) -> ApplicationProbe:
    return ApplicationProbe(app(), new_replicas, OLD, Thresholds(min_ready=min_ready, once=once))


def observed(made: ApplicationProbe, *snapshots: ApplicationStatus | None) -> list[type[Outcome]]:
    return [type(made.observe(one)) for one in snapshots]


def test_an_application_that_serve_does_not_know_is_waited_for() -> None:
    assert probe().observe(None) == Waiting("waiting for Serve")


@pytest.mark.parametrize(("min_ready", "needed"), [(1, 2), (2, 2), (5, 5)])
def test_success_takes_as_many_observations_as_asked_and_never_one(min_ready: int, needed: int) -> None:
    outcomes = observed(probe(min_ready), *[snapshot({"new": "RUNNING"})] * needed)
    assert outcomes == [*[Waiting] * (needed - 1), Healthy]


def test_an_unsure_success_is_not_reported_and_lacks_no_capacity() -> None:
    assert probe(3).observe(snapshot({"new": "RUNNING"})) == Waiting("", starting=False)


def test_success_has_to_be_in_a_row() -> None:
    healthy, starting = snapshot({"new": "RUNNING"}), snapshot({"new": "RUNNING", "b": "UPDATING"})
    assert observed(probe(2), healthy, starting, healthy, healthy) == [Waiting, Waiting, Waiting, Healthy]


def test_one_observation_is_enough_for_what_is_expected_to_be_healthy() -> None:
    draining = snapshot({"a": "RUNNING", "b": "STOPPING"})
    assert observed(probe(20, new_replicas=False, once=True), draining) == [Healthy]


def test_a_change_in_place_beside_draining_replicas_takes_eight_observations() -> None:
    draining = snapshot({"a": "RUNNING", "b": "STOPPING"})
    assert observed(probe(new_replicas=False), *[draining] * 8) == [*[Waiting] * 7, Healthy]


def test_replicas_of_before_do_not_count_for_a_change_that_needs_new_ones() -> None:
    assert observed(probe(), *[snapshot({"old": "RUNNING"})] * 3) == [Waiting] * 3
    assert observed(probe(new_replicas=False), *[snapshot({"old": "RUNNING"})] * 2) == [Waiting, Healthy]


def test_replicas_of_another_revision_do_not_count_later_either() -> None:
    late, building = snapshot({"late": "RUNNING"}, revision="1"), snapshot({"late": "RUNNING"})
    assert observed(probe(), late, building, building) == [Waiting] * 3
    assert observed(probe(), building, building) == [Waiting, Healthy]


def test_a_failure_at_the_start_is_certain_at_once() -> None:
    assert probe().observe(snapshot({}, "DEPLOY_FAILED")) == Failed("ValueError: no weights", 1)


def test_a_failure_after_the_start_has_to_last() -> None:
    made, failing = probe(), snapshot({}, **FAILED_AFTER_START)
    assert made.observe(failing) == Waiting("unhealthy: ValueError: no weights", starting=False)
    assert observed(made, *[failing] * 79) == [*[Waiting] * 78, Failed]


def test_a_failure_that_passes_is_forgotten() -> None:
    made, failing, starting = probe(), snapshot({}, **FAILED_AFTER_START), snapshot({"new": "STARTING"})
    assert observed(made, *[failing] * 79, starting, *[failing] * 79) == [Waiting] * 159


def test_a_crash_loop_fails_at_the_second_crash() -> None:
    running = [snapshot({name: "RUNNING"}, "DEPLOYING") for name in "abc"]
    made = probe(20)
    assert observed(made, running[0], running[1]) == [Waiting, Waiting], "one crash is forgiven"
    assert made.observe(running[2]) == Failed("its replicas crash soon after they start")


def test_a_crash_loop_has_the_cause_that_serve_reports() -> None:
    failing = [snapshot({name: "RUNNING"}, **FAILED_AFTER_START) for name in "abc"]
    made = probe(20)
    outcomes = [made.observe(one) for one in failing]
    assert outcomes[-1] == Failed("its replicas crash soon after they start: ValueError: no weights")


def test_replicas_that_serve_does_not_show_while_it_builds_have_not_crashed() -> None:
    running, building = snapshot({"a": "RUNNING"}), ApplicationStatus(status="DEPLOYING")
    assert observed(probe(20), running, building, running, building, running) == [Waiting] * 5


def test_a_change_in_place_counts_no_crashes() -> None:
    running = [snapshot({name: "RUNNING"}, "DEPLOYING") for name in "abcd"]
    assert observed(probe(20, new_replicas=False), *running) == [Waiting] * 4


def test_the_time_without_capacity_is_reported_once_per_timeout() -> None:
    timer = SchedulingTimer(30)
    times = [100.0, 129.0, 130.0, 131.0, 159.0, 160.0]
    assert [timer.waited(True, now) for now in times] == [0, 0, 30, 0, 0, 60]


def test_a_replica_that_was_placed_waits_anew() -> None:
    timer = SchedulingTimer(30)
    assert [timer.waited(True, 0), timer.waited(False, 29), timer.waited(True, 31), timer.waited(True, 60)] == [0] * 4
    assert timer.waited(True, 61) == 30


def test_a_replica_is_overdue_after_several_timeouts() -> None:
    timer = SchedulingTimer(30)
    assert [timer.overdue(30 * OVERDUE_FACTOR), timer.overdue(30 * OVERDUE_FACTOR + 1)] == [False, True]


def test_a_replica_that_serve_keeps_for_the_target_counts_once_that_is_certain() -> None:
    """A deploy soon after one that was taken back: Serve has not stopped the replica of the version yet."""
    made = probe()
    assert set(observed(made, *[snapshot({"old": "RUNNING"})] * (KEPT_THRESHOLD - 1))) == {Waiting}
    assert Healthy in observed(made, *[snapshot({"old": "RUNNING"})] * 3)
    updating = snapshot({"old": "RUNNING"}, status="DEPLOYING")
    assert set(observed(probe(), *[updating] * 2 * KEPT_THRESHOLD)) == {Waiting}
