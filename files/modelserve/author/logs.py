"""The logs of an algorithm's replicas, from all nodes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from modelserve.errors import UserError
from modelserve.serve.api import RayAPI
from modelserve.serve.death_records import read_deaths
from modelserve.serve.deaths import Death
from modelserve.serve.log_records import traceback_of
from modelserve.settings import Settings

POLL_S = 1.0
DEATHS_POLL_S = 5.0
# Read again at each poll while following: more than replicas log in between.
FOLLOWED_LINES = 1000
MAX_LINES = 100_000


@dataclass(frozen=True)
class Line:
    """A line of a replica's log.

    Attributes:
        node: name of the replica's node.
        replica: id of the replica.
        content: Serve's JSON document (``asctime``, ``levelname``, ``message``, ``exc_text``, ...); of another line the
            ``message`` alone.
        time: time of the line, or of the line before where it has none; lines are sorted by it.
    """

    node: str
    replica: str
    content: dict[str, Any]
    time: str = ""

    def text(self) -> str:
        """Return the line as text: time, level, node, replica, message, and a traceback below."""
        content = self.content
        time_of_day, level = content.get("asctime", "")[11:19], content.get("levelname", "")
        request = f" [{content['request_id']}]" if content.get("request_id") else ""
        # The message of printed text ends with its line end.
        texts = (content["message"], traceback_of(content))
        lines = [text.rstrip("\n") for text in texts if text]
        head = " ".join(filter(None, [time_of_day, level, self.node, self.replica]))
        return f"{head}{request}: " + "\n".join(lines)


class Logs:
    """The logs of one algorithm's replicas, read through Ray's dashboard, with a line for each replica that died.

    Following polls the ends of the files. Ray's log stream (``/api/v0/logs/stream``) is no alternative in Ray 2.60:
    it goes on with the renamed file when Serve rotates a log.
    """

    def __init__(self, settings: Settings, name: str, past: bool = False) -> None:
        """Find the algorithm.

        Args:
            settings: the cluster's settings.
            name: the algorithm.
            past: whether logs of stopped replicas are read, too; the algorithm need not be served then.

        Raises:
            UserError: the algorithm is not served, or the name is invalid.
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
        """Return the last lines of each replica in the order of time, and the last deaths among them.

        Args:
            lines: largest number of lines per replica, and of deaths.
            request: id of a request; only its lines count, from the whole log, and no death.

        Raises:
            UserError: logs of stopped replicas are read, too, and there is no log at all.
        """
        logs = self._read(MAX_LINES if request else lines)
        if self._past and not logs:
            raise UserError(f"no node has a log of {self._name}", "See 'modelserve status' for what is served")
        deaths = [] if request else self._deaths()[-lines:]
        return _in_order([deaths, *(_last(raws, lines, request) for raws in logs.items())])

    def follow(self, lines: int, request: str = "") -> Iterator[Line]:
        """Yield the last lines and then each new one, without end, also of replicas that start later and of deaths.

        Args:
            lines: largest number of earlier lines per replica.
            request: id of a request; only its lines count.
        """
        known: dict[_Log, list[str]] = {}
        deaths = iter(()) if request else self._new_deaths(lines)
        first = True
        while True:
            new = [next(deaths, [])]
            for log, raws in self._read(FOLLOWED_LINES).items():
                added = _added(known.get(log, []), raws)
                known[log] = raws or known.get(log, [])  # an empty answer can come from a slow node
                new.append(_last((log, added), lines if first else len(added), request))
            yield from _in_order(new)
            first = False
            time.sleep(POLL_S)

    def _deaths(self) -> list[Line]:
        try:
            return list(map(_line_of, read_deaths(self._ray, self._name)))
        except UserError:  # the logs themselves matter more
            return []

    def _new_deaths(self, lines: int) -> Iterator[list[Line]]:
        """Yield the last deaths, and at each later poll those that came since."""
        deaths = self._deaths()
        known = {line.replica for line in deaths}
        polled = time.monotonic()
        yield deaths[-lines:]
        while True:
            new: list[Line] = []
            if time.monotonic() - polled >= DEATHS_POLL_S:
                new = [line for line in self._deaths() if line.replica not in known]
                known |= {line.replica for line in new}
                polled = time.monotonic()
            yield new

    def _read(self, lines: int) -> dict[_Log, list[str]]:
        """Return the last lines of each log."""
        names = {node["node_id"]: node["name"] for node in self._ray.nodes()}
        logs = {}
        for node_id, file in self._files(names):
            replica = re.search(r"_([^_/]+)\.log", file)
            if node_id in names and replica:
                log = _Log(names[node_id], replica[1], file)
                logs[log] = self._ray.log_lines(node_id, file, lines)
        return logs

    def _files(self, nodes: dict[str, str]) -> list[tuple[str, str]]:
        if self._past:
            # The pattern also matches names that begin with this one. A rotated log has a number at its end.
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
    """Return the lines at the end of a file that it did not have when ``known`` was its end."""
    for overlap in range(min(len(known), len(raws)), -1, -1):
        if known[len(known) - overlap :] == raws[:overlap]:
            return raws[overlap:]
    return raws


def _last(log: tuple[_Log, list[str]], lines: int, request: str) -> list[Line]:
    """Return the last lines of a log; of a request alone where its id is given."""
    (source, raws), last_time, selected = log, "", []
    for raw in raws:
        content = _content(raw)
        last_time = content.get("asctime") or last_time
        if not request or request in raw:
            selected.append(Line(source.node, source.replica, content, last_time))
    return selected[-lines:] if lines else []


def _line_of(death: Death) -> Line:
    """Return a death as a line of its replica's log; Serve writes times in the time zone of the container."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(death.time)) + f",{int(death.time % 1 * 1000):03}"
    content = {"asctime": moment, "levelname": "ERROR", "message": f"the replica died: {death.reason}"}
    return Line(death.node, death.replica_id, content, moment)


def _in_order(logs: Iterable[list[Line]]) -> list[Line]:
    return sorted((line for lines in logs for line in lines), key=lambda line: line.time)


def _content(raw: str) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except ValueError:
        return {"message": raw}
    # An algorithm that does not use Serve's logger may write JSON of its own.
    is_record = isinstance(content, dict) and all(isinstance(content.get(key), str) for key in ("asctime", "message"))
    return content if is_record else {"message": raw}
