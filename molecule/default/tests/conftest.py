"""The cluster under test: asks it over HTTP, edits its project, applies."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
PROJECT = Path("/var/tmp/modelserve-test/project")
HOME = Path("/var/tmp/modelserve-test/home")
HEAD = "modelserve_head"


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command; with ``check``, fail the test with its output when it fails."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)
    if check and result.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


class Cluster:
    """What a user has: the project's files, HTTP, the playbooks and the head's container."""

    port = 6660

    def ask(
        self, route: str, params: Any = None, method: str = "GET", port: int | None = None, timeout: float = 60
    ) -> tuple[int, Any]:
        """Send a request; returns the HTTP status and the JSON answer (or the text, or None where nothing listens)."""
        body = params.encode() if isinstance(params, str) else json.dumps(params).encode()
        url = f"http://127.0.0.1:{port or self.port}/{route}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=timeout
            ) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else text
        except OSError:  # refused, reset, timed out
            return 0, None

    def head(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the head's container."""
        return run("docker", "exec", HEAD, *command, check=check)

    def playbook(self, name: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the project's playbooks on the inventory under test; all it printed is in ``stdout``."""
        environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
        result = run("ansible-playbook", "-i", INVENTORY, str(SOURCE / name), *options, check=check, env=environment)
        result.stdout = " ".join((result.stdout + result.stderr).split())  # long messages are folded
        return result

    def apply(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Put the project on the head and apply it, as the deploy playbook does but without Ansible."""
        for name in ("algopkg", "Model_ZOO"):
            run("rsync", "-a", "--delete", "--exclude=__pycache__", f"{PROJECT}/{name}/", f"{HOME}/{name}/")
        shutil.copy(PROJECT / "conf.ini", HOME / "conf.ini")
        return self.head("modelserve", "apply", *options, check=check)

    def ray(self, path: str) -> Any:
        """Return a document of Ray's API."""
        headers = {"Authorization": f"Bearer {(HOME / 'secrets' / 'ray_token').read_text()}"}
        request = urllib.request.Request(f"http://127.0.0.1:8265{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())

    def replicas(self) -> dict[str, set[str]]:
        """The ids of the running replicas, by algorithm; one that Serve is still removing counts as gone."""
        applications = self.ray("/api/serve/applications/")["applications"]
        return {
            name: {
                replica["replica_id"]
                for deployment in application["deployments"].values()
                for replica in deployment["replicas"]
                if replica["state"] == "RUNNING"
            }
            for name, application in applications.items()
            if application["status"] != "DELETING"
        }

    def process(self, name: str) -> str:
        """The process id, in the head's container, of one of an algorithm's running replicas."""
        deployments = self.ray("/api/serve/applications/")["applications"][name]["deployments"]
        replicas = (replica for deployment in deployments.values() for replica in deployment["replicas"])
        return next(str(replica["pid"]) for replica in replicas if replica["state"] == "RUNNING")

    def eventually(self, route: str, params: Any, expected: Any, seconds: float = 30) -> None:
        """Ask until the result is the expected one: an old replica may answer a moment longer."""
        deadline = time.monotonic() + seconds
        while (answer := self.ask(route, params)[1]) is None or answer.get("result") != expected:
            assert time.monotonic() < deadline, f"{route} still answers {answer}"
            time.sleep(0.2)

    @contextmanager
    def load(self, route: str, params: Any) -> Iterator[Counter[int]]:
        """Ask all the while, without retries; yields the counts of HTTP statuses (0: no answer)."""
        counts: Counter[int] = Counter()
        stop = threading.Event()

        def go() -> None:
            while not stop.is_set():
                counts[self.ask(route, params)[0]] += 1
                time.sleep(0.02)

        thread = threading.Thread(target=go)
        thread.start()
        try:
            yield counts
        finally:
            stop.set()
            thread.join()

    def edit(self, file: str, pattern: str, replacement: str) -> None:
        """Change the project; fails when there is nothing to change."""
        path = PROJECT / file
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.M)
        assert count, f"{pattern} is not in {file}"
        path.write_text(text)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def project(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The project, to be changed by a test; put back, and applied, when the test has ended."""
    saved = tmp_path / "project"
    shutil.copytree(PROJECT, saved)
    yield PROJECT
    run("rsync", "-a", "--delete", f"{saved}/", f"{PROJECT}/")
    cluster.apply("--allow-downtime")
