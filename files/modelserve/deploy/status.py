"""The status of what is served: a row per algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modelserve.config.routes import Served
from modelserve.serve.contract import OMP, cpu_threads_of
from modelserve.serve.deaths import Death
from modelserve.serve.status import ApplicationStatus, Statuses, status_text, target_replicas

# Deaths of replicas that a status shows are at most so old.
DEATHS_WITHIN_S = 3600


@dataclass(frozen=True)
class AlgorithmStatus:
    """An algorithm that is served.

    Attributes:
        name: the section's name.
        status: its status for users.
        route: its route with a slash, empty where the gateway has none.
        weight: its part of the route's requests, in percent.
        url: the URL that clients call.
        replicas: number of running replicas.
        wanted: number of replicas that Serve keeps to.
        gpu_cost: GPUs that a replica reserves.
        cpu_threads: threads of a replica's numeric libraries: a number per kind of node, as hosts may differ.
        environment: name of its environment in the store.
        message: cause of a failure.
    """

    name: str
    status: str
    route: str
    weight: float
    url: str
    replicas: int
    wanted: int
    gpu_cost: float
    cpu_threads: tuple[int, ...]
    environment: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Return the row as a JSON document."""
        return asdict(self)


def algorithm_statuses(
    statuses: Statuses,
    served: Served | None,
    url: str,
    cores: Mapping[str, int] | None = None,
    replicas_per_node: int = 1,
) -> list[AlgorithmStatus]:
    """Return a row per application, sorted by name.

    Args:
        statuses: the applications in Serve.
        served: what the gateway answers; None when it has no configuration yet.
        url: the gateway's URL.
        cores: cores of each node, by its id.
        replicas_per_node: replicas that share a node's cores (:class:`modelserve.store.manifest.Manifest`).
    """
    percentages = {} if served is None else served.percentages()
    rows = []
    for name, status in sorted(statuses.items()):
        application = status.application
        route, weight = percentages.get(name, ("", 0))
        rows.append(
            AlgorithmStatus(
                name=name,
                status=status_text(status),
                route=f"/{route}" if route else "",
                weight=weight,
                url=f"{url}/{route}" if route else "",
                replicas=len(status.replica_ids("RUNNING")),
                wanted=target_replicas(status, application),
                gpu_cost=application.resources.gpus if application else 0,
                cpu_threads=_cpu_threads(status, cores or {}, replicas_per_node),
                environment=application.environment.path.name if application else "",
                message=status.failure if status.message else "",
            )
        )
    return rows


def _cpu_threads(status: ApplicationStatus, cores: Mapping[str, int], replicas_per_node: int) -> tuple[int, ...]:
    """Return the numbers of CPU threads that replicas take which start on an application's nodes now."""
    application = status.application
    if application is None:
        return ()
    listed, threads = application.variables.get(OMP, ""), application.args.cpu_threads
    numbers = {
        cpu_threads_of(listed, threads, application.resources.cpus, cores[replica.node_id], replicas_per_node)
        for replica in status.replicas
        if replica.node_id is not None and replica.node_id in cores
    }
    return tuple(sorted(numbers))


def with_deaths(rows: Iterable[dict[str, Any]], deaths: Iterable[Death], now: float) -> list[dict[str, Any]]:
    """Return the rows with a field ``deaths``: the replicas that died in the last hour.

    It has their number as ``count`` and, of the last one, ``reason``, ``node`` and ``seconds_ago`` (None without one).

    Args:
        rows: rows of :func:`algorithm_statuses` as documents.
        deaths: the replicas that died, in the order of time.
        now: seconds since the epoch.
    """
    by_name: dict[str, list[Death]] = {}
    for death in deaths:
        if now - death.time <= DEATHS_WITHIN_S:
            by_name.setdefault(death.algorithm, []).append(death)
    return [{**row, "deaths": _summary(by_name.get(row["name"], []), now)} for row in rows]


def _summary(deaths: list[Death], now: float) -> dict[str, Any]:
    if not deaths:
        return {"count": 0, "reason": None, "node": None, "seconds_ago": None}
    last = deaths[-1]
    return {
        "count": len(deaths),
        "reason": last.reason,
        "node": last.node,
        "seconds_ago": max(0, round(now - last.time)),
    }
