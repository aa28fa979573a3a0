"""A node: the line that starts Ray has the ports users rely on, and a node that does not work is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import modelserve
import pytest
from modelserve import node
from modelserve.errors import UserError
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site

HOME = Path("/opt/modelserve")


def test_the_head_has_the_ports_users_know() -> None:
    command = node.start_command("head", HOME)
    assert {"--head", "--block", "--port=6370", "--dashboard-port=8265", "--dashboard-host=127.0.0.1"} <= set(command)


def test_a_worker_joins_the_head_and_is_none() -> None:
    command = node.start_command("worker", HOME, head_address="10.0.0.1")
    assert "--address=10.0.0.1:6370" in command
    assert "--head" not in command
    assert not [option for option in command if option.startswith("--dashboard-port")]


def test_what_is_left_open_is_left_to_ray() -> None:
    options = "\n".join(node.start_command("head", HOME))
    for option in ("node-ip-address", "num-gpus", "object-store-memory"):
        assert option not in options
    given = node.start_command("head", HOME, node_ip="10.0.0.2", gpus="0", object_store_mb=512)
    assert {"--node-ip-address=10.0.0.2", "--num-gpus=0", f"--object-store-memory={512 * 1024 * 1024}"} <= set(given)


def test_no_two_of_the_ports_collide() -> None:
    ports = {**node.PORTS, **node.HEAD_PORTS}
    workers = range(ports.pop("min-worker-port"), ports.pop("max-worker-port") + 1)
    assert len(set(ports.values())) == len(ports)
    assert not set(ports.values()) & set(workers)
    # Serve's ingress, and the gateway's default.
    assert not {8000, 666} & (set(ports.values()) | set(workers))


@pytest.fixture
def raylet(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site that stands for the raylet's health check, whose port is fixed."""
    monkeypatch.setitem(node.PORTS, "dashboard-agent-listen-port", site.port)  # type: ignore[arg-type]
    return site


@pytest.mark.parametrize(
    ("role", "raylet_status", "gcs_status", "healthy"),
    [
        ("worker", 200, 503, True),
        ("worker", 503, 200, False),
        ("head", 200, 200, True),
        ("head", 200, 503, False),
        ("head", 503, 200, False),
    ],
)
def test_a_node_is_healthy_when_what_runs_on_it_answers(
    raylet: Site, role: str, raylet_status: int, gcs_status: int, healthy: bool
) -> None:
    raylet.answers = {"/api/local_raylet_healthz": (raylet_status, b""), "/api/gcs_healthz": (gcs_status, b"")}
    settings = Settings(dashboard_url=raylet.url)
    if healthy:
        node.health(role, settings)
    else:
        with pytest.raises(UserError, match="503"):
            node.health(role, settings)


def test_a_node_on_which_nothing_runs_is_not_healthy(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setitem(node.PORTS, "dashboard-agent-listen-port", closed_port)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not answer"):
        node.health("worker", Settings())


@pytest.mark.parametrize("role", ["head", "worker"])
def test_the_container_becomes_ray(tmp_path: Path, role: str) -> None:
    home = tmp_path / "home"
    sessions = [home / "ray" / f"session_2025-01-0{day}" for day in range(1, 6)]
    for day, session in enumerate(sessions):
        session.mkdir(parents=True)
        os.utime(session, (day, day))
    ray = tmp_path / "ray"  # stands for Ray: says how it was started
    ray.write_text('#!/bin/sh\necho "args:$*"\nenv\n')
    ray.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "PYTHONPATH": str(Path(modelserve.__file__).parents[1]),
        "MODELSERVE_HOME": str(home),
    }
    command = [sys.executable, "-m", "modelserve", "node", role, "--options", '{"head_address": "10.0.0.1"}']
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    (arguments,) = (line.removeprefix("args:").split() for line in lines if line.startswith("args:"))
    assert ["ray", *arguments] == node.start_command(role, home, head_address="10.0.0.1")
    assert {"RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={home}/secrets/ray_token"} <= set(lines)
    assert ("RAY_gcs_storage=rocksdb" in lines) is (role == "head")
    # The newest sessions' logs are kept, the older ones do not fill the disk.
    assert sorted((home / "ray").iterdir()) == sessions[-2:]
