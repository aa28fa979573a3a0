"""The measured cluster: the one that `make up` started on this machine, with the benchmark's project on it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEAD = "modelserve_head"
HOME = Path("/opt/modelserve")
SECTION = "\n[algopkg.Echo]\nbackend = Echo\nreplicas = 1\nroute = echo\nmethod = GET, POST\n"


def run(*command: str, check: bool = True) -> str:
    """Run a command and return its output."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if check and result.returncode != 0:
        raise SystemExit(f"error: {' '.join(command)} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout


def playbook(name: str, *options: str) -> str:
    """Run a playbook of the project on this machine."""
    return run(str(ROOT / ".venv/bin/ansible-playbook"), "-i", "inventory/local", name, *options)


def head(*command: str) -> str:
    """Run a command in the head's container."""
    return run("docker", "exec", HEAD, *command)


def timed(*command: str) -> float:
    """Return the seconds that a command takes in the head's container."""
    started = time.monotonic()
    head(*command)
    return time.monotonic() - started


def is_up() -> bool:
    """Return whether a cluster runs on this machine."""
    return HEAD in run("docker", "ps", "--format", "{{.Names}}", check=False).split()


def port() -> int:
    """Return the port of the checkout's conf.ini."""
    match = re.search(r"^port\s*[=:]\s*(\d+)", (ROOT / "conf.ini").read_text(), re.M)
    return int(match[1]) if match else 666


def ask(route: str, params: Any) -> tuple[int, Any]:
    """Send a request through the gateway; return the HTTP status and the JSON answer, None for an error."""
    body = json.dumps(params).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port()}/{route}", body, method="GET")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, None


@contextmanager
def project() -> Iterator[Path]:
    """Deploy a scratch project, the checkout's with Echo added; deploy the checkout's again at the end."""
    with tempfile.TemporaryDirectory() as work:
        scratch = Path(work)
        for name in ("algopkg", "Model_ZOO"):
            shutil.copytree(ROOT / name, scratch / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "bench/packages/Echo", scratch / "algopkg/Echo")
        (scratch / "conf.ini").write_text((ROOT / "conf.ini").read_text() + SECTION)
        try:
            playbook("playbooks/deploy.yml", "-e", f"modelserve_project={scratch}")
            yield scratch
        finally:
            playbook("playbooks/deploy.yml")


def upload(scratch: Path) -> None:
    """Copy an edited scratch project to the head, as a deploy does, but without Ansible's own time."""
    run("rsync", "-a", "--delete", "--exclude=__pycache__", f"{scratch}/algopkg/", f"{HOME}/algopkg/")
    shutil.copy(scratch / "conf.ini", HOME / "conf.ini")


def replica_memory_mb(name: str) -> tuple[float, float]:
    """Return resident and proportional memory of an algorithm's first replica, in MiB."""
    token = (HOME / "secrets/ray_token").read_text()
    url = "http://127.0.0.1:8265/api/serve/applications/"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        deployments = json.loads(response.read())["applications"][name]["deployments"]
    replicas = [replica for replica in deployments[name]["replicas"] if replica["state"] == "RUNNING"]
    text = head("cat", f"/proc/{replicas[0]['pid']}/smaps_rollup")
    rss, pss = (re.search(rf"^{key}:\s+(\d+) kB", text, re.M) for key in ("Rss", "Pss"))
    assert rss
    assert pss
    return int(rss[1]) / 1024, int(pss[1]) / 1024
