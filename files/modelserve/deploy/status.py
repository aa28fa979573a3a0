"""The status of what is served: a row per algorithm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from modelserve.config.routes import Served
from modelserve.serve.status import Statuses, status_text, target_replicas


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
    environment: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Return the row as a JSON document."""
        return asdict(self)


def algorithm_statuses(statuses: Statuses, served: Served | None, url: str) -> list[AlgorithmStatus]:
    """Return a row per application, sorted by name.

    Args:
        statuses: the applications in Serve.
        served: what the gateway answers; None when it has no configuration yet.
        url: the gateway's URL.
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
                environment=application.environment.path.name if application else "",
                message=status.message,
            )
        )
    return rows
