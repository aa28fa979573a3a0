"""Which nodes are there, what runs on them, and can one go? Reads Ray's and Serve's state; drains a node."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelserve.errors import UserError
from modelserve.ports import HEAD_PORTS
from modelserve.serve.api import RayAPI
from modelserve.settings import Settings
from modelserve.util.files import write_atomically

Progress = Callable[[str], None]
POLL_S = 0.5
HEAD = "head"
KINDS = ("GPU", "CPU", "memory")


class Nodes:
    """The cluster's nodes: the head, and the workers that Ansible named in ``workers.json``."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._ray = RayAPI(settings)

    def table(self) -> list[dict[str, Any]]:
        """One row per node: ``name``, ``address``, ``state`` (UP, DRAINING or AWAY), ``gpus``, ``replicas``.

        Raises:
            UserError: Ray does not answer.
        """
        alive = {node["name"]: node for node in self._ray.nodes()}
        replicas = self._replicas()
        rows = []
        for name, address in {HEAD: "", **self._settings.workers}.items():
            node = alive.pop(name, None)
            rows.append(_row(name, address, node, replicas))
        return rows + [_row(name, "", node, replicas) for name, node in alive.items()]

    def drain(self, name: str, timeout_s: float, force: bool = False) -> bool:
        """Move a worker's replicas to other nodes, and return when none runs there any more.

        Args:
            name: the worker's name in the inventory.
            timeout_s: how long that may take.
            force: go on though replicas are left, or find no room elsewhere.

        Returns:
            Whether the node was there at all; one that is off has nothing to drain.

        Raises:
            UserError: there is no such worker, its replicas have no room elsewhere (nothing was done then), or they
                did not get away in time.
        """
        if name == HEAD:
            raise UserError("the head cannot be drained", "Only workers can")
        node = next((node for node in self._ray.nodes() if node["name"] == name), None)
        if node is None:
            if name not in self._settings.workers:
                known = ", ".join(self._settings.workers) or "none"
                raise UserError(f"there is no worker {name}; known are: {known}", "Use its name in the inventory")
            return False
        here = self._replicas().get(node["node_id"], [])
        missing = "" if force else self._no_room(node, here)
        if missing:
            raise UserError(
                f"{name} cannot be drained: {missing}. Nothing was changed",
                "Lower replicas or gpu_cost in conf.ini, add a worker, or give -e modelserve_force=true",
            )
        self._start_drain(node["node_id"])
        deadline = time.monotonic() + timeout_s
        said = -1
        while left := self._replicas().get(node["node_id"], []):
            if len(left) != said:
                said = len(left)
                self._progress(f"{name}: {said} replicas to move ({', '.join(sorted(set(left)))})")
            if time.monotonic() > deadline:
                if force:
                    return True
                raise UserError(
                    f"{name}: {len(left)} replicas are still there after {timeout_s:.0f} s; nothing was removed",
                    "Try again, or give -e modelserve_force=true; playbooks/restart.yml puts the worker back to work",
                )
            time.sleep(POLL_S)
        return True

    def forget(self, name: str) -> None:
        """Take a worker, and a gateway on its host, off the lists that Ansible writes."""
        for file in ("workers.json", "gateways.json"):
            path = self._settings.home / file
            if path.exists():
                listed = {host: what for host, what in json.loads(path.read_text()).items() if host != name}
                write_atomically(path, json.dumps(listed, indent=4) + "\n")

    def _replicas(self) -> dict[str, list[str]]:
        """Names of the applications that have replicas on a node, one per replica, by node id."""
        found: dict[str, list[str]] = {}
        for name, application in self._ray.serve_details()["applications"].items():
            for deployment in application["deployments"].values():
                for replica in deployment["replicas"]:
                    # One that stops has its successor running already, and drains by itself; one without a node
                    # waits for room.
                    if replica["state"] not in ("STOPPING", "STOPPED") and replica.get("node_id"):
                        found.setdefault(replica["node_id"], []).append(name)
        return found

    def free(self, labels: Mapping[str, str] | None = None) -> dict[str, dict[str, float]]:
        """What nothing has reserved, by node and kind (``GPU``, ``CPU``, ``memory`` in bytes).

        Args:
            labels: only of nodes that have these (Ray's label selector: a value, or ``!`` and one it may not be).

        Nodes that are being drained are left out.
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

    def _no_room(self, node: dict[str, Any], replicas: list[str]) -> str:
        details = self._ray.serve_details()["applications"]
        costs = {name: cost_of(application.get("deployed_app_config") or {}) for name, application in details.items()}
        there = self._replicas()
        rooms = []
        # Replicas that stop give their share back by themselves: what the others need is counted, not Ray asked.
        for other in self._ray.nodes():
            if other["node_id"] != node["node_id"] and not _drains(other):
                taken = [costs[name] for name in there.get(other["node_id"], [])]
                total = other["resources_total"]
                rooms.append({kind: total.get(kind, 0) - sum(cost[kind] for cost in taken) for kind in KINDS})
        return no_room([(name, costs[name]) for name in replicas], rooms)

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


def no_room(replicas: Iterable[tuple[str, dict[str, float]]], rooms: list[dict[str, float]]) -> str:
    """What is missing to place replicas into free resources; empty when they fit (first fit, largest GPU share first).

    Args:
        replicas: name and cost of each, a cost having some of the keys ``GPU``, ``CPU`` and ``memory``.
        rooms: what is free on each node, the same way.
    """
    rooms = [dict(room) for room in rooms]
    for name, cost in sorted(replicas, key=lambda replica: replica[1]["GPU"], reverse=True):
        found = [room for room in rooms if fits(cost, room)]
        if not found:
            return f"a replica of {name} needs {amounts(cost) or 'a node'}, which no other node has free"
        for kind in cost:
            found[0][kind] -= cost[kind]
    return ""


def fits(cost: Mapping[str, float], room: Mapping[str, float]) -> bool:
    """Whether what is free on a node is enough for a replica."""
    return all(room.get(kind, 0) >= value - 1e-6 for kind, value in cost.items())


def amounts(values: Mapping[str, float], zero: bool = False) -> str:
    """Resources in words: ``0.5 GPU and 512 MiB memory``; with ``zero``, those of which there is none, too."""
    words = [
        f"{value / 2**20:.0f} MiB memory" if kind == "memory" else f"{value:g} {kind}"
        for kind, value in values.items()
        if value or zero
    ]
    return " and ".join(words)


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node's labels are what a selector asks for."""
    return all(
        labels.get(key) != value[1:] if value.startswith("!") else labels.get(key) == value
        for key, value in selector.items()
    )


def cost_of(application: Mapping[str, Any]) -> dict[str, float]:
    """What a replica of a Serve application reserves, by kind."""
    options = (application.get("deployments") or [{}])[0].get("ray_actor_options") or {}
    given = {"GPU": options.get("num_gpus"), "CPU": options.get("num_cpus"), "memory": options.get("memory")}
    return {kind: value or 0 for kind, value in given.items()}


def _drains(node: dict[str, Any]) -> bool:
    return "DRAINING" in (node.get("state_message") or "").upper()


def _row(name: str, address: str, node: dict[str, Any] | None, replicas: dict[str, list[str]]) -> dict[str, Any]:
    there = replicas.get(node["node_id"], []) if node else []
    state = "AWAY" if node is None else "DRAINING" if _drains(node) else "UP"
    return {
        "name": name,
        "address": node["node_ip"] if node else address,
        "state": state,
        "gpus": node["resources_total"].get("GPU", 0) if node else 0,
        "replicas": len(there),
        "algorithms": sorted(set(there)),
    }
