"""What happened: replicas that died, releases, and nodes that joined or died. Ray's state and the releases tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelserve.deploy.releases import Release
from modelserve.serve.deaths import Death
from modelserve.util import clock


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        time: seconds since the epoch; 0 where Ray does not tell.
        kind: ``death``, ``release`` or ``node``.
        algorithm: the section's name; empty where it concerns several or none.
        node: name of the node; empty where it concerns none.
        text: one line.
    """

    time: float
    kind: str
    algorithm: str
    node: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return the event as a JSON document."""
        return {**vars(self), "time": clock.utc(self.time)}


def events_of(
    deaths: Iterable[Death],
    releases: Iterable[Release],
    nodes: Iterable[Mapping[str, Any]],
    since: float,
    algorithm: str = "",
) -> list[Event]:
    """Return what happened since a time, the newest last.

    Args:
        deaths: the replicas that died.
        releases: the kept releases.
        nodes: ``NodeState`` documents of Ray, with their ``name`` in the inventory.
        since: seconds since the epoch.
        algorithm: only what concerns it; empty: everything.
    """
    events = [_of_death(death) for death in deaths if algorithm in ("", death.algorithm)]
    events += [_of_release(release) for release in releases if not algorithm or _concerns(release, algorithm)]
    if not algorithm:
        events += [event for node in nodes for event in _of_node(node)]
    return sorted((event for event in events if event.time >= since), key=lambda event: event.time)


def _of_death(death: Death) -> Event:
    words = f"; the last line of its log: {death.last_line}" if death.last_line else ""
    text = f"replica {death.replica_id} died: {death.reason}{words}"
    return Event(death.time, "death", death.algorithm, death.node, text)


def _of_release(release: Release) -> Event:
    rollback = f", a rollback to {release.rollback_of}" if release.rollback_of else ""
    changes = f": {', '.join(release.changes)}" if release.changes else ""
    text = f"release {release.number}{rollback}, by {release.by}{changes}"
    return Event(clock.seconds(release.time), "release", "", "", text)


def _concerns(release: Release, algorithm: str) -> bool:
    # A change begins with a sign and the name: "~ Echo (code)", "! Echo failed".
    return any(re.match(rf"\S {re.escape(algorithm)}\b", change) for change in release.changes)


def _of_node(node: Mapping[str, Any]) -> list[Event]:
    name = str(node["name"])
    joined, ended = (float(node.get(key) or 0) / 1000 for key in ("start_time_ms", "end_time_ms"))
    events = [Event(joined, "node", "", name, "the node joined")] if joined else []
    if ended and node.get("state") == "DEAD":
        message = str(node.get("state_message") or "")
        how, _, detail = message.partition(": ")
        stopped = how.startswith(("Expected termination", "Terminated due to"))
        ended_text = "the node stopped" if stopped else "the node died"
        events.append(Event(ended, "node", "", name, f"{ended_text}: {detail}" if detail else ended_text))
    return events
