"""The replicas that gateways send requests to, learnt from Serve's details.

Source: ``TargetGroup`` and ``Target`` of ``ray/serve/schema.py``, Ray 2.60. Serve lists there the replicas that are
RUNNING or migrate, with their ports, and its own proxy for an application without replicas. A replica that Serve
changes in place, stops or finds again after a restart of the head is missing, though it answers: such a one is
remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from modelserve import hashing
from modelserve.errors import UserError
from modelserve.serve.status import Statuses, statuses_of
from modelserve.util.endpoints import endpoint

FILE = "targets.json"
# The name of a replica's actor, ``SERVE_REPLICA::<application>#<deployment>#<replica>``; that of a proxy is another.
REPLICA_MARK = "SERVE_REPLICA::"
HTTP = "HTTP"


class GroupTarget(BaseModel):
    """A replica or a proxy in Serve's details: its address, its port, and the name of its actor."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    ip: str
    port: int
    name: str


class Group(BaseModel):
    """What answers an application, in Serve's details."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    targets: tuple[GroupTarget, ...]
    route_prefix: str
    protocol: str
    app_name: str = ""


class Target(BaseModel):
    """A replica.

    Attributes:
        replica: its id.
        address: its address in the cluster.
        port: its TCP port.
        serving: whether Serve sends requests to it.
        stopping: whether Serve stops it once its requests are answered.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    replica: str
    address: str
    port: int
    serving: bool = True
    stopping: bool = False

    @property
    def endpoint(self) -> str:
        """The address and the port, as HAProxy writes them."""
        return endpoint(self.address, self.port)


class Targets(BaseModel):
    """The replicas of each algorithm, by its prefix without the slash."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    algorithms: Mapping[str, tuple[Target, ...]] = {}

    @classmethod
    def load(cls, directory: Path) -> Targets:
        """Return the content of ``targets.json``; nothing where there is no such file, or a damaged one.

        Args:
            directory: the gateway's directory.
        """
        try:
            return cls.model_validate_json((directory / FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return cls()

    def of(self, algorithm: str) -> tuple[Target, ...]:
        """Return the replicas of an algorithm."""
        return self.algorithms.get(algorithm, ())

    def version(self, algorithm: str) -> str:
        """Return what :func:`version_of` returns of the replicas that Serve sends requests to."""
        return version_of(target.replica for target in self.of(algorithm) if target.serving)

    def without(self, forgotten: Iterable[tuple[str, str]]) -> Targets:
        """Return the same without some replicas that Serve does not list.

        Args:
            forgotten: algorithm and replica of each.
        """
        gone = set(forgotten)
        algorithms = {
            algorithm: tuple(t for t in targets if t.serving or (algorithm, t.replica) not in gone)
            for algorithm, targets in self.algorithms.items()
        }
        return Targets(algorithms={algorithm: targets for algorithm, targets in algorithms.items() if targets})


def version_of(replicas: Iterable[str]) -> str:
    """Return a word that is the same for the same replicas; ``-`` for none."""
    names = sorted(replicas)
    return hashing.of_value(names) if names else "-"


def observe(details: Mapping[str, Any], known: Targets) -> Targets:
    """Return the replicas of a ``ServeInstanceDetails`` document, and those that were known before and are not in it.

    Args:
        details: the document.
        known: what the document before led to.

    Raises:
        UserError: it is not such a document.
    """
    try:
        groups = [Group.model_validate(group) for group in details.get("target_groups") or ()]
    except (ValidationError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"Ray's list of replicas is not what Ray 2.60 writes: {text}") from None
    stopping = _stopping(statuses_of(details))
    algorithms = {
        algorithm: {target.replica: _unlisted(target, stopping) for target in targets}
        for algorithm, targets in known.algorithms.items()
    }
    for group in groups:
        if group.protocol == HTTP:
            replicas = [target for target in group.targets if target.name.startswith(REPLICA_MARK)]
            listed = algorithms.setdefault(group.route_prefix.strip("/"), {})
            for target in replicas:
                replica = target.name.rpartition("#")[2]
                listed[replica] = Target(replica=replica, address=target.ip, port=target.port)
    return Targets(
        algorithms={
            algorithm: tuple(targets[replica] for replica in sorted(targets))
            for algorithm, targets in sorted(algorithms.items())
            if targets
        }
    )


def _stopping(statuses: Statuses) -> set[str]:
    return {replica.replica_id for status in statuses.values() for replica in status.replicas if replica.is_stopping}


def _unlisted(target: Target, stopping: set[str]) -> Target:
    stops = target.stopping or target.replica in stopping
    return target.model_copy(update={"serving": False, "stopping": stops})
