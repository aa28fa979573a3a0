"""The configuration of a gateway: HAProxy's text, the files that it names, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from modelserve import hashing
from modelserve.config.routes import ALGORITHM_HEADER, Served, Share
from modelserve.gateway.haproxy import (
    HEALTH_PATH,
    RELEASE_FILE,
    VERSION_HEADER,
    Configuration,
    Written,
    gateway_directory,
    url_of,
)
from modelserve.ports import SERVICE_PORTS
from modelserve.security import certificates
from modelserve.security.keys import Keys, table
from modelserve.serve.application import RETRY_AFTER_S
from modelserve.settings import RemoteGateway, Settings

TEMPLATE = Path(__file__).with_name("haproxy.cfg.j2")
# The files that a configuration names.
TLS, CLIENTS = "tls", "clients"
SUFFIX: Mapping[str, str] = {TLS: ".pem", CLIENTS: ".map"}
# Requests without a key that are allowed from one address in ten seconds.
UNAUTHENTICATED_RATE = 100
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
    files = _files(settings)
    names = {kind: f"{kind}-{hashing.of_value(content)}{SUFFIX[kind]}" for kind, content in files.items()}
    paths = {kind: gateway_directory(settings.home) / name for kind, name in names.items()}
    text = render(served, settings, paths.get(TLS), paths.get(CLIENTS), remote)
    version = hashing.of_value(text)
    url = url_of(_bind(settings, remote)[0], served.port, settings.gateway_tls)
    return Configuration(
        text=text.replace(VERSION, version),
        version=version,
        files={names[kind]: content for kind, content in files.items()},
        written=Written(url=url, keys=settings.gateway_keys, **served.model_dump()),
        release=release,
    )


def _files(settings: Settings) -> dict[str, str]:
    files = {}
    if settings.gateway_tls:
        files[TLS] = certificates.ensure(settings)
    if settings.gateway_keys:
        keys = Keys(settings)
        files[CLIENTS] = table(keys.all(), keys.internal())
    return files


def _bind(settings: Settings, remote: RemoteGateway | None) -> tuple[str, ...]:
    return settings.gateway_bind if remote is None else remote.bind


def render(
    served: Served,
    settings: Settings,
    tls: Path | None = None,
    clients: Path | None = None,
    remote: RemoteGateway | None = None,
) -> str:
    """Return the text of HAProxy's configuration.

    Args:
        served: the port that clients call, and the algorithms behind the routes.
        settings: limits for clients, and the addresses of the Serve ingresses.
        tls: file with certificate and key, where the gateway uses HTTPS.
        clients: file with the clients' rights (:func:`modelserve.security.keys.table`), where clients need a key.
        remote: the gateway on another host; None: the head's.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text())
    # The last route that matches wins: a longer one comes after those that it begins with.
    routes = [_Route(route, shares) for route, shares in sorted(served.routes.items(), key=lambda item: len(item[0]))]
    head = "127.0.0.1" if remote is None else remote.head
    return template.render(
        port=served.port,
        settings=settings,
        bind=_bind(settings, remote),
        ingresses=[f"{address}:{settings.serve_port}" for address in (head, *settings.workers.values())],
        tls=tls,
        clients=clients,
        health_path=HEALTH_PATH,
        version_header=VERSION_HEADER,
        version=VERSION,
        unauthenticated_rate=UNAUTHENTICATED_RATE,
        retry_after=RETRY_AFTER_S,
        release=gateway_directory(settings.home) / RELEASE_FILE,
        catalog=f"{head}:{SERVICE_PORTS['catalog']}",
        routes=routes,
        header=ALGORITHM_HEADER,
    )


class _Route:
    """A route for HAProxy's rules, which name an algorithm by its prefix in plain ASCII.

    Attributes:
        path: the route with a slash before it.
        pattern: regular expression for its path.
        algorithms: the algorithms that answer it.
        first: each algorithm that has a weight, with the smallest of its numbers in a weighted random split.
        total: sum of the weights; the split draws a number below it.
    """

    def __init__(self, route: str, shares: Sequence[Share]) -> None:
        self.path = f"/{route}"
        self.pattern = f"^/{route}".replace(".", "[.]")
        self.algorithms = [share.prefix.lstrip("/") for share in shares]
        self.total = 0
        self.first: list[tuple[str, int]] = []
        for algorithm, share in zip(self.algorithms, shares, strict=True):
            if share.weight:
                self.first.append((algorithm, self.total))
            self.total += share.weight
