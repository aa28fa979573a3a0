"""What is served here, is it ready, and how is it asked? Reads what the controller says is served, asks Serve."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from modelserve import __version__
from modelserve.catalog import openapi
from modelserve.config.routes import Served, Share
from modelserve.errors import UserError
from modelserve.gateway.haproxy import SERVED, Written, read_served
from modelserve.serve.api import RayAPI
from modelserve.serve.contract import UserConfig
from modelserve.serve.status import (
    FAILURES,
    SCALING,
    ApplicationStatus,
    Replica,
    Statuses,
    at_target,
    status_text,
    statuses_of,
)
from modelserve.settings import Settings

# However often it is asked: how old the answer of Serve may be.
AGE_S = 1.0
API_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 1.0  # between hosts of a cluster it takes milliseconds
PROBE_TIMEOUT_S = 2.0
SCHEMA_TIMEOUT_S = 5.0
# How soon a schema is asked for again that could not be had, or may still be an old replica's.
SCHEMA_RETRY_S = 5.0
SCHEMA_PATH = "/schema"
# Requests go to replicas in these states; in the others Serve has just lost sight of them, or changes them in place.
SERVING = ("RUNNING", "PENDING_MIGRATION")
UNSURE = ("RECOVERING", "UPDATING")
# No proxy: what is asked is within the cluster, whatever the environment says of the outside.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Readiness:
    """Whether an algorithm answers requests: ``info`` says why (not), in one line; ``replicas`` run, if known."""

    ready: bool
    info: str
    replicas: int | None = None


@dataclass(frozen=True)
class Look:
    """What one look found.

    Attributes:
        served: what is behind the gateway; None: nothing yet.
        applications: Serve's details by name; None: Ray's API did not answer.
        algorithms: by name, whether it is ready.
        trouble: why less is known than should be, in one line; empty: nothing.
    """

    served: Written | None = None
    applications: Statuses | None = None
    algorithms: Mapping[str, Readiness] = field(default_factory=dict)
    trouble: str = ""

    @property
    def ready(self) -> bool:
        """Whether all that is served is ready; nothing is not."""
        return self.served is not None and all(one.ready for one in self.algorithms.values())

    @property
    def info(self) -> str:
        """The whole in one line."""
        if self.served is None:
            return self.trouble or "nothing is deployed yet"
        missing = [f"{name}: {one.info}" for name, one in self.algorithms.items() if not one.ready]
        return "; ".join([*missing, *([self.trouble] if self.trouble else [])]) or "all that is served is ready"

    def as_dict(self) -> dict[str, Any]:
        status = "ok" if self.ready else "not ready"
        return {"status": status, "info": self.info, "algorithms": {k: asdict(v) for k, v in self.algorithms.items()}}


def judge(details: ApplicationStatus | None, silent: Container[str] = ()) -> Readiness | None:
    """Whether an application is ready by Serve's details of it; None where Serve itself cannot know.

    Args:
        details: the application in Serve, None where Serve does not know it.
        silent: nodes' addresses that do not answer: it takes Serve half a minute to give up replicas on a lost host.
    """
    if details is None:
        return Readiness(False, "Serve does not run it", 0)
    deployments = details.deployments.values()
    states = Counter(replica.state for replica in details.replicas)
    serving = _serving(details)
    running = sum(replica.node_ip not in silent for replica in serving)
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
        return Readiness(True, "it rests; a request starts a replica", 0)
    waiting = f", {states['STARTING']} starting" if states["STARTING"] else ""
    return Readiness(False, f"no replica runs{waiting}", 0)


class Catalog:
    """Looks at the cluster, at most once a second however often it is asked, and never on the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.home / "gateway" / SERVED
        self._serve_port = settings.serve_port
        self._api = RayAPI(settings, API_TIMEOUT_S)
        # Asked all at once: one that hangs holds up nobody.
        self._probes = ThreadPoolExecutor(32, thread_name_prefix="probe")
        self._schemas = Schemas(f"http://127.0.0.1:{settings.serve_port}")
        self._lock = asyncio.Lock()
        self._last = Look()
        self._taken = float("-inf")
        # What Serve said last, for what does not change behind its back: where it runs, what it was told.
        self._known: Statuses | None = None
        self._hosts: tuple[str, ...] = ("127.0.0.1",)

    async def look(self) -> Look:
        """What is served, and whether it is ready; a second old at most."""
        async with self._lock:
            if time.monotonic() - self._taken > AGE_S:
                self._last = await asyncio.to_thread(self._look)
                self._taken = time.monotonic()
            return self._last

    async def document(self) -> dict[str, Any]:
        """The OpenAPI document of what is served.

        Raises:
            UserError: what is served cannot be known now.
        """
        look = await self.look()
        if look.served is None and look.trouble:
            raise UserError(look.trouble)
        if look.served is None or not look.served.routes:
            return openapi.document({}, __version__)
        if self._known is None:
            raise UserError(f"nothing is known of the algorithms yet: {look.trouble}")
        known, current = self._known, look.applications is not None
        algorithms = await asyncio.to_thread(self._schemas.read, _shares(look.served).values(), known, current)
        routes = {
            route: [(algorithms[share.name], share.weight) for share in shares if share.name in algorithms]
            for route, shares in look.served.routes.items()
        }
        answered = {route: answering for route, answering in routes.items() if answering}
        return openapi.document(answered, __version__, look.served.keys)

    def _look(self) -> Look:
        try:
            served = read_served(self._file)
        except UserError as error:
            return Look(trouble=str(error))
        if served is None:
            return Look()
        trouble = ""
        try:
            applications = self._ask_serve()
        except UserError as error:
            applications, trouble = None, f"{error.problems[0].message}: each algorithm was asked directly"
        shares = _shares(served)
        silent = self._silent(applications) if applications is not None else set()
        found = {name: judge(applications.get(name), silent) if applications is not None else None for name in shares}
        unsure = [share for name, share in shares.items() if found[name] is None]
        probed = dict(zip([share.name for share in unsure], self._probes.map(self._probe, unsure), strict=True))
        algorithms = {name: found[name] or probed[name] for name in shares}
        return Look(served, applications, algorithms, trouble)

    def _ask_serve(self) -> Statuses:
        """Serve's details of the applications, by name.

        Raises:
            UserError: Ray's API does not answer.
        """
        details = self._api.serve_details()
        applications = statuses_of(details)
        proxies = (proxy.get("node_ip") for proxy in (details.get("proxies") or {}).values())
        self._hosts = tuple(dict.fromkeys(["127.0.0.1", *(host for host in proxies if host)]))
        self._known = applications
        return applications

    def _silent(self, applications: Statuses) -> set[str]:
        """Addresses of nodes that have replicas, and whose ingress takes no connection."""
        found = {replica.node_ip for details in applications.values() for replica in _serving(details)}
        hosts = [host for host in found if host]

        def answers(host: str) -> bool:
            try:
                socket.create_connection((host, self._serve_port), CONNECT_TIMEOUT_S).close()
            except OSError:
                return False
            return True

        return {host for host, there in zip(hosts, self._probes.map(answers, hosts), strict=True) if not there}

    def _probe(self, share: Share) -> Readiness:
        """Ask an algorithm end to end: the nodes' ingresses one after the other, until one's replica answers."""
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        problem = "no ingress answers"
        for host in self._hosts:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                _get(f"http://{host}:{self._serve_port}{share.prefix}{SCHEMA_PATH}", left)
                return Readiness(True, "it answers, asked directly")
            except urllib.error.HTTPError as error:
                problem = f"asked directly, the answer is {error.code}"
            except (OSError, ValueError) as error:
                problem = f"asked directly, it does not answer: {getattr(error, 'reason', error)}"
        return Readiness(False, problem)


def _shares(served: Served) -> dict[str, Share]:
    """The algorithms by name."""
    return {share.name: share for shares in served.routes.values() for share in shares}


@dataclass(frozen=True)
class _Known:
    """A schema document that an algorithm gave (None: it gave none), for which configuration, and when."""

    key: str
    document: Mapping[str, Any] | None
    final: bool
    at: float


class Schemas:
    """The algorithms' schemas: asked of their replicas when their configuration changes, and remembered."""

    def __init__(self, ingress: str) -> None:
        """Args: ``ingress`` is the URL of Serve's ingress."""
        self._ingress = ingress
        self._remembered: dict[str, _Known] = {}

    def read(self, shares: Iterable[Share], applications: Statuses, current: bool) -> dict[str, openapi.Algorithm]:
        """The algorithms that are known, by name.

        Args:
            shares: what is served.
            applications: Serve's details by name.
            current: whether these are of now; nothing is asked otherwise.
        """
        known = {share.name: share for share in shares if share.name in applications}
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda share: self._algorithm(share, applications[share.name], current), known.values())
            return dict(zip(known, found, strict=True))

    def _algorithm(self, share: Share, details: ApplicationStatus, current: bool) -> openapi.Algorithm:
        application = details.application
        options = application.user_config if application else UserConfig()
        key = json.dumps(details.deployed_app_config, sort_keys=True)
        remembered = self._remembered.get(share.name)
        if current and not self._holds(remembered, key) and _serving(details):  # none is woken
            remembered = _Known(key, self._ask(share), _settled(details), time.monotonic())
            self._remembered[share.name] = remembered
        schema = remembered.document if remembered is not None and remembered.key == key else None
        note = "" if schema else "Its types are known once a replica runs."
        schema = schema or {}
        return openapi.Algorithm(
            name=share.name,
            methods=tuple(application.args.methods) if application else ("GET",),
            input=schema.get("input", openapi.UNTYPED),
            output=schema.get("output", {}),
            example=options.warmup,
            queue=options.max_queued_requests,
            timeout_s=options.request_timeout,
            note=note,
        )

    def _holds(self, remembered: _Known | None, key: str) -> bool:
        if remembered is None or remembered.key != key:
            return False
        return (remembered.final and remembered.document is not None) or (
            time.monotonic() - remembered.at < SCHEMA_RETRY_S
        )

    def _ask(self, share: Share) -> Mapping[str, Any] | None:
        try:
            document = json.loads(_get(f"{self._ingress}{share.prefix}{SCHEMA_PATH}", SCHEMA_TIMEOUT_S))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None


def _serving(details: ApplicationStatus) -> list[Replica]:
    """Return the replicas that Serve sends requests to."""
    return [replica for replica in details.replicas if replica.state in SERVING]


def _settled(details: ApplicationStatus) -> bool:
    """Whether who answers has the configuration that is deployed: during an update, old replicas answer too."""
    target = details.application
    return target is not None and status_text(details) == "RUNNING" and at_target(details, target)


def _get(url: str, timeout_s: float) -> bytes:
    """What an URL answers with 2xx.

    Raises:
        OSError: it answers with something else (``HTTPError``), or not at all.
    """
    with _OPENER.open(url, timeout=timeout_s) as response:
        content: bytes = response.read()
        return content
