"""The configuration of a gateway: HAProxy's text, the files that it names, and what it was made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from modelserve import hashing
from modelserve.config.routes import ALGORITHM_HEADER, Limits, Served
from modelserve.gateway.haproxy import (
    HEALTH_PATH,
    RELEASE_FILE,
    TARGETS_HEADER,
    VERSION_HEADER,
    VERSIONS_FILE,
    Configuration,
    Written,
    gateway_directory,
    url_of,
)
from modelserve.ports import SERVICE_PORTS
from modelserve.security import certificates
from modelserve.security.keys import Keys, table
from modelserve.serve.contract import QUEUED_HEADER
from modelserve.settings import RemoteGateway, Settings
from modelserve.util.endpoints import endpoint

TEMPLATE = Path(__file__).with_name("haproxy.cfg.j2")
# The files that a configuration names.
TLS, CLIENTS, ROUTES, CHOICES = "tls", "clients", "routes", "choices"
SUFFIX: Mapping[str, str] = {TLS: ".pem", CLIENTS: ".map", ROUTES: ".map", CHOICES: ".map"}
# Requests without a key that are allowed from one address in ten seconds.
UNAUTHENTICATED_RATE = 100
# The longest request body, for requests whose length the gateway does not know: the replica counts.
MAX_BODY_HEADER = "X-Modelserve-Max-Body"
# The options of a server, which HAProxy's "add server" takes too. A refused connection marks a replica as down at once,
# a failed health check within a second; one whose host is gone or whose event loop is blocked, after two checks of 3 s.
SERVER_OPTIONS = (
    "check inter 500ms fastinter 250ms downinter 250ms fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down"
)
# A request without a request_timeout waits so long for a replica.
QUEUE_TIMEOUT_S = 300.0
# Longest "timeout queue" with which HAProxy's priority offsets work is 524 s.
MAX_QUEUE_TIMEOUT_S = 480.0
# Beyond request_timeout, after which the replica itself answers.
SERVER_GRACE_S = 5.0
# In a queue, a request comes so much later for each request that its key has in flight. Less than a request takes would
# let a key with many requests hold up the others; HAProxy's offsets end at 524 s.
FAIRNESS_MS = 1000
VERSION = "@VERSION@"  # stands in the template's text for the hash of the rest


def build(served: Served, settings: Settings, release: str, remote: RemoteGateway | None = None) -> Configuration:
    """Return the configuration of a gateway.

    Args:
        served: the port that clients call, and the algorithms behind the routes.
        settings: the head's settings.
        release: number of the release that is served.
        remote: the gateway on another host; None: the head's.

    Raises:
        UserError: the site's certificate or the clients' keys are not valid.
    """
    files = _files(served, settings)
    names = {kind: f"{kind}-{hashing.of_value(content)}{SUFFIX[kind]}" for kind, content in files.items()}
    paths = {kind: gateway_directory(settings.home) / name for kind, name in names.items()}
    text = render(served, settings, paths, remote)
    version = hashing.of_value(text)
    url = url_of(_bind(settings, remote)[0], served.port, settings.gateway_tls)
    return Configuration(
        text=text.replace(VERSION, version),
        version=version,
        files={names[kind]: content for kind, content in files.items()},
        written=Written(url=url, keys=settings.gateway_keys, **served.model_dump()),
        release=release,
    )


def _files(served: Served, settings: Settings) -> dict[str, str]:
    files = {ROUTES: routes_table(served), CHOICES: choices_table(served)}
    if settings.gateway_tls:
        files[TLS] = certificates.ensure(settings)
    if settings.gateway_keys:
        keys = Keys(settings)
        files[CLIENTS] = table(keys.all(), keys.internal())
    return files


def _bind(settings: Settings, remote: RemoteGateway | None) -> tuple[str, ...]:
    return settings.gateway_bind if remote is None else remote.bind


def routes_table(served: Served) -> str:
    """Return HAProxy's map of routes: a path's beginning, which ends in a slash, and the route."""
    return "".join(f"/{route}/ /{route}\n" for route in served.routes)


def choices_table(served: Served) -> str:
    """Return HAProxy's map of a route's algorithms.

    ``/route=`` is the only one; ``/route=3`` that of a number below the sum of the weights, which is at ``/route?``;
    ``/route@name`` one that the request names.
    """
    return "".join(f"{key} {choice}\n" for key, choice in _choices(served))


def _choices(served: Served) -> Iterator[tuple[str, str]]:
    for route, shares in served.routes.items():
        weighted = [share for share in shares if share.weight]
        divisor = math.gcd(*(share.weight for share in weighted)) or 1
        numbers = [share.backend for share in weighted for _ in range(share.weight // divisor)]
        if len(weighted) == 1:
            yield f"/{route}=", weighted[0].backend
        else:
            yield f"/{route}?", str(len(numbers))
            yield from ((f"/{route}={number}", backend) for number, backend in enumerate(numbers))
        yield from ((f"/{route}@{share.backend}", share.backend) for share in shares)


def render(served: Served, settings: Settings, files: Mapping[str, Path], remote: RemoteGateway | None = None) -> str:
    """Return the text of HAProxy's configuration, with a line in the place of each algorithm's replicas.

    Args:
        served: the port that clients call, and the algorithms behind the routes.
        settings: limits for clients, and the addresses of the gateways.
        files: path of each file that the configuration names.
        remote: the gateway on another host; None: the head's.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text())
    head = "127.0.0.1" if remote is None else remote.head
    gateways = 1 + len(settings.gateways)
    shares = {share.backend: share.limits for shares in served.routes.values() for share in shares}
    return template.render(
        port=served.port,
        settings=settings,
        bind=_bind(settings, remote),
        endpoint=endpoint,
        serve=endpoint(head, settings.serve_port),
        **{kind: files.get(kind) for kind in SUFFIX},
        health_path=HEALTH_PATH,
        version_header=VERSION_HEADER,
        targets_header=TARGETS_HEADER,
        max_body_header=MAX_BODY_HEADER,
        queued_header=QUEUED_HEADER,
        version=VERSION,
        unauthenticated_rate=UNAUTHENTICATED_RATE,
        fairness_ms=FAIRNESS_MS,
        directory=gateway_directory(settings.home),
        release_file=RELEASE_FILE,
        targets_file=VERSIONS_FILE,
        catalog=endpoint(head, SERVICE_PORTS["catalog"]),
        algorithms=dict(sorted(shares.items())),
        server_options=SERVER_OPTIONS,
        queue_timeout_ms=queue_timeout_ms,
        server_timeout_ms=lambda limits: round(((limits.request_timeout or 0) + SERVER_GRACE_S) * 1000),
        # Each gateway has a queue of its own.
        queue_limit=lambda limits: math.ceil((limits.max_queued_requests or 0) / gateways),
        header=ALGORITHM_HEADER,
    )


def queue_timeout_ms(limits: Limits) -> int:
    """Return how long a request waits for a replica, in milliseconds."""
    return round(1000 * min(limits.request_timeout or QUEUE_TIMEOUT_S, MAX_QUEUE_TIMEOUT_S))
