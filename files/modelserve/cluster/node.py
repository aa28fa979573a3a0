"""Starts Ray in a container of a node, and tells whether it works.

A worker fetches what it lacks from the head's store first, and only then joins. Nothing else is needed for it to come
back after it was off, however long that was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from modelserve.errors import UserError
from modelserve.ports import HEAD_PORTS, PORTS
from modelserve.serve.api import NAME_LABEL
from modelserve.settings import Settings
from modelserve.store.manifest import NAME, Manifest, Versions
from modelserve.store.store import Store
from modelserve.store.sync import Puller
from modelserve.util.files import write_atomically

KEPT_SESSIONS = 2
RETRY_S = 3
# Serve's ingress: a replica or a host that is gone is noticed in a second, not in five. A connection within a cluster
# is made in milliseconds, or not at all. Requests are tried twice more and not without end, so that one that kills its
# replica kills three at most.
INGRESS = {
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",
    "RAY_SERVE_HAPROXY_RETRIES": "2",
    # How long a replica that goes is still there for who has not heard of it. 30 s are for balancers outside;
    # Serve's own HAProxies hear of it within two, and until then its GPU is nobody else's.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
    # Two log lines a request: one that the proxy's actor parses for the metrics that a replica can count as well, and
    # one to a port where nobody listens.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000000",
    "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
    # A HAProxy that was replaced (each deploy replaces it) ends with its last request: by then at the latest. Above the
    # longest request_timeout that conf.ini takes, a day: cut by Serve's default of 120 s, a request was asked again.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "90000",
    # A stopped replica's port stays unused for as long, plus 30 s: 2,768 replicas a day and host, not Serve's 1,000.
    # The kernel's ephemeral ports begin at 32768.
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "32768",
}


def start_command(
    role: str,
    home: Path,
    *,
    name: str = "",
    head_address: str = "",
    node_ip: str = "",
    gpus: str = "auto",
    object_store_mb: int = 0,
) -> list[str]:
    """The ``ray start`` line of a node.

    Args:
        role: ``head`` or ``worker``.
        home: modelserve_home.
        name: what the node is called in the inventory; a label in Ray.
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
    if name:  # not Ray's node-name, which Serve takes for an address
        options["labels"] = f"{NAME_LABEL}={name}"
    if node_ip:
        options["node-ip-address"] = node_ip
    if gpus != "auto":
        options["num-gpus"] = gpus
    if object_store_mb:
        options["object-store-memory"] = object_store_mb * 2**20
    command = ["ray", "start", "--block", "--disable-usage-stats"] + (["--head"] if role == "head" else [])
    return command + [f"--{option}={value}" for option, value in options.items()]


def run(role: str, settings: Settings, **options: Any) -> None:
    """Become Ray. Environment and state of the node are made ready first; a worker waits until it has what it needs.

    Args:
        role: ``head`` or ``worker``.
        settings: the node's home.
        options: what :func:`start_command` takes.
    """
    home = settings.home
    environment = {
        **os.environ,
        **INGRESS,
        # The flags for throughput keep a thousand lines back; there is no access log that could make it many.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.token_file),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "30",
        # Ray puts its workers behind all else on a host: a replica is what the host is there for.
        "RAY_worker_niceness": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    }
    if environment.get("RAY_USE_TLS") == "1":
        _require_certificate(role, settings, options.get("node_ip", ""))
    if role == "head":
        (home / "gcs").mkdir(exist_ok=True)
        environment |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(home / "gcs")}
        publish_versions(settings)
    else:
        wait_for_content(settings, options["head_address"])
        _catch_up_again_once_joined(options["head_address"])
    _remove_old_sessions(home / "ray")
    _empty(home / "tmp")
    command = start_command(role, home, object_store_mb=object_store_mb(), **options)
    print(" ".join(command), flush=True)
    os.execvpe(command[0], command, environment)


def _require_certificate(role: str, settings: Settings, address: str) -> None:
    # On the head the CA issues it; a worker's is brought by the playbook.
    file = settings.home / "secrets" / "node.pem"
    if role == "head":
        from modelserve.security import certificates

        if not address:
            import ray

            address = ray.util.get_node_ip_address()
        write_atomically(file, certificates.node(settings, "head", address), 0o600)
    elif not file.exists():
        raise UserError(f"{file} is missing, and Ray speaks TLS here", "Run site.yml: it brings the certificate")


def object_store_mb() -> int:
    """MiB that fit into this container's /dev/shm. Ray would take 30% of the memory, on disk where that is more."""
    shared = os.statvfs("/dev/shm")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(shared.f_frsize * shared.f_blocks * 0.8, pages * 0.3)) // 2**20


def publish_versions(settings: Settings) -> None:
    """Say in the store's manifest what the head runs, so that workers can compare before they join."""
    store = Store(settings.home / "store")
    try:
        published = Manifest.load(store.root / NAME)
    except UserError:  # damaged: the next apply names the content anew
        published = Manifest()
    published.model_copy(update={"versions": Versions.here()}).publish(store)


def wait_for_content(settings: Settings, head_address: str) -> None:
    """Return when this node has all that the head's manifest names; try until then. What it waits for is said once
    per cause, on standard output and to :func:`health`."""
    said = ""
    while True:
        try:
            Puller(settings, head_address, lambda line: say(settings, line)).catch_up()
        except UserError as error:
            cause = re.sub(r"\d+ MiB", "", str(error))  # how much is free changes while it is tried again
            if cause != said:
                said = cause
                say(settings, str(error))
            time.sleep(RETRY_S)
        else:
            state_file(settings).unlink(missing_ok=True)
            return


def catch_up_once_joined(settings: Settings, head_address: str) -> None:
    """Fetch what was deployed between the node's first look and its joining: from then on, deploys see the node."""
    while True:
        time.sleep(1)
        try:
            health("worker", settings)
            Puller(settings, head_address, lambda line: print(line, flush=True)).catch_up()
            return
        except UserError:
            continue


def state_file(settings: Settings) -> Path:
    """Where a node that has not joined yet says what it does."""
    return settings.home / "node" / "state"


def state(settings: Settings) -> str:
    """What a node that has not joined yet does; empty for one that has."""
    try:
        return state_file(settings).read_text()
    except FileNotFoundError:
        return ""


def say(settings: Settings, line: str) -> None:
    """Tell what the node does, in the container's log and in its state."""
    print(line, flush=True)
    # Where the disk is full, this line is the one that has to get through: in the log at least.
    with contextlib.suppress(OSError):
        write_atomically(state_file(settings), line)


def health(role: str, settings: Settings) -> None:
    """Return when the node's raylet is alive, and on the head its control service too.

    Raises:
        UserError: naming what does not answer, or what a worker waits for before it joins.
    """
    if role == "worker" and (waits_for := state(settings)):
        raise UserError(f"not joined yet: {waits_for}")
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


def _catch_up_again_once_joined(head_address: str) -> None:
    # A process of its own that outlives this one's becoming Ray; orphaned, so that init collects it.
    if (child := os.fork()) == 0:
        options = json.dumps({"head_address": head_address})
        command = [sys.executable, "-m", "modelserve", "node", "catch-up", "--options", options]
        subprocess.Popen(command, start_new_session=True)
        os._exit(0)
    os.waitpid(child, 0)


def _empty(directory: Path) -> None:
    # This container's /tmp, on the host's disk: what a container before it left.
    for path in directory.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _remove_old_sessions(directory: Path) -> None:
    # Ray leaves a directory of logs per start; the last ones are worth reading, all of them fill the disk.
    sessions = sorted(directory.glob("session_2*"), key=lambda path: path.stat().st_mtime)
    for session in sessions[:-KEPT_SESSIONS]:
        shutil.rmtree(session, ignore_errors=True)
