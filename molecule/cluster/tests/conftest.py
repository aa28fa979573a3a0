"""The cluster under test: its hosts, its controller, its project and the playbooks that act on it."""

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
sys.path[:0] = [str(SOURCE / "test" / "bed"), str(Path(__file__).parent)]

import bed  # noqa: E402
from load import Load  # noqa: E402

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
PROJECT = bed.DIRECTORY / "project"
HOME = "/opt/modelserve"
WORKERS = ("worker_1", "worker_2")
GATEWAYS = (bed.HEAD, "worker_2")
PORT = 666
REQUESTS = [("extract", {"text": "good morning"}), ("embed", {"sentence": "a cat sits on the mat"})]


class Cluster:
    """What an operator has: the project's files, the playbooks, HTTP, and the hosts' power switches."""

    _credentials: tuple[ssl.SSLContext, dict[str, str]] | None = None

    def playbook(self, name: str, *options: str, check: bool = True) -> str:
        """Run a playbook of the project on the inventory under test; returns all it printed, unfolded."""
        environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
        command = ["ansible-playbook", "-i", INVENTORY, str(SOURCE / name), *options]
        result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
        text = " ".join((result.stdout + result.stderr).split())
        if check and result.returncode != 0:
            pytest.fail(f"{name} ended with {result.returncode}:\n{result.stdout[-4000:]}\n{result.stderr[-2000:]}")
        if not check:
            assert result.returncode != 0, f"{name} was expected to fail:\n{result.stdout[-3000:]}"
        return text

    def ctl(self, *command: str) -> str:
        """Run the modelserve command on the head."""
        return bed.on(bed.HEAD, "docker", "exec", "modelserve_head", "modelserve", *command, check=False)

    def ctl_all(self, *command: str) -> str:
        """The same, with what it says on standard error."""
        line = shlex.join(["docker", "exec", "modelserve_head", "modelserve", *command])
        return bed.on(bed.HEAD, "sh", "-c", f"{line} 2>&1", check=False)

    def latest_release(self) -> dict[str, Any]:
        """The last release, as it is kept."""
        newest = f"cat $(ls -t {HOME}/releases/*.json | head -1)"
        release: dict[str, Any] = json.loads(bed.on(bed.HEAD, "sh", "-c", newest))
        return release

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes by name, as `modelserve nodes` has them; empty while the head does not answer."""
        text = self.ctl("nodes", "--json")
        return {row["name"]: row for row in json.loads(text).get("nodes", [])} if text.startswith("{") else {}

    def state(self, name: str) -> str:
        """A node's state; empty while it is not known."""
        return str(self.nodes().get(name, {}).get("state", ""))

    def wait_until(self, what: str, true: Any, seconds: float = 180) -> float:
        """Wait until ``true()`` is; returns the seconds that took."""
        started = time.monotonic()
        while not true():
            assert time.monotonic() - started < seconds, f"after {seconds} s: not {what}; nodes: {self.nodes()}"
            time.sleep(1)
        return time.monotonic() - started

    def wait_for(self, *names: str, seconds: float = 180) -> float:
        """Wait until these nodes are in the cluster and everything is served; returns the seconds that took."""
        started = time.monotonic()
        self.wait_until(
            f"{', '.join(names)} up", lambda: all(self.nodes().get(n, {}).get("state") == "UP" for n in names), seconds
        )
        self.wait_until("4 replicas on workers", lambda: self.on_workers() == 4, seconds)
        took = time.monotonic() - started
        # Serve may still count a replica that died with its node: believe what stays for a moment.
        seen: list[dict[str, str]] = [{}]

        def stays() -> bool:
            seen.append(self.replicas())
            time.sleep(1.5)
            return len(seen[-1]) == 4 and seen[-1] == seen[-2]

        self.wait_until("4 replicas that stay", stays, seconds)
        return took

    def on_workers(self) -> int:
        """How many replicas run on workers."""
        return sum(row["replicas"] for name, row in self.nodes().items() if name != "head")

    def worker_with(self, algorithm: str) -> str:
        """A worker on which a replica of the algorithm runs."""
        return next(name for name, row in self.nodes().items() if name != "head" and algorithm in row["algorithms"])

    def replicas(self) -> dict[str, str]:
        """Node addresses of the running replicas, by replica id."""
        python = (
            "import urllib.request as u; "
            f"token = open('{HOME}/secrets/ray_token').read().strip(); "
            "url = 'http://127.0.0.1:8265/api/serve/applications/'; "
            "print(u.urlopen(u.Request(url, headers={'Authorization': 'Bearer ' + token})).read().decode())"
        )
        details = json.loads(bed.on(bed.HEAD, "python3", "-c", python))
        return {
            replica["replica_id"]: replica["node_ip"]
            for application in details["applications"].values()
            for deployment in application["deployments"].values()
            for replica in deployment["replicas"]
            if replica["state"] == "RUNNING"
        }

    def containers(self, host: str) -> dict[str, str]:
        """Ids of a host's containers by name."""
        lines = bed.on(host, "docker", "ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}").splitlines()
        return dict(line.split() for line in lines)

    def load(self, host: str = bed.HEAD) -> Load:
        """A steady load on every algorithm, through a host's gateway."""
        return Load(bed.address(host), PORT, REQUESTS, *self.credentials())

    def ask(self, route: str, params: Any, host: str = bed.HEAD) -> Any:
        """One request's answer."""
        with self.open(route, params, host) as response:
            return json.loads(response.read())

    def open(self, route: str, params: Any, host: str = bed.HEAD, **headers: str) -> HTTPResponse:
        """Send a request to a host's gateway, over TLS and with a key."""
        context, own = self.credentials()
        url = f"https://{bed.address(host)}:{PORT}/{route}"
        headers = {"Content-Type": "application/json", **own, **headers}
        request = urllib.request.Request(url, json.dumps(params).encode(), headers, method="GET")
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        return urllib.request.build_opener(*handlers).open(request, timeout=60)

    def credentials(self) -> tuple[ssl.SSLContext, dict[str, str]]:
        """What a client has: the cluster's CA to trust, and a key of its own, made when it is needed first."""
        if self._credentials is None:
            key = json.loads(self.ctl("keys", "add", f"test-{time.time():.0f}", "--json"))["key"]
            self._credentials = (ssl.create_default_context(cadata=self.ctl("certificate")), {"X-API-Key": key})
        return self._credentials

    def edit(self, file: str, pattern: str, replacement: str) -> None:
        """Change the project; fails when there is nothing to change."""
        path = PROJECT / file
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.M)
        assert count, f"{pattern} is not in {file}"
        path.write_text(text)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture(scope="session")
def archive(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What diagnose.yml printed, and the archive it made, after a client was there."""
    cluster.ask("extract", {"text": "good morning"})
    directory = tmp_path_factory.mktemp("diagnosis")
    text = cluster.playbook("playbooks/diagnose.yml", "-e", f"diagnose_dest={directory}")
    (made,) = directory.glob("modelserve-diagnose-*.tar.gz")
    return text, made


@pytest.fixture(scope="session")
def table() -> Iterator[list[tuple[str, ...]]]:
    """Rows of the failure table; printed when all is done."""
    rows: list[tuple[str, ...]] = []
    yield rows
    lines = [
        "| what happens | requests | failed | failed after 5 s | longest | back after |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    print("\n\n" + "\n".join(lines) + "\n")
    (bed.DIRECTORY / "failures.md").write_text("\n".join(lines) + "\n")
