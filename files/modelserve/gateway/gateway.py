"""What does the gateway do? Renders HAProxy's configuration, has the gateways load it, and sees that they did."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from modelserve import hashing
from modelserve.config.routes import ALGORITHM_HEADER, Served, Share
from modelserve.gateway import remote
from modelserve.gateway.haproxy import HEALTH_PATH, RELEASE_FILE, VERSION_HEADER, Configuration, Proxy, Written
from modelserve.ports import SERVICE_PORTS
from modelserve.security import certificates
from modelserve.security.keys import Keys, table
from modelserve.serve.application import RETRY_AFTER_S
from modelserve.settings import Elsewhere, Settings

TEMPLATE = Path(__file__).with_name("haproxy.cfg.j2")
# The files a configuration names.
TLS, CLIENTS = "tls", "clients"
SUFFIX = {TLS: ".pem", CLIENTS: ".map"}
# Requests without a key that one address may make in ten seconds.
STRANGER_RATE = 100
VERSION = "@VERSION@"  # in the template's text: the hash of the rest


class Gateway:
    """The gateway on the head, whose files lie in ``<home>/gateway``, and those on other hosts, which follow it.

    Args:
        settings: the head's.
        progress: gets a line for each gateway that is away.
    """

    def __init__(self, settings: Settings, progress: Callable[[str], None] = lambda line: None) -> None:
        self._settings = settings
        self._proxy = Proxy(settings.home)
        self._others = remote.Others(settings, progress)

    def served(self) -> Served | None:
        """What the present configuration answers; None where there is no configuration."""
        written = self._proxy.written()
        return None if written is None else Served(port=written.port, routes=written.routes)

    def url(self) -> str:
        """Where the head's gateway answers, as seen from the head; ``http://127.0.0.1:666``, say."""
        written = self._proxy.written()
        return written.url if written else ""

    def headers(self) -> dict[str, str]:
        """What a request of the controller's own needs to be let in."""
        return {"X-API-Key": Keys(self._settings).own()} if self._settings.gateway_keys else {}

    def configure(self, wanted: Served) -> bool:
        """Have every gateway answer so; no connection is lost.

        Args:
            wanted: the port clients call, and what answers the routes.

        Returns:
            Whether anything changed.

        Raises:
            UserError: the head's HAProxy refuses it: the old configuration is put back, and never stopped working. Or
                a gateway on another host answers, but not so: the others do.
        """
        with self._alone():
            return self._configure(wanted)

    def refresh(self) -> bool:
        """Configure it anew for the nodes, keys and certificate there are now, with the routes it has; nothing where
        it has none yet.

        Returns:
            Whether anything changed.

        Raises:
            UserError: as for :meth:`configure`.
        """
        with self._alone():
            served = self.served()
            return served is not None and self._configure(served)

    def name_release(self, number: int) -> None:
        """Have the log's lines say which release answers. Reloads nothing."""
        with self._alone():
            served = self.served()
            if served is not None and self._proxy.set_release(str(number)):
                self._others.publish({name: self._made(served, other) for name, other in self._elsewhere()})

    def _configure(self, wanted: Served) -> bool:
        changed = self._proxy.load(self._made(wanted))
        made = {name: self._made(wanted, other) for name, other in self._elsewhere()}
        changed |= self._others.publish(made)
        self._others.confirm(made)
        return changed

    def _elsewhere(self) -> Iterator[tuple[str, Elsewhere]]:
        yield from sorted(self._settings.gateways.items())

    def _made(self, wanted: Served, other: Elsewhere | None = None) -> Configuration:
        """The configuration of the head's gateway, or of one on another host."""
        settings = self._settings
        bind = settings.gateway_bind if other is None else other.bind
        files = {}
        if settings.gateway_tls:
            files[TLS] = certificates.ensure(settings)
        if settings.gateway_keys:
            keys = Keys(settings)
            files[CLIENTS] = table(keys.all(), keys.own())
        named = {kind: f"{kind}-{hashing.of_value(text)}{SUFFIX[kind]}" for kind, text in files.items()}
        paths = {kind: self._proxy.directory / name for kind, name in named.items()}
        text = render(wanted, settings, paths.get(TLS), paths.get(CLIENTS), other)
        version = hashing.of_value(text)
        url = remote.url_of(bind[0], wanted.port, settings.gateway_tls)
        return Configuration(
            text=text.replace(VERSION, version),
            version=version,
            files={named[kind]: content for kind, content in files.items()},
            written=Written(url=url, keys=settings.gateway_keys, **wanted.model_dump()),
            release=self._proxy.release(),
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # An apply, a key that is made and the certificate's renewal each write all of it.
        self._proxy.directory.mkdir(parents=True, exist_ok=True)
        with (self._proxy.directory / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def render(
    served: Served,
    settings: Settings,
    tls: Path | None = None,
    clients: Path | None = None,
    other: Elsewhere | None = None,
) -> str:
    """HAProxy's configuration.

    Args:
        served: the port clients call, and what answers the routes.
        settings: what is asked of clients, where the Serve ingresses are.
        tls: certificate and key, where the gateway speaks HTTPS.
        clients: who may ask what (:func:`modelserve.security.keys.table`), where clients need a key.
        other: the host it is for, if that is not the head.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text())
    # A route that is longer than another comes later, and takes what begins like both.
    routes = [_Route(route, shares) for route, shares in sorted(served.routes.items(), key=lambda item: len(item[0]))]
    head = "127.0.0.1" if other is None else other.head
    return template.render(
        port=served.port,
        settings=settings,
        bind=settings.gateway_bind if other is None else other.bind,
        ingresses=[f"{address}:{settings.serve_port}" for address in (head, *settings.workers.values())],
        tls=tls,
        clients=clients,
        health_path=HEALTH_PATH,
        version_header=VERSION_HEADER,
        version=VERSION,
        stranger_rate=STRANGER_RATE,
        retry_after=RETRY_AFTER_S,
        release=settings.home / "gateway" / RELEASE_FILE,
        catalog=f"{head}:{SERVICE_PORTS['catalog']}",
        routes=routes,
        header=ALGORITHM_HEADER,
    )


class _Route:
    """A route as HAProxy's rules need it. An algorithm is known there by its prefix, which is plain ASCII."""

    def __init__(self, route: str, shares: Sequence[Share]) -> None:
        self.path = f"/{route}"
        self.pattern = f"^/{route}".replace(".", "[.]")
        self.algorithms = [share.prefix.lstrip("/") for share in shares]
        # A die of `total` sides: each algorithm's requests begin at its `first` side.
        self.total = 0
        self.first: list[tuple[str, int]] = []
        for algorithm, share in zip(self.algorithms, shares, strict=True):
            if share.weight:
                self.first.append((algorithm, self.total))
            self.total += share.weight
