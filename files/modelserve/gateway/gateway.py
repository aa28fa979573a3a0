"""The gateway on the head, and the gateways on other hosts that copy its configuration."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from modelserve.config.routes import Served
from modelserve.errors import UserError
from modelserve.gateway import config, targets
from modelserve.gateway.haproxy import Configuration, Proxy
from modelserve.gateway.remote import RemoteGateways, behind
from modelserve.security.keys import Keys
from modelserve.serve.api import RayAPI
from modelserve.settings import Settings

TARGETS_TIMEOUT_S = 30.0
POLL_S = 0.1


def _silent(_: str) -> None:
    """Drop a line of progress."""


class Gateway:
    """The gateway on the head, whose files lie in ``<home>/gateway``, and those on other hosts.

    Args:
        settings: the head's settings.
        progress: takes a line for each gateway that is down.
    """

    def __init__(self, settings: Settings, progress: Callable[[str], None] = _silent) -> None:
        self._settings = settings
        self._proxy = Proxy(settings.home)
        self._remote = RemoteGateways(settings, progress)

    def served(self) -> Served | None:
        """Return what the gateway serves; None where it has no configuration yet."""
        written = self._proxy.written()
        return None if written is None else Served(port=written.port, routes=written.routes)

    def url(self) -> str:
        """Return the URL of the head's gateway as seen from the head, for example ``http://127.0.0.1:666``."""
        written = self._proxy.written()
        return written.url if written else ""

    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate a request of the controller."""
        return {"X-API-Key": Keys(self._settings).internal()} if self._settings.gateway_keys else {}

    def configure(self, served: Served) -> bool:
        """Load a configuration into every gateway; no connection is lost.

        Args:
            served: the port that clients call, and the algorithms behind the routes.

        Returns:
            Whether anything changed.

        Raises:
            UserError: the head's HAProxy refuses it, and keeps the old configuration. Or a gateway on another host
                still answers with its old configuration; the others have the new one.
        """
        with self._lock():
            return self._configure(served)

    def refresh(self) -> bool:
        """Configure every gateway for the present nodes, keys and certificate, with the routes that it has.

        Nothing happens where the gateway has no configuration yet.

        Returns:
            Whether anything changed.

        Raises:
            UserError: as for :meth:`configure`.
        """
        with self._lock():
            served = self.served()
            return served is not None and self._configure(served)

    def wait_for_replicas(self, ray: RayAPI, prefixes: Iterable[str]) -> None:
        """Return when every gateway sends requests to the replicas that Serve has of some algorithms.

        Args:
            ray: client of the head's API.
            prefixes: the algorithms' paths in Serve.

        Raises:
            UserError: a gateway does not have them in time.
        """
        deadline = time.monotonic() + TARGETS_TIMEOUT_S
        waiting = {prefix.strip("/") for prefix in prefixes}
        while waiting:
            listed = targets.observe(ray.serve_details(), targets.Targets())
            # An algorithm whose replicas have all died since is Serve's to start again.
            expected = {name: listed.version(name) for name in waiting if listed.of(name)}
            late = self._behind(expected)
            waiting &= {*late}
            if waiting and time.monotonic() > deadline:
                names, host = ", ".join(sorted(waiting)), late[min(waiting)]
                raise UserError(
                    f"the gateway on {host} does not send requests to the replicas of {names}",
                    "See 'docker logs modelserve_gateway_sync' there",
                )
            if waiting:
                time.sleep(POLL_S)

    def _behind(self, expected: dict[str, str]) -> dict[str, str]:
        """Return the algorithms whose replicas a gateway does not have, each with the gateway's host."""
        written = self._proxy.written()
        if written is None:
            return {}
        own = dict.fromkeys(behind(written.url, expected), "the head")
        return own | self._remote.behind(expected, written.port)

    def name_release(self, number: int) -> None:
        """Write the release's number into the lines of the log from now on, without a reload."""
        with self._lock():
            served = self.served()
            if served is not None and self._proxy.set_release(str(number)):
                self._remote.publish(self._remote_configurations(served))

    def _configure(self, served: Served) -> bool:
        changed = self._proxy.load(config.build(served, self._settings, self._proxy.release()))
        configurations = self._remote_configurations(served)
        changed |= self._remote.publish(configurations)
        self._remote.confirm(configurations)
        return changed

    def _remote_configurations(self, served: Served) -> dict[str, Configuration]:
        release = self._proxy.release()
        return {
            name: config.build(served, self._settings, release, remote)
            for name, remote in sorted(self._settings.gateways.items())
        }

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # An apply, a new key and a renewed certificate each write all of the configuration.
        self._proxy.directory.mkdir(parents=True, exist_ok=True)
        with (self._proxy.directory / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
