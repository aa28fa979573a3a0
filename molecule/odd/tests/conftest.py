"""The cluster of odd hosts, and what its operator has."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
sys.path.insert(0, str(SOURCE / "test" / "bed"))

import bed  # noqa: E402

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
PORT = 666


class Cluster:
    """The playbooks, the command on the head, and HTTP."""

    def playbook(self, name: str, *options: str, check: bool = True) -> str:
        """Run a playbook on the inventory under test; returns all it printed, unfolded."""
        environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
        command = ["ansible-playbook", "-i", INVENTORY, str(SOURCE / name), *options]
        result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
        assert (result.returncode == 0) == check, f"{result.stdout[-4000:]}\n{result.stderr[-2000:]}"
        return " ".join((result.stdout + result.stderr).split())

    def ctl(self, *command: str) -> str:
        """Run the modelserve command on the head."""
        return bed.on(bed.HEAD, "docker", "exec", "modelserve_head", "modelserve", *command, check=False)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes by name, as `modelserve nodes` has them; empty while the head does not answer."""
        text = self.ctl("nodes", "--json")
        return {row["name"]: row for row in json.loads(text).get("nodes", [])} if text.startswith("{") else {}

    def is_up(self, name: str) -> bool:
        """Whether a node is in the cluster."""
        return bool(self.nodes().get(name, {}).get("state") == "UP")

    def ask(self, address: str) -> Any:
        """The answer of a gateway to one request, over TLS and with a key."""
        key = json.loads(self.ctl("keys", "add", f"odd-{time.time():.3f}".replace(".", "-"), "--json"))["key"]
        context = ssl.create_default_context(cadata=self.ctl("certificate"))
        headers = {"Content-Type": "application/json", "X-API-Key": key}
        request = urllib.request.Request(
            f"https://{address}:{PORT}/extract", b'{"text": "good morning"}', headers, method="GET"
        )
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        with urllib.request.build_opener(*handlers).open(request, timeout=30) as response:
            return json.loads(response.read())


def wait_until(what: str, true: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until ``true()`` is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds} s: not {what}"
        time.sleep(1)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster()
