"""Client of Ray's REST API on the head."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from modelserve.errors import Problem, UserError
from modelserve.serve.status import ApplicationStatus, statuses_of
from modelserve.settings import Settings
from modelserve.util.http import direct_opener

TIMEOUT_S = 60
MAX_STATES = 10_000  # of a list of Ray's state API
NAME_LABEL = "modelserve.node"  # the label of a Ray node that holds its inventory name
GPU_LABEL = "modelserve.gpu"  # the label of a Ray node some of whose GPUs are MIG instances; its value is MIG
MIG = "mig"
_OPENER = direct_opener()


class RayAPI:
    """The dashboard's REST API (Ray 2.60), used with the cluster's token."""

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._url = settings.dashboard_url.rstrip("/")
        self._token_file = settings.token_file

    def serve_details(self) -> dict[str, Any]:
        """Return what Serve runs, as a ``ServeInstanceDetails`` document.

        Raises:
            UserError: Ray does not answer, or refuses the token.
        """
        try:
            details: dict[str, Any] = json.loads(self._request("GET", "/api/serve/applications/"))
        except ValueError:
            raise UserError(f"what answers at {self._url} is not Ray", "Stop the program that has its port") from None
        return details

    def applications(self) -> dict[str, ApplicationStatus]:
        """Return the applications that Serve runs, by name.

        Raises:
            UserError: Ray does not answer, or refuses the token.
        """
        return statuses_of(self.serve_details())

    def submit(self, config: dict[str, Any]) -> None:
        """Make a ``ServeDeploySchema`` document the whole of what Serve runs; return before Serve has done it."""
        self._request("PUT", "/api/serve/applications/", config)

    def nodes(self, dead: bool = False) -> list[dict[str, Any]]:
        """Return the nodes that are alive, the head first.

        Each is a ``NodeState`` document of Ray's state API, with its ``name`` in the inventory.

        Args:
            dead: whether nodes that died are returned, too.
        """
        nodes = self._states("nodes", 1000, **({} if dead else {"state": "ALIVE"}))
        nodes = [{**node, "name": (node["labels"] or {}).get(NAME_LABEL, node["node_ip"])} for node in nodes]
        return sorted(nodes, key=lambda node: (not node["is_head_node"], node["name"]))

    def dead_actors(self, class_name: str = "") -> list[dict[str, Any]]:
        """Return the ``ActorState`` documents of actors that died, with ``death_cause``.

        Ray returns 10,000 at most, in no order of time.

        Args:
            class_name: only actors of this class; empty: of all classes.
        """
        return self._states("actors", MAX_STATES, state="DEAD", **({"class_name": class_name} if class_name else {}))

    def dead_workers(self) -> list[dict[str, Any]]:
        """Return the ``WorkerState`` documents of processes that ended: ``exit_type``, ``end_time_ms``, ..."""
        return self._states("workers", MAX_STATES, is_alive="False")

    def usage(self) -> dict[str, dict[str, float]]:
        """Return what is reserved, by node id and kind of resource (``GPU``, ``CPU``, ``memory`` in bytes)."""
        answer = json.loads(self._request("GET", "/api/cluster_status"))
        report = answer["data"]["clusterStatus"]["loadMetricsReport"]["usageByNode"]
        return {node: {kind: used for kind, (used, _) in kinds.items()} for node, kinds in report.items()}

    def log_lines(self, node_id: str, file: str, lines: int) -> list[str]:
        """Return the last lines of a log file on a node.

        Args:
            node_id: the node.
            file: the file, relative to Ray's directory of logs.
            lines: how many lines.

        Returns:
            The lines; none where the file does not exist (a replica that just starts has none) or the node is stopping.
        """
        query = urllib.parse.urlencode({"node_id": node_id, "filename": file, "lines": lines})
        try:
            text = self._request("GET", f"/api/v0/logs/file?{query}")
        except UserError as error:
            # Ray answers 500 to every error here; only the text tells them apart.
            if any(words in str(error) for words in ("A file is not found", f"Agent for node id: {node_id}")):
                return []
            raise
        # Not splitlines: it splits at characters that JSON leaves as they are within a line.
        return [line for line in text.decode(errors="replace").split("\n") if line]

    def log_files(self, node_id: str, pattern: str) -> list[str]:
        """Return the log files of a node that match a pattern, in which ``*`` matches anything but ``/``."""
        query = urllib.parse.urlencode({"node_id": node_id, "glob": pattern})
        answer = json.loads(self._request("GET", f"/api/v0/logs?{query}"))
        return sorted(file for files in answer["data"]["result"].values() for file in files)

    def _states(self, kind: str, limit: int, **equal: str) -> list[dict[str, Any]]:
        """Return documents of Ray's state API (``nodes``, ``actors``, ``workers``) whose fields have these values."""
        query = [("limit", str(limit)), ("detail", "1")]
        for key, value in equal.items():
            query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
        answer = json.loads(self._request("GET", f"/api/v0/{kind}?{urllib.parse.urlencode(query)}"))
        states: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return states

    def _request(self, method: str, path: str, body: Any = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        token = _read_token(self._token_file)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with _OPENER.open(request, timeout=self._timeout_s) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace").strip()
            if error.code in (401, 403):
                fix = "Run site.yml: it gives every node the same token"
                raise UserError(
                    Problem(f"Ray refuses the cluster's token ({error.code})", fix, str(self._token_file))
                ) from None
            raise UserError(f"Ray answered {method} {path} with {error.code}: {text[-2000:]}") from None
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(
                f"the Ray head does not answer at {self._url} ({reason})",
                "See 'docker ps' and 'docker logs modelserve_head'; site.yml starts it",
            ) from None


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
