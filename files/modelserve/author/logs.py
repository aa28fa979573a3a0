"""What did an algorithm's replicas log, on whichever node they ran?"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from modelserve.errors import UserError
from modelserve.serve.api import RayAPI
from modelserve.settings import Settings

POLL_S = 1.0
# Fetched again at each look while following: more than is logged in between.
FOLLOWED_LINES = 1000
MAX_LINES = 100_000


@dataclass(frozen=True)
class Line:
    """A line a replica logged: its node, its id, and Serve's JSON document of it (``asctime``, ``levelname``,
    ``message``, ``exc_text``, ...); a line that is no such document is a ``message`` alone. ``when`` sorts: its time,
    or that of the line before."""

    node: str
    replica: str
    content: dict[str, Any]
    when: str = ""

    def text(self) -> str:
        """The line for people: time, level, node, replica, message, and a traceback below."""
        content = self.content
        when, level = content.get("asctime", "")[11:19], content.get("levelname", "")
        request = f" [{content['request_id']}]" if content.get("request_id") else ""
        # What Python prints has its line end in the message.
        lines = [text.rstrip("\n") for text in (content["message"], content.get("exc_text")) if text]
        head = " ".join(filter(None, [when, level, self.node, self.replica]))
        return f"{head}{request}: " + "\n".join(lines)


class Logs:
    """The logs of one application's replicas, read through Ray's dashboard."""

    def __init__(self, settings: Settings, name: str, past: bool = False) -> None:
        """``past``: replicas that are no more count too.

        Raises:
            UserError: no such algorithm is served; with ``past``, the name can be none.
        """
        if not name.isidentifier():
            raise UserError(f"'{name}' cannot name an algorithm", "See 'modelserve status'")
        self._ray = RayAPI(settings)
        self._name = name
        self._past = past
        served = self._ray.applications()
        if name not in served and not past:
            raise UserError(f"{name} is not served; what is: {', '.join(sorted(served)) or 'nothing'}")

    def last(self, lines: int, request: str = "") -> list[Line]:
        """The last ``lines`` lines of each replica in the order of time; with ``request``, those that have that id,
        however far back.

        Raises:
            UserError: replicas that are gone were asked for too, and no log of any is left.
        """
        logs = self._read(MAX_LINES if request else lines)
        if self._past and not logs:
            raise UserError(f"no node has a log of {self._name}", "See 'modelserve status' for what is served")
        return _in_order(_last(raws, lines, request) for raws in logs.items())

    def follow(self, lines: int, request: str = "") -> Iterator[Line]:
        """The last lines, and then each new one until the caller has enough; replicas that come are followed too."""
        known: dict[_Log, list[str]] = {}
        first = True
        while True:
            new = []
            for log, raws in self._read(FOLLOWED_LINES).items():
                added = _added(known.get(log, []), raws)
                known[log] = raws or known.get(log, [])  # nothing was read: its node may just be slow
                new.append(_last((log, added), lines if first else len(added), request))
            yield from _in_order(new)
            first = False
            time.sleep(POLL_S)

    def _read(self, lines: int) -> dict[_Log, list[str]]:
        """The last lines of each log."""
        names = {node["node_id"]: node["name"] for node in self._ray.nodes()}
        logs = {}
        for node_id, file in self._files(names):
            found = re.search(r"_([^_/]+)\.log", file)
            if node_id in names and found:
                log = _Log(names[node_id], found[1], file)
                logs[log] = self._ray.log_lines(node_id, file, lines)
        return logs

    def _files(self, nodes: dict[str, str]) -> list[tuple[str, str]]:
        if self._past:
            # Ray's '*' ends at a '/', and takes in a name that goes on after this one; the older part of a log that
            # grew too large has a number at its end.
            own = re.compile(rf"serve/replica_{self._name}_{self._name}_[^_/]+\.log(\.\d+)?")
            pattern = f"serve/replica_{self._name}_{self._name}_*.log*"
            return [(n, file) for n in nodes for file in self._ray.log_files(n, pattern) if own.fullmatch(file)]
        status = self._ray.applications().get(self._name)
        return [
            (replica.node_id, replica.log_file_path.lstrip("/"))
            for replica in (status.replicas if status else ())
            if replica.node_id and replica.log_file_path
        ]


@dataclass(frozen=True)
class _Log:
    node: str
    replica: str
    file: str


def _added(known: list[str], raws: list[str]) -> list[str]:
    """What the end of a file has now and had not when ``known`` was its end."""
    for same in range(min(len(known), len(raws)), -1, -1):
        if known[len(known) - same :] == raws[:same]:
            return raws[same:]
    return raws


def _last(log: tuple[_Log, list[str]], lines: int, request: str) -> list[Line]:
    """The last of a log's lines, those that have a request's id where one is given."""
    (where, raws), when, found = log, "", []
    for raw in raws:
        content = _content(raw)
        when = content.get("asctime") or when
        if not request or request in raw:
            found.append(Line(where.node, where.replica, content, when))
    return found[-lines:] if lines else []


def _in_order(logs: Iterable[list[Line]]) -> list[Line]:
    return sorted((line for lines in logs for line in lines), key=lambda line: line.when)


def _content(raw: str) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except ValueError:
        return {"message": raw}
    # What an algorithm writes past Serve's logger may be JSON of its own.
    ours = isinstance(content, dict) and all(isinstance(content.get(key), str) for key in ("asctime", "message"))
    return content if ours else {"message": raw}
