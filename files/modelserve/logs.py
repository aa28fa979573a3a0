"""What did an algorithm's replicas log, on whichever node they ran?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelserve.errors import UserError
from modelserve.ray_api import RayAPI
from modelserve.settings import Settings

POLL_S = 1.0
# Fetched again at each look while following: more than is logged in between.
FOLLOWED_LINES = 1000
MAX_LINES = 100_000


@dataclass(frozen=True)
class Line:
    """A line a replica logged: its node, its id, and Serve's JSON document of it (``asctime``, ``levelname``,
    ``message``, ``exc_text``, ...); a line that is no such document is a ``message`` alone."""

    node: str
    replica: str
    content: dict[str, Any]

    def text(self) -> str:
        """The line for people: time, level, node, replica, message, and a traceback below."""
        content = self.content
        when, level = content.get("asctime", "")[11:19], content.get("levelname", "")
        request = f" [{content['request_id']}]" if content.get("request_id") else ""
        lines = [content.get("message", ""), *filter(None, [content.get("exc_text")])]
        head = " ".join(filter(None, [when, level, self.node, self.replica]))
        return f"{head}{request}: " + "\n".join(lines)


class Logs:
    """The logs of one application's replicas, read through Ray's dashboard."""

    def __init__(self, settings: Settings, name: str, past: bool = False) -> None:
        """``past``: replicas that are no more count too.

        Raises:
            UserError: no such algorithm is served.
        """
        self._ray = RayAPI(settings)
        self._name = name
        self._past = past
        served = self._ray.serve_details()["applications"]
        if name not in served and not past:
            raise UserError(f"{name} is not served; what is: {', '.join(sorted(served)) or 'nothing'}")

    def last(self, lines: int, request: str = "") -> list[Line]:
        """The last ``lines`` lines of each replica in the order of time; with ``request``, those with that id."""
        found = [line for _, line in self._read(lines)]
        found = [line for line in found if not request or request in json.dumps(line.content)]
        return sorted(found, key=lambda line: line.content.get("asctime", ""))

    def follow(self, lines: int, request: str = "") -> Iterator[Line]:
        """The last lines, and then each new one until the caller has enough; replicas that come are followed too."""
        seen: set[str] = set()
        first = True
        while True:
            # At first the last few are shown; what is older counts as seen.
            new = [(raw, line) for raw, line in self._read(FOLLOWED_LINES) if raw not in seen]
            seen |= {raw for raw, _ in new}
            ordered = sorted((line for _, line in new), key=lambda line: line.content.get("asctime", ""))
            for line in ordered[-lines:] if first else ordered:
                if not request or request in json.dumps(line.content):
                    yield line
            first = False
            time.sleep(POLL_S)

    def _read(self, lines: int) -> Iterator[tuple[str, Line]]:
        names = {node["node_id"]: node["name"] for node in self._ray.nodes()}
        for node_id, file in self._files(names):
            if node_id in names:
                replica = file.rpartition("_")[2].removesuffix(".log")
                for number, raw in enumerate(self._ray.log_lines(node_id, file, lines)):
                    content = _content(raw)
                    # Only documents with a time are sure to differ from each other.
                    key = raw if "asctime" in content else f"{number} {raw}"
                    yield f"{replica} {key}", Line(names[node_id], replica, content)

    def _files(self, nodes: dict[str, str]) -> list[tuple[str, str]]:
        if self._past:
            pattern = f"*replica_{self._name}_*.log"
            return [(node, file) for node in nodes for file in self._ray.log_files(node, pattern)]
        deployments = self._ray.serve_details()["applications"].get(self._name, {}).get("deployments", {}).values()
        return [
            (replica["node_id"], replica["log_file_path"].lstrip("/"))
            for deployment in deployments
            for replica in deployment["replicas"]
            if replica.get("node_id") and replica.get("log_file_path")
        ]


def _content(raw: str) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except ValueError:
        return {"message": raw}
    return content if isinstance(content, dict) else {"message": raw}
