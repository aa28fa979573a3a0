"""The readiness of the algorithms, by Serve's details, and by a direct request where Serve cannot tell."""

from __future__ import annotations

import socket
import time
import urllib.error
from collections import Counter
from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from modelserve.config.routes import Served, Share
from modelserve.errors import UserError
from modelserve.gateway.haproxy import SERVED, Written, gateway_directory, read_served
from modelserve.gateway.targets import Target, Targets
from modelserve.serve.api import RayAPI
from modelserve.serve.contract import SCHEMA_PATH
from modelserve.serve.status import FAILURES, MIGRATING, SCALING, ApplicationStatus, Replica, Statuses, statuses_of
from modelserve.settings import Settings
from modelserve.util.http import direct_opener

API_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 1.0  # between hosts of a cluster it takes milliseconds
PROBE_TIMEOUT_S = 2.0
PROBES = 32
LOCALHOST = "127.0.0.1"
# Serve sends requests to replicas in these states.
SERVING = ("RUNNING", MIGRATING)
# In these, Serve has just lost sight of a replica, or changes it in place.
UNSURE = ("RECOVERING", "UPDATING")
_OPENER = direct_opener()


@dataclass(frozen=True)
class Readiness:
    """The readiness of an algorithm.

    Attributes:
        ready: whether it answers requests.
        info: the reason, in one line.
        replicas: number of running replicas; None: not known.
    """

    ready: bool
    info: str
    replicas: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The state of the cluster at one time.

    Attributes:
        served: what the gateway serves; None: nothing yet.
        applications: Serve's details by name; None: Ray's API did not answer.
        algorithms: readiness by name.
        degraded_reason: why less is known than normal, in one line; empty: nothing is missing.
    """

    served: Written | None = None
    applications: Statuses | None = None
    algorithms: Mapping[str, Readiness] = field(default_factory=dict)
    degraded_reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether every algorithm is ready. A gateway without a configuration is not."""
        return self.served is not None and all(readiness.ready for readiness in self.algorithms.values())

    @property
    def info(self) -> str:
        """The state in one line."""
        if self.served is None:
            return self.degraded_reason or "nothing is deployed yet"
        reasons = [f"{name}: {readiness.info}" for name, readiness in self.algorithms.items() if not readiness.ready]
        reasons += [self.degraded_reason] if self.degraded_reason else []
        return "; ".join(reasons) or "all that is served is ready"

    def as_dict(self) -> dict[str, Any]:
        """Return the answer of ``/readyz``."""
        algorithms = {name: asdict(readiness) for name, readiness in self.algorithms.items()}
        return {"status": "ok" if self.ready else "not ready", "info": self.info, "algorithms": algorithms}


def judge(details: ApplicationStatus | None, unreachable: Container[str] = ()) -> Readiness | None:
    """Return the readiness of an application by Serve's details; None where Serve cannot tell.

    Args:
        details: the application in Serve, None where Serve does not know it.
        unreachable: ids of replicas that accept no connection. Serve keeps those of a lost host for half a minute.
    """
    if details is None:
        return Readiness(False, "Serve does not run it", 0)
    deployments = details.deployments.values()
    states = Counter(replica.state for replica in details.replicas)
    serving = serving_replicas(details)
    running = sum(replica.replica_id not in unreachable for replica in serving)
    if running:
        target = max(details.target_num_replicas, running)
        return Readiness(True, f"{running} of {target} replicas running", running)
    if serving or any(states[state] for state in UNSURE):
        return None
    if details.status in FAILURES:
        return Readiness(False, f"no replica runs: {details.failure}", 0)
    application = details.application
    steady = bool(deployments) and all(deployment.status in SCALING for deployment in deployments)
    if application and application.scales_to_zero and steady and details.status != "DELETING":
        return Readiness(True, "scaled to zero; a request starts a replica", 0)
    waiting = f", {states['STARTING']} starting" if states["STARTING"] else ""
    return Readiness(False, f"no replica runs{waiting}", 0)


class Observer:
    """Takes snapshots of the cluster. Its methods block.

    Args:
        settings: the head's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._gateway = gateway_directory(settings.home)
        self._api = RayAPI(settings, API_TIMEOUT_S)
        # In parallel: an address that does not answer delays no other.
        self._pool = ThreadPoolExecutor(PROBES, thread_name_prefix="probe")

    def snapshot(self) -> Snapshot:
        """Return what is served now, and whether it is ready."""
        try:
            served = read_served(self._gateway / SERVED)
        except UserError as error:
            return Snapshot(degraded_reason=str(error))
        if served is None:
            return Snapshot()
        shares = shares_of(served)
        try:
            applications = statuses_of(self._api.serve_details())
        except UserError as error:
            reason = f"{error.problems[0].message}: each algorithm was asked directly"
            return Snapshot(served, None, self._probe_all(shares), reason)
        unreachable = self._unreachable(applications)
        judged = {name: judge(applications.get(name), unreachable) for name in shares}
        probed = self._probe_all({name: share for name, share in shares.items() if judged[name] is None})
        return Snapshot(served, applications, {name: judged[name] or probed[name] for name in shares})

    def _unreachable(self, applications: Statuses) -> set[str]:
        """Return the ids of replicas that should answer and accept no connection."""
        serving = {replica.replica_id for details in applications.values() for replica in serving_replicas(details)}
        known = Targets.load(self._gateway).algorithms.values()
        targets = [target for group in known for target in group if target.replica in serving]
        answers = self._pool.map(_accepts, targets)
        return {target.replica for target, accepts in zip(targets, answers, strict=True) if not accepts}

    def _probe_all(self, shares: Mapping[str, Share]) -> dict[str, Readiness]:
        return dict(zip(shares, self._pool.map(self._probe, shares.values()), strict=True))

    def _probe(self, share: Share) -> Readiness:
        """Send a request to one replica of an algorithm after the other, until one answers."""
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        problem = "no replica is known"
        for target in Targets.load(self._gateway).of(share.backend):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            try:
                get(f"http://{target.endpoint}{share.prefix}{SCHEMA_PATH}", left_s)
                return Readiness(True, "it answers, asked directly")
            except urllib.error.HTTPError as error:
                problem = f"asked directly, the answer is {error.code}"
            except (OSError, ValueError) as error:
                problem = f"asked directly, it does not answer: {getattr(error, 'reason', error)}"
        return Readiness(False, problem)


def _accepts(target: Target) -> bool:
    try:
        socket.create_connection((target.address, target.port), CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def shares_of(served: Served) -> dict[str, Share]:
    """Return the algorithms behind all routes by name."""
    return {share.name: share for shares in served.routes.values() for share in shares}


def serving_replicas(details: ApplicationStatus) -> list[Replica]:
    """Return the replicas that Serve sends requests to."""
    return [replica for replica in details.replicas if replica.state in SERVING]


def get(url: str, timeout_s: float) -> bytes:
    """Return the body of a successful answer.

    Args:
        url: a URL within the cluster.
        timeout_s: time limit of the connection and of each read, in seconds.

    Raises:
        OSError: there is no answer, or one with another status (``HTTPError``).
    """
    with _OPENER.open(url, timeout=timeout_s) as response:
        content: bytes = response.read()
        return content
