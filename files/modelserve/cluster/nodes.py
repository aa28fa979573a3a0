"""The cluster's nodes: a table of them, their free resources, and the drain of a worker."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from modelserve.errors import UserError
from modelserve.ports import HEAD_PORTS
from modelserve.serve.api import GPU_LABEL, MIG, RayAPI
from modelserve.serve.capacity import KINDS, matches, missing_elsewhere
from modelserve.serve.status import replicas_by_node
from modelserve.settings import Settings
from modelserve.store.sync import WORKERS
from modelserve.util.files import write_atomically

Progress = Callable[[str], None]
POLL_S = 0.5
HEAD = "head"
NO_COST = dict.fromkeys(KINDS, 0.0)


class Nodes:
    """The head, and the workers that Ansible wrote to ``workers.json``."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._ray = RayAPI(settings)

    def table(self) -> list[dict[str, Any]]:
        """Return a row per node: ``name``, ``address``, ``state`` (UP, DRAINING or DOWN), ``gpus``, ``replicas``.

        ``mig`` is whether MIG instances are among its GPUs.

        Raises:
            UserError: Ray does not answer.
        """
        alive = {node["name"]: node for node in self._ray.nodes()}
        replicas = replicas_by_node(self._ray.applications())
        rows = []
        for name, address in {HEAD: "", **self._settings.workers}.items():
            node = alive.pop(name, None)
            rows.append(_row(name, address, node, replicas))
        return rows + [_row(name, "", node, replicas) for name, node in alive.items()]

    def drain(self, name: str, timeout_s: float, force: bool = False) -> bool:
        """Move a worker's replicas to other nodes, and return when it has none.

        Args:
            name: the worker's name in the inventory.
            timeout_s: longest time that it may take, in seconds.
            force: continue although replicas are left, or find no capacity elsewhere.

        Returns:
            Whether the node is up; one that is down has nothing to drain.

        Raises:
            UserError: there is no such worker, its replicas find no capacity elsewhere (nothing was done then), or
                they did not move in time.
        """
        if name == HEAD:
            raise UserError("the head cannot be drained", "Only workers can")
        node = next((node for node in self._ray.nodes() if node["name"] == name), None)
        if node is None:
            if name not in self._settings.workers:
                workers = ", ".join(self._settings.workers) or "none"
                raise UserError(
                    f"there is no worker {name}; the workers are: {workers}", "Use its name in the inventory"
                )
            return False
        missing = "" if force else self._missing_elsewhere(node)
        if missing:
            raise UserError(
                f"{name} cannot be drained: {missing}. Nothing was changed",
                "Lower replicas or gpu_cost in conf.ini, add a worker, or give -e modelserve_force=true",
            )
        self._start_drain(node["node_id"])
        self._wait_until_drained(name, node["node_id"], timeout_s, force)
        return True

    def _wait_until_drained(self, name: str, node_id: str, timeout_s: float, force: bool) -> None:
        deadline = time.monotonic() + timeout_s
        reported = -1
        while left := replicas_by_node(self._ray.applications()).get(node_id, []):
            if len(left) != reported:
                reported = len(left)
                self._progress(f"{name}: {reported} replicas to move ({', '.join(sorted(set(left)))})")
            if time.monotonic() > deadline:
                if force:
                    return
                raise UserError(
                    f"{name}: {len(left)} replicas are still there after {timeout_s:.0f} s; nothing was removed",
                    "Try again, or give -e modelserve_force=true; playbooks/restart.yml puts the worker back to work",
                )
            time.sleep(POLL_S)

    def forget(self, name: str) -> None:
        """Remove a worker, and a gateway on its host, from the lists that Ansible writes.

        The list in the store keeps the worker from joining when its host is switched on later.
        """
        for file in ("workers.json", "gateways.json", f"store/{WORKERS}"):
            path = self._settings.home / file
            if path.exists():
                listed = {host: entry for host, entry in json.loads(path.read_text()).items() if host != name}
                write_atomically(path, json.dumps(listed, indent=4) + "\n")

    def free(self, labels: Mapping[str, str] | None = None) -> dict[str, dict[str, float]]:
        """Return what nothing has reserved, by node and kind (``GPU``, ``CPU``, ``memory`` in bytes).

        Nodes that are being drained are left out.

        Args:
            labels: Ray's label selector: only of nodes that match it.
        """
        used = self._ray.usage()
        return {
            node["name"]: {
                kind: node["resources_total"].get(kind, 0) - used.get(node["node_id"], {}).get(kind, 0)
                for kind in KINDS
            }
            for node in self._ray.nodes()
            if not _drains(node) and matches(node["labels"], labels or {})
        }

    def _missing_elsewhere(self, node: dict[str, Any]) -> str:
        """Return what the other nodes lack for a node's replicas; empty when they fit."""
        statuses = self._ray.applications()
        placed = replicas_by_node(statuses)
        applications = {name: status.application for name, status in statuses.items()}

        def costs(node_id: str) -> list[tuple[str, dict[str, float]]]:
            owners = [(name, applications[name]) for name in placed.get(node_id, [])]
            return [(name, owner.resources.amounts if owner else NO_COST) for name, owner in owners]

        # Replicas that stop free their resources by themselves: the needs of the others are summed up instead of
        # Ray's report of free resources.
        free = []
        for other in self._ray.nodes():
            if other["node_id"] != node["node_id"] and not _drains(other):
                total, reserved = other["resources_total"], costs(other["node_id"])
                free.append({kind: total.get(kind, 0) - sum(cost[kind] for _, cost in reserved) for kind in KINDS})
        return missing_elsewhere(costs(node["node_id"]), free)

    def _start_drain(self, node_id: str) -> None:
        address = f"127.0.0.1:{HEAD_PORTS['port']}"
        # With a deadline Serve would stop replicas when it comes, wherever their successors are: a day is none.
        command = ["ray", "drain-node", f"--address={address}", f"--node-id={node_id}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=asked for by modelserve"]
        command += ["--deadline-remaining-seconds=86400"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if result.returncode != 0:
            text = (result.stderr.strip() or result.stdout.strip() or "no reason given").splitlines()[-1]
            raise UserError(f"Ray does not drain the node: {text}")


def _drains(node: dict[str, Any]) -> bool:
    return "DRAINING" in (node.get("state_message") or "").upper()


def _row(name: str, address: str, node: dict[str, Any] | None, replicas: Mapping[str, list[str]]) -> dict[str, Any]:
    placed = replicas.get(node["node_id"], []) if node else []
    state = "DOWN" if node is None else "DRAINING" if _drains(node) else "UP"
    return {
        "name": name,
        "address": node["node_ip"] if node else address,
        "state": state,
        "gpus": node["resources_total"].get("GPU", 0) if node else 0,
        "mig": node is not None and (node["labels"] or {}).get(GPU_LABEL) == MIG,
        "replicas": len(placed),
        "algorithms": sorted(set(placed)),
    }
