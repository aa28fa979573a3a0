"""Debian 12's Python in the image: the cluster and every environment have it, and packages that need it run."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

HOME = Path("/var/tmp/modelserve-bookworm/home")


def ask(route: str, params: Any, port: int = 6670) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{route}", json.dumps(params).encode(), method="GET")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
        return json.loads(response.read())


def head(*command: str) -> str:
    return subprocess.run(
        ["docker", "exec", "modelserve_head", *command], capture_output=True, text=True, check=False
    ).stdout


def test_the_cluster_runs_debian_12_s_python() -> None:
    assert head("python", "--version").startswith("Python 3.11.")
    assert "Debian GNU/Linux 12" in head("cat", "/etc/os-release")


def test_a_package_that_needs_it_runs() -> None:
    result = ask("numpy", {})["result"]
    assert result["numpy"] == "1.26.4"
    assert "python3.11" in head("ls", f"{result['prefix']}/bin")
    assert ask("extract", {"text": "great"})["result"]["score"] == 2


def test_its_older_haproxy_follows_a_change_of_the_port() -> None:
    conf = HOME / "conf.ini"
    conf.write_text(conf.read_text().replace("port = 6670", "port = 6671"))
    assert "port 6670 -> 6671" in head("modelserve", "apply")
    assert ask("extract", {"text": "good"}, port=6671)["status"] == 1
