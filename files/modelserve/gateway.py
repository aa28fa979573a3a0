"""The gateway's HAProxy: renders its configuration, has the running one load it, starts it."""

from __future__ import annotations

import os
import socket
import sys
import urllib.error
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from pydantic import ValidationError

from modelserve import certificates, hashing
from modelserve.asking import opener_here
from modelserve.errors import Problem, UserError
from modelserve.keys import Keys, table
from modelserve.node import SERVICE_PORTS
from modelserve.routes import ALGORITHM_HEADER, Served, Share
from modelserve.settings import Settings
from modelserve.store import write_atomically

TEMPLATE = Path(__file__).with_name("haproxy.cfg.j2")
HEALTH_PATH = "/healthz"
SERVED = "served.json"
# Where the catalog listens: /docs and /readyz.
CATALOG_ADDRESS = f"127.0.0.1:{SERVICE_PORTS['catalog']}"


class Written(Served):
    """What ``served.json`` holds: what is answered, where (seen from the gateway's own host), and if it takes a key."""

    url: str = ""
    keys: bool = False


class Gateway:
    """The gateway whose files lie in ``<home>/gateway``: ``haproxy.cfg``, what it was made from in ``served.json``, and
    the control socket ``master.sock``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = settings.home / "gateway"
        self._config = self._directory / "haproxy.cfg"
        self._served = self._directory / SERVED
        self._socket = self._directory / "master.sock"

    def served(self) -> Served | None:
        """What the present configuration answers; None where there is no configuration."""
        written = read_served(self._served)
        return None if written is None else Served(port=written.port, routes=written.routes)

    def url(self) -> str:
        """Where the gateway answers, as seen from its own host; ``http://127.0.0.1:666``, say."""
        # The gateway's container has no settings, only its own directory.
        written = read_served(self._served)
        return written.url if written else ""

    def headers(self) -> dict[str, str]:
        """What a request of the controller's own needs to be let in."""
        return {"X-API-Key": Keys(self._settings).own()} if self._settings.gateway_keys else {}

    def configure(self, wanted: Served) -> bool:
        """Write the configuration and have a running gateway load it; no connection is lost.

        Args:
            wanted: the port clients call, and what answers the routes.

        Returns:
            Whether anything changed.

        Raises:
            UserError: HAProxy refuses it; the old configuration is put back, and never stopped working.
        """
        self._refuse_taken(wanted.port)
        settings = self._settings
        tls = clients = None
        if settings.gateway_tls:
            tls = self._keep("tls", certificates.ensure(settings), ".pem")
        if settings.gateway_keys:
            keys = Keys(settings)
            clients = self._keep("clients", table(keys.all(), keys.own()), ".map")
        text = render(wanted, settings, tls, clients)
        old = self._config.read_text() if self._config.exists() else None
        if text != old:
            write_atomically(self._config, text, 0o600)
            try:
                self._reload()
            except UserError:
                if old is None:
                    self._config.unlink()
                else:
                    write_atomically(self._config, old, 0o600)
                raise
            self._drop_others(tls, clients)
        if text != old or wanted != self.served():
            address = _reachable(settings.gateway_bind[0])
            scheme = "https" if settings.gateway_tls else "http"
            url = f"{scheme}://{f'[{address}]' if ':' in address else address}:{wanted.port}"
            written = Written(url=url, keys=settings.gateway_keys, **wanted.model_dump())
            write_atomically(self._served, written.model_dump_json(indent=1) + "\n")
        return text != old

    def refresh(self) -> bool:
        """Configure it anew for the nodes there are now, with the routes it has; nothing where it has none yet.

        Returns:
            Whether anything changed.

        Raises:
            UserError: HAProxy refuses it.
        """
        served = self.served()
        return served is not None and self.configure(served)

    def run(self) -> None:
        """Become HAProxy, with the configuration that the last apply wrote.

        Raises:
            UserError: there is none yet.
        """
        self._require_configuration()
        self._socket.unlink(missing_ok=True)
        sys.stdout.flush()
        os.execvp("haproxy", ["haproxy", "-W", "-db", "-S", f"{self._socket},mode,600", "-f", str(self._config)])

    def health(self) -> None:
        """Return when the gateway answers and reaches an ingress.

        Raises:
            UserError: it does not.
        """
        self._require_configuration()
        url = self.url() + HEALTH_PATH
        try:
            opener_here().open(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            raise UserError(f"the gateway answers {error.code}: it reaches no Serve ingress") from None
        except OSError as error:
            raise UserError(f"the gateway does not answer at {url}: {getattr(error, 'reason', error)}") from None

    def _keep(self, name: str, text: str, suffix: str) -> Path:
        """Write a file that the configuration refers to, named by its content: the old configuration keeps the old."""
        file = self._directory / f"{name}-{hashing.of_value(text)}{suffix}"
        if not file.exists():
            write_atomically(file, text, 0o600)
        return file

    def _drop_others(self, *kept: Path | None) -> None:
        for pattern in ("tls-*.pem", "clients-*.map"):
            for file in set(self._directory.glob(pattern)) - set(kept):
                file.unlink()

    def _require_configuration(self) -> None:
        if self.served() is None or not self._config.exists():
            raise UserError("the gateway has no configuration yet", "Apply conf.ini")

    def _refuse_taken(self, port: int) -> None:
        # HAProxy would find out by pausing the old listener while it tries: connections would be lost.
        served = self.served()
        if served is None or served.port == port:  # nothing listens yet, or it is ours
            return
        for address in self._settings.gateway_bind:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
                if probe.connect_ex((_reachable(address), port)) == 0:
                    raise UserError(
                        f"port {port} is taken: another program on the gateway's host listens on it",
                        "Stop that program, or choose a port that is free; the old one goes on answering",
                    )

    def _reload(self) -> None:
        # The master's "reload" answers when the new process has started or was refused (HAProxy 2.7+).
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(str(self._socket))
                connection.sendall(b"reload\n")
                answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
        except (FileNotFoundError, ConnectionRefusedError):
            return  # not running: it reads the configuration when it starts
        if "Success=0" in answer:
            reason = [line for line in answer.splitlines() if "[ALERT]" in line]
            raise UserError(
                f"the gateway refuses its new configuration: {' '.join(reason)[:500]}",
                "Choose a port that is free on this host; the old one goes on answering",
            )


def _reachable(address: str) -> str:
    """An address that reaches a listener on ``address`` from its own host."""
    return {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(address, address)


def read_served(file: Path) -> Written | None:
    """What a gateway was told to answer, from its ``served.json``; None where it was told nothing yet.

    Raises:
        UserError: the file is not what the controller writes.
    """
    try:
        return Written.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        fix = "Remove it and apply conf.ini"
        raise UserError(Problem(f"is damaged: {error.errors()[0]['msg']}", fix, str(file))) from None


def render(served: Served, settings: Settings, tls: Path | None = None, clients: Path | None = None) -> str:
    """HAProxy's configuration.

    Args:
        served: the port clients call, and what answers the routes.
        settings: what is asked of clients, where the Serve ingresses are.
        tls: certificate and key, where the gateway speaks HTTPS.
        clients: who may ask what (:func:`modelserve.keys.table`), where clients need a key.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text())
    # A route that is longer than another comes later, and takes what begins like both.
    routes = [_Route(route, shares) for route, shares in sorted(served.routes.items(), key=lambda item: len(item[0]))]
    return template.render(
        port=served.port,
        settings=settings,
        tls=tls,
        clients=clients,
        health_path=HEALTH_PATH,
        catalog=CATALOG_ADDRESS,
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
