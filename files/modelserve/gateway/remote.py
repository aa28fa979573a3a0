"""The gateways on other hosts, as the head sees them.

The head publishes each one's configuration in the store, encrypted with a key derived from the cluster's token. Each
host fetches its own twice a second (:mod:`modelserve.gateway.sync_agent`) and keeps the last one while the head is
off. ``/healthz`` names the configuration that answers, so an apply can wait for all gateways.
"""

from __future__ import annotations

import enum
import time
import urllib.error
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

from modelserve.errors import UserError
from modelserve.gateway.haproxy import (
    HEALTH_PATH,
    TARGETS_HEADER,
    VERSION_HEADER,
    Configuration,
    reachable,
    url_of,
)
from modelserve.gateway.targets import Targets
from modelserve.security import encryption
from modelserve.settings import RemoteGateway, Settings
from modelserve.util.files import write_atomically
from modelserve.util.http import local_opener

Progress = Callable[[str], None]
DIRECTORY = "gateways"  # below the store
TARGETS = "@targets"  # no host in an inventory has such a name
_USE = "gateway"  # of what is encrypted
DOWN_AFTER_S = 3
STALE_AFTER_S = 20
_POLL_S = 0.1
_PARALLEL = 32
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class State(enum.Enum):
    """The state of a gateway that was given a configuration."""

    CURRENT = "current"
    STALE = "stale"
    DOWN = "down"


class RemoteGateways:
    """The gateways on other hosts.

    Args:
        settings: the head's settings.
        progress: takes a line for each gateway that is down.
    """

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._down: set[str] = set()

    def publish(self, configurations: Mapping[str, Configuration]) -> bool:
        """Write each gateway's configuration into the store.

        Args:
            configurations: by the host's name; those of other hosts are removed.

        Returns:
            Whether one is new.
        """
        directory = self._settings.home / "store" / DIRECTORY
        for file in directory.glob("[!.]*"):  # hidden ones are about to become those of another process
            if file.name not in configurations and file.name != TARGETS:
                file.unlink()
        changed = False
        for name, configuration in configurations.items():
            file = directory / name
            text = configuration.model_dump_json()
            if not (file.exists() and decrypt(self._settings, file.read_bytes()) == text):
                write_atomically(file, encryption.encrypt(self._settings, _USE, text), 0o600)
                changed = True
        return changed

    def confirm(self, configurations: Mapping[str, Configuration]) -> None:
        """Return when every gateway that is up answers with its configuration. All are asked at the same time.

        Args:
            configurations: by the host's name.

        Raises:
            UserError: a gateway still answers with another configuration.
        """
        # A gateway that listens on loopback alone cannot be asked from here.
        names = [name for name in configurations if _public_address(self._settings.gateways[name])]
        if not names:
            return
        with ThreadPoolExecutor(min(len(names), _PARALLEL), thread_name_prefix="gateway") as pool:
            states = dict(zip(names, pool.map(lambda name: self._wait(name, configurations[name]), names), strict=True))
        for name in names:
            if states[name] is State.DOWN and name not in self._down:
                self._progress(f"gateway {name}: no answer yet; it takes the configuration when it is there")
        self._down = (self._down - {*names}) | {name for name in names if states[name] is State.DOWN}
        if stale := [name for name in names if states[name] is State.STALE]:
            raise UserError(
                f"the gateway on {', '.join(stale)} answers, but not with its new configuration",
                "See 'docker logs modelserve_gateway_sync' there, then apply again",
            )

    def behind(self, expected: Mapping[str, str], port: int) -> dict[str, str]:
        """Return the algorithms whose replicas a gateway that is up does not have, each with the gateway's host.

        Args:
            expected: by algorithm: the version of its replicas.
            port: the port that clients call.
        """
        names = [name for name, gateway in self._settings.gateways.items() if _public_address(gateway)]
        if not names or not expected:
            return {}
        with ThreadPoolExecutor(min(len(names), _PARALLEL), thread_name_prefix="gateway") as pool:
            found = pool.map(lambda name: behind(self._url(name, port), expected), names)
            return {algorithm: name for name, missing in zip(names, found, strict=True) for algorithm in missing}

    def _url(self, name: str, port: int) -> str:
        gateway = self._settings.gateways[name]
        public = _public_address(gateway)
        host = gateway.address if reachable(public) != public else public
        return url_of(host, port, self._settings.gateway_tls)

    def _wait(self, name: str, configuration: Configuration) -> State:
        url = self._url(name, configuration.written.port)
        started = time.monotonic()
        answered = False
        while True:
            version = _header(url + HEALTH_PATH, VERSION_HEADER)
            if version == configuration.version:
                return State.CURRENT
            answered |= version is not None
            waited_s = time.monotonic() - started
            if answered and waited_s > STALE_AFTER_S:
                return State.STALE
            if not answered and (waited_s > DOWN_AFTER_S or name in self._down):
                return State.DOWN
            time.sleep(_POLL_S)


def _public_address(gateway: RemoteGateway) -> str:
    """Return an address, other than loopback, on which a gateway listens; empty where there is none."""
    return next((address for address in gateway.bind if address not in _LOOPBACK), "")


def behind(url: str, expected: Mapping[str, str]) -> list[str]:
    """Return the algorithms whose replicas a gateway does not have; none where it is down.

    Args:
        url: the gateway's URL.
        expected: by algorithm: the version of its replicas.
    """
    missing = []
    for algorithm, version in expected.items():
        answer = _header(f"{url}{HEALTH_PATH}?algorithm={algorithm}", TARGETS_HEADER)
        if answer is not None and answer != version:
            missing.append(algorithm)
    return missing


def _header(url: str, name: str) -> str | None:
    """Return a header of an answer, empty where it has none; None where there is no answer."""
    try:
        with local_opener().open(url, timeout=2) as response:
            return str(response.headers.get(name, ""))
    except urllib.error.HTTPError as error:
        return str(error.headers.get(name, ""))
    except (OSError, HTTPException):
        return None


def decrypt(settings: Settings, encrypted: bytes) -> str | None:
    """Return the text of a configuration in the store; None where it was encrypted with another token."""
    return encryption.decrypt(settings, _USE, encrypted)


def publish_targets(settings: Settings, targets: Targets) -> None:
    """Write the replicas into the store, where there are gateways on other hosts.

    Args:
        settings: the head's settings.
        targets: the replicas.
    """
    file = settings.home / "store" / DIRECTORY / TARGETS
    if not file.parent.is_dir():
        return
    text = targets.model_dump_json()
    if not (file.exists() and decrypt(settings, file.read_bytes()) == text):
        write_atomically(file, encryption.encrypt(settings, _USE, text), 0o600)
