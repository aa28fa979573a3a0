"""A node: the line that starts Ray has the ports users rely on, and a node that does not work is noticed."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modelserve
import pytest
from modelserve.cluster import gpus, health, node
from modelserve.errors import UserError
from modelserve.ports import HEAD_PORTS, PORTS, SERVICE_PORTS
from modelserve.settings import Settings
from modelserve.store.manifest import NAME, Manifest, Versions, contents
from modelserve.store.store import Store

if TYPE_CHECKING:
    from conftest import Site, StoreServer

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
    ports = {**PORTS, **HEAD_PORTS, **SERVICE_PORTS}
    workers = range(ports.pop("min-worker-port"), ports.pop("max-worker-port") + 1)
    assert len(set(ports.values())) == len(ports)
    assert not set(ports.values()) & set(workers)
    # Serve's proxy, and the gateway's default.
    assert not {8000, 666} & (set(ports.values()) | set(workers))


@pytest.fixture
def raylet(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site that stands for the raylet's health check, whose port is fixed."""
    monkeypatch.setitem(PORTS, "dashboard-agent-listen-port", site.port)  # type: ignore[arg-type]
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
        health.health(role, settings)
    else:
        with pytest.raises(UserError, match="503"):
            health.health(role, settings)


def test_a_node_on_which_nothing_runs_is_not_healthy(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setitem(PORTS, "dashboard-agent-listen-port", closed_port)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not answer"):
        health.health("worker", Settings())


@pytest.mark.parametrize("role", ["head", "worker"])
def test_a_node_that_lost_its_gpus_is_not_healthy(
    raylet: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, role: str
) -> None:
    raylet.answers = {"/api/local_raylet_healthz": (200, b""), "/api/gcs_healthz": (200, b"")}
    settings = Settings(home=tmp_path, dashboard_url=raylet.url)
    health.health(role, settings)
    opened = os.open

    def without_device(path: Any, *arguments: Any, **options: Any) -> int:
        if path == gpus.CONTROL_DEVICE:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", without_device)
    with pytest.raises(UserError, match="this container lost its GPUs"):
        health.health(role, settings)


class Container:
    """What a node's container runs, in a process with ports of its own; ``ray`` is a script that a test writes."""

    def __init__(self, root: Path, home: Path, ray_version: Path, store_port: int, raylet_port: int) -> None:
        self.home = home
        self._root = root
        root.mkdir()
        (root / "sitecustomize.py").write_text(
            "import modelserve.store.rsync_server\n"
            f"modelserve.store.rsync_server.PORT = {store_port}\n"
            "import modelserve.cluster.join\nimport modelserve.ports\n"
            f"modelserve.ports.PORTS['dashboard-agent-listen-port'] = {raylet_port}\n"
            "modelserve.cluster.join.RETRY_S = 0.2\nmodelserve.cluster.join.JOIN_POLL_S = 0.2\n"
        )
        self._environment = {
            "PATH": f"{root}:/usr/bin:/bin",
            "PYTHONPATH": f"{Path(modelserve.__file__).parents[1]}:{root}:{ray_version}",
            "MODELSERVE_HOME": str(home),
            "MODELSERVE_IMAGE": "modelserve:1",
        }

    def set_variables(self, variables: Mapping[str, str]) -> None:
        """Give the container more environment variables."""
        self._environment.update(variables)

    def add(self, command: str, lines: str) -> None:
        """Put a command beside Ray."""
        (self._root / command).write_text(f"#!/bin/sh\n{lines}\n")
        (self._root / command).chmod(0o755)

    def run(self, role: str, ray: str = "true", name: str = "", gpus: str = "") -> list[str]:
        """Run until Ray, and what outlives its start, have ended; returns the lines that were said."""
        script = self._root / "ray"
        script.write_text(f'#!/bin/sh\necho "args:$*"\nenv\n{ray}\n')
        script.chmod(0o755)
        given = {"name": name, "gpus": gpus}
        options = json.dumps({"head_address": "127.0.0.1"} | {key: value for key, value in given.items() if value})
        command = [sys.executable, "-m", "modelserve", "node", role, "--options", options]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.splitlines()


@pytest.fixture
def container(
    tmp_path: Path, store_server_of_head: StoreServer, ray_version: Path, raylet: Site
) -> dict[str, Container]:
    """The containers by role: the head's is that of the store that is served, the worker's asks there."""
    shutil.copytree(store_server_of_head.home / "secrets", tmp_path / "worker" / "secrets")
    homes = {"head": store_server_of_head.home, "worker": tmp_path / "worker"}
    port = store_server_of_head.port
    return {
        role: Container(tmp_path / f"{role}_bin", home, ray_version, port, raylet.port) for role, home in homes.items()
    }


def publish(head: Path, *files: str, versions: Versions | None = None) -> Manifest:
    """Put packages into a head's store, and what it runs and they are into its manifest."""
    store = Store(head / "store")
    for file in files:
        package = head / "algopkg" / file
        package.mkdir(parents=True)
        (package / "backend.py").write_text(file)
        store.add_package(file, package)
    paths = sorted(str(path.relative_to(store.root)) for path in store.root.glob("pkg/*"))
    here = Versions(image="modelserve:1", python=platform.python_version(), ray="2.60.0")
    published = Manifest(versions=versions or here, needed=contents(paths, store))
    published.publish(store)
    return published


@pytest.mark.parametrize("role", ["head", "worker"])
def test_the_container_becomes_ray(container: dict[str, Container], raylet: Site, role: str) -> None:
    home = container[role].home
    publish(container["head"].home, "Echo")
    sessions = [home / "ray" / f"session_2025-01-0{day}" for day in range(1, 6)]
    for day, session in enumerate(sessions):
        session.mkdir(parents=True)
        os.utime(session, (day, day))
    raylet.answers = {"/api/local_raylet_healthz": (200, b"")}
    lines = container[role].run(role)
    (arguments,) = (line.removeprefix("args:").split() for line in lines if line.startswith("args:"))
    mb = node.object_store_mb()
    assert ["ray", *arguments] == node.start_command(role, home, head_address="127.0.0.1", object_store_mb=mb)
    assert {"RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={home}/secrets/ray_token"} <= set(lines)
    assert ("RAY_gcs_storage=rocksdb" in lines) is (role == "head")
    # The newest sessions' logs are kept, the older ones do not fill the disk.
    assert sorted((home / "ray").iterdir()) == sessions[-2:]


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_has_no_proxy_of_the_image_s(
    container: dict[str, Container], raylet: Site, closed_port: int, role: str
) -> None:
    """The worker has none either while it fetches its content from the head's store."""
    publish(container["head"].home, "Echo")
    raylet.answers = {"/api/local_raylet_healthz": (200, b"")}
    proxy = f"127.0.0.1:{closed_port}"
    names = ("http_proxy", "HTTPS_PROXY", "all_proxy", "grpc_proxy", "no_proxy")
    container[role].set_variables({**dict.fromkeys(names, f"http://{proxy}"), "RSYNC_PROXY": proxy})
    variables = {line.partition("=")[0] for line in container[role].run(role)}
    assert "RAY_AUTH_MODE" in variables and variables.isdisjoint({*names, "RSYNC_PROXY"})


def test_a_head_says_what_it_runs_and_forgets_nothing(container: dict[str, Container]) -> None:
    head = container["head"]
    before = publish(head.home, "Echo", versions=Versions(image="modelserve:0", ray="2.59.0"))
    head.run("head")
    after = Manifest.load(head.home / "store" / NAME)
    assert after.needed == before.needed != ()
    assert after.versions == Versions(image="modelserve:1", python=platform.python_version(), ray="2.60.0")


def test_a_worker_has_what_it_needs_before_it_joins_and_looks_again_afterwards(
    container: dict[str, Container], raylet: Site, tmp_path: Path
) -> None:
    head, worker = container["head"].home, container["worker"]
    publish(head, "Echo")
    earlier = (head / "store" / NAME).read_text()
    publish(head, "Late")
    (head / "store" / NAME).rename(tmp_path / NAME)
    (head / "store" / NAME).write_text(earlier)
    # When Ray starts, a deploy is under way that does not see this node yet.
    raylet.answers = {"/api/local_raylet_healthz": (200, b"")}
    store = worker.home / "store"
    lines = worker.run("worker", f"echo joins with $(ls {store}/pkg)\ncp {tmp_path}/{NAME} {head}/store/{NAME}")
    (joined,) = (line for line in lines if line.startswith("joins with "))
    assert joined.startswith("joins with Echo-")
    assert "Late" not in joined
    there = sorted(path.name.partition("-")[0] for path in (store / "pkg").iterdir())
    assert there == ["Echo", "Late"]


def test_a_worker_waits_and_says_for_what(container: dict[str, Container], raylet: Site) -> None:
    raylet.answers = {"/api/local_raylet_healthz": (200, b"")}
    head, worker = container["head"].home, container["worker"]
    settings = Settings(home=worker.home)
    publish(head, "Echo", versions=Versions(image="modelserve:2"))
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.extend(worker.run("worker")))
    thread.start()
    deadline = time.monotonic() + 30
    while not health.join_progress(settings) and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(UserError, match="not joined yet: this node runs image modelserve:1, the head modelserve:2"):
        health.health("worker", settings)
    assert not list(worker.home.glob("store/pkg/*"))
    publish(head)
    thread.join()
    assert sum(line.startswith("this node runs image") for line in lines) == 1
    assert health.join_progress(settings) == ""
    health.health("worker", settings)
    assert len(list(worker.home.glob("store/pkg/*"))) == 1


def test_a_worker_that_was_removed_waits_until_it_is_added_again(container: dict[str, Container], raylet: Site) -> None:
    raylet.answers = {"/api/local_raylet_healthz": (200, b"")}
    head, worker = container["head"].home, container["worker"]
    settings = Settings(home=worker.home)
    publish(head, "Echo")
    workers = head / "store" / "workers.json"
    workers.write_text('{"worker_1": "10.0.0.11"}')
    thread = threading.Thread(target=lambda: worker.run("worker", name="worker_2"))
    thread.start()
    deadline = time.monotonic() + 30
    while not health.join_progress(settings) and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(UserError, match="not joined yet: worker_2 was removed from the cluster"):
        health.health("worker", settings)
    assert not list(worker.home.glob("store/pkg/*"))
    workers.write_text('{"worker_1": "10.0.0.11", "worker_2": "10.0.0.12"}')
    thread.join()
    assert len(list(worker.home.glob("store/pkg/*"))) == 1


def test_ray_hands_out_mig_instances(container: dict[str, Container]) -> None:
    head = container["head"]
    listed = r"GPU 0: A (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-1)\n"
    head.add("nvidia-smi", f'[ "$1" = -L ] && printf "{listed}" || echo "GPU-1, Enabled"')
    lines = head.run("head", name="head", gpus="1")
    (arguments,) = (line.removeprefix("args:").split() for line in lines if line.startswith("args:"))
    assert {"--num-gpus=1", "--labels=modelserve.node=head,modelserve.gpu=mig"} <= set(arguments)
    assert "CUDA_VISIBLE_DEVICES=MIG-1" in lines


def test_a_worker_joins_a_head_that_publishes_no_workers(container: dict[str, Container], raylet: Site) -> None:
    raylet.answers = {"/api/local_raylet_healthz": (200, b"")}
    publish(container["head"].home, "Echo")
    assert any(line.startswith("args:start") for line in container["worker"].run("worker", name="worker_2"))


def test_a_background_sync_that_fails_reports_its_cause_once(
    container: dict[str, Container], raylet: Site, store_server_of_head: StoreServer
) -> None:
    """The token of the head changes while the worker joins: the store refuses the worker until it is put back."""
    head, worker = container["head"].home, container["worker"]
    publish(head, "Echo")
    raylet.answers = {"/api/local_raylet_healthz": (200, b"")}
    token = (worker.home / "secrets" / "ray_token").read_text()
    lines: list[str] = []
    secret = f"{worker.home}/secrets/ray_token"
    thread = threading.Thread(target=lambda: lines.extend(worker.run("worker", f"echo another > {secret}")))
    thread.start()
    wait_until(lambda: store_server_of_head.log.read_text().count("auth failed") >= 3)
    Path(secret).write_text(token)
    thread.join()
    reports = [line for line in lines if line.startswith("the content deployed while this node joined is not here yet")]
    assert len(reports) == 1
    assert "refuses this node" in reports[0]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
