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
NAME_LABEL = "modelserve.node"  # the label of a Ray node that holds its inventory name
_OPENER = direct_opener()


class RayAPI:
    """The dashboard's REST API (Ray 2.60), used with the cluster's token."""

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._url = settings.dashboard_url.rstrip("/")
        self._serve_port = settings.serve_port
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

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that are alive, the head first.

        Each is a ``NodeState`` document of Ray's state API, with its ``name`` in the inventory.
        """
        alive = "filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
        answer = json.loads(self._request("GET", f"/api/v0/nodes?limit=1000&detail=1&{alive}"))
        nodes: list[dict[str, Any]] = answer["data"]["result"]["result"]
        nodes = [{**node, "name": node["labels"].get(NAME_LABEL, node["node_ip"])} for node in nodes]
        return sorted(nodes, key=lambda node: (not node["is_head_node"], node["name"]))

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

    def ingress_answers(self, route: str) -> bool:
        """Return whether Serve's ingress on this machine has replicas behind a route.

        The request has a method that no algorithm has: a replica refuses it with 405, the ingress answers 404.
        """
        request = urllib.request.Request(f"http://127.0.0.1:{self._serve_port}{route}", method="OPTIONS")
        try:
            _OPENER.open(request, timeout=self._timeout_s).close()
        except urllib.error.HTTPError as error:
            return error.code == 405
        except OSError:
            return False
        return True

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
