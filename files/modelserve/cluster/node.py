"""Starts Ray in a container of a node."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from modelserve.cluster.gpus import mig_devices
from modelserve.cluster.join import start_sync_after_joining, wait_for_content
from modelserve.errors import UserError
from modelserve.ports import HEAD_PORTS, PORTS
from modelserve.serve.api import GPU_LABEL, MIG, NAME_LABEL
from modelserve.serve.environment import gcs_directory, node_environment
from modelserve.settings import Settings
from modelserve.store import secret_values
from modelserve.store.manifest import NAME, Manifest, Versions
from modelserve.store.store import Store
from modelserve.util.endpoints import endpoint
from modelserve.util.files import write_atomically
from modelserve.util.proxies import without_proxies

KEPT_SESSIONS = 2


def start_command(
    role: str,
    home: Path,
    *,
    name: str = "",
    head_address: str = "",
    node_ip: str = "",
    gpus: str = "auto",
    mig: bool = False,
    object_store_mb: int = 0,
) -> list[str]:
    """Return the ``ray start`` command line of a node.

    Args:
        role: ``head`` or ``worker``.
        home: modelserve_home.
        name: the node's name in the inventory; a label in Ray.
        head_address: the head's host, for a worker.
        node_ip: this node's address in the cluster; empty lets Ray choose.
        gpus: number of GPUs; ``auto``: those that Ray detects.
        mig: whether there are MIG instances among them; a label in Ray.
        object_store_mb: size of the object store in MiB, which must fit the container's /dev/shm; 0 lets Ray choose.
    """
    options: dict[str, Any] = {"temp-dir": home / "ray", **PORTS}
    if role == "head":
        options = {**options, **HEAD_PORTS, "dashboard-host": "127.0.0.1", "include-dashboard": "true"}
    else:
        options["address"] = endpoint(head_address, HEAD_PORTS["port"])
    # Not Ray's node-name, which Serve uses as an address.
    labels = {**({NAME_LABEL: name} if name else {}), **({GPU_LABEL: MIG} if mig else {})}
    if labels:
        options["labels"] = ",".join(f"{label}={value}" for label, value in labels.items())
    if node_ip:
        options["node-ip-address"] = node_ip
    if gpus != "auto":
        options["num-gpus"] = gpus
    if object_store_mb:
        options["object-store-memory"] = object_store_mb * 2**20
    command = ["ray", "start", "--block", "--disable-usage-stats"] + (["--head"] if role == "head" else [])
    return command + [f"--{option}={value}" for option, value in options.items()]


def run(role: str, settings: Settings, **options: Any) -> None:
    """Prepare the node, then replace this process with Ray. A worker first waits for its content.

    Args:
        role: ``head`` or ``worker``.
        settings: the node's settings.
        options: options of :func:`start_command`.

    Raises:
        UserError: Ray uses TLS, and the node's certificate is missing; or MIG instances are missing.
    """
    home = settings.home
    # A proxy of the image's would stand between Ray's processes, and be every replica's.
    environment = {**without_proxies(os.environ), **node_environment(role, settings)}
    if environment.get("RAY_USE_TLS") == "1":
        _require_certificate(role, settings, options.get("node_ip", ""))
    devices = mig_devices(options.get("gpus", "auto"))
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    if role == "head":
        gcs_directory(home).mkdir(exist_ok=True)
        publish_versions(settings)
        secret_values.publish_again(settings)
    else:
        wait_for_content(settings, options["head_address"], options.get("name", ""))
        start_sync_after_joining(options["head_address"])
    _remove_old_sessions(home / "ray")
    _empty(home / "tmp")
    command = start_command(role, home, object_store_mb=object_store_mb(), mig=bool(devices), **options)
    print(" ".join(command), flush=True)
    os.execvpe(command[0], command, environment)


def _require_certificate(role: str, settings: Settings, address: str) -> None:
    # The head's CA issues the head's own; a worker's comes with the playbook.
    file = settings.home / "secrets" / "node.pem"
    if role == "head":
        from modelserve.security import certificates

        if not address:
            import ray

            address = ray.util.get_node_ip_address()
        write_atomically(file, certificates.node(settings, "head", address), 0o600)
    elif not file.exists():
        raise UserError(f"{file} is missing, and Ray uses TLS", "Run site.yml: it brings the certificate")


def object_store_mb() -> int:
    """Return the size of the object store in MiB: 30% of the memory, and at most 80% of this container's /dev/shm.

    Ray by itself would put an object store that /dev/shm cannot hold on disk.
    """
    shared = os.statvfs("/dev/shm")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(shared.f_frsize * shared.f_blocks * 0.8, memory * 0.3)) // 2**20


def publish_versions(settings: Settings) -> None:
    """Write the head's versions into the store's manifest; workers compare them with their own before they join."""
    store = Store(settings.home / "store")
    try:
        manifest = Manifest.load(store.root / NAME)
    except UserError:  # damaged: the next apply names the content again
        manifest = Manifest()
    manifest.model_copy(update={"versions": Versions.running()}).publish(store)


def _empty(directory: Path) -> None:
    # /tmp of this container lies on the host's disk and outlives the container.
    for path in directory.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _remove_old_sessions(directory: Path) -> None:
    # Ray makes a directory of logs at each start; all of them would fill the disk.
    sessions = sorted(directory.glob("session_2*"), key=lambda path: path.stat().st_mtime)
    for session in sessions[:-KEPT_SESSIONS]:
        shutil.rmtree(session, ignore_errors=True)
