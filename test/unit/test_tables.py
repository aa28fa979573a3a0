"""Text for people: a plan reads as a diff, a status fits 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from modelserve.cli.tables import duration_text, events_table, plan_text, status_table
from modelserve.deploy.events import Event
from modelserve.deploy.plan import Change, Difference, Plan


def row(**values: Any) -> dict[str, Any]:
    url = "http://127.0.0.1:666/extract"
    numbers = {"replicas": 1, "wanted": 1, "weight": 100.0}
    return {"name": "Echo", "status": "RUNNING", "url": url, "message": "", **numbers, **values}


def test_a_status_names_what_died() -> None:
    crash = {"count": 2, "reason": "killed by signal 9", "node": "head", "seconds_ago": 190}
    one = {"count": 1, "reason": "its node died", "node": "worker_1", "seconds_ago": 7300}
    none = {"count": 0, "reason": None, "node": None, "seconds_ago": None}
    rows = [row(deaths=crash), row(name="Face", deaths=one), row(name="Plain", deaths=none), row(name="Old")]
    assert status_table(rows).splitlines()[-2:] == [
        "Echo: 2 replicas died in the last hour, the last 3 min ago on head: killed by signal 9",
        "Face: a replica died 2 h ago on worker_1: its node died",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.6, "60 s"), (60, "1 min"), (7200, "2 h"), (3e5, "3 d")])
def test_a_duration_has_its_largest_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_events_are_a_table() -> None:
    events = [Event(1795781000, "node", "", "worker_1", "the node died"), Event(0, "death", "Echo", "head", "died")]
    lines = [line.split() for line in events_table(events).splitlines()]
    assert lines[0] == ["time", "(UTC)", "algorithm", "node", "event"]
    assert lines[2] == ["2026-11-27", "12:03:20", "-", "worker_1", "the", "node", "died"]
    assert lines[3] == ["-", "Echo", "head", "died"]
    assert events_table([]) == "nothing happened in that time"


def test_a_plan_reads_as_a_diff() -> None:
    differences = (
        Difference("code", "/store/pkg/Echo-1", "/store/pkg/Echo-2", True),
        Difference("replicas", 1, 3, False),
        Difference("warmup", None, {"text": "hi"}, False),
    )
    plan = Plan(
        (Change("remove", "Old"), Change("add", "New"), Change("change", "Echo", differences)), ("Same",), (80, 81)
    )
    assert plan_text(plan).splitlines() == [
        "~ port 80 -> 81",
        "- Old",
        "+ New",
        "~ Echo",
        "    code (new replicas)",
        "    replicas: 1 -> 3 (in place)",
        '    warmup: null -> {"text": "hi"} (in place)',
        "  Same (unchanged)",
    ]


def test_a_plan_shows_scaling_in_words_and_keeps_variables_to_itself() -> None:
    scaling = {"min_replicas": 0, "max_replicas": 4, "target_ongoing_requests": 2.0}
    differences = (
        Difference("replicas", scaling, {**scaling, "initial_replicas": 2}, False),
        Difference("env", "a password", "another", True),
    )
    assert plan_text(Plan((Change("change", "Echo", differences),))).splitlines() == [
        "~ Echo",
        "    replicas: 0 to 4 at 2 requests each -> 0 to 4 at 2 requests each, 2 at first (in place)",
        "    env (new replicas)",
    ]


def test_an_empty_plan_says_that_there_is_nothing_to_do() -> None:
    assert "nothing to do" in plan_text(Plan(unchanged=("Same",)))


def test_a_first_port_has_no_port_before() -> None:
    assert plan_text(Plan(port=(None, 666))) == "~ port 666"


def test_a_long_value_is_cut() -> None:
    change = Change("change", "Echo", (Difference("user_config", None, ["x" * 500], False),))
    assert all(len(line) <= 100 for line in plan_text(Plan((change,))).splitlines())


def test_a_status_has_a_line_for_each_algorithm() -> None:
    text = status_table([row(), row(name="Other", status="DEPLOYING", replicas=1, wanted=3)])
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert lines["Echo"] == ["RUNNING", "1/1", "http://127.0.0.1:666/extract"]
    assert lines["Other"] == ["DEPLOYING", "1/3", "http://127.0.0.1:666/extract"]


def test_a_shared_route_shows_who_answers_how_much_of_it() -> None:
    text = status_table([row(weight=90), row(name="New", weight=10.0), row(name="Other", url="", weight=0)])
    lines = {line.split()[0]: line.split()[3:] for line in text.splitlines() if line.strip()}
    assert (lines["Echo"][0], lines["New"][0], lines["Other"]) == ("90%", "10%", [])


def test_a_status_fits_80_columns() -> None:
    text = status_table([row(name="A_package_with_a_rather_long_name", status="DEPLOY_FAILED")])
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "http://127.0.0.1:666/extract" in text


@pytest.mark.parametrize(("status", "shown"), [("DEPLOY_FAILED", True), ("RUNNING", False)])
def test_a_message_is_shown_for_what_does_not_run(status: str, shown: bool) -> None:
    assert ("Echo: no GPU left" in status_table([row(status=status, message="no GPU left")])) is shown


def test_a_status_of_nothing_says_so() -> None:
    assert "nothing is served" in status_table([])
