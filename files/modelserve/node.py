"""Starts Ray in a container of a node, and tells whether it works."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelserve.errors import UserError
from modelserve.settings import Settings

# Every port Ray listens on, fixed. Serve's own (8000, 8404, 8500, 9101, 30000 and up) are Serve's defaults.
PORTS: Mapping[str, int] = {
    "node-manager-port": 6380,
    "object-manager-port": 6381,
    "dashboard-agent-listen-port": 52365,
    "dashboard-agent-grpc-port": 52366,
    "runtime-env-agent-port": 52367,
    "metrics-export-port": 8080,
    "min-worker-port": 11000,
    "max-worker-port": 11099,
}
HEAD_PORTS: Mapping[str, int] = {"port": 6370, "dashboard-port": 8265, "ray-client-server-port": 10001}
KEPT_SESSIONS = 2


def start_command(
    role: str, home: Path, *, head_address: str = "", node_ip: str = "", gpus: str = "auto", object_store_mb: int = 0
) -> list[str]:
    """The ``ray start`` line of a node.

    Args:
        role: ``head`` or ``worker``.
        home: modelserve_home.
        head_address: the head's host, for a worker.
        node_ip: this node's address in the cluster; empty lets Ray choose.
        gpus: ``auto`` for what Ray finds, else their number.
        object_store_mb: size of the object store in MiB; 0 lets Ray choose. It must fit the container's /dev/shm.
    """
    options: dict[str, Any] = {"temp-dir": home / "ray", **PORTS}
    if role == "head":
        options = {**options, **HEAD_PORTS, "dashboard-host": "127.0.0.1", "include-dashboard": "true"}
    else:
        options["address"] = f"{head_address}:{HEAD_PORTS['port']}"
    if node_ip:
        options["node-ip-address"] = node_ip
    if gpus != "auto":
        options["num-gpus"] = gpus
    if object_store_mb:
        options["object-store-memory"] = object_store_mb * 2**20
    command = ["ray", "start", "--block", "--disable-usage-stats"] + (["--head"] if role == "head" else [])
    return command + [f"--{option}={value}" for option, value in options.items()]


def run(role: str, settings: Settings, **options: Any) -> None:
    """Become Ray. Environment and state of the node are made ready first."""
    home = settings.home
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.token_file),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "30",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    }
    if role == "head":
        (home / "gcs").mkdir(exist_ok=True)
        environment |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(home / "gcs")}
    _remove_old_sessions(home / "ray")
    command = start_command(role, home, **options)
    print(" ".join(command), flush=True)
    os.execvpe(command[0], command, environment)


def health(role: str, settings: Settings) -> None:
    """Return when the node's raylet is alive, and on the head its control service too.

    Raises:
        UserError: naming what does not answer.
    """
    checks = [f"http://127.0.0.1:{PORTS['dashboard-agent-listen-port']}/api/local_raylet_healthz"]
    if role == "head":
        checks.append(f"{settings.dashboard_url}/api/gcs_healthz")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for url in checks:
        try:
            opener.open(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            raise UserError(f"{url} answers {error.code}: {error.read()[:200].decode(errors='replace')}") from None
        except OSError as error:
            raise UserError(f"{url} does not answer: {getattr(error, 'reason', error)}") from None


def _remove_old_sessions(directory: Path) -> None:
    # Ray leaves a directory of logs per start; the last ones are worth reading, all of them fill the disk.
    sessions = sorted(directory.glob("session_2*"), key=lambda path: path.stat().st_mtime)
    for session in sessions[:-KEPT_SESSIONS]:
        shutil.rmtree(session, ignore_errors=True)
