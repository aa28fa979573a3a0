"""Reads why replicas died from Ray on the head: its state, and the ends of logs on all nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from modelserve.serve.api import RayAPI
from modelserve.serve.deaths import CRASHED, DeadReplica, Death, Evidence, controller_reasons, dead_replicas, death_of

# Logs are read of so many replicas, the last that died: a crash loop leaves thousands.
MAX_REPLICAS = 100
LOG_LINES = 30
ERROR_LINES = 200
CONTROLLER_LINES = 20_000
_CONTROLLER_LOG = re.compile(r"serve/controller_\d+\.log(\.\d+)?")


def read_deaths(ray: RayAPI, algorithm: str = "", since: float = 0) -> list[Death]:
    """Return the replicas that died, other than by an update, a scale-down or a removal, in the order of time.

    Args:
        ray: Ray's REST API.
        algorithm: only its replicas; empty: of all algorithms.
        since: only later deaths, in seconds since the epoch.

    Raises:
        UserError: Ray does not answer.
    """
    actors = ray.dead_actors(f"ServeReplica:{algorithm}:{algorithm}" if algorithm else "")
    if not actors:
        return []
    nodes = ray.nodes(dead=True)
    dead = [replica for replica in dead_replicas(actors, ray.dead_workers(), nodes) if replica.time >= since]
    alive = {node["node_id"] for node in nodes if node.get("state") == "ALIVE"}
    stopped = _stopped(ray, dead, nodes)
    died = [replica for replica in dead if not replica.stopped or replica.replica_id in stopped]
    deaths = []
    for number, replica in enumerate(died, 1):
        readable = replica.node_id in alive and number > len(died) - MAX_REPLICAS
        death = death_of(replica, _evidence(ray, replica, stopped, readable))
        if death is not None:
            deaths.append(death)
    return deaths


def _stopped(ray: RayAPI, dead: Iterable[DeadReplica], nodes: list[dict[str, object]]) -> dict[str, str]:
    """Return why the controller stopped replicas, by replica id; read only where it stopped one."""
    if not any(replica.stopped for replica in dead):
        return {}
    reasons: dict[str, str] = {}
    for node in nodes:  # the controller runs on the head
        if node.get("is_head_node") and node.get("state") == "ALIVE":
            node_id = str(node["node_id"])
            files = [
                file for file in ray.log_files(node_id, "serve/controller_*.log*") if _CONTROLLER_LOG.fullmatch(file)
            ]
            for file in files:
                reasons |= controller_reasons(ray.log_lines(node_id, file, CONTROLLER_LINES))
    return reasons


def _evidence(ray: RayAPI, replica: DeadReplica, stopped: dict[str, str], readable: bool) -> Evidence:
    controller = stopped.get(replica.replica_id, "")
    if not readable:
        return Evidence(controller, complete=False)
    log = tuple(ray.log_lines(replica.node_id, replica.log_file, LOG_LINES))
    needs_errors = not replica.reason and (not replica.stopped or controller == CRASHED)
    errors = tuple(ray.log_lines(replica.node_id, replica.error_file, ERROR_LINES)) if needs_errors else ()
    return Evidence(controller, log, errors)
