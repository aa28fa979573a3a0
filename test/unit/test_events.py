"""Events: deaths, releases and nodes in one list, the newest last; and the last hour's deaths in the status."""

from __future__ import annotations

from typing import Any

from modelserve.config.routes import Served
from modelserve.deploy.events import events_of
from modelserve.deploy.releases import Release, Target
from modelserve.deploy.status import with_deaths
from modelserve.serve.deaths import Death

NOON = 1795780800.0  # 2026-11-27T12:00:00Z
CRASH = Death("Echo", "abc", "head", NOON + 20, "killed by signal 9", "out of memory")
OTHER = Death("Face", "xyz", "worker_1", NOON + 40, "its node died")


def release(number: int, time: str, *changes: str, rollback_of: int | None = None) -> Release:
    target = Target("", Served(port=666, routes={}), {}, {})
    return Release(number, time, "mia@laptop", target, changes, rollback_of)


RELEASES = [
    release(1, "2026-11-27T11:00:00Z", "+ Echo"),
    release(2, "2026-11-27T12:00:10Z", "~ Echo (code)", "! EchoTwo failed"),
    release(3, "2026-11-27T12:00:50Z", "~ Face (code)", rollback_of=1),
]
NODES: list[dict[str, Any]] = [
    {"name": "head", "state": "ALIVE", "start_time_ms": 1, "end_time_ms": 0},
    {
        "name": "worker_1",
        "state": "DEAD",
        "state_message": "Unexpected termination: health check failed",
        "start_time_ms": int(NOON * 1000) + 5000,
        "end_time_ms": int(NOON * 1000) + 30000,
    },
    {
        "name": "worker_2",
        "state": "DEAD",
        "state_message": "Terminated due to preemption: asked for by modelserve",
        "start_time_ms": 1,
        "end_time_ms": int(NOON * 1000) + 35000,
    },
]


def test_everything_is_in_the_order_of_time() -> None:
    events = events_of([CRASH, OTHER], RELEASES, NODES, NOON)
    assert [event.text for event in events] == [
        "the node joined",
        "release 2, by mia@laptop: ~ Echo (code), ! EchoTwo failed",
        "replica abc died: killed by signal 9; the last line of its log: out of memory",
        "the node died: health check failed",
        "the node stopped: asked for by modelserve",
        "replica xyz died: its node died",
        "release 3, a rollback to 1, by mia@laptop: ~ Face (code)",
    ]
    assert events[2].as_dict() == {
        "time": "2026-11-27T12:00:20Z",
        "kind": "death",
        "algorithm": "Echo",
        "node": "head",
        "text": events[2].text,
    }


def test_one_algorithm_has_its_deaths_and_its_releases() -> None:
    events = events_of([CRASH, OTHER], RELEASES, NODES, 0, "Echo")
    assert [(event.kind, event.text.split(",")[0]) for event in events] == [
        ("release", "release 1"),
        ("release", "release 2"),
        ("death", "replica abc died: killed by signal 9; the last line of its log: out of memory"),
    ]
    assert events_of([], RELEASES[1:], NODES, 0, "EchoT") == []


def test_a_release_whose_time_is_damaged_is_the_first() -> None:
    assert [event.time for event in events_of([], [release(1, "yesterday")], [], 0)] == [0]


def test_a_status_has_the_deaths_of_the_last_hour() -> None:
    rows = [{"name": "Echo"}, {"name": "Face"}]
    old = Death("Face", "old", "head", NOON - 3600, "killed by signal 11")
    echo, face = with_deaths(rows, [old, CRASH, CRASH], NOON + 60)
    assert echo == {
        "name": "Echo",
        "deaths": {"count": 2, "reason": "killed by signal 9", "node": "head", "seconds_ago": 40},
    }
    assert face["deaths"] == {"count": 0, "reason": None, "node": None, "seconds_ago": None}
